"""`ownship report`: one static page about a run, or several compared: curves, warnings, settings, and what the model said."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated, Any

import tyro

from ownship.errors import UserError
from ownship.recipes.chart import Curve, chart, log_suits, short
from ownship.recipes.document import document
from ownship.recipes.past import Past, measured, opened, phases, taken, title
from ownship.recipes.replies import REPLIES_STYLE, replies

COLOURS = 6  # runs that can be told apart; the page's style names --run0 to --run5
_PAINTS = [f"var(--run{index})" for index in range(COLOURS)]


@dataclass(frozen=True)
class Report:
    """Write a page about a run, or several compared: curves, warnings, settings, samples."""

    runs: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folders of runs (what --out of sft, rl, … named)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The page: one file, to be opened in a browser or sent to someone."""
    tensorboard: Path | None = None
    """Instead of the page, write TensorBoard's event files into this folder, below it one folder for each run."""


def run(config: Report) -> Path:
    """Writes the page, or the event files; returns where. Raises UserError for a folder that holds no run, or one without a
    finished step."""
    if len(config.runs) > COLOURS and config.tensorboard is None:
        raise UserError(f"at most {COLOURS} runs can be told apart on one page, not {len(config.runs)}")
    runs = list(opened(config.runs))
    for past in runs:
        if not past.metrics:
            raise UserError(f"{past.folder}: this run has not finished a step yet")
    if config.tensorboard is not None:
        from ownship.recipes import tensorboard

        return tensorboard.write(runs, config.tensorboard)
    heading = " · ".join(past.name for past in runs)
    body = [f"<h1>{escape(heading)}</h1>", f'<p class="lead">{_counted(len(runs), "run")}, as on disk when this page was made</p>',
            '<div class="runs">', *map(_card, runs, _PAINTS), "</div>", _doctor(runs), _curves(runs), _settings(runs)]
    body += [replies(past.name, paint, past.rollouts) for past, paint in zip(runs, _PAINTS, strict=False)]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(document(f"Ownship: {heading}", _STYLE + REPLIES_STYLE, "\n".join(filter(None, body))), encoding="utf-8")
    return config.out


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


# Parts of the page


def _card(past: Past, paint: str) -> str:
    """Where a run stands: its best-known figure at the beginning and at the end."""
    figure = next(name for name in ("solve_rate", "bits_per_byte", "accuracy", "loss", *past.metrics[0]) if past.series(name))
    values = [value for _, value in past.series(figure)]
    some = math.ceil(len(values) / 10)
    label, _, share = title(figure)
    first, last = (short(sum(part) / some, share) for part in (values[:some], values[-some:]))
    seconds, warned = sum(map(taken, past.timings)), len({step for step, _ in past.warnings})
    lasted = f" · {seconds / 60:.1f} min" if seconds >= 60 else f" · {seconds:.0f} s" if seconds else ""
    facts = _counted(past.step, "step") + lasted
    doctor = f'<span class="ill">{_counted(warned, "step")} with warnings</span>' if warned else ""
    return (f'<div class="run" style="--c:{paint}"><b>{escape(past.name)}</b><small>{escape(past.asked)}</small>'
            f"<strong>{first} → {last}</strong><small>{escape(label.lower())}, first and last tenth</small>"
            f"<small>{facts}</small>{doctor}</div>")


def _doctor(runs: Sequence[Past]) -> str:
    """The warnings of each kind on the axis of steps."""
    rows = []
    last = max(past.step for past in runs)
    for past, paint in zip(runs, _PAINTS, strict=False):
        kinds: dict[str, list[tuple[int, str]]] = {}
        for step, text in past.warnings:
            kinds.setdefault(_kind(text), []).append((step, text))
        for kind, found in kinds.items():
            width = max(1000 / last, 3)
            marks = "".join(f'<rect x="{1000 * (step - 1) / last:.1f}" y="0" width="{width:.1f}" height="16">'
                            f"<title>step {step}: {escape(text)}</title></rect>" for step, text in found)
            steps = f"{len(found)} steps, {found[0][0]} to {found[-1][0]}" if len(found) > 1 else f"step {found[0][0]}"
            rows.append(f'<div class="ailment" style="--c:{paint}"><p><b>{escape(kind)}</b>'
                        f' <small>{escape(past.name)}, {steps}</small></p>'
                        f'<svg viewBox="0 0 1000 16" preserveAspectRatio="none">{marks}</svg>'
                        f"<small>{escape(found[-1][1])}</small></div>")
    healthy = '<p class="well">No warnings.</p>' if any("doctor" in line for past in runs for line in past.metrics) else ""
    content = "\n".join(rows) or healthy
    return f'<h2>The doctor</h2><section class="card">{content}</section>' if content else ""


def _kind(warning: str) -> str:
    """What a warning says without its figures."""
    return re.sub(r"\d[\d.]*%?", "…", re.split(r"[:;(]", warning)[0]).strip()


def _curves(runs: Sequence[Past]) -> str:
    """A chart for each number that any of the runs measured."""
    painted = list(zip(runs, _PAINTS, strict=False))
    charts = []
    for name in measured(runs):
        curves = [Curve(past.name, paint, past.series(name), [step for step, _ in past.warnings]) for past, paint in painted]
        if not any(value for curve in curves for _, value in curve.points):
            continue  # 0 throughout: nothing was cut, clipped or left out
        label, note, share = title(name)
        log = not share and log_suits([value for curve in curves for _, value in curve.points])
        charts.append(chart(label, note, curves, log, share))
    charts[1:1] = [_levels(past, len(runs) > 1) for past in runs]
    charts += [chart(f"Seconds: {phase}", "per step", [Curve(past.name, paint, past.seconds(phase)) for past, paint in painted])
               for phase in phases(runs)]
    legend = "".join(f'<span style="--c:{paint}">{escape(past.name)}</span>' for past, paint in painted) if len(runs) > 1 else ""
    marks = '<span class="warned">a step with a warning</span>' if any(past.warnings for past in runs) else ""
    return f'<h2>Curves</h2><p class="legend">{legend}{marks}</p><div class="charts">{"".join(charts)}</div>'


