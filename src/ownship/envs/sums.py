"""Adding up several numbers: hopeless at a glance for a small model, easy step by step."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ownship.envs.answer import asked, exact, stated
from ownship.envs.env import Task
from ownship.envs.rubric import Gate, Part, Rubric
from ownship.errors import UserError
from ownship.model.chat import Message


class Sums:
    """The sum of `low` to `high` numbers from 1 to `largest`.

    `worked` is the share of solutions that show their steps (running totals); the others only state the answer. A cold
    start with few worked solutions leaves it to reinforcement learning to find out that working pays.
    """

    rubric = Rubric(Gate("stated", stated), Part("exact", exact))

    def __init__(self, low: int = 4, high: int = 7, largest: int = 9, worked: float = 1.0) -> None:
        if not 2 <= low <= high or largest < 1 or not 0 <= worked <= 1:
            raise UserError("sums: 2 <= low <= high, largest >= 1 and 0 <= worked <= 1 are needed, not"
                            f" low={low}, high={high}, largest={largest}, worked={worked}")
        self.name = "sums"
        self.low, self.high, self.largest, self.worked = low, high, largest, worked

    def task(self, seed: int) -> Task:
        draw = random.Random(f"sums {seed}")
        terms = [draw.randint(1, self.largest) for _ in range(draw.randint(self.low, self.high))]
        question = f"What is {' + '.join(map(str, terms))}?"
        # Two sums of the same numbers in another order count as the same task.
        return Task(self.name, seed, asked(question), str(sum(terms)),
                    key=" ".join(map(str, sorted(terms))), level=len(terms), info={"terms": terms})

    def reply(self, task: Task, messages: Sequence[Message]) -> list[Message]:
        return []

    def solution(self, task: Task) -> str:
        if random.Random(f"sums solution {task.seed}").random() >= self.worked:
            return f"Answer: {task.answer}"
        total, lines = task.info["terms"][0], []
        for term in task.info["terms"][1:]:
            lines.append(f"{total}+{term}={total + term}")
            total += term
        return "\n".join([*lines, f"Answer: {total}"])
