"""The local engine for tests that are not coroutines themselves: an event loop in a thread, and replies put together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ownship.gateway.engine_process import EngineProcess
from ownship.gateway.local import Local
from ownship.gateway.types import (
    Event,
    Finished,
    Message,
    PromptScores,
    ReasoningDelta,
    Request,
    Started,
    Text,
    TextDelta,
    TokenScore,
    ToolDelta,
    Usage,
    Used,
)

T = TypeVar("T")


class Loop:
    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)


LOOP = Loop()


@dataclass
class Call:
    id: str
    name: str
    arguments: str = ""


@dataclass
class Choice:
    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    prompt: PromptScores | None = None
    finish: str | None = None
    stop: str | None = None


@dataclass
class Reply:
    """A whole stream; the order that every stream keeps is checked on the way."""

    choices: list[Choice]
    usage: Usage = field(default_factory=Usage)


def put_together(events: Sequence[Event], n: int = 1) -> Reply:
    reply = Reply([Choice() for _ in range(n)])
    assert isinstance(events[0], Started) and isinstance(events[-1], Used)
    reply.usage = events[-1].usage
    for event in events[1:-1]:
        assert not isinstance(event, Started | Used)
        choice = reply.choices[event.index]
        assert choice.finish is None, "an event after the end"
        match event:
            case TextDelta():
                choice.text += event.text
                choice.scores += event.scores
            case ReasoningDelta():
                assert not choice.text and not choice.calls
                choice.reasoning += event.text
            case ToolDelta():
                if event.id is not None:
                    assert event.name is not None and event.call == len(choice.calls)
                    choice.calls.append(Call(event.id, event.name))
                choice.calls[event.call].arguments += event.arguments
            case PromptScores():
                assert not choice.text
                choice.prompt = event
            case Finished():
                choice.finish, choice.stop = event.reason, event.stop
    assert all(choice.finish is not None for choice in reply.choices)
    return reply


@dataclass
class Door:
    engine: EngineProcess
    local: Local

    def events(self, request: Request) -> list[Event]:
        async def collect() -> list[Event]:
            return [event async for event in self.local.stream(request)]

        return LOOP.run(collect())

    def ask(self, **request: Any) -> Reply:
        wanted = Request("any", **request)
        return put_together(self.events(wanted), wanted.n)


@contextmanager
def opened(model: str, **options: Any) -> Iterator[Door]:
    async def start() -> EngineProcess:
        engine = EngineProcess(model, **options)
        engine.start()
        return engine

    engine = LOOP.run(start())
    try:
        LOOP.run(engine.ready())
        yield Door(engine, Local(engine, "tiny"))
    finally:
        LOOP.run(engine.close())


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", (Text(text),)),)
