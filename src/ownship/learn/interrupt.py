"""Ctrl-C that loses nothing."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; raised at the next place where stopping loses nothing."""


class Interruptible:
    """`with Interruptible() as stop:` turns Ctrl-C and SIGTERM into a flag that `stop.check()` raises as Interrupted.

    A second Ctrl-C acts at once, as usual.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def check(self, _: object = None) -> None:
        """To be called often, wherever the state on disk and in memory is whole."""
        if self._asked:
            raise Interrupted

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        for known, before in self._before.items():
            signal.signal(known, before)

    def __enter__(self) -> Interruptible:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
