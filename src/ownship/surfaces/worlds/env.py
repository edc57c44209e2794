"""Worlds as an environment: words from a hidden specification, ops in the line language as the reply, the scene measured.

reward = gate · weighted mean of parts. The gate: every line can be read, there is one (all tasks ask for something, and doing
nothing disturbs nothing), the pipeline could satisfy the ops, and the scene is a valid file. The parts: counts, attributes,
relations, what nobody asked for (undisturbed), physics, walkability. `satisfaction` is reported beside them: the share of the
requirements that hold, 0 where the gate is shut.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ownship.envs.env import Task
from ownship.envs.rubric import Gate, Part, Rubric
from ownship.errors import UserError
from ownship.model.chat import Message
from ownship.surfaces.worlds import lines
from ownship.surfaces.worlds.catalogue import KINDS
from ownship.surfaces.worlds.measure import Measured, measure
from ownship.surfaces.worlds.names import Names
from ownship.surfaces.worlds.pipeline import advance, apply
from ownship.surfaces.worlds.prompt import opening
from ownship.surfaces.worlds.spec import Spec, draw_spec
from ownship.surfaces.worlds.templates import say
from ownship.surfaces.worlds.types import History, Relate, Result, Scene, dumps

MAX_REPLY = 20_000  # characters that are read
SECONDS = 0.5  # of the solver's work: what takes longer is counted as unsolvable, for training has many replies to score


@dataclass(frozen=True)
class Scored:
    """What a reply came to: the scene, or the conflict; `measured` is None where the gate is shut."""

    result: Result | None
    problem: str  # why it could not be read
    measured: Measured | None


class Worlds:
    """`low` to `high` motifs (a motif is one to three groups of things and at most one relation) in a scene. `edits` is the share
    of tasks that change a scene, by one or two changes, `german` that of German words; with `guide` the prompt explains the
    language, for models that have not learnt it. `wording=new` says the same specifications in forms that are said nowhere else: to
    test with, never to train on."""

    def __init__(self, low: int = 1, high: int = 3, edits: float = 0.4, german: float = 0.25, guide: bool = False,
                 wording: str = "known") -> None:
        if wording not in ("known", "new"):
            raise UserError(f"worlds: wording=known or wording=new, not {wording}")
        if not 1 <= low <= high <= 12 or not 0 <= edits <= 1 or not 0 <= german <= 1:
            raise UserError("worlds: 1 <= low <= high <= 12, 0 <= edits <= 1 and 0 <= german <= 1 are needed, not"
                            f" low={low}, high={high}, edits={edits}, german={german}")
        self.name = "worlds"
        self.low, self.high, self.share, self.german, self.guide = low, high, edits, german, guide
        self.new = wording == "new"

        def part(name: str) -> Callable[[Task, Sequence[Message]], float]:
            return lambda task, messages: _of(task, messages, lambda measured: measured.share(name))

        self.rubric = Rubric(
            Gate("solvable", lambda task, messages: _of(task, messages, lambda measured: 1.0)),
            Part("counts", part("counts"), 3), Part("attributes", part("attributes"), 2), Part("relations", part("relations"), 3),
            Part("undisturbed", lambda task, messages: _of(task, messages, lambda measured: measured.undisturbed), 2),
            Part("physics", lambda task, messages: _of(task, messages, lambda measured: measured.physics)),
            Part("walkability", lambda task, messages: _of(task, messages, lambda measured: measured.walkability)),
            Part("satisfaction", lambda task, messages: _of(task, messages, lambda measured: measured.satisfaction), 0))

    def task(self, seed: int) -> Task:
        draw = random.Random(f"worlds {seed}")
        spec = draw_spec(draw, draw.randint(self.low, self.high), draw.choice((1, 1, 2)) if draw.random() < self.share else 0)
        words, language = say(spec, seed, german=self.german, new=self.new)
        if spec.edits:
            ids = spec.ids()
            objects = [(id, group.colour or KINDS[group.kind].colour) for group, things in zip(spec.groups, ids, strict=False)
                       for id in things]
            shown = opening(words, objects, [f"{spec.place}1"], self.guide)
        else:
            shown = opening(words, (), (), self.guide)
        return Task(self.name, seed, shown, solution_of(spec), key=spec.key, level=spec.level,
                    info={"spec": spec, "words": words, "language": language})

    def reply(self, task: Task, messages: Sequence[Message]) -> list[Message]:
        return []

    def solution(self, task: Task) -> str:
        return task.answer


def solution_of(spec: Spec) -> str:
    """The lines that meet a specification."""
    names = Names(Scene())
    if not spec.edits:
        return lines.write(spec.base(), names)
    for op in spec.base():
        names.follow(op)
    return lines.write(spec.changes(), names)


@lru_cache(4096)
def scene_of(spec: Spec) -> Scene:
    """The scene that the words of a task were said in: empty if the task is to make one.

    Should the solver not find a place for all of it, then without the relations: the edits speak of things, not of them.
    """
    if not spec.edits:
        return Scene()
    ops = spec.base()
    result = apply(Scene(), ops)
    if result.conflict is not None:
        result = apply(Scene(), [op for op in ops if not isinstance(op, Relate)])
    return result.scene


@lru_cache(4096)
def scored(spec: Spec, reply: str) -> Scored:
    """Reads, solves and measures a reply: once, though every part of the rubric asks."""
    before = scene_of(spec)
    try:
        ops = lines.read(reply[:MAX_REPLY], before)
    except lines.Misread as problem:
        return Scored(None, str(problem), None)
    if not ops:
        return Scored(None, "nothing was said", None)
    result = advance(History(scenes=(before,)), ops, seconds=SECONDS)[1]
    if result.conflict is not None or Scene.model_validate_json(dumps(result.scene)) != result.scene:
        return Scored(result, "", None)
    return Scored(result, "", measure(spec, before, result.scene))


def _of(task: Task, messages: Sequence[Message], value: Callable[[Measured], float]) -> float:
    measured = scored(task.info["spec"], messages[-1]["content"]).measured
    return 0.0 if measured is None else value(measured)
