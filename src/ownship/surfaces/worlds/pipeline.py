"""From a scene and a request to the scene after it. Pure: the same arguments give the same bytes.

    result = apply(scene, ops)              one request; its scene has no `problems`, or it is the scene as it was and a conflict
    history, result = advance(history, ops) the same with undo and redo

A request changes what it names. Everything else stays where it is, to the centimetre; what stands on a thing goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ownship.surfaces.worlds.draft import Draft, Refused, draft_of
from ownship.surfaces.worlds.explain import explain
from ownship.surfaces.worlds.geometry import EPS, Body, area_of, bodies, opening_body
from ownship.surfaces.worlds.relations import falls_short
from ownship.surfaces.worlds.solver import PACE, Stuck, Task, Work, solve
from ownship.surfaces.worlds.space import clearances, ground, problems
from ownship.surfaces.worlds.types import (
    OPS,
    Conflict,
    History,
    Object,
    Op,
    Problem,
    Redo,
    Relation,
    Requirement,
    Result,
    Scene,
    Spawn,
    Undo,
)

PAST = 200  # scenes that a history keeps


def apply(scene: Scene, ops: Iterable[Op], seed: int = 0, seconds: float = 2.0) -> Result:
    """The scene after a request, or the scene as it was and the requirements that exclude each other.

    `seconds` bound the solver's work as far as a machine of today takes that long; no clock is read. Raises ValueError if
    `scene` is not a scene of this pipeline (a thing of an unknown kind, or borne by nothing).
    """
    asked = list(ops)
    _check(scene)
    if len(asked) > OPS:
        too_many = Requirement(kind="valid", detail=f"a request holds {OPS} ops at most")
        return Result(scene=scene, conflict=Conflict(requirements=(too_many,)))
    try:
        draft = draft_of(scene, asked)
    except Refused as refused:
        return Result(scene=scene, conflict=Conflict(requirements=refused.requirements))
    _leave_alone(draft)
    task = _task(scene, draft)
    placed: tuple[Object, ...] = ()
    if task.wanted:
        found = solve(task, seed, Work(seconds * PACE))
        if isinstance(found, Stuck):
            return Result(scene=scene, conflict=explain(task, found, seed, Work(2 * seconds * PACE)))
        placed = found
    return _result(scene, draft, placed)


def advance(history: History, ops: Sequence[Op], seed: int = 0, seconds: float = 2.0) -> tuple[History, Result]:
    """A request to a world with a past. Undo and redo give the very scenes that were there; a conflict leaves the history alone."""
    scene = history.scene
    if len(ops) == 1 and isinstance(ops[0], Undo | Redo):
        at = history.at + (-1 if isinstance(ops[0], Undo) else 1)
        if not 0 <= at < len(history.scenes):
            nothing = Requirement(kind="valid", detail="nothing to undo" if isinstance(ops[0], Undo) else "nothing to redo")
            return history, Result(scene=scene, conflict=Conflict(requirements=(nothing,)))
        after = history.model_copy(update={"at": at})
        changed, removed = _differences(scene, after.scene)
        return after, Result(scene=after.scene, changed=changed, removed=removed)
    result = apply(scene, ops, seed, seconds)
    if result.conflict is not None or result.scene == scene:
        return history, result
    scenes = (*history.scenes[: history.at + 1], result.scene)[-PAST:]
    return History.model_construct(scenes=scenes, at=len(scenes) - 1), result


def _check(scene: Scene) -> None:
    known = bodies(scene)
    for thing in scene.objects:
        body = known[thing.id]
        if body.kind is None:
            raise ValueError(f"{thing.id}: there is no kind {thing.kind!r}")
        if area_of(body, known) is None:
            raise ValueError(f"{thing.id} stands on {thing.on!r}, which is nothing that could bear it")


def _leave_alone(draft: Draft) -> None:
    """What already is as it is asked to be keeps its place."""
    known = bodies(draft.scene.model_copy(update={"objects": tuple(draft.objects.values())}))
    before = {thing.id: thing for thing in draft.scene.objects}
    for name, wanted in list(draft.wanted.items()):
        if not wanted.old or wanted.x is not None or draft.objects[name] != before.get(name) or wanted.turn is not None:
            continue
        told = [relation for relation in draft.hard if name in relation.subjects]
        others = {other for relation in told for other in (*relation.subjects, *relation.of)} - {name}
        if told and not others & draft.wanted.keys() and all(float(falls_short(r, known)) <= EPS for r in told):
            del draft.wanted[name]


def _task(before: Scene, draft: Draft) -> Task:
    """What has to be solved. What stands on a thing that moves goes along, unless it is to move by itself."""
    carried: dict[str, list[Object]] = {name: [] for name in draft.wanted}
    for thing in draft.objects.values():
        seen, bearer = {thing.id}, thing
        while bearer.id not in draft.wanted and bearer.on in draft.objects and bearer.on not in seen:
            bearer = draft.objects[bearer.on]
            seen.add(bearer.id)
        if thing.id not in draft.wanted and bearer.id in draft.wanted:
            carried[bearer.id].append(thing)
    moving = draft.wanted.keys() | {thing.id for things in carried.values() for thing in things}
    stays = tuple(thing for thing in draft.objects.values() if thing.id not in moving)
    wanted = tuple(replace(w, carried=tuple(carried[name])) for name, w in draft.wanted.items())
    soft = tuple(r for r in before.relations if {*r.subjects, *r.of} <= draft.names() and moving & {*r.subjects, *r.of})
    hard = tuple(dict.fromkeys(draft.hard))
    return Task(draft.scene.model_copy(update={"objects": stays, "relations": ()}), wanted, hard, soft)


def _result(before: Scene, draft: Draft, placed: tuple[Object, ...]) -> Result:
    new = {thing.id: thing for thing in placed}
    objects = tuple(new.get(name, thing) for name, thing in draft.objects.items())
    scene = draft.scene.model_copy(update={"objects": objects, "relations": ()})
    known = bodies(scene)
    old = [r for r in before.relations if r not in draft.hard]
    kept = [r for r in old if _still(r, known)]
    scene = scene.model_copy(update={"relations": (*kept, *dict.fromkeys(draft.hard))})
    scene = scene.model_copy(update={"spawn": _spawn(scene, known, before.spawn)})
    wrong = problems(scene) if draft.built else _broken(draft.hard, known)
    if wrong:
        requirements = tuple(dict.fromkeys(_requirement(problem) for problem in wrong[:8]))
        return Result(scene=before, conflict=Conflict(requirements=requirements))
    changed, removed = _differences(before, scene)
    released = tuple(r for r in old if r not in kept)
    return Result.model_construct(scene=scene, changed=changed, removed=removed, released=released, conflict=None)


def _still(relation: Relation, known: dict[str, Body]) -> bool:
    names = {*relation.subjects, *relation.of}
    return names <= known.keys() and float(falls_short(relation, known)) <= EPS


def _broken(hard: Iterable[Relation], known: dict[str, Body]) -> list[Problem]:
    """The last look at what was asked for: a thing placed late may have been what an earlier one is measured against."""
    return [Problem(kind="relation", ids=(*r.subjects, *r.of)) for r in hard if not _still(r, known)]


def _requirement(problem: Problem) -> Requirement:
    ids = problem.ids
    if problem.kind == "blocked":
        return Requirement(kind="opening", ids=ids)
    if problem.kind == "unreachable":
        return Requirement(kind="walk", ids=ids)
    if problem.kind == "relation":
        return Requirement(kind="valid", ids=ids, detail="relation")
    return Requirement(kind="room_for", ids=ids)


def _spawn(scene: Scene, known: dict[str, Body], before: Spawn) -> Spawn:
    """Where it was if one can walk there still, else inside the first door, else in the south of the first area."""
    areas = [known[area.id] for areas in (scene.rooms, scene.plots) for area in areas]
    if not areas:
        return Spawn()
    clear = clearances(scene)
    for area in areas:
        if abs(before.x - area.x) <= area.w / 2 and abs(before.z - area.z) <= area.d / 2:
            cell = _ground_of(scene, area, known, clear).open_cell(before.x, before.z)
            if cell is not None and max(abs(cell[0] - before.x), abs(cell[1] - before.z)) <= 30 and before != Spawn():
                return before
    door = next((opening for opening in scene.openings if opening.kind == "door"), None)
    if door is not None:
        room = next(room for room in scene.rooms if room.id == door.room)
        inside = opening_body(door, room, 80, inside=True)
        area, x, z, turn = known[room.id], float(inside.x), float(inside.z), int(inside.turn)
    else:
        area = areas[0]
        x, z, turn = float(area.x), area.z + area.d / 2 - 40, 180
    cell = _ground_of(scene, area, known, clear).open_cell(x, z)
    return before if cell is None else Spawn(x=round(cell[0]), z=round(cell[1]), turn=turn)


def _ground_of(scene: Scene, area: Body, known: dict[str, Body], clear: Any) -> Any:
    things = [known[thing.id] for thing in scene.objects if area_of(known[thing.id], known) == area.id]
    return ground(scene, area, things, clear)


def _differences(before: Scene, after: Scene) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(ids that are new or other than they were, ids that are gone)."""

    def parts(scene: Scene) -> dict[str, Any]:
        every = (scene.rooms, scene.plots, scene.openings, scene.objects, scene.lights)
        return {part.id: part for some in every for part in some}

    old, new = parts(before), parts(after)
    changed = tuple(name for name, part in new.items() if name not in old or (old[name] is not part and old[name] != part))
    return changed, tuple(name for name in old if name not in new)
