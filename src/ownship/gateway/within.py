"""A bound on waiting that costs nothing where nobody has to wait: most events of a stream are there when they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def within(work: Awaitable[T], until: float) -> T:
    """What `work` gives. Raises TimeoutError if it still waits at `until` (on the loop's clock)."""
    steps = work.__await__()
    try:
        waits_for = next(steps)
    except StopIteration as end:
        return end.value
    async with asyncio.timeout_at(until):
        return await _Rest(steps, waits_for)


class _Rest(Awaitable[T]):
    """What is left of an awaitable after its first step, which waits for `waits_for`."""

    def __init__(self, steps: Generator[Any, Any, T], waits_for: Any) -> None:
        self.steps, self.waits_for = steps, waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        while True:
            try:
                try:
                    sent = yield self.waits_for
                except BaseException as error:
                    self.waits_for = self.steps.throw(error)
                else:
                    self.waits_for = self.steps.send(sent)
            except StopIteration as end:
                return end.value
