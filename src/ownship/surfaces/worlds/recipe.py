"""The published run: the default model learns worlds by imitating worked solutions, then by reinforcement, and is measured.

    python -m ownship.surfaces.worlds.recipe --out runs/worlds --minutes 45

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
SHARE = 0.75  # of the time that imitation gets; the rest is reinforcement learning's
CHUNK = 40  # steps of imitation between two small measurements
WATCHED = 48  # held-out tasks of those
BATCH = 16
LEARNING_RATE = 2e-4


@dataclass(frozen=True)
class WorldTrain:
    """Teach the default model to build worlds from words, measured before, on the way and after."""

    minutes: float = 45.0
    """Of training; measuring comes on top."""
    out: Path = Path("runs/worlds")
    """Where everything is kept. The same command continues an interrupted run."""
    env: str = "worlds"
    """With its options: worlds:low=1,high=3,…"""
    n: int = 300
    """Held-out specifications of the last measurement."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """float32 is the faster one on processors without bf16 units."""
    seed: int = 0


def run(config: WorldTrain) -> dict[str, Any]:
    """Runs or continues; returns the report. Raises UserError if a phase fails."""
    if config.minutes <= 0:
        raise UserError(f"--minutes must be positive, not {config.minutes}")
    config.out.mkdir(parents=True, exist_ok=True)
    state = config.out / "recipe.json"
    diary: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {"seed": config.seed, "seconds": 0.0, "curve": []}
    if diary["seed"] != config.seed:
        raise UserError(f"{config.out} holds a run with seed {diary['seed']}; choose another --out, or remove it")

    def keep() -> None:
        from ownship.learn.run import write_whole

        write_whole(state, json.dumps(diary, indent=2) + "\n")

    def watch(model: str | Path, steps: int) -> None:
        """A point of the curve: seconds of training so far, and what the model satisfies."""
        point = _measure(config, model, WATCHED, config.out / f"watched-{len(diary['curve'])}.json")
        diary["curve"].append({"seconds": round(diary["seconds"], 1), "steps": steps, "satisfaction": point["satisfaction"]})
        keep()

    if not diary["curve"]:
        watch(MODEL, 0)
    imitation = config.out / "sft"
    while diary["seconds"] < SHARE * config.minutes * 60:
        steps = diary.get("steps", 0) + CHUNK
        start = time.monotonic()
        _ownship("sft", "--env", config.env, "--out", imitation, "--steps", steps, "--batch", BATCH, "--dtype", config.dtype,
                 "--optim.lr", LEARNING_RATE, "--optim.warmup", 8, "--seed", config.seed)
        diary["seconds"] += time.monotonic() - start
        diary["steps"] = steps
        watch(imitation / "model", steps)
    if "rl" not in diary:
        left = config.minutes - diary["seconds"] / 60
        start = time.monotonic()
        _ownship("rl", "--model", imitation / "model", "--env", config.env, "--out", config.out / "rl", "--minutes", max(left, 0.1),
                 "--steps", 100_000, "--tasks", 8, "--group", 8, "--max-tokens", 96, "--dtype", config.dtype, "--seed", config.seed)
        diary["seconds"] += time.monotonic() - start
        diary["rl"] = True
        watch(config.out / "rl" / "model", diary.get("steps", 0))
    report = {"seed": config.seed, "env": config.env, "minutes": round(diary["seconds"] / 60, 1), "steps": diary.get("steps", 0),
              "curve": diary["curve"], "untrained": _measure(config, MODEL, config.n, config.out / "untrained.json"),
              "trained": _measure(config, config.out / "rl" / "model", config.n, config.out / "trained.json"),
              **{name: _measure(config, name, config.n, config.out / f"{name}.json") for name in ("own", "scripted", "random")}}
    (config.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    picture(report, config.out / "curve.png")
    link = config.out / "model"
    if not link.is_symlink():
        link.symlink_to(Path("rl") / "model")
    return report


def _measure(config: WorldTrain, decider: str | Path, count: int, out: Path) -> dict[str, Any]:
    """In a process of its own, whose memory ends with it; once, however often the run is continued."""
    if not out.exists():
        command = ["-m", "ownship.surfaces.worlds.trial", str(decider), "--n", str(count), "--env", config.env, "--out", str(out)]
        _child(command, f"measuring {decider}")
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
