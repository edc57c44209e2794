"""Every relation against its definition, computed another way: polygons by shapely, angles by complex numbers."""

from __future__ import annotations

import cmath
import math
import random

import numpy as np
import pytest
from shapely import affinity
from shapely.geometry import LineString, Point, Polygon, box

from ownship.surfaces.worlds.catalogue import KINDS
from ownship.surfaces.worlds.geometry import Body, bodies, depth, gap, object_body
from ownship.surfaces.worlds.relations import distance, falls_short, holds
from ownship.surfaces.worlds.types import Object, Opening, Relation, Room, Scene

FLOOR = ["chair", "sofa", "table", "armchair", "shelf", "plant", "fridge", "rug"]
ROOM = Room(id="room1", x=30, z=-20, w=700, d=600)


def polygon(thing: Object) -> Polygon:
    flat = box(-thing.w / 2, -thing.d / 2, thing.w / 2, thing.d / 2)
    # seen from above x goes right and z down the page, so a turn that is counter-clockwise there is clockwise in (x, z)
    return affinity.translate(affinity.rotate(flat, -thing.turn, origin=(0, 0)), thing.x, thing.z)


def a_thing(dice: random.Random, name: str) -> Object:
    turn = dice.choice([0, 90, 180, 270, dice.randrange(360)])
    return thing(name, dice.randrange(-300, 360), 0, dice.randrange(-300, 260), "room1", turn)


def thing(name: str, x: int, y: int, z: int, on: str, turn: int = 0) -> Object:
    kind = KINDS[name.rstrip("0123456789")]
    w, h, d = kind.size
    return Object(id=name, kind=kind.name, x=x, y=y, z=z, turn=turn, w=w, h=h, d=d, colour=kind.colour, material=kind.material,
                  on=on)  # fmt: skip


def scene_of(*things: Object) -> Scene:
    door = Opening(id="door1", kind="door", room="room1", side="east", at=40)
    return Scene(rooms=(ROOM,), openings=(door,), objects=things)


def front(thing: Object) -> complex:
    """x + iz of its front: +z at 0, +x at 90."""
    return 1j * cmath.exp(-1j * math.radians(thing.turn))


def said(kind: str, subjects: list[Object], of: list[Object], frame: str) -> bool:
    """The definitions of relations.py, on shapely's polygons."""
    a = subjects[0]
    pa, ca = polygon(a), complex(a.x, a.z)
    walls = [LineString([(x, -320), (x, 280)]) for x in (-320, 380)] + [LineString([(-320, z), (380, z)]) for z in (-320, 280)]
    if kind == "against_wall":
        return min(pa.distance(wall) for wall in walls) <= 30
    if kind == "in_corner":
        west, east, north, south = (pa.distance(wall) <= 30 for wall in walls)
        return (west or east) and (north or south)
    if kind == "aligned":
        return min(np.ptp([s.x for s in subjects]), np.ptp([s.z for s in subjects])) <= 10
    if kind == "centred" and not of:
        return abs(ca - complex(ROOM.x, ROOM.z)) <= 20
    b = of[0]
    pb, cb = polygon(b), complex(b.x, b.z)
    if kind == "between":
        line = LineString([(b.x, b.z), (of[1].x, of[1].z)])
        at = line.project(Point(a.x, a.z), normalized=True)
        return 0.2 <= at <= 0.8 and line.distance(Point(a.x, a.z)) <= max(50, line.length / 4)
    if kind == "next_to":
        return pa.distance(pb) <= 50 and pa.intersection(pb).area < 1e-6
    if kind == "near":
        return pa.distance(pb) <= 150
    if kind == "far":
        return pa.distance(pb) >= 401
    if kind == "facing":
        return abs(ca - cb) >= 1 and abs(math.degrees(cmath.phase((cb - ca) / front(a)))) <= 30
    if kind == "around":
        near = all(polygon(s).distance(pb) <= 100 and polygon(s).intersection(pb).area < 1e-6 for s in subjects)
        turns = sorted(math.degrees(cmath.phase(complex(s.x, s.z) - cb)) for s in subjects)
        gaps = [*np.diff(turns), 360 + turns[0] - turns[-1]]
        return near and max(gaps) <= 360 / len(subjects) + 60
    forth = {"left_of": -1, "right_of": 1, "in_front_of": 1j, "behind": -1j}[kind]
    if frame == "object" and KINDS[b.kind].front:  # its left hand is where its front points, turned by 90° to the left of it
        forth = {"in_front_of": front(b), "behind": -front(b), "left_of": front(b) * -1j, "right_of": front(b) * 1j}[kind]

    def shadow(shape: Polygon, along: complex) -> list[float]:
        return [(complex(x, z) * along.conjugate()).real for x, z in shape.exterior.coords]

    offset = (ca - cb) * complex(forth).conjugate()
    half = np.ptp(shadow(pb, complex(forth) * 1j)) / 2
    beyond = min(shadow(pa, complex(forth))) >= max(shadow(pb, complex(forth))) - 1e-6
    return beyond and abs(offset.imag) <= max(offset.real, half) + 1e-6


