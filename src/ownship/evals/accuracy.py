"""How many held-out tasks a model solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ownship.engine.engine import Engine
from ownship.engine.request import Sampling
from ownship.envs.env import Env, held_out
from ownship.evals.interval import wilson
from ownship.learn.rollout import Rollout, play

_BATCH = 64


@dataclass(frozen=True)
class Accuracy:
    """Tasks solved with full marks, and the rollouts that say so."""

    right: int
    total: int
    rollouts: list[Rollout]

    @property
    def share(self) -> float:
        return self.right / self.total if self.total else 0.0

    def summary(self) -> dict[str, Any]:
        """`{"accuracy", "ci95": [low, high], "right", "total", "by_level": {level: accuracy}}`, the interval by Wilson."""
        levels: dict[int, list[bool]] = {}
        for rollout in self.rollouts:
            levels.setdefault(rollout.task.level, []).append(solved(rollout))
        return {"accuracy": round(self.share, 4), "ci95": [round(bound, 4) for bound in wilson(self.right, self.total)],
                "right": self.right, "total": self.total,
                "by_level": {str(level): round(sum(found) / len(found), 4) for level, found in sorted(levels.items())}}


def solved(rollout: Rollout) -> bool:
    return rollout.score.reward == 1.0


def accuracy(engine: Engine, env: Env, count: int, max_tokens: int, progress: Callable[[int], None] | None = None,
             answered: Callable[[int, int], None] | None = None) -> Accuracy:
    """Greedy replies to the first `count` held-out tasks; a task counts only with the full reward.

    `progress` is told the tokens drawn, `answered` how many tasks are right and how many are done, every now and then.
    """
    greedy = Sampling(temperature=0, max_tokens=max_tokens)
    chosen = held_out(env, count)
    rollouts: list[Rollout] = []
    while len(rollouts) < len(chosen):
        size = _BATCH if rollouts else _BATCH // 4  # the first number comes early
        rollouts += play(engine, env, chosen[len(rollouts) :][:size], greedy, seed="eval", progress=progress)
        if answered is not None:
            answered(sum(map(solved, rollouts)), len(rollouts))
    return Accuracy(sum(map(solved, rollouts)), len(rollouts), rollouts)
