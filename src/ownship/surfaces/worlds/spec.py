"""Hidden specifications: what a task wants, as a graph of groups of things and relations between them. No words here.

A specification is drawn from a seed out of motifs that make sense (a lamp on a table, chairs around it, a rug between armchairs).
`ops` is one way to meet it, `requirements` (measure.py) is what is checked. `key` names the exercise however it is worded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ownship.surfaces.worlds.catalogue import COLOURS, KINDS, MATERIALS
from ownship.surfaces.worlds.lines import SIDES, SIZES
from ownship.surfaces.worlds.types import (
    Add,
    AddOpening,
    AddPlot,
    AddRoom,
    Frame,
    Op,
    Recolour,
    Relate,
    Relation,
    RelationKind,
    Remove,
    Rotate,
    Scale,
    SetSky,
    Side,
)

Change = Literal["add", "remove", "recolour", "relate", "scale", "rotate"]


@dataclass(frozen=True)
class Group:
    """`count` things that are spoken of together."""

    kind: str
    count: int = 1
    colour: str | None = None
    material: str | None = None


@dataclass(frozen=True)
class Link:
    """A relation between groups, by their numbers. Empty `of`: a wall, a corner, the middle of the room."""

    kind: RelationKind
    subject: int
    of: tuple[int, ...] = ()
    frame: Frame = "object"
    side: Side | None = None


@dataclass(frozen=True)
class Edit:
    """One change of a scene. `group` is the group that changes; with "add" a new one, `new`, which gets the next number."""

    change: Change
    group: int
    new: Group | None = None
    link: Link | None = None
    colour: str | None = None
    amount: int = 0  # percent or degrees


@dataclass(frozen=True)
class Holes:
    """So many doors or windows; `side` None where the words do not say in which wall."""

    kind: Literal["door", "window"]
    count: int
    side: Side | None = None


@dataclass(frozen=True)
class Spec:
    """`edits` empty: the scene is to be made from nothing; else it exists already and is to be changed by them."""

    place: Literal["room", "plot"]
    size: str | None
    groups: tuple[Group, ...]
    links: tuple[Link, ...]
    edits: tuple[Edit, ...] = ()
    holes: tuple[Holes, ...] = ()
    night: bool = False
    unwanted: tuple[str, ...] = field(default=(), compare=False)  # kinds that the words say are not wanted

    @property
    def key(self) -> str:
        """The same for two specifications that ask for the same, in whatever order."""
        order = sorted(range(len(self.groups)), key=lambda index: repr(self.groups[index]))
        place = {old: new for new, old in enumerate(order)}

        def link(item: Link) -> Link:
            return replace(item, subject=place.get(item.subject, item.subject),
                           of=tuple(sorted(place.get(index, index) for index in item.of)))

        edits = [replace(edit, group=place.get(edit.group, edit.group), link=edit.link and link(edit.link)) for edit in self.edits]
        return repr((self.place, self.size, self.holes, self.night, [self.groups[index] for index in order],
                     sorted(map(link, self.links), key=repr), sorted(edits, key=repr)))

    @property
    def level(self) -> int:
        """Of difficulty: groups and relations if it is to be made, changes and relations if it is to be changed."""
        if self.edits:
            return len(self.edits) + sum(edit.link is not None for edit in self.edits)
        return len(self.groups) + len(self.links) + len(self.holes) + self.night

    def ids(self) -> list[list[str]]:
        """The ids of each group's things, those that edits add included, as `ops` gives them."""
        numbers: dict[str, int] = {}
        found = []
        for group in (*self.groups, *(edit.new for edit in self.edits if edit.new is not None)):
            first = numbers.get(group.kind, 0) + 1
            numbers[group.kind] = first + group.count - 1
            found.append([f"{group.kind}{number}" for number in range(first, first + group.count)])
        return found

    def relation(self, link: Link) -> Relation:
        ids = self.ids()
        return Relation(kind=link.kind, subjects=tuple(ids[link.subject]), of=tuple(id for index in link.of for id in ids[index]),
                        frame=link.frame, side=link.side)

    def base(self) -> list[Op]:
        """The ops that make the place, its groups and their relations."""
        w, d = SIZES[self.place][self.size] if self.size else ((400, 400) if self.place == "room" else (1000, 1000))
        ops: list[Op] = [AddRoom(id="room1", w=w, d=d) if self.place == "room" else AddPlot(id="plot1", w=w, d=d)]
        for holes in self.holes:
            side = holes.side or ("south" if holes.kind == "door" else "north")
            ops += [AddOpening(id=f"{holes.kind}{number}", kind=holes.kind, room="room1", side=side)
                    for number in range(1, holes.count + 1)]
        for group, ids in zip(self.groups, self.ids(), strict=False):
            ops += [Add(id=id, kind=group.kind, colour=group.colour, material=group.material) for id in ids]
        ops += [Relate(relation=self.relation(link)) for link in self.links]
        return [*ops, SetSky(time="night")] if self.night else ops

    def changes(self) -> list[Op]:
        """The ops of the edits."""
        ids, ops = self.ids(), list[Op]()
        for edit in self.edits:
            targets = ids[edit.group]
            match edit.change:
                case "add":
                    assert edit.new is not None
                    new = edit.new
                    ops += [Add(id=id, kind=new.kind, colour=new.colour, material=new.material) for id in targets]
                case "remove":
                    ops += [Remove(id=id) for id in targets]
                case "recolour":
                    ops += [Recolour(id=id, colour=edit.colour) for id in targets]
                case "scale":
                    ops += [Scale(id=id, percent=edit.amount) for id in targets]
                case "rotate":
                    ops += [Rotate(id=id, by=edit.amount) for id in targets]
            if edit.link is not None:
                ops.append(Relate(relation=self.relation(edit.link)))
        return ops


