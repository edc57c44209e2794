"""The line language: exact both ways, and nothing that is not one of its forms is taken for one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownship.surfaces.worlds import lines
from ownship.surfaces.worlds.catalogue import COLOURS, GROUNDS, KINDS, MATERIALS
from ownship.surfaces.worlds.lines import Misread, read, write
from ownship.surfaces.worlds.names import Names
from ownship.surfaces.worlds.types import (
    Add,
    AddLight,
    AddOpening,
    AddPlot,
    AddRoom,
    Move,
    Op,
    Recolour,
    Redo,
    Relate,
    Relation,
    Remove,
    Rotate,
    Scale,
    Scene,
    SetSky,
    Undo,
)

ISSUE = """1 room small
2 armchair
1 fireplace
1 rug
armchair facing fireplace
rug between armchair"""


def test_the_example_of_the_issue_is_read_and_written_as_it_stands() -> None:
    ops = read(ISSUE, Scene())
    assert [op.op for op in ops] == ["room", "add", "add", "add", "add", "relate", "relate"]
    assert ops[5] == Relate(relation=Relation(kind="facing", subjects=("armchair1", "armchair2"), of=("fireplace1",)))
    assert ops[6] == Relate(relation=Relation(kind="between", subjects=("rug1",), of=("armchair1", "armchair2")))
    assert write(ops, Scene()) == ISSUE


@pytest.mark.parametrize("line", [
    "1 room small red tiles h 300 west", "1 room w 350 d 420", "1 plot huge sand", "2 door south at -50 w 90 h 200 sill 0",
    "1 window north of room1", "1 light red of room1 lumen 400", "sky night cloudy", "remove chair1-2", "chair move 10 0 -20",
    "chair2 turn -90", "coffee table scale 150 width", "chair red wood", "room1 white tiles", "chair1+coffee table near sofa",
    "sofa left coffee table viewer", "coffee table wall room1 north", "chair corner", "chair row", "coffee table middle",
    "sofa between chair1-2", "sofa between chair1 coffee table",
    "3 chair red leather 150% of room1 x 100 z -50 turn 90", "1 chair7",
    "undo", "redo"])
def test_every_form_is_written_as_it_is_read(line: str) -> None:
    names = Names(Scene())
    for op in read("1 room\n1 room\n3 chair\n1 coffee table\n1 sofa", Scene()):
        names.follow(op)
    assert write(read(line, names), names) == line


def _ops(draw: random.Random, names: Names) -> Op:
    """Any op that makes sense where these ids are."""
    things = [id for kind, ids in names.ids.items() if kind in KINDS for id in ids]
    rooms = names.ids.get("room", [])
    colour, material = draw.choice([*COLOURS, None]), draw.choice([*MATERIALS, None])
    new = draw.choice(list(KINDS))
    number = names.next(new) + draw.choice((0, 0, 0, 2))
    many: list[Op] = [
        Add(id=f"{new}{number}", kind=new, colour=colour, material=material, percent=draw.choice((100, 50)),
            area=draw.choice([*rooms, None]), x=draw.choice((None, -7)), turn=draw.choice((None, 30))),
        AddRoom(id=f"room{names.next('room')}", w=draw.choice((400, 300, 333)), d=draw.choice((400, 350, 500)),
                wall=draw.choice(list(COLOURS)), floor=draw.choice(list(GROUNDS)), beside=draw.choice([*rooms, None]),
                side=draw.choice(lines.SIDES)),
        AddPlot(id=f"plot{names.next('plot')}", w=draw.choice((1000, 2000)), d=1500, ground=draw.choice(list(GROUNDS))),
        SetSky(time=draw.choice(("day", "dusk", "night")), weather=draw.choice(("clear", "cloudy"))), Undo(), Redo()]
    if rooms:
        at = draw.choice((None, 4))
        many += [AddOpening(id=f"door{names.next('door')}", kind="door", room=draw.choice(rooms), side="east", at=at),
                 AddLight(id=f"light{names.next('light')}", room=draw.choice(rooms), colour=colour or "white")]
    if things:
        one = draw.choice(things)
        group = tuple(draw.sample(things, draw.randint(1, min(len(things), 5))))
        of = tuple(draw.sample(things, draw.randint(0, min(2, len(things)))))
        many += [Remove(id=one), Move(id=one, dx=draw.randint(-99, 99)), Rotate(id=one, by=draw.randint(-360, 360)),
                 Scale(id=one, percent=draw.randint(10, 300), axis=draw.choice(("all", "height"))),
                 Recolour(id=one, colour=colour or "red", material=material), Recolour(id=one, material="wood"),
                 Relate(relation=Relation(kind=draw.choice(list(lines.SAID)), subjects=group, of=of,
                                          frame=draw.choice(("object", "viewer")), side=draw.choice((None, *lines.SIDES))))]
    return draw.choice(many)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 40))
def test_ops_are_the_same_after_writing_and_reading(seed: int, count: int) -> None:
    draw, names, ops = random.Random(seed), Names(Scene()), list[Op]()
    for _ in range(count):
        for _ in range(draw.choice((1, 1, 3))):  # runs of likes become one line
            op = _ops(draw, names) if not ops or draw.random() < 0.7 else ops[-1]
            if isinstance(op, Add) and op in ops:
                op = op.model_copy(update={"id": f"{op.kind}{names.next(op.kind)}"})
            elif op in ops:
                continue
            names.follow(op)
            ops.append(op)
    assert read(write(ops, Scene()), Scene()) == tuple(ops)


def test_a_line_sees_what_the_lines_before_it_made_and_removed() -> None:
    assert read("2 chair\nremove chair1\nchair red", Scene())[-1] == Recolour(id="chair2", colour="red")
    with pytest.raises(Misread, match="line 3: there is no chair1"):
        read("2 chair\nremove chair1\nchair1 red", Scene())
    # the number of what is gone is not given again
    assert read("1 chair\nremove chair\n1 chair", Scene())[-1] == Add(id="chair2", kind="chair")


@pytest.mark.parametrize(("text", "reason"), [
    ("1 unicorn", "not a kind"), ("chair1 red", "there is no 'chair1'"), ("0 chair", "1 to 400"), ("-3 chair", "there is no"),
    ("401 chair", "1 to 400"), ("1 chair\nchair1-9 red", "there is no chair2"), ("1 chair ultraviolet", "cannot be understood"),
    ("1 chair\nchair dances chair", "neither a relation"), ("1 chair\nchair+chair red", "named twice"),
    ("1 chair\nchair", "missing"),
    ("1 chair\nchair turn fast", "a number is missing"), ("1 chair\nchair turn 9999", "by: "), ("remove everything", "there is no"),
    ("import os", "there is no"), ("1 door", "the wall is missing"), ("1 door south", "no room"), ("x" * 500, "longer than 400"),
    ("1 chair\nchair1-999999999 red", "there is no"), ("100 chair\n" * 5, "more than 400 ops"), ("1 chair2\n1 chair2", "already"),
    ("\x00", "there is no"), ("1", "missing")])
def test_what_is_no_line_is_refused_with_its_number(text: str, reason: str) -> None:
    with pytest.raises(Misread, match=r"line \d+: ") as caught:
        read(text, Scene())
    assert reason in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_lines_or_misread(text: str) -> None:
    try:
        ops = read(text, Scene())
    except Misread:
        return
    assert read(write(ops, Scene()), Scene()) == ops
