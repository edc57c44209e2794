"""Progress on the screen: what runs, how far it is, how long it still takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ownship.learn.interrupt import Interruptible


class Watch:
    """A bar of `total` steps and, beneath it, the phase that runs. Without a terminal: one line per step.

    `until` (on `time.monotonic`) is the moment at which the run ends at the latest; the bar then shows time, not steps.
    """

    def __init__(self, title: str, total: int, done: int = 0, until: float | None = None) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=self._console, disable=not self._console.is_terminal)
        self._began, self._until = time.monotonic(), until
        if until is not None:
            total, done = round(max(until - self._began, 1)), 0
        self._bar = self._progress.add_task(title, total=total, completed=done, note="")
        self._title, self._tokens, self._since = title, 0, time.perf_counter()

    def sampled(self, stop: Interruptible) -> Callable[[int], None]:
        """A callback for the engine's progress."""
        return self._phase("sampling", stop)

    def learned(self, stop: Interruptible) -> Callable[[int], None]:
        """A callback for the learner's progress."""
        return self._phase("learning", stop)

    def measured(self, name: str = "measuring", stop: Interruptible | None = None) -> Callable[[int], None]:
        """A callback for passes that only measure."""
        return self._phase(name, stop)

    def _phase(self, name: str, stop: Interruptible | None) -> Callable[[int], None]:
        self._tokens, self._since = 0, time.perf_counter()

        def tick(tokens: int) -> None:
            if stop is not None:
                stop.check()
            self._tokens += tokens
            rate = self._tokens / max(time.perf_counter() - self._since, 1e-3)
            self._progress.update(self._bar, note=f"{name} {self._tokens:,} tokens, {rate:,.0f}/s")
            self._show_time()

        return tick

    def _show_time(self) -> None:
        if self._until is not None:
            self._progress.update(self._bar, completed=round(time.monotonic() - self._began))

    def answered(self, right: int, done: int) -> None:
        """How many of the tasks done so far were solved."""
        note = f"{right / max(done, 1):.1%} right so far"
        self._progress.update(self._bar, completed=done, note=note)
        if not self._console.is_terminal:
            self._console.print(f"{self._title} {done:4} done, {note}")

    def step(self, done: int, metrics: Mapping[str, float], warnings: Sequence[str] = ()) -> None:
        """One finished step, its metrics and the doctor's warnings."""
        names = ("loss", "bits_per_byte", "held_out_loss", "margin", "accuracy", "reward", "solve_rate", "flat_groups", "entropy",
                 "mismatch", "grad_norm")
        shown = "  ".join(f"{name} {metrics[name]:.3g}" for name in names if name in metrics)
        self._progress.update(self._bar, completed=None if self._until is not None else done)
        self._console.print(f"[dim]{self._title}[/] {done:4}  {shown}", soft_wrap=True)
        for warning in warnings:
            self._console.print(f"[yellow]doctor:[/] {warning}", soft_wrap=True)

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
