"""Anthropic's messages, as a client speaks them.

`cache_control` is taken as what it is, a hint: it changes no reply, and caches here need none. `thinking` of type adaptive without
an effort means effort high, as Anthropic documents it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ownship.gateway import failure, sse
from ownship.gateway.codec import Asked, Name, Strict, checked, image_url, new_id, validated
from ownship.gateway.messages_writer import MessagesWriter, blocks, usage
from ownship.gateway.reply import Reply
from ownship.gateway.to_messages import PATH as PATH
from ownship.gateway.to_messages import REASONS
from ownship.gateway.types import (
    Effort,
    Image,
    JSONFormat,
    Message,
    NamedTool,
    Part,
    Reasoning,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    invalid,
)

COUNT_PATH = f"{PATH}/count_tokens"
KEEP_ALIVE = b'event: ping\ndata: {"type":"ping"}\n\n'
refusal = failure.anthropic_error


def _base64(data: str) -> str:
    try:
        base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
    return data


class _CacheControl(Strict):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class _Block(Strict):
    cache_control: _CacheControl | None = None


class _TextBlock(_Block):
    type: Literal["text"]
    text: str
    citations: Annotated[list[Any], Field(max_length=0)] | None = None

    def part(self) -> Text:
        return Text(self.text)


class _Base64Source(Strict):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: Annotated[str, AfterValidator(_base64)]

    def url(self) -> str:
        return f"data:{self.media_type};base64,{self.data}"


class _URLSource(Strict):
    type: Literal["url"]
    address: Annotated[str, AfterValidator(image_url)] = Field(alias="url")

    def url(self) -> str:
        return self.address


class _ImageBlock(_Block):
    type: Literal["image"]
    source: Annotated[_Base64Source | _URLSource, Field(discriminator="type")]

    def part(self) -> Image:
        return Image(self.source.url())


class _ThinkingBlock(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: str

    def part(self) -> Reasoning:
        return Reasoning(self.thinking, self.signature or None)


class _RedactedBlock(Strict):
    type: Literal["redacted_thinking"]
    data: str

    def part(self) -> Reasoning:
        return Reasoning("", None, self.data)


class _Caller(Strict):
    type: Literal["direct"]


class _ToolUseBlock(_Block):
    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: Name
    input: dict[str, Any]
    caller: _Caller | None = None

    def part(self) -> ToolCall:
        return ToolCall(self.id, self.name, sse.dumps(self.input).decode())


class _ToolResultBlock(_Block):
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: str | list[Annotated[_TextBlock | _ImageBlock, Field(discriminator="type")]] | None = None
    is_error: bool | None = None

    def part(self) -> ToolResult:
        content = tuple(part for part in _parts(self.content or "") if isinstance(part, Text | Image))
        return ToolResult(self.tool_use_id, content, bool(self.is_error))


class _User(Strict):
    role: Literal["user"]
    content: str | list[Annotated[_TextBlock | _ImageBlock | _ToolResultBlock, Field(discriminator="type")]]

    def messages(self) -> Iterable[Message]:
        """Results of tools are a message of their own inside."""
        parts: list[Part] = []
        for part in _parts(self.content):
            if parts and isinstance(part, ToolResult) != isinstance(parts[-1], ToolResult):
                yield Message("tool" if isinstance(parts[-1], ToolResult) else "user", tuple(parts))
                parts = []
            parts.append(part)
        yield Message("tool" if parts and isinstance(parts[-1], ToolResult) else "user", tuple(parts))


class _Assistant(Strict):
    role: Literal["assistant"]
    content: str | list[Annotated[_TextBlock | _ThinkingBlock | _RedactedBlock | _ToolUseBlock, Field(discriminator="type")]]

    def messages(self) -> Iterable[Message]:
        yield Message("assistant", _parts(self.content))


class _System(Strict):
    role: Literal["system"]
    content: str | list[_TextBlock]

    def messages(self) -> Iterable[Message]:
        yield Message("system", _parts(self.content))


def _parts(content: str | list[Any]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(block.part() for block in content)


class _Tool(_Block):
    type: Literal["custom"] | None = None
    name: Name
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class _ToolChoice(Strict):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class _NamedTool(Strict):
    type: Literal["tool"]
    name: Name
    disable_parallel_tool_use: bool | None = None


class _Enabled(Strict):
    type: Literal["enabled"]
    budget_tokens: int = Field(ge=1)
    display: Literal["summarized"] | None = None


class _Adaptive(Strict):
    type: Literal["adaptive"]
    display: Literal["summarized"] | None = None


class _Disabled(Strict):
    type: Literal["disabled"]


class _Format(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Metadata(Strict):
    user_id: str | None = None


class Counted(Strict):
    """What a prompt consists of, and so what count_tokens takes."""

    model: str
    messages: list[Annotated[_User | _Assistant | _System, Field(discriminator="role")]] = Field(min_length=1)
    system: str | list[_TextBlock] | None = None
    tools: list[_Tool] | None = None
    tool_choice: Annotated[_ToolChoice | _NamedTool, Field(discriminator="type")] | None = None
    thinking: Annotated[_Enabled | _Adaptive | _Disabled, Field(discriminator="type")] | None = None
    output_config: _OutputConfig | None = None
    cache_control: _CacheControl | None = None
    speed: Literal["standard"] | None = None


class Body(Counted):
    max_tokens: int = Field(ge=1)
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


def read(body: Any) -> Asked:
    given = validated(Body, body)
    if isinstance(given.thinking, _Enabled) and given.thinking.budget_tokens >= given.max_tokens:
        raise invalid("thinking.budget_tokens must be less than max_tokens", "thinking.budget_tokens")
    request = Request(**_prompt(given), max_tokens=given.max_tokens, temperature=given.temperature, top_p=given.top_p,
                      top_k=given.top_k, stop=tuple(given.stop_sequences or ()),
                      user=given.metadata.user_id if given.metadata else None, stream=bool(given.stream))
    return Asked((checked(request),), request.stream, body=body)


def read_count(body: Any) -> Request:
    """The body of /v1/messages/count_tokens, whose reply is {"input_tokens": n}. Raises GatewayError (400)."""
    return checked(Request(**_prompt(validated(Counted, body))))


def _prompt(given: Counted) -> dict[str, Any]:
    system = _parts(given.system or "")
    messages = [Message("system", system)] if system else []
    for turn in given.messages:
        messages += turn.messages()
    choice, parallel = _choice(given.tool_choice)
    config = given.output_config or _OutputConfig()
    effort: Effort | None = config.effort
    if isinstance(given.thinking, _Adaptive):
        effort = effort or "high"
    elif isinstance(given.thinking, _Disabled):
        if effort is not None:
            raise invalid("output_config.effort: with thinking disabled there is no effort to set", "output_config.effort")
        effort = "none"
    enabled = given.thinking if isinstance(given.thinking, _Enabled) else None
    display = None if given.thinking is None or isinstance(given.thinking, _Disabled) else given.thinking.display
    return {"model": given.model, "messages": tuple(messages), "tools": tuple(
                Tool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict)) for tool in given.tools or ()),
            "tool_choice": choice, "parallel_tools": parallel, "effort": effort, "summary": "auto" if display else None,
            "thinking_tokens": enabled.budget_tokens if enabled else None, "prefill": messages[-1].role == "assistant",
            "format": JSONFormat(config.format.schema_) if config.format else None}


def _choice(given: _ToolChoice | _NamedTool | None) -> tuple[ToolChoice, bool]:
    if given is None:
        return "auto", True
    parallel = not given.disable_parallel_tool_use
    if isinstance(given, _NamedTool):
        return NamedTool(given.name), parallel
    return "required" if given.type == "any" else given.type, parallel


def whole(asked: Asked, reply: Reply) -> dict[str, Any]:
    choice = reply.choices[0]
    return {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": reply.model, "content": blocks(choice.parts),
            "stop_reason": "stop_sequence" if choice.stop is not None else REASONS[choice.finish], "stop_sequence": choice.stop,
            "usage": usage(reply.usage)}


def writer(asked: Asked) -> MessagesWriter:
    return MessagesWriter(asked)
