"""OpenAI's responses, as a client speaks them. Nothing is stored: a conversation comes whole, as `input`.

Reasoning items: the thoughts of an upstream that speaks this format keep their ids ("rs_…"), which belong to their
`encrypted_content`; a signature of another upstream goes as `encrypted_content` of an item "thought_…", and a hidden thought as
that of an item "hidden_…". So what a client hands back finds its way to who signed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from ownship.gateway import failure, sse
from ownship.gateway.codec import Asked, Name, Off, Strict, checked, image_url, validated
from ownship.gateway.reply import Reply
from ownship.gateway.responses_writer import ResponsesWriter, finished
from ownship.gateway.to_responses import PATH as PATH
from ownship.gateway.to_responses import thought
from ownship.gateway.types import (
    Effort,
    Image,
    JSONFormat,
    Message,
    NamedTool,
    Request,
    Summary,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    invalid,
)

KEEP_ALIVE = sse.KEEP_ALIVE
refusal = failure.openai_error

_Status = Literal["in_progress", "completed", "incomplete"]


class _TextPart(Strict):
    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = None  # of a reply that is handed back

    def part(self) -> Text:
        return Text(self.text)


class _RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: str

    def part(self) -> Text:
        return Text(self.refusal)


class _ImagePart(Strict):
    type: Literal["input_image"]
    image_url: Annotated[str, AfterValidator(image_url)]
    detail: Literal["auto", "low", "high", "original"] | None = None

    def part(self) -> Image:
        return Image(self.image_url, None if self.detail == "auto" else self.detail)


_TextOrImage = Annotated[_TextPart | _ImagePart, Field(discriminator="type")]


class _Asking(Strict):
    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer"]
    content: str | list[_TextOrImage]
    id: str | None = None
    status: _Status | None = None

    def message(self) -> Message:
        parts = _parts(self.content)
        if self.role == "user":
            return Message("user", parts)
        if any(isinstance(part, Image) for part in parts):
            raise invalid("input: images stand in a user's message", "input")
        return Message("system", parts)


class _Answer(Strict):
    type: Literal["message"] = "message"
    role: Literal["assistant"]
    content: str | list[Annotated[_TextPart | _RefusalPart, Field(discriminator="type")]]
    id: str | None = None
    status: _Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    def message(self) -> Message:
        return Message("assistant", _parts(self.content))


class _Call(Strict):
    type: Literal["function_call"]
    call_id: str = Field(min_length=1)
    name: Name
    arguments: str
    id: str | None = None
    status: _Status | None = None

    def message(self) -> Message:
        return Message("assistant", (ToolCall(self.call_id, self.name, self.arguments),))


class _Output(Strict):
    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1)
    output: str | list[_TextOrImage]
    id: str | None = None
    status: _Status | None = None

    def message(self) -> Message:
        return Message("tool", (ToolResult(self.call_id, _parts(self.output)),))


class _ReasoningText(Strict):
    type: Literal["reasoning_text"]
    text: str


class _SummaryText(Strict):
    type: Literal["summary_text"]
    text: str


class _Thought(Strict):
    type: Literal["reasoning"]
    id: str
    summary: list[_SummaryText]
    content: list[_ReasoningText] | None = None
    encrypted_content: str | None = None
    status: _Status | None = None

    def message(self) -> Message:
        text = "\n\n".join(part.text for part in self.content or self.summary)
        return Message("assistant", (thought(self.id, text, self.encrypted_content),))


def _kind(item: Any) -> str | None:
    """Which of the models below an item is to be: a message needs no type."""
    if not isinstance(item, dict):
        return None
    kind = item.get("type", "message")
    return "answer" if kind == "message" and item.get("role") == "assistant" else kind if isinstance(kind, str) else None


_Item = Annotated[
    Annotated[_Asking, Tag("message")] | Annotated[_Answer, Tag("answer")] | Annotated[_Call, Tag("function_call")]
    | Annotated[_Output, Tag("function_call_output")] | Annotated[_Thought, Tag("reasoning")],
    Discriminator(_kind)]


def _parts(content: str | Iterable[_TextPart | _RefusalPart | _ImagePart]) -> tuple[Text | Image, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(part.part() for part in content)


class _Tool(Strict):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _NamedTool(Strict):
    type: Literal["function"]
    name: Name


class _Format(Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class _TextConfig(Strict):
    format: _Format | None = None
    verbosity: Literal["medium"] | None = None


class _Reasoning(Strict):
    effort: Effort | None = None
    summary: Summary | None = None


class _StreamOptions(Strict):
    include_obfuscation: Off | None = None


class Body(Strict):
    model: str
    input: Annotated[str, Field(min_length=1)] | Annotated[list[_Item], Field(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    include: list[Literal["reasoning.encrypted_content", "message.output_text.logprobs"]] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    text: _TextConfig | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: _Reasoning | None = None
    user: str | None = None
    safety_identifier: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    # These change no reply: hints for caches and queues that are not here, and what is so in any case.
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    truncation: Literal["disabled"] | None = None


def read(body: Any) -> Asked:
    given = validated(Body, body)
    if given.previous_response_id is not None:
        raise invalid("previous_response_id: responses are not stored here; send the whole conversation as input",
                      "previous_response_id")
    if given.store:
        raise invalid("store: responses are not stored here; send store: false", "store")
    if given.background:
        raise invalid("background: there are no background responses here; use stream: true", "background")
    if given.stream_options is not None and not given.stream:
        raise invalid("stream_options needs stream: true", "stream_options")
    instructions = (Message("system", (Text(given.instructions),)),) if given.instructions else ()
    messages = (Message("user", (Text(given.input),)),) if isinstance(given.input, str) else _messages(given.input)
    scored = given.top_logprobs is not None or "message.output_text.logprobs" in (given.include or ())
    reasoning = given.reasoning or _Reasoning()
    choice = given.tool_choice
    request = Request(
        model=given.model, messages=instructions + messages, max_tokens=given.max_output_tokens, temperature=given.temperature,
        top_p=given.top_p, logprobs=(given.top_logprobs or 0) if scored else None,
        format=_format(given.text.format if given.text else None),
        tools=tuple(Tool(tool.name, tool.description or "",
                         tool.parameters if tool.parameters is not None else {"type": "object", "properties": {}},
                         bool(tool.strict)) for tool in given.tools or ()),
        tool_choice=NamedTool(choice.name) if isinstance(choice, _NamedTool) else choice or "auto",
        parallel_tools=given.parallel_tool_calls is not False, effort=reasoning.effort, summary=reasoning.summary,
        user=given.user or given.safety_identifier, stream=bool(given.stream))
    return Asked((checked(request),), request.stream, body=body)


def _format(given: _Format | None) -> JSONFormat | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return JSONFormat(strict=False)
    if given.schema_ is None or given.name is None:
        raise invalid("text.format of type json_schema needs a name and a schema", "text.format")
    return JSONFormat(given.schema_, given.name, bool(given.strict))


def _messages(items: Iterable[_Asking | _Answer | _Call | _Output | _Thought]) -> tuple[Message, ...]:
    """An assistant's thoughts, words and calls are items of their own here, and one message inside; so are results of parallel
    calls."""
    messages: list[Message] = []
    for item in items:
        message = item.message()
        if message.role in ("assistant", "tool") and messages and messages[-1].role == message.role:
            messages[-1] = Message(message.role, messages[-1].parts + message.parts)
        else:
            messages.append(message)
    return tuple(messages)


def whole(asked: Asked, reply: Reply) -> dict[str, Any]:
    return finished(asked, reply)


def writer(asked: Asked) -> ResponsesWriter:
    return ResponsesWriter(asked)
