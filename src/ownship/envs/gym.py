"""The tasks of reasoning-gym (github.com/open-thought/reasoning-gym), scored strictly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ownship.envs.answer import INSTRUCTION, final_answer, stated
from ownship.envs.env import Task
from ownship.envs.rubric import Gate, Part, Rubric
from ownship.errors import UserError
from ownship.model.chat import Message


class Gym:
    """One reasoning-gym data set. Options are those of the set, for example `min_numbers=3`.

    The reward is 1 only for an answer in the stated form that the set's own verifier gives full marks. Its default
    verifier gives part marks to any text that contains the answer; those count as 0 here.
    """

    def __init__(self, dataset: str, options: dict[str, Any] | None = None) -> None:
        try:
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
        except ImportError:
            raise UserError("gym/ environments need reasoning-gym: pip install 'ownship[gym]'") from None
        if dataset not in DATASETS:
            near = [name for name in sorted(DATASETS) if dataset.split("_")[0] in name][:5]
            raise UserError(f"reasoning-gym has no data set {dataset!r}" + (f"; near it: {', '.join(near)}" if near else ""))
        self.name = f"gym/{dataset}"
        self._options = dict(options or {})
        try:
            # One data set serves every seed: item i of seed 0 is a pure function of i.
            self._data = reasoning_gym.create_dataset(dataset, seed=0, size=2**62, **self._options)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(f"{self.name} refuses these options: {error}") from None
        self.rubric = Rubric(Gate("stated", stated), Part("exact", self._exact))

    def task(self, seed: int) -> Task:
        item = self._data[seed]
        question = item["question"]
        return Task(self.name, seed, ({"role": "user", "content": f"{question}\n\n{INSTRUCTION}"},), str(item["answer"]),
                    key=question, info={"size": 0})

    def reply(self, task: Task, messages: Sequence[Message]) -> list[Message]:
        return []

    def solution(self, task: Task) -> str:
        return f"Answer: {task.answer}"

    def _exact(self, task: Task, messages: Sequence[Message]) -> float:
        answer = final_answer(messages[-1]["content"])
        if answer is None:
            return 0.0
        try:
            return float(self._data.score_answer(answer, self._data[task.seed]) >= 1.0)
        except Exception:  # a verifier that chokes on a strange answer has not accepted it
            return 0.0
