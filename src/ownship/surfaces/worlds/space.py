"""What makes a scene possible: nothing collides, everything is borne, openings are clear, one can walk to everything.

`problems(scene)` is the invariant of the whole product: a scene that the pipeline gives has none.

- Two things collide if their boxes overlap, except: what stands on or in a thing and that thing; what lies wholly in the free
  space below (a box under a table, a bush under a tree's crown); things to walk on (rugs) and what is not to be walked on.
- A thing is within its room or plot, and not in the walls or rooms that stand on a plot. It stands on the floor, wholly on a
  surface of another thing or in its inside space; or it hangs flush on a wall or under the ceiling, if its kind does.
- Before a door 80 cm are clear as wide as the door (at least 70 cm), before a window 30 cm at the height of its panes, on both
  sides of a door that leads into a room or onto a plot.
- A walker is a square of 50 cm on a grid of 10 cm (coarser on very large plots). In every room and plot one connected ground
  reaches every door and all that stands on the floor: what has a back at its front, the rest from any side, at 70 cm or less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ownship.surfaces.worlds.geometry import (
    DIRECTION,
    EPS,
    INWARD,
    Body,
    Number,
    area_body,
    area_of,
    axes,
    bearing,
    bodies,
    bounds,
    depth,
    extent,
    local,
    opening_body,
    outside,
    overhang,
    part,
    rises,
    shell,
    solids,
)
from ownship.surfaces.worlds.relations import SLACK, falls_short, to_wall
from ownship.surfaces.worlds.types import WALL, Opening, Problem, Room, Scene, Side

DOOR, WINDOW, WALKER, REACH, STEP = 80, 30, 25, 70, 10  # cm
FLUSH = 1.0  # cm: integer positions cannot always touch a wall
CELLS = 400  # along the longer side of an area, before its grid gets coarser
SIDES: tuple[Side, ...] = ("north", "east", "south", "west")


def sheltered(a: Body, b: Body) -> Number:
    """Whether what `a` and `b` share of the ground lies in the free space under `b` (true or false per place)."""
    if b.kind is None or b.kind.under is None or a.y0 < b.y0 - EPS:
        return False
    volume, free = b.kind.under, part(b, b.kind.under)
    if a.y1 > free.y1 + EPS:
        return False
    u, v = local(free, a.x, a.z)
    width, front = axes(b.turn)
    eu, ev = extent(a, width), extent(a, front)
    within: Number = np.ones(np.broadcast(u, v).shape, bool)
    for low, high, at, half, edge in ((volume.x0, volume.x1, u, eu, free.w / 2), (volume.z0, volume.z1, v, ev, free.d / 2)):
        if low > 0:  # closed on that side: legs
            within = within & (at - half >= -edge - EPS)
        if high < 1:
            within = within & (at + half <= edge + EPS)
    for solid in b.kind.solids:
        within = within & (depth(a, part(b, solid)) <= EPS)
    return within


def ancestors(body: Body, known: Mapping[str, Body]) -> set[str]:
    found: set[str] = set()
    while body.on and body.on not in found and (bearer := known.get(body.on)) is not None:
        found.add(body.on)
        body = bearer
    return found


def may_meet(a: Body, b: Body) -> bool:
    """Whether their boxes may overlap because of what they are: a rug and what is no rug."""
    return (a.kind is not None and a.kind.walkable) != (b.kind is not None and b.kind.walkable)


def collide(a: Body, b: Body) -> Number:
    """Whether two things of one area that do not bear each other collide; per place where `a` has several."""
    if may_meet(a, b) or not rises(a, b):
        return np.zeros(np.broadcast(a.x, a.z).shape, bool)
    return (depth(a, b) > EPS) & ~(np.asarray(sheltered(a, b)) | np.asarray(sheltered(b, a)))


def before(opening: Opening, room: Room) -> list[tuple[str, Body]]:
    """What has to be clear on both sides of an opening: (area, body) each."""
    far = DOOR if opening.kind == "door" else WINDOW
    inner = opening_body(opening, room, far, inside=True)
    if opening.kind == "window":
        return [(room.id, inner)]
    inner = replace(inner, w=max(inner.w, 70))
    dx, dz = DIRECTION[opening.side]
    outer = replace(inner, x=inner.x + dx * (WALL + far), z=inner.z + dz * (WALL + far))
    return [(room.id, inner), (opening.to, outer)] if opening.to else [(room.id, inner)]


Clear = dict[str, list[tuple[Opening, Body]]]  # for every area the openings and what has to be clear before them


def clearances(scene: Scene) -> Clear:
    rooms = {room.id: room for room in scene.rooms}
    found: Clear = {name: [] for name in (*rooms, *(plot.id for plot in scene.plots))}
    for opening in scene.openings:
        for area, body in before(opening, rooms[opening.room]):
            if area in found:
                found[area].append((opening, body))
    return found


def covered(scene: Scene, plot: Body) -> list[Body]:
    """The rooms that stand on a plot, with their walls."""
    return [body for body in map(shell, scene.rooms) if float(depth(body, plot)) > EPS]


def blocks(a: Body, before: Body) -> Number:
    """Whether `a` stands or hangs in what has to be clear before an opening."""
    if (a.kind is not None and a.kind.walkable) or not rises(a, before):
        return np.zeros(np.broadcast(a.x, a.z).shape, bool)
    return depth(a, before) > EPS


def on_ground(body: Body) -> bool:
    """Whether one walks around it."""
    return body.y0 < 150 and not (body.kind is not None and body.kind.walkable) and not (body.kind is not None and _hung(body))


def _hung(body: Body) -> bool:
    return body.kind is not None and "floor" not in body.kind.goes and "on" not in body.kind.goes and body.y0 > 0


@dataclass
class Ground:
    """Where one can walk in an area. `blocked[i, j]` is the cell around (xs[i], zs[j])."""

    area: Body
    blocked: NDArray[np.bool_]
    xs: NDArray[np.float64]
    zs: NDArray[np.float64]
    doors: list[Body] = field(default_factory=list)
    labels: Any = None

    @classmethod
    def of(cls, area: Body, walls: Iterable[Body] = (), doors: Iterable[Body] = ()) -> Ground:
        step = STEP * max(1, -(-int(max(area.w, area.d)) // (CELLS * STEP)))
        xs = np.arange(area.x - area.w / 2 + step / 2, area.x + area.w / 2, step)
        zs = np.arange(area.z - area.d / 2 + step / 2, area.z + area.d / 2, step)
        inset = WALKER if area.sort == "room" else 0
        edge_x, edge_z = area.w / 2 - inset + EPS, area.d / 2 - inset + EPS
        blocked = (np.abs(xs - area.x) > edge_x)[:, None] | (np.abs(zs - area.z) > edge_z)[None, :]
        ground = cls(area, blocked, xs, zs, list(doors))
        for wall in walls:
            ground.block(wall)
        return ground

    def copy(self) -> Ground:
        return Ground(self.area, self.blocked.copy(), self.xs, self.zs, self.doors)

    def window(self, body: Body, more: float) -> tuple[slice, slice]:
        """The cells whose middles are in the upright rectangle around a body that is `more` larger on all sides."""
        hx, hz = bounds(body)
        i = np.searchsorted(self.xs, (body.x - hx - more + EPS, body.x + hx + more - EPS))
        j = np.searchsorted(self.zs, (body.z - hz - more + EPS, body.z + hz + more - EPS))
        return slice(int(i[0]), int(i[1])), slice(int(j[0]), int(j[1]))

    def block(self, body: Body) -> None:
        """A walker's middle comes no nearer to it than half the walker."""
        if not on_ground(body):
            return
        for solid in solids(body):
            part_x, part_z = self.window(solid, WALKER)
            if solid.turn % 90 == 0:
                self.blocked[part_x, part_z] = True
            else:
                self.blocked[part_x, part_z] |= outside(solid, self.xs[part_x, None], self.zs[None, part_z]) < WALKER
        self.labels = None

    def reached_from(self, body: Body, reach: float | None = None) -> set[int]:
        """The connected grounds from which a thing can be reached; or, without a reach, those that have a cell within the body."""
        if reach is not None and body.kind is not None and body.kind.back:  # from its front
            (_, _), (fx, fz) = axes(body.turn)
            away = (body.d + reach) / 2
            body, reach = replace(body, x=body.x + fx * away, z=body.z + fz * away, d=reach), None
        part_x, part_z = self.window(body, reach or 0)
        found = self.connected()[part_x, part_z]
        if body.turn % 90 != 0:
            found = found[outside(body, self.xs[part_x, None], self.zs[None, part_z]) <= (reach or 0) + EPS]
        return set(np.unique(found).tolist()) - {0}

    def reached(self, things: Iterable[Body]) -> dict[str, set[int]]:
        """The connected grounds from which each door and thing can be reached."""
        found = {body.id: self.reached_from(body) for body in self.doors}
        return found | {body.id: self.reached_from(body, REACH) for body in things if must_reach(body)}

    def best(self, reached: dict[str, set[int]]) -> int:
        """The connected ground from which most is reached; the largest if nothing has to be; 0 if there is none."""
        votes: dict[int, int] = {}
        for labels in reached.values():
            for label in labels:
                votes[label] = votes.get(label, 0) + 1
        if votes:
            return max(votes, key=lambda label: (votes[label], -label))
        sizes = np.bincount(self.connected().ravel())
        sizes[0] = 0
        return int(sizes.argmax())

    def connected(self) -> Any:
        """[len(xs), len(zs)] int: 0 where one cannot walk, else the number of the connected ground."""
        if self.labels is None:
            self.labels = ndimage.label(~self.blocked)[0]
        return self.labels

    def unreachable(self, things: Iterable[Body]) -> list[str]:
        """The doors and things that the best connected ground does not reach."""
        reached = self.reached(things)
        best = self.best(reached)
        return [name for name, labels in reached.items() if best not in labels]

    def open_cell(self, x: float, z: float) -> tuple[float, float] | None:
        """The place nearest to (x, z) on the ground that most doors share, else on the largest; None if there is no ground."""
        labels = self.connected()
        best = self.best(self.reached(()))
        if best == 0 or not labels.any():
            return None
        away = np.where(labels == best, np.hypot(self.xs[:, None] - x, self.zs[None, :] - z), np.inf)
        i, j = np.unravel_index(int(away.argmin()), away.shape)
        return float(self.xs[i]), float(self.zs[j])


