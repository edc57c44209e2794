"""What each relation means, in centimetres and degrees.

Every relation has one function that says how much is missing: 0 if it holds, else how many centimetres (degrees for facing) it
falls short. The solver's masks, `holds` and rewards are all this one number. Distances are between footprints (0 if they touch or
overlap), "middle" is the middle of a footprint, a is the subject, b what it is said of:

- on: a stands on b (`Object.on`), at the height of one of b's surfaces, wholly within it. On a room or plot: on its floor.
- inside: a stands on the bottom of one of b's inside spaces and fits into it (it may look out of an open top). In a room or
  plot: borne by it in the end.
- above: a's bottom is not lower than b's top, and the middle of one lies over the other; 35 cm beside it counts
  for what hangs on a wall and for windows. under: the same the other way round, where b's free space below (under a table)
  counts as b's bottom, and a thing to walk on (a rug) is under whatever does not stand lower.
- next_to: at most 50 cm apart, and at most 50 cm in height, footprints apart.
- near: at most 150 cm apart. far: more than 400 cm.
- left_of, right_of, in_front_of, behind: a lies wholly beyond b's edge in that direction, and sideways its middle is off b's by
  no more than half of b's width or the distance of the middles in that direction (45 degrees). The direction is b's own
  (its left hand when it looks out of its front) or the viewer's (left is -x, in front +z): `Relation.frame`.
- between: a's middle, seen along the line from one middle to the other, lies within its middle 60 %, and beside it by no more
  than 50 cm or a quarter of its length.
- facing: a's front is at most 30 degrees off the direction of b's middle.
- against_wall: at most 30 cm from a wall of its room. in_corner: from two that meet.
- around: all at most 100 cm from b, and seen from b's middle no gap between neighbours is wider than 360/n + 60 degrees.
- aligned: the middles lie within 10 cm of a line along x or along z.
- centred: the middle lies at most 20 cm from b's (along the wall if b is a door or window).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ownship.surfaces.worlds.geometry import (
    DIRECTION,
    EPS,
    Body,
    Number,
    angle,
    area_of,
    axes,
    bearing,
    between_angles,
    bodies,
    depth,
    extent,
    gap,
    local,
    outside,
    overhang,
    part,
)
from ownship.surfaces.worlds.types import Relation, Scene, Side

NEXT, NEAR, FAR, WALLWARD, AROUND, ROW, CENTRE, FACING, BESIDE = 50, 150, 400, 30, 100, 10, 20, 30, 35
SLACK = 0.75  # cm: integer positions cannot always keep to a surface that is turned
STRICT = 1.0  # cm: "more than" and "not overlapping" are kept by a whole centimetre
MISSING = 10_000.0  # what something falls short by that is not even of the right sort
ALONE = frozenset(("against_wall", "in_corner", "aligned"))  # need nothing in `of`
GROUP = frozenset(("around", "aligned"))  # said of all subjects together


def _over(a: Body, b: Body) -> Number:
    allowed = BESIDE if "opening" in (a.sort, b.sort) or _hangs(a) or _hangs(b) else 0
    return np.maximum(np.minimum(outside(b, a.x, a.z), outside(a, b.x, b.z)) - allowed, 0.0)


def _hangs(a: Body) -> bool:
    return a.kind is not None and a.kind.goes[0] == "wall"


def on(a: Body, b: Body) -> Number:
    if a.on != b.id:
        return MISSING
    if b.sort != "object":
        return abs(a.y0 - b.y0)
    return _borne(a, bearing(b), b)


def _borne(a: Body, places: list[tuple[float, float, float, float, float, float | None]], b: Body) -> Number:
    best: Number = MISSING
    for y, x0, z0, x1, z1, clear in places:
        tall = 0.0 if clear is None else max(a.y1 - a.y0 - clear, 0.0)
        best = np.minimum(best, abs(a.y0 - round(y)) + tall + np.maximum(overhang(a, x0, z0, x1, z1, b) - SLACK, 0.0))
    return best


def inside(a: Body, b: Body, known: Mapping[str, Body]) -> Number:
    if b.sort != "object":
        return 0.0 if area_of(a, known) == b.id else MISSING
    if a.on != b.id or b.kind is None:
        return MISSING
    best: Number = MISSING
    for volume in b.kind.inside:
        x0, y0, z0, x1, y1, z1 = volume.cm(b.size)
        missing = abs(a.y0 - round(b.y0 + y0)) + (max(a.y1 - b.y0 - y1, 0.0) if volume.y1 < 1.0 else 0.0)
        best = np.minimum(best, missing + np.maximum(overhang(a, x0, z0, x1, z1, b) - SLACK, 0.0))
    return best


def above(a: Body, b: Body) -> Number:
    return max(b.y1 - a.y0, 0.0) + _over(a, b)


def under(a: Body, b: Body) -> Number:
    if a.kind is not None and a.kind.walkable:
        return max(a.y0 - b.y0, 0.0) + _over(a, b)
    low = max(a.y1 - b.y0, 0.0) + _over(a, b)
    if b.kind is not None and b.kind.under is not None:
        room = part(b, b.kind.under)
        within = overhang(a, -room.w / 2, -room.d / 2, room.w / 2, room.d / 2, room) if room.w < b.w else _over(a, b)
        low = np.minimum(low, max(a.y1 - room.y1, 0.0) + within)
    return low


def next_to(a: Body, b: Body) -> Number:
    height = max(a.y0 - b.y1, b.y0 - a.y1, 0.0)
    return np.maximum(gap(a, b) - NEXT, 0.0) + np.maximum(depth(a, b), 0.0) + max(height - NEXT, 0.0)


def near(a: Body, b: Body) -> Number:
    return np.maximum(gap(a, b) - NEAR, 0.0)


def far(a: Body, b: Body) -> Number:
    return np.maximum(FAR + STRICT - gap(a, b), 0.0)


def direction(kind: str, b: Body, frame: str) -> tuple[float, float]:
    """The unit vector (x, z) in which left, right, in front or behind of `b` lies."""
    if frame == "object" and b.front:
        width, front = axes(b.turn)  # what looks along +z has +x at its left hand
        sign, axis = {"left_of": (1, width), "right_of": (-1, width), "in_front_of": (1, front), "behind": (-1, front)}[kind]
        return (sign * axis[0], sign * axis[1])
    return {"left_of": (-1.0, 0.0), "right_of": (1.0, 0.0), "in_front_of": (0.0, 1.0), "behind": (0.0, -1.0)}[kind]


def beyond(a: Body, b: Body, along: tuple[float, float]) -> Number:
    across = (along[1], -along[0])
    forth = (a.x - b.x) * along[0] + (a.z - b.z) * along[1]
    aside = np.abs((a.x - b.x) * across[0] + (a.z - b.z) * across[1])
    edge = extent(a, along) + extent(b, along)
    return np.maximum(edge - forth, 0.0) + np.maximum(aside - np.maximum(forth, extent(b, across)), 0.0)


def between(a: Body, b: Body, c: Body) -> Number:
    dx, dz = c.x - b.x, c.z - b.z
    length = np.maximum(np.hypot(dx, dz), EPS)
    forth = ((a.x - b.x) * dx + (a.z - b.z) * dz) / length
    aside = np.abs((a.x - b.x) * dz - (a.z - b.z) * dx) / length
    ends = np.maximum(0.2 * length - forth, forth - 0.8 * length)
    return np.maximum(ends, 0.0) + np.maximum(aside - np.maximum(50.0, length / 4), 0.0)


def facing(a: Body, b: Body) -> Number:
    """Degrees; a middle in the middle of the other cannot be faced."""
    off = between_angles(angle(b.x - a.x, b.z - a.z), a.turn)
    same = np.hypot(b.x - a.x, b.z - a.z) < STRICT
    return np.where(same, 180.0, np.maximum(off - FACING, 0.0))


def to_wall(a: Body, room: Body, side: Side) -> Number:
    """The distance of the footprint from the room's wall on `side`."""
    dx, dz = DIRECTION[side]
    half = room.w / 2 if dx else room.d / 2
    return np.maximum(half - (a.x - room.x) * dx - (a.z - room.z) * dz - extent(a, (float(dx), float(dz))), 0.0)


