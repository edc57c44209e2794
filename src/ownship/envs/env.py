"""The environment contract: text in, text out, a measured reward. No tensors here."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ownship.envs.rubric import Rubric
from ownship.errors import UserError
from ownship.model.chat import Message

Split = Literal["train", "held_out"]
_HELD_OUT_SHARE = 8  # one task in eight is never trained on
_PATIENCE = 1000  # seeds without a task of the split after which it is taken to be empty: (7/8)^1000 is 1e-58


@dataclass(frozen=True)
class Task:
    """One exercise: what the model is shown, what a right answer is, and `key`, which two tasks share only if they are
    the same exercise (however it is worded). `tools` are shown to the model as well, in OpenAI's shape; calls of them are the
    environment's to carry out (envs/toolbox.py)."""

    env: str
    seed: int
    messages: tuple[Message, ...]
    answer: str
    key: str
    level: int = 0  # of difficulty; tasks of one level are about equally hard
    info: dict[str, Any] = field(default_factory=dict)
    tools: tuple[dict[str, Any], ...] = ()


class Env(Protocol):
    """What the model learns from.

    `task(seed)` is a pure function of the seed. After each assistant turn `reply` gives the environment's next messages;
    an empty list ends the episode (single-turn environments always return it). `rubric` scores the finished conversation.
    `solution` is a worked solution that the rubric gives full marks: the assistant's only turn, or all of its turns, between which
    `reply` has its say. A cold start learns from it.
    """

    name: str
    rubric: Rubric

    def task(self, seed: int) -> Task: ...

    def reply(self, task: Task, messages: Sequence[Message]) -> list[Message]: ...

    def solution(self, task: Task) -> str | list[Message]: ...


def demonstration(env: Env, task: Task) -> list[Message]:
    """The whole conversation of the worked solution, with what the environment really answers."""
    solution = env.solution(task)
    turns: list[Message] = [{"role": "assistant", "content": solution}] if isinstance(solution, str) else solution
    messages = list(task.messages)
    for turn in turns:
        messages.append(turn)
        messages += env.reply(task, messages)
    return messages


def split_of(task: Task) -> Split:
    """Which split a task belongs to: a function of its content alone, so no task can be in both."""
    digest = hashlib.sha256(f"{task.env}\n{task.key}".encode()).digest()
    return "held_out" if digest[0] % _HELD_OUT_SHARE == 0 else "train"


def tasks(env: Env, split: Split, start: int = 0) -> Iterator[Task]:
    """The tasks of a split, seed by seed from `start`, without end. Continue a stream by the last task's seed + 1.

    Raises UserError if the environment has so few different tasks that none of them is in this split.
    """
    misses = 0
    for seed in itertools.count(start):
        task = env.task(seed)
        if split_of(task) == split:
            misses = 0
            yield task
        elif (misses := misses + 1) == _PATIENCE:
            raise UserError(f"{env.name} has no {split} tasks: with these options it has too few different ones")


def held_out(env: Env, count: int) -> list[Task]:
    """The first `count` held-out tasks, each different from the others (fewer if the environment runs out of them)."""
    found: dict[str, Task] = {}
    stream = tasks(env, "held_out", start=1 << 32)
    for _ in range(count * 50):
        task = next(stream)
        found.setdefault(task.key, task)
        if len(found) == count:
            break
    return list(found.values())