# Motifs: subjects and what they go with. Kinds are names of the catalogue.

_SMALL = ("lamp", "vase", "bowl", "candle", "book")
_BEARERS = ("table", "desk", "coffee_table", "dining_table", "nightstand", "dresser", "cupboard")
_SEATS = ("armchair", "chair", "sofa")
_LOOKED_AT = ("fireplace", "tv_stand", "bookcase", "bed", "table", "desk")
_BACKED = ("wardrobe", "bookcase", "shelf", "cupboard", "dresser", "sofa", "bed", "desk", "piano", "fireplace", "fridge", "stove")
_LOOSE = ("plant", "floor_lamp", "stool", "basket", "box", "armchair")
_BESIDE = {"bed": ("nightstand", "plant", "basket"), "sofa": ("floor_lamp", "plant", "coffee_table"),
           "armchair": ("floor_lamp", "stool", "basket"), "desk": ("shelf", "plant", "box"), "fridge": ("stove", "sink"),
           "fireplace": ("basket", "plant", "bookcase"), "piano": ("stool", "floor_lamp")}
_HUNG = ("picture", "mirror", "clock")
_OUTDOORS = ("tree", "fir", "bush", "bench", "fountain", "well", "statue", "flower_bed", "rock", "street_lamp", "swing", "pond")
_TALL = ("tree", "fir", "bush", "statue", "street_lamp")


