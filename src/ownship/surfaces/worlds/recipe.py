"""The published run: the default model learns worlds by imitating worked solutions, and is measured.

    python -m ownship world-train --out runs/worlds

Every phase is a command that a person could give (`ownship sft --env worlds`, `ownship rl --env worlds`), so an interrupted run is
continued by the same command. It leaves `report.json`, `curve.png` and `model/`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ownship.errors import UserError

MODEL = "smollm2-135m-instruct"
PARTS = (0.05, 0.3, 0.6, 1.0)  # of imitation's time: where the speed is measured anew, and the model on a few tasks
WATCHED = 48  # held-out tasks of those
BATCH = 8
RANK = 32  # adapters: two thirds of the arithmetic of training all weights, and no optimizer that goes through all of them
LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class WorldTrain:
    """Teach the default model to build worlds from words, measured before, on the way and after."""

    minutes: float = 20.0
    """Of training; measuring comes on top."""
    reinforce: float = 0.0
    """Share of them in which the model then learns from its own replies, by the measured reward."""
    out: Path = Path("runs/worlds")
    """Where everything is kept. The same command continues an interrupted run."""
    env: str = "worlds"
    """With its options: worlds:low=1,high=3,…"""
    n: int = 300
    """Held-out specifications of the last measurement."""
    baselines: bool = True
    """Measure also what no seed changes: the untrained model, the parser, random lines, and the specification's own ops."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """float32 is the faster one on processors without bf16 units."""
    seed: int = 0


def run(config: WorldTrain) -> dict[str, Any]:
    """Runs or continues; returns the report. Raises UserError if a phase fails."""
    if config.minutes <= 0 or not 0 <= config.reinforce < 1:
        raise UserError(f"--minutes must be positive and --reinforce from 0 to below 1, not {config.minutes}, {config.reinforce}")
    config.out.mkdir(parents=True, exist_ok=True)
    state = config.out / "recipe.json"
    diary: dict[str, Any] = {"seed": config.seed, "seconds": 0.0, "steps": 0, "parts": 0, "curve": []}
    if state.exists():
        diary = json.loads(state.read_text())
    if diary["seed"] != config.seed:
        raise UserError(f"{config.out} holds a run with seed {diary['seed']}; choose another --out, or remove it")

    def spend(start: float, model: Path, **done: Any) -> None:
        """Writes down a finished part, and a point of the curve: seconds of training so far, and what the model satisfies."""
        diary["seconds"] += time.monotonic() - start
        diary.update(done)
        point = _measure(config, model, WATCHED, config.out / f"watched-{len(diary['curve'])}.json")
        diary["curve"].append({"seconds": round(diary["seconds"], 1), "steps": diary["steps"],
                               "satisfaction": point["satisfaction"]})
        from ownship.learn.run import write_whole

        write_whole(state, json.dumps(diary, indent=2) + "\n")

    imitation, time_for_it = config.out / "sft", (1 - config.reinforce) * config.minutes * 60
    while diary["parts"] < len(PARTS):
        share = PARTS[diary["parts"]]
        per_step = diary["seconds"] / diary["steps"] if diary["steps"] else 3.0  # no more than a guess for the first few
        left = time_for_it - diary["seconds"]
        end = diary["steps"] + max(round(left / per_step), 4)
        steps = diary["steps"] + max(round((share * time_for_it - diary["seconds"]) / per_step), 4) if share < 1 else end
        start = time.monotonic()
        _ownship("sft", "--env", config.env, "--out", imitation, "--steps", steps, "--end", max(end, steps), "--batch", BATCH,
                 "--dtype", config.dtype, "--lora-rank", RANK, "--optim.lr", LEARNING_RATE, "--optim.warmup", 10,
                 "--save-every", 100, "--seed", config.seed)
        spend(start, imitation / "model", steps=steps, parts=diary["parts"] + 1)
    model = imitation / "model"
    if config.reinforce:
        model = config.out / "rl" / "model"
        if "rl" not in diary:
            start = time.monotonic()
            _ownship("rl", "--model", imitation / "model", "--env", config.env, "--out", config.out / "rl",
                     "--minutes", max(config.minutes - diary["seconds"] / 60, 0.1), "--steps", 100_000, "--tasks", 8, "--group", 8,
                     "--max-tokens", 96, "--dtype", config.dtype, "--seed", config.seed)
            spend(start, model, rl=True)
    report = {"seed": config.seed, "env": config.env, "asked_minutes": config.minutes,
              "minutes": round(diary["seconds"] / 60, 1), "steps": diary["steps"], "examples": diary["steps"] * BATCH,
              "curve": diary["curve"],
              "trained": _measure(config, model, config.n, config.out / "trained.json", "--new-wording")}
    if config.baselines:
        report["untrained"] = _measure(config, MODEL, config.n, config.out / "untrained.json")
        report |= {name: _measure(config, name, config.n, config.out / f"{name}.json", "--new-wording")
                   for name in ("own", "scripted", "random")}
        report["curve"] = [{"seconds": 0.0, "steps": 0, "satisfaction": report["untrained"]["satisfaction"]}, *diary["curve"]]
    (config.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    picture(report, config.out / "curve.png")
    link = config.out / "model"
    if not link.is_symlink():
        link.symlink_to(model.relative_to(config.out))
    return report


def _measure(config: WorldTrain, decider: str | Path, count: int, out: Path, new: str = "--no-new-wording") -> dict[str, Any]:
    """In a process of its own, whose memory ends with it; once, however often the run is continued."""
    if not out.exists():
        asked = ["--n", str(count), "--env", config.env, "--out", str(out), new]
        _child(["-m", "ownship.surfaces.worlds.trial", str(decider), *asked], f"measuring {decider}")
    found: dict[str, Any] = next(iter(json.loads(out.read_text()).values()))
    return found


def _ownship(*arguments: object) -> None:
    _child(["-m", "ownship", *map(str, arguments)], f"`ownship {arguments[0]}`")


def _child(command: list[str], what: str) -> None:
    code = subprocess.run([sys.executable, *command]).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise UserError(f"{what} ended with code {code}; what it said stands above")


def picture(report: dict[str, Any], out: Path) -> None:
    """Satisfaction over the minutes of training, with the baselines as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([point["seconds"] / 60 for point in report["curve"]], [100 * point["satisfaction"] for point in report["curve"]],
              marker="o", label=f"SmolLM2-135M, on {WATCHED} of them")
    for name, style in (("own", ":"), ("scripted", "--"), ("random", "-.")):
        if name in report:
            axes.axhline(100 * report[name]["satisfaction"], linestyle=style, color="grey", label=name)
    axes.set(xlabel="minutes of training", ylabel="requirements satisfied (%)", ylim=(0, 102),
             title="Worlds: held-out specifications")
    axes.legend(loc="center right")
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    try:
        run(tyro.cli(WorldTrain))
    except UserError as error:
        sys.exit(f"worlds: {error}")
    except KeyboardInterrupt:
        sys.exit("worlds: interrupted; nothing is lost: the same command goes on from here")
