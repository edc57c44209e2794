"""How well a scene meets a hidden specification: measured on the scene alone, by code. Nothing here looks at what was said.

Every demand of the specification is one requirement that holds or does not; everything that nobody asked for (another kind of
thing, one too many, a thing moved or repainted) is one more requirement, that failed. `satisfaction` is the share that holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ownship.surfaces.worlds.catalogue import KINDS
from ownship.surfaces.worlds.relations import holds
from ownship.surfaces.worlds.space import problems
from ownship.surfaces.worlds.spec import Edit, Group, Link, Spec
from ownship.surfaces.worlds.types import Object, Relation, Scene

_PHYSICS = ("collision", "outside", "unsupported", "unknown")
_WALKING = ("blocked", "unreachable")
_EXACT = 0.02  # of a size that was to change


@dataclass
class Measured:
    """Requirements that hold, and how many there are, by part; `extras` are things that nobody asked for."""

    counts: list[bool] = field(default_factory=list)
    attributes: list[bool] = field(default_factory=list)
    relations: list[bool] = field(default_factory=list)
    extras: int = 0
    physics: float = 1.0
    walkability: float = 1.0

    @property
    def satisfaction(self) -> float:
        asked = [*self.counts, *self.attributes, *self.relations]
        return sum(asked) / (len(asked) + self.extras) if asked else 1.0

    @property
    def undisturbed(self) -> float:
        return 1 / (1 + self.extras)

    def share(self, part: str) -> float:
        """Of a part's requirements, 1 if there are none."""
        held = getattr(self, part)
        return sum(held) / len(held) if held else 1.0


def measure(spec: Spec, before: Scene, after: Scene) -> Measured:
    """`before` is the scene that the edits of a specification were asked for (empty if there are none)."""
    found = Measured()
    if spec.edits:
        _edited(spec, before, after, found)
    else:
        _made(spec, after, found)
    wrong = [str(problem.kind) for problem in problems(after)]
    things = max(len(after.objects), 1)
    found.physics = max(0.0, 1 - sum(kind in _PHYSICS for kind in wrong) / things)
    found.walkability = max(0.0, 1 - sum(kind in _WALKING for kind in wrong) / things)
    return found


# A scene from nothing


def _made(spec: Spec, scene: Scene, found: Measured) -> None:
    areas = scene.rooms if spec.place == "room" else scene.plots
    others = scene.plots if spec.place == "room" else scene.rooms
    found.counts.append(len(areas) == 1)
    found.extras += len(others) + max(0, len(areas) - 1) + len(scene.lights)
    for kind in ("door", "window"):
        wanted = next((holes for holes in spec.holes if holes.kind == kind), None)
        have = [one for one in scene.openings if one.kind == kind]
        if wanted is not None:
            found.counts.append(len(have) == wanted.count)
            if wanted.side is not None:
                found.attributes.append(bool(have) and all(one.side == wanted.side for one in have))
        found.extras += max(0, len(have) - (wanted.count if wanted else 0))
    if spec.night:
        found.attributes.append(scene.sky.time == "night")
    else:
        found.extras += scene.sky.time == "night"
    if spec.size is not None:
        found.attributes.append(len(areas) == 1 and _as_large(areas[0].w * areas[0].d / 10_000, spec.place, spec.size))
    kinds = Counter(group.kind for group in spec.groups)
    for kind in kinds:
        number = sum(group.count for group in spec.groups if group.kind == kind)
        count = sum(thing.kind == kind for thing in scene.objects)
        found.counts.append(count == number)
        found.extras += max(0, count - number)
    found.extras += sum(thing.kind not in kinds for thing in scene.objects)
    members = [_members(group, scene.objects) for group in spec.groups]
    for group in spec.groups:
        if group.colour or group.material:
            alike = sum(_looks(group, thing) for thing in scene.objects)
            found.attributes.append(alike == group.count)
    for link in spec.links:
        found.relations.append(_holds(link, members, scene))


def _as_large(area: float, place: str, size: str) -> bool:
    """m². In between lies what is neither small nor large."""
    small, large, huge = (12, 22, 50) if place == "room" else (70, 200, 800)
    return {"small": area <= small, "large": large <= area < huge, "huge": area >= huge}[size]


def _looks(group: Group, thing: Object) -> bool:
    return (thing.kind == group.kind and group.colour in (None, thing.colour) and group.material in (None, thing.material))


