"""Replies in OpenAI's responses format: whole, and as the long sequence of events that its clients build one from."""

from __future__ import annotations

import time
from typing import Any

from ownship.gateway import failure, scores, sse
from ownship.gateway.codec import Asked, new_id
from ownship.gateway.reply import Reply
from ownship.gateway.types import (
    Event,
    Finish,
    Finished,
    GatewayError,
    NamedTool,
    Reasoning,
    ReasoningDelta,
    Started,
    Text,
    TextDelta,
    TokenScore,
    ToolCall,
    ToolDelta,
    Usage,
    Used,
)

_INCOMPLETE: dict[Finish, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def finished(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The body of a whole reply."""
    choice = reply.choices[0]
    parts, output = choice.parts, []
    last = max((at for at, part in enumerate(parts) if isinstance(part, Text)), default=-1)
    for at, part in enumerate(parts):
        if isinstance(part, Text):
            output.append(_message(new_id("msg_"), part.text, choice.scores if at == last else []))
        elif isinstance(part, ToolCall):
            output.append(_call(new_id("fc_"), part))
        else:
            output.append(_reasoning(part, asked.request.summary is not None))
    if choice.finish in _INCOMPLETE and output:
        output[-1]["status"] = "incomplete"
    return _ended(_response(asked, new_id("resp_"), reply.model), output, choice.finish, reply.usage)


def _response(asked: Asked, id: str, model: str) -> dict[str, Any]:
    """A response that has just begun. It repeats the settings that it was asked with."""
    request, body = asked.request, asked.body
    choice = request.tool_choice
    tools = [{"type": "function", "name": tool.name, "description": tool.description or None, "parameters": tool.schema,
              "strict": tool.strict} for tool in request.tools]
    return {"id": id, "object": "response", "created_at": asked.created, "status": "in_progress", "background": False,
            "error": None, "incomplete_details": None, "instructions": body.get("instructions"),
            "max_output_tokens": request.max_tokens, "metadata": body.get("metadata") or {}, "model": model, "output": [],
            "parallel_tool_calls": request.parallel_tools, "previous_response_id": None,
            "reasoning": {"effort": request.effort, "summary": request.summary}, "service_tier": "default", "store": False,
            "temperature": request.temperature, "text": {"format": _format(asked)},
            "tool_choice": {"type": "function", "name": choice.name} if isinstance(choice, NamedTool) else choice,
            "tools": tools, "top_logprobs": request.logprobs or 0, "top_p": request.top_p, "truncation": "disabled",
            "usage": None, "user": request.user}


def _format(asked: Asked) -> dict[str, Any]:
    format = asked.request.format
    if format is None:
        return {"type": "text"}
    if format.schema is None:
        return {"type": "json_object"}
    return {"type": "json_schema", "name": format.name, "schema": format.schema, "strict": format.strict}


def _ended(response: dict[str, Any], output: list[dict[str, Any]], finish: Finish, used: Usage) -> dict[str, Any]:
    response["output"] = output
    response["status"] = "incomplete" if finish in _INCOMPLETE else "completed"
    if finish in _INCOMPLETE:
        response["incomplete_details"] = {"reason": _INCOMPLETE[finish]}
    else:
        response["completed_at"] = int(time.time())
    response["usage"] = {
        "input_tokens": used.prompt, "input_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": used.written},
        "output_tokens": used.completion, "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.prompt + used.completion}
    return response


def _message(id: str, text: str, scored: list[TokenScore]) -> dict[str, Any]:
    return {"type": "message", "id": id, "status": "completed", "role": "assistant", "content": [_text(text, scored)]}


def _text(text: str, scored: list[TokenScore]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": scores.told(scored)}


def _call(id: str, call: ToolCall) -> dict[str, Any]:
    return {"type": "function_call", "id": id, "status": "completed", "call_id": call.id, "name": call.name,
            "arguments": call.arguments}


def _reasoning(thought: Reasoning, summarised: bool, id: str | None = None) -> dict[str, Any]:
    """See the module responses for the ids."""
    encrypted = thought.redacted or thought.signature
    own, _, rest = (thought.signature or "").partition(":")
    if own.startswith("rs_") and id in (None, own):
        id, encrypted = own, rest or None
    elif id is None:
        id = new_id("hidden_" if thought.redacted is not None else "thought_")
    item: dict[str, Any] = {"type": "reasoning", "id": id, "status": "completed", "encrypted_content": encrypted,
                            "summary": [], "content": []}
    if thought.text and summarised:
        item["summary"] = [{"type": "summary_text", "text": thought.text}]
    elif thought.text:
        item["content"] = [{"type": "reasoning_text", "text": thought.text}]
    return item


class ResponsesWriter:
    """Items come one after the other: what begins a new one ends the one before."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.response = _response(asked, new_id("resp_"), asked.request.model)
        self.summarised = asked.request.summary is not None
        self.sequence = 0
        self.output: list[dict[str, Any]] = []
        self.kind: type[Text] | type[Reasoning] | type[ToolCall] | None = None  # of the item under way, with its id and texts:
        self.id = ""
        self.texts: list[str] = []
        self.scores: list[TokenScore] = []
        self.call = ToolCall("", "", "")
        self.number = -1  # of the call under way
        self.signature: str | None = None
        self.redacted: str | None = None
        self.finish: Finish = "stop"

    def _send(self, type: str, **more: Any) -> bytes:
        event = {"type": f"response.{type}", "sequence_number": self.sequence, **more}
        self.sequence += 1
        return sse.send_named(event)

    def _in_item(self, type: str, **more: Any) -> bytes:
        return self._send(type, item_id=self.id, output_index=len(self.output), **more)

    def write(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            if not event.text and not event.scores:
                return b""
            begun = b"" if self.kind is Text else self._begin(Text, new_id("msg_"))
            self.texts.append(event.text)
            self.scores += event.scores
            return begun + self._in_item("output_text.delta", content_index=0, delta=event.text,
                                         logprobs=scores.told(event.scores))
        if isinstance(event, ToolDelta):
            begun = b""
            if event.call != self.number or self.kind is not ToolCall:
                begun = self._begin_call(event)
            self.texts.append(event.arguments)
            return begun + (self._in_item("function_call_arguments.delta", delta=event.arguments) if event.arguments else b"")
        if isinstance(event, ReasoningDelta):
            return self._think(event)
        if isinstance(event, Finished):
            self.finish = event.reason
            return self._end()
        if isinstance(event, Started):
            self.response["model"] = event.model
            return self._send("created", response=self.response) + self._send("in_progress", response=self.response)
        if isinstance(event, Used):
            _ended(self.response, self.output, self.finish, event.usage)
            return self._send(self.response["status"], response=self.response)
        raise AssertionError(event)

    def _begin_call(self, event: ToolDelta) -> bytes:
        if event.name is None:
            raise GatewayError(502, "upstream", "the upstream went back to a tool call that it had ended")
        sent = self._end()
        self.call, self.number = ToolCall(event.id or "", event.name, ""), event.call
        self.kind, self.id = ToolCall, new_id("fc_")
        item = _call(self.id, self.call) | {"status": "in_progress"}
        return sent + self._send("output_item.added", output_index=len(self.output), item=item)

    def _think(self, event: ReasoningDelta) -> bytes:
        if not (event.text or event.signature or event.redacted):
            return b""
        sent = b""
        if self.kind is not Reasoning or event.redacted is not None:
            own = (event.signature or "").partition(":")[0]
            prefix = "hidden_" if event.redacted is not None else "thought_"
            sent = self._begin(Reasoning, own if own.startswith("rs_") else new_id(prefix), bool(event.text))
        if event.text:
            self.texts.append(event.text)
            sent += self._in_item("reasoning_summary_text.delta", summary_index=0, delta=event.text) if self.summarised else \
                self._in_item("reasoning_text.delta", content_index=0, delta=event.text)
        self.signature, self.redacted = event.signature, event.redacted
        return sent if event.signature is None and event.redacted is None else sent + self._end()

    def _begin(self, kind: type[Text] | type[Reasoning], id: str, thought: bool = True) -> bytes:
        sent = self._end()
        self.kind, self.id = kind, id
        item = {"type": "message", "id": id, "status": "in_progress", "role": "assistant", "content": []} if kind is Text else \
            _reasoning(Reasoning(""), False, id) | {"status": "in_progress"}
        sent += self._send("output_item.added", output_index=len(self.output), item=item)
        if kind is Text:
            return sent + self._in_item("content_part.added", content_index=0, part=_text("", []))
        if not thought:
            return sent
        return sent + (self._in_item("reasoning_summary_part.added", summary_index=0, part={"type": "summary_text", "text": ""})
                       if self.summarised else
                       self._in_item("content_part.added", content_index=0, part={"type": "reasoning_text", "text": ""}))

    def _end(self) -> bytes:
        """Ends the item under way, if there is one."""
        if self.kind is None:
            return b""
        text, sent = "".join(self.texts), b""
        if self.kind is Text:
            item = _message(self.id, text, self.scores)
            sent += self._in_item("output_text.done", content_index=0, text=text, logprobs=scores.told(self.scores))
            sent += self._in_item("content_part.done", content_index=0, part=item["content"][0])
        elif self.kind is ToolCall:
            item = _call(self.id, ToolCall(self.call.id, self.call.name, text))
            sent += self._in_item("function_call_arguments.done", arguments=text)
        else:
            item = _reasoning(Reasoning(text, self.signature, self.redacted), self.summarised, self.id)
            if text and self.summarised:
                sent += self._in_item("reasoning_summary_text.done", summary_index=0, text=text)
                sent += self._in_item("reasoning_summary_part.done", summary_index=0, part=item["summary"][0])
            elif text:
                sent += self._in_item("reasoning_text.done", content_index=0, text=text)
                sent += self._in_item("content_part.done", content_index=0, part=item["content"][0])
        if self.finish in _INCOMPLETE:
            item["status"] = "incomplete"
        sent += self._send("output_item.done", output_index=len(self.output), item=item)
        self.output.append(item)
        self.kind, self.texts, self.scores, self.signature, self.redacted = None, [], [], None, None
        return sent

    def fail(self, error: GatewayError) -> bytes:
        """OpenAI's own clients raise an exception for `error`, so that no broken reply is taken for a whole one; others, which
        follow the protocol, look for `response.failed`."""
        told = failure.openai_error(error)["error"]
        event = {"type": "error", "sequence_number": self.sequence, "code": told["code"], "message": error.message,
                 "param": error.param, "error": told}
        self.sequence += 1
        code = {"rate_limit": "rate_limit_exceeded", "invalid": "invalid_prompt"}.get(error.kind, "server_error")
        self.response |= {"status": "failed", "output": self.output, "error": {"code": code, "message": error.message}}
        return sse.send_named(event) + self._send("failed", response=self.response)
