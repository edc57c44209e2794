"""What cannot be is explained by the requirements that exclude each other; CP-SAT proves nothing that placement refutes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ownship.surfaces.worlds import describe
from ownship.surfaces.worlds.candidates import Wanted
from ownship.surfaces.worlds.catalogue import KINDS
from ownship.surfaces.worlds.explain import explain
from ownship.surfaces.worlds.geometry import bodies
from ownship.surfaces.worlds.pipeline import apply
from ownship.surfaces.worlds.proof import judge
from ownship.surfaces.worlds.relations import holds
from ownship.surfaces.worlds.solver import Stuck, Task, Work, requirements, solve, split
from ownship.surfaces.worlds.space import problems
from ownship.surfaces.worlds.types import (
    Add,
    AddOpening,
    AddPlot,
    AddRoom,
    Conflict,
    Move,
    Object,
    Op,
    Opening,
    Relate,
    Relation,
    Room,
    Scale,
    Scene,
    Side,
)


def an_object(name: str, x: int = 0, z: int = 0, turn: int = 0, y: int = 0, on: str = "room1") -> Object:
    kind = KINDS[name.rstrip("0123456789")]
    w, h, d = kind.size
    return Object(id=name, kind=kind.name, x=x, y=y, z=z, turn=turn, w=w, h=h, d=d, colour=kind.colour, material=kind.material,
                  on=on)  # fmt: skip


def said(kind: str, subjects: str, of: str = "", frame: str = "viewer", side: Side | None = None) -> Relation:
    return Relation(kind=kind, subjects=tuple(subjects.split()), of=tuple(of.split()), frame=frame, side=side)  # type: ignore[arg-type]


def a_room(w: int = 500, d: int = 400, *things: Object) -> Scene:
    door = Opening(id="door1", kind="door", room="room1", side="south", at=0)
    return Scene(rooms=(Room(id="room1", x=0, z=0, w=w, d=d),), openings=(door,), objects=things)


def request(scene: Scene, things: str, *relations: Relation) -> Conflict | None:
    ops: list[Op] = [Add(id=name, kind=name.rstrip("0123456789")) for name in things.split()]
    result = apply(scene, [*ops, *(Relate(relation=relation) for relation in relations)])
    if result.conflict is not None:
        assert result.scene is scene
    else:
        assert problems(result.scene) == [] and all(holds(result.scene, relation) for relation in relations)
    return result.conflict


@pytest.mark.parametrize(
    "relations",
    [
        [said("left_of", "plant1", "sofa1"), said("right_of", "plant1", "sofa1")],
        [said("near", "plant1", "sofa1"), said("far", "plant1", "sofa1")],
        [said("left_of", "plant1", "sofa1"), said("left_of", "sofa1", "table1"), said("left_of", "table1", "plant1")],
        [said("in_front_of", "plant1", "sofa1", "object"), said("behind", "plant1", "sofa1", "object")],
        [said("next_to", "plant1", "shelf1"), said("next_to", "shelf1", "table1"), said("far", "plant1", "table1")],
        [said("against_wall", "table1", side="north"), said("in_corner", "sofa1", side="south"), said("near", "table1", "sofa1")],
    ],
)
def test_a_contradiction_is_explained_by_its_relations_and_nothing_else(relations: list[Relation]) -> None:
    scene = a_room(900, 900)
    for relation in relations:  # and without any one of them it is possible
        rest = [other for other in relations if other != relation]
        assert request(scene, "sofa1 plant1 table1 shelf1", *rest, said("near", "shelf1", "sofa1")) is None
    found = request(scene, "sofa1 plant1 table1 shelf1", *relations, said("near", "shelf1", "sofa1"))
    assert found is not None
    assert found.proved and {asked.relation for asked in found.requirements} == set(relations)


def test_what_does_not_fit_is_said_to_need_room() -> None:
    found = request(a_room(180, 180), "sofa1 lamp1")
    assert found is not None and found.proved
    assert [(asked.kind, asked.ids) for asked in found.requirements] == [("room_for", ("sofa1",))]
    found = request(a_room(240, 260), "bed1 wardrobe1 piano1 sofa1")
    assert found is not None and {asked.kind for asked in found.requirements} <= {"room_for", "walk", "opening"}
    assert len(found.requirements) > 1


def test_what_stands_in_the_way_is_named_as_staying() -> None:
    scene = a_room(500, 400, an_object("table1", 0, -60))
    result = apply(scene, [Add(id="armchair1", kind="armchair", x=0, z=-60)])
    assert result.conflict is not None and {asked.kind for asked in result.conflict.requirements} == {"place", "room_for", "stays"}
    result = apply(scene, [Move(id="table1", dz=200)])  # before the door
    assert result.conflict is not None
    assert ("opening", ("door1",)) in {(asked.kind, asked.ids) for asked in result.conflict.requirements}


def test_a_door_stays_reachable() -> None:
    """A sofa across a corridor of 120 cm would cut it in two; the door at its end has to be reached."""
    scene = apply(Scene(), [AddRoom(id="room1", w=700, d=204), AddOpening(id="door1", kind="door", room="room1", side="west"),
                            AddOpening(id="door2", kind="door", room="room1", side="east")]).scene  # fmt: skip
    result = apply(scene, [Add(id="sofa1", kind="sofa", x=0, z=0, turn=90)])
    assert result.conflict is not None
    assert "walk" in {asked.kind for asked in result.conflict.requirements}
    assert apply(scene, [Add(id="sofa1", kind="sofa")]).conflict is None  # along a wall it may


@pytest.mark.parametrize("seed", range(8))
def test_cp_sat_never_rules_out_what_can_be_placed(seed: int) -> None:
    """Random tasks that placement solved are possible for the model too: it asks for less, never for more."""
    dice = random.Random(seed)
    some = ["sofa", "table", "armchair", "shelf", "plant", "rug", "lamp", "bed", "picture", "chair"]
    names = [f"{kind}1" for kind in dice.sample(some, 7)]
    kinds = ["next_to", "near", "left_of", "right_of", "in_front_of", "behind", "facing", "against_wall", "in_corner", "far",
             "centred", "around", "between", "aligned", "above", "under"]  # fmt: skip
    scene = a_room(620, 560, an_object("fireplace1", 0, -250), an_object("stool1", 150, 100, 33))
    tried = 0
    while tried < 4:
        relations = []
        for _ in range(3):
            kind = dice.choice(kinds)
            some = dice.sample([*names, "fireplace1", "stool1"], 3)
            subjects = some[:2] if kind in ("around", "aligned") else some[:1]
            of = {"between": some[1:], "around": some[2:], "aligned": [], "against_wall": [], "in_corner": [], "centred": ["room1"]}
            relations.append(said(kind, " ".join(subjects), " ".join(of.get(kind, some[1:2])), dice.choice(["viewer", "object"])))
        movable = [relation for relation in relations if not {"fireplace1", "stool1"} & set(relation.subjects)]
        task = Task(scene, tuple(Wanted(an_object(name)) for name in names), tuple(movable))
        tried += 1
        found = solve(task, seed, Work(1_500_000), attempts=2)
        if not isinstance(found, Stuck):
            verdict = judge(bodies(scene), task.wanted, task.hard, requirements(task), split, seed, 0.3)
            assert verdict.possible is not False, (verdict.core, movable)


def test_what_was_only_not_found_is_not_said_to_be_impossible() -> None:
    wanted = tuple(Wanted(an_object(f"stool{number}")) for number in (1, 2))
    task = Task(a_room(), wanted, (said("aligned", "stool1 stool2"),))
    assert not explain(task, Stuck()).proved
    apart = (said("left_of", "stool1", "stool2"), said("right_of", "stool1", "stool2"))
    found = solve(replace(task, hard=apart))
    assert isinstance(found, Stuck) and explain(replace(task, hard=apart), found).proved


def test_a_scene_that_is_wrong_says_what() -> None:
    table = an_object("table1", 0, -60)
    wrong = {
        "collision": an_object("sofa1", 60, -60),
        "outside": an_object("plant1", 245, 0),
        "unsupported": an_object("lamp1", 0, -60, y=90, on="table1"),
        "blocked": an_object("plant1", 20, 150),
        "unknown": an_object("plant1", 100, 100, on="ghost1"),
    }
    assert problems(a_room(500, 400, table)) == []
    for kind, thing in wrong.items():
        found = problems(a_room(500, 400, table, thing))
        assert kind in {problem.kind for problem in found} and any(thing.id in problem.ids for problem in found), (kind, found)
    shelves = [an_object(f"shelf{i}", -205 + 90 * (i - 1), 0, 180) for i in range(1, 6)]
    shut_in = a_room(500, 400, *shelves, an_object("plant1", 225, 0), an_object("table1", 0, -120))
    assert {(problem.kind, problem.ids) for problem in problems(shut_in)} == {("unreachable", ("room1", "door1"))}
    hanging = an_object("picture1", 0, -198, y=135)
    assert problems(a_room(500, 400, hanging)) == []
    assert {p.kind for p in problems(a_room(500, 400, hanging.model_copy(update={"z": -150})))} == {"unsupported"}
    related = a_room(500, 400, table).model_copy(update={"relations": (said("in_corner", "table1"),)})
    assert [problem.kind for problem in problems(related)] == ["relation"]


def test_what_is_under_a_table_or_a_crown_does_not_collide_and_what_meets_a_leg_does() -> None:
    table = an_object("table1", 0, -60)
    assert problems(a_room(500, 400, table, an_object("box1", 0, -60))) == []
    assert {p.kind for p in problems(a_room(500, 400, table, an_object("box1", 45, -60)))} == {"collision"}
    assert problems(a_room(500, 400, table, an_object("rug1", 60, -60))) == []


def test_work_bounds_the_search_and_the_answer_is_the_same_each_time() -> None:
    scene = a_room(300, 300)
    task = Task(scene, tuple(Wanted(an_object(f"table{i}")) for i in range(1, 9)))
    first, second = (solve(task, 5, Work(400_000)) for _ in range(2))
    assert isinstance(first, Stuck) and isinstance(second, Stuck) and first.failed == second.failed and first.core == second.core


@pytest.mark.parametrize("count", [4, 5, 8])
def test_a_row_of_many_is_a_row_from_the_second_on(count: int) -> None:
    stools = " ".join(f"stool{number}" for number in range(1, count + 1))
    assert request(a_room(), stools, said("aligned", stools)) is None


def test_a_larger_thing_stays_near_its_place() -> None:
    scene = a_room(600, 500, an_object("shelf1", 0, -234), an_object("plant1", 100, 0))
    after = apply(scene, [Scale(id="shelf1", percent=120)])
    shelf = next(thing for thing in after.scene.objects if thing.id == "shelf1")
    assert after.changed == ("shelf1",) and shelf.w == 108 and abs(shelf.x) + abs(shelf.z + 234) <= 30


def test_a_conflict_and_a_scene_in_words() -> None:
    scene = a_room(900, 900)
    found = request(scene, "sofa1 plant1", said("left_of", "plant1", "sofa1"), said("right_of", "plant1", "sofa1"))
    assert found is not None
    assert describe.conflict(found, scene, "en") == (
        "This cannot all be at once: the plant is left of the sofa; and the plant is right of the sofa. Nothing was changed."
    )
    assert describe.conflict(found, scene, "de") == (
        "Das geht nicht alles zugleich: die Pflanze ist links vom Sofa; und die Pflanze ist rechts vom Sofa. "
        "Es wurde nichts verändert."
    )
    result = apply(scene, [Add(id="chair1", kind="chair", colour="red"), Add(id="chair2", kind="chair", colour="red"),
                           Add(id="table1", kind="table"), Add(id="lamp1", kind="lamp"),
                           Relate(relation=said("on", "lamp1", "table1"))])  # fmt: skip
    assert describe.describe(result.scene, "en") == (
        "The room measures 9 by 9 metres; it has a door in the south wall. You see two red chairs, a table and a lamp. "
        "The lamp is on the table."
    )
    assert describe.describe(result.scene, "de") == (
        "Der Raum misst 9 mal 9 Meter; es gibt dort eine Tür in der Südwand. Man sieht zwei rote Stühle, einen Tisch und eine "
        "Lampe. Die Lampe ist auf dem Tisch."
    )
    assert describe.describe(Scene(), "de") == "Hier ist noch nichts."
    garden = apply(Scene(), [AddPlot(id="plot1"), Add(id="well1", kind="well"), Relate(relation=said("centred", "well1"))]).scene
    assert "The well is in the middle of the garden." in describe.describe(garden, "en")
    assert "Der Brunnen ist in der Mitte vom Garten." in describe.describe(garden, "de")