def against_wall(a: Body, room: Body, side: Side | None) -> Number:
    sides: tuple[Side, ...] = (side,) if side else ("north", "east", "south", "west")
    nearest = to_wall(a, room, sides[0])
    for other in sides[1:]:
        nearest = np.minimum(nearest, to_wall(a, room, other))
    return np.maximum(nearest - WALLWARD, 0.0)


def in_corner(a: Body, room: Body, side: Side | None) -> Number:
    def short(*sides: Side) -> Any:
        return np.maximum(to_wall(a, room, sides[0]) - WALLWARD, 0.0) + np.maximum(to_wall(a, room, sides[1]) - WALLWARD, 0.0)

    pairs: list[tuple[Side, Side]] = [("north", "east"), ("south", "east"), ("south", "west"), ("north", "west")]
    found = [short(*pair) for pair in pairs if side is None or side in pair]
    return np.minimum.reduce(np.broadcast_arrays(*found))


def around(subjects: list[Body], b: Body) -> Number:
    short: Number = 0.0
    for a in subjects:
        short = short + np.maximum(gap(a, b) - AROUND, 0.0) + np.maximum(depth(a, b), 0.0)
    turns = np.sort(np.stack(np.broadcast_arrays(*[angle(a.x - b.x, a.z - b.z) for a in subjects])), axis=0)
    gaps = np.concatenate([np.diff(turns, axis=0), 360 - turns[-1:] + turns[:1]])
    return short + np.maximum(gaps.max(axis=0) - (360 / len(subjects) + 60), 0.0)


