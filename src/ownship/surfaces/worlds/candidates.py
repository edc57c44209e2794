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
    area_of,
    bearing,
    bounds,
    object_body,
)
from ownship.surfaces.worlds.space import SIDES, Ground, fits
from ownship.surfaces.worlds.types import Object, Opening, Relation

COARSE, FINE = 3_000, 12_000  # places of one grid, about
NEARBY = 200  # cm: how far around its old place a thing is looked for a place first
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
            if wanted.old and not fine and not hard:  # it hardly has to go far
                reach = NEARBY + bounds(body)[0] + bounds(body)[1]
                x0, x1 = max(x0, thing.x - reach), min(x1, thing.x + reach)
                z0, z1 = max(z0, thing.z - reach), min(z1, thing.z + reach)
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