def must_reach(body: Body) -> bool:
    """What stands on the floor of a room or plot (not on other things) and is not walked on or hung up."""
    return body.y0 < EPS and body.kind is not None and not body.kind.walkable and on_ground(body)


def ground(scene: Scene, area: Body, things: Iterable[Body], clear: Clear) -> Ground:
    """The ground of an area with `things` on it."""
    walls = covered(scene, area) if area.sort == "plot" else []
    doors = [body for opening, body in clear[area.id] if opening.kind == "door"]
    found = Ground.of(area, walls, doors)
    for body in things:
        found.block(body)
    return found


def fits(a: Body, clear: float | None) -> bool:
    """Whether it is low enough for a place with `clear` centimetres above it."""
    return clear is None or a.y1 - a.y0 <= clear + SLACK


def stands(a: Body, known: Mapping[str, Body]) -> bool:
    """Whether it is borne where it is."""
    bearer = known.get(a.on or "")
    if bearer is None or a.kind is None:
        return False
    if bearer.sort == "object":
        return any(
            abs(a.y0 - round(y)) <= EPS and fits(a, clear) and overhang(a, x0, z0, x1, z1, bearer) <= SLACK
            for y, x0, z0, x1, z1, clear in bearing(bearer)
        )
    if "floor" in a.kind.goes and a.y0 < EPS:
        return True
    if bearer.sort != "room":
        return False
    if "ceiling" in a.kind.goes and abs(a.y1 - bearer.y1) <= EPS:
        return True
    flush = [side for side in SIDES if float(to_wall(a, bearer, side)) < FLUSH and a.turn % 360 == INWARD[side]]
    return "wall" in a.kind.goes and bool(flush)


