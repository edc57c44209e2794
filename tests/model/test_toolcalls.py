"""Calls as text: what is read, what is refused, and that nothing else can happen."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_tokenizer

from ownship.errors import UserError
from ownship.model import toolcalls
from ownship.model.chat import Chat
from ownship.model.toolcalls import BadCall, Calls, message, read, write


def calls(text: str) -> list[tuple[str, Any]]:
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in read(text)[1]]


CALL = '<tool_call>{"name":"f","arguments":{"a":"1"}}</tool_call>'


@pytest.mark.parametrize(("text", "expected"), [
    ("no call", []), ("", []), ("</tool_call> <tool_call", []),
    (CALL, [("f", {"a": "1"})]),
    (f"I look. {CALL}\n{CALL} \n", [("f", {"a": "1"})] * 2),
    ('<tool_call>\n{"name": "f", "arguments": {"a": [1, {"b": null}]}}\n</tool_call>', [("f", {"a": [1, {"b": None}]})]),
    ('<tool_call>{"arguments": {}, "name": "f"}</tool_call>', [("f", {})]),  # the older Hermes models' order
    ('<tool_call>{"name":"f","arguments":{"a":"</tool_call><tool_call>"}}</tool_call>', [("f", {"a": "</tool_call><tool_call>"})]),
])
def test_what_is_read(text: str, expected: list[tuple[str, Any]]) -> None:
    assert calls(text) == expected
    said = message(text)
    assert ("tool_calls" in said) == bool(expected)
    if expected:
        assert said["content"] == text[: text.index("<tool_call>")].rstrip()
    else:
        assert said["content"] == text


@pytest.mark.parametrize(("text", "reason"), [
    ("<tool_call>", "not JSON"), ("<tool_call></tool_call>", "not JSON"), (CALL[:-14], "not JSON"), (CALL[:-12], "does not end"),
    (f"{CALL} Answer: 3", "follow"), (f"{CALL},{CALL}", "follow"), ('<tool_call>{"name":"f"}</tool_call>', "is written"),
    ('<tool_call>["f"]</tool_call>', "is written"), ('<tool_call>{"name":1,"arguments":{}}</tool_call>', "is written"),
    ('<tool_call>{"name":"f","arguments":"{}"}</tool_call>', "is written"),
    ('<tool_call>{"name":"f","arguments":{"a":NaN}}</tool_call>', "not JSON"),
    ('<tool_call>{"name":"f","arguments":{"a":' + "9" * 5000 + "}}</tool_call>", "not JSON"),
    ('<tool_call>{"name":"f","arguments":{"a":' + "[" * 100 + "]" * 100 + "}}</tool_call>", "too deeply"),
    ('<tool_call>{"name":"f","arguments":{"a":' + "[" * 100_000, "not JSON"),
])
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadCall, match=reason):
        read(text)
    assert message(text) == {"role": "assistant", "content": text}  # nothing of it is lost, and nothing called


def test_a_template_that_cannot_be_read_is_said_in_one_line() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for tool in tools %}<tool_call>"
    with pytest.raises(UserError, match="chat template cannot be read"):
        Chat(tokenizer).prompt([{"role": "user", "content": "x"}])


PIECES = st.sampled_from(["<tool_call>", "</tool_call>", '{"name":"f","arguments":', "{}", "}", '"', "\\", " ", "\n", "[", "é"])


@given(st.lists(PIECES, max_size=12).map("".join))
def test_no_text_does_harm(text: str) -> None:
    try:
        said, found = read(text)
    except BadCall:
        assert toolcalls.OPEN in text
        return
    assert bool(found) == (toolcalls.OPEN in text)
    assert said == (text[: text.index(toolcalls.OPEN)].rstrip() if found else text)


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=6), lambda inner: st.lists(inner, max_size=3),
                      max_leaves=5)
ARGUMENTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)


@given(st.lists(st.tuples(st.text(max_size=6), ARGUMENTS), min_size=1, max_size=3), st.lists(st.integers(0, 400), max_size=8))
def test_whole_and_piece_by_piece_read_the_same(wanted: list[tuple[str, Any]], cuts: list[int]) -> None:
    """`read`, for what a trained model wrote, and the gateway's `Calls`, for what comes under a grammar, know one form."""
    text = write([{"function": {"name": name, "arguments": arguments}} for name, arguments in wanted])
    assert calls(text) == wanted
    reader, found = Calls(), list[list[str]]()
    places = [len(toolcalls.OPEN), *sorted(max(cut, len(toolcalls.OPEN)) for cut in cuts), len(text)]
    for begin, end in itertools.pairwise(places):
        for number, name, more in reader.push(text[begin:end]):
            if name is not None:
                found.append([name, ""])
            found[number][1] += more
    assert [(name, json.loads(arguments)) for name, arguments in found] == wanted
