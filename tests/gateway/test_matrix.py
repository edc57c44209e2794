"""Every front before every upstream: what a model says comes through, and what a pair cannot express is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from scripted import Scripted, app, folded, listed, run, sent

from ownship.gateway import sse
from ownship.gateway.fronts import FRONTS
from ownship.gateway.reply import Reply
from ownship.gateway.types import (
    Event,
    Finished,
    GatewayError,
    Image,
    JSONFormat,
    Message,
    NamedTool,
    PromptScores,
    Reasoning,
    ReasoningDelta,
    Request,
    Started,
    Text,
    TextDelta,
    TokenScore,
    Tool,
    ToolCall,
    ToolDelta,
    ToolResult,
    Usage,
    Used,
    Wire,
)
from ownship.gateway.upstream import DIALECTS, HTTPUpstream

TALKING: list[Wire] = ["chat", "responses", "messages"]
WIRES: list[Wire] = ["chat", "completions", "responses", "messages"]
USED = Used(Usage(prompt=100, completion=30, cached=40, reasoning=7, written=5))
ASKED = Request("m", (Message("user", (Text("Hi"),)),), max_tokens=50)


def upstream(wire: Wire, behind: Any, **options: Any) -> HTTPUpstream:
    """A server that speaks `wire`: our own front over `behind`."""
    return HTTPUpstream("http://server", wire, "key", transport=httpx.ASGITransport(app(behind)), **options)


def through(wire: Wire, script: Any, request: Request = ASKED) -> list[Event]:
    """What arrives of `script` over the wire."""
    return run(listed(upstream(wire, Scripted(script)).stream(request)))


def asked_by(wire: Wire, request: Request) -> dict[str, Any]:
    """The body with which a client of the format asks for the same."""
    return sse.loads(sse.dumps(DIALECTS[wire].body(request)))


def answered(front: Wire, behind: Any, request: Request) -> Reply:
    """What a client that speaks `front` understands, told by the parser of the same format."""
    async def ask() -> Reply:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app(behind)), base_url="http://gateway") as client:
            response = await client.post("/v1" + FRONTS[front].PATH, json=asked_by(front, request))
            assert response.status_code == 200, response.text
            if not request.stream:
                return folded(DIALECTS[front].events(response.json(), request))
            parser = DIALECTS[front].parser(request)
            return folded(event for data in sse.Reader().feed(response.content) for event in parser.feed(data))
    return run(ask())


def parts(reply: Reply) -> list[Any]:
    return reply.choices[0].parts


SIGNED = {"chat": "c2ln", "responses": "rs_1:c2ln", "messages": "c2ln"}


def spoken(signature: str) -> list[Event]:
    return [Started("the-model", 100), ReasoningDelta(0, "Let me "), ReasoningDelta(0, "see."), ReasoningDelta(0, "", signature),
            ReasoningDelta(0, "", None, "c2VjcmV0"), TextDelta(0, "Grüße "), TextDelta(0, "🙂"),
            ToolDelta(0, 0, "", "call_a", "weather"), ToolDelta(0, 0, '{"city":'), ToolDelta(0, 0, '"Köln"}'),
            ToolDelta(0, 1, '{"city":"Bonn"}', "call_b", "weather"), ToolDelta(0, 2, "{}", "call_c", "time"),
            Finished(0, "tool_calls"), USED]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("server", TALKING)
@pytest.mark.parametrize("front", TALKING)
def test_thoughts_words_calls_and_usage(front: Wire, server: Wire, stream: bool) -> None:
    """Through two translations: a server's, whose format the upstream speaks, and that of our own front."""
    request = Request("m", (Message("user", (Text("Hi"),)),), max_tokens=50, stream=stream, effort="low", tools=(Tool("weather"),))
    signature = SIGNED[server]
    behind = Scripted(spoken(signature))
    reply = answered(front, upstream(server, behind), request)
    assert parts(reply) == [Reasoning("Let me see.", signature), Reasoning("", None, "c2VjcmV0"), Text("Grüße 🙂"),
                            ToolCall("call_a", "weather", '{"city":"Köln"}'), ToolCall("call_b", "weather", '{"city":"Bonn"}'),
                            ToolCall("call_c", "time", "{}")]
    assert (reply.model, reply.choices[0].finish, reply.usage) == ("the-model", "tool_calls", USED.usage)
    assert behind.requests == [request]
    assert behind.closed == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("server", TALKING)
