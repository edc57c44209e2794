"""Rewards: gates times a weighted mean of parts, each part reported under its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ownship.errors import UserError

if TYPE_CHECKING:
    from ownship.envs.env import Task
    from ownship.model.chat import Message

Measure = Callable[["Task", "Sequence[Message]"], float]  # a task and its finished conversation → 0 to 1


@dataclass(frozen=True)
class Gate:
    """A condition without which nothing else counts."""

    name: str
    measure: Measure


@dataclass(frozen=True)
class Part:
    """A share of the reward."""

    name: str
    measure: Measure
    weight: float = 1.0


@dataclass(frozen=True)
class Score:
    """`reward` in [0, 1] and the value of every gate and part."""

    reward: float
    parts: dict[str, float]


class Rubric:
    """reward = Π gates · Σ weight·part / Σ weight."""

    def __init__(self, *items: Gate | Part) -> None:
        self.gates = [item for item in items if isinstance(item, Gate)]
        self.parts = [item for item in items if isinstance(item, Part)]
        names = [item.name for item in items]
        if len(set(names)) != len(names):
            raise UserError(f"a rubric names each gate and part once, not {names}")
        if not self.parts or any(part.weight < 0 for part in self.parts) or not sum(part.weight for part in self.parts):
            raise UserError("a rubric needs at least one part, no negative weight and some positive one")

    def score(self, task: Task, messages: Sequence[Message]) -> Score:
        """Measures a finished conversation. Raises ValueError if a measure leaves [0, 1]."""
        items: list[Gate | Part] = [*self.gates, *self.parts]
        values = {item.name: float(item.measure(task, messages)) for item in items}
        if any(not 0 <= value <= 1 for value in values.values()):
            raise ValueError(f"a measure of {task.env} left [0, 1]: {values}")
        reward = sum(part.weight * values[part.name] for part in self.parts) / sum(part.weight for part in self.parts)
        for gate in self.gates:
            reward *= values[gate.name]
        return Score(reward, values)
