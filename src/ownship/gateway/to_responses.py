"""OpenAI's responses as an upstream speaks them. Nothing is left with the upstream: each request holds the whole conversation.

A reasoning item's id and its `encrypted_content` belong together, and the upstream refuses one without the other. Both are kept in
the signature of the thought ("rs_…:…"), and both go back. Thoughts that another upstream signed, or nobody, cannot go back and are
left out, as the documentation allows: a model answers without its earlier thoughts, only it may think them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ownship.gateway import failure, scores, sse
from ownship.gateway.codec import cannot, cannot_names, count, mapping, new_id, string
from ownship.gateway.types import (
    Event,
    Finish,
    Finished,
    Image,
    Message,
    Part,
    Reasoning,
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
)

PATH = "/responses"

_FORMAT = "OpenAI responses"
_CANNOT = ("prompt", "echo", "n", "seed", "stop", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
           "logit_bias", "thinking_tokens", "prefill")
_INCOMPLETE: dict[str, Finish] = {"max_output_tokens": "length", "content_filter": "content_filter"}


def thought(id: str, text: str, encrypted: str | None) -> Reasoning:
    """A reasoning item, of an upstream or from a client that hands it back (the module responses tells of the ids)."""
    if id.startswith("hidden_"):
        return Reasoning(text, None, encrypted)
    if id.startswith("thought_"):
        return Reasoning(text, encrypted)
    return Reasoning(text, f"{id}:{encrypted or ''}")


# What is sent


def body(request: Request) -> dict[str, Any]:
    cannot(request, _FORMAT, _CANNOT)
    cannot_names(request.messages, _FORMAT)
    body: dict[str, Any] = {"model": request.model, "input": [item for message in request.messages for item in _items(message)],
                            "store": False}
    for name, value in (("max_output_tokens", request.max_tokens), ("temperature", request.temperature), ("top_p", request.top_p),
                        ("top_logprobs", request.logprobs), ("user", request.user)):
        if value is not None:
            body[name] = value
    thinks = request.effort not in (None, "none") or any(item["type"] == "reasoning" for item in body["input"])
    include = ["message.output_text.logprobs"] if request.logprobs is not None else []
    include += ["reasoning.encrypted_content"] if thinks else []  # a model that does not think refuses this
    if include:
        body["include"] = include
    if request.effort is not None or request.summary is not None:
        body["reasoning"] = {name: value for name, value in (("effort", request.effort), ("summary", request.summary)) if value}
    if request.format is not None:
        body["text"] = {"format": {"type": "json_object"} if request.format.schema is None else {
            "type": "json_schema", "name": request.format.name, "schema": request.format.schema, "strict": request.format.strict}}
    if request.tools:
        body["tools"] = [{"type": "function", "name": tool.name, "parameters": tool.schema, "strict": tool.strict,
                          **({"description": tool.description} if tool.description else {})} for tool in request.tools]
        choice = request.tool_choice
        if choice != "auto":
            body["tool_choice"] = choice if isinstance(choice, str) else {"type": "function", "name": choice.name}
        if not request.parallel_tools:
            body["parallel_tool_calls"] = False
    if request.stream:
        body["stream"] = True
    return body


def _items(message: Message) -> Iterable[dict[str, Any]]:
    plain: list[Text | Image] = []  # neighbours make one item
    for part in message.parts:
        if isinstance(part, Text | Image):
            plain.append(part)
            continue
        item = _item(part)
        if item is not None:
            if plain:
                yield _message(message, plain)
                plain = []
            yield item
    if plain or not message.parts:
        yield _message(message, plain)


def _message(message: Message, parts: list[Text | Image]) -> dict[str, Any]:
    kind = "output_text" if message.role == "assistant" else "input_text"
    return {"type": "message", "role": message.role, "content": _content(parts, kind)}


def _content(parts: Iterable[Text | Image], kind: str) -> str | list[dict[str, Any]]:
    found = [{"type": kind, "text": part.text} if isinstance(part, Text) else
             {"type": "input_image", "image_url": part.url, "detail": part.detail or "auto"} for part in parts]
    return found[0]["text"] if len(found) == 1 and "text" in found[0] else found or ""


def _item(part: Part) -> dict[str, Any] | None:
    if isinstance(part, ToolCall):
        return {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments}
    if isinstance(part, ToolResult):
        content = (Text("Error:"), *part.content) if part.failed else part.content  # the format has no flag for it
        return {"type": "function_call_output", "call_id": part.call, "output": _content(content, "input_text")}
    assert isinstance(part, Reasoning)
    id, _, encrypted = (part.signature or "").partition(":")
    if not id.startswith("rs_"):
        return None
    if encrypted:
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        return {"type": "reasoning", "id": id, "summary": summary, "encrypted_content": encrypted}
    told = [{"type": "reasoning_text", "text": part.text}] if part.text else []
    return {"type": "reasoning", "id": id, "summary": [], "content": told}


# What it replies


def events(reply: Any, request: Request) -> list[Event]:
    reply = mapping(reply)
    if reply.get("error") or reply.get("status") in ("failed", "cancelled"):
        raise failure.in_stream(reply)
    found: list[Event] = [Started(string(reply.get("model")) or request.model)]
    calls, refused = 0, False
    for item in reply["output"]:
        if item["type"] == "message":
            for part in item["content"]:
                refused |= part["type"] == "refusal"
                text = string(part["refusal"] if part["type"] == "refusal" else part["text"])
                logprobs = scores.read(part.get("logprobs"))
                if text or logprobs:
                    found.append(TextDelta(0, text, logprobs))
        elif item["type"] == "function_call":
            found.append(ToolDelta(0, calls, string(item["arguments"]) or "{}", string(item["call_id"]), string(item["name"])))
            calls += 1
        elif item["type"] == "reasoning":
            one = _read_thought(item)
            found.append(ReasoningDelta(0, one.text, one.signature, one.redacted))
        else:
            raise failure.garbled(f"an item of type {str(item['type'])[:40]!r}, which was not asked for")
    found.append(Finished(0, _finish(reply, calls, refused)))
    found.append(Used(_usage(reply.get("usage"))))
    return found


def _read_thought(item: dict[str, Any]) -> Reasoning:
    text = "\n\n".join(string(part["text"]) for part in item.get("content") or item.get("summary") or ())
    return thought(string(item.get("id")) or new_id("rs_"), text, item.get("encrypted_content"))


def _finish(response: dict[str, Any], calls: int, refused: bool) -> Finish:
    status = response.get("status")
    if status == "incomplete":
        reason = mapping(response.get("incomplete_details")).get("reason")
        if reason not in _INCOMPLETE:
            raise failure.garbled(f"incomplete: {str(reason)[:40]!r}")
        return _INCOMPLETE[reason]
    if status != "completed":
        raise failure.garbled(f"status {str(status)[:40]!r}")
    return "tool_calls" if calls else "content_filter" if refused else "stop"


def _usage(usage: Any) -> Usage:
    usage = mapping(usage)
    prompt = mapping(usage.get("input_tokens_details"))
    return Usage(count(usage.get("input_tokens")), count(usage.get("output_tokens")), count(prompt.get("cached_tokens")),
                 count(mapping(usage.get("output_tokens_details")).get("reasoning_tokens")),
                 count(prompt.get("cache_write_tokens")))


class ResponsesParser:
    """What an item's deltas have told is not told again by its end; what they have not told is."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.calls: dict[int, int] = {}  # the upstream's output_index → our number
        self.bare: set[int] = set()  # calls without arguments so far
        self.thinking: tuple[int, str] | None = None  # the output_index of the thought under way, and which text of it is told
        self.refused = False

    def feed(self, data: bytes) -> list[Event]:
        if data == b"[DONE]":
            return []
        event = mapping(sse.loads(data))
        kind = string(event.get("type")).removeprefix("response.")
        if kind == "output_text.delta":
            return [TextDelta(0, string(event["delta"]), scores.read(event.get("logprobs")))]
        if kind in ("reasoning_text.delta", "reasoning_summary_text.delta"):
            return self._think(event, kind)
        if kind == "function_call_arguments.delta":
            self.bare.discard(event["output_index"])
            return [ToolDelta(0, self.calls[event["output_index"]], string(event["delta"]))]
        if kind == "reasoning_summary_part.added" and event.get("summary_index"):
            return [ReasoningDelta(0, "\n\n")]
        if kind == "refusal.delta":
            self.refused = True
            return [TextDelta(0, string(event["delta"]))]
        if kind == "output_item.added":
            return self._added(event["output_index"], event["item"])
        if kind == "output_item.done":
            return self._done(event["output_index"], event["item"])
        if kind == "created":
            return [Started(string(event["response"].get("model")) or self.request.model)]
        if kind in ("completed", "incomplete"):
            response = event["response"]
            return [Finished(0, _finish(response, len(self.calls), self.refused)), Used(_usage(response.get("usage")))]
        if kind in ("error", "failed", "cancelled"):
            raise failure.in_stream(event.get("response") or event)
        return []

    def _think(self, event: dict[str, Any], kind: str) -> list[Event]:
        """An item can have both its text and a summary; which comes first is told."""
        if self.thinking is None or self.thinking[0] != event["output_index"]:
            self.thinking = (event["output_index"], kind)
        return [ReasoningDelta(0, string(event["delta"]))] if self.thinking[1] == kind else []

    def _added(self, index: int, item: dict[str, Any]) -> list[Event]:
        if item["type"] == "function_call":
            self.calls[index] = len(self.calls)
            self.bare.add(index)
            return [ToolDelta(0, self.calls[index], "", string(item["call_id"]), string(item["name"]))]
        if item["type"] not in ("message", "reasoning"):
            raise failure.garbled(f"an item of type {str(item['type'])[:40]!r}, which was not asked for")
        return []

    def _done(self, index: int, item: dict[str, Any]) -> list[Event]:
        if item["type"] == "function_call" and index in self.bare:
            return [ToolDelta(0, self.calls[index], string(item.get("arguments")) or "{}")]
        if item["type"] == "reasoning":
            one = _read_thought(item)
            told = self.thinking is not None and self.thinking[0] == index
            return [ReasoningDelta(0, "" if told else one.text, one.signature, one.redacted)]
        return []

    def end(self) -> list[Event]:
        raise failure.broken_off()


def parser(request: Request) -> ResponsesParser:
    return ResponsesParser(request)
