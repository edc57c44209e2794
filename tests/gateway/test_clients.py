"""OpenAI's and Anthropic's own clients, and their own types, as judges of what the fronts say."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import MessageTokensCount, RawMessageStreamEvent
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from scripted import Scripted, app, folded, sent, served

from ownship.gateway import sse
from ownship.gateway.codec import Asked
from ownship.gateway.fronts import FRONTS
from ownship.gateway.types import (
    Event,
    Finished,
    GatewayError,
    PromptScores,
    ReasoningDelta,
    Request,
    Started,
    TextDelta,
    TokenScore,
    ToolDelta,
    Usage,
    Used,
    Wire,
)

USED = Used(Usage(prompt=100, completion=30, cached=40, reasoning=7, written=5))
SCORES = (TokenScore("He", -0.5, None, (("He", -0.5, None), ("Ho", -1.5, None))), TokenScore("llo", float("-inf")))
WORDS: list[Event] = [Started("the-model", 100), TextDelta(0, "He", SCORES[:1]), TextDelta(0, "llo", SCORES[1:]),
                      Finished(0, "stop"), USED]
CALLS: list[Event] = [
    Started("the-model", 100), ReasoningDelta(0, "Hmm"), ReasoningDelta(0, "", "c2ln"), ReasoningDelta(0, "", None, "aGlk"),
    TextDelta(0, "One moment."), ToolDelta(0, 0, "", "call_a", "weather"), ToolDelta(0, 0, '{"city":'), ToolDelta(0, 0, '"Köln"}'),
    ToolDelta(0, 1, "{}", "call_b", "time"), Finished(0, "tool_calls"), USED]
ASK = [{"role": "user", "content": "Hi"}]
TOOLS = [{"name": name, "description": "d", "input_schema": {"type": "object", "properties": {}}} for name in ("weather", "time")]
CHAT_TOOLS = [{"type": "function", "function": {"name": tool["name"], "parameters": tool["input_schema"]}} for tool in TOOLS]
RESPONSE_TOOLS = [{"type": "function", **tool["function"], "strict": False} for tool in CHAT_TOOLS]


class Stage:
    """A gateway over a scripted upstream; each test writes the script."""

    def __init__(self, url: str, upstream: Scripted) -> None:
        self.upstream = upstream
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=30)
        self.anthropic = anthropic.Anthropic(base_url=url, api_key="x", max_retries=0, timeout=30)

    def play(self, events: list[Event | GatewayError] | list[Event], endless: bool = False) -> None:
        self.upstream.script = lambda request: events
        self.upstream.endless = endless
        self.upstream.requests.clear()
        self.upstream.closed = 0


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    upstream = Scripted([])
    with served(app(upstream)) as url:
        yield Stage(url, upstream)


def said(wire: Wire, events: list[Event], body: dict[str, Any]) -> tuple[Asked, bytes, dict[str, Any]]:
    """What the front writes of these events: the stream, and the whole body."""
    asked = FRONTS[wire].read(body)
    writer = FRONTS[wire].writer(asked)
    return asked, b"".join(writer.write(event) for event in events), \
        json.loads(sse.dumps(FRONTS[wire].whole(asked, folded(events))))


# Their types


BODIES: dict[Wire, dict[str, Any]] = {
    "chat": {"model": "m", "messages": ASK, "tools": CHAT_TOOLS, "stream": True, "stream_options": {"include_usage": True},
             "logprobs": True, "top_logprobs": 2},
    "responses": {"model": "m", "input": "Hi", "tools": RESPONSE_TOOLS, "stream": True, "top_logprobs": 2,
                  "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
                  "instructions": "Be kind.", "reasoning": {"effort": "low"}, "metadata": {"a": "b"},
                  "tool_choice": {"type": "function", "name": "time"}},
    "messages": {"model": "m", "max_tokens": 50, "messages": ASK, "tools": TOOLS, "stream": True}}
TYPES: dict[Wire, tuple[TypeAdapter[Any], TypeAdapter[Any]]] = {
    "chat": (TypeAdapter(ChatCompletionChunk), TypeAdapter(ChatCompletion)),
    "responses": (TypeAdapter(ResponseStreamEvent), TypeAdapter(Response)),
    "messages": (TypeAdapter(RawMessageStreamEvent), TypeAdapter(AnthropicMessage))}


def known(value: Any) -> None:
    """Nothing may stand in a reply that the client's types do not know, but for what open models' servers add to OpenAI's,
    `store`, which OpenAI's own replies have, and the bytes of a token, which the types have in some places only."""
    if isinstance(value, list):
        for one in value:
            known(one)
    elif hasattr(value, "model_extra"):
        assert set(value.model_extra or {}) <= {"reasoning", "reasoning_content", "reasoning_details", "store", "bytes"}, value
        for name in type(value).model_fields:
            known(getattr(value, name))


