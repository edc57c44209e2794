"""From one scene to the next as the view takes it: only what changed is sent, and only what has a new shape is sent as a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ownship.surfaces.worlds.geometry import DIRECTION, Body, object_body, opening_body, solids
from ownship.surfaces.worlds.shell import lamps
from ownship.surfaces.worlds.types import WALL, Object, Room, Scene

LAMPS = 6  # that shine in the view, the strongest
Box = tuple[float, float, float, float, float, float, float]  # x, z, half width, half depth (m), turn (rad), bottom, top (m)


@dataclass(frozen=True)
class Change:
    """`load` are the objects of which the view needs the shapes, `shell` whether it needs rooms, plots and openings again; `moved`
    are places (x, y, z in metres, turn in radians) of objects that only stand elsewhere; `solids` what stops a walker, by id."""

    load: tuple[str, ...]
    shell: bool
    gone: tuple[str, ...]
    moved: dict[str, tuple[float, float, float, float]]
    solids: dict[str, list[Box]]

    def message(self, scene: Scene, **more: Any) -> dict[str, Any]:
        spawn = scene.spawn
        lit = sorted(lamps(scene), key=lambda lamp: (-lamp[3], lamp[0]))[:LAMPS]
        return {"gone": list(self.gone), "moved": self.moved, "solids": self.solids, "shell": self.shell, "sky": scene.sky.time,
                "spawn": [spawn.x / 100, spawn.z / 100, math.radians(spawn.turn)],
                "lamps": [[x / 100, y / 100, z / 100, *rgb, candela] for _, (x, y, z), rgb, candela in lit], **more}


def change(before: Scene, after: Scene) -> Change:
    """What turns a view of `before` into one of `after`."""
    old = {thing.id: thing for thing in before.objects}
    new = {thing.id: thing for thing in after.objects}
    shell = _shell(before) != _shell(after)
    load = tuple(id for id, thing in new.items() if id not in old or _shape(old[id]) != _shape(thing))
    moved = {id: _place(thing) for id, thing in new.items() if id not in load and _place(old[id]) != _place(thing)}
    fresh: dict[str, list[Box]] = {id: list(_stops(new[id])) for id in (*load, *moved)}
    if shell:
        fresh |= {room.id: list(_walls(room, after)) for room in after.rooms}
    gone = [id for id in old if id not in new]
    if shell:
        gone += [room.id for room in before.rooms if room.id not in fresh]
    return Change(load, shell, tuple(gone), moved, fresh)


def _shape(thing: Object) -> tuple[Any, ...]:
    return thing.kind, thing.w, thing.h, thing.d, thing.colour, thing.material


def _place(thing: Object) -> tuple[float, float, float, float]:
    return thing.x / 100, thing.y / 100, thing.z / 100, math.radians(thing.turn)


def _shell(scene: Scene) -> tuple[Any, ...]:
    return scene.rooms, scene.openings, scene.plots, scene.lights


def _stops(thing: Object) -> Iterator[Box]:
    body = object_body(thing)
    if body.kind is not None and not body.kind.walkable:
        yield from map(_box, solids(body))


def _box(body: Body) -> Box:
    return (float(body.x) / 100, float(body.z) / 100, body.w / 200, body.d / 200, math.radians(body.turn),
            body.y0 / 100, body.y1 / 100)


def _walls(room: Room, scene: Scene) -> Iterator[Box]:
    """The walls of a room with gaps where doors are: its own, and those of the rooms beyond, which go through both walls."""
    rooms = {other.id: other for other in scene.rooms}
    doors = [opening_body(one, rooms[one.room]) for one in scene.openings if one.kind == "door" and one.room in rooms]
    for dx, dz in DIRECTION.values():
        along_x = dz != 0
        middle = (room.x + dx * (room.w + WALL) / 2, room.z + dz * (room.d + WALL) / 2)
        half = (room.w if along_x else room.d) / 2 + WALL
        start, line = (middle[0] - half, middle[1]) if along_x else (middle[1] - half, middle[0])
        gaps = []
        for door in doors:
            place, across = (door.x, door.z) if along_x else (door.z, door.x)
            if (door.turn % 180 == 0) == along_x and abs(float(across) - line) <= 2 * WALL:
                gaps.append((float(place) - door.w / 2, float(place) + door.w / 2))
        for low, high in _between(start, start + 2 * half, gaps):
            at, size = (low + high) / 200, (high - low) / 200
            x, z = (at, line / 100) if along_x else (line / 100, at)
            w, d = (size, WALL / 200) if along_x else (WALL / 200, size)
            yield (x, z, w, d, 0.0, 0.0, room.h / 100)


def _between(start: float, end: float, gaps: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """What is left of start…end without the gaps."""
    for low, high in sorted(gaps):
        if high <= start or low >= end:
            continue
        if low > start:
            yield start, low
        start = max(start, high)
    if start < end:
        yield start, end