def aligned(subjects: list[Body]) -> Number:
    spread_x = np.ptp(np.stack(np.broadcast_arrays(*[a.x for a in subjects])), axis=0)
    spread_z = np.ptp(np.stack(np.broadcast_arrays(*[a.z for a in subjects])), axis=0)
    return np.maximum(np.minimum(spread_x, spread_z) - ROW, 0.0)


def centred(a: Body, b: Body) -> Number:
    if b.sort == "opening":
        return np.maximum(np.abs(local(b, a.x, a.z)[0]) - CENTRE, 0.0)
    return np.maximum(np.hypot(a.x - b.x, a.z - b.z) - CENTRE, 0.0)


def said_of(relation: Relation, a: Body, known: Mapping[str, Body]) -> list[Body] | None:
    """The bodies in `of`; the subject's room where it is left out; None if one is not known."""
    if relation.of:
        found = [known.get(name) for name in relation.of]
    elif relation.kind in ("against_wall", "in_corner", "centred"):
        found = [known.get(area_of(a, known) or "")]
    else:
        found = []
    return None if any(body is None for body in found) else found  # type: ignore[return-value]


def one_falls_short(relation: Relation, a: Body, known: Mapping[str, Body]) -> Number:
    """What one subject lacks, a relation of groups aside."""
    of = said_of(relation, a, known)
    wanted = 2 if relation.kind == "between" else 1
    if of is None or len(of) != wanted:
        return MISSING
    b, kind = of[0], relation.kind
    if a.id in relation.of:
        return MISSING
    if kind in ("left_of", "right_of", "in_front_of", "behind"):
        return beyond(a, b, direction(kind, b, relation.frame))
    if kind in ("against_wall", "in_corner"):
        if b.sort != "room":
            return MISSING
        return against_wall(a, b, relation.side) if kind == "against_wall" else in_corner(a, b, relation.side)
    if kind == "between":
        return between(a, b, of[1])
    if kind == "inside":
        return inside(a, b, known)
    return {"on": on, "under": under, "above": above, "next_to": next_to, "near": near, "far": far, "facing": facing,
            "centred": centred}[kind](a, b)  # fmt: skip


def falls_short(relation: Relation, known: Mapping[str, Body]) -> Number:
    """How much is missing, summed over the subjects: 0 if the relation holds. One body in `known` may have arrays for x and z."""
    subjects = [known.get(name) for name in relation.subjects]
    if any(a is None for a in subjects) or len(set(relation.subjects)) < len(subjects):
        return MISSING
    members: list[Body] = subjects  # type: ignore[assignment]
    if relation.kind in GROUP:
        of = said_of(relation, members[0], known)
        wanted = 1 if relation.kind == "around" else 0
        if of is None or len(members) < 2 or len(of) != wanted or set(relation.of) & set(relation.subjects):
            return MISSING
        return around(members, of[0]) if relation.kind == "around" else aligned(members)
    short: Number = 0.0
    for a in members:
        short = short + one_falls_short(relation, a, known)
    return short


def distance(scene: Scene, relation: Relation) -> float:
    """How much is missing for `relation` to hold in `scene`: 0 if it does, MISSING or more if it names what is not there."""
    return float(falls_short(relation, bodies(scene)))


def holds(scene: Scene, relation: Relation) -> bool:
    return distance(scene, relation) <= EPS
