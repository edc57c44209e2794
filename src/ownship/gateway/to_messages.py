"""Anthropic's messages as an upstream speaks them.

Thoughts go back only with the signature that this upstream gave them: it refuses others, and documents that earlier thoughts may be
left out. So those of other models, which carry none or another one, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ownship.gateway import failure, sse
from ownship.gateway.codec import cannot, cannot_names, count, mapping, string
from ownship.gateway.types import (
    Event,
    Finish,
    Finished,
    Image,
    Message,
    NamedTool,
    Part,
    ReasoningDelta,
    Request,
    Started,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    ToolResult,
    Usage,
    Used,
    invalid,
)

PATH = "/messages"
COUNT_PATH = f"{PATH}/count_tokens"
HEADERS = {"anthropic-version": "2023-06-01"}
REASONS: dict[Finish, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}

_FORMAT = "Anthropic messages"
_CANNOT = ("prompt", "echo", "n", "logprobs", "seed", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
           "logit_bias")
_FINISHES: dict[str, Finish] = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
                                "refusal": "content_filter", "model_context_window_exceeded": "length"}
_MAX_TOKENS = 8192  # where the client names no bound, and this format insists on one; what most of its models can give


# What is sent


def body(request: Request) -> dict[str, Any]:
    body = counted(request)
    if request.temperature is not None and request.temperature > 1:
        raise invalid(f"temperature: the model behind this name is reached by {_FORMAT}, where it is at most 1", "temperature")
    thinking = request.thinking_tokens or 0
    body["max_tokens"] = request.max_tokens if request.max_tokens is not None else _MAX_TOKENS + thinking
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p), ("top_k", request.top_k)):
        if value is not None:
            body[name] = value
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.user is not None:
        body["metadata"] = {"user_id": request.user}
    if request.stream:
        body["stream"] = True
    return body


def counted(request: Request) -> dict[str, Any]:
    """The body of /v1/messages/count_tokens: all that the prompt consists of."""
    cannot(request, _FORMAT, _CANNOT)
    cannot_names(request.messages, _FORMAT)
    if not request.prefill and request.messages[-1].role == "assistant":
        raise invalid(f"messages: the model behind this name is reached by {_FORMAT}, where a reply to an assistant's message would"
                      " go on from its end", "messages")
    body: dict[str, Any] = {"model": request.model}
    messages = list(request.messages)
    system: list[dict[str, Any]] = []
    while messages and messages[0].role == "system":
        system += _blocks(messages.pop(0).parts)
    if system:
        body["system"] = system[0]["text"] if len(system) == 1 else system
    body["messages"] = _turns(messages)
    if not body["messages"]:
        raise invalid(f"messages: the model behind this name is reached by {_FORMAT}, which needs a user's message", "messages")
    if request.tools:
        body |= _tools(request)
    config: dict[str, Any] = {}
    if request.format is not None:
        if request.format.schema is None:
            raise invalid(f"response_format: the model behind this name is reached by {_FORMAT}, which needs a schema for JSON",
                          "response_format")
        config["format"] = {"type": "json_schema", "schema": request.format.schema}
    display = {"display": "summarized"} if request.summary else {}
    if request.effort == "none":
        body["thinking"] = {"type": "disabled"}
    elif request.effort == "minimal":
        raise invalid(f"reasoning_effort: the model behind this name is reached by {_FORMAT}, which knows none, low, medium, high,"
                      " xhigh and max", "reasoning_effort")
    elif request.effort is not None:
        config["effort"] = request.effort
        body["thinking"] = {"type": "adaptive", **display}
    if request.thinking_tokens is not None:
        body["thinking"] = {"type": "enabled", "budget_tokens": request.thinking_tokens, **display}
    if config:
        body["output_config"] = config
    return body


def _tools(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {"tools": [
        {"name": tool.name, "input_schema": tool.schema, **({"description": tool.description} if tool.description else {}),
         **({"strict": True} if tool.strict else {})} for tool in request.tools]}
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        body["tool_choice"] = {"type": "tool", "name": choice.name}
    elif choice != "auto" or not request.parallel_tools:
        body["tool_choice"] = {"type": "any" if choice == "required" else choice}
    if not request.parallel_tools and choice != "none":
        body["tool_choice"]["disable_parallel_tool_use"] = True
    return body


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Results of tools, and what a user says after them, have to be one turn."""
    turns: list[dict[str, Any]] = []
    before: str | None = None
    for message in messages:
        content = _blocks(message.parts)
        if not content and message.role == "assistant" and message.parts:
            continue  # nothing but thoughts of another model
        if message.role == "user" and before == "tool":
            turns[-1]["content"] += content
        else:
            plain = len(content) == 1 and content[0]["type"] == "text"
            turns.append({"role": "user" if message.role == "tool" else message.role,
                          "content": content[0]["text"] if plain else content})
        before = message.role
    return turns


def _blocks(parts: Iterable[Part]) -> list[dict[str, Any]]:
    return [block for part in parts if (block := _block(part)) is not None]


