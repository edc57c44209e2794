"""What the gateway needs of the engine: calls of tools as a grammar, a place at the head of the queue, which stop string it was."""

from __future__ import annotations

from typing import Any

import pytest

from ownship.engine.engine import Engine
from ownship.engine.grammar import Grammar, Grammars
from ownship.engine.request import Request, Sampling
from ownship.errors import UserError
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer


def arguments(name: str, kind: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"$ref": "#/$defs/n"}}, "required": [name], "additionalProperties": False,
            "$defs": {"n": {"type": kind}}}


TOOLS = [("get", arguments("a", "integer")), ("get_all", arguments("b", "boolean"))]
REPLY = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
ONE, ALL = '{"name":"get","arguments":{"a":1}}</tool_call>', '{"name":"get_all","arguments":{"b":true}}</tool_call>'


@pytest.fixture(scope="module")
def grammars(pieces: Tokenizer) -> Grammars:
    return Grammars(pieces, frozenset({2}), pieces.size)


@pytest.mark.parametrize(("text", "several", "alone", "answer"), [
    (ONE, True, True, False), (ALL, True, True, False), ("\n" + ONE.replace("</", "\n</"), True, True, False),
    (f"{ONE}\n<tool_call>{ALL}", True, False, False), (f"{ONE}<tool_call>\n{ONE}", True, False, False),
    ("<tool_call>" + ONE, False, False, True), ('{"x":1}', False, False, True),
    ('{"name":"get","arguments":{"a":true}}</tool_call>', False, False, False),  # each tool's $ref is its own
    ('{"name":"get_all","arguments":{"b":1}}</tool_call>', False, False, False),
    ('{"name":"other","arguments":{}}</tool_call>', False, False, False), (ONE[:-1], False, False, False),
    ("", False, False, False),
    (f"{ONE} ", False, False, False), ('{"name": "get","arguments":{"a":1}}</tool_call>', False, False, False)])
def test_texts(grammars: Grammars, text: str, several: bool, alone: bool, answer: bool) -> None:
    ids = [*grammars.tokenizer.encode(text), 2]

    def fits(grammar: Grammar) -> bool:
        return grammars.matcher(grammar).validate(ids) == len(ids)

    assert fits(Grammar.calls(TOOLS)) == several and fits(Grammar.calls(TOOLS, parallel=False)) == alone
    assert fits(Grammar.calls(TOOLS, reply=REPLY)) == answer


def test_calls_come_to_an_end(grammars: Grammars) -> None:
    for count in (16, 17):
        ids = [*grammars.tokenizer.encode("\n<tool_call>".join([ONE] * count)), 2]
        assert (grammars.matcher(Grammar.calls(TOOLS)).validate(ids) == len(ids)) == (count == 16)


def test_a_schema_that_cannot_be_enforced_is_refused(grammars: Grammars) -> None:
    with pytest.raises(UserError, match="'not' is not supported"):
        grammars.matcher(Grammar.calls([("a", {"type": "object", "properties": {"x": {"not": {}}}})]))


def test_who_goes_on_is_ahead_of_those_who_wait(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, max_rows=1)
    waiting = [engine.submit(Request([20 + index], Sampling(max_tokens=2))) for index in range(3)]
    ahead = engine.submit(Request([30], Sampling(max_tokens=2)), ahead=True)
    order = [event.id for _ in range(20) if engine.busy for event in engine.step() if event.completion is not None]
    assert order == [ahead, *waiting]


def test_prompt_scores_come_with_the_first_token(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    engine.submit(Request([20, 21, 22], Sampling(max_tokens=4, ignore_eos=True), prompt_logprobs=1))
    events = [event for _ in range(20) if engine.busy for event in engine.step()]
    assert [event.prompt_scores is not None for event in events] == [True, False, False, False]
    completion = events[-1].completion
    assert completion is not None and events[0].prompt_scores == completion.prompt_scores and len(completion.prompt_scores) == 2


def test_which_stop_string_it_was(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    whole = engine.generate([Request([20, 21], Sampling(max_tokens=40, seed=1, ignore_eos=True))])[0]
    stop = whole.text[len(whole.text) // 2 :][:2]
    cut = engine.generate([Request([20, 21], Sampling(max_tokens=40, seed=1, ignore_eos=True, stop=("never so", stop)))])[0]
    assert (cut.stop, whole.stop) == (stop, None)
