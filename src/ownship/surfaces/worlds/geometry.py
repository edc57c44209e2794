"""Turned rectangles on the ground: what everything in worlds measures with.

A `Body` is a box whose footprint is a rectangle turned about its middle. Its x and z may be arrays (candidate places of one
thing); every function here then answers for all of them at once. Lengths are centimetres, and exact where turns are right angles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ownship.surfaces.worlds.catalogue import KINDS, Kind, Surface, Volume
from ownship.surfaces.worlds.types import WALL, Object, Opening, Plot, Room, Scene, Side

Number = Any  # a float or a bool; an array of them where x and z are arrays
EPS = 1e-6  # cm: touching is not overlapping

DIRECTION: dict[Side, tuple[int, int]] = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}
INWARD: dict[Side, int] = {"north": 0, "east": 270, "south": 180, "west": 90}  # the turn of what hangs on that wall


@dataclass(frozen=True)
class Body:
    """A box: footprint w x d around (x, z), turned by `turn` degrees, from y0 to y1. Only objects have `on` and `kind`."""

    id: str
    x: Number
    z: Number
    turn: float
    w: float
    d: float
    y0: float
    y1: float
    on: str | None = None
    kind: Kind | None = None
    sort: str = "object"  # object, opening, room, plot

    @property
    def front(self) -> bool:
        """Whether it has a front of its own."""
        return self.kind is not None and self.kind.front

    @property
    def size(self) -> tuple[int, int, int]:
        return (int(self.w), int(self.y1 - self.y0), int(self.d))

    def at(self, x: Number, z: Number) -> Body:
        return replace(self, x=x, z=z)


def cos_sin(turn: float) -> tuple[float, float]:
    """Exact for right angles."""
    turn %= 360
    if turn % 90 == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(turn) // 90]
    return math.cos(math.radians(turn)), math.sin(math.radians(turn))


@lru_cache(maxsize=1024)
def axes(turn: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """(width axis, depth axis) in (x, z): where local x and local z (the front) point."""
    c, s = cos_sin(turn)
    return (c, -s), (s, c)


def local(body: Body, x: Number, z: Number) -> tuple[Number, Number]:
    """A point in the frame of `body`: (along its width, along its depth) from its middle."""
    (ux, uz), (vx, vz) = axes(body.turn)
    dx, dz = x - body.x, z - body.z
    return dx * ux + dz * uz, dx * vx + dz * vz


def extent(body: Body, axis: tuple[float, float]) -> float:
    """Half the length of its footprint's shadow on an axis."""
    (ux, uz), (vx, vz) = axes(body.turn)
    return body.w / 2 * abs(ux * axis[0] + uz * axis[1]) + body.d / 2 * abs(vx * axis[0] + vz * axis[1])


def bounds(body: Body) -> tuple[float, float]:
    """Half its extent along x and along z."""
    return extent(body, (1.0, 0.0)), extent(body, (0.0, 1.0))


def outside(body: Body, x: Number, z: Number) -> Number:
    """How far a point lies from its footprint, 0 within."""
    u, v = local(body, x, z)
    return np.hypot(np.maximum(np.abs(u) - body.w / 2, 0.0), np.maximum(np.abs(v) - body.d / 2, 0.0))


def corners(body: Body) -> list[tuple[Number, Number]]:
    (ux, uz), (vx, vz) = axes(body.turn)
    w, d = body.w / 2, body.d / 2
    return [(body.x + i * w * ux + j * d * vx, body.z + i * w * uz + j * d * vz) for i, j in ((1, 1), (1, -1), (-1, -1), (-1, 1))]


def depth(a: Body, b: Body) -> Number:
    """How deep the footprints overlap: the least shift that parts them; negative or 0 if they do not (separating axes)."""
    found: Number = np.inf
    for axis in (*axes(a.turn), *axes(b.turn)):
        distance = np.abs((a.x - b.x) * axis[0] + (a.z - b.z) * axis[1])
        found = np.minimum(found, extent(a, axis) + extent(b, axis) - distance)
    return found


def gap(a: Body, b: Body) -> Number:
    """The distance between the footprints, 0 if they touch or overlap."""
    if a.turn % 90 == 0 and b.turn % 90 == 0:
        (ax, az), (bx, bz) = bounds(a), bounds(b)
        return np.hypot(np.maximum(np.abs(a.x - b.x) - ax - bx, 0.0), np.maximum(np.abs(a.z - b.z) - az - bz, 0.0))
    found: Number = np.inf  # two convex shapes that do not overlap are nearest at a corner of one of them
    for x, z in corners(a):
        found = np.minimum(found, outside(b, x, z))
    for x, z in corners(b):
        found = np.minimum(found, outside(a, x, z))
    return np.where(depth(a, b) > EPS, 0.0, found)


