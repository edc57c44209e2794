"""Where one thing could stand: grids of places with a mask of those that are allowed and a cost of each.

A `Slots` is one way to stand (borne by what, at which height, turned how) and all places for it at once, so that every rule is a
few operations on arrays. Costs are centimetres of discomfort: how far from where a person would have put it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ownship.surfaces.worlds.geometry import (
    EPS,
    INWARD,
    Body,
    angle,
    area_of,
    axes,
    bearing,
    between_angles,
    bounds,
    gap,
    local,
    object_body,
    outside,
    overhang,
)
from ownship.surfaces.worlds.relations import AROUND, GROUP, direction, falls_short, said_of, to_wall
from ownship.surfaces.worlds.space import SIDES, Ground, ancestors, blocks, collide, fits, may_meet, must_reach
from ownship.surfaces.worlds.types import Object, Opening, Relation

COARSE, FINE = 3_000, 12_000  # places of one grid, about
LOW_SEAT = 0.9  # surfaces below this share of the height are seats and beds: nothing is put there unasked


@dataclass(frozen=True)
class Wanted:
    """A thing that needs a place. `thing` says its size and look, and where it stood if `old`: it stays as near as it can.

    `x`, `y`, `z`, `turn`, where given, are exact. `carried` stand on it and go along. `areas` are the only rooms and plots for it.
    """

    thing: Object
    old: bool = False
    areas: tuple[str, ...] = ()
    x: int | None = None
    y: int | None = None
    z: int | None = None
    turn: int | None = None
    carried: tuple[Object, ...] = ()


@dataclass
class State:
    """What stands so far: every body by id, the things of each area, and where one can walk there."""

    known: dict[str, Body]
    things: dict[str, list[Body]]
    grounds: dict[str, Ground]
    clear: dict[str, list[tuple[Opening, Body]]]
    walls: dict[str, list[Body]] = field(default_factory=dict)  # the rooms that stand on a plot

    def copy(self) -> State:
        things = {area: list(bodies) for area, bodies in self.things.items()}
        return State(dict(self.known), things, dict(self.grounds), self.clear, self.walls)


@dataclass
class Slots:
    """`body` has x [n, 1] and z [1, m]; `allowed` and `cost` are [n, m]."""

    body: Body
    area: str
    allowed: Any
    cost: Any


def _lattice(low: float, high: float, step: int, more: Iterable[float]) -> Any:
    first, last = np.ceil(low - EPS), np.floor(high + EPS)
    if first > last:
        return np.empty(0)
    near = [v for value in more for v in (np.floor(value), np.ceil(value)) if first <= v <= last]
    return np.unique(np.concatenate([np.arange(first, last + 1, step), [last], near]))


def _grid(body: Body, x0: float, x1: float, z0: float, z1: float, cells: int, near: list[Body], flush: bool) -> Body | None:
    """The body at all places of a grid whose footprints lie within a rectangle; also in line with `near`, or touching them."""
    hx, hz = bounds(body)
    step = 1
    for step in (1, 2, 3, 5, 10, 15, 20, 30, 40, 60, 80, 100):
        if max(x1 - x0 - 2 * hx, 1) * max(z1 - z0 - 2 * hz, 1) / step**2 <= cells:
            break
    more_x, more_z = [float(other.x) for other in near], [float(other.z) for other in near]
    if flush:
        for other in near:
            ox, oz = bounds(other)
            more_x += [other.x - ox - hx, other.x + ox + hx]
            more_z += [other.z - oz - hz, other.z + oz + hz]
    xs = _lattice(x0 + hx, x1 - hx, step, [*more_x, (x0 + x1) / 2])
    zs = _lattice(z0 + hz, z1 - hz, step, [*more_z, (z0 + z1) / 2])
    return body.at(xs[:, None], zs[None, :]) if len(xs) and len(zs) else None


def bearers(wanted: Wanted, hard: Iterable[Relation], state: State) -> list[tuple[str, str | None]]:
    """(bearer, "on" or "inside" or None) each: what may bear it. What a relation asks for is all there is."""
    name = wanted.thing.id
    for relation in hard:
        if name in relation.subjects and relation.kind in ("on", "inside") and len(relation.of) == 1:
            bearer = state.known.get(relation.of[0])
            if bearer is None:
                return []
            if bearer.sort == "object":
                return [(bearer.id, relation.kind)]
            if relation.kind == "on":
                return [(bearer.id, "floor")]
            return [(bearer.id, None)]
    kind = object_body(wanted.thing).kind
    found: list[tuple[str, str | None]] = []
    areas = [area for area in state.things if not wanted.areas or area in wanted.areas]
    if kind is not None and not wanted.areas:  # where its kind belongs, if there is such a place, and where it is told to be
        related = [state.known[other] for relation in hard for other in (*relation.of, *relation.subjects) if other in state.known]
        told = {area_of(body, state.known) for body in related}
        told |= {area_of(object_body(wanted.thing), state.known)} if wanted.old else set()
        fit = [area for area in areas if (kind.indoors if state.known[area].sort == "room" else kind.outdoors)]
        areas = [*fit, *(area for area in areas if area in told and area not in fit)] or areas
    if wanted.old and wanted.thing.on in state.known and state.known[wanted.thing.on].sort == "object":
        found.append((wanted.thing.on, "on"))
    if kind is not None and "on" in kind.goes:
        for area in areas:
            for body in state.things[area]:
                top = body.kind is not None and any(s.y >= LOW_SEAT and s.clear is None for s in body.kind.surfaces)
                if top and body.kind is not None and not body.kind.walkable and (body.id, "on") not in found:
                    found.append((body.id, "on"))
    return [*found[:24], *((area, None) for area in areas)]


def turns(wanted: Wanted, base: float) -> list[int]:
    """The turns worth trying: right angles to `base`, as few as its shape needs, the old one first."""
    if wanted.turn is not None:
        return [wanted.turn]
    body = object_body(wanted.thing)
    count = 4 if body.front else 1 if body.w == body.d else 2
    found = [int(base + 90 * i) % 360 for i in range(count)]
    old = wanted.thing.turn % 360
    return [old, *(turn for turn in found if turn != old)] if wanted.old else found


def places(wanted: Wanted, hard: list[Relation], state: State, fine: bool) -> Iterator[Slots]:
    """All ways in which it could stand, collisions and relations not yet looked at."""
    thing = wanted.thing
    kind = object_body(thing).kind
    if kind is None:
        return
    cells = FINE if fine else COARSE
    near = [state.known[name] for relation in hard for name in (*relation.of, *relation.subjects)
            if name in state.known and state.known[name].sort != "room"][:12]  # fmt: skip
    if wanted.old:
        near.append(object_body(thing))
    for number, (bearer_id, how) in enumerate(bearers(wanted, hard, state)):
        bearer = state.known[bearer_id]
        area = area_of(bearer, state.known)
        if area is None or (wanted.areas and area not in wanted.areas):
            continue
        others = [*near, *state.things[area][:40]] if fine else near
        for body, x0, x1, z0, z1, rank in _ways(wanted, bearer, how):
            if wanted.y is not None and abs(body.y0 - wanted.y) > EPS:
                continue
            if body.y1 > state.known[area].y1 + EPS:
                continue
            if wanted.x is not None and wanted.z is not None:
                hx, hz = bounds(body)
                if min(wanted.x - hx - x0, x1 - wanted.x - hx, wanted.z - hz - z0, z1 - wanted.z - hz) < -EPS:
                    continue
                grid: Body | None = body.at(np.array([[float(wanted.x)]]), np.array([[float(wanted.z)]]))
            else:
                grid = _grid(body, x0, x1, z0, z1, cells, others, fine)
            if grid is None:
                continue
            shape = np.broadcast(grid.x, grid.z).shape
            yield Slots(grid, area, np.ones(shape, bool), np.full(shape, 15.0 * number + rank))


def _ways(wanted: Wanted, bearer: Body, how: str | None) -> Iterator[tuple[Body, float, float, float, float, float]]:
    """(body, x0, x1, z0, z1, cost): each height, turn and upright rectangle within which the footprint has to lie."""
    thing = wanted.thing
    plain = object_body(thing)
    assert plain.kind is not None
    x, z = float(bearer.x), float(bearer.z)
    height = thing.h

    def body(y: float, turn: int) -> Body:
        return replace(plain, y0=y, y1=y + height, turn=turn, on=bearer.id)

    if bearer.sort == "object":
        hx, hz = bounds(bearer)
        for place, (y, x0, z0, x1, z1, clear) in enumerate(bearing(bearer)):
            if how == "inside" and not _is_inside(bearer, y):
                continue
            for turn in turns(wanted, bearer.turn):
                found = body(round(y), turn)
                if not fits(found, clear):
                    continue
                if bearer.turn % 360 == 0:
                    yield found, x + x0, x + x1, z + z0, z + z1, place
                else:
                    yield found, x - hx - 1, x + hx + 1, z - hz - 1, z + hz + 1, place
        return
    w, d = bearer.w / 2, bearer.d / 2
    inside = (x - w, x + w, z - d, z + d)
    floor_only = how == "floor" or bearer.sort == "plot"
    allowed = tuple(way for way in plain.kind.goes if way == "floor" or not floor_only)
    if "floor" in allowed:
        for turn in turns(wanted, 0):
            yield body(0, turn), *inside, 60.0 if plain.kind.goes[0] != "floor" else 0.0
    if "ceiling" in allowed:
        for turn in turns(wanted, 0):
            yield body(bearer.y1 - height, turn), *inside, 0.0
    if "wall" in allowed:
        for side in SIDES:
            turn = INWARD[side]
            if wanted.turn is not None and wanted.turn % 360 != turn:
                continue
            hangs = wanted.thing.y if wanted.old and wanted.thing.y else plain.kind.hang
            top = int(bearer.y1) - height
            heights = [wanted.y] if wanted.y is not None else sorted({min(hangs, top), min(hangs + 40, top), max(top - 20, 0)})
            for y in heights:
                found = body(y, turn)
                hx, hz = bounds(found)
                deep = 2 * (hz if side in ("north", "south") else hx) + 0.99
                strip = {"north": (*inside[:2], z - d, z - d + deep), "south": (*inside[:2], z + d - deep, z + d),
                         "west": (x - w, x - w + deep, *inside[2:]), "east": (x + w - deep, x + w, *inside[2:])}[side]  # fmt: skip
                yield found, *strip, abs(y - hangs) / 2


def _is_inside(bearer: Body, y: float) -> bool:
    kind = bearer.kind
    return kind is not None and any(abs(bearer.y0 + volume.y0 * bearer.size[1] - y) < EPS for volume in kind.inside)


def restrict(slots: Slots, state: State, hard: Iterable[Relation], obstacles: bool = True) -> int:
    """Takes out what collides, hangs out, blocks an opening or breaks a relation whose other participants stand. The work done."""
    body, allowed = slots.body, slots.allowed
    bearer = state.known[body.on or ""]
    work = allowed.size
    if bearer.sort == "object":
        on_it = np.zeros(allowed.shape, bool)
        for y, x0, z0, x1, z1, clear in bearing(bearer):
            if abs(round(y) - body.y0) < EPS and fits(body, clear):
                on_it |= overhang(body, x0, z0, x1, z1, bearer) <= 0.5
        allowed &= on_it
        hx, hz = bounds(state.known[slots.area])
        allowed &= overhang(body, -hx, -hz, hx, hz, state.known[slots.area]) <= EPS
    for wall in state.walls.get(slots.area, []):
        _take_out(slots, wall, collide, True)
    for opening, zone in state.clear[slots.area]:
        if bearer.sort != "object" and opening.id in state.known:
            _take_out(slots, zone, blocks, body.kind is not None and not body.kind.walkable)
    if obstacles:
        exempt = {bearer.id} | ancestors(bearer, state.known)
        for other in state.things[slots.area]:
            if other.id not in exempt and other.id != body.id:
                _take_out(slots, other, collide, not may_meet(body, other) and not _roomy(body) and not _roomy(other))
    for relation in hard:
        if not allowed.any():
            break
        short = lacking(relation, body, state.known)
        if short is not None:
            allowed &= np.asarray(short) <= EPS
            work += 4 * allowed.size
    return work


def _roomy(body: Body) -> bool:
    return body.kind is not None and body.kind.under is not None


def _take_out(slots: Slots, other: Body, rule: Any, certain: bool) -> None:
    """Only places whose upright bounds overlap those of `other` are looked at; `certain`: where both are upright, all of these."""
    body = slots.body
    if not (body.y0 < other.y1 - EPS and other.y0 < body.y1 - EPS):
        return
    hx, hz = bounds(body)
    ox, oz = bounds(other)
    xs, zs = body.x[:, 0], body.z[0]
    i = np.searchsorted(xs, (other.x - ox - hx + EPS, other.x + ox + hx - EPS))
    j = np.searchsorted(zs, (other.z - oz - hz + EPS, other.z + oz + hz - EPS))
    window = (slice(int(i[0]), int(i[1])), slice(int(j[0]), int(j[1])))
    if i[0] >= i[1] or j[0] >= j[1] or not slots.allowed[window].any():
        return
    if certain and body.turn % 90 == 0 and other.turn % 90 == 0:
        slots.allowed[window] = False
        return
    part = body.at(body.x[window[0]], body.z[:, window[1]])
    slots.allowed[window] &= ~np.asarray(rule(part, other), bool)


def lacking(relation: Relation, body: Body, known: dict[str, Body]) -> Any:
    """What the relation lacks with `body` at its places; None if it says nothing of it yet because others have no place."""
    if body.id not in relation.subjects and body.id not in relation.of:
        return None
    names = [name for name in (*relation.subjects, *relation.of) if name != body.id]
    missing = [name for name in names if name not in known]
    before = known.get(body.id)
    known[body.id] = body
    try:
        if not missing:
            return falls_short(relation, known)
        if relation.kind == "around" and relation.of[0] not in missing and body.id in relation.subjects:
            return np.maximum(gap(body, known[relation.of[0]]) - AROUND, 0.0)
        return None
    finally:
        if before is None:
            del known[body.id]
        else:
            known[body.id] = before


def comfort(slots: Slots, wanted: Wanted, state: State, relations: Iterable[Relation]) -> None:
    """Adds to the costs what a person would mind."""
    body, cost = slots.body, slots.cost
    kind = body.kind
    assert kind is not None
    area = state.known[slots.area]
    told = [r for r in relations if body.id in r.subjects]
    if wanted.old:
        cost += 2 * np.hypot(body.x - wanted.thing.x, body.z - wanted.thing.z) + 2 * abs(body.y0 - wanted.thing.y)
        cost += between_angles(body.turn, wanted.thing.turn) * (0.2 if told else 0.7)
    if area.sort == "room" and body.on == area.id and body.y0 < EPS:
        walls = {side: to_wall(body, area, side) for side in SIDES}
        if kind.back and not wanted.old:
            behind = next((side for side in SIDES if INWARD[side] == body.turn % 360), None)
            cost += np.minimum(walls[behind], 150.0) if behind else 150.0
        elif not kind.walkable and not any(r.kind in ("against_wall", "in_corner") for r in told):
            nearest = np.minimum.reduce(np.broadcast_arrays(*walls.values()))
            cost += 0.4 * np.maximum(60 - nearest, 0)
    if body.y0 < EPS and not kind.walkable:
        for other in state.things[slots.area][-40:]:  # not in front of what is used from its front
            if other.kind is not None and other.kind.back and must_reach(other):
                (_, _), (fx, fz) = axes(other.turn)
                front = replace(other, x=other.x + fx * (other.d / 2 + 35), z=other.z + fz * (other.d / 2 + 35), d=70.0)
                cost += 60.0 * (outside(front, body.x, body.z) < min(body.w, body.d) / 2)
    for relation in relations:
        others = [state.known[name] for name in (*relation.of, *relation.subjects) if name in state.known and name != body.id]
        if any(other.sort == "object" and area_of(other, state.known) != slots.area for other in others):
            cost += 500  # what is said of two things is meant to be seen in one room
        if relation.kind not in GROUP or relation.kind == "around":
            extra = _wish(relation, body, slots.area, state.known)
            if extra is not None:
                cost += extra


def _wish(relation: Relation, a: Body, area: str, known: dict[str, Body]) -> Any:
    """How well a place keeps the spirit of a relation whose letter it keeps; None where that says nothing yet."""
    if a.id not in relation.subjects:
        return None
    of = said_of(relation, a, {**known, a.id: a}) if all(name in known for name in relation.of) else None
    if not of:
        return None
    b, kind = of[0], relation.kind
    if kind in ("against_wall", "in_corner"):
        sides = [relation.side] if relation.side else list(SIDES)
        if b.sort != "room":
            return None
        costs = [to_wall(a, b, side) + (40.0 if a.front and a.turn % 360 != INWARD[side] else 0.0) for side in sides if side]
        return np.minimum.reduce(np.broadcast_arrays(*costs))
    if kind == "between":
        return np.hypot(a.x - (b.x + of[1].x) / 2, a.z - (b.z + of[1].z) / 2)
    if kind == "facing":
        toward = between_angles(angle(b.x - a.x, b.z - a.z), a.turn)
        return toward + 0.3 * np.abs(gap(a, b) - 150)
    if kind in ("on", "inside", "under", "above", "centred"):
        if b.sort in ("room", "plot") and kind != "centred":
            return None
        if b.sort == "opening":
            return np.abs(local(b, a.x, a.z)[0])
        return (1.0 if kind == "centred" else 0.2) * np.hypot(a.x - b.x, a.z - b.z)
    cost: Any = 0.0
    if kind in ("left_of", "right_of", "in_front_of", "behind"):
        along = direction(kind, b, relation.frame)
        cost = 0.4 * np.abs((a.x - b.x) * along[1] - (a.z - b.z) * along[0]) + 0.5 * np.abs(gap(a, b) - 15)
    elif kind in ("next_to", "near"):
        cost = 0.5 * np.abs(gap(a, b) - 15)
    elif kind == "around":
        cost = 0.5 * np.abs(gap(a, b) - 15)
        placed = [known[name] for name in relation.subjects if name in known and name != a.id]
        share = 360 / len(relation.subjects)
        for other in placed:
            apart = between_angles(angle(a.x - b.x, a.z - b.z), angle(other.x - b.x, other.z - b.z))
            cost = cost + 1.5 * np.maximum(share - apart, 0.0)
    seat = a.front and a.kind is not None and not a.kind.back and b.sort == "object"
    if seat and kind in ("next_to", "around", "in_front_of"):
        cost = cost + 0.5 * between_angles(angle(b.x - a.x, b.z - a.z), a.turn)
    return cost
