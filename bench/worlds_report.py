"""The reports of `ownship world-train` with several seeds as one: docs/results/worlds.json and worlds-curve.png.

    python bench/worlds_report.py runs/worlds-0 runs/worlds-1 runs/worlds-2 --out docs/results/worlds.json

The first run has the baselines, which no seed changes (the others are made with --no-baselines).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

KEPT = ("satisfaction", "ci95", "met_in_full", "met_ci95", "solvable", "parts", "by", "tasks")


def _brief(found: dict[str, Any]) -> dict[str, Any]:
    short = {name: found[name] for name in KEPT if name in found}
    if "new_wording" in found:
        short["new_wording"] = {name: found["new_wording"][name] for name in KEPT[:6]}
    return short


def picture(reports: list[dict[str, Any]], out: Path) -> None:
    """Satisfaction over the minutes of training, a line per seed, the last point with its interval; the baselines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.4), layout="constrained")
    before = reports[0]["untrained"]["satisfaction"]
    for report in reports:
        points = [(0.0, before), *((point["seconds"] / 60, point["satisfaction"]) for point in report["curve"] if point["steps"])]
        end = report["trained"]
        points[-1] = (points[-1][0], end["satisfaction"])
        line, = axes.plot(*zip(*[(x, 100 * y) for x, y in points], strict=True), marker="o", label=f"seed {report['seed']}")
        for found, mark in ((end, "o"), (end["new_wording"], "s")):
            value, (low, high) = 100 * found["satisfaction"], (100 * bound for bound in found["ci95"])
            axes.errorbar([points[-1][0]], [value], [[value - low], [high - value]], fmt=mark, capsize=4, color=line.get_color())
    axes.plot([], [], "ks", label="wordings never trained on")
    for name, style in (("own", ":"), ("scripted", "--"), ("random", "-.")):
        axes.axhline(100 * reports[0][name]["satisfaction"], linestyle=style, color="grey", label=name)
    axes.axhline(100 * reports[0]["scripted"]["new_wording"]["satisfaction"], linestyle=(0, (1, 4)), color="grey",
                 label="scripted, wordings never trained on")
    axes.axhline(85, color="green", linewidth=0.8)
    axes.set(xlabel="minutes of training", ylabel="requirements satisfied (%)", ylim=(0, 102),
             title="Worlds: SmolLM2-135M on held-out specifications")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/results/worlds.json"))
    asked = parser.parse_args()
    reports = [json.loads((run / "report.json").read_text()) for run in asked.runs]
    first = reports[0]
    values = {name: [report["trained"]["satisfaction"] if name == "known" else report["trained"]["new_wording"]["satisfaction"]
                     for report in reports] for name in ("known", "new_wording")}
    result = {
        "what": "worlds: mean requirement satisfaction on 300 held-out specifications; 95 % intervals by bootstrap over them."
                " new_wording: the same specifications in forms that no model is trained on",
        "commands": [f"python -m ownship world-train --seed {report['seed']} --minutes {report['asked_minutes']:g}"
                     + ("" if "own" in report else " --no-baselines") for report in reports],
        "untrained": _brief(first["untrained"]),
        "trained": [{"seed": report["seed"], "minutes": report["minutes"], "updates": report["steps"],
                     "examples": report["examples"], **_brief(report["trained"]),
                     "curve_on_48": report["curve"]} for report in reports],
        "mean_over_seeds": {name: round(statistics.mean(found), 4) for name, found in values.items()},
        "baselines": {name: _brief(first[name]) for name in ("own", "scripted", "random")}}
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    picture(reports, asked.out.with_name(f"{asked.out.stem}-curve.png"))
    print(json.dumps({"mean_over_seeds": result["mean_over_seeds"]}))


if __name__ == "__main__":
    main()
