"""Requests to the local engine, over its process: what was asked for is what comes, or a refusal that says why not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from engines import LOOP, Door, user
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import validate  # type: ignore[import-untyped]

from ownship.gateway.types import (
    GatewayError,
    Image,
    JSONFormat,
    Message,
    NamedTool,
    Request,
    Text,
    TokenScore,
    Tool,
    ToolResult,
)
from ownship.model import toolcalls

CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 5}}, "required": ["city"],
                        "additionalProperties": False}
WEATHER, TIME = Tool("weather", "What it is like", CITY), Tool("weather_time", "When", CITY)

LEAVES = st.one_of(
    st.integers(0, 6).map(lambda length: {"type": "string", "maxLength": length}),
    st.integers(-9, 9).map(lambda low: {"type": "integer", "minimum": low, "maximum": low + 30}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"$ref": "#/$defs/kind"}]),
    st.lists(st.text('ab"\\{}<é', max_size=3), min_size=1, max_size=3, unique=True).map(lambda values: {"enum": values}))
VALUES = st.recursive(LEAVES, lambda inner: st.one_of(
    inner.map(lambda items: {"type": "array", "items": items, "maxItems": 2}),
    st.dictionaries(st.sampled_from(["a", 'b"', "{c", "</tool_call>"]), inner, min_size=1, max_size=2).map(
        lambda properties: {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}),
    st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options})), max_leaves=4)
PARAMETERS = st.dictionaries(st.sampled_from(["x", "y", "z"]), VALUES, max_size=3).map(lambda properties: {
    "type": "object", "properties": properties, "required": [*properties], "additionalProperties": False,
    "$defs": {"kind": {"enum": ["one", "two"]}}})


def test_forced_calls_obey_their_schemas(tiny: Door) -> None:
    count, ids = {"whole": 0, "cut": 0}, set[str]()

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(PARAMETERS, min_size=1, max_size=3), st.booleans(), st.booleans(), st.integers(0, 1 << 20))
    def check(schemas: list[dict[str, Any]], named: bool, thinks: bool, seed: int) -> None:
        tools = tuple(Tool(f"tool{'_' * index}", "", schema) for index, schema in enumerate(schemas))
        reply = tiny.ask(messages=user("go"), tools=tools, tool_choice=NamedTool("tool") if named else "required",
                         parallel_tools=not named, seed=seed, max_tokens=500, thinking_tokens=20 if thinks else None)
        choice = reply.choices[0]
        assert choice.text == "" and bool(choice.reasoning) == thinks
        assert 0 < reply.usage.reasoning <= 20 if thinks else not reply.usage.reasoning
        if choice.finish == "length":
            count["cut"] += 1
            return
        count["whole"] += 1
        assert choice.finish == "tool_calls" and 1 <= len(choice.calls) <= (1 if named else 16)
        for call in choice.calls:
            assert call.id not in ids
            ids.add(call.id)
            validate(json.loads(call.arguments), schemas[len(call.name) - 4])
            assert not named or call.name == "tool"

    check()
    assert count["whole"] > 15, count


@pytest.mark.parametrize("effort", [None, "none", "low", "high"])
def test_a_schema_is_enforced_whatever_is_thought(tiny: Door, effort: Any) -> None:
    for seed in range(3):
        reply = tiny.ask(messages=user("a city"), format=JSONFormat(CITY), seed=seed, max_tokens=200, effort=effort)
        validate(json.loads(reply.choices[0].text), CITY)
        assert reply.choices[0].finish == "stop"
        share = {"low": 40, "high": 160}.get(effort, 0)
        assert reply.usage.reasoning <= share and bool(reply.choices[0].reasoning) == bool(share)


def test_a_format_beside_tools_is_an_answer_or_a_call(tiny: Door) -> None:
    seen = set()
    for seed in range(12):
        choice = tiny.ask(messages=user("?"), format=JSONFormat(CITY), tools=(WEATHER,), seed=seed, max_tokens=300,
                          temperature=5.0).choices[0]
        if choice.finish == "length":
            continue
        seen.add(choice.finish)
        assert bool(choice.text) != bool(choice.calls)
        validate(json.loads(choice.text or choice.calls[0].arguments), CITY)
    assert seen == {"stop", "tool_calls"}


def test_tools_that_may_be_called(tiny: Door) -> None:
    """With no choice given the reply is free; with none there is nothing to call, and the prompt does not speak of tools."""
    free = tiny.ask(messages=user("hi"), tools=(WEATHER,), max_tokens=20, seed=1)
    none = tiny.ask(messages=user("hi"), tools=(WEATHER,), tool_choice="none", max_tokens=20, seed=1)
    assert none.usage.prompt < free.usage.prompt and not none.choices[0].calls
    assert none.choices[0].text == tiny.ask(messages=user("hi"), max_tokens=20, seed=1).choices[0].text
    single = tiny.ask(messages=user("hi"), tools=(WEATHER, TIME), tool_choice="required", parallel_tools=False, max_tokens=300)
    assert len(single.choices[0].calls) == 1


def test_a_call_in_the_midst_of_a_reply(tiny: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random network never writes the tag, so a letter that it writes stands for it."""
    monkeypatch.setattr(toolcalls, "describe", lambda tools: "There are tools.")
    whole = tiny.ask(messages=user("hi"), tools=(WEATHER, TIME), max_tokens=60, seed=1).choices[0].text
    monkeypatch.setattr(toolcalls, "OPEN", tag := next(letter for letter in whole[12:] if letter.isalpha()))
    reply = tiny.ask(messages=user("hi"), tools=(WEATHER, TIME), max_tokens=900, seed=1)
    choice = reply.choices[0]
    assert choice.text == whole[: whole.index(tag)].rstrip() and choice.finish == "tool_calls" and choice.calls
    for call in choice.calls:
        assert call.name in ("weather", "weather_time")
        validate(json.loads(call.arguments), CITY)