def put(thing: Object, x: int, z: int) -> Object:
    return thing.model_copy(update={"x": x, "z": z})


SIMPLE = ["next_to", "near", "far", "left_of", "right_of", "in_front_of", "behind", "between", "facing", "against_wall",
          "in_corner", "around", "aligned", "centred"]  # fmt: skip


@pytest.mark.parametrize("kind", SIMPLE)
def test_a_relation_is_what_its_definition_says(kind: str) -> None:
    dice = random.Random(kind)
    found = {True: 0, False: 0}
    for _ in range(400):
        names = dice.sample(FLOOR, 4)
        things = [a_thing(dice, name + "1") for name in names]
        if dice.random() < 0.6:  # so that it holds often enough: near each other, near walls, in line
            close = {"near": 250, "far": 900}.get(kind, 160)
            at = [(things[0].x + dice.randrange(-close, close), things[0].z + dice.randrange(-close, close)) for _ in range(3)]
            things = [things[0], *(put(t, *place) for t, place in zip(things[1:], at, strict=True))]
        if kind in ("against_wall", "in_corner"):
            things[0] = put(things[0], dice.choice([-270, 330, 0]), dice.choice([-260, 220, 0]))
        if kind == "centred":
            things[0] = put(things[0], dice.randrange(5, 55), dice.randrange(-45, 5))
        if kind == "aligned":
            things[1] = put(things[1], things[0].x + dice.randrange(-15, 15), things[1].z)
        if kind == "around":  # at two sides of it
            for i, turn in enumerate((dice.uniform(0, 6.3), dice.uniform(1.5, 3.5))):
                turn, far = turn * i + 1, dice.randrange(110, 240)
                things[i] = put(things[i], things[2].x + round(far * math.cos(turn)), things[2].z + round(far * math.sin(turn)))
        subjects = things[:2] if kind in ("around", "aligned") else things[:1]
        of = {"between": things[2:4], "against_wall": [], "in_corner": [], "aligned": [], "centred": []}.get(kind, things[2:3])
        frame = dice.choice(["object", "viewer"])
        relation = Relation(kind=kind, subjects=tuple(t.id for t in subjects), of=tuple(t.id for t in of), frame=frame)
        measured = distance(scene_of(*things), relation)
        if 0 < measured < 0.01:
            continue  # on the very edge
        expected = said(kind, subjects, of, frame)
        assert (measured <= 1e-6) == expected, (relation, things, measured)
        found[expected] += 1
    assert min(found.values()) >= 12, found


def test_gaps_and_overlaps_of_turned_things_are_those_of_shapely() -> None:
    dice = random.Random(1)
    for _ in range(300):
        a, b = a_thing(dice, "sofa1"), a_thing(dice, "table1")
        pa, pb = polygon(a), polygon(b)
        assert float(gap(object_body(a), object_body(b))) == pytest.approx(pa.distance(pb), abs=1e-6)
        overlap = float(depth(object_body(a), object_body(b)))
        assert (overlap > 1e-6) == (pa.intersection(pb).area > 1e-6)


