"""Sampling ahead of learning: a thread draws the batches of later steps while the learner is at an earlier one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

B = TypeVar("B")


class Ahead(Generic[B]):
    """`with Ahead(draw, first, end, stale) as ahead:` draws the batches of steps first … end − 1, in order, in a thread.

    Version v of the weights is the one that step v begins with; version `first` is there. `draw(step, tick)` is begun as soon as
    version step − stale is there, and is to take the newest weights that are: so they are at most `stale` versions older than those
    that learn from the batch. It must call `tick` often, with the tokens drawn since; `tick` raises once the block has ended.
    """

    def __init__(self, draw: Callable[[int, Callable[[int], None]], B], first: int, end: int, stale: int) -> None:
        self._draw, self._steps, self._stale = draw, range(first, end), stale
        self._newest, self._drawn, self._tokens, self._ended = first, deque[B](), 0, False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="sampling ahead", daemon=True)

    def published(self, version: int) -> None:
        """This version of the weights is there."""
        with self._changed:
            self._newest = version
            self._changed.notify_all()

    def next(self, tick: Callable[[int], None]) -> B:
        """The next step's batch. Until it is there, `tick` is told several times a second how many tokens were drawn; what it
        raises ends the wait. Raises what `draw` raised."""
        while True:
            with self._changed:
                if not self._drawn and self._error is None:
                    self._changed.wait(0.1)
                tokens, self._tokens = self._tokens, 0
                batch = self._drawn.popleft() if self._drawn else None
            tick(tokens)
            if batch is not None:
                return batch
            if self._error is not None:
                raise self._error

    def _run(self) -> None:
        try:
            for step in self._steps:
                with self._changed:
                    while not self._ended and self._newest < step - self._stale:
                        self._changed.wait()
                self._tick(0)
                batch = self._draw(step, self._tick)
                with self._changed:
                    self._drawn.append(batch)
                    self._changed.notify_all()
        except _Ended:
            pass
        except BaseException as error:  # it belongs to whoever waits for the batch
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _tick(self, tokens: int) -> None:
        with self._changed:
            self._tokens += tokens
            if self._ended:
                raise _Ended

    def __enter__(self) -> Ahead[B]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()


class _Ended(Exception):
    """Nobody waits for the batch any more."""