def test_choices_and_seeds(tiny: Door) -> None:
    first = tiny.ask(messages=user("tell"), n=4, seed=7, max_tokens=30)
    again = tiny.ask(messages=user("tell"), n=4, seed=7, max_tokens=30)
    assert [choice.text for choice in first.choices] == [choice.text for choice in again.choices]
    assert len({choice.text for choice in first.choices}) == 4
    assert first.usage.completion <= 120 and first.usage.prompt == again.usage.prompt == tiny_count(tiny, "tell")
    assert again.usage.cached == (again.usage.prompt - 1) // 16 * 16  # whole blocks, and one token is always computed


def tiny_count(tiny: Door, text: str) -> int:
    return LOOP.run(tiny.local.count(Request("any", messages=user(text))))


def test_stop_strings(tiny: Door) -> None:
    whole = tiny.ask(messages=user("tell"), seed=3, max_tokens=60).choices[0].text
    stops = {whole[at : at + 2] for at in range(10, 58)}
    stops = {stop for stop in stops if "\ufffd" not in stop}  # half a character could belong to either side
    assert len(stops) > 3
    for stop in stops:
        choice = tiny.ask(messages=user("tell"), seed=3, max_tokens=60, stop=("never this", stop), logprobs=0).choices[0]
        assert (choice.text, choice.finish, choice.stop) == (whole[: whole.index(stop)], "stop", stop)
        assert spelt(choice.scores) == choice.text  # none of the stop string


def spelt(scores: list[TokenScore]) -> str:
    return b"".join(score.text.encode() if score.bytes is None else score.bytes for score in scores).decode(errors="replace")


def test_scores_spell_the_reply(tiny: Door) -> None:
    choice = tiny.ask(messages=user("tell"), seed=4, max_tokens=50, logprobs=3).choices[0]
    assert spelt(choice.scores) == choice.text
    assert all(score.logprob is not None and score.logprob < 0 and len(score.top) == 3 for score in choice.scores)


