"""What the four wire formats have in common: what each has to offer, and how a request is validated."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ownship.errors import UserError
from ownship.gateway.reply import Reply
from ownship.gateway.types import Event, GatewayError, Message, Request, check, invalid

M = TypeVar("M", bound=BaseModel)
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]  # of a tool


@dataclass(frozen=True)
class Asked:
    """A client's request as a front read it: what to ask of an upstream, and how the reply is wanted.

    `requests` are several where completions were given several prompts; they differ in nothing else. `usage` asks a stream of
    chat or completions to end with the tokens used. `body` is what the client sent, for formats that repeat it.
    """

    requests: tuple[Request, ...]
    stream: bool
    usage: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def request(self) -> Request:
        return self.requests[0]


class Writer(Protocol):
    """A reply on its way to a client, as server-sent events. Used, or `fail`, is the end of it."""

    def write(self, event: Event) -> bytes: ...

    def fail(self, error: GatewayError) -> bytes: ...


class Parser(Protocol):
    """An upstream's stream on its way in."""

    def feed(self, data: bytes) -> list[Event]:
        """The data of one server-sent event. Raises GatewayError for an error that it tells, and KeyError, TypeError or ValueError
        for what is not in the format. Used is the last event."""
        ...

    def end(self) -> list[Event]:
        """The stream ended before Used. Raises GatewayError if something is missing."""
        ...


class Front(Protocol):
    """One wire format towards clients: the modules chat, completions, responses and messages."""

    PATH: str  # below /v1
    KEEP_ALIVE: bytes  # may be sent between the events of a stream

    def read(self, body: Any) -> Asked:
        """A client's body, parsed by `sse.loads`. Raises GatewayError (400) that names what is wrong."""
        ...

    def whole(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        """The body of a reply that is not streamed."""
        ...

    def writer(self, asked: Asked) -> Writer:
        """A streamed reply."""
        ...

    def refusal(self, error: GatewayError) -> dict[str, Any]:
        """The body of an error, sent with `error.status` and `failure.headers(error)`."""
        ...


class Dialect(Protocol):
    """One wire format towards upstreams: the modules to_chat, to_completions, to_responses and to_messages."""

    PATH: str  # below /v1

    def body(self, request: Request) -> dict[str, Any]:
        """What is sent. Raises GatewayError (400) for what the format cannot express."""
        ...

    def events(self, reply: Any, request: Request) -> list[Event]:
        """A reply that was not streamed. Raises as `Parser.feed`."""
        ...

    def parser(self, request: Request) -> Parser:
        """A streamed reply."""
        ...


class Strict(BaseModel):
    """No conversions between types, and no parameter that is not known: nothing is silently ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _off(value: object) -> object:
    if value is not False:  # 0 is equal to it: a literal alone would take it
        raise ValueError("Input should be false")
    return value


Off = Annotated[Literal[False], BeforeValidator(_off)]


def validated(model: type[M], body: Any) -> M:
    """`body` as `model`. Unknown fields that are null say nothing (clients hand back replies with the unused fields of newer
    versions); anything else unknown is refused. Raises GatewayError (400)."""
    if not isinstance(body, dict):
        raise invalid("the body must be a JSON object")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False)
    nulls = [_path(body, one) for one in found if one["type"] == "extra_forbidden" and one["input"] is None]
    if nulls:
        for path in nulls:
            body = _without(body, path)
        return validated(model, body)
    places = [_path(body, one) for one in found]
    deepest = max(range(len(found)), key=lambda at: (len(places[at]), -at))  # of a union, the branch that came furthest
    one, place = found[deepest], ".".join(str(part) for part in places[deepest])
    if one["type"] == "extra_forbidden":
        raise invalid(f"{place} is not supported: unknown parameters are refused, never ignored", place, "unknown_parameter")
    raise invalid(f"{place}: {one['msg']}" if place else one["msg"], place or None)


def checked(request: Request) -> Request:
    """The request, if its parts agree. Raises GatewayError (400)."""
    try:
        check(request)
    except UserError as error:
        raise invalid(str(error)) from None
    return request


_PLAIN = {one.name: one.default for one in fields(Request)} | {"logit_bias": {}}
_CALLED = {"format": "response_format", "parallel_tools": "parallel_tool_calls", "effort": "reasoning_effort",
           "thinking_tokens": "thinking.budget_tokens"}


def cannot(request: Request, format: str, names: Iterable[str]) -> None:
    """Raises GatewayError (400) if the request sets one of the fields `names`, for which `format` has no place."""
    for name in names:
        if getattr(request, name) != _PLAIN[name]:
            called = _CALLED.get(name, name)
            raise invalid(f"{called}: the model behind this name is reached by {format}, which cannot express it", called)


def cannot_names(messages: Iterable[Message], format: str) -> None:
    if any(message.name is not None for message in messages):
        raise invalid(f"messages.name: the model behind this name is reached by {format}, which has no names", "messages")


def image_url(url: str) -> str:
    """Raises ValueError (for pydantic) for what is neither on the web nor in the request."""
    if not url.startswith(("https://", "http://", "data:image/")):
        raise ValueError("an image is an http(s) or a data:image/… URL")
    return url


def new_id(prefix: str) -> str:
    return f"{prefix}{random.getrandbits(96):024x}"  # told apart, not kept secret: no question to the system for each


def string(value: Any) -> str:
    """Text from an upstream; null is none. Raises TypeError for anything else."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise TypeError("text expected")


def count(value: Any) -> int:
    """A number of tokens from an upstream; null is 0. Raises TypeError for anything else."""
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise TypeError("a number of tokens expected")


def mapping(value: Any) -> dict[str, Any]:
    """An object from an upstream; null is an empty one. Raises TypeError for anything else."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise TypeError("an object expected")


def _path(body: Any, error: Any) -> list[int | str]:
    """pydantic's place of an error less the names of a union's branches, which are not in the body."""
    return _walk(body, error["loc"], error["type"] == "missing")[1]


def _walk(here: Any, loc: tuple[int | str, ...], missing: bool) -> tuple[bool, list[int | str]]:
    """A branch can have the name of a field: of the two ways to read it, that which finds a use for the end of `loc` is meant."""
    if not loc:
        return True, []
    part, rest = loc[0], loc[1:]
    if not rest and missing and isinstance(here, dict):
        return True, [part]
    skipped = _walk(here, rest, missing) if rest else (False, [])
    if (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int) and part < len(here)):
        found, path = _walk(here[part], rest, missing)  # type: ignore[index]
        return max((found, [part, *path]), skipped, key=lambda way: (way[0], len(way[1])))
    return skipped


def _without(body: Any, path: list[int | str]) -> Any:
    """A copy in which what stands at `path` is left out; all beside the path is shared."""
    part = path[0]
    if len(path) == 1:
        return {key: value for key, value in body.items() if key != part}
    changed: Any = dict(body) if isinstance(body, dict) else list(body)
    changed[part] = _without(body[part], path[1:])
    return changed
