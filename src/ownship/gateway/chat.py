"""OpenAI's chat completions, both ways.

Reasoning, for which OpenAI's own format has no place, goes as the servers of open models write it: `reasoning_content` and
`reasoning` hold the text (either is read). Where a thought is signed or hidden, `reasoning_details` holds all of it, as OpenRouter
writes it; a client that hands a message back as it came hands the signatures back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ownship.gateway import failure, scores, sse
from ownship.gateway.codec import Asked, Name, Off, Strict, checked, image_url, new_id, validated
from ownship.gateway.reply import Reply
from ownship.gateway.to_chat import PATH as PATH
from ownship.gateway.to_chat import detail, thought
from ownship.gateway.types import (
    Effort,
    Event,
    Finish,
    Finished,
    GatewayError,
    Image,
    JSONFormat,
    Message,
    NamedTool,
    Reasoning,
    ReasoningDelta,
    Request,
    Started,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
    ToolResult,
    Usage,
    Used,
    invalid,
)

KEEP_ALIVE = sse.KEEP_ALIVE
refusal = failure.openai_error

_EMPTY_SCHEMA = {"type": "object", "properties": {}}


# What a client may send


class _ImageURL(Strict):
    url: Annotated[str, AfterValidator(image_url)]
    detail: Literal["auto", "low", "high", "original"] | None = None


class _TextPart(Strict):
    type: Literal["text"]
    text: str

    def part(self) -> Text:
        return Text(self.text)


class _RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: str

    def part(self) -> Text:
        return Text(self.refusal)


class _ImagePart(Strict):
    type: Literal["image_url"]
    image_url: _ImageURL

    def part(self) -> Image:
        return Image(self.image_url.url, None if self.image_url.detail == "auto" else self.image_url.detail)


class _Detail(Strict):
    type: Literal["reasoning.text", "reasoning.encrypted"]
    text: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    format: str | None = None
    index: int | None = None


class _CalledFunction(Strict):
    name: Name
    arguments: str


class _Call(Strict):
    id: str = Field(min_length=1)
    type: Literal["function"] = "function"
    function: _CalledFunction
    index: int | None = None  # where a client has kept the pieces of a stream


class _System(Strict):
    role: Literal["system", "developer"]
    content: str | list[_TextPart]
    name: str | None = None

    def message(self) -> Message:
        return Message("system", _parts(self.content), self.name)


class _User(Strict):
    role: Literal["user"]
    content: str | list[Annotated[_TextPart | _ImagePart, Field(discriminator="type")]]
    name: str | None = None

    def message(self) -> Message:
        return Message("user", _parts(self.content), self.name)


class _Assistant(Strict):
    role: Literal["assistant"]
    content: str | list[Annotated[_TextPart | _RefusalPart, Field(discriminator="type")]] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[_Detail] | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    def message(self) -> Message:
        refusal = (Text(self.refusal),) if self.refusal else ()
        calls = (ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or ())
        return Message("assistant", (*self._thoughts(), *_parts(self.content), *refusal, *calls), self.name)

    def _thoughts(self) -> Iterable[Reasoning]:
        if self.reasoning_details:
            return [Reasoning("", None, detail.data or "") if detail.type == "reasoning.encrypted" else
                    Reasoning(detail.text or "", detail.signature) for detail in self.reasoning_details]
        text = self.reasoning_content or self.reasoning
        return [Reasoning(text)] if text else []


class _ToolMessage(Strict):
    role: Literal["tool"]
    content: str | list[_TextPart]
    tool_call_id: str = Field(min_length=1)
    name: str | None = None  # of the tool, which the call has told

    def message(self) -> Message:
        return Message("tool", (ToolResult(self.tool_call_id, _parts(self.content)),))


_Message = Annotated[_System | _User | _Assistant | _ToolMessage, Field(discriminator="role")]


def _parts(content: str | Iterable[_TextPart | _RefusalPart | _ImagePart] | None) -> tuple[Text | Image, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(part.part() for part in content or ())


class _Function(Strict):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(Strict):
    type: Literal["function"]
    function: _Function


class _Named(Strict):
    name: Name


class _NamedTool(Strict):
    type: Literal["function"]
    function: _Named


class _Schema(Strict):
    name: str
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class _ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Off | None = None


class Body(Strict):
    model: str
    messages: list[_Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=128)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: _ResponseFormat | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    user: str | None = None
    safety_identifier: str | None = None
    # These change no reply: hints for caches and queues that are not here, and what is so in any case.
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Off | None = None
    modalities: list[Literal["text"]] | None = None


def stops(stop: str | list[str] | None) -> tuple[str, ...]:
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(found) > 4 or "" in found:
        raise invalid("stop: at most 4 strings, none of them empty", "stop")
    return found


def biases(given: dict[str, float] | None) -> dict[int, float]:
    found = {}
    for key, value in (given or {}).items():
        if not (key.isascii() and key.isdigit()) or not -100 <= value <= 100:
            raise invalid("logit_bias: token ids with a number between -100 and 100 each", "logit_bias")
        found[int(key)] = value
    return found


def read(body: Any) -> Asked:
    given = validated(Body, body)
    if given.stream_options is not None and not given.stream:
        raise invalid("stream_options needs stream: true", "stream_options")
    if given.top_logprobs is not None and not given.logprobs:
        raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
    request = Request(
        model=given.model, messages=_messages(given.messages), max_tokens=given.max_completion_tokens or given.max_tokens,
        temperature=given.temperature, top_p=given.top_p, top_k=given.top_k, min_p=given.min_p,
        repetition_penalty=given.repetition_penalty, presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty, logit_bias=biases(given.logit_bias), stop=stops(given.stop), seed=given.seed,
        n=given.n or 1, logprobs=(given.top_logprobs or 0) if given.logprobs else None, format=_format(given.response_format),
        tools=tuple(Tool(tool.function.name, tool.function.description or "",
                         tool.function.parameters if tool.function.parameters is not None else _EMPTY_SCHEMA,
                         bool(tool.function.strict)) for tool in given.tools or ()),
        tool_choice=_choice(given.tool_choice), parallel_tools=given.parallel_tool_calls is not False,
        effort=given.reasoning_effort, user=given.user or given.safety_identifier, stream=bool(given.stream))
    return Asked((checked(request),), request.stream, bool(given.stream_options and given.stream_options.include_usage), body)


def _choice(given: str | _NamedTool | None) -> ToolChoice:
    if isinstance(given, _NamedTool):
        return NamedTool(given.function.name)
    return given or "auto"  # type: ignore[return-value]


def _format(given: _ResponseFormat | None) -> JSONFormat | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return JSONFormat(strict=False)
    if given.json_schema is None or given.json_schema.schema_ is None:
        raise invalid("response_format of type json_schema needs json_schema with a schema", "response_format")
    return JSONFormat(given.json_schema.schema_, given.json_schema.name, bool(given.json_schema.strict))


def _messages(given: Iterable[_System | _User | _Assistant | _ToolMessage]) -> tuple[Message, ...]:
    messages: list[Message] = []
    for one in given:
        message = one.message()
        if message.role == "tool" and messages and messages[-1].role == "tool":  # results of parallel calls are one turn
            messages[-1] = Message("tool", messages[-1].parts + message.parts)
        else:
            messages.append(message)
    return tuple(messages)


# What a client gets


def whole(asked: Asked, reply: Reply) -> dict[str, Any]:
    choices = []
    for index, choice in sorted(reply.choices.items()):
        parts = choice.parts
        text = "".join(part.text for part in parts if isinstance(part, Text))
        calls = [{"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
                 for part in parts if isinstance(part, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
        thoughts = [part for part in parts if isinstance(part, Reasoning)]
        if thoughts:
            message |= thought(thoughts)
        if calls:
            message["tool_calls"] = calls
        logprobs = {"content": scores.told(choice.scores), "refusal": None} if asked.request.logprobs is not None else None
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish})
    return {"id": new_id("chatcmpl-"), "object": "chat.completion", "created": asked.created, "model": reply.model,
            "choices": choices, "usage": usage(reply.usage)}


def usage(used: Usage) -> dict[str, Any]:
    return {"prompt_tokens": used.prompt, "completion_tokens": used.completion, "total_tokens": used.prompt + used.completion,
            "prompt_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": used.written},
            "completion_tokens_details": {"reasoning_tokens": used.reasoning}}


class ChatWriter:
    def __init__(self, asked: Asked) -> None:
        self.head: dict[str, Any] = {"id": new_id("chatcmpl-"), "object": "chat.completion.chunk", "created": asked.created,
                                     "model": asked.request.model}
        self.count, self.usage, self.scored = asked.request.n, asked.usage, asked.request.logprobs is not None
        self.thoughts: list[list[str]] = [[] for _ in range(self.count)]  # of each choice: the text that nothing has signed yet
        self.signed = [0] * self.count

    def _chunk(self, index: int, delta: dict[str, Any], finish: Finish | None = None, logprobs: Any = None) -> bytes:
        chunk = {**self.head, "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}
        if self.usage:
            chunk["usage"] = None
        return sse.send(chunk)

    def write(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            logprobs = {"content": scores.told(event.scores), "refusal": None} if self.scored and event.scores else None
            return self._chunk(event.index, {"content": event.text}, None, logprobs) if event.text or logprobs else b""
        if isinstance(event, ReasoningDelta):
            return self._think(event)
        if isinstance(event, ToolDelta):
            call: dict[str, Any] = {"index": event.call, "function": {"arguments": event.arguments}}
            if event.name is not None:
                call = {"index": event.call, "id": event.id, "type": "function",
                        "function": {"name": event.name, "arguments": event.arguments}}
            return self._chunk(event.index, {"tool_calls": [call]})
        if isinstance(event, Finished):
            return self._chunk(event.index, {}, event.reason)
        if isinstance(event, Started):
            self.head["model"] = event.model
            return b"".join(self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self.count))
        if isinstance(event, Used):
            return (sse.send({**self.head, "choices": [], "usage": usage(event.usage)}) if self.usage else b"") + sse.DONE
        raise AssertionError(event)

    def _think(self, event: ReasoningDelta) -> bytes:
        """A signature comes with the whole thought that it signs, so that a client which puts the pieces of a message together (as
        OpenAI's does by `index`) hands back both."""
        delta: dict[str, Any] = {}
        if event.text:
            delta = {"reasoning_content": event.text, "reasoning": event.text}
            self.thoughts[event.index].append(event.text)
        if event.signature is not None or event.redacted is not None:
            thought = Reasoning("" if event.redacted is not None else "".join(self.thoughts[event.index]), event.signature,
                                event.redacted)
            delta["reasoning_details"] = [{**detail(thought), "index": self.signed[event.index]}]
            self.signed[event.index] += 1
            if event.signature is not None:
                self.thoughts[event.index].clear()
        return self._chunk(event.index, delta) if delta else b""

    def fail(self, error: GatewayError) -> bytes:
        return sse.send(refusal(error))


def writer(asked: Asked) -> ChatWriter:
    return ChatWriter(asked)