class _Draft:
    """A specification being drawn."""

    def __init__(self, draw: random.Random, place: str, groups: Sequence[Group] = ()) -> None:
        self.draw, self.place = draw, place
        self.groups: list[Group] = list(groups)
        self.links: list[Link] = []

    def group(self, kind: str, most: int = 1, least: int = 1, plain: float = 0.6) -> int:
        """A group of this kind: one that is there (if it is as large as that) or a new one, sometimes with a colour."""
        for index, group in enumerate(self.groups):
            if group.kind == kind and least <= group.count <= most:
                return index
        look = _look(self.draw, kind) if self.draw.random() > plain else (None, None)
        if any(group.kind == kind for group in self.groups):  # two groups of a kind must be told apart
            taken = {group.colour for group in self.groups if group.kind == kind} | {KINDS[kind].colour, None}
            look = (self.draw.choice([colour for colour in COLOURS if colour not in taken]), None)
        self.groups.append(Group(kind, self.draw.randint(least, most), *look))
        return len(self.groups) - 1

    def link(self, kind: RelationKind, subject: int, *of: int, frame: Frame = "object", side: Side | None = None) -> None:
        """The relation, unless its subject is placed by one already: two of them may not go together."""
        if subject not in of and all(item.subject != subject for item in self.links) and not any(
                subject in item.of and item.subject in of for item in self.links):
            self.links.append(Link(kind, subject, of, frame, side))


def _look(draw: random.Random, kind: str) -> tuple[str | None, str | None]:
    """A colour, a material or both, none of them what the kind is by itself: it has to be said."""
    colours = [name for name in COLOURS if name != KINDS[kind].colour]
    materials = [name for name in MATERIALS if name != KINDS[kind].material and name not in ("water", "leaves", "paper", "brick")]
    chance = draw.random()
    return (draw.choice(colours) if chance < 0.85 else None, draw.choice(materials) if chance > 0.75 else None)


def _indoors(draft: _Draft) -> None:
    """One motif of a room."""
    draw, group, link = draft.draw, draft.group, draft.link
    pick = draw.choice
    match draw.choices(("alone", "on", "facing", "by", "around", "wall", "corner", "between", "under", "above", "in", "side", "far",
                        "row", "middle"), (6, 4, 4, 4, 3, 3, 2, 3, 2, 2, 2, 4, 1, 1, 2))[0]:
        case "alone":
            group(pick(("chair", "plant", "box", "armchair", "stool", "basket", "bookcase", "wardrobe", "floor_lamp")), most=3)
        case "on":
            bearer = pick(_BEARERS)
            link("on", group(pick(_SMALL), most=1 if bearer == "nightstand" else 2), group(bearer))
        case "facing":
            seat = pick(_SEATS)
            link("facing", group(seat, most=1 if seat == "sofa" else 2), group(pick(_LOOKED_AT)))
        case "by":
            main = pick(list(_BESIDE))
            link(pick(("next_to", "next_to", "near")), group(pick(_BESIDE[main])), group(main))
        case "around":
            link("around", group("chair", 4, 2), group(pick(("table", "dining_table"))))
        case "wall":
            link("against_wall", group(pick(_BACKED)), side=pick((None, None, *SIDES)))
        case "corner":
            link("in_corner", group(pick(("plant", "floor_lamp", "wardrobe", "basket", "armchair"))))
        case "between":
            middle = group(pick(("rug", "coffee_table", "plant", "floor_lamp")))
            if draw.random() < 0.6:
                link("between", middle, group("armchair", 2, 2))
            else:
                link("between", middle, group("sofa"), group(pick(("fireplace", "tv_stand", "bookcase"))))
        case "under":
            below = pick(("rug", "rug", "basket"))
            bearers = ("table", "coffee_table", "dining_table") if below == "rug" else ("table", "desk")
            link("under", group(below), group(pick(bearers)))
        case "above":
            if draw.random() < 0.3:
                link("above", group("ceiling_lamp"), group(pick(("table", "dining_table", "bed"))))
            else:
                link("above", group(pick(_HUNG)), group(pick(("sofa", "cupboard", "desk", "fireplace", "dresser"))))
        case "in":
            link("inside", group(pick(("book", "candle"))), group(pick(("box", "basket", "shelf"))))
        case "side":
            link(pick(("left_of", "right_of", "in_front_of", "behind")), group(pick(_LOOSE)),
                 group(pick(("sofa", "table", "bed", "fireplace", "armchair", "desk"))), frame=_frame(draw))
        case "far":
            link("far", group(pick(_LOOSE)), group(pick(("bed", "fireplace", "sofa"))))
        case "row":
            link("aligned", group(pick(("stool", "plant", "chair")), 5, 3))
        case "middle":
            link("centred", group(pick(("table", "rug", "dining_table", "coffee_table"))))


