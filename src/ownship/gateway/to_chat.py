"""OpenAI's chat completions as an upstream speaks them: what it is sent, and what it replies.

Other servers (vLLM, llama.cpp, SGLang, Ollama, …) speak this format with small liberties, which are taken here: reasoning under
either name, calls without ids or indices, no `[DONE]`, no usage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ownship.gateway import failure, scores, sse
from ownship.gateway.codec import cannot, count, mapping, new_id, string
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
    invalid,
)

PATH = "/chat/completions"

_FORMAT = "OpenAI chat completions"
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter",
                                "function_call": "tool_calls"}


def body(request: Request) -> dict[str, Any]:
    """Thoughts of earlier turns go as `reasoning_content`, and with their signatures where they have some. A tool's failure, for
    which the format has no flag, is said in the text of its result. OpenAI's newer models insist on `max_completion_tokens`."""
    cannot(request, _FORMAT, ("prompt", "echo", "thinking_tokens", "prefill"))
    body: dict[str, Any] = {"model": request.model, "messages": _turns(request.messages)}
    body |= sampling(request)
    if request.max_tokens is not None:
        body["max_completion_tokens"] = request.max_tokens
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    if request.format is not None:
        body["response_format"] = {"type": "json_object"} if request.format.schema is None else {
            "type": "json_schema", "json_schema": {"name": request.format.name, "schema": request.format.schema,
                                                   "strict": request.format.strict}}
    if request.tools:
        body["tools"] = [{"type": "function", "function": {
            "name": tool.name, "parameters": tool.schema, **({"description": tool.description} if tool.description else {}),
            **({"strict": True} if tool.strict else {})}} for tool in request.tools]
        choice = request.tool_choice
        if choice != "auto":
            body["tool_choice"] = choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice.name}}
        if not request.parallel_tools:
            body["parallel_tool_calls"] = False
    if request.effort is not None:
        body["reasoning_effort"] = request.effort
    return body