def _members(group: Group, things: Sequence[Object]) -> list[str]:
    """The things that a group is about: those that look as it says; all of the kind if they are too few."""
    alike = [thing.id for thing in things if _looks(group, thing)]
    if group.colour is None:  # "the chair" beside "the red chair" is the one that looks as chairs do
        usual = [thing.id for thing in things if thing.id in alike and thing.colour == KINDS[group.kind].colour]
        alike = usual if len(usual) == group.count else alike
    return alike if len(alike) >= group.count else [thing.id for thing in things if thing.kind == group.kind]


def _holds(link: Link, members: Sequence[Sequence[str]], scene: Scene) -> bool:
    subjects, of = members[link.subject], [id for index in link.of for id in members[index]]
    if not subjects or any(not members[index] for index in link.of) or set(subjects) & set(of):
        return False
    if len(of) > 2 or len(subjects) > 64:
        return False
    return holds(scene, Relation(kind=link.kind, subjects=tuple(subjects), of=tuple(of), frame=link.frame, side=link.side))


# A scene that is changed


def _edited(spec: Spec, before: Scene, after: Scene, found: Measured) -> None:
    ids = spec.ids()
    then = {thing.id: thing for thing in before.objects}
    now = {thing.id: thing for thing in after.objects}
    new = [thing for id, thing in now.items() if id not in then]
    members: list[list[str]] = [list(group) for group in ids]
    free: set[str] = set()  # ids that the edits may change
    wanted = Counter[str]()
    for edit in spec.edits:
        if edit.change == "add":
            assert edit.new is not None
            wanted[edit.new.kind] += edit.new.count
            members[edit.group] = _members(edit.new, new)
            have = [thing for thing in new if thing.kind == edit.new.kind]
            found.counts.append(len(have) == edit.new.count)
            if edit.new.colour is not None:
                found.attributes.append(len(have) == edit.new.count and all(_looks(edit.new, thing) for thing in have))
        else:
            free.update(ids[edit.group])
            held = _changed(edit, [then[id] for id in ids[edit.group] if id in then], now)
            (found.counts if edit.change == "remove" else found.attributes).extend(held)
        if edit.link is not None:
            found.relations.append(_holds(edit.link, members, after))
    found.extras += sum((Counter(thing.kind for thing in new) - wanted).values())
    found.extras += len({room.id for room in after.rooms} ^ {room.id for room in before.rooms})
    found.extras += len({one.id for one in after.openings} ^ {one.id for one in before.openings})
    free |= _carried(free, before.objects) | _carried(free, after.objects)
    moved = {id for edit in spec.edits if edit.change in ("relate", "scale", "rotate", "remove") for id in ids[edit.group]}
    moved |= _carried(moved, before.objects)
    for id, old in then.items():
        if id not in now:
            found.extras += id not in {gone for edit in spec.edits if edit.change == "remove" for gone in ids[edit.group]}
        elif now[id] != old and not _allowed(old, now[id], id, spec, ids, moved):
            found.extras += 1


def _changed(edit: Edit, things: Iterable[Object], now: dict[str, Object]) -> list[bool]:
    held = []
    for old in things:
        new = now.get(old.id)
        match edit.change:
            case "remove":
                held.append(new is None)
            case "recolour":
                held.append(new is not None and new.colour == edit.colour)
            case "scale":
                target = old.w * edit.amount / 100
                held.append(new is not None and abs(new.w - target) <= max(1.0, _EXACT * target))
            case "rotate":
                held.append(new is not None and (new.turn - old.turn - edit.amount) % 360 == 0)
    return held


def _allowed(old: Object, new: Object, id: str, spec: Spec, ids: Sequence[Sequence[str]], moved: set[str]) -> bool:
    """Whether a thing changed only in what the edits of it were to change."""
    places = ("x", "y", "z", "turn", "on")
    may = set(places) if id in moved else set()
    for edit in spec.edits:
        if id in ids[edit.group]:
            may |= {"recolour": {"colour"}, "scale": {"w", "h", "d"}}.get(edit.change, set())
    return all(getattr(old, name) == getattr(new, name) for name in Object.model_fields if name not in may)


def _carried(bearers: set[str], things: Sequence[Object]) -> set[str]:
    """What stands, directly or not, on these things."""
    found: set[str] = set()
    while more := {thing.id for thing in things if thing.on in bearers | found} - found:
        found |= more
    return found
