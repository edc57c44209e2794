"""A run's curves as TensorBoard's event files: whoever lives in TensorBoard finds them there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ownship.errors import UserError, writing
from ownship.recipes.past import Past, number, taken

if TYPE_CHECKING:
    from collections.abc import Callable

_SUFFIX = ".ownship"  # of the files that are ours, and so may be replaced


def write(runs: Sequence[Past], folder: Path) -> Path:
    """Writes every number of every step, the doctor's warnings and the settings, each run into a folder of its own below `folder`,
    in place of what an earlier call wrote; returns `folder`. Raises UserError if the extra is not installed."""
    try:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter  # SummaryWriter's thread waits for ever when a disk is full
        from tensorboardX.proto.event_pb2 import Event
    except ImportError:
        raise UserError("TensorBoard's files need tensorboardX: pip install 'ownship[tensorboard]'") from None
    for past in runs:
        place = folder / past.name
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
            for before in place.glob(f"events.out.tfevents.*{_SUFFIX}"):
                before.unlink()
            file = EventsWriter(str(place / "events"), _SUFFIX)
            for value, step, at in _events(past, summary.scalar, summary.text):
                file.write_event(Event(summary=value, step=step, wall_time=at))
            file.close()
    return folder


def _events(past: Past, scalar: Callable[[str, float], Any], text: Callable[[str, str], Any]) -> Iterator[tuple[Any, int, float]]:
    """(summary, step, time)"""
    clock = _clock(past)
    yield text("settings", f"```json\n{json.dumps(past.config, indent=2)}\n```"), 0, min(clock.values())
    for line in past.metrics:
        at = line["step"], clock[line["step"]]
        yield from ((scalar(name, value), *at) for name, value in _numbers(line))
        yield from ((text("doctor", warning), *at) for warning in line.get("doctor", ()))
    for line in past.timings:
        if line["step"] in clock:  # else the line of metrics is not there yet
            yield from ((scalar(f"timings/{name}", value), line["step"], clock[line["step"]]) for name, value in _numbers(line))


def _numbers(line: dict[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{before}{name}/")
        elif number(value) and name != "step":
            yield before + name, value


def _clock(past: Past) -> dict[float, float]:
    """When each step was finished, in seconds since 1970: the lines keep no time of day, for the same run gives the same lines. So
    the last step was finished when its file was last written, and between the steps lies what they took."""
    seconds = {line["step"]: taken(line) for line in past.timings}
    steps = [line["step"] for line in past.metrics]
    sums = list(accumulate(seconds.get(step, 0.0) for step in steps))
    end = past.written("metrics.jsonl")
    return {step: end - sums[-1] + passed for step, passed in zip(steps, sums, strict=True)}