def _outdoors(draft: _Draft) -> None:
    """One motif of a piece of land."""
    draw, group, link = draft.draw, draft.group, draft.link
    pick = draw.choice
    match draw.choices(("alone", "by", "facing", "row", "between", "side", "middle", "far", "around", "on"),
                       (5, 4, 3, 2, 2, 4, 2, 1, 2, 1))[0]:
        case "alone":
            group(pick(_OUTDOORS), most=3)
        case "by":
            link(pick(("next_to", "near")), group(pick(("bench", "bush", "rock", "street_lamp", "flower_bed"))),
                 group(pick(("tree", "fountain", "pond", "well", "statue"))))
        case "facing":
            link("facing", group(pick(("bench", "chair")), most=2), group(pick(("fountain", "pond", "statue", "tree"))))
        case "row":
            link("aligned", group(pick(("tree", "fir", "bush", "street_lamp")), 5, 3))
        case "between":
            link("between", group(pick(("bench", "fountain", "swing"))), group(pick(_TALL), 2, 2))
        case "side":
            link(pick(("left_of", "right_of", "in_front_of", "behind")), group(pick(("tree", "bush", "rock", "statue"))),
                 group(pick(("fountain", "bench", "well", "pond"))), frame=_frame(draw))
        case "middle":
            link("centred", group(pick(("fountain", "statue", "pond", "well"))))
        case "far":
            link("far", group(pick(("swing", "rock", "tree"))), group(pick(("fountain", "well", "bench"))))
        case "around":
            link("around", group(pick(("bush", "flower_bed", "bench")), 4, 3), group(pick(("fountain", "statue", "well"))))
        case "on":
            link("on", group(pick(("candle", "vase"))), group("table"))


def _frame(draw: random.Random) -> Frame:
    return "viewer" if draw.random() < 0.15 else "object"


def draw_spec(draw: random.Random, motifs: int, edits: int = 0) -> Spec:
    """A specification of so many motifs, and of so many edits of what they make."""
    place: Literal["room", "plot"] = "plot" if draw.random() < 0.25 else "room"
    draft = _Draft(draw, place)
    for _ in range(motifs):
        (_indoors if place == "room" else _outdoors)(draft)
    spec = Spec(place, None, tuple(draft.groups), tuple(draft.links), _edits(draft, edits) if edits else ())
    kinds = {group.kind for group in spec.groups}
    unwanted: tuple[str, ...] = ()
    others = [kind for kind in (_LOOSE if place == "room" else _OUTDOORS) if kind not in kinds]
    if not edits and draw.random() < 0.08 and others:
        unwanted = (draw.choice(others),)
    holes: list[Holes] = []
    if not edits and place == "room":
        if draw.random() < 0.15:
            holes.append(Holes("door", 1, draw.choice((None, *SIDES))))
        if draw.random() < 0.15:
            holes.append(Holes("window", draw.randint(1, 2), draw.choice((None, *SIDES))))
    return replace(spec, size=_size(draw, spec), holes=tuple(holes), night=not edits and draw.random() < 0.06, unwanted=unwanted)