@pytest.mark.parametrize("events", [WORDS, CALLS, [*WORDS[:1], Finished(0, "length"), USED]], ids=["words", "calls", "nothing"])
@pytest.mark.parametrize("wire", BODIES)
def test_types(wire: Wire, events: list[Event]) -> None:
    _, stream, whole = said(wire, events, BODIES[wire])
    event_type, body_type = TYPES[wire]
    known(body_type.validate_python(whole, strict=True))
    for one in sent(stream):
        known(event_type.validate_python(one, strict=True))


def test_a_failing_stream_has_their_types() -> None:
    writer = FRONTS["responses"].writer(FRONTS["responses"].read(BODIES["responses"]))
    data = writer.write(CALLS[0]) + writer.write(CALLS[1]) + writer.fail(GatewayError(503, "overloaded", "gone"))
    events = [TYPES["responses"][0].validate_python(one, strict=True) for one in sent(data)]
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))


# Chat


def test_chat(stage: Stage) -> None:
    stage.play(WORDS)
    reply = stage.openai.chat.completions.create(model="m", messages=ASK, logprobs=True, top_logprobs=2)  # type: ignore[arg-type]
    choice = reply.choices[0]
    assert (reply.model, choice.message.content, choice.finish_reason) == ("the-model", "Hello", "stop")
    assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (100, 30, 130)
    assert reply.usage.prompt_tokens_details.cached_tokens == 40
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert [(score.token, score.logprob, score.bytes) for score in choice.logprobs.content] == [
        ("He", -0.5, [72, 101]), ("llo", -9999.0, [108, 108, 111])]
    assert [(top.token, top.logprob) for top in choice.logprobs.content[0].top_logprobs] == [("He", -0.5), ("Ho", -1.5)]


def test_chat_stream(stage: Stage) -> None:
    stage.play(WORDS)
    chunks = list(stage.openai.chat.completions.create(model="m", messages=ASK, stream=True,  # type: ignore[call-overload]
                                                       stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 30
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks[:-1])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello"
    chunks = list(stage.openai.chat.completions.create(model="m", messages=ASK, stream=True))  # type: ignore[call-overload]
    assert all(chunk.choices and "usage" not in chunk.model_fields_set for chunk in chunks)


def test_chat_on_the_wire() -> None:
    _, stream, _ = said("chat", WORDS, {"model": "m", "messages": ASK, "stream": True, "n": 2})
    assert stream.endswith(b"\n\ndata: [DONE]\n\n") and stream.count(b"[DONE]") == 1
    assert [chunk["choices"][0]["index"] for chunk in sent(stream)[:2]] == [0, 1]  # each choice begins with its role
    assert all(chunk["choices"][0]["delta"]["role"] == "assistant" for chunk in sent(stream)[:2])


def test_chat_tools_and_reasoning(stage: Stage) -> None:
    """As OpenAI's own accumulator puts the pieces together; and the message goes back as it came."""
    stage.play(CALLS)
    with stage.openai.chat.completions.stream(model="m", messages=ASK, tools=CHAT_TOOLS) as stream:  # type: ignore[arg-type]
        final = stream.get_final_completion()
    stage.play(CALLS)
    whole = stage.openai.chat.completions.create(model="m", messages=ASK, tools=CHAT_TOOLS)  # type: ignore[call-overload]
    for reply in (final, whole):
        message = reply.choices[0].message
        assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls] == [
            ("call_a", "weather", '{"city":"Köln"}'), ("call_b", "time", "{}")]
        assert message.content == "One moment." and reply.choices[0].finish_reason == "tool_calls"
        assert message.reasoning_content == message.reasoning == "Hmm"
    back = {**whole.choices[0].message.model_dump(), "an_unknown_field_of_a_newer_client": None}
    results = [{"role": "tool", "tool_call_id": call, "content": "x"} for call in ("call_a", "call_b")]
    stage.play(WORDS)
    stage.openai.chat.completions.create(model="m", messages=[*ASK, back, *results], tools=CHAT_TOOLS)  # type: ignore[call-overload]
    messages = stage.upstream.requests[0].messages
    assert list(messages[1].parts) == folded(CALLS).choices[0].parts
    assert [part.call for part in messages[2].parts] == ["call_a", "call_b"]  # type: ignore[union-attr]


