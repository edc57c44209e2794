"""What the ops of a request ask for, read one after another: a scene without places for what is new or moved.

Nothing is solved here. An op that makes no sense raises `Refused` with the requirement that it breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ownship.surfaces.worlds.candidates import Wanted
from ownship.surfaces.worlds.catalogue import COLOURS, GROUNDS, KINDS, MATERIALS, Kind
from ownship.surfaces.worlds.geometry import area_of, bodies, object_body
from ownship.surfaces.worlds.relations import ALONE
from ownship.surfaces.worlds.rooms import link, moved, place_opening, place_plot, place_room, resize_room
from ownship.surfaces.worlds.types import (
    OBJECTS,
    Add,
    AddLight,
    AddOpening,
    AddPlot,
    AddRoom,
    Light,
    Move,
    Object,
    Op,
    Recolour,
    Relate,
    Relation,
    Remove,
    Requirement,
    Rotate,
    Scale,
    Scene,
    SetSky,
    Sky,
)

HIGH, FAR = 10_000, 20_000  # cm: the bounds of types.py, which model_copy does not look at


class Refused(Exception):
    """The requirements that an op broke by itself."""

    def __init__(self, *requirements: Requirement):
        super().__init__(requirements)
        self.requirements = requirements


def refuse(kind: Any, *ids: str, detail: str = "") -> Refused:
    return Refused(Requirement(kind=kind, ids=ids, detail=detail))


@dataclass
class Draft:
    """A scene being changed. `wanted` are the objects that need a place; `objects` all of them, in order, wherever they are."""

    scene: Scene  # rooms, openings, plots, lights and sky as they are now; its objects and relations are those before
    objects: dict[str, Object]
    wanted: dict[str, Wanted] = field(default_factory=dict)
    hard: list[Relation] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    built: bool = False  # whether rooms, plots or openings changed

    def names(self) -> set[str]:
        scene = self.scene
        parts = (scene.rooms, scene.plots, scene.openings, scene.lights)
        return {*self.objects, *(part.id for some in parts for part in some)}

    def areas(self) -> set[str]:
        return {room.id for room in self.scene.rooms} | {plot.id for plot in self.scene.plots}

    def build(self, **parts: Any) -> None:
        self.scene = self.scene.model_copy(update=parts)
        self.scene = self.scene.model_copy(update={"openings": tuple(link(self.scene, self.scene.openings))})
        self.built = True

    def thing(self, name: str) -> Object:
        if name not in self.objects:
            raise refuse("known", name)
        return self.objects[name]

    def standing(self) -> dict[str, Object]:
        """What has a place."""
        return {name: thing for name, thing in self.objects.items() if name not in self.wanted}

    def borne_by(self, name: str) -> list[Object]:
        return [thing for thing in self.objects.values() if thing.on == name]

    def free(self, name: str) -> None:
        """It may be moved, but stays as near as it can."""
        if name not in self.wanted:
            self.wanted[name] = Wanted(self.objects[name], old=True)


def draft_of(scene: Scene, ops: list[Op]) -> Draft:
    draft = Draft(scene, {thing.id: thing for thing in scene.objects})
    for op in ops:
        step = _STEPS.get(type(op))
        if step is None:
            raise refuse("valid", detail="undo and redo stand alone")
        step(draft, op)
    return draft


def _new(draft: Draft, name: str, prefix: str) -> None:
    if name in draft.names():
        raise refuse("known", name, detail="taken")
    if name.rstrip("0123456789") != prefix:
        raise refuse("valid", name, detail=f"an id of this kind begins with {prefix}")


def _look(colour: str | None, material: str | None) -> None:
    if colour is not None and colour not in COLOURS:
        raise refuse("valid", colour, detail="unknown colour")
    if material is not None and material not in MATERIALS:
        raise refuse("valid", material, detail="unknown material")


def _ground(name: str) -> None:
    if name not in GROUNDS:
        raise refuse("valid", name, detail="unknown ground")


def _add_room(draft: Draft, op: AddRoom) -> None:
    _new(draft, op.id, "room")
    _look(op.wall, None)
    _ground(op.floor)
    if op.beside is not None and op.beside not in draft.areas():
        raise refuse("known", op.beside)
    room = place_room(draft.scene, op)
    if room is None:
        raise refuse("room_for", op.id, *([op.beside] if op.beside else []))
    draft.build(rooms=(*draft.scene.rooms, room))


def _add_plot(draft: Draft, op: AddPlot) -> None:
    _new(draft, op.id, "plot")
    _ground(op.ground)
    if op.beside is not None and op.beside not in draft.areas():
        raise refuse("known", op.beside)
    plot = place_plot(draft.scene, op)
    if plot is None:
        raise refuse("room_for", op.id, *([op.beside] if op.beside else []))
    draft.build(plots=(*draft.scene.plots, plot))


def _add_opening(draft: Draft, op: AddOpening) -> None:
    _new(draft, op.id, op.kind)
    if op.room not in {room.id for room in draft.scene.rooms}:
        raise refuse("known", op.room)
    opening = place_opening(draft.scene, op, [object_body(thing) for thing in draft.standing().values()])
    if opening is None:
        raise Refused(Requirement(kind="opening", ids=(op.id, op.room), detail=op.side), Requirement(kind="stays"))
    draft.build(openings=(*draft.scene.openings, opening))


def _add_light(draft: Draft, op: AddLight) -> None:
    _new(draft, op.id, "light")
    room = next((room for room in draft.scene.rooms if room.id == op.room), None)
    if room is None:
        raise refuse("known", op.room)
    _look(op.colour, None)
    light = Light(id=op.id, x=room.x, y=room.h - 20, z=room.z, colour=op.colour, strength=op.strength)
    draft.scene = draft.scene.model_copy(update={"lights": (*draft.scene.lights, light)})


def _set_sky(draft: Draft, op: SetSky) -> None:
    draft.scene = draft.scene.model_copy(update={"sky": Sky(time=op.time, weather=op.weather)})


def _sized(name: str, kind: Kind, size: tuple[int, int, int]) -> tuple[int, int, int]:
    if not all(low <= edge <= high for low, edge, high in zip(kind.low, size, kind.high, strict=True)):
        raise refuse("size", name, kind.name)
    return size


def _add(draft: Draft, op: Add) -> None:
    kind = KINDS.get(op.kind)
    if kind is None:
        raise refuse("valid", op.kind, detail="unknown kind")
    _new(draft, op.id, op.kind)
    _look(op.colour, op.material)
    if op.area is not None and op.area not in draft.areas():
        raise refuse("known", op.area)
    if not draft.areas():
        raise refuse("room_for", op.id, detail="no room or plot")
    if len(draft.objects) >= OBJECTS:
        raise refuse("valid", detail=f"a world holds {OBJECTS} things at most")
    if (op.x is None) != (op.z is None):
        raise refuse("valid", op.id, detail="x and z belong together")
    w, h, d = _sized(op.id, kind, tuple(max(1, round(edge * op.percent / 100)) for edge in kind.size))  # type: ignore[arg-type]
    thing = Object(id=op.id, kind=op.kind, x=0, y=0, z=0, turn=0, w=w, h=h, d=d, colour=op.colour or kind.colour,
                   material=op.material or kind.material, on=op.area or min(draft.areas()))  # fmt: skip
    draft.objects[op.id] = thing
    draft.wanted[op.id] = Wanted(thing, areas=(op.area,) if op.area else (), x=op.x, z=op.z, turn=op.turn)


def _remove(draft: Draft, op: Remove) -> None:
    name, scene = op.id, draft.scene
    if name not in draft.names():
        raise refuse("known", name)
    gone = {name}
    if name in draft.objects:
        for child in draft.borne_by(name):
            draft.free(child.id)
    elif name in draft.areas():
        known = bodies(scene.model_copy(update={"objects": tuple(draft.objects.values())}))
        gone |= {thing for thing in draft.objects if area_of(known[thing], known) == name}
        gone |= {opening.id for opening in scene.openings if opening.room == name}
        room = known[name]
        gone |= {light.id for light in scene.lights if room.sort == "room" and _in(light, scene, name)}
    for some in gone & draft.objects.keys():
        del draft.objects[some]
        draft.wanted.pop(some, None)
    kept = {part: tuple(x for x in getattr(scene, part) if x.id not in gone) for part in ("rooms", "plots", "openings", "lights")}
    draft.hard = [r for r in draft.hard if not gone & {*r.subjects, *r.of}]
    draft.removed += sorted(gone)
    if name in draft.areas() or any(opening.id == name for opening in scene.openings):
        draft.build(**kept)
    else:
        draft.scene = scene.model_copy(update=kept)


def _in(light: Light, scene: Scene, room_id: str) -> bool:
    room = next(room for room in scene.rooms if room.id == room_id)
    return abs(light.x - room.x) <= room.w / 2 and abs(light.z - room.z) <= room.d / 2


def _move(draft: Draft, op: Move) -> None:
    name, scene = op.id, draft.scene
    if name not in draft.names():
        raise refuse("known", name)
    if name in draft.objects:
        wanted = draft.wanted.get(name)
        if wanted is not None and wanted.x is None:
            raise refuse("valid", name, detail="has no place yet")
        thing = draft.objects[name]
        x, y, z = (wanted.x, wanted.y, wanted.z) if wanted else (thing.x, None, thing.z)
        assert x is not None and z is not None
        x, z = x + op.dx, z + op.dz
        height = (thing.y if y is None else y) + op.dy if op.dy else y
        if max(abs(x), abs(z)) > FAR or not 0 <= (height or 0) <= HIGH:
            raise refuse("place", name)
        turn = wanted.turn if wanted else thing.turn
        draft.wanted[name] = replace(wanted or Wanted(thing, old=True), x=x, y=height, z=z, turn=turn)
        return
    for opening in scene.openings:
        if opening.id == name:
            pushed = moved(opening, op.dx, op.dz, op.dy)
            rest = tuple(other for other in scene.openings if other.id != name)
            put = pushed and place_opening(
                scene.model_copy(update={"openings": rest}),
                AddOpening(id=name, kind=pushed.kind, room=pushed.room, side=pushed.side, at=pushed.at, w=pushed.w, h=pushed.h,
                           sill=pushed.sill),
                [object_body(thing) for thing in draft.standing().values()],
            )  # fmt: skip
            if not put:
                raise Refused(Requirement(kind="place", ids=(name,)), Requirement(kind="stays"))
            draft.touched.add(name)
            draft.build(openings=tuple(put if other.id == name else other for other in scene.openings))
            return
    for light in scene.lights:
        if light.id == name:
            place = {"x": light.x + op.dx, "y": light.y + op.dy, "z": light.z + op.dz}
            if max(abs(place["x"]), abs(place["z"])) > FAR or not 0 <= place["y"] <= HIGH:
                raise refuse("place", name)
            lights = tuple(other.model_copy(update=place) if other.id == name else other for other in scene.lights)
            draft.touched.add(name)
            draft.scene = scene.model_copy(update={"lights": lights})
            return
    raise refuse("valid", name, detail="rooms and plots stay where they are")


def _rotate(draft: Draft, op: Rotate) -> None:
    thing = draft.thing(op.id)
    wanted = draft.wanted.get(op.id)
    if wanted is None:
        turn = (thing.turn + op.by) % 360
        draft.wanted[op.id] = Wanted(thing, old=True, x=thing.x, z=thing.z, turn=turn)
    else:
        turn = ((thing.turn if wanted.turn is None else wanted.turn) + op.by) % 360
        draft.wanted[op.id] = replace(wanted, turn=turn)


def _scale(draft: Draft, op: Scale) -> None:
    for room in draft.scene.rooms:
        if room.id == op.id:
            larger = resize_room(room, op.percent, op.axis)
            if larger is None:
                raise refuse("size", op.id, "room")
            inside = bodies(draft.scene.model_copy(update={"objects": tuple(draft.objects.values())}))
            for name in [name for name, thing in draft.objects.items() if thing.on == op.id and name in inside]:
                draft.free(name)  # what stands at a wall may go where the wall goes
            draft.touched.add(op.id)
            draft.build(rooms=tuple(larger if other.id == op.id else other for other in draft.scene.rooms))
            return
    thing = draft.thing(op.id)
    axes = {"all": "whd", "width": "w", "height": "h", "depth": "d"}[op.axis]
    edges = {axis: max(1, round(getattr(thing, axis) * op.percent / 100)) for axis in axes}
    after = thing.model_copy(update=edges)
    _sized(op.id, KINDS[thing.kind], (after.w, after.h, after.d))
    for child in draft.borne_by(op.id):
        draft.free(child.id)
    draft.objects[op.id] = after
    draft.wanted[op.id] = replace(draft.wanted.get(op.id) or Wanted(thing, old=True), thing=after)


def _recolour(draft: Draft, op: Recolour) -> None:
    if op.id not in draft.names():
        raise refuse("known", op.id)
    scene = draft.scene
    draft.touched.add(op.id)
    if op.id in draft.objects:
        _look(op.colour, op.material)
        look = {"colour": op.colour, "material": op.material}
        after = draft.objects[op.id].model_copy(update={key: value for key, value in look.items() if value is not None})
        draft.objects[op.id] = after
        if op.id in draft.wanted:
            draft.wanted[op.id] = replace(draft.wanted[op.id], thing=after)
    elif op.id in draft.areas():
        _look(op.colour, None)
        room = op.id in {room.id for room in scene.rooms}
        ground = op.material if room else op.material or op.colour
        if ground is not None:
            _ground(ground)
        changes = {"wall": op.colour if room else None, "floor": op.material if room else None, "ground": None if room else ground}
        look = {key: value for key, value in changes.items() if value is not None}
        part: Any = scene.rooms if room else scene.plots
        new = tuple(area.model_copy(update=look) if area.id == op.id else area for area in part)
        draft.scene = scene.model_copy(update={"rooms" if room else "plots": new})
    elif any(light.id == op.id for light in scene.lights):
        _look(op.colour, None)
        colour = {"colour": op.colour} if op.colour else {}
        lights = tuple(light.model_copy(update=colour) if light.id == op.id else light for light in scene.lights)
        draft.scene = scene.model_copy(update={"lights": lights})
    else:
        raise refuse("valid", op.id, detail="doors and windows have no colour")


def _relate(draft: Draft, op: Relate) -> None:
    relation = op.relation
    for name in relation.subjects:
        draft.thing(name)
    for name in relation.of:
        if name not in draft.names() or any(light.id == name for light in draft.scene.lights):
            raise refuse("known", name)
    asked = {"between": (2,), "aligned": (0,)}.get(relation.kind, (0, 1) if relation.kind in ALONE | {"centred"} else (1,))
    several = relation.kind in ("around", "aligned")
    twice = len({*relation.subjects, *relation.of}) < len(relation.subjects) + len(relation.of)
    if len(relation.of) not in asked or (several and len(relation.subjects) < 2) or twice:
        raise Refused(Requirement(kind="valid", ids=(*relation.subjects, *relation.of), relation=relation, detail="number"))
    for name in relation.subjects:
        draft.free(name)
    draft.hard.append(relation)


_STEPS: dict[type, Callable[[Draft, Any], None]] = {
    AddRoom: _add_room,
    AddOpening: _add_opening,
    AddPlot: _add_plot,
    AddLight: _add_light,
    SetSky: _set_sky,
    Add: _add,
    Remove: _remove,
    Move: _move,
    Rotate: _rotate,
    Scale: _scale,
    Recolour: _recolour,
    Relate: _relate,
}