@pytest.mark.parametrize("front", TALKING)
def test_a_conversation_goes_back_as_it_came(front: Wire, server: Wire, stream: bool) -> None:
    """The reply of the test above, handed back by the client with the results of its tools, reaches the server unchanged."""
    given = parts(folded(spoken(SIGNED[server])))
    if server == "responses":
        del given[1]  # hidden thoughts are Anthropic's
    said = Message("assistant", tuple(given))
    picture = Image("data:image/png;base64,QUJD")
    request = Request("m", (Message("system", (Text("Be kind."),)), Message("user", (Text("Hi"), picture)),
                            said, Message("tool", (ToolResult("call_a", (Text("rain"),)), ToolResult("call_b", (Text("sun"),)))),
                            Message("user", (Text("And?"),))), max_tokens=50, stream=stream)
    behind = Scripted([Started("m"), TextDelta(0, "Well."), Finished(0, "stop"), USED])
    through_front = FRONTS[front].read(handed_back(front, request)).request
    assert through_front == request
    assert parts(folded(run(listed(upstream(server, behind).stream(through_front))))) == [Text("Well.")]
    assert behind.requests == [request]


def handed_back(front: Wire, request: Request) -> dict[str, Any]:
    """The body of a client that keeps what the front gave it: items and blocks as they came."""
    asked = FRONTS[front].read(asked_by(front, ASKED))
    said = request.messages[2]
    reply = Reply("m")
    for index, part in enumerate(said.parts):
        if isinstance(part, Reasoning):
            reply.add(ReasoningDelta(0, part.text, part.signature, part.redacted))
        elif isinstance(part, ToolCall):
            reply.add(ToolDelta(0, index, part.arguments, part.id, part.name))
        else:
            reply.add(TextDelta(0, part.text))
    whole = FRONTS[front].whole(asked, reply)
    plain = Request(request.model, (*request.messages[:2], Message("assistant", (Text("HERE"),)), *request.messages[3:]),
                    max_tokens=50, stream=request.stream)
    body = asked_by(front, plain)
    key = "input" if front == "responses" else "messages"
    turns = body[key]
    at = next(at for at, turn in enumerate(turns) if turn.get("content") == "HERE")
    given = whole["output"] if front == "responses" else [{"role": "assistant", "content": whole["content"]}] \
        if front == "messages" else [whole["choices"][0]["message"]]
    return {**body, key: turns[:at] + given + turns[at + 1:]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("server", TALKING)
@pytest.mark.parametrize("front", TALKING)
@pytest.mark.parametrize(("finish", "text"), [("stop", "yes"), ("length", "ye"), ("content_filter", "no"), ("stop", "")])
def test_finishes(front: Wire, server: Wire, stream: bool, finish: Any, text: str) -> None:
    request = Request("m", ASKED.messages, max_tokens=50, stream=stream)
    behind = Scripted([Started("m"), TextDelta(0, text), Finished(0, finish), USED])
    reply = answered(front, upstream(server, behind), request)
    assert reply.choices[0].finish == finish
    assert parts(reply) == ([Text(text)] if text else [])


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_string_that_ended_a_reply(stream: bool) -> None:
    request = Request("m", ASKED.messages, max_tokens=50, stop=("END",), stream=stream)
    behind = Scripted([Started("m"), TextDelta(0, "x"), Finished(0, "stop", "END"), USED])
    assert answered("messages", upstream("messages", behind), request).choices[0].stop == "END"


FORCED = [("auto", True), ("none", True), ("required", True), (NamedTool("time"), True), ("auto", False), ("required", False),
          (NamedTool("time"), False)]


@pytest.mark.parametrize(("choice", "parallel"), FORCED)
@pytest.mark.parametrize("server", TALKING)
@pytest.mark.parametrize("front", TALKING)
def test_what_is_asked_arrives(front: Wire, server: Wire, choice: Any, parallel: bool) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "default": None}}, "required": ["city"]}
    question = Message("user", (Text("Look:"), Image("https://images/1.png"), Text("What is it?")))
    request = Request(
        "m", (question,), max_tokens=50, temperature=0.5, top_p=0.9,
        tools=(Tool("weather", "of a city", schema, True), Tool("time")), tool_choice=choice, parallel_tools=parallel,
        format=JSONFormat(schema), effort="medium", user="u1", stream=False)
    behind = Scripted([Started("m"), TextDelta(0, "{}"), Finished(0, "stop"), USED])
    answered(front, upstream(server, behind), request)
    assert behind.requests == [request]