# Completions


def test_completions_with_several_prompts(stage: Stage) -> None:
    """Choices are sorted by index: n for each prompt, one prompt after the other."""
    def script(request: Request) -> list[Event]:
        prompt = request.prompt if isinstance(request.prompt, str) else " ".join(map(str, request.prompt or ()))
        return [Started("the-model"), *(TextDelta(index, f"{prompt}-{index}") for index in (1, 0)),
                *(Finished(index, "length") for index in (1, 0)), Used(Usage(3, 2))]

    stage.play([])
    stage.upstream.script = script
    for prompt, names in ((["a", "b", "c"], "abc"), ([[1], [2], [3]], "123")):
        reply = stage.openai.completions.create(model="m", prompt=prompt, n=2, max_tokens=2)  # type: ignore[arg-type]
        assert [choice.index for choice in reply.choices] == list(range(6))
        assert [choice.text for choice in reply.choices] == [f"{name}-{index}" for name in names for index in (0, 1)]
        assert reply.usage is not None and (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (9, 6)
        chunks = list(stage.openai.completions.create(model="m", prompt=prompt, n=2, stream=True))  # type: ignore[arg-type]
        texts = {chunk.choices[0].index: chunk.choices[0].text for chunk in chunks if chunk.choices[0].text}
        assert texts == {at: choice.text for at, choice in enumerate(reply.choices)}
        ends = [chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason]
        assert sorted(ends) == list(range(6)) and len({chunk.id for chunk in chunks}) == 1
    one = stage.openai.completions.create(model="m", prompt=[4, 5], n=1)
    assert one.choices[0].text == "4 5-0"


def test_completions_echo_with_log_probabilities() -> None:
    """As evaluation harnesses read it."""
    body = {"model": "m", "prompt": [[7, 8, 9]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    prompt = (TokenScore("A", None, 7), TokenScore(" b", -1.25, 8, ((" c", -0.5, 3),)),
              TokenScore("c", -3.5, 9, (("c", -0.75, 4),)))  # another token with the same text was likelier
    reply = (TokenScore("�", -0.125, 5, (("�", -0.125, 5),), b"\xf0\x9f"),
             TokenScore("�", -0.25, 6, (("�", -0.25, 6),), b"\x99\x82"))
    events = [Started("m"), PromptScores(0, prompt), TextDelta(0, "", reply[:1]), TextDelta(0, "🙂", reply[1:]),
              Finished(0, "length"), Used(Usage(3, 2))]
    asked, stream, whole = said("completions", events, body)
    assert asked.request.prompt == (7, 8, 9) and asked.request.echo
    choice = whole["choices"][0]
    assert choice["text"] == "A bc🙂"
    logprobs = choice["logprobs"]
    assert logprobs == {
        "tokens": ["A", " b", "c", "bytes:\\xf0\\x9f", "bytes:\\x99\\x82"], "token_logprobs": [None, -1.25, -3.5, -0.125, -0.25],
        "top_logprobs": [None, {" b": -1.25, " c": -0.5}, {"c": -3.5, "token_id:4": -0.75}, {"bytes:\\xf0\\x9f": -0.125},
                         {"bytes:\\x99\\x82": -0.25}],
        "text_offset": [0, 1, 3, 4, 4]}
    greedy = [max(top, key=top.__getitem__) == token for token, top in zip(logprobs["tokens"][1:], logprobs["top_logprobs"][1:],
                                                                           strict=True)]
    assert greedy == [False, False, True, True]
    pieces = [one["choices"][0] for one in sent(stream)]
    assert "".join(piece["text"] for piece in pieces) == choice["text"]
    for name in logprobs:
        assert [one for piece in pieces if piece["logprobs"] for one in piece["logprobs"][name]] == logprobs[name]
    for one in (*sent(stream)[1:3], {**whole, "choices": [{**choice, "logprobs": None}]}):
        known(Completion.model_validate({**one, "choices": [{**one["choices"][0], "finish_reason": "stop"}]}, strict=True))


def test_completions_without_log_probabilities_echo_the_text() -> None:
    tokens = (TokenScore("A", None), TokenScore("B", -1.0))
    for prompt, scores, text in (("AB", (), None), ([1, 2], (), "AB"), ([1, 2], tokens, None)):
        events: list[Event] = [Started("m"), PromptScores(0, scores, text), Finished(0, "length"), Used(Usage(2, 0))]
        _, stream, whole = said("completions", events, {"model": "m", "prompt": prompt, "max_tokens": 0, "echo": True})
        assert whole["choices"][0]["text"] == "AB" and whole["choices"][0]["logprobs"] is None
        assert sent(stream)[0]["choices"][0]["text"] == "AB"


# Responses


def test_responses_events(stage: Stage) -> None:
    stage.play(CALLS)
    with stage.openai.responses.stream(model="m", input="Hi", tools=RESPONSE_TOOLS) as stream:  # type: ignore[arg-type]
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done",
        "output_item.done", "output_item.added", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "completed"]
    assert [item.type for item in final.output] == ["reasoning", "reasoning", "message", "function_call", "function_call"]
    assert final.output_text == "One moment." and final.status == "completed"
    assert [(call.call_id, call.name, call.arguments) for call in final.output[3:]] == [  # type: ignore[union-attr]
        ("call_a", "weather", '{"city":"Köln"}'), ("call_b", "time", "{}")]
    assert final.usage is not None
    assert (final.usage.input_tokens, final.usage.input_tokens_details.cached_tokens, final.usage.output_tokens,
            final.usage.output_tokens_details.reasoning_tokens, final.usage.total_tokens) == (100, 40, 30, 7, 130)
    stage.play(WORDS)
    outputs = [{"type": "function_call_output", "call_id": call, "output": "x"} for call in ("call_a", "call_b")]
    stage.openai.responses.create(model="m", input=[*ASK, *(item.model_dump() for item in final.output), *outputs])  # type: ignore[list-item]
    messages = stage.upstream.requests[0].messages
    assert list(messages[1].parts) == folded(CALLS).choices[0].parts
    assert [part.call for part in messages[2].parts] == ["call_a", "call_b"]  # type: ignore[union-attr]


def test_responses_with_a_summary(stage: Stage) -> None:
    stage.play(CALLS[:3] + WORDS[1:])
    with stage.openai.responses.stream(model="m", input="Hi", reasoning={"summary": "auto"}) as stream:
        kinds = [event.type.removeprefix("response.") for event in stream]
        item: Any = stream.get_final_response().output[0]
    assert kinds[3:7] == ["reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done",
                          "reasoning_summary_part.done"]
    assert [part.text for part in item.summary] == ["Hmm"] and not item.content


def test_responses_cut_short(stage: Stage) -> None:
    stage.play([*WORDS[:3], Finished(0, "length"), USED])
    reply = stage.openai.responses.create(model="m", input="Hi", max_output_tokens=2)
    assert reply.status == "incomplete" and reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert (reply.output[0].status, reply.max_output_tokens) == ("incomplete", 2)  # type: ignore[union-attr]
    with stage.openai.responses.stream(model="m", input="Hi") as stream:
        assert [event.type for event in stream][-1] == "response.incomplete"


# Messages


def test_messages(stage: Stage) -> None:
    stage.play(CALLS)
    ask: Any = {"model": "m", "max_tokens": 2000, "messages": ASK, "tools": TOOLS,
                "thinking": {"type": "enabled", "budget_tokens": 1024}}
    whole = stage.anthropic.messages.create(**ask)
    with stage.anthropic.messages.stream(**ask) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    for reply in (whole, final):
        assert [block.type for block in reply.content] == ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]
        thinking, hidden, text, *calls = reply.content
        assert (thinking.thinking, thinking.signature, hidden.data, text.text) == ("Hmm", "c2ln", "aGlk", "One moment.")
        assert [(call.id, call.name, call.input) for call in calls] == [
            ("call_a", "weather", {"city": "Köln"}), ("call_b", "time", {})]
        assert (reply.model, reply.stop_reason, reply.stop_sequence) == ("the-model", "tool_use", None)
        assert (reply.usage.input_tokens, reply.usage.cache_read_input_tokens, reply.usage.cache_creation_input_tokens,
                reply.usage.output_tokens) == (55, 40, 5, 30)
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 5
    stage.play(WORDS)
    results = [{"type": "tool_result", "tool_use_id": call, "content": "x"} for call in ("call_a", "call_b")]
    stage.anthropic.messages.create(**{**ask, "messages": [*ASK, {"role": "assistant", "content": final.content},
                                                           {"role": "user", "content": [*results, {"type": "text", "text": "?"}]}]})
    messages = stage.upstream.requests[0].messages
    assert list(messages[1].parts) == folded(CALLS).choices[0].parts
    assert [message.role for message in messages] == ["user", "assistant", "tool", "user"]


def test_messages_on_the_wire() -> None:
    _, stream, _ = said("messages", [*WORDS[:-2], Finished(0, "stop", "END"), USED], BODIES["messages"])
    names = [line.removeprefix(b"event: ").decode() for line in stream.split(b"\n") if line.startswith(b"event: ")]
    events = sent(stream)
    assert names == [event["type"] for event in events] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop"]
    assert events[0]["message"]["usage"]["input_tokens"] == 100
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


def test_pings_and_comments_disturb_nobody() -> None:
    for wire in FRONTS:
        body = {"model": "m", "prompt": "x"} if wire == "completions" else BODIES[wire]
        assert [one for one in sent(FRONTS[wire].KEEP_ALIVE * 2 + said(wire, WORDS, body)[1]) if one.get("type") != "ping"]


def test_count_tokens(stage: Stage) -> None:
    stage.play([])
    counted = stage.anthropic.messages.count_tokens(model="m", messages=ASK, system="x")  # type: ignore[arg-type]
    assert counted == MessageTokensCount(input_tokens=42)
    assert [message.role for message in stage.upstream.requests[0].messages] == ["system", "user"]


def test_a_tool_called_with_what_is_no_object(stage: Stage) -> None:
    stage.play([Started("m"), ToolDelta(0, 0, "[1", "c", "f"), Finished(0, "tool_calls"), USED])
    with pytest.raises(anthropic.InternalServerError, match="arguments"):
        stage.anthropic.messages.create(model="m", max_tokens=9, messages=ASK)  # type: ignore[arg-type]


# Errors and leaving


ERRORS = [(400, "invalid", openai.BadRequestError, anthropic.BadRequestError),
          (401, "authentication", openai.AuthenticationError, anthropic.AuthenticationError),
          (404, "not_found", openai.NotFoundError, anthropic.NotFoundError),
          (429, "rate_limit", openai.RateLimitError, anthropic.RateLimitError),
          (503, "overloaded", openai.InternalServerError, anthropic.InternalServerError)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "kind", "openais", "anthropics"), ERRORS)
