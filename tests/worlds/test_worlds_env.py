"""The environment: the contract of all environments, and a rubric that measures what it says."""

from __future__ import annotations

import pytest

from ownship.envs.env import Task, held_out, split_of, tasks
from ownship.envs.registry import make
from ownship.envs.rubric import Score
from ownship.errors import UserError
from ownship.surfaces.worlds.env import Worlds, scene_of, scored
from ownship.surfaces.worlds.lines import read
from ownship.surfaces.worlds.measure import measure
from ownship.surfaces.worlds.pipeline import apply
from ownship.surfaces.worlds.spec import Edit, Group, Link, Spec
from ownship.surfaces.worlds.types import Scene

ROOM = Spec("room", "large", (Group("armchair", 2, "red"), Group("fireplace"), Group("table")), (Link("facing", 0, (1,)),))
WHOLE = "1 room large\n2 armchair red\n1 fireplace\n1 table\narmchair facing fireplace"


def _scored(env: Worlds, task: Task, reply: str) -> Score:
    return env.rubric.score(task, [*task.messages, {"role": "assistant", "content": reply}])


def test_the_registry_makes_it_with_options_and_refuses_others() -> None:
    env = make("worlds:low=2,high=4,edits=0,german=1")
    task = env.task(3)
    assert task.env == "worlds"
    assert task.info["language"] == "de"
    assert not task.info["spec"].edits
    with pytest.raises(UserError, match="1 <= low <= high"):
        make("worlds:low=5,high=2")
    with pytest.raises(UserError, match="wording=new"):
        make("worlds:wording=old")
    with pytest.raises(UserError, match="colour"):
        make("worlds:colour=3")


def test_a_task_is_a_function_of_its_seed_and_the_splits_share_none() -> None:
    env = Worlds()
    assert env.task(7) == Worlds().task(7)
    found = [env.task(seed) for seed in range(800)]
    train, held = ({task.key for task in found if split_of(task) == split} for split in ("train", "held_out"))
    assert not train & held
    assert 0.08 < len(held) / (len(held) + len(train)) < 0.18
    assert len({task.level for task in found}) > 6
    assert 0.35 < sum(bool(task.info["spec"].edits) for task in found) / 800 < 0.45
    assert 0.2 < sum(task.info["language"] == "de" for task in found) / 800 < 0.3
    assert next(tasks(env, "train")).messages[0] == {"role": "system", "content": "World"}


def test_new_wordings_are_of_the_same_specifications() -> None:
    usual, new = held_out(Worlds(), 20), held_out(Worlds(wording="new"), 20)
    assert [task.key for task in usual] == [task.key for task in new]
    assert [task.answer for task in usual] == [task.answer for task in new]
    assert sum(one.info["words"] != other.info["words"] for one, other in zip(usual, new, strict=True)) > 17


def test_solutions_are_worth_full_marks_but_for_the_few_that_the_solver_finds_no_place_for() -> None:
    env = Worlds()
    found = held_out(env, 25)
    rewards = [_scored(env, task, env.solution(task)).reward for task in found]
    assert sum(reward == 1.0 for reward in rewards) > 22


@pytest.mark.parametrize("reply", ["", "nothing", "undo", "hello", "1 unicorn", "armchair7 red", "1 room\n1 chair\nchair on moon",
                                   "import os", "1 room\n400 piano", "1 room small\n12 bed", "x" * 30_000, "🛋️", "<|im_end|>"])
def test_a_shut_gate_is_worth_nothing(reply: str) -> None:
    env = Worlds(edits=0)
    task = env.task(1)
    score = _scored(env, task, reply)
    assert score.reward == score.parts["solvable"] == 0 == score.parts["satisfaction"]


def _of(reply: str, spec: Spec = ROOM) -> dict[str, float]:
    found = scored(spec, reply).measured
    assert found is not None
    return {"satisfaction": found.satisfaction, "counts": found.share("counts"), "attributes": found.share("attributes"),
            "relations": found.share("relations"), "undisturbed": found.undisturbed, "physics": found.physics,
            "walkability": found.walkability}


