"""Everything of a scene that can be drawn, with its place: objects, floors, walls with their doors and windows, ceilings, land."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from ownship.surfaces.worlds.catalogue import COLOURS, GROUNDS, KINDS
from ownship.surfaces.worlds.mesh import Part, mesh_of, parts_of
from ownship.surfaces.worlds.shapes import Paint, Piece, box, cylinder, quads
from ownship.surfaces.worlds.types import WALL, Opening, Plot, Room, Scene, Side

Role = Literal["object", "floor", "wall", "ceiling", "opening", "ground"]
Rect = tuple[float, float, float, float]  # u0, v0, u1, v1

SIDES: dict[Side, tuple[int, int]] = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}
OPPOSITE: dict[Side, Side] = {"north": "south", "south": "north", "east": "west", "west": "east"}
PLASTER = Paint((226, 220, 208), "stone")
CUT = Paint((94, 92, 92), "stone")  # the upper edge of a wall, where a view from above cuts it
FRAME = Paint((246, 244, 239), "wood")
LEAF = Paint((150, 112, 78), "wood")
KNOB = Paint((196, 156, 84), "metal")
PANES = {"day": Paint((188, 216, 230), "pane", glow=0.35), "dusk": Paint((206, 150, 132), "pane", glow=0.3),
         "night": Paint((44, 58, 96), "pane", glow=0.2)}


@dataclass(frozen=True, eq=False)
class Placed:
    """Parts and where they stand: `id` of the scene, `name` unique among all ("room1.north"); turned by `turn` degrees, then moved
    to (x, y, z). Walls, and what hangs on or is set into them, say which way is out of their room."""

    id: str
    name: str
    role: Role
    parts: tuple[Part, ...]
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    turn: int = 0
    outward: tuple[int, int] | None = None


def placed(scene: Scene) -> list[Placed]:
    """All that is to be drawn, in an order that only depends on the scene."""
    found = [piece for plot in scene.plots for piece in _plot(plot, scene)]
    for room in scene.rooms:
        found += _room(room, scene)
    found += [_opening(opening, scene) for opening in scene.openings]
    for thing in scene.objects:
        parts = mesh_of(thing.kind, (thing.w, thing.h, thing.d), thing.colour, thing.material)
        hangs = KINDS[thing.kind].goes[0] == "wall" and thing.turn % 90 == 0
        outward = {0: (0, -1), 90: (-1, 0), 180: (0, 1), 270: (1, 0)}[thing.turn % 360] if hangs else None
        found.append(Placed(thing.id, thing.id, "object", parts, thing.x, thing.y, thing.z, thing.turn, outward))
    return found


def lamps(scene: Scene) -> Iterator[tuple[str, tuple[float, float, float], tuple[int, int, int], float]]:
    """(name, place in cm, sRGB, candela) of every point light. A `Light` has lumens: candela = lumen / 4π."""
    for thing in scene.objects:
        glow = KINDS[thing.kind].glow
        if glow is not None:
            warm = (255, 170, 90) if thing.kind in ("fireplace", "candle") else (255, 220, 170)
            yield f"{thing.id}.light", (thing.x, thing.y + glow[0] * thing.h, thing.z), warm, glow[1]
    for light in scene.lights:
        yield light.id, (light.x, light.y, light.z), COLOURS[light.colour].rgb, light.strength / (4 * math.pi)


def panel(u0: float, v0: float, u1: float, v1: float, holes: Sequence[Rect], cell: float = math.inf) -> list[Rect]:
    """A rectangle without its holes, as rectangles that share whole edges (a grid, so that no cracks open); cells are about
    `cell` long."""
    lines = []
    for low, high, axis in ((u0, u1, 0), (v0, v1, 1)):
        cuts = sorted({low, high, *(min(max(hole[i], low), high) for hole in holes for i in (axis, axis + 2))})
        fine: list[float] = []
        for a, b in pairwise(cuts):
            count = max(1, round((b - a) / cell)) if math.isfinite(cell) else 1
            fine += [a + (b - a) * i / count for i in range(count)]
        lines.append([*fine, high])
    us, vs = lines
    return [(a, b, c, e) for a, c in pairwise(us) for b, e in pairwise(vs)
            if not any(h[0] <= (a + c) / 2 <= h[2] and h[1] <= (b + e) / 2 <= h[3] for h in holes)]


def _level(rects: Sequence[Rect], y: float, paint: Paint, up: bool = True) -> Piece:
    """Rectangles in x and z as faces that look up or down."""
    return quads([[(a, y, e), (c, y, e), (c, y, b), (a, y, b)] if up else [(a, y, b), (c, y, b), (c, y, e), (a, y, e)]
                  for a, b, c, e in rects], paint)


def _mottled(name: str, rects: Sequence[Rect], y: float) -> list[Piece]:
    """Floor or land in up to three tones, always the same ones."""
    ground = GROUNDS[name]
    groups: dict[int, list[Rect]] = {}
    for rect in rects:
        hashed = math.sin(rect[0] * 12.9898 + rect[1] * 78.233) * 43758.5453
        groups.setdefault(int((hashed - math.floor(hashed)) * 3), []).append(rect)
    return [_level(group, y, Paint(ground.rgb, ground.material, (0.965, 1.0, 1.03)[tone])) for tone,
    group in sorted(groups.items())]


def _flooring(name: str, w: float, d: float) -> list[Piece]:
    """A floor of w x d about the origin at y = 0: planks, tiles or one piece."""
    if name in ("wood", "oak", "dark_wood"):
        wide, long = 14.0, 130.0
    elif name in ("tiles", "marble", "stone", "concrete"):
        wide = long = 40.0 if name == "tiles" else 60.0
    else:
        return _mottled(name, panel(-w / 2, -d / 2, w / 2, d / 2, ()), 0.0)
    wide *= max(1.0, math.sqrt(w * d / (wide * long) / 500))  # at most some 500 of them
    rows = max(1, round(d / wide))
    step = d / rows
    rects: list[Rect] = []
    for row in range(rows):
        z0, shift = -d / 2 + row * step, (row * 0.37 % 1.0) * long if wide != long else 0.0
        cuts = [-w / 2, *(x for i in range(math.ceil(w / long) + 2) if -w / 2 + 8 < (x := -w / 2 - shift + i * long) < w / 2 - 8),
        w / 2]
        rects += [(a, z0, b, z0 + step) for a, b in pairwise(cuts)]
    pieces = _mottled(name, rects, 0.0)
    if wide == long:  # joints, a little darker, above the tiles by a hair
        ground = GROUNDS[name]
        lines = [(-w / 2, z - 0.4, w / 2, z + 0.4) for z in sorted({r[1] for r in rects})[1:]]
        lines += [(x - 0.4, -d / 2, x + 0.4, d / 2) for x in sorted({r[0] for r in rects})[1:]]
        if lines:
            pieces.append(_level(lines, 0.1, Paint(ground.rgb, ground.material, 0.86)))
    return pieces


def _thickness(room: Room, side: Side, scene: Scene) -> float:
    """How thick the room draws its wall: half where another room's wall is the same wall."""
    dx, dz = SIDES[side]
    x, z = room.x + dx * (room.w / 2 + WALL), room.z + dz * (room.d / 2 + WALL)
    for other in scene.rooms:
        if other.id != room.id:
            along = abs(other.z - z) if dx else abs(other.x - x)
            reach = (other.d + room.d) / 2 if dx else (other.w + room.w) / 2
            across = dx * (other.x - x) - other.w / 2 if dx else dz * (other.z - z) - other.d / 2
            if along < reach + 2 * WALL and -WALL / 2 <= across < WALL:
                return WALL / 2
    return float(WALL)