def test_errors(stage: Stage, status: int, kind: Any, openais: Any, anthropics: Any, stream: bool) -> None:
    stage.play([GatewayError(status, kind, "what happened", "p", "c", 2.2)])
    ask: Any = {"model": "m", "stream": stream}
    for call in (lambda: stage.openai.chat.completions.create(messages=ASK, **ask),  # type: ignore[arg-type]
                 lambda: stage.openai.completions.create(prompt="x", **ask),
                 lambda: stage.openai.responses.create(input="x", **ask)):
        with pytest.raises(openais) as error:
            call()
        assert (error.value.param, error.value.code, error.value.body["message"]) == ("p", "c", "what happened")
        assert error.value.response.headers["retry-after"] == "3"
    with pytest.raises(anthropics, match="what happened") as refused:
        stage.anthropic.messages.create(max_tokens=5, messages=ASK, **ask)
    assert refused.value.body["type"] == "error"


def test_errors_in_the_midst(stage: Stage) -> None:
    stage.play([*WORDS[:2], GatewayError(502, "upstream", "it broke")])
    ask: Any = {"model": "m", "stream": True}
    for call in (lambda: stage.openai.chat.completions.create(messages=ASK, **ask),  # type: ignore[arg-type]
                 lambda: stage.openai.completions.create(prompt="x", **ask),
                 lambda: stage.openai.responses.create(input="x", **ask)):
        stream, got = call(), []
        with pytest.raises(openai.APIError, match="it broke"):
            got.extend(stream)
        assert got
    with pytest.raises(anthropic.APIStatusError, match="it broke"):
        list(stage.anthropic.messages.create(max_tokens=5, messages=ASK, **ask))


def test_leaving_ends_the_work(stage: Stage) -> None:
    ask: Any = {"model": "m", "stream": True}
    calls: list[Any] = [lambda: stage.openai.chat.completions.create(messages=ASK, **ask),  # type: ignore[arg-type]
                        lambda: stage.openai.completions.create(prompt=["x", "y"], **ask),
                        lambda: stage.openai.responses.create(input="x", **ask),
                        lambda: stage.anthropic.messages.create(max_tokens=5, messages=ASK, **ask)]
    for call in calls:
        stage.play(WORDS[:2], endless=True)
        stream = call()
        next(iter(stream))
        stream.close()
        deadline = time.monotonic() + 30
        while stage.upstream.closed < len(stage.upstream.requests):
            assert time.monotonic() < deadline, "the upstream still works for a client that has left"
            time.sleep(0.005)
