"""Upstreams that do what a script says, and an event loop whose clock jumps to the next timer: hours of waiting in no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ownship.gateway.types import (
    Event,
    Finished,
    GatewayError,
    Message,
    Request,
    Started,
    Text,
    TextDelta,
    Usage,
    Used,
)

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Never sleeps: moves the loop's clock on instead."""

    loop: Loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits and nothing will ever happen")
        if not ready and timeout:
            self.loop.clock += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = 1000.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.clock


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, on the clock that jumps."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)


@dataclass(frozen=True)
class Wait:
    """A step of a script: seconds pass."""

    seconds: float


Step = Event | Exception | Wait


def reply(text: str = "hello", model: str = "m", tokens: int = 3) -> list[Step]:
    return [Started(model), TextDelta(0, text), Finished(0, "stop"), Used(Usage(5, tokens))]


def busy(status: int = 503, retry_after: float | None = None, code: str | None = None) -> GatewayError:
    kinds = {429: "rate_limit", 504: "timeout", 400: "invalid", 401: "authentication"}
    return GatewayError(status, kinds.get(status, "upstream"), "no", code=code, retry_after=retry_after)  # type: ignore[arg-type]


@dataclass
class Scripted:
    """Plays `scripts` in turn, the last one for ever. Counts what it was asked and whether every stream was closed."""

    scripts: list[list[Step]]
    requests: list[Request] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    running: int = 0
    most: int = 0
    closed: bool = False

    async def stream(self, request: Request, deadline: float | None = None) -> AsyncIterator[Event]:
        script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for step in script:
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.running -= 1

    async def count(self, request: Request) -> int:
        return 7

    async def close(self) -> None:
        self.closed = True


def ask(model: str = "a", **more: Any) -> Request:
    return Request(model, **{"messages": (Message("user", (Text("hi"),)),), **more})


async def collect(stream: AsyncIterator[Event], each: Callable[[Event], None] = lambda event: None) -> list[Event]:
    events = []
    async for event in stream:
        each(event)
        events.append(event)
    return events


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))