def sampling(request: Request) -> dict[str, Any]:
    """What chat and completions have in common."""
    body: dict[str, Any] = {name: value for name in (
        "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "user")
        if (value := getattr(request, name)) is not None}
    if request.logit_bias:
        body["logit_bias"] = {str(id): value for id, value in request.logit_bias.items()}
    if request.stop:
        body["stop"] = list(request.stop)
    if request.n != 1:
        body["n"] = request.n
    if request.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            for result in message.parts:
                assert isinstance(result, ToolResult)
                if any(isinstance(part, Image) for part in result.content):
                    raise invalid(f"the model behind this name is reached by {_FORMAT}, in which a tool's result has no images",
                                  "messages")
                content = (Text("Error:"), *result.content) if result.failed else result.content
                turns.append({"role": "tool", "tool_call_id": result.call, "content": _content(content)})
            continue
        turn: dict[str, Any] = {"role": message.role}
        if message.name is not None:
            turn["name"] = message.name
        plain = tuple(part for part in message.parts if isinstance(part, Text | Image))
        calls = [{"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
                 for part in message.parts if isinstance(part, ToolCall)]
        turn["content"] = _content(plain) if plain or not calls else None
        thoughts = [part for part in message.parts if isinstance(part, Reasoning)]
        if thoughts:
            turn |= thought(thoughts)
            turn.pop("reasoning", None)
        if calls:
            turn["tool_calls"] = calls
        turns.append(turn)
    return turns


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    if not parts or (len(parts) == 1 and isinstance(parts[0], Text)):
        return parts[0].text if parts and isinstance(parts[0], Text) else ""
    return [{"type": "text", "text": part.text} if isinstance(part, Text) else
            {"type": "image_url", "image_url": {"url": part.url, **({"detail": part.detail} if part.detail else {})}}
            for part in parts if isinstance(part, Text | Image)]


def thought(thoughts: list[Reasoning]) -> dict[str, Any]:
    """Thoughts as fields of a message, in a reply as in a request."""
    text = "".join(one.text for one in thoughts)
    told: dict[str, Any] = {"reasoning_content": text, "reasoning": text} if text else {}
    if any(one.signature is not None or one.redacted is not None for one in thoughts):
        told["reasoning_details"] = [detail(one) for one in thoughts]
    return told


def detail(one: Reasoning) -> dict[str, Any]:
    if one.redacted is not None:
        return {"type": "reasoning.encrypted", "data": one.redacted}
    return {"type": "reasoning.text", "text": one.text} | ({"signature": one.signature} if one.signature else {})


def events(reply: Any, request: Request) -> list[Event]:
    reply = mapping(reply)
    if reply.get("error"):
        raise failure.in_stream(reply)
    found: list[Event] = [Started(string(reply.get("model")) or request.model)]
    for choice in reply["choices"]:
        index, message = count(choice.get("index")), mapping(choice["message"])
        details = message.get("reasoning_details") or ()
        told = not any(one.get("text") or one.get("summary") for one in details)  # or else they say which thought each signs
        found += _thoughts(index, _plain_thought(message) if told else "", details, told)
        text = string(message.get("content")) or string(message.get("refusal"))
        logprobs = scores.read(mapping(choice.get("logprobs")).get("content"))
        if text or logprobs:
            found.append(TextDelta(index, text, logprobs))
        calls = message.get("tool_calls") or ()
        for at, call in enumerate(calls):
            function = call["function"]
            found.append(ToolDelta(index, at, string(function.get("arguments")) or "{}", string(call.get("id")) or new_id("call_"),
                                   string(function["name"])))
        found.append(_finished(index, choice, bool(calls), bool(message.get("refusal"))))
    if sorted(event.index for event in found if isinstance(event, Finished)) != list(range(request.n)):
        raise failure.garbled(f"{request.n} choices expected")
    found.append(Used(used(reply.get("usage"))))
    return found


def _finished(index: int, choice: dict[str, Any], calls: bool, refused: bool) -> Finished:
    reason = choice["finish_reason"]
    finish = _FINISHES.get(reason)
    if finish is None:
        raise failure.garbled(f"finish_reason {str(reason)[:40]!r}")
    if finish == "stop" and calls:
        finish = "tool_calls"  # OpenAI says "stop" where the call was forced; clients look for this
    elif finish == "stop" and refused:
        finish = "content_filter"
    stop = choice.get("stop_reason")  # vLLM's: the stop string, or the id of a stop token
    return Finished(index, finish, stop if isinstance(stop, str) and finish == "stop" else None)


def _plain_thought(delta: dict[str, Any]) -> str:
    return string(delta.get("reasoning_content")) or string(delta.get("reasoning"))


def _thoughts(index: int, text: str, details: Any, told: bool) -> list[Event]:
    """`text` comes under one name or under two; if it was `told`, `details` of it add only signatures."""
    found: list[Event] = [ReasoningDelta(index, text)] if text else []
    for one in details or ():
        if one.get("type") == "reasoning.encrypted":
            found.append(ReasoningDelta(index, "", None, string(one["data"])))
        else:
            part = "" if told else string(one.get("text") or one.get("summary"))
            if part or one.get("signature"):
                found.append(ReasoningDelta(index, part, string(one.get("signature")) or None))
    return found


def used(usage: Any) -> Usage:
    """Zeros where the upstream does not tell."""
    usage = mapping(usage)
    prompt = mapping(usage.get("prompt_tokens_details"))
    return Usage(count(usage.get("prompt_tokens")), count(usage.get("completion_tokens")), count(prompt.get("cached_tokens")),
                 count(mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")),
                 count(prompt.get("cache_write_tokens")))


class ChatParser:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.started = False
        self.calls: list[dict[Any, int]] = [{} for _ in range(request.n)]  # of each choice: the upstream's index → ours
        self.bare: set[tuple[int, int]] = set()  # calls without arguments so far
        self.thought: set[int] = set()  # choices whose thoughts come as plain text, whatever details come with it
        self.refused: set[int] = set()
        self.finished: set[int] = set()
        self.usage = Usage()

    def feed(self, data: bytes) -> list[Event]:
        if data == b"[DONE]":
            return self.end()
        chunk = mapping(sse.loads(data))
        if chunk.get("error"):
            raise failure.in_stream(chunk)
        found: list[Event] = []
        if not self.started:
            self.started = True
            found.append(Started(string(chunk.get("model")) or self.request.model))
        if chunk.get("usage"):
            self.usage = used(chunk["usage"])
        for choice in chunk.get("choices") or ():
            index = count(choice.get("index"))
            if index >= self.request.n:
                raise failure.garbled(f"choice {index} of {self.request.n}")
            if index not in self.finished:
                self._choice(index, choice, found)
        return found

    def _choice(self, index: int, choice: dict[str, Any], found: list[Event]) -> None:
        delta = mapping(choice.get("delta"))
        thought = _plain_thought(delta)
        if thought:
            self.thought.add(index)
        if thought or delta.get("reasoning_details"):
            found += _thoughts(index, thought, delta.get("reasoning_details"), index in self.thought)
        text = string(delta.get("content"))
        if delta.get("refusal"):
            text += string(delta["refusal"])
            self.refused.add(index)
        logprobs = scores.read(mapping(choice["logprobs"]).get("content")) if choice.get("logprobs") else ()
        if text or logprobs:
            found.append(TextDelta(index, text, logprobs))
        for call in delta.get("tool_calls") or ():
            self._call(index, call, found)
        if choice.get("finish_reason"):
            self.finished.add(index)
            found += [ToolDelta(index, call, "{}") for one, call in sorted(self.bare) if one == index]
            found.append(_finished(index, choice, bool(self.calls[index]), index in self.refused))

    def _call(self, index: int, call: dict[str, Any], found: list[Event]) -> None:
        known, function = self.calls[index], mapping(call.get("function"))
        name, id, key = string(function.get("name")), string(call.get("id")), call.get("index")
        if key is None:  # some servers count no calls: a name begins one, the rest belongs to the last one
            key = ("uncounted", len(known) - (not name))
        if key not in known:
            if not name:
                raise failure.garbled("a tool call without a name")
            known[key] = len(known)
            if not function.get("arguments"):
                self.bare.add((index, known[key]))
            found.append(ToolDelta(index, known[key], string(function.get("arguments")), id or new_id("call_"), name))
        elif function.get("arguments"):
            self.bare.discard((index, known[key]))
            found.append(ToolDelta(index, known[key], string(function["arguments"])))

    def end(self) -> list[Event]:
        if len(self.finished) < self.request.n:
            raise failure.broken_off()
        return [Used(self.usage)]


def parser(request: Request) -> ChatParser:
    return ChatParser(request)