def within(a: Body, area: Body) -> Number:
    """Whether it is inside an area."""
    fits = a.y1 <= area.y1 + EPS and a.y0 >= -EPS
    return (overhang(a, -area.w / 2, -area.d / 2, area.w / 2, area.d / 2, area) <= EPS) & fits


def problems(scene: Scene) -> list[Problem]:
    """Everything that is wrong with a scene; [] for every scene that the pipeline gives."""
    known = bodies(scene)
    rooms = {room.id: room for room in scene.rooms}
    areas = {name: body for name, body in known.items() if body.sort in ("room", "plot")}
    found: list[Problem] = []
    names = [thing.id for part in (scene.rooms, scene.plots, scene.openings, scene.objects, scene.lights) for thing in part]
    found += [Problem(kind="unknown", ids=(name,)) for name in sorted({name for name in names if names.count(name) > 1})]
    found += [Problem(kind="unknown", ids=(o.id, o.room)) for o in scene.openings if o.room not in rooms]
    if found:
        return found
    clear = clearances(scene)
    standing: dict[str, list[Body]] = {name: [] for name in areas}
    for thing in scene.objects:
        body = known[thing.id]
        area = area_of(body, known)
        if body.kind is None or area is None:
            found.append(Problem(kind="unknown", ids=(thing.id, thing.kind if body.kind is None else thing.on)))
            continue
        standing[area].append(body)
        walls = covered(scene, areas[area]) if areas[area].sort == "plot" else []
        if not within(body, areas[area]) or any(float(depth(body, wall)) > EPS for wall in walls):
            found.append(Problem(kind="outside", ids=(thing.id, area)))
        if not stands(body, known):
            found.append(Problem(kind="unsupported", ids=(thing.id, thing.on)))
        found += [Problem(kind="blocked", ids=(opening.id, body.id)) for opening, zone in clear[area]
                  if body.on == area and blocks(body, zone)]  # fmt: skip
    for area, things in standing.items():
        found += [Problem(kind="collision", ids=pair) for pair in collisions(things, known)]
        if things or clear[area]:
            reach = ground(scene, areas[area], things, clear)
            found += [Problem(kind="unreachable", ids=(area, name)) for name in reach.unreachable(things)]
    for number, room in enumerate(scene.rooms):
        for other in scene.rooms[number + 1 :]:
            if float(depth(area_body(room), shell(other))) > EPS:
                found.append(Problem(kind="collision", ids=(room.id, other.id)))
    for relation in scene.relations:
        if float(falls_short(relation, known)) > EPS:
            found.append(Problem(kind="relation", ids=(*relation.subjects, *relation.of)))
    return found


def collisions(things: list[Body], known: dict[str, Body]) -> list[tuple[str, str]]:
    """The pairs that collide; boxes that are far apart are sorted out at once."""
    if len(things) < 2:
        return []
    box = np.array([(float(a.x), float(a.z), *bounds(a), a.y0, a.y1) for a in things])
    x, z, hx, hz, y0, y1 = box.T
    near = (
        (np.abs(x[:, None] - x) < hx[:, None] + hx - EPS)
        & (np.abs(z[:, None] - z) < hz[:, None] + hz - EPS)
        & (y0[:, None] < y1 - EPS)
        & (y0 < y1[:, None] - EPS)
    )
    found = []
    for i, j in np.argwhere(np.triu(near, 1)).tolist():
        a, b = things[i], things[j]
        if a.id not in ancestors(b, known) and b.id not in ancestors(a, known) and bool(collide(a, b)):
            found.append((a.id, b.id))
    return found