def _size(draw: random.Random, spec: Spec) -> str | None:
    """A size in which it all has room."""
    groups = [*spec.groups, *(edit.new for edit in spec.edits if edit.new is not None)]
    area = sum(KINDS[group.kind].size[0] * KINDS[group.kind].size[2] * group.count for group in groups
               if not KINDS[group.kind].walkable and KINDS[group.kind].goes[0] == "floor") / 10_000  # m²
    links = [*spec.links, *(edit.link for edit in spec.edits if edit.link is not None)]
    wide = any(link.kind in ("far", "around", "aligned", "between") for link in links)
    small, usual = (4.0, 14.0) if spec.place == "plot" else (1.6, 3.2)
    far = any(link.kind == "far" for link in links)
    if far or area > usual or (wide and spec.place == "room" and area > 0.7 * usual):
        return "huge" if area > 2 * usual or (far and spec.place == "room") else "large"
    choices = [None, None, "large", *(["small"] if area < small and not wide else [])]
    return draw.choice(choices)


def _edits(draft: _Draft, count: int) -> tuple[Edit, ...]:
    """Changes of different groups, none of which gets in another's way."""
    draw, there = draft.draw, len(draft.groups)
    free = list(range(there))
    draw.shuffle(free)
    found: list[Edit] = []
    new = there  # the number of the next group that an edit adds
    for _ in range(count):
        placed = {index for link in draft.links for index in link.of}  # others stand by it
        placed |= {link.subject for link in draft.links if link.kind in ("on", "inside")}
        index = free.pop() if free else None
        change = draw.choices(("relate", "recolour", "remove", "add", "scale", "rotate"), (6, 4, 3, 5, 1, 1))[0]
        if change == "add" or index is None:
            kind = draw.choice(("chair", "plant", "stool", "box", "basket", "floor_lamp") if draft.place == "room"
                               else ("tree", "bush", "rock", "bench", "street_lamp"))
            group = Group(kind, draw.randint(1, 2), _look(draw, kind)[0] if draw.random() < 0.4 else None)
            near = [number for number in range(there) if draft.groups[number].count == 1 and _bears(draft.groups[number])
                    and draft.groups[number].kind != kind]
            link = None
            if near and draw.random() < 0.5:
                link = Link(draw.choice(("next_to", "near", "left_of", "right_of")), new, (draw.choice(near),))
            found.append(Edit("add", new, group, link))
            new += 1
            continue
        group = draft.groups[index]
        others = [number for number in range(there) if number != index and draft.groups[number].count == 1
                  and _bears(draft.groups[number])]
        movable = _bears(group) and group.count <= 2 and index not in placed
        if change == "relate" and others and movable:
            other = draw.choice(others)
            side: RelationKind = draw.choice(("in_front_of", "behind", "next_to", "next_to", "near", "left_of", "right_of"))
            found.append(Edit("relate", index, link=Link(side, index, (other,))))
        elif change == "relate" and movable and draft.place == "room":
            found.append(Edit("relate", index, link=Link(*draw.choice((("in_corner", index), ("against_wall", index))))))
        elif change == "remove" and there - len(found) > 1:
            found.append(Edit("remove", index))
        elif change == "scale" and movable:
            found.append(Edit("scale", index, amount=draw.choice((50, 80, 120, 150))))
        elif change == "rotate" and movable and KINDS[group.kind].front and not KINDS[group.kind].back:
            found.append(Edit("rotate", index, amount=draw.choice((45, 90, 180))))
        else:
            taken = {group.colour or KINDS[group.kind].colour}
            found.append(Edit("recolour", index, colour=draw.choice([name for name in COLOURS if name not in taken])))
    return tuple(_without(edit, {other.group for other in found if other.change == "remove"}) for edit in found)


def _without(edit: Edit, gone: set[int]) -> Edit:
    """The edit; what is gone can be no reference of its relation."""
    if edit.link is None or not gone & set(edit.link.of):
        return edit
    return Edit("recolour", edit.group, colour="red") if edit.change == "relate" else replace(edit, link=None)


def _bears(group: Group) -> bool:
    """Whether it stands on the floor by itself, so that other things can be placed by it."""
    kind = KINDS[group.kind]
    return kind.goes[0] == "floor" and not kind.walkable and not kind.flat
