"""Line charts as inline SVG: curves of several runs over the same axis. Colours are CSS variables, so a page's theme is theirs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 10, 26
_MOST = 400  # points of a curve: more would not be seen
_SMOOTH = 20  # a zigzag of so many points is drawn faintly, and its running mean over it

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One line: `colour` is any CSS colour, `marks` are steps to be marked under the axis."""

    name: str
    colour: str
    points: Sequence[Point]
    marks: Sequence[float] = ()


def chart(title: str, note: str, curves: Sequence[Curve], log: bool = False, share: bool = False) -> str:
    """A figure with its title and what it means. `log`: of the values; `share`: they are 0 to 1, shown as per cent.

    Values that are not finite leave a gap; on a logarithmic axis so do those that are not positive. With nothing to draw: "".
    """
    kept = [Curve(curve.name, curve.colour, _thin([p for p in curve.points if _drawable(p[1], log)]), curve.marks)
            for curve in curves]
    kept = [curve for curve in kept if curve.points]
    if not kept:
        return ""
    xs = [x for curve in kept for x, _ in curve.points]
    ys = [y for curve in kept for _, y in curve.points]
    left, right = min(xs), max(max(xs), min(xs) + 1)
    low, high, ticks = (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]) if share else _log_axis(ys) if log else _axis(ys)

    def across(x: float) -> float:
        return _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        part = math.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    shapes = []
    for y in ticks:
        shapes.append(f'<path class="grid" d="M{_LEFT} {up(y):.1f}H{_WIDTH - _RIGHT}"/>'
                      f'<text class="tick" x="{_LEFT - 6}" y="{up(y) + 3.5:.1f}" text-anchor="end">{short(y, share)}</text>')
    for x in _steps(left, right):
        shapes.append(f'<text class="tick" x="{across(x):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{short(x)}</text>')
    for curve in kept:
        for x in curve.marks:
            if left <= x <= right:
                shapes.append(f'<path class="mark" d="M{across(x):.1f} {_HEIGHT - _BOTTOM + 1}v5"/>')
        shapes.append(_line(curve, [(across(x), up(y)) for x, y in curve.points], log, share))
    last = "; ".join(f"{curve.name}: {short(curve.points[-1][1], share)}" for curve in kept)
    scale = "<i>log</i>" if log else ""
    return (f'<figure class="chart"><figcaption><b>{escape(title)}</b>{scale}<span>{escape(note)}</span></figcaption>'
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}, at the end {escape(last)}">'
            f"{''.join(shapes)}</svg></figure>")


def short(value: float, share: bool = False) -> str:
    """A number in few characters: 12k, 0.034, 2e-5, 45 %."""
    if share:
        return f"{100 * value:.3g} %"
    size = abs(value)
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= scale:
            return f"{value / (1e3 if unit == 'k' else scale):.3g}{unit}"
    return f"{value:.4g}" if size >= 1000 else re.sub("e([-+])0", r"e\1", f"{value:.3g}")


def log_suits(values: Sequence[float]) -> bool:
    """Whether values are better seen on a logarithmic axis: all positive, over more than a factor of 30."""
    seen = [value for value in values if math.isfinite(value)]
    return bool(seen) and min(seen) > 0 and max(seen) > 30 * min(seen)


def _line(curve: Curve, places: Sequence[Point], log: bool, share: bool) -> str:
    paint = f'style="--c:{escape(curve.colour)}"'
    smooth = len(places) >= _SMOOTH and _zigzag([y for _, y in places])
    shapes = [f'<path class="curve{" faint" if smooth else ""}" {paint} d="{_path(places)}"/>']
    if smooth:
        shapes.append(f'<path class="curve" {paint} d="{_path(_running_mean(places))}"/>')
    # Every point says its value when it is pointed at; one lone point is visible.
    width = max((_WIDTH - _LEFT - _RIGHT) / len(places), 2.0)
    for (x, y), (step, value) in zip(places, curve.points, strict=True):
        label = f"{curve.name}, step {short(step)}: {short(value, share)}"
        shapes.append(f'<circle class="{"dot" if len(places) == 1 else "hit"}" {paint} cx="{x:.1f}" cy="{y:.1f}"'
                      f' r="{3 if len(places) == 1 else min(width, 7):.1f}"><title>{escape(label)}</title></circle>')
    return "".join(shapes)


def _zigzag(values: Sequence[float]) -> bool:
    """Whether the way up and down is much longer than the way from the lowest to the highest."""
    way = sum(abs(after - before) for before, after in itertools.pairwise(values))
    return way > 3 * (max(values) - min(values))


def _path(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _running_mean(places: Sequence[Point]) -> list[Point]:
    """Exponential, over about a tenth of the curve."""
    keep = 1 - 1 / max(len(places) / 12, 2)
    result, mean, weight = [], 0.0, 0.0
    for x, y in places:
        mean, weight = keep * mean + (1 - keep) * y, keep * weight + (1 - keep)
        result.append((x, mean / weight))
    return result


def _drawable(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most _MOST points: means of neighbours."""
    size = math.ceil(len(points) / _MOST)
    parts = [points[at : at + size] for at in range(0, len(points), size)] if size > 1 else []
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts] or list(points)


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Bounds and about five round ticks."""
    low, high = min(values), max(values)
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    if high - low < 1e-12 * max(abs(high), 1e-300):
        low, high = min(low, 0.0), max(high, 0.0) or float(low == 0)
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return first * step, last * step, [index * step for index in range(first, last + 1)]


def _log_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    low, high = min(values), max(values)
    low, high = (low / 2, high * 2) if high < 1.5 * low else (low / 1.1, high * 1.1)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = math.log10(high / low) < 2
    ticks = [factor * 10.0**decade for decade in decades for factor in ((1, 2, 5) if few else (1,))]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return low, high, ticks[:: max(1, math.ceil(len(ticks) / 6))]


def _steps(left: float, right: float) -> list[float]:
    """Whole numbers, round ones, with both ends in view."""
    step = max(_round_step((right - left) / 4), 1.0)
    return [step * index for index in range(math.ceil(left / step), math.floor(right / step) + 1)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999) * power
