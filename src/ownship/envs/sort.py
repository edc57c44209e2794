"""Sorting numbers: a procedure the small model has never been taught, whose difficulty is one dial (how many numbers)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ownship.envs.answer import asked, exact, stated
from ownship.envs.env import Task
from ownship.envs.rubric import Gate, Part, Rubric
from ownship.errors import UserError
from ownship.model.chat import Message


class Sort:
    """`low` to `high` different numbers below `below`, to be put in ascending order."""

    rubric = Rubric(Gate("stated", stated), Part("exact", exact))

    def __init__(self, low: int = 4, high: int = 9, below: int = 100) -> None:
        if not 1 <= low <= high <= below:
            raise UserError(f"sort: 1 <= low <= high <= below is needed, not low={low}, high={high}, below={below}")
        self.name = "sort"
        self.low, self.high, self.below = low, high, below

    def task(self, seed: int) -> Task:
        draw = random.Random(f"sort {seed}")
        numbers = draw.sample(range(self.below), draw.randint(self.low, self.high))
        answer = " ".join(map(str, sorted(numbers)))
        question = f"Sort in ascending order: {' '.join(map(str, numbers))}"
        return Task(self.name, seed, asked(question), answer, key=answer, level=len(numbers))

    def reply(self, task: Task, messages: Sequence[Message]) -> list[Message]:
        return []

    def solution(self, task: Task) -> str:
        return f"Answer: {task.answer}"