@pytest.mark.parametrize("stream", [False, True])
def test_chat_with_choices_and_log_probabilities(stream: bool) -> None:
    request = Request("m", ASKED.messages, n=2, logprobs=2, seed=3, stop=("a", "b"), top_k=5, min_p=0.1, repetition_penalty=1.1,
                      presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={7: -100.0, 9: 2.5}, stream=stream)
    scores = (TokenScore("He", -0.1, None, (("He", -0.1, None), ("Ho", -2.5, None))), TokenScore("�", -3.25, None, (), b"\xf0\x9f"))
    script = [Started("m"), TextDelta(1, "one", scores), TextDelta(0, "He", scores[:1]), Finished(1, "length"),
              TextDelta(0, "y"), Finished(0, "stop"), USED]
    behind = Scripted(script)
    reply = answered("chat", upstream("chat", behind), request)
    assert behind.requests == [request]
    assert reply.choices[0].scores == list(scores[:1]) and reply.choices[1].scores == list(scores)
    assert [(choice.parts, choice.finish) for _, choice in sorted(reply.choices.items())] == [
        ([Text("Hey")], "stop"), ([Text("one")], "length")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("server", ["chat", "responses"])
@pytest.mark.parametrize("front", ["chat", "responses"])
def test_log_probabilities(front: Wire, server: Wire, stream: bool) -> None:
    request = Request("m", ASKED.messages, logprobs=1, stream=stream)
    scores = (TokenScore("He", -0.1, None, (("Ho", -0.05, None),)), TokenScore("y", -9999.0, None, (("y", -9999.0, None),)))
    behind = Scripted([Started("m"), TextDelta(0, "He", scores[:1]), TextDelta(0, "y", scores[1:]), Finished(0, "stop"), USED])
    reply = answered(front, upstream(server, behind), request)
    assert behind.requests == [request]
    assert reply.choices[0].scores == list(scores)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["Once upon", (5, 6)])
def test_completions(prompt: Any, stream: bool) -> None:
    request = Request("m", prompt=prompt, n=2, logprobs=2, max_tokens=9, seed=0, temperature=0.0, stop=("x",), stream=stream)
    scores = (TokenScore(" a", -0.5, None, ((" a", -0.5, None), (" the", -0.75, None))),)
    behind = Scripted([Started("m"), TextDelta(1, " b"), TextDelta(0, " a", scores), Finished(0, "stop"), Finished(1, "length"),
                       USED])
    reply = answered("completions", upstream("completions", behind), request)
    assert behind.requests == [request]
    assert {index: (choice.parts, choice.scores, choice.finish) for index, choice in reply.choices.items()} == {
        0: ([Text(" a")], list(scores), "stop"), 1: ([Text(" b")], [], "length")}


@pytest.mark.parametrize("prompt", ["ab", (5, 6)])
def test_echo(prompt: Any) -> None:
    """The prompt and what follows come apart again, though the format writes them as one."""
    request = Request("m", prompt=prompt, logprobs=1, echo=True, max_tokens=1)
    told = (TokenScore("a", None), TokenScore("b", -1.5, None, (("b", -1.5, None), ("x", -0.5, None))))
    more = (TokenScore("c", -0.25, None, (("c", -0.25, None),)),)
    behind = Scripted([Started("m"), PromptScores(0, told, "ab"), TextDelta(0, "c", more), Finished(0, "length"), USED])
    choice = folded(run(listed(upstream("completions", behind).stream(request)))).choices[0]
    assert choice.prompt == PromptScores(0, told, "ab")
    assert (choice.parts, choice.scores) == ([Text("c")], list(more))


# What a pair cannot express


NOT_IN = {
    "chat": {"prompt": "x", "thinking_tokens": 100},
    "completions": {"messages": ASKED.messages},
    "responses": {"prompt": "x", "n": 2, "seed": 1, "stop": ("x",), "top_k": 4, "min_p": 0.1, "presence_penalty": 0.5,
                  "frequency_penalty": 0.5, "repetition_penalty": 1.2, "logit_bias": {1: 2.0}, "thinking_tokens": 100},
    "messages": {"prompt": (1, 2), "n": 2, "logprobs": 0, "seed": 1, "min_p": 0.1, "presence_penalty": 0.5,
                 "frequency_penalty": 0.5, "repetition_penalty": 1.2, "logit_bias": {1: 2.0}, "temperature": 1.5,
                 "effort": "minimal", "format": JSONFormat()},
}


