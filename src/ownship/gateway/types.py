"""The one request and the one stream of events that every wire format and every upstream is translated to and from.

A front codec reads HTTP bodies into `Request` and writes `Event`s as its format's reply; an upstream takes a `Request` and gives
`Event`s. No codec knows another, so what works with one front works with every upstream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ownship.errors import UserError

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "tool_calls", "content_filter"]
Wire = Literal["chat", "completions", "responses", "messages"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Summary = Literal["auto", "concise", "detailed"]


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Image:
    """`url` is http(s) or a data URL; `detail` is OpenAI's."""

    url: str
    detail: str | None = None


@dataclass(frozen=True)
class Reasoning:
    """What a model thought before it answered. `signature` and `redacted` are opaque and go back to who sent them."""

    text: str
    signature: str | None = None
    redacted: str | None = None


@dataclass(frozen=True)
class ToolCall:
    """`arguments` is JSON text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolResult:
    call: str
    content: tuple[Text | Image, ...]
    failed: bool = False


Part = Text | Image | Reasoning | ToolCall | ToolResult


@dataclass(frozen=True)
class Message:
    """One turn. A `tool` message holds ToolResults only; ToolCalls and Reasoning stand in `assistant` messages only."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None


@dataclass(frozen=True)
class Tool:
    name: str
    description: str = ""
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False


@dataclass(frozen=True)
class NamedTool:
    """A choice of tools: call this one."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool


@dataclass(frozen=True)
class JSONFormat:
    """The reply must be JSON; with a `schema`, as that schema says."""

    schema: Mapping[str, Any] | None = None
    name: str = "reply"
    strict: bool = True


@dataclass(frozen=True)
class Request:
    """What is asked of a model. Either `messages` or `prompt` (text or token ids to be continued, no template) is set.

    None means that the client said nothing, so the upstream's own default holds. `logprobs` asks for the log-probability of each
    token of the reply and that many alternatives; `echo` (with `prompt` only) for the prompt's own tokens too.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    echo: bool = False
    format: JSONFormat | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tools: bool = True
    effort: Effort | None = None
    thinking_tokens: int | None = None  # bound of the reasoning, where it is given in tokens
    summary: Summary | None = None  # how much of the reasoning is to be shown; who shows all of it does as well
    prefill: bool = False  # the last message is an assistant's, and the reply goes on from its end
    user: str | None = None
    stream: bool = True  # False: nobody looks before the end, so the upstream may send everything at once


@dataclass(frozen=True)
class TokenScore:
    """A token of the reply (or of an echoed prompt): its text, its id where the upstream tells it, its raw log-probability (None
    for the first token of a prompt), and the alternatives (text, log-probability, id), likeliest first."""

    text: str
    logprob: float | None
    id: int | None = None
    top: tuple[tuple[str, float, int | None], ...] = ()
    bytes: bytes | None = None  # where the text alone cannot say it: half of a character


@dataclass(frozen=True)
class Usage:
    """Tokens. Of `prompt`, `cached` were not computed again and `written` were kept for later; `reasoning` are in `completion`."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    written: int = 0


@dataclass(frozen=True)
class Started:
    """The first event of every stream: `model` is what the upstream calls the model that answers; `prompt_tokens` those of the
    prompt if that is known by now (Used tells it in any case)."""

    model: str
    prompt_tokens: int = 0


@dataclass(frozen=True)
class TextDelta:
    """More text of choice `index`; `scores` are those of the tokens it came from, if they were asked for."""

    index: int
    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class ReasoningDelta:
    """More of what choice `index` thinks. A `signature` ends the thought it signs; `redacted` is a whole thought."""

    index: int
    text: str
    signature: str | None = None
    redacted: str | None = None


@dataclass(frozen=True)
class ToolDelta:
    """A piece of the `call`-th tool call (0-based) of choice `index`; the first piece carries `id` and `name`."""

    index: int
    call: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class PromptScores:
    """The echoed prompt (completions with `echo`), before any text of choice `index`: its tokens, if log-probabilities were asked
    for, and its text (None: that of the tokens)."""

    index: int
    scores: tuple[TokenScore, ...]
    text: str | None = None


@dataclass(frozen=True)
class Finished:
    """Choice `index` is done; exactly once for each. `stop` is the stop string that ended it, if one did."""

    index: int
    reason: Finish
    stop: str | None = None


@dataclass(frozen=True)
class Used:
    """The last event of every stream that did not fail."""

    usage: Usage


Event = Started | TextDelta | ReasoningDelta | ToolDelta | PromptScores | Finished | Used

ErrorKind = Literal["invalid", "authentication", "permission", "not_found", "too_large", "rate_limit", "overloaded", "upstream",
                    "timeout", "internal"]


class GatewayError(Exception):
    """What a client is told instead of a reply, or in the midst of one. Each codec writes it as its format does.

    `status` is the HTTP status; `param` names the field at fault; `code` is OpenAI's machine-readable reason; `retry_after` is in
    seconds. The message never holds keys, prompts or replies.
    """

    def __init__(self, status: int, kind: ErrorKind, message: str, param: str | None = None, code: str | None = None,
                 retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.param, self.code, self.retry_after = param, code, retry_after


class NotNow(GatewayError):
    """What is asked for cannot be had now, and that is known: it is not tried again at once, and speaks against nobody."""


def invalid(message: str, param: str | None = None, code: str | None = None) -> GatewayError:
    """A request that cannot be carried out as it stands: 400."""
    return GatewayError(400, "invalid", message, param, code)


class Upstream(Protocol):
    """A place where models answer: the local engine, or a server behind a URL."""

    def stream(self, request: Request, deadline: float | None = None) -> AsyncIterator[Event]:
        """Started, then deltas, a Finished for each choice, and Used. Closing the iterator ends the work within one token.

        `deadline` is on `time.monotonic`. Raises GatewayError, before the first event where that is possible; what this upstream
        cannot express is a 400 that says what.
        """
        ...

    async def count(self, request: Request) -> int:
        """Tokens of the prompt, as this upstream counts them; an estimate (never too small by much) where it cannot be known."""
        ...

    async def close(self) -> None: ...


def check(request: Request) -> None:
    """Raises UserError if the parts of a request contradict each other, whatever front it came through."""
    if bool(request.messages) == (request.prompt is not None):
        raise UserError("a request has either messages or a prompt")
    if request.echo and request.prompt is None:
        raise UserError("echo is for completions")
    names = [tool.name for tool in request.tools]
    if len(set(names)) < len(names):
        raise UserError("two tools have the same name")
    if request.prefill and (not request.messages or request.messages[-1].role != "assistant"):
        raise UserError("prefill needs an assistant's message at the end")
    if isinstance(request.tool_choice, NamedTool) and request.tool_choice.name not in names:
        raise UserError(f"tool_choice names {request.tool_choice.name!r}, which is not among the tools")
    if request.tool_choice == "required" and not names:
        raise UserError("tool_choice 'required' needs tools")