def _block(part: Part) -> dict[str, Any] | None:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "image", "source": _source(part)}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part)}
    if isinstance(part, ToolResult):
        return {"type": "tool_result", "tool_use_id": part.call, "content": _blocks(part.content),
                **({"is_error": True} if part.failed else {})}
    if part.redacted is not None:
        return {"type": "redacted_thinking", "data": part.redacted}
    if part.signature is None or part.signature.startswith("rs_"):
        return None
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _source(image: Image) -> dict[str, Any]:
    if image.detail is not None:
        raise invalid(f"image_url.detail: the model behind this name is reached by {_FORMAT}, which cannot express it", "messages")
    if not image.url.startswith("data:"):
        return {"type": "url", "url": image.url}
    head, _, data = image.url.removeprefix("data:").partition(",")
    media_type, _, coding = head.partition(";")
    if coding != "base64":
        raise invalid("messages: an image in a data: URL has to be base64", "messages")
    return {"type": "base64", "media_type": media_type, "data": data}


def _input(call: ToolCall) -> dict[str, Any]:
    try:
        found = sse.loads(call.arguments or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise invalid(f"messages: the arguments of the call {call.id!r} are no JSON object, as {_FORMAT} needs it", "messages")
    return found


# What it replies


def events(reply: Any, request: Request) -> list[Event]:
    reply = mapping(reply)
    if reply.get("type") == "error":
        raise failure.in_stream(reply)
    found: list[Event] = [Started(string(reply.get("model")) or request.model)]
    calls = 0
    for block in reply["content"]:
        kind = block["type"]
        if kind == "text":
            found.append(TextDelta(0, string(block["text"])))
        elif kind == "tool_use":
            arguments = sse.dumps(mapping(block["input"])).decode()
            found.append(ToolDelta(0, calls, arguments, string(block["id"]), string(block["name"])))
            calls += 1
        elif kind == "thinking":
            found.append(ReasoningDelta(0, string(block["thinking"]), string(block.get("signature")) or None))
        elif kind == "redacted_thinking":
            found.append(ReasoningDelta(0, "", None, string(block["data"])))
        else:
            raise failure.garbled(f"a block of type {str(kind)[:40]!r}, which was not asked for")
    return [*found, _finished(reply), Used(_usage(mapping(reply.get("usage"))))]


def _finished(told: dict[str, Any]) -> Finished:
    finish = _FINISHES.get(string(told["stop_reason"]))
    if finish is None:
        raise failure.garbled(f"stop_reason {str(told['stop_reason'])[:40]!r}")
    return Finished(0, finish, string(told.get("stop_sequence")) or None)


def _usage(usage: dict[str, Any]) -> Usage:
    """Anthropic counts the tokens of a cache apart from the others."""
    cached, written = count(usage.get("cache_read_input_tokens")), count(usage.get("cache_creation_input_tokens"))
    return Usage(count(usage.get("input_tokens")) + cached + written, count(usage.get("output_tokens")), cached,
                 count(mapping(usage.get("output_tokens_details")).get("thinking_tokens")), written)


class MessagesParser:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.calls: dict[int, int] = {}  # the index of a block → our number of the call
        self.bare: set[int] = set()  # calls without arguments so far
        self.usage: dict[str, Any] = {}  # the last event tells what has changed since the first
        self.finished: Finished | None = None

    def feed(self, data: bytes) -> list[Event]:
        event = mapping(sse.loads(data))
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._delta(event["index"], event["delta"])
        if kind == "content_block_start":
            return self._start(event["index"], event["content_block"])
        if kind == "content_block_stop" and event["index"] in self.bare:
            return [ToolDelta(0, self.calls[event["index"]], "{}")]
        if kind == "message_start":
            message = event["message"]
            self.usage |= mapping(message.get("usage"))
            return [Started(string(message.get("model")) or self.request.model, _usage(self.usage).prompt)]
        if kind == "message_delta":
            self.usage |= {name: value for name, value in mapping(event.get("usage")).items() if value is not None}
            if mapping(event["delta"]).get("stop_reason") and self.finished is None:
                self.finished = _finished(event["delta"])
                return [self.finished]
        elif kind == "message_stop":
            if self.finished is None:
                raise failure.garbled("no stop_reason")
            return [Used(_usage(self.usage))]
        elif kind == "error":
            raise failure.in_stream(event)
        return []

    def _delta(self, index: int, delta: dict[str, Any]) -> list[Event]:
        kind = delta["type"]
        if kind == "text_delta":
            return [TextDelta(0, string(delta["text"]))]
        if kind == "input_json_delta":
            if not delta["partial_json"]:
                return []
            self.bare.discard(index)
            return [ToolDelta(0, self.calls[index], string(delta["partial_json"]))]
        if kind == "thinking_delta":
            return [ReasoningDelta(0, string(delta["thinking"]))]
        if kind == "signature_delta":
            return [ReasoningDelta(0, "", string(delta["signature"]) or None)]
        raise failure.garbled(f"a delta of type {str(kind)[:40]!r}, which was not asked for")

    def _start(self, index: int, block: dict[str, Any]) -> list[Event]:
        kind = block["type"]
        if kind == "tool_use":
            self.calls[index] = len(self.calls)
            self.bare.add(index)
            return [ToolDelta(0, self.calls[index], "", string(block["id"]), string(block["name"]))]
        if kind == "redacted_thinking":
            return [ReasoningDelta(0, "", None, string(block["data"]))]
        if kind == "text":
            return [TextDelta(0, string(block["text"]))] if block.get("text") else []
        if kind == "thinking":
            return [ReasoningDelta(0, string(block["thinking"]))] if block.get("thinking") else []
        raise failure.garbled(f"a block of type {str(kind)[:40]!r}, which was not asked for")

    def end(self) -> list[Event]:
        raise failure.broken_off()


def parser(request: Request) -> MessagesParser:
    return MessagesParser(request)
