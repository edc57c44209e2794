"""Server-sent events and JSON, as strangers may send them."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownship.gateway import sse
from ownship.gateway.types import GatewayError

STREAM = (": hello\n\nevent: a\ndata: {\"x\": 1}\n\n\n\ndata:no space\r\n\r\ndata: two\ndata: lines\nid: 7\nretry: 5\n\n"
          "data: Größe ∑ 🙂\n\ndata\n\ndata: never ended").encode()
EVENTS = [b'{"x": 1}', b"no space", b"two\nlines", "Größe ∑ 🙂".encode()]


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_events_do_not_depend_on_how_the_stream_was_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    reader = sse.Reader()
    found = [event for start, end in itertools.pairwise(places) for event in reader.feed(STREAM[start:end])]
    assert found == EVENTS


@pytest.mark.parametrize("data", [b"x" * 101, b"data: " + b"x" * 101, b"data: " + b"x" * 60 + b"\ndata: " + b"x" * 60])
def test_an_event_is_bounded(data: bytes) -> None:
    reader = sse.Reader(100)
    with pytest.raises(GatewayError, match="more than 100 bytes") as error:
        [reader.feed(data[at:at + 10]) for at in range(0, len(data), 10)]
    assert error.value.status == 502


def test_many_events_are_not() -> None:
    reader = sse.Reader(100)
    assert sum(len(reader.feed(b"data: 12345678901234567890\n\n")) for _ in range(50)) == 50


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b'{"a": Infinity}', b'"\\ud800"', b"\xff", b"[" * 1000 + b"]" * 1000, b"1 2"])
def test_what_is_not_json(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"line 1"):
        sse.loads(data)


def test_what_is_written_is_json() -> None:
    assert json.loads(sse.dumps({"a": [1, 2.5, None, True, "∑\n\u2028"], "b": float("-inf")})) == {
        "a": [1, 2.5, None, True, "∑\n\u2028"], "b": None}
    assert b"\n" not in sse.dumps({"a": "\n\r"})  # or else an event would end in its midst
