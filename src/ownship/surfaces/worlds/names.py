"""The ids that exist at a line of a reply, and the names by which lines call them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ownship.surfaces.worlds.types import Add, AddLight, AddOpening, AddPlot, AddRoom, Op, Remove, Scene


class Names:
    """The ids that exist at a line, by kind and in the order in which they came."""

    def __init__(self, scene: Scene) -> None:
        self.ids: dict[str, list[str]] = {}
        self._highest: dict[str, int] = {}
        for id in ids(scene):
            self.add(id)

    def __contains__(self, id: str) -> bool:
        return id in self.ids.get(kind_of(id), ())

    def copy(self) -> Names:
        other = Names(Scene())
        other.ids, other._highest = {kind: list(ids) for kind, ids in self.ids.items()}, dict(self._highest)
        return other

    def add(self, id: str) -> None:
        kind, number = kind_of(id), number_of(id)
        self.ids.setdefault(kind, []).append(id)
        self._highest[kind] = max(number, self._highest.get(kind, 0))

    def remove(self, id: str) -> None:
        if id in self:
            self.ids[kind_of(id)].remove(id)

    def next(self, kind: str) -> int:
        """The first of the numbers above all that this kind ever had here: ids are never used twice."""
        return self._highest.get(kind, 0) + 1

    def follow(self, op: Op) -> None:
        """Takes in what an op adds or removes."""
        match op:
            case AddRoom() | AddPlot() | AddOpening() | AddLight() | Add():
                self.add(op.id)
            case Remove():
                self.remove(op.id)

    def short(self, named: Sequence[str]) -> list[str]:
        """The shortest names for these ids in this order."""
        names = []
        for kind, run in groupby(named, kind_of):
            rest = list(run)
            if rest == self.ids.get(kind):
                names.append(spoken(kind))
                continue
            while rest:
                size = 1
                while size < len(rest) and number_of(rest[size]) == number_of(rest[size - 1]) + 1:
                    size += 1
                names.append(spoken(rest[0]) + (f"-{number_of(rest[size - 1])}" if size > 1 else ""))
                del rest[:size]
        return names


def ids(scene: Scene) -> list[str]:
    """All ids of a scene: places first, then objects."""
    return [*(room.id for room in scene.rooms), *(plot.id for plot in scene.plots), *(one.id for one in scene.openings),
            *(light.id for light in scene.lights), *(thing.id for thing in scene.objects)]


def kind_of(id: str) -> str:
    return id.rstrip("0123456789")


def number_of(id: str) -> int:
    return int(id[len(kind_of(id)) :])


def spoken(name: str) -> str:
    """`coffee_table1` as a line says it: with a blank, which costs no token of its own."""
    return name.replace("_", " ")
