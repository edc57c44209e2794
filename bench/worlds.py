"""How fast and how well worlds are solved: 30 objects at once, one edit among 500, and CP-SAT alone beside it.

    python bench/worlds.py [--tasks 40] [--edits 60]

- 30 objects: rooms of 60 to 90 m² (tight: 39 to 51 m²) with a door, a window and about ten relations among random kinds.
  "solved" is checked by `problems`, which knows nothing of the solver.
- CP-SAT alone: the same tasks as one model (proof.py), until its first answer; "valid" are the answers without any problem.
- 500 objects: a garden of 70 by 70 m; one random edit each (relate, move, add, remove, scale), all of what `apply` does.

Times are processor time of the one thread that does the work: what it takes on a machine that has a core to spare.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator

from ownship.surfaces.worlds.candidates import Wanted
from ownship.surfaces.worlds.catalogue import KINDS
from ownship.surfaces.worlds.geometry import bodies
from ownship.surfaces.worlds.pipeline import apply
from ownship.surfaces.worlds.proof import judge
from ownship.surfaces.worlds.solver import Stuck, Task, requirements, solve, split
from ownship.surfaces.worlds.space import problems
from ownship.surfaces.worlds.types import (
    Add,
    AddPlot,
    Move,
    Object,
    Op,
    Opening,
    Relate,
    Relation,
    Remove,
    Room,
    Scale,
    Scene,
)


def an_object(name: str, x: int = 0, z: int = 0, on: str = "room1") -> Object:
    kind = KINDS[name.rstrip("0123456789")]
    w, h, d = kind.size
    return Object(id=name, kind=kind.name, x=x, y=0, z=z, turn=0, w=w, h=h, d=d, colour=kind.colour, material=kind.material, on=on)


def furnishing(seed: int, things: int = 30, room: tuple[int, int] = (20_000, 30_000)) -> Task:
    """`room` is how much of the floor there is per thing, in cm²."""
    dice = random.Random(seed)
    area = things * dice.uniform(*room)
    w = round(area**0.5 * dice.uniform(1.0, 1.3)) // 2 * 2
    d = round(area / w) // 2 * 2
    scene = Scene(
        rooms=(Room(id="room1", x=0, z=0, w=w, d=d),),
        openings=(
            Opening(id="door1", kind="door", room="room1", side="south", at=0),
            Opening(id="window1", kind="window", room="room1", side="north", at=0, w=120, h=100, sill=90),
        ),
    )
    kinds = [kind for kind in KINDS.values() if kind.indoors]
    names: list[str] = []
    relations = []
    for _ in range(things):
        kind = dice.choice(kinds)
        name = f"{kind.name}{1 + sum(other.rstrip('0123456789') == kind.name for other in names)}"
        if names and dice.random() < 0.5:
            of = dice.choice(names)
            other = KINDS[of.rstrip("0123456789")]
            if "floor" in kind.goes and "floor" in other.goes and not kind.walkable and not other.walkable:
                said = dice.choice(["next_to", "near", "left_of", "right_of", "facing", "in_front_of"])
                relations.append(Relation(kind=said, subjects=(name,), of=(of,), frame=dice.choice(["viewer", "object"])))
            elif "on" in kind.goes and any(surface.y == 1 for surface in other.surfaces):
                relations.append(Relation(kind="on", subjects=(name,), of=(of,)))
        names.append(name)
    return Task(scene, tuple(Wanted(an_object(name)) for name in names), tuple(relations))


def garden(things: int = 500) -> Scene:
    dice = random.Random(0)
    kinds = ["tree", "bush", "bench", "statue", "rock", "street_lamp", "flower_bed", "table", "chair", "plant"]
    scene = apply(Scene(), [AddPlot(id="plot1", w=7_000, d=7_000)]).scene
    side = int(things**0.5) + 1
    numbers = dict.fromkeys(kinds, 0)
    objects = []
    for place in range(things):
        kind = dice.choice(kinds)
        numbers[kind] += 1
        x, z = (place % side - side // 2) * 300, (place // side - side // 2) * 300
        objects.append(an_object(f"{kind}{numbers[kind]}", x + dice.randrange(-20, 20), z + dice.randrange(-20, 20), "plot1"))
    kept = scene.model_copy(update={"objects": tuple(objects)})
    wrong = {name for problem in problems(kept) for name in problem.ids}
    kept = kept.model_copy(update={"objects": tuple(thing for thing in objects if thing.id not in wrong)})
    while len(kept.objects) < things:  # what was too close finds a place by the pipeline
        numbers["bush"] += 1
        kept = apply(kept, [Add(id=f"bush{numbers['bush']}", kind="bush")]).scene
    assert problems(kept) == []
    return kept


def edits(scene: Scene, number: int) -> Iterator[tuple[str, Op]]:
    dice = random.Random(1)
    names = [thing.id for thing in scene.objects]
    for turn in range(number):
        one, other = dice.sample(names, 2)
        near = dice.choice(["next_to", "left_of", "near", "behind"])
        yield [
            ("relate", Relate(relation=Relation(kind=near, subjects=(one,), of=(other,), frame="viewer"))),
            ("move", Move(id=one, dx=dice.randrange(-60, 60), dz=dice.randrange(-60, 60))),
            ("add", Add(id=f"well{turn + 1}", kind="well")),
            ("remove", Remove(id=one)),
            ("scale", Scale(id=one, percent=110)),
        ][turn % 5]


def report(name: str, seconds: list[float], more: str) -> None:
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    print(f"{name:14s} median {statistics.median(ordered):6.3f} s   p95 {p95:6.3f} s   max {ordered[-1]:6.3f} s   {more}")


def compare(name: str, tasks: int, room: tuple[int, int]) -> None:
    ours, solved, theirs, answered, valid = [], 0, [], 0, 0
    for seed in range(tasks):
        task = furnishing(seed, room=room)
        start = time.process_time()
        found = solve(task, seed)
        ours.append(time.process_time() - start)
        if not isinstance(found, Stuck):
            solved += not problems(task.scene.model_copy(update={"objects": found, "relations": task.hard}))
        start = time.process_time()
        verdict = judge(bodies(task.scene), task.wanted, task.hard, requirements(task), split, seed, budget=5.0)
        theirs.append(time.process_time() - start)
        answered += verdict.possible is True
        places = [wanted.thing.model_copy(update={"x": round(x), "z": round(z), "turn": turn})
                  for wanted in task.wanted for x, z, turn in [verdict.places.get(wanted.thing.id, (0, 0, 0))]]  # fmt: skip
        valid += verdict.possible is True and not problems(task.scene.model_copy(update={"objects": tuple(places)}))
    report(name, ours, f"{solved} of {tasks} solved")
    report("  CP-SAT alone", theirs, f"{answered} of {tasks} answered, {valid} valid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--edits", type=int, default=60)
    given = parser.parse_args()
    solve(furnishing(10_000, 5))  # everything is imported
    judge(bodies(furnishing(0, 2).scene), (), (), (), split)

    for name, room in (("30 objects", (20_000, 30_000)), ("30, tight", (13_000, 17_000))):
        compare(name, given.tasks, room)

    scene = garden()
    times: dict[str, list[float]] = {}
    done = 0
    for name, op in edits(scene, given.edits):
        start = time.process_time()
        result = apply(scene, [op])
        times.setdefault(name, []).append(time.process_time() - start)
        done += result.conflict is None
        assert problems(result.scene) == []
    report("500: an edit", [second for seconds in times.values() for second in seconds], f"{done} of {given.edits} done")
    for name, seconds in times.items():
        report(f"500: {name}", seconds, "")


if __name__ == "__main__":
    main()