def _holes(room: Room, side: Side, scene: Scene) -> list[Rect]:
    """Holes in a wall: (from, lower edge, to, upper edge) along x or z from the wall's middle. Doors of other rooms that lead here
    are holes too."""
    found: list[Rect] = []
    for opening in scene.openings:
        at = float(opening.at)
        if opening.to == room.id and opening.side == OPPOSITE[side]:
            other = next((r for r in scene.rooms if r.id == opening.room), None)
            if other is None:
                continue
            at += other.x - room.x if side in ("north", "south") else other.z - room.z
        elif opening.room != room.id or opening.side != side:
            continue
        top = min(float(opening.sill + opening.h), room.h - 1.0)
        found.append((at - opening.w / 2, float(opening.sill), at + opening.w / 2, top))
    return found


def _room(room: Room, scene: Scene) -> Iterator[Placed]:
    thick = {side: _thickness(room, side, scene) for side in SIDES}
    w, d = room.w / 2, room.d / 2
    outside = (-w - thick["west"], -d - thick["north"], w + thick["east"], d + thick["south"])
    foot = panel(*outside, [(-w, -d, w, d)])  # what the walls stand on
    floor = [*_flooring(room.floor, room.w, room.d), _level(foot, -0.3, CUT)]
    yield Placed(room.id, f"{room.id}.floor", "floor", parts_of(floor), room.x, 0, room.z)
    base = Paint(COLOURS[room.wall].rgb, "paper")
    for side, (dx, dz) in SIDES.items():
        half = (room.w if dz else room.d) / 2
        ends = (-half - thick["west"], half + thick["east"]) if dz else (-half, half)  # north and south make the corners
        holes, t = _holes(room, side, scene), thick[side]
        # built as a north wall: along x, its inner face at z = 0 looking to +z, then turned into its place
        flip = -1 if side in ("south", "west") else 1
        turned = [(min(flip * a, flip * c), b, max(flip * a, flip * c), e) for a, b, c, e in holes]
        low, high = sorted((flip * ends[0], flip * ends[1]))
        inner = panel(-half, 0, half, room.h, turned)
        outer = panel(low, 0, high, room.h, turned)
        pieces = [quads([[(a, b, 0), (c, b, 0), (c, e, 0), (a, e, 0)] for a, b, c, e in inner], base),
                  quads([[(c, b, -t), (a, b, -t), (a, e, -t), (c, e, -t)] for a, b, c, e in outer], PLASTER),
                  quads([[(low, room.h, 0), (high, room.h, 0), (high, room.h, -t), (low, room.h, -t)]], CUT)]
        ends_in = [(a, c) for a, c in ((low, -half), (half, high)) if c > a]  # seen where a neighbouring wall is not drawn
        if ends_in:
            pieces.append(quads([[(a, 0, 0), (c, 0, 0), (c, room.h, 0), (a, room.h, 0)] for a, c in ends_in], CUT))
        pieces += [quads([[(low, 0, -t), (low, 0, 0), (low, room.h, 0), (low, room.h, -t)],
                          [(high, 0, 0), (high, 0, -t), (high, room.h, -t), (high, room.h, 0)]], PLASTER)]
        for a, b, c, e in turned:  # what one sees in the thickness of the wall
            reveal = [[(a, b, 0), (a, b, -t), (a, e, -t), (a, e, 0)], [(c, b, -t), (c, b, 0), (c, e, 0), (c, e, -t)],
                      [(a, e, 0), (a, e, -t), (c, e, -t), (c, e, 0)], [(a, b, -t), (a, b, 0), (c, b, 0), (c, b, -t)]]
            pieces.append(quads(reveal, base if b else Paint(GROUNDS[room.floor].rgb, GROUNDS[room.floor].material)))
        skirting = panel(-half, 0, half, 8, [(a, -1, c, 9) for a, b, c, _ in turned if b == 0])
        pieces += [box(a, 0, 0, c, 8, 1.2, FRAME) for a, _, c, _ in skirting]
        turn = {"north": 0, "west": 90, "south": 180, "east": 270}[side]
        yield Placed(room.id, f"{room.id}.{side}", "wall", parts_of(pieces), room.x + dx * room.w / 2, 0, room.z + dz * room.d / 2,
        turn, (dx, dz))
    ceiling = _level([(-w, -d, w, d)], room.h, Paint((246, 245, 241), "paper", glow=0.25), up=False)
    yield Placed(room.id, f"{room.id}.ceiling", "ceiling", parts_of([ceiling]), room.x, 0, room.z)