def test_all_that_was_asked_for_and_no_more_is_worth_all() -> None:
    assert set(_of(WHOLE).values()) == {1.0}
    other_order = "1 room large\n1 table\n1 fireplace\n2 armchair\narmchair red\narmchair facing fireplace"
    assert set(_of(other_order).values()) == {1.0}


# ROOM asks for seven things: one room, its size, two armchairs, that they are red, a fireplace, a table, a relation.
@pytest.mark.parametrize(("reply", "satisfaction", "short"), [
    (WHOLE.replace("1 table\n", ""), 6 / 7, "counts"),
    (WHOLE.replace(" red", ""), 6 / 7, "attributes"),
    (WHOLE.replace("1 room large", "1 room small"), 6 / 7, "attributes"),
    (WHOLE.replace("2 armchair red", "3 armchair red"), 5 / 8, "counts"),  # the count, the colour's count, and one too many
    (WHOLE + "\n1 plant", 7 / 8, "undisturbed"),
    (WHOLE + "\n1 door south\nsky night", 7 / 9, "undisturbed"),
    (WHOLE.replace("armchair facing fireplace", "armchair turn 180"), 6 / 7, "relations")])
def test_each_shortcoming_costs_its_part(reply: str, satisfaction: float, short: str) -> None:
    found = _of(reply)
    if short == "relations" and found["relations"] == 1:
        pytest.skip("they happen to face it")
    assert found["satisfaction"] == pytest.approx(satisfaction)
    assert found[short] < 1


def test_an_edit_is_measured_by_what_it_changed_and_what_it_left() -> None:
    base = Spec("room", "large", (Group("sofa"), Group("lamp"), Group("table"), Group("plant")), (Link("on", 1, (2,)),))
    spec = Spec(base.place, base.size, base.groups, base.links, (Edit("recolour", 0, colour="red"), Edit("remove", 3)))
    assert set(_of("sofa red\nremove plant", spec).values()) == {1.0}
    assert _of("sofa red", spec)["satisfaction"] == pytest.approx(1 / 2)
    assert _of("sofa red\nremove plant\nlamp red", spec)["satisfaction"] == pytest.approx(2 / 3)
    assert _of("sofa red\nremove plant\nremove lamp", spec)["undisturbed"] == pytest.approx(1 / 2)
    assert _of("sofa red\nremove plant\n2 chair", spec)["satisfaction"] == pytest.approx(2 / 4)
    moved = Spec(base.place, base.size, base.groups, base.links, (Edit("relate", 3, link=Link("next_to", 3, (0,))),))
    assert set(_of("plant by sofa", moved).values()) == {1.0}
    carried = Spec(base.place, base.size, base.groups, base.links, (Edit("rotate", 2, amount=90),))
    assert set(_of("table turn 90", carried).values()) == {1.0}  # the lamp turns with its table: that is no disturbance


def test_the_measure_finds_what_is_wrong_with_a_scene_that_no_pipeline_made() -> None:
    scene = apply(Scene(), read(WHOLE, Scene())).scene
    table = next(thing for thing in scene.objects if thing.kind == "table")
    there = {"x": table.x, "z": table.z}
    on_it = tuple(thing.model_copy(update=there) if thing.id == "armchair1" else thing for thing in scene.objects)
    assert measure(ROOM, Scene(), scene.model_copy(update={"objects": on_it})).physics < 1


def test_scenes_to_edit_are_the_ones_that_the_prompt_lists() -> None:
    env = Worlds(edits=1)
    for seed in range(6):
        task = env.task(seed)
        scene = scene_of(task.info["spec"])
        listed = task.messages[1]["content"].split("\n")[0]
        assert all(kind.replace("_", " ") in listed for kind in {thing.kind for thing in scene.objects})
        assert sum(group.count for group in task.info["spec"].groups) == len(scene.objects)