def overhang(a: Body, x0: float, z0: float, x1: float, z1: float, of: Body) -> Number:
    """How far the footprint of `a` reaches beyond the rectangle (x0, z0)-(x1, z1) in the frame of `of`; 0 if it lies within."""
    worst: Number = 0.0
    for x, z in corners(a):
        u, v = local(of, x, z)
        worst = np.maximum(worst, np.maximum(np.maximum(x0 - u, u - x1), np.maximum(z0 - v, v - z1)))
    return worst


def rises(a: Body, b: Body) -> bool:
    """Whether their heights overlap."""
    return a.y0 < b.y1 - EPS and b.y0 < a.y1 - EPS


def part(of: Body, volume: Volume) -> Body:
    """A volume of an object, where it is."""
    x0, y0, z0, x1, y1, z1 = volume.cm(of.size)
    (ux, uz), (vx, vz) = axes(of.turn)
    u, v = (x0 + x1) / 2, (z0 + z1) / 2
    return Body(of.id, of.x + u * ux + v * vx, of.z + u * uz + v * vz, of.turn, x1 - x0, z1 - z0, of.y0 + y0, of.y0 + y1)


def solids(body: Body) -> list[Body]:
    """What stops a walker."""
    return [part(body, volume) for volume in body.kind.solids] if body.kind and body.kind.solids else [body]


# Bodies of what is in a scene


def object_body(thing: Object) -> Body:
    top, kind = thing.y + thing.h, KINDS.get(thing.kind)
    return Body(thing.id, thing.x, thing.z, thing.turn, thing.w, thing.d, thing.y, top, thing.on, kind)


def area_body(area: Room | Plot) -> Body:
    """Inside its walls."""
    height = area.h if isinstance(area, Room) else 100_000
    return Body(area.id, area.x, area.z, 0, area.w, area.d, 0, height, sort="room" if isinstance(area, Room) else "plot")


def shell(room: Room) -> Body:
    """With its walls: what of a plot it covers."""
    return Body(room.id, room.x, room.z, 0, room.w + 2 * WALL, room.d + 2 * WALL, 0, room.h + WALL, sort="room")


def opening_body(opening: Opening, room: Room, depth: float = WALL, inside: bool = False) -> Body:
    """The hole in the wall, its front towards the room; with `inside`, what is `depth` before it in the room."""
    dx, dz = DIRECTION[opening.side]
    away = (room.w / 2 if dx else room.d / 2) + (-depth / 2 if inside else WALL / 2)
    x, z = room.x + dx * away + (opening.at if dz else 0), room.z + dz * away + (opening.at if dx else 0)
    return Body(opening.id, x, z, INWARD[opening.side], opening.w, depth, opening.sill, opening.sill + opening.h, sort="opening")


def bodies(scene: Scene) -> dict[str, Body]:
    """Everything that a relation may name."""
    rooms = {room.id: room for room in scene.rooms}
    found = {room.id: area_body(room) for room in scene.rooms} | {plot.id: area_body(plot) for plot in scene.plots}
    found |= {o.id: opening_body(o, rooms[o.room]) for o in scene.openings if o.room in rooms}
    return found | {thing.id: object_body(thing) for thing in scene.objects}


def area_of(body: Body, known: Mapping[str, Body]) -> str | None:
    """The room or plot whose floor bears it in the end; None if nothing does (an unknown or circular bearer)."""
    for _ in range(len(known) + 1):
        if body.sort in ("room", "plot"):
            return body.id
        bearer = known.get(body.on or "")
        if bearer is None:
            return None
        body = bearer
    return None


def bearing(of: Body) -> list[tuple[float, float, float, float, float, float | None]]:
    """Where things can stand on or in an object: (height above the ground, x0, z0, x1, z1 in its frame, free height above or None).

    Surfaces and the floors of its inside spaces, once each.
    """
    if of.kind is None:
        return []
    volumes: list[Surface | Volume] = [*of.kind.surfaces, *of.kind.inside]
    found: dict[tuple[float, ...], float | None] = {}
    for place in volumes:
        if isinstance(place, Surface):
            y, x0, z0, x1, z1 = place.cm(of.size)
            clear = None if place.clear is None else place.clear * of.size[1]
        else:
            x0, y, z0, x1, top, z1 = place.cm(of.size)
            clear = None if place.y1 >= 1.0 else top - y
        found.setdefault((of.y0 + y, x0, z0, x1, z1), clear)
    return [(*key, clear) for key, clear in found.items()]  # type: ignore[misc]


def angle(x: Number, z: Number) -> Any:
    """The turn, in degrees, of what looks along (x, z)."""
    return np.degrees(np.arctan2(x, z)) % 360


def between_angles(a: Any, b: Any) -> Any:
    """The angle between two directions, 0 to 180 degrees."""
    return np.abs((np.asarray(a) - b + 180) % 360 - 180)
