"""Rooms, plots, doors and windows: where code puts what an op only names, and which area a door leads to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ownship.surfaces.worlds.geometry import DIRECTION, EPS, Body, area_body, depth, opening_body, outside, overhang, shell
from ownship.surfaces.worlds.space import before, blocks
from ownship.surfaces.worlds.types import WALL, AddOpening, AddPlot, AddRoom, Opening, Plot, Room, Scene, Side

USUAL = {"door": (90, 200, 0), "window": (120, 100, 90)}  # width, height, sill
CORNER = 35  # cm from a door's middle to the corner of the room: a walker gets through
AROUND: tuple[Side, ...] = ("east", "south", "west", "north")


def even(length: int) -> int:
    return length + length % 2


def place_room(scene: Scene, op: AddRoom) -> Room | None:
    """The new room where it can stand, None if it cannot."""
    w, d = min(even(op.w), 5_000), min(even(op.d), 5_000)
    for x, z in _room_places(scene, op, w, d):
        if abs(x) > 20_000 or abs(z) > 20_000:
            continue
        room = Room(id=op.id, x=x, z=z, w=w, h=op.h, d=d, floor=op.floor, wall=op.wall)
        if not _in_the_way(scene, room):
            return room
    return None


def _room_places(scene: Scene, op: AddRoom, w: int, d: int) -> Iterator[tuple[int, int]]:
    rooms, plots = {room.id: room for room in scene.rooms}, {plot.id: plot for plot in scene.plots}
    if op.beside in rooms:
        yield _beside(rooms[op.beside], op.side, w, d)
    elif op.beside in plots:
        if plots[op.beside].w >= w + 2 * WALL and plots[op.beside].d >= d + 2 * WALL:
            yield (plots[op.beside].x, plots[op.beside].z)
    elif rooms:
        for room in reversed(scene.rooms):
            for side in AROUND:
                yield _beside(room, side, w, d)
    else:
        yield from ((plot.x, plot.z) for plot in scene.plots)
        yield (0, 0)
        for plot in scene.plots:
            for side in AROUND:
                yield _beside(plot, side, w, d)


def _beside(area: Room | Plot, side: Side, w: int, d: int) -> tuple[int, int]:
    dx, dz = DIRECTION[side]
    return area.x + dx * ((area.w + w) // 2 + WALL), area.z + dz * ((area.d + d) // 2 + WALL)


def _in_the_way(scene: Scene, room: Room) -> bool:
    """Whether its walls would stand in a room, on a thing outdoors, or before a door that does not lead into it."""
    inside, walls = area_body(room), shell(room)
    if any(float(depth(inside, shell(other))) > EPS for other in scene.rooms):
        return True
    rooms = {other.id: other for other in scene.rooms}
    for opening in scene.openings:
        if opening.kind == "door":
            _, outer = before(opening.model_copy(update={"to": room.id}), rooms[opening.room])
            zone = outer[1]
            if float(depth(zone, walls)) > EPS and not _holds(inside, zone):
                return True
    return False


def _holds(area: Body, zone: Body) -> bool:
    return float(overhang(zone, -area.w / 2, -area.d / 2, area.w / 2, area.d / 2, area)) <= EPS


def place_plot(scene: Scene, op: AddPlot) -> Plot | None:
    """The new plot where it can lie, None if it cannot: plots do not overlap."""
    w, d = even(op.w), even(op.d)
    for x, z in _plot_places(scene, op, w, d):
        if abs(x) > 20_000 or abs(z) > 20_000:
            continue
        plot = Plot(id=op.id, x=x, z=z, w=w, d=d, ground=op.ground)
        if all(float(depth(area_body(plot), area_body(other))) <= EPS for other in scene.plots):
            return plot
    return None


def _plot_places(scene: Scene, op: AddPlot, w: int, d: int) -> Iterator[tuple[int, int]]:
    areas = {area.id: area for area in scene.rooms} | {area.id: area for area in scene.plots}
    if op.beside in areas:
        yield _beside(areas[op.beside], op.side, w, d)
        return
    if not areas:
        yield (0, 0)
        return
    west, east = min(a.x - a.w // 2 for a in areas.values()), max(a.x + a.w // 2 for a in areas.values())
    north, south = min(a.z - a.d // 2 for a in areas.values()), max(a.z + a.d // 2 for a in areas.values())
    x, z = (west + east) // 2, (north + south) // 2
    if w >= east - west + 200 and d >= south - north + 200:
        yield (x, z)
    yield (x, south + WALL + d // 2)
    yield (east + WALL + w // 2, z)
    yield (west - WALL - w // 2, z)
    yield (x, north - WALL - d // 2)


def place_opening(scene: Scene, op: AddOpening, things: Iterable[Body]) -> Opening | None:
    """The new door or window where it fits between the others and nothing stands before it, None if nowhere."""
    room = next(room for room in scene.rooms if room.id == op.room)
    w, h, sill = USUAL[op.kind]
    w, h, sill = op.w or w, op.h or min(h, room.h - 20), sill if op.sill is None else op.sill
    if op.kind == "window" and op.h is None:
        h = min(h, room.h - sill - 10)
    if (op.kind == "door" and sill) or sill + h > room.h or h < 40:
        return None
    half = (room.d if DIRECTION[op.side][0] else room.w) // 2 - max((w + 1) // 2, CORNER if op.kind == "door" else 0)
    ats = [op.at] if op.at is not None else sorted(range(-(half // 10) * 10, half + 1, 10), key=lambda at: (abs(at), at))
    standing = list(things)
    for at in ats:
        if abs(at) > half:
            continue
        found = Opening(id=op.id, kind=op.kind, room=op.room, side=op.side, at=at, w=w, h=h, sill=sill)
        found = link(scene, [found])[0]
        if _fits(scene, found, room, standing):
            return found
    return None


def _fits(scene: Scene, opening: Opening, room: Room, standing: list[Body]) -> bool:
    rooms = {other.id: other for other in scene.rooms}
    hole = opening_body(opening, room)
    if any(float(depth(hole, opening_body(other, rooms[other.room]))) > EPS for other in scene.openings):
        return False
    zones = before(opening, room)
    if opening.kind == "door":
        zones_all = before(opening.model_copy(update={"to": "outside"}), room)
        for other in scene.rooms:  # the way out leads into one room wholly, or into none
            beyond = zones_all[1][1]
            if other.id != room.id and float(depth(beyond, shell(other))) > EPS and not _holds(area_body(other), beyond):
                return False
            if other.id == opening.to and other.h < opening.h:
                return False
    return not any(bool(blocks(body, zone)) for area, zone in zones for body in standing if body.on == area)


def link(scene: Scene, openings: Iterable[Opening]) -> list[Opening]:
    """The openings with what they lead to: the room or plot just behind the wall."""
    rooms = {room.id: room for room in scene.rooms}
    found = []
    for opening in openings:
        to = None
        if opening.kind == "door":
            room = rooms[opening.room]
            dx, dz = DIRECTION[opening.side]
            hole = opening_body(opening, room)
            x, z = float(hole.x) + dx * WALL, float(hole.z) + dz * WALL
            behind = [area.id for areas in (scene.rooms, scene.plots) for area in areas
                      if area.id != room.id and float(outside(area_body(area), x, z)) <= EPS]  # fmt: skip
            to = behind[0] if behind else None
        found.append(opening if opening.to == to else opening.model_copy(update={"to": to}))
    return found


def resize_room(room: Room, percent: int, axis: str) -> Room | None:
    """A room `percent` as wide, deep or high, around its middle; None if no room is so large or small."""
    w = even(room.w * percent // 100) if axis in ("all", "width") else room.w
    d = even(room.d * percent // 100) if axis in ("all", "depth") else room.d
    h = room.h * percent // 100 if axis == "height" else room.h
    if not (100 <= w <= 5_000 and 100 <= d <= 5_000 and 200 <= h <= 1_000):
        return None
    return room.model_copy(update={"w": w, "d": d, "h": h})


def moved(opening: Opening, dx: int, dz: int, dy: int) -> Opening | None:
    """An opening pushed along its wall (and a window up or down); None if it would leave the wall."""
    along, away = (dx, dz) if opening.side in ("north", "south") else (dz, dx)
    sill = opening.sill + dy
    if away or sill < 0 or sill > 900 or (dy and opening.kind == "door") or abs(opening.at + along) > 20_000:
        return None
    return opening.model_copy(update={"at": opening.at + along, "sill": sill})
