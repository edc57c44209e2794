"""Deciders measured on held-out specifications: mean requirement satisfaction, its interval, and what it is made of.

    python -m ownship.surfaces.worlds.trial scripted random runs/worlds/model --n 300 --out trial.json

`new_wording` beside it: the same specifications in forms that no model is trained on (wordings.py).

A decider is `scripted`, `random`, `own` (the specification's own ops: what the solver can give at most) or a model.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from ownship.engine.request import Precision
from ownship.envs.env import Task, held_out
from ownship.envs.registry import make
from ownship.errors import UserError
from ownship.evals.interval import wilson
from ownship.model.chat import Message

PARTS = ("counts", "attributes", "relations", "undisturbed", "physics", "walkability")
_BATCH = 32
_LINES = 24  # of a reply: the longest task needs 17


@dataclass(frozen=True)
class Trial:
    """Measure deciders on held-out tasks of worlds."""

    deciders: Annotated[tuple[str, ...], tyro.conf.Positional]
    """scripted, random, own, or models: a zoo name, a folder, a .gguf file."""
    n: int = 300
    """Held-out specifications."""
    env: str = "worlds"
    """With its options: worlds:low=1,high=3,…"""
    new_wording: bool = True
    """Also in the wordings that no model is trained on."""
    precision: Precision = "float32"
    """Of a model's weights."""
    out: Path | None = None
    """Also write the results as JSON, and every reply as JSON lines beside it."""


@dataclass
class Outcome:
    """What one decider's replies came to, task by task."""

    tasks: list[Task]
    replies: list[str]
    parts: list[dict[str, float]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Mean satisfaction with a bootstrap interval over the tasks, tasks met in full with Wilson's, and means of the parts."""
        satisfied = np.array([parts["satisfaction"] for parts in self.parts])
        whole = int((satisfied == 1.0).sum())
        groups: dict[str, list[float]] = defaultdict(list)
        for task, value in zip(self.tasks, satisfied, strict=True):
            groups["edits" if task.info["spec"].edits else "made"].append(value)
            groups[task.info["language"]].append(value)
            groups[f"level {task.level}"].append(value)
        return {
            "satisfaction": _rounded(satisfied.mean()), "ci95": [_rounded(bound) for bound in bootstrap(satisfied)],
            "met_in_full": _rounded(whole / len(satisfied)),
            "met_ci95": [_rounded(bound) for bound in wilson(whole, len(satisfied))],
            "solvable": _rounded(np.mean([parts["solvable"] for parts in self.parts])),
            "reward": _rounded(np.mean(self.rewards)),
            "parts": {name: _rounded(np.mean([parts[name] for parts in self.parts])) for name in PARTS},
            "by": {name: _rounded(np.mean(groups[name])) for name in sorted(groups, key=lambda name: (len(name), name))},
            "tasks": len(satisfied), "seconds": round(self.seconds, 1)}


def bootstrap(values: np.ndarray[Any, Any], rounds: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean (Efron 1979)."""
    draws = np.random.default_rng(seed).integers(0, len(values), (rounds, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def measured(tasks: Sequence[Task], decide: Callable[[Sequence[Task]], list[str]], env: str = "worlds",
             progress: Callable[[int, float], None] | None = None) -> Outcome:
    """Lets a decider reply to the tasks, in batches, and scores what it says."""
    rubric = make(env).rubric
    outcome = Outcome([], [])
    start = time.perf_counter()
    for at in range(0, len(tasks), _BATCH):
        batch = tasks[at : at + _BATCH]
        for task, reply in zip(batch, decide(batch), strict=True):
            said: list[Message] = [*task.messages, {"role": "assistant", "content": reply}]
            score = rubric.score(task, said)
            outcome.tasks.append(task)
            outcome.replies.append(reply)
            outcome.parts.append(score.parts)
            outcome.rewards.append(score.reward)
        if progress is not None:
            progress(len(outcome.tasks), float(np.mean([parts["satisfaction"] for parts in outcome.parts])))
    outcome.seconds = time.perf_counter() - start
    return outcome


def decider(name: str, precision: str = "float32") -> Callable[[Sequence[Task]], list[str]]:
    """By name. Raises UserError if there is no such model."""
    from ownship.surfaces.worlds import parser
    from ownship.surfaces.worlds.env import scene_of

    match name:
        case "own":
            return lambda tasks: [task.answer for task in tasks]
        case "scripted":
            return lambda tasks: [parser.decide(task.info["words"], scene_of(task.info["spec"])) for task in tasks]
        case "random":
            return lambda tasks: [parser.decide_randomly(task.info["words"], scene_of(task.info["spec"]), task.seed)
                                  for task in tasks]
    from ownship.engine.engine import serving
    from ownship.model import zoo
    from ownship.surfaces.worlds.model import decide_all
    from ownship.surfaces.worlds.names import Names

    engine = serving(zoo.resolve(name), precision, max_rows=_BATCH)
    return lambda tasks: decide_all(engine, [(task.messages, Names(scene_of(task.info["spec"]))) for task in tasks], most=_LINES)


def run(config: Trial) -> dict[str, Any]:
    """Measures all, prints a line each, writes what was asked for."""
    if config.n < 1:
        raise UserError(f"--n must be at least 1, not {config.n}")
    tasks = held_out(make(config.env), config.n)
    new = held_out(make(f"{config.env}{',' if ':' in config.env else ':'}wording=new"), config.n) if config.new_wording else []
    tell = _tell if sys.stderr.isatty() else None
    results: dict[str, Any] = {}
    for name in config.deciders:
        decide = decider(name, config.precision)
        outcome = measured(tasks, decide, config.env, tell)
        results[name] = outcome.summary()
        _print(name, results[name])
        if config.out is not None:
            _write(config.out, results, name, outcome)
        if new:
            reworded = measured(new, decide, config.env, tell)
            results[name]["new_wording"] = reworded.summary()
            _print(f"{name}, new wording", results[name]["new_wording"])
            if config.out is not None:
                _write(config.out, results, f"{name}-new", reworded)
    return results


def _print(name: str, found: dict[str, Any]) -> None:
    low, high = found["ci95"]
    print(f"\r{name:24} {found['satisfaction']:6.1%} of the requirements (95 % interval {low:.1%} to {high:.1%}),"
          f" {found['met_in_full']:.1%} of {found['tasks']} met in full", flush=True)


def _tell(done: int, mean: float) -> None:
    print(f"\r{done} tasks, {mean:.1%} of the requirements", end="", file=sys.stderr)


def _write(out: Path, results: dict[str, Any], name: str, outcome: Outcome) -> None:
    from ownship.learn.run import write_whole

    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(results, indent=2) + "\n")
    rows = [json.dumps({"words": task.info["words"], "reply": reply, "own": task.answer, "parts": parts}, ensure_ascii=False)
            for task, reply, parts in zip(outcome.tasks, outcome.replies, outcome.parts, strict=True)]
    write_whole(out.with_name(f"{out.stem}-{Path(name).name}.jsonl"), "\n".join(rows) + "\n")


if __name__ == "__main__":
    try:
        run(tyro.cli(Trial))
    except UserError as error:
        sys.exit(f"worlds: {error}")