@pytest.mark.parametrize(("wire", "field"), [(wire, field) for wire, fields in NOT_IN.items() for field in fields])
def test_what_a_format_cannot_express(wire: Wire, field: str) -> None:
    settings: dict[str, Any] = {"messages": ASKED.messages, "max_tokens": 500, field: NOT_IN[wire][field]}
    if field == "prompt":
        del settings["messages"]
    behind = Scripted([])
    with pytest.raises(GatewayError) as error:
        run(listed(upstream(wire, behind).stream(Request("m", **settings))))
    assert (error.value.status, error.value.kind) == (400, "invalid")
    assert "reached by" in error.value.message and error.value.param
    assert behind.requests == []


@pytest.mark.parametrize(("wire", "messages"), [
    ("messages", (Message("user", (Text("x"),), "Ada"),)),
    ("responses", (Message("user", (Text("x"),), "Ada"),)),
    ("messages", (Message("user", (Text("x"),)), Message("assistant", (Text("y"),)))),
    ("messages", (Message("user", (Image("https://x/y.png", "high"),)),)),
    ("messages", (Message("system", (Text("x"),)),)),
    ("messages", (Message("user", (Text("x"),)), Message("assistant", (ToolCall("c", "f", "[1]"),)))),
    ("chat", (Message("tool", (ToolResult("c", (Image("https://x/y.png"),)),)),)),
])
def test_messages_that_a_format_cannot_express(wire: Wire, messages: Any) -> None:
    with pytest.raises(GatewayError) as error:
        through(wire, [], Request("m", messages))
    assert error.value.status == 400


def test_going_on_from_an_assistants_words() -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "It is"}]
    request = FRONTS["messages"].read({"model": "m", "max_tokens": 9, "messages": turns}).request
    assert request.prefill
    assert DIALECTS["messages"].body(request)["messages"][-1] == {"role": "assistant", "content": "It is"}
    for wire in ("chat", "responses"):
        with pytest.raises(GatewayError, match="prefill"):
            DIALECTS[wire].body(request)


# Errors


ERRORS = [GatewayError(400, "invalid", "too long", "messages", "context_length_exceeded"),
          GatewayError(404, "not_found", "no such"), GatewayError(413, "too_large", "too large"),
          GatewayError(429, "rate_limit", "slowly", retry_after=7.0),
          GatewayError(503, "overloaded", "loading"), GatewayError(504, "timeout", "too late"),
          GatewayError(502, "upstream", "broken")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.kind)
@pytest.mark.parametrize("server", WIRES)
def test_an_error_before_the_reply(server: Wire, error: GatewayError, stream: bool) -> None:
    request = Request("m", prompt="x", stream=stream) if server == "completions" else Request("m", ASKED.messages, stream=stream)
    with pytest.raises(GatewayError) as found:
        through(server, [error], request)
    assert (found.value.status, found.value.kind, found.value.message) == (error.status, error.kind, error.message)
    assert found.value.retry_after == error.retry_after


@pytest.mark.parametrize("error", ERRORS[-4:], ids=lambda error: error.kind)
@pytest.mark.parametrize("server", WIRES)
@pytest.mark.parametrize("front", WIRES)
def test_an_error_in_the_midst(front: Wire, server: Wire, error: GatewayError) -> None:
    """Nothing is lost of what came before, and the end cannot be mistaken for a good one."""
    if (front == "completions") != (server == "completions"):
        return  # a prompt and messages: refused, as tested above
    request = Request("m", prompt="x") if server == "completions" else ASKED
    events: list[Event] = []

    async def ask() -> None:
        async for event in upstream(server, upstream(front, Scripted([Started("m"), TextDelta(0, "Well"), error]))).stream(request):
            events.append(event)

    with pytest.raises(GatewayError) as found:
        run(ask())
    assert parts(folded(events)) == [Text("Well")]
    assert (found.value.kind, found.value.message) == (error.kind, error.message)


def test_nothing_secret_in_errors_and_names() -> None:
    def script(request: Request) -> Any:
        yield GatewayError(400, "invalid", "your key is key")

    with pytest.raises(GatewayError) as error:
        through("chat", script)
    assert error.value.message == "your … is …"
    assert "key" not in repr(upstream("chat", Scripted([])))