def test_echo_without_scores_and_without_a_reply(tiny: Door) -> None:
    reply = tiny.ask(prompt="abc", echo=True, max_tokens=0)
    assert reply.choices[0].prompt is not None and reply.choices[0].prompt.text == "abc"
    assert (reply.choices[0].text, reply.choices[0].finish, reply.usage.completion) == ("", "length", 0)
    ids = tuple(tiny.local.tokenize("abc"))
    assert tiny.ask(prompt=ids, echo=True, max_tokens=0).choices[0].prompt.text == "abc"  # type: ignore[union-attr]


def test_text_to_tokens_and_back(tiny: Door) -> None:
    text = "<|im_start|>user\nüber<|im_end|>"
    ids = tiny.local.tokenize(text)
    assert len(ids) == 2 + len("user\nüber".encode()) and tiny.local.detokenize(ids) == text
    with pytest.raises(GatewayError, match="vocabulary"):
        tiny.local.detokenize([100_000])
    info = tiny.local.tokenizer_info()
    assert info["eos_token"] == "<|im_end|>" and info["bos_token"] is None and "im_start" in info["chat_template"]


IMAGE = (Message("user", (Text("what is it?"), Image("https://example.org/a.png"))),)
SHOWN = (*user("look"), Message("tool", (ToolResult("1", (Image("https://example.org/a.png"),)),)))
REFUSED: list[tuple[dict[str, Any], str, str | None, str | None]] = [
    ({"messages": IMAGE}, "cannot see", "messages", None),
    ({"messages": SHOWN}, "cannot see", "messages", None),
    ({"messages": user("x" * 5000)}, "together more than the 4096", "messages", "context_length_exceeded"),
    ({"messages": user("x"), "max_tokens": 5000}, "together more than the 4096", "messages", "context_length_exceeded"),
    ({"prompt": (1,) * 4096, "max_tokens": 1}, "together more than the 4096", "prompt", "context_length_exceeded"),
    ({"prompt": (1, 258)}, "outside the vocabulary", "prompt", None),
    ({"prompt": ""}, "empty", "prompt", None),
    ({"prompt": "a", "max_tokens": 0}, "at least 1", "max_tokens", None),
    ({"prompt": "a", "tools": (WEATHER,)}, "neither tools", "prompt", None),
    ({"messages": user("x"), "format": JSONFormat({"not": {}})}, "'not' is not supported", "response_format", "unsupported_schema"),
    ({"messages": user("x"), "tools": (Tool("t", "", {"not": {}}, strict=True),)}, "tool 't'.*'not'", "tools",
     "unsupported_schema"),
    ({"messages": user("x"), "tools": (Tool("t", "", {"not": {}}),), "tool_choice": "required"}, "tool 't'.*'not'", "tools",
     "unsupported_schema"),
    ({"messages": user("x"), "tools": (Tool("t", "", {"type": "string"}),)}, "type object", "tools", None),
    ({"messages": user("x"), "logprobs": 21}, "between 0 and 20", "top_logprobs", None),
    ({"messages": user("x"), "temperature": -1.0}, "temperature", "temperature", None),
    ({"messages": user("x"), "stop": ("a", "")}, "must not be empty", "stop", None),
    ({"messages": user("x"), "logit_bias": {999: 1.0}}, "logit_bias", "logit_bias", None),
]


@pytest.mark.parametrize(("request_", "message", "param", "code"), REFUSED)
def test_refusals(tiny: Door, request_: dict[str, Any], message: str, param: str | None, code: str | None) -> None:
    with pytest.raises(GatewayError, match=message) as caught:
        tiny.ask(**request_)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert not tiny.engine._jobs


def test_a_tool_whose_schema_goes_too_far_can_still_be_offered(tiny: Door) -> None:
    assert tiny.ask(messages=user("x"), tools=(Tool("t", "", {"not": {}}),), max_tokens=5).choices[0].finish in ("stop", "length")


def test_a_deadline(tiny: Door) -> None:
    async def late() -> None:
        async for _ in tiny.local.stream(Request("any", messages=user("x"), max_tokens=3000, stop=("\0",)), deadline=0.0):
            pass

    with pytest.raises(GatewayError) as caught:
        LOOP.run(late())
    assert caught.value.status == 504
