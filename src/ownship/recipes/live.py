"""`ownship watch`: runs in the terminal, as they go on: steps, curves, seconds, warnings and what the model says."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ownship.recipes.chart import log_suits, short
from ownship.recipes.past import Past, measured, number, opened, phases, taken, title

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_EVERY = 1.0  # seconds between two looks at the files
_RECENT = 10  # steps that the present pace is judged by
_QUIET = 60.0  # seconds without a line, at least, after which a run may have been stopped
_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
_LABEL = 20  # characters of a metric's title
_REPLY = 300  # characters that are shown of a reply: its beginning and its end


@dataclass(frozen=True)
class Live:
    """Watch runs in the terminal while they go on: steps, curves, seconds per phase, warnings, replies. q ends it."""

    runs: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folders of runs (what --out of sft, rl, … named)."""
    once: bool = False
    """Print how things stand and end. So it is where the output is no terminal."""


def run(config: Live) -> None:
    """Shows the runs until q is pressed. Raises UserError for a folder that holds no run, KeyboardInterrupt after Ctrl-C."""
    from rich.console import Console
    from rich.live import Live as Screen

    console = Console(highlight=False)
    runs = list(opened(config.runs, rollouts=1))
    if config.once or not sys.stdout.isatty():
        console.print(frame(runs, time.time(), console.width))
        return
    with _keys() as asked_to_end, Screen(console=console, screen=True, auto_refresh=False) as screen:
        while True:
            screen.update(frame(runs, time.time(), console.width, console.height), refresh=True)
            if asked_to_end(_EVERY):
                return
            for past in runs:
                past.follow()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Gives a function that waits at most so many seconds, and says whether q was pressed."""
    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError, termios.error):  # no keyboard, or no Unix: Ctrl-C ends it
        def wait(seconds: float) -> bool:
            time.sleep(seconds)
            return False

        yield wait
        return
    import select

    def asked_to_end(seconds: float) -> bool:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        keys = os.read(sys.stdin.fileno(), 64) if ready else b" "
        return not keys or b"q" in keys  # nothing at all: the terminal is gone

    try:
        tty.setcbreak(sys.stdin)
        yield asked_to_end
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def frame(runs: Sequence[Past], now: float, width: int, height: int | None = None) -> Group:
    """How things stand at `now` (seconds since 1970); with a height, as many of the curves as leave room for the rest."""
    from rich.console import Group
    from rich.text import Text

    colours = list(itertools.islice(itertools.cycle(_COLOURS), len(runs)))
    painted = list(zip(runs, colours, strict=True))
    tables = [_spent(painted)]
    for past, colour in painted:
        tables += [_doctor(past, colour), _replies(past, colour, some=4 if len(runs) == 1 else 2)]
    tables = [table for table in tables if table.row_count]
    room = None
    if height is not None:
        room = max(3, (height - 3 * len(runs) - sum(2 + 2 * table.row_count for table in tables)) // len(runs))
    curves = _curves(painted, width, room)
    parts = [_head(past, colour, now, width) for past, colour in painted]
    return Group(*parts, *(part for table in (curves, *tables) if table.row_count for part in (Text(), table)))


def _head(past: Past, colour: str, now: float, width: int) -> Text:
    """What a run is, how far it is, and how long it still takes."""
    from rich.text import Text

    end = _end(past)
    line = Text.assemble(("● ", colour), (_plain(past.name), "bold"), "  ", (_plain(past.asked), "dim"), "\n  ", no_wrap=True,
                         overflow="ellipsis")
    if end:
        done = round(min(past.step / end, 1.0) * (size := max(10, min(40, width // 3))))
        line.append("━" * done, colour).append("━" * (size - done), "bright_black").append("  ")
    line.append(f"step {past.step:,}" + (f" of {end:,}" if end else ""))
    return line.append("  " + _state(past, end, now))


def _end(past: Past) -> int | None:
    """The step at which the run ends: it says so itself where that is not what was asked for."""
    said = past.timings[-1].get("end") if past.timings else None
    asked = past.config.get("steps")
    return next((int(value) for value in (said, asked) if number(value)), None)


def _state(past: Past, end: int | None, now: float) -> str:
    if not past.metrics:
        return "has not finished a step yet"
    last, begun = past.written("metrics.jsonl"), past.written("config.json")
    if past.written("model") >= last:
        return "done"
    recent = [taken(line) for line in past.timings[-_RECENT:]]
    pace = sum(recent) / len(recent) if recent else 0.0
    if now - last > max(_QUIET, 10 * pace):
        return f"quiet for {lasting(now - last)}: stopped, or measuring"
    left = [max(0.0, (end - past.step) * pace - (now - last))] if end and pace else []
    if number(minutes := past.config.get("minutes")):
        left.append(max(0.0, begun + 60 * minutes - now))
    return f"about {lasting(min(left))} left" if left else ""


def lasting(seconds: float) -> str:
    """A stretch of time for people."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 6000 else f"{minutes // 1440} days"


def _curves(painted: Sequence[tuple[Past, str]], width: int, room: int | None) -> Table:
    """A curve for each metric and run, all runs of a metric on one scale; `room` bounds the metrics."""
    from rich.text import Text

    runs = [past for past, _ in painted]
    table, last, shown = _table("dim", "", "right"), max(past.step for past in runs), 0
    for name in measured(runs):
        label, _, share = title(name)
        series = [past.series(name) for past in runs]
        values = [value for points in series for _, value in points if math.isfinite(value)]
        if not any(values) or shown == room:
            continue  # 0 throughout: nothing was cut, clipped or left out
        shown += 1
        log = not share and log_suits(values)
        for index, points in enumerate(series):
            if points:
                first, now = (short(point[1], share) for point in (points[0], points[-1]))
                drawn = spark(points, (0.0, 1.0) if share else (min(values), max(values)), last, max(10, width - _LABEL - 26), log)
                table.add_row(_plain(label)[:_LABEL] if index == 0 else "", Text(drawn, painted[index][1]), f"{first} → {now}")
    return table


def spark(points: Sequence[tuple[float, float]], span: tuple[float, float], last: float, width: int, log: bool = False) -> str:
    """A curve from step 1 to step `last` in at most `width` characters. Between two steps that have a value the earlier one stands;
    what is not finite is left out."""
    width = min(width, math.ceil(last))
    columns: list[list[float]] = [[] for _ in range(width)]
    for step, value in points:
        if math.isfinite(value):
            columns[min(int((step - 1) / last * width), width - 1)].append(value)
    low, high = (math.log(value) for value in span) if log else span
    drawn, bar = "", " "
    for column in columns:
        if column:
            mean = sum(math.log(value) if log else value for value in column) / len(column)
            part = (mean - low) / (high - low) if high > low else 0.5
            bar = _BARS[min(int(max(part, 0.0) * len(_BARS)), len(_BARS) - 1)]
        drawn += bar
    end = max((at for at, column in enumerate(columns) if column), default=-1)
    return drawn[: end + 1]


def _spent(painted: Sequence[tuple[Past, str]]) -> Table:
    """Seconds of a step in each phase, and tokens per second, over the last steps."""
    from rich.text import Text

    table = _table("dim", "")
    for past, colour in painted:
        recent = past.timings[-_RECENT:]
        whole = sum(map(taken, recent))
        if not whole:
            continue
        spent = {phase: sum(line[phase] for line in recent if number(line.get(phase))) for phase in phases([past])}
        parts = [f"{_plain(phase)} {short(seconds / len(recent))} ({seconds / whole:.0%})" for phase, seconds in spent.items()]
        tokens = sum(line["tokens"] for line in recent if number(line.get("tokens")))
        parts += [f"{short(tokens / whole)} tokens/s"] if tokens else []
        table.add_row("" if table.row_count else "seconds a step", Text(" · ".join(parts), colour if len(painted) > 1 else ""))
    return table


def _doctor(past: Past, colour: str) -> Table:
    """What the doctor said last, and how often."""
    from rich.text import Text

    table = _table("yellow", "")
    if warnings := past.warnings:
        step = warnings[-1][0]
        steps = len({at for at, _ in warnings})
        for text in (text for at, text in warnings if at == step):
            label = "" if table.row_count else f"doctor, step {step:,}"
            table.add_row(label, Text(_plain(text)))
        if steps > 1:
            table.add_row("", Text(f"{steps:,} of {past.step:,} steps had a warning", colour))
    return table


def _replies(past: Past, colour: str, some: int) -> Table:
    """Some of the last replies, from the highest reward to the lowest."""
    from rich.text import Text

    table = _table(colour, "dim", "")
    if past.rollouts:
        line = past.rollouts[-1]
        ranked = sorted(((_reward(rollout), rollout) for rollout in line.get("rollouts", ())), key=lambda pair: -pair[0])
        for place in dict.fromkeys(round(at * (len(ranked) - 1) / (some - 1)) for at in range(some) if ranked):
            reward, rollout = ranked[place]
            said = [(message.get("role"), _plain(message.get("content"))) for message in rollout.get("messages", ())]
            asked = next((text for role, text in said if role == "user"), "")
            reply = " ▸ ".join(text for role, text in said if role not in ("user", "system"))
            label = "" if table.row_count else f"replies, step {line['step']:,}"
            table.add_row(label, f"{reward:.3g}", Text.assemble((_cut(asked, _REPLY // 4), "dim"), " → ", _cut(reply, _REPLY)))
    return table


def _reward(rollout: dict[str, Any]) -> float:
    return reward if number(reward := rollout.get("reward")) else 0.0


def _table(*styles: str) -> Table:
    """Columns without a frame; the first holds labels, a style "right" aligns a column."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for index, style in enumerate(styles):
        table.add_column(style="" if style == "right" else style, min_width=_LABEL if index == 0 else None, no_wrap=index == 0,
                         justify="right" if style == "right" else "left")
    return table


def _cut(text: str, most: int) -> str:
    """The beginning and the end: a reply's answer is mostly there."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def _plain(text: Any) -> str:
    """In one line, without anything that steers a terminal: it was written by a model, or stands in a file of someone else's."""
    return "".join(letter if letter.isprintable() else "�" for letter in " ".join(str(text).split()))
