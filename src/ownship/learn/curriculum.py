"""Which tasks to train on: those that the model sometimes solves. A group that is all right or all wrong teaches nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from ownship.envs.env import Task

_FLOOR = 0.05  # chance of a task of a level that seems hopeless or mastered: levels are looked at again
_MEMORY = 0.8  # share of the old estimate that stays after each new group


class Curriculum:
    """Solve rates by level of difficulty, measured as training goes, and the choice of tasks by them.

    A task is taken with probability max(4·p·(1−p), 0.05), p being its level's solve rate: the variance of its reward,
    which is what a group's advantages are made of. Unknown levels count as p = ½.
    """

    def __init__(self, rates: dict[str, float] | None = None) -> None:
        self.rates = dict(rates or {})  # level (as text, so that it survives JSON) → solve rate

    def choose(self, stream: Iterator[Task], seed: str) -> Iterator[Task]:
        """The tasks of the stream that are worth playing; the same for the same rates and seed."""
        draw = random.Random(seed)
        for task in stream:
            rate = self.rates.get(str(task.level), 0.5)
            if draw.random() < max(4 * rate * (1 - rate), _FLOOR):
                yield task

    def learn(self, task: Task, solved: Sequence[bool]) -> None:
        """Takes in how a group of completions fared."""
        rate = sum(solved) / len(solved)
        before = self.rates.get(str(task.level), rate)
        self.rates[str(task.level)] = _MEMORY * before + (1 - _MEMORY) * rate
