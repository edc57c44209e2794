"""What the demo leaves to look at: a picture of the learning curve and a page of replies before and after. Static files."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from ownship.recipes.document import document

_STAGES = {"base": "as it came", "cold_start": "cold start", "rl": "after RL"}


def curve(folder: Path, report: dict[str, Any]) -> None:
    """curve.png: held-out accuracy of the three stages with intervals, and the solve rate of each length as RL goes on."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    ink, quiet, colours = "#1c2733", "#6b7a89", ["#9fb3c8", "#5b8def", "#f2994a"]
    plt.rcParams.update({"font.size": 11, "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": quiet,
                         "xtick.color": quiet, "ytick.color": quiet, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[1, 1.7], layout="constrained")
    for place, (name, colour) in enumerate(zip(_STAGES, colours, strict=True)):
        share, (low, high) = report[name]["accuracy"], report[name]["ci95"]
        left.bar(place, share, color=colour, width=0.62)
        left.errorbar(place, share, [[max(share - low, 0)], [max(high - share, 0)]], color=ink, capsize=4, lw=1.4)
        left.text(place, high + 0.03, f"{share:.0%}", ha="center", weight="bold")
    left.set_xticks(range(3), list(_STAGES.values()))
    left.set_ylim(0, 1.08)
    left.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    left.set_title(f"Solved of {report['held_out']} held-out tasks", loc="left", fontsize=11)

    metrics = [json.loads(line) for line in (folder / "rl" / "metrics.jsonl").read_text().splitlines()]
    levels = sorted({int(level) for step in metrics for level in step["rates"]})
    shades = plt.get_cmap("viridis")
    for index, level in enumerate(levels):
        points = [(step["step"], step["rates"][str(level)]) for step in metrics if str(level) in step["rates"]]
        shade = shades(0.1 + 0.8 * index / max(len(levels) - 1, 1))
        right.plot([x for x, _ in points], [y for _, y in points], color=shade, lw=2, label=str(level))
    right.set_ylim(0, 1.02)
    right.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    right.set_xlabel("RL step")
    right.set_title("Solve rate while sampling, by length of the sum", loc="left", fontsize=11)
    right.legend(frameon=False, ncols=2, title="numbers", loc="lower right")
    figure.savefig(folder / "curve.png", dpi=130)
    plt.close(figure)


def rollouts(folder: Path, report: dict[str, Any], shown: int = 40) -> None:
    """rollouts.html: the same held-out tasks answered before and after. Everything a model wrote is escaped."""
    stages = {name: [json.loads(line) for line in (folder / f"{name}.rollouts.jsonl").read_text().splitlines()] for name in _STAGES}
    cards = []
    for replies in list(zip(*stages.values(), strict=True))[:shown]:
        answers = "".join(
            f'<div class="{"right" if reply["reward"] == 1 else "wrong"}"><b>{label}</b>'
            f"<p>{escape(reply['messages'][-1]['content']) or '<i>(nothing)</i>'}</p></div>"
            for label, reply in zip(_STAGES.values(), replies, strict=True))
        question, expected = escape(replies[0]["messages"][0]["content"]), escape(replies[0]["answer"])
        cards.append(f'<section><h2>{question}</h2><p class="key">Expected: <code>{expected}</code></p>'
                     f'<div class="row">{answers}</div></section>')
    figures = "".join(
        f'<div class="figure"><strong>{report[name]["accuracy"]:.1%}</strong><span>{label}</span>'
        f"<small>{report[name]['ci95'][0]:.1%} – {report[name]['ci95'][1]:.1%}</small></div>" for name, label in _STAGES.items())
    body = _BODY.format(task=escape(report["task"]), held_out=report["held_out"], steps=report["rl_steps"], figures=figures,
                        minutes=f"{report['seconds']['total'] / 60:.1f}", shown=len(cards), cards="\n".join(cards))
    (folder / "rollouts.html").write_text(document("Ownship demo: before and after", _STYLE, body), encoding="utf-8")


_STYLE = """
.figures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 14px; margin-bottom: 24px; }
.figure, section, img { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.figure { padding: 16px 18px; }
.figure strong { display: block; font-size: 1.8rem; letter-spacing: -.02em; }
.figure span { display: block; } .figure small, .key { color: var(--quiet); }
img { width: 100%; height: auto; margin-bottom: 34px; background: #fff; }
section { padding: 16px 18px; margin-bottom: 14px; }
h2 { font-size: 1rem; margin: 0; } .key { margin: 2px 0 12px; font-size: .9rem; }
.row p { font: .88rem/1.45 ui-monospace, monospace; }
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px; }
.row div { border-left: 3px solid var(--line); padding-left: 10px; min-width: 0; }
.row b { font-size: .8rem; font-weight: 600; color: var(--quiet); }
.row p { margin: 2px 0 0; overflow-wrap: anywhere; white-space: pre-line; }
.row .right { border-color: var(--good); } .row .right b::after { content: "  ✓"; color: var(--good); }
.row .wrong { border-color: var(--bad); } .row .wrong b::after { content: "  ✗"; color: var(--bad); }
@media (max-width: 680px) { .row { grid-template-columns: 1fr; } .figure { padding: 12px; }
  .figure strong { font-size: 1.3rem; } }
"""

_BODY = """<h1>Before and after</h1>
<p class="lead">{shown} of {held_out} held-out tasks ({task}), greedy replies.
{steps} steps of reinforcement learning, {minutes} minutes in all.</p>
<div class="figures">{figures}</div>
<img src="curve.png" alt="Held-out accuracy by stage, and solve rate by number of items over the RL steps">
{cards}"""
