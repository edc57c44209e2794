"""Tokens → text with stop strings, against an oracle that looks at the whole text so far after every token."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownship.engine.text import TextOut
from ownship.model.tokenizer import Tokenizer

# A stop string is made of what the replies are made of, or else it would never occur.
ALPHABET = "abé€ "


@pytest.fixture(scope="session")
def letters(pieces: Tokenizer) -> list[int]:
    """Tokens whose texts overlap each other in many ways: letters, pairs, and the single bytes of é and €."""
    backend = pieces.backend
    single = [id for byte in "abé€ ".encode() if (id := backend.token_to_id(byte_character(byte))) is not None]
    pairs = [id for text in ("ab", "ba", "aa", "bb", "aba", " a", " b") if (id := backend.token_to_id(text.replace(" ", "Ġ")))]
    assert len(single) >= 7 and len(pairs) >= 4
    return [*dict.fromkeys(single), *pairs]


def byte_character(byte: int) -> str:
    """How byte-level BPE writes one byte in its vocabulary (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [other for other in range(256) if other not in printable].index(byte))


def oracle(pieces: Tokenizer, ids: list[int], stops: list[str]) -> tuple[str, int, bool]:
    """The text that may be shown in the end, how many tokens were needed for it, and whether a stop string ended it."""
    stream, text = pieces.stream(), ""
    for count, id in enumerate(ids, 1):
        text += stream.push(id)
        if found := [text.index(stop) for stop in stops if stop in text]:
            return text[: min(found)], count, True
    text += stream.flush()
    found = [text.index(stop) for stop in stops if stop in text]
    return text[: min(found, default=len(text))], len(ids), bool(found)


def check(pieces: Tokenizer, ids: list[int], stops: list[str]) -> None:
    expected, needed, stopped = oracle(pieces, ids, stops)
    out, shown, stream, text = TextOut(pieces, stops), "", pieces.stream(), ""
    for count, id in enumerate(ids, 1):
        shown += out.push(id)
        text += stream.push(id)
        assert out.shown == shown
        assert expected.startswith(shown)  # nothing is ever shown that has to be taken back
        if out.stopped:
            assert count == needed
            break
        # What is held back is as little as can be: the longest end of the text that may yet become a stop string.
        held = max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
        assert shown == text[: len(text) - held]
    shown += out.finish()
    assert shown == out.shown == expected
    assert out.stopped == stopped


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_against_the_oracle(pieces: Tokenizer, letters: list[int], data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from(letters), max_size=20))
    stops = data.draw(st.lists(st.text(ALPHABET, min_size=1, max_size=5), max_size=4))
    check(pieces, ids, stops)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_stop_strings_cut_from_the_reply(pieces: Tokenizer, data: st.DataObject) -> None:
    """Any ids of the vocabulary (broken characters and special tokens among them); the stop string does occur."""
    ids = data.draw(st.lists(st.integers(0, 2000), min_size=1, max_size=25))
    text = pieces.decode(ids)
    begin = data.draw(st.integers(0, max(0, len(text) - 1)))
    stop = text[begin : begin + data.draw(st.integers(1, 6))]
    check(pieces, ids, [stop] if stop else [])


def test_long_random_replies(pieces: Tokenizer) -> None:
    """Without stop strings, what streams out is what `decode` says."""
    draw = random.Random(0)
    for _ in range(100):
        ids = [draw.randrange(pieces.size) if draw.random() < 0.5 else draw.randrange(300) for _ in range(100)]
        out = TextOut(pieces)
        assert "".join(map(out.push, ids)) + out.finish() == pieces.decode(ids)


def test_across_token_borders(pieces: Tokenizer) -> None:
    ids = [token for word in ("one", " two", " three") for token in pieces.encode(word)]
    out = TextOut(pieces, ["wo thr"])
    shown = [out.push(id) for id in ids]
    assert shown == ["one", " t", ""]
    assert out.stopped and out.shown == "one t" and out.finish() == ""


def test_the_first_of_several_stops_counts(pieces: Tokenizer) -> None:
    out = TextOut(pieces, ["ree", "hr"])
    assert [out.push(id) for id in (*pieces.encode("one"), *pieces.encode(" three"))] == ["one", " t"]
    assert out.stopped
