"""CP-SAT on the whole of a task: whether it is possible at all, and about where things would stand.

The model asks for less than the rules do (a relaxation), so "infeasible" is a proof, and what it finds is a guide for the placement
that keeps all rules: distances are taken in a square instead of a circle; things that may hang or stand on others, that are turned
by no right angle or have free space below do not collide; openings and walkability are not in it. Things turn by right angles, as
everywhere in the solver. Lengths in the model are half centimetres, so that everything is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ortools.sat.python import cp_model

from ownship.surfaces.worlds.candidates import Wanted, turns
from ownship.surfaces.worlds.geometry import DIRECTION, Body, bounds, object_body
from ownship.surfaces.worlds.relations import AROUND, CENTRE, NEAR, NEXT, ROW, WALLWARD, direction
from ownship.surfaces.worlds.space import SIDES
from ownship.surfaces.worlds.types import Relation, Requirement

WIDE = 100_000  # half centimetres: more than any distance in a world
TAN = 578  # thousandths: a little more than tan 30°
DIAGONAL = 283  # cm: what is nearer than this along both axes is nearer than 400 cm


@dataclass
class Spot:
    """Where a thing is, as numbers or as variables: middle and half extents in half centimetres, and a literal per turn."""

    x: Any
    z: Any
    ex: Any
    ez: Any
    turns: dict[int, Any] = field(default_factory=dict)
    body: Body | None = None


@dataclass
class Verdict:
    """`possible` is None if the budget was used up. `places` are x, z (cm) and turn of each thing, `core` what excludes itself."""

    possible: bool | None
    places: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    core: list[Requirement] = field(default_factory=list)


def fixed(body: Body) -> Spot:
    hx, hz = bounds(body)
    turn = int(body.turn) % 360
    return Spot(round(2 * body.x), round(2 * body.z), round(2 * hx), round(2 * hz), {turn: True}, body)


class Model:
    """`known` are the bodies that stay, `areas` those that things may be in, `asked` the requirements that hold in the model."""

    def __init__(self, known: dict[str, Body], areas: dict[str, Body], asked: Sequence[Requirement]):
        self.model = cp_model.CpModel()
        self.known, self.areas = known, areas
        self.given = {requirement: self.model.new_bool_var(str(number)) for number, requirement in enumerate(asked)}
        self.spots = {name: fixed(body) for name, body in known.items()}
        self.flat_x: list[Any] = []
        self.flat_z: list[Any] = []

    def place(self, wanted: Wanted, hard: Sequence[Relation]) -> None:
        """Variables for a thing: within one of its areas, with room of its own if it can only stand on the floor."""
        model, thing = self.model, wanted.thing
        body = object_body(thing)
        x, z = model.new_int_var(-WIDE, WIDE, "x"), model.new_int_var(-WIDE, WIDE, "z")
        upright = {turn: model.new_bool_var(f"t{turn}") for turn in turns(wanted, 0)}
        model.add_exactly_one(upright.values())
        borne = any(r.kind in ("on", "inside") and thing.id in r.subjects for r in hard)
        borne = borne or (wanted.old and thing.on not in self.areas)  # by what may be turned anyhow
        right = not borne and all(turn % 90 == 0 for turn in upright)
        across = model.new_bool_var("across")  # turned by 90 or 270 degrees
        model.add(across == sum(literal for turn, literal in upright.items() if turn % 180 == 90))
        w, d = (thing.w, thing.d) if right else (0, 0)
        spot = Spot(x, z, w + (d - w) * across, d + (w - d) * across, {} if borne else dict(upright), body)
        self.spots[thing.id] = spot
        where = {name: model.new_bool_var(name) for name in self.areas if not wanted.areas or name in wanted.areas}
        model.add_exactly_one(where.values())
        for name, literal in where.items():
            area = fixed(self.areas[name])
            model.add(x - spot.ex >= area.x - area.ex).only_enforce_if(literal)
            model.add(x + spot.ex <= area.x + area.ex).only_enforce_if(literal)
            model.add(z - spot.ez >= area.z - area.ez).only_enforce_if(literal)
            model.add(z + spot.ez <= area.z + area.ez).only_enforce_if(literal)
        need = self.given.get(Requirement(kind="room_for", ids=(thing.id, *wanted.areas)))
        kind = body.kind
        if need is not None and right and kind and kind.goes == ("floor",) and not (kind.walkable or kind.under):
            x0, x1, z0, z1 = (model.new_int_var(-2 * WIDE, 2 * WIDE, "edge") for _ in range(4))
            for edge, where_it_is in ((x0, x - spot.ex), (x1, x + spot.ex), (z0, z - spot.ez), (z1, z + spot.ez)):
                model.add(edge == where_it_is)
            self._box(x0, 2 * spot.ex, x1, z0, 2 * spot.ez, z1, need)
        exact = self.given.get(Requirement(kind="place", ids=(thing.id,)))
        if exact is not None and wanted.x is not None and wanted.z is not None:
            model.add(x == 2 * wanted.x).only_enforce_if(exact)
            model.add(z == 2 * wanted.z).only_enforce_if(exact)

    def obstacles(self, bodies: Sequence[Body], floors: set[str]) -> None:
        """What stands on the floor and stays."""
        stays = self.given.get(Requirement(kind="stays"))
        for body in bodies if stays is not None else ():
            kind = body.kind
            if body.turn % 90 == 0 and body.y0 == 0 and body.on in floors and kind and not (kind.walkable or kind.under):
                spot = fixed(body)
                self._box(spot.x - spot.ex, 2 * spot.ex, spot.x + spot.ex, spot.z - spot.ez, 2 * spot.ez, spot.z + spot.ez, stays)

    def _box(self, x0: Any, w: Any, x1: Any, z0: Any, d: Any, z1: Any, literal: Any) -> None:
        self.flat_x.append(self.model.new_optional_interval_var(x0, w, x1, literal, "bx"))
        self.flat_z.append(self.model.new_optional_interval_var(z0, d, z1, literal, "bz"))

    def ask(self, relation: Relation, literal: Any) -> None:
        """A relation of one subject (or of all, for groups), as far as the model knows it."""
        subjects = [self.spots[name] for name in relation.subjects]
        of = [self.spots[name] for name in relation.of if name in self.spots]
        a, b, kind = subjects[0], of[0] if of else None, relation.kind
        if kind == "aligned":
            self._either([self._all(self._near(s.x, a.x, 2 * ROW) for s in subjects[1:]),
                          self._all(self._near(s.z, a.z, 2 * ROW) for s in subjects[1:])], literal)  # fmt: skip
        elif kind in ("against_wall", "in_corner"):
            rooms = [body for name, body in self.areas.items() if body.sort == "room" and (not relation.of or name in relation.of)]
            self._either([walls for room in rooms for walls in self._walls(a, fixed(room), kind, relation.side)], literal)
        elif b is None or b.body is None:
            return
        elif kind in ("next_to", "near", "around"):
            far = 2 * {"next_to": NEXT, "near": NEAR, "around": AROUND}[kind]
            for s in subjects:
                self._when([*self._near(s.x, b.x, s.ex + b.ex + far), *self._near(s.z, b.z, s.ez + b.ez + far)], literal)
        elif kind == "far":
            apart = 2 * DIAGONAL
            self._either([[a.x - b.x >= a.ex + b.ex + apart], [b.x - a.x >= a.ex + b.ex + apart],
                          [a.z - b.z >= a.ez + b.ez + apart], [b.z - a.z >= a.ez + b.ez + apart]], literal)  # fmt: skip
        elif kind in ("left_of", "right_of", "in_front_of", "behind"):
            own = relation.frame == "object" and b.body.front
            for turn, turned in b.turns.items() if own else [(0, True)]:
                dx, dz = direction(kind, Body("", 0, 0, turn, 1, 1, 0, 1, kind=b.body.kind), relation.frame)
                if {abs(dx), abs(dz)} == {0.0, 1.0}:
                    self._beyond(a, b, int(dx), int(dz), [literal, turned])
        elif kind == "facing":
            for turn, turned in a.turns.items():
                if turn % 90 == 0:
                    fx, fz = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn // 90]
                    ahead, aside = (b.x - a.x) * fx + (b.z - a.z) * fz, (b.x - a.x) * fz - (b.z - a.z) * fx
                    self._when([1000 * aside <= TAN * ahead, -1000 * aside <= TAN * ahead], literal, turned)
        elif kind == "centred" and b.body.sort != "opening":
            self._when([*self._near(a.x, b.x, 2 * CENTRE), *self._near(a.z, b.z, 2 * CENTRE)], literal)
        elif kind in ("on", "inside") and b.body.sort == "object" and all(turn % 90 == 0 for turn in b.turns):
            self._when([*self._near(a.x, b.x, b.ex - a.ex + 4), *self._near(a.z, b.z, b.ez - a.ez + 4)], literal)

    def _beyond(self, a: Spot, b: Spot, dx: int, dz: int, literals: list[Any]) -> None:
        forth, aside = (a.x - b.x) * dx + (a.z - b.z) * dz, (a.x - b.x) * dz - (a.z - b.z) * dx
        edge, half = (a.ex + b.ex, b.ez) if dx else (a.ez + b.ez, b.ex)
        self._when([forth >= edge], *literals)
        self._either([[aside <= forth, -aside <= forth], [aside <= half, -aside <= half]], *literals)

    def _walls(self, a: Spot, room: Spot, kind: str, side: str | None) -> list[list[Any]]:
        def wall(name: Any) -> Any:
            dx, dz = DIRECTION[name]
            half, extent = (room.ex, a.ex) if dx else (room.ez, a.ez)
            return (a.x - room.x) * dx + (a.z - room.z) * dz + extent >= half - 2 * WALLWARD

        if kind == "against_wall":
            return [[wall(name)] for name in SIDES if side in (None, name)]
        pairs = [("north", "east"), ("south", "east"), ("south", "west"), ("north", "west")]
        return [[wall(one), wall(other)] for one, other in pairs if side is None or side in (one, other)]

    @staticmethod
    def _near(one: Any, other: Any, far: Any) -> list[Any]:
        return [one - other <= far, other - one <= far]

    @staticmethod
    def _all(parts: Any) -> list[Any]:
        return [condition for part in parts for condition in part]

    def _when(self, conditions: list[Any], *literals: Any) -> None:
        for condition in conditions:
            if condition is False:  # between two things that stay
                self.model.add_bool_or([literal.negated() for literal in literals if literal is not True])
            elif condition is not True:
                self.model.add(condition).only_enforce_if([literal for literal in literals if literal is not True])

    def _either(self, choices: list[list[Any]], *literals: Any) -> None:
        chosen = [self.model.new_bool_var("c") for _ in choices]
        self.model.add_bool_or([*chosen, *(literal.negated() for literal in literals if literal is not True)])
        for literal, conditions in zip(chosen, choices, strict=True):
            self._when(conditions, literal)

    def verdict(self, seed: int, budget: float) -> Verdict:
        self.model.add_no_overlap_2d(self.flat_x, self.flat_z)
        asked = list(self.given.items())
        self.model.add_assumptions([literal for _, literal in asked])
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = seed
        solver.parameters.max_deterministic_time = budget
        status = solver.solve(self.model)
        if status == cp_model.INFEASIBLE:
            indices = set(solver.sufficient_assumptions_for_infeasibility())
            return Verdict(False, core=[requirement for requirement, literal in asked if literal.index in indices])
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Verdict(None)
        places = {}
        for name, spot in self.spots.items():
            if name not in self.known:
                turn = next((turn for turn, literal in spot.turns.items() if solver.value(literal)), 0)
                places[name] = (solver.value(spot.x) / 2, solver.value(spot.z) / 2, turn)
        return Verdict(True, places)


def judge(known: dict[str, Body], wanted: Sequence[Wanted], hard: Sequence[Relation], asked: Sequence[Requirement],
          split: Callable[[Sequence[Relation]], list[Relation]], seed: int = 0, budget: float = 1.0) -> Verdict:  # fmt: skip
    """Whether everything in `asked` can hold at once; `budget` is CP-SAT's deterministic time, about seconds."""
    areas = {name: body for name, body in known.items() if body.sort in ("room", "plot")}
    model = Model(known, areas, asked)
    for thing in wanted:
        model.place(thing, hard)
    model.obstacles([body for body in known.values() if body.sort == "object"], set(areas))
    for relation in hard:
        literal = next((given for r, given in model.given.items() if r.relation == relation), None)
        if literal is not None:
            for part in split([relation]):
                model.ask(part, literal)
    return model.verdict(seed, budget)