def _opening(opening: Opening, scene: Scene) -> Placed:
    """Frame and pane, or frame and leaf, in the middle of the wall; a door that leads from room to room stands open."""
    room = next(r for r in scene.rooms if r.id == opening.room)
    dx, dz = SIDES[opening.side]
    w, h, t = float(opening.w), min(float(opening.h), room.h - 1.0 - opening.sill), float(WALL)
    edge, out = min(6.0, w * 0.1), 1.5
    # as in a north wall: the inner face at z = 0, outside at -t
    pieces = [box(side * w / 2, 0, -t - out, side * (w / 2 - edge), h, out, FRAME) for side in (-1, 1)]
    pieces.append(box(-w / 2 + edge, h - edge, -t - out, w / 2 - edge, h, out, FRAME))
    x, top = w / 2 - edge, h - edge
    if opening.kind == "window":
        pieces += [box(-w / 2 + edge, 0, -t - out, w / 2 - edge, edge, out, FRAME), box(-w / 2 - 2, -2, 0, w / 2 + 2, 1.5, 6,
        FRAME)]
        columns = max(1, min(8, round(w / 70)))
        for i in range(1, columns):
            bar = -x + 2 * x * i / columns
            pieces.append(box(bar - 1.5, edge, -t / 2 - 1.5, bar + 1.5, top, -t / 2 + 1.5, FRAME))
        pieces.append(box(-x, edge, -t / 2 - 0.5, x, top, -t / 2 + 0.5, PANES[scene.sky.time]))
    elif opening.to is None or all(r.id != opening.to for r in scene.rooms):
        pieces += [box(-x, 0.3, -t * 0.7, x, top, -t * 0.3, LEAF)]
        for face, depth in ((-t * 0.3, 0.5), (-t * 0.7 - 0.5, 0.5)):
            for low, high in ((0.08, 0.46), (0.54, 0.94)):
                pieces.append(box(-x * 0.74, top * low, face, x * 0.74, top * high, face + depth, Paint(LEAF.rgb, "wood", 0.88)))
        pieces += [cylinder(2.4, 0, t * 0.4 + 8, KNOB, 10).turned("x", 90).at(x * 0.82, h * 0.5, -t * 0.7 - 4)]
    along = float(opening.at)
    place = (room.x + dx * room.w / 2 + (along if dz else 0), opening.sill, room.z + dz * room.d / 2 + (along if dx else 0))
    turn = {"north": 0, "west": 90, "south": 180, "east": 270}[opening.side]
    return Placed(opening.id, opening.id, "opening", parts_of(pieces), *place, turn, (dx, dz))


def _plot(plot: Plot, scene: Scene) -> Iterator[Placed]:
    """Land without the rooms that stand on it, on a thin slab of earth."""
    x, z = plot.w / 2, plot.d / 2
    holes = []
    for room in scene.rooms:
        t = {side: _thickness(room, side, scene) for side in SIDES}
        a, b, c, e = room.x - plot.x, room.z - plot.z, room.w / 2, room.d / 2
        holes.append((a - c - t["west"], b - e - t["north"], a + c + t["east"], b + e + t["south"]))
    cell = max(100.0, math.sqrt(plot.w * plot.d / 500))
    top = _mottled(plot.ground, panel(-x, -z, x, z, holes, cell), 0.0)
    rim = np.array([(-x, z), (x, z), (x, -z), (-x, -z)])
    after = np.roll(rim, -1, axis=0)
    sides = [[(a[0], -12, a[1]), (b[0], -12, b[1]), (b[0], 0, b[1]), (a[0], 0, a[1])] for a, b in zip(rim, after, strict=True)]
    pieces = [*top, quads(sides, Paint(GROUNDS["earth"].rgb, "stone"))]
    yield Placed(plot.id, plot.id, "ground", parts_of(pieces), plot.x, 0, plot.z)
