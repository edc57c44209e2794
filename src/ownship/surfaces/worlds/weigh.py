"""What a grid of places may and should be: `restrict` takes out what breaks a rule, `comfort` adds what a person would mind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from ownship.surfaces.worlds.candidates import Slots, State, Wanted
from ownship.surfaces.worlds.geometry import (
    EPS,
    INWARD,
    Body,
    Number,
    angle,
    area_of,
    axes,
    bearing,
    between_angles,
    bounds,
    depth,
    gap,
    local,
    outside,
    overhang,
)
from ownship.surfaces.worlds.relations import AROUND, GROUP, direction, falls_short, said_of, to_wall
from ownship.surfaces.worlds.space import SIDES, WALKER, Ground, ancestors, blocks, collide, fits, may_meet, must_reach
from ownship.surfaces.worlds.types import Relation

ELBOW, ROOMY = 90.0, 30.0  # cm that what others stand around, and what has no back, would like to have free on all sides


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
    for relation in hard:
        short = lacking(relation, body, state.known) if allowed.any() else None
        if short is not None:
            allowed &= np.asarray(short) <= EPS
            work += 4 * allowed.size
    for wall in state.walls.get(slots.area, []):
        _take_out(slots, wall, _overlap, True)  # a path may meet things, but no room
    for opening, zone in state.clear[slots.area]:
        if bearer.sort != "object" and opening.id in state.known:
            _take_out(slots, zone, blocks, body.kind is not None and not body.kind.walkable)
    if obstacles:
        exempt = {bearer.id} | ancestors(bearer, state.known)
        for other in _near(slots, state.things[slots.area]):
            if other.id not in exempt and other.id != body.id:
                _take_out(slots, other, collide, not may_meet(body, other) and not _roomy(body) and not _roomy(other))
    return work


def _overlap(a: Body, b: Body) -> Number:
    return depth(a, b) > EPS


def _near(slots: Slots, things: list[Body]) -> list[Body]:
    """Those that could touch a place that is still allowed."""
    xs, zs = slots.body.x[slots.allowed.any(axis=1), 0], slots.body.z[0, slots.allowed.any(axis=0)]
    if not len(xs) or not len(zs):
        return []
    half = (slots.body.w + slots.body.d) / 2
    x, rx, z, rz = (xs[0] + xs[-1]) / 2, (xs[-1] - xs[0]) / 2 + half, (zs[0] + zs[-1]) / 2, (zs[-1] - zs[0]) / 2 + half
    return [a for a in things if abs(a.x - x) < rx + (a.w + a.d) / 2 and abs(a.z - z) < rz + (a.w + a.d) / 2]


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
        if relation.kind == "aligned" and len(standing := [name for name in relation.subjects if name in known]) > 1:
            return falls_short(relation.model_copy(update={"subjects": tuple(standing)}), known)  # a row from the second on
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
        ringed = any(r.kind == "around" and body.id in r.of for r in relations)
        if not kind.back and not wanted.old and slots.area in state.grounds:
            cost += 0.7 * _crowding(body, state.grounds[slots.area], ELBOW if ringed else ROOMY)
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


def _crowding(body: Body, ground: Ground, wish: float) -> Any:
    """By how much less than `wish` is free around it, about: from the distance of its middle to what blocks a walker."""
    free = ndimage.distance_transform_edt(~ground.blocked) * (ground.xs[1] - ground.xs[0] if len(ground.xs) > 1 else 10)
    i = np.clip(np.searchsorted(ground.xs, body.x[:, 0]), 0, len(ground.xs) - 1)
    j = np.clip(np.searchsorted(ground.zs, body.z[0]), 0, len(ground.zs) - 1)
    return np.maximum(wish + (body.w + body.d) / 4 - WALKER - free[np.ix_(i, j)], 0.0)


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
        if kind == "next_to" and a.kind == b.kind and a.front:  # side by side
            cost = cost + 0.5 * np.abs(local(b, a.x, a.z)[1]) + 0.5 * between_angles(a.turn, b.turn)
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