def _levels(past: Past, several: bool) -> str:
    """Solve rates by level of difficulty, as the curriculum knows them."""
    levels = sorted({level for line in past.metrics for level in line.get("rates", ())}, key=lambda text: (len(text), text))
    shades = [f"color-mix(in oklab, var(--run0) {100 - 100 * at / max(len(levels) - 1, 1):.0f}%, var(--run1))"
              for at in range(len(levels))]
    curves = [Curve(f"level {level}", shade, [(line["step"], line["rates"][level]) for line in past.metrics
                                              if level in line.get("rates", ())])
              for level, shade in zip(levels, shades, strict=True)]
    names = f"{levels[0]} (first colour) to {levels[-1]}" if len(levels) > 1 else "".join(levels)
    return chart("By level" + (f", {past.name}" if several else ""), f"solve rate at level {names}", curves, share=True)


def _settings(runs: Sequence[Past]) -> str:
    """What was asked; with several runs what differs first."""
    flat = [dict(_flatten(past.config)) for past in runs]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    differ = [key for key in keys if len({repr(each.get(key)) for each in flat}) > 1]
    head = "".join(f'<th style="--c:{paint}">{escape(past.name)}</th>' for past, paint in zip(runs, _PAINTS, strict=False))

    def table(rows: Sequence[str]) -> str:
        cells = {key: "".join(f"<td>{escape(_shown(each.get(key)))}</td>" for each in flat) for key in rows}
        lines = "".join(f"<tr><th>{escape(key)}</th>{cells[key]}</tr>" for key in rows)
        return f'<div class="wide"><table><tr><th></th>{head}</tr>{lines}</table></div>'

    same = [key for key in keys if key not in differ]
    if len(runs) == 1:
        return f'<h2>Settings</h2><section class="card">{table(keys)}</section>'
    return (f'<h2>Settings that differ</h2><section class="card">{table(differ)}'
            f"<details><summary>{len(same)} that are the same</summary>{table(same)}</details></section>")


def _flatten(config: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{before}{key}.")
        else:
            yield before + key, value


def _shown(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


_STYLE = """
:root { --run0: #2f6fde; --run1: #c2417c; --run2: #12937f; --run3: #8a55d7; --run4: #7a7f2a; --run5: #9a5b3c; }
@media (prefers-color-scheme: dark) { :root { --run0: #6ea3ff; --run1: #f07fb0; --run2: #4fd0bb; --run3: #b794f4;
  --run4: #c0c56a; --run5: #d99b7c; } }
h1 { overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 40px 0 12px; letter-spacing: -.01em; }
.card, .run, .chart { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.card { padding: 14px 18px; }
small { color: var(--quiet); font-size: .82rem; }
.runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 14px; }
.run { padding: 14px 18px; border-top: 3px solid var(--c); min-width: 0; overflow-wrap: anywhere; }
.run > * { display: block; } .run strong { font-size: 1.5rem; letter-spacing: -.02em; margin-top: 6px; }
.ill { color: var(--warn); font-size: .82rem; }
.ailment + .ailment { margin-top: 16px; } .ailment p { margin: 0 0 4px; }
.ailment b { font-weight: 600; }
.ailment b::before { content: ""; display: inline-block; width: 9px; height: 9px; margin-right: 7px; border-radius: 50%;
  background: var(--c); }
.ailment svg { display: block; width: 100%; height: 16px; background: var(--paper); border-radius: 4px; }
.ailment rect { fill: var(--warn); }
.well { color: var(--good); margin: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 12px; font-size: .88rem; }
.legend span::before { content: ""; display: inline-block; width: 16px; height: 3px; border-radius: 2px; margin: 0 7px 3px 0;
  background: var(--c); }
.legend .warned::before { width: 2px; height: 8px; margin: 0 8px 0 4px; background: var(--warn); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 14px; }
.chart { margin: 0; padding: 12px 10px 4px; } .chart svg { display: block; width: 100%; height: auto; }
figcaption { padding: 0 6px 4px; line-height: 1.3; } figcaption b { font-weight: 600; font-size: .95rem; }
figcaption span { display: block; min-height: 1.3em; color: var(--quiet); font-size: .8rem; }
figcaption i { color: var(--quiet); font-size: .75rem; margin-left: 8px; }
.grid { stroke: var(--line); fill: none; } .tick { fill: var(--quiet); font: 10.5px system-ui, sans-serif; }
.mark { stroke: var(--warn); stroke-width: 2; }
.curve { stroke: var(--c); stroke-width: 2; fill: none; stroke-linejoin: round; } .faint { opacity: .28; stroke-width: 1; }
.dot { fill: var(--c); } .hit { fill: transparent; } .hit:hover { fill: var(--c); fill-opacity: .5; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; }
th { text-align: left; font-weight: 500; color: var(--quiet); white-space: nowrap; }
td { min-width: 90px; overflow-wrap: anywhere; } td, th { padding: 4px 22px 4px 0; vertical-align: top; }
tr + tr td, tr + tr th { border-top: 1px solid var(--line); }
tr:first-child th { color: var(--ink); border-bottom: 2px solid var(--c, transparent); }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--quiet); font-size: .88rem; }
"""
