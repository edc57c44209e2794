"""What clients may ask: everything that a format can express comes back from it unchanged, and everything else is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ownship.gateway import sse
from ownship.gateway.fronts import FRONTS
from ownship.gateway.types import (
    GatewayError,
    Image,
    JSONFormat,
    Message,
    NamedTool,
    Reasoning,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Wire,
)
from ownship.gateway.upstream import DIALECTS

# From our request to a body of the format, and back

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
NAMES = st.from_regex(r"[a-zA-Z0-9_-]{1,8}", fullmatch=True)
TEXTS = st.builds(Text, WORDS)
IMAGES = st.builds(Image, st.sampled_from(["https://a/b.png", "data:image/png;base64,QUJD", "data:image/webp;base64,QQ=="]))
OBJECTS = st.dictionaries(WORDS, st.one_of(st.integers(-2**40, 2**40), WORDS, st.none(), st.booleans(), st.floats(-1e9, 1e9)),
                          max_size=3)
SCHEMAS = OBJECTS.map(lambda found: {"type": "object", "properties": {}, **found})


def optional(strategy: Any) -> Any:
    return st.one_of(st.none(), strategy)


def conversations(wire: Wire) -> st.SearchStrategy[tuple[Message, ...]]:
    names = optional(WORDS) if wire == "chat" else st.none()
    texts = st.lists(TEXTS, min_size=1, max_size=2)
    user = st.builds(Message, st.just("user"), st.lists(TEXTS | IMAGES, min_size=1, max_size=3).map(tuple), names)
    system = st.builds(Message, st.just("system"), texts.map(tuple), names)
    calls = st.lists(st.builds(ToolCall, NAMES, NAMES, OBJECTS.map(lambda found: sse.dumps(found).decode())), max_size=2)
    signature = NAMES.map(lambda name: f"rs_{name}:{name}") if wire == "responses" else NAMES
    signed = st.builds(Reasoning, WORDS, signature)
    hidden = st.builds(Reasoning, st.just(""), st.none(), WORDS)
    thoughts = st.lists(signed if wire == "responses" else signed | hidden, max_size=2)
    if wire == "chat":  # or else only one, unsigned
        thoughts |= st.lists(st.builds(Reasoning, WORDS), max_size=1)
    assistant = st.builds(lambda thoughts, texts, calls, name: Message("assistant", (*thoughts, *texts, *calls), name),
                          thoughts, texts, calls, names)
    content = st.lists(TEXTS if wire == "chat" else TEXTS | IMAGES, min_size=1, max_size=2).map(tuple)
    failed = st.booleans() if wire == "messages" else st.just(False)
    tool = st.builds(Message, st.just("tool"), st.lists(st.builds(ToolResult, NAMES, content, failed), min_size=1).map(tuple))
    turns = st.lists(st.one_of(user, assistant, tool, system), max_size=4)
    return st.builds(lambda begin, turns, end: (*begin, *turns, end), st.lists(system, max_size=1), turns, user)


def requests(wire: Wire) -> st.SearchStrategy[Request]:
    def only(strategy: Any, *wires: Wire) -> Any:
        return optional(strategy) if wire in wires else st.none()

    unit, sign = st.floats(0, 1), st.floats(-2, 2)
    settings: dict[str, Any] = {
        "model": WORDS, "max_tokens": st.integers(1, 10**6) if wire == "messages" else optional(st.integers(1, 10**6)),
        "temperature": optional(unit if wire == "messages" else st.floats(0, 2)), "top_p": optional(st.floats(0.01, 1)),
        "top_k": only(st.integers(0, 1000), "chat", "completions", "messages"), "min_p": only(unit, "chat", "completions"),
        "repetition_penalty": only(st.floats(0.1, 10), "chat", "completions"),
        "presence_penalty": only(sign, "chat", "completions"),
        "frequency_penalty": only(sign, "chat", "completions"), "seed": only(st.integers(0, 2**63), "chat", "completions"),
        "stop": st.just(()) if wire == "responses" else st.lists(WORDS, max_size=4).map(tuple),
        "logprobs": only(st.integers(0, 20), "chat", "completions", "responses"), "user": optional(WORDS), "stream": st.booleans()}
    if wire in ("chat", "completions"):
        settings |= {"n": st.integers(1, 9), "logit_bias": st.dictionaries(st.integers(0, 10**6), st.floats(-100, 100), max_size=3)}
    if wire == "completions":
        prompts = WORDS | st.lists(st.integers(0, 10**6), min_size=1, max_size=4).map(tuple)
        return st.builds(Request, prompt=prompts, echo=st.booleans(), **settings).filter(lambda request: not request.echo
                                                                                         or not request.stream)
    efforts = ["none", "low", "medium", "high", "xhigh", "max"] + ([] if wire == "messages" else ["minimal"])
    formats: Any = st.builds(JSONFormat, SCHEMAS) if wire == "messages" else st.builds(JSONFormat, SCHEMAS, NAMES, st.booleans())
    if wire != "messages":
        formats |= st.just(JSONFormat(strict=False))
    settings |= {"messages": conversations(wire), "effort": optional(st.sampled_from(efforts)), "format": optional(formats),
                 "summary": only(st.sampled_from(["auto", "concise", "detailed"]), "responses")}
    tools = st.lists(st.builds(Tool, NAMES, st.just("") | WORDS, SCHEMAS, st.booleans()), max_size=3,
                     unique_by=lambda tool: tool.name).map(tuple)

    def choices(tools: tuple[Tool, ...]) -> Any:
        if not tools:
            return st.builds(Request, tools=st.just(()), **settings)
        choice = st.sampled_from(["auto", "none", "required", *(NamedTool(tool.name) for tool in tools)])
        return st.builds(Request, tools=st.just(tools), tool_choice=choice, parallel_tools=st.booleans(), **settings)

    return tools.flatmap(choices)


@pytest.mark.parametrize("wire", FRONTS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_request_survives_each_format(wire: Wire, data: st.DataObject) -> None:
    request = data.draw(requests(wire))
    roles = [message.role for message in request.messages]
    # What a format does not tell apart: neighbours that are one turn to it, and (Anthropic) parallel calls where none is allowed.
    assume(not any(a == b and a in ("assistant", "tool") for a, b in itertools.pairwise(roles)))
    if wire == "messages":
        assume(not any(a == b == "system" for a, b in itertools.pairwise(roles)))
        assume(request.tool_choice != "none" or request.parallel_tools)
    asked = FRONTS[wire].read(sse.loads(sse.dumps(DIALECTS[wire].body(request))))
    assert asked.requests == (request,)
    assert asked.stream == request.stream


def test_thinking_by_the_number_of_tokens() -> None:
    request = Request("m", (Message("user", (Text("x"),)),), max_tokens=3000, thinking_tokens=2000, summary="auto")
    assert FRONTS["messages"].read(DIALECTS["messages"].body(request)).request == request


# What is refused, and in which words

ASK: dict[Wire, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "x"}]}, "completions": {"model": "m", "prompt": "x"},
    "responses": {"model": "m", "input": "x"},
    "messages": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}}
TOOL = {"type": "function", "function": {"name": "f"}}


def turn(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"}, fields]}


REFUSED: list[tuple[Wire, dict[str, Any], str | None]] = [
    *((wire, {"magic": 1}, "magic") for wire in FRONTS),
    *((wire, {"model": None}, "model") for wire in FRONTS),
    *((wire, {"temperature": "hot"}, "temperature") for wire in FRONTS),
    *((wire, {"temperature": float("inf")}, "temperature") for wire in FRONTS),
    *((wire, {"stream": "yes"}, "stream") for wire in FRONTS),
    *((wire, {"top_p": 0.0}, "top_p") for wire in FRONTS),
    ("chat", {"messages": []}, "messages"),
    ("chat", {"messages": "x"}, "messages"),
    ("chat", turn(role="critic", content="x"), "messages.1"),
    ("chat", turn(role="user"), "messages.1.content"),
    ("chat", turn(role="user", content=5), "messages.1.content"),
    ("chat", turn(role="user", content=[{"type": "text"}]), "messages.1.content.0.text"),
    ("chat", turn(role="user", content=[{"type": "text", "text": "x", "image_url": "y"}]), "messages.1.content.0.image_url"),
    ("chat", turn(role="user", content=[{"type": "video", "text": "x"}]), "messages.1.content.0"),
    ("chat", turn(role="user", content=[{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]),
     "messages.1.content.0.image_url.url"),
    ("chat", turn(role="user", content="x", tool_calls=[]), "messages.1.tool_calls"),
    ("chat", turn(role="system", content=[{"type": "image_url", "image_url": {"url": "https://x"}}]), "messages.1.content.0.type"),
    ("chat", turn(role="tool", content="x"), "messages.1.tool_call_id"),
    ("chat", turn(role="assistant", tool_calls=[{"id": "c", "type": "custom"}]), None),
    ("chat", {"max_tokens": 0}, "max_tokens"), ("chat", {"n": 0}, "n"), ("chat", {"n": 129}, "n"), ("chat", {"n": True}, "n"),
    ("chat", {"seed": 1.5}, "seed"), ("chat", {"stop": ["a"] * 5}, "stop"), ("chat", {"stop": ""}, "stop"),
    ("chat", {"stop": 5}, "stop"),
    ("chat", {"stream_options": {"include_usage": True}}, "stream_options"),
    ("chat", {"stream": True, "stream_options": {"magic": 1}}, "stream_options.magic"),
    ("chat", {"top_logprobs": 2}, "top_logprobs"), ("chat", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("chat", {"logit_bias": {"x": 1}}, "logit_bias"), ("chat", {"logit_bias": {"5": 101}}, "logit_bias"),
    ("chat", {"response_format": {"type": "json_schema"}}, "response_format"),
    ("chat", {"response_format": {"type": "xml"}}, "response_format.type"),
    ("chat", {"tools": [{"type": "web_search"}]}, None),
    ("chat", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
    ("chat", {"tools": [TOOL, TOOL]}, None), ("chat", {"tool_choice": "required"}, None),
    ("chat", {"tool_choice": "any"}, "tool_choice"),
    ("chat", {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, None),
    ("chat", {"functions": []}, "functions"), ("chat", {"store": True}, "store"), ("chat", {"store": 0}, "store"),
    ("chat", {"modalities": ["audio"]}, "modalities.0"),
    ("chat", {"reasoning_effort": "extreme"}, "reasoning_effort"), ("chat", {"service_tier": "flex"}, "service_tier"),
    ("completions", {"prompt": None}, "prompt"), ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": ""}, "prompt"), ("completions", {"prompt": ["a", 1]}, None),
    ("completions", {"prompt": [-1]}, None), ("completions", {"prompt": [[1], []]}, None),
    ("completions", {"prompt": ["x"] * 1025}, "prompt"), ("completions", {"max_tokens": 0}, "max_tokens"),
    ("completions", {"best_of": 3}, "best_of"), ("completions", {"suffix": "x"}, "suffix"),
    ("completions", {"logprobs": 21}, "logprobs"),
    ("responses", {"input": []}, "input"), ("responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
    ("responses", {"store": True}, "store"), ("responses", {"background": True}, "background"),
    ("responses", {"conversation": "c"}, "conversation"), ("responses", {"truncation": "auto"}, "truncation"),
    ("responses", {"include": ["file_search_call.results"]}, "include.0"),
    ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input.0.content.0"),
    ("responses", {"input": [{"role": "user", "content": "x", "arguments": "y"}]}, "input.0.arguments"),
    ("responses", {"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input.0.call_id"),
    ("responses", {"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ("responses", {"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format"),
    ("responses", {"text": {"verbosity": "low"}}, "text.verbosity"),
    ("messages", {"max_tokens": None}, "max_tokens"), ("messages", {"temperature": 1.5}, "temperature"),
    ("messages", {"stop_sequences": [""]}, "stop_sequences.0"), ("messages", {"container": "x"}, "container"),
    ("messages", {"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking.budget_tokens"),
    ("messages", {"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
    ("messages", {"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "output_config.effort"),
    ("messages", turn(role="user", content=[{"type": "document", "source": {}}]), "messages.1.content.0"),
    ("messages", turn(role="user", content=[
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "?"}}]),
     "messages.1.content.0.source.data"),
    ("messages", turn(role="assistant", content=[{"type": "tool_use", "id": "t", "name": "f", "input": "x"}]),
     "messages.1.content.0.input"),
    ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, None),
    ("messages", {"tool_choice": {"type": "function"}}, "tool_choice"),
    ("messages", {"cache_control": {"type": "forever"}}, "cache_control.type"),
]


@pytest.mark.parametrize(("wire", "change", "param"), REFUSED)
def test_refused(wire: Wire, change: dict[str, Any], param: str | None) -> None:
    with pytest.raises(GatewayError) as error:
        FRONTS[wire].read({**ASK[wire], **change})
    assert (error.value.status, error.value.kind) == (400, "invalid")
    assert error.value.param == param or param is None
    assert "\n" not in error.value.message and 10 < len(error.value.message) < 300
    if "magic" in change:
        assert "magic" in error.value.message and error.value.code == "unknown_parameter"


@pytest.mark.parametrize("body", [None, [], "x", 5])
@pytest.mark.parametrize("wire", FRONTS)
def test_a_body_is_an_object(wire: Wire, body: Any) -> None:
    with pytest.raises(GatewayError, match="JSON object"):
        FRONTS[wire].read(body)


@pytest.mark.parametrize("wire", FRONTS)
def test_null_says_nothing(wire: Wire) -> None:
    """Clients send null for what they do not use, and for what only they know."""
    plain = FRONTS[wire].read(ASK[wire]).request
    body = {**ASK[wire], "temperature": None, "stream": None, "a_newer_field": None}
    assert FRONTS[wire].read(body).request == plain
    assert "a_newer_field" in body  # what the caller gave is not changed


def test_a_schema_keeps_its_nulls() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", None], "default": None}}}
    body = {**ASK["chat"], "newer": None, "response_format": {"type": "json_schema", "json_schema": {
        "name": "n", "schema": schema, "newer": None}}}
    request = FRONTS["chat"].read(body).request
    assert request.format == JSONFormat(schema, "n", False)


def test_what_is_accepted_though_it_changes_no_reply() -> None:
    cache = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    block = {"type": "text", "text": "x", **cache}
    tool = {"name": "f", "input_schema": {"type": "object"}}
    body = {**ASK["messages"], **cache, "system": [block], "messages": [{"role": "user", "content": [block]}],
            "tools": [tool | cache]}
    plain = {**ASK["messages"], "system": "x", "tools": [tool]}
    assert FRONTS["messages"].read(body).request == FRONTS["messages"].read(plain).request
    for wire in ("chat", "responses"):
        hints = {"prompt_cache_key": "k", "service_tier": "auto", "metadata": {"a": "b"}, "store": False}
        assert FRONTS[wire].read({**ASK[wire], **hints}).request == FRONTS[wire].read(ASK[wire]).request


def test_tool_results_with_images_and_failures() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    content = [{"type": "text", "text": "first"},
               {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image", "source": source}], "is_error": True},
               {"type": "tool_result", "tool_use_id": "b"}, {"type": "text", "text": "and now?"}]
    request = FRONTS["messages"].read({**ASK["messages"], "messages": [{"role": "user", "content": content}]}).request
    assert request.messages == (
        Message("user", (Text("first"),)),
        Message("tool", (ToolResult("a", (Image("data:image/png;base64,QUJD"),), True), ToolResult("b", ()))),
        Message("user", (Text("and now?"),)))
    output = DIALECTS["responses"].body(request)["input"][1]
    picture = {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"}
    assert output == {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "Error:"}, picture]}


def test_reasoning_under_either_name() -> None:
    for fields in ({"reasoning": "hm"}, {"reasoning_content": "hm"}, {"reasoning": "hm", "reasoning_content": "hm"}):
        request = FRONTS["chat"].read({**ASK["chat"], **turn(role="assistant", content="a", **fields)}).request
        assert request.messages[1].parts == (Reasoning("hm"), Text("a"))


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_an_upstreams_reasoning_under_either_name(name: str) -> None:
    reply = {"model": "m", "choices": [{"index": 0, "message": {"content": "a", name: "hm"}, "finish_reason": "stop"}]}
    chunk = sse.dumps({"choices": [{"index": 0, "delta": {name: "hm"}}]})
    for events in (DIALECTS["chat"].events(reply, Request("m")), DIALECTS["chat"].parser(Request("m")).feed(chunk)):
        assert [event.text for event in events if type(event).__name__ == "ReasoningDelta"] == ["hm"]  # type: ignore[union-attr]