@pytest.mark.parametrize("kind", SIMPLE)
def test_many_places_at_once_measure_as_one_by_one(kind: str) -> None:
    dice = random.Random(2)
    things = [a_thing(dice, name) for name in ("chair1", "armchair1", "table1", "shelf1")]
    of = {"between": ("table1", "shelf1"), "against_wall": (), "in_corner": (), "aligned": (), "centred": ()}.get(kind, ("table1",))
    subjects = ("chair1", "armchair1") if kind in ("around", "aligned") else ("chair1",)
    relation = Relation(kind=kind, subjects=subjects, of=of)
    known = bodies(scene_of(*things))
    xs, zs = np.arange(-200.0, 200.0, 67.0), np.arange(-150.0, 200.0, 83.0)
    chair: Body = known["chair1"]
    together = np.asarray(falls_short(relation, known | {"chair1": chair.at(xs[:, None], zs[None, :])}))
    for i, x in enumerate(xs):
        for j, z in enumerate(zs):
            assert together[i, j] == pytest.approx(float(falls_short(relation, known | {"chair1": chair.at(x, z)})), abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "subject", "of", "expected"),
    [
        ("on", thing("lamp1", 20, 75, 10, "table1"), "table1", True),
        ("on", thing("lamp1", 20, 75, 10, "room1"), "table1", False),  # nothing bears it there
        ("on", thing("lamp1", 20, 70, 10, "table1"), "table1", False),  # in the table
        ("on", thing("lamp1", 55, 75, 10, "table1"), "table1", False),  # over the edge: 55 + 14 > 60
        ("on", thing("lamp1", 46, 75, 26, "table1"), "table1", True),  # at the very edge
        ("on", thing("chair1", 150, 0, 0, "room1"), "room1", True),
        ("inside", thing("chair1", 150, 0, 0, "room1"), "room1", True),
        ("inside", thing("lamp1", 20, 75, 10, "table1"), "room1", True),  # on a table in the room
        ("above", thing("lamp1", 20, 75, 10, "table1"), "table1", True),
        ("above", thing("picture1", 0, 135, -30, "room1"), "table1", True),
        ("above", thing("picture1", 150, 135, -30, "room1"), "table1", False),
        ("under", thing("rug1", 30, 0, 0, "room1"), "table1", True),
        ("under", thing("box1", 0, 0, 0, "room1"), "table1", True),
        ("under", thing("box1", 50, 0, 0, "room1"), "table1", False),  # half beside it
        ("under", thing("box1", 0, 75, 0, "table1"), "table1", False),
        ("under", thing("floor_lamp1", 0, 0, 0, "room1"), "table1", False),  # too high
        ("inside", thing("book1", 0, 120, 250, "shelf1"), "shelf1", False),  # between the boards
        ("next_to", thing("lamp1", 20, 75, 10, "table1"), "table1", False),  # on it is not beside it
        ("near", thing("chair1", 300, 0, 40, "room1"), "door1", True),
        ("centred", thing("chair1", 0, 0, 25, "room1"), "door1", True),  # in line with it
        ("left_of", thing("chair1", 0, 0, 20, "room1"), "door1", True),  # doors take the viewer's left
    ],
)
def test_heights_and_bearers(kind: str, subject: Object, of: str, expected: bool) -> None:
    others = [one for one in (thing("table1", 0, 0, 0, "room1"), thing("shelf1", 0, 0, 250, "room1")) if one.id != subject.id]
    assert holds(scene_of(*others, subject), Relation(kind=kind, subjects=(subject.id,), of=(of,))) is expected  # type: ignore[arg-type]


def test_every_board_of_a_shelf_is_inside_and_on_it() -> None:
    shelf = thing("shelf1", 0, 0, 250, "room1", turn=90)
    for volume in KINDS["shelf"].inside:
        book = thing("book1", 0, round(volume.y0 * shelf.h), 250, "shelf1", turn=90)
        for kind in ("inside", "on"):
            assert holds(scene_of(shelf, book), Relation(kind=kind, subjects=("book1",), of=("shelf1",)))  # type: ignore[arg-type]


def test_a_relation_of_what_is_not_there_does_not_hold() -> None:
    scene = scene_of(thing("table1", 0, 0, 0, "room1"))
    for kind, subject, of in (("near", "table1", ("ghost1",)), ("near", "table1", ()), ("near", "table1", ("table1",)),
                              ("around", "table1", ("door1",)), ("against_wall", "ghost1", ())):  # fmt: skip
        assert not holds(scene, Relation(kind=kind, subjects=(subject,), of=of))  # type: ignore[arg-type]
