"""Replies in Anthropic's messages format: whole, and as events, block after block."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ownship.gateway import failure, sse
from ownship.gateway.codec import Asked, new_id
from ownship.gateway.to_messages import REASONS
from ownship.gateway.types import (
    Event,
    Finished,
    GatewayError,
    Reasoning,
    ReasoningDelta,
    Started,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    Usage,
    Used,
)


def blocks(parts: Iterable[Text | Reasoning | ToolCall]) -> list[dict[str, Any]]:
    """Raises GatewayError if the model's arguments of a tool are not the JSON object that they have to be here."""
    found: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Text):
            found.append({"type": "text", "text": part.text, "citations": None})
        elif isinstance(part, ToolCall):
            found.append({"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part)})
        elif part.redacted is not None:
            found.append({"type": "redacted_thinking", "data": part.redacted})
        else:
            found.append({"type": "thinking", "thinking": part.text, "signature": part.signature or ""})
    return found


def _input(call: ToolCall) -> dict[str, Any]:
    try:
        found = sse.loads(call.arguments)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise GatewayError(502, "upstream", f"the model called the tool {call.name!r} with arguments that are no JSON object")
    return found


def usage(used: Usage) -> dict[str, Any]:
    """Anthropic counts the tokens of a cache apart from the others."""
    told: dict[str, Any] = {
        "input_tokens": max(0, used.prompt - used.cached - used.written), "cache_creation_input_tokens": used.written,
        "cache_read_input_tokens": used.cached, "output_tokens": used.completion}
    return told | ({"output_tokens_details": {"thinking_tokens": used.reasoning}} if used.reasoning else {})


class MessagesWriter:
    """Blocks come one after the other: what begins a new one ends the one before. How the reply ended waits for the tokens used,
    which stand in the same event."""

    def __init__(self, asked: Asked) -> None:
        self.model = asked.request.model
        self.index = 0
        self.kind: type[Text] | type[Reasoning] | type[ToolCall] | None = None  # of the block under way
        self.call = -1
        self.finished: Finished | None = None

    def write(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            if not event.text:
                return b""
            begun = b"" if self.kind is Text else self._begin(Text, {"type": "text", "text": "", "citations": None})
            return begun + self._delta({"type": "text_delta", "text": event.text})
        if isinstance(event, ToolDelta):
            begun = b""
            if event.call != self.call or self.kind is not ToolCall:
                if event.name is None:
                    raise GatewayError(502, "upstream", "the upstream went back to a tool call that it had ended")
                self.call = event.call
                begun = self._begin(ToolCall, {"type": "tool_use", "id": event.id, "name": event.name, "input": {}})
            return begun + (self._delta({"type": "input_json_delta", "partial_json": event.arguments}) if event.arguments else b"")
        if isinstance(event, ReasoningDelta):
            return self._think(event)
        if isinstance(event, Finished):
            self.finished = event
            return self._end()
        if isinstance(event, Started):
            message: dict[str, Any] = {
                "id": new_id("msg_"), "type": "message", "role": "assistant", "model": event.model, "content": [],
                "stop_reason": None, "stop_sequence": None, "usage": usage(Usage(event.prompt_tokens))}
            return sse.send_named({"type": "message_start", "message": message})
        if isinstance(event, Used):
            assert self.finished is not None
            stop = self.finished.stop
            delta = {"stop_reason": "stop_sequence" if stop is not None else REASONS[self.finished.reason], "stop_sequence": stop}
            return sse.send_named({"type": "message_delta", "delta": delta, "usage": usage(event.usage)}) + \
                sse.send_named({"type": "message_stop"})
        raise AssertionError(event)

    def _think(self, event: ReasoningDelta) -> bytes:
        if event.redacted is not None:
            return self._begin(Reasoning, {"type": "redacted_thinking", "data": event.redacted}) + self._end()
        if not event.text and event.signature is None:
            return b""
        sent = b"" if self.kind is Reasoning else self._begin(Reasoning, {"type": "thinking", "thinking": "", "signature": ""})
        if event.text:
            sent += self._delta({"type": "thinking_delta", "thinking": event.text})
        if event.signature is not None:
            sent += self._delta({"type": "signature_delta", "signature": event.signature}) + self._end()
        return sent

    def _begin(self, kind: type[Text] | type[Reasoning] | type[ToolCall], block: dict[str, Any]) -> bytes:
        sent = self._end()
        self.kind = kind
        return sent + sse.send_named({"type": "content_block_start", "index": self.index, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return sse.send_named({"type": "content_block_delta", "index": self.index, "delta": delta})

    def _end(self) -> bytes:
        """Ends the block under way, if there is one."""
        if self.kind is None:
            return b""
        self.kind = None
        self.index += 1
        return sse.send_named({"type": "content_block_stop", "index": self.index - 1})

    def fail(self, error: GatewayError) -> bytes:
        return sse.send_named(failure.anthropic_error(error))