def test_count() -> None:
    behind = Scripted([])
    server = upstream("messages", behind)
    request = Request("m", (Message("system", (Text("x"),)), *ASKED.messages), tools=(Tool("f"),))
    assert run(server.count(request)) == 42
    assert behind.requests == [request]
    assert 300 <= run(upstream("chat", behind).count(Request("m", (Message("user", (Text("word " * 300),)),)))) <= 600
    assert run(upstream("completions", behind).count(Request("m", prompt=(1, 2, 3)))) == 3


def test_a_thought_of_another_model_stays_here() -> None:
    """It can be sent to no other: both refuse what they have not signed."""
    history = (*ASKED.messages, Message("assistant", (Reasoning("hm", "c2ln"), Text("a"))), *ASKED.messages)
    assert [item["type"] for item in DIALECTS["responses"].body(Request("m", history))["input"]] == ["message"] * 3
    history = (*ASKED.messages, Message("assistant", (Reasoning("hm", "rs_1:x"), Reasoning("ho"), Text("a"))), *ASKED.messages)
    assert DIALECTS["messages"].body(Request("m", history))["messages"][1]["content"] == "a"


def test_sent_in_pieces_or_whole_it_is_the_same_stream() -> None:
    for wire in TALKING:
        asked = FRONTS[wire].read(asked_by(wire, ASKED))
        writer = FRONTS[wire].writer(asked)
        data = b"".join(writer.write(event) for event in spoken(SIGNED[wire]))
        parser = DIALECTS[wire].parser(ASKED)
        found = [event for one in sse.Reader().feed(data) for event in parser.feed(one)]
        assert parts(folded(found)) == parts(folded(spoken(SIGNED[wire])))
        assert len(sent(data)) > 8


def test_a_thought_of_a_stream_keeps_the_id_that_comes_at_its_end() -> None:
    """The item has been announced under another id by then, and OpenAI takes the encrypted content with its own id only."""
    front = FRONTS["responses"]
    writer = front.writer(front.read({"model": "m", "input": "Hi", "stream": True}))
    events = [Started("m"), ReasoningDelta(0, "hm"), ReasoningDelta(0, "", "rs_1:c2ln"), TextDelta(0, "a"), Finished(0, "stop"),
              USED]
    told = sent(b"".join(writer.write(event) for event in events))
    ids = [[one["item"]["id"] for one in told if one["type"] == f"response.output_item.{kind}"] for kind in ("added", "done")]
    assert ids[0] == ids[1]
    output = told[-1]["response"]["output"]
    turns = [{"role": "user", "content": "Hi"}, *output, {"role": "user", "content": "?"}]
    request = front.read({"model": "m", "input": turns}).request
    assert request.messages[1].parts == (Reasoning("hm", "rs_1:c2ln"), Text("a"))
    assert DIALECTS["responses"].body(request)["input"][1] == {
        "type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "c2ln"}


def test_results_and_what_follows_are_one_turn_to_anthropic() -> None:
    request = Request("m", (Message("user", (Text("x"),)), Message("assistant", (ToolCall("c", "f", "{}"),)),
                            Message("tool", (ToolResult("c", (Text("r"),)),)), Message("user", (Text("and?"),))))
    turns = DIALECTS["messages"].body(request)["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert [block["type"] for block in turns[2]["content"]] == ["tool_result", "text"]


def test_liberties_that_servers_take_with_chat() -> None:
    """Calls without index, id or arguments, "stop" after a forced call, neither usage nor [DONE]."""
    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return sse.dumps({"choices": [{"delta": delta, "finish_reason": finish}]})

    parser = DIALECTS["chat"].parser(ASKED)
    pieces = [{"tool_calls": [{"function": {"name": "f"}}]}, {"tool_calls": [{"function": {"name": "g", "arguments": '{"a":'}}]},
              {"tool_calls": [{"function": {"arguments": "1}"}}]}]
    events = [event for delta in pieces for event in parser.feed(chunk(delta))] + parser.feed(chunk({}, "stop")) + parser.end()
    first, second = parts(folded(events))
    assert (first.name, first.arguments, second.name, second.arguments) == ("f", "{}", "g", '{"a":1}')
    assert first.id != second.id and first.id.startswith("call_")
    assert events[-2:] == [Finished(0, "tool_calls"), Used(Usage())]
    message = {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": ""}}]}
    whole = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert DIALECTS["chat"].events(whole, ASKED)[1:3] == [ToolDelta(0, 0, "{}", "c", "f"), Finished(0, "tool_calls")]
