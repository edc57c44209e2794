"""Finds a place for everything that needs one, or the requirements that make it impossible.

Things are placed one after another, each on the most comfortable of all places that break no rule (candidates.py), so geometry is
exact for any turn of what stands already. When a thing finds none, the attempt is over and the next one places it earlier and the
others more freely. If attempts do not help, CP-SAT (proof.py) says whether it is possible at all, and where things could stand.

A seed and a number of seconds give the same scene everywhere and always: the seconds are a number of places looked at (`PACE`), and
no clock is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ownship.surfaces.worlds.candidates import Slots, State, Wanted, places
from ownship.surfaces.worlds.geometry import Body, area_of, axes, between_angles, bodies, depth, object_body
from ownship.surfaces.worlds.relations import GROUP
from ownship.surfaces.worlds.space import (
    Clear,
    Ground,
    ancestors,
    clearances,
    collide,
    covered,
    ground,
    must_reach,
    on_ground,
    within,
)
from ownship.surfaces.worlds.types import Object, Relation, Requirement, Scene
from ownship.surfaces.worlds.weigh import comfort, lacking, restrict

if TYPE_CHECKING:
    from ownship.surfaces.worlds.proof import Verdict

Asked = Sequence[Requirement] | None
PACE = 8_000_000  # places looked at that take about a second
ALONE = 3  # attempts before CP-SAT is asked
BUDGET = 0.3  # of CP-SAT, in its deterministic seconds
TRIES = 12  # places of one thing that are tried for walkability before it counts as stuck


@dataclass(frozen=True)
class Task:
    """`scene` has what stays, `wanted` what needs a place; `hard` must hold, `soft` would be nice. `waived` are left out."""

    scene: Scene
    wanted: tuple[Wanted, ...]
    hard: tuple[Relation, ...] = ()
    soft: tuple[Relation, ...] = ()
    waived: frozenset[Requirement] = frozenset()

    @property
    def relations(self) -> tuple[Relation, ...]:
        dropped = {requirement.relation for requirement in self.waived}
        return tuple(relation for relation in self.hard if relation not in dropped)

    def ghosts(self) -> set[str]:
        """What needs no room of its own."""
        return {requirement.ids[0] for requirement in self.waived if requirement.kind == "room_for"}


@dataclass
class Stuck:
    """Nothing was found: how often each thing was the one without a place."""

    failed: Counter[str] = field(default_factory=Counter)
    core: list[Requirement] = field(default_factory=list)  # what CP-SAT proved to exclude itself; [] if it did not


@dataclass
class Work:
    """What may still be looked at."""

    left: float


@dataclass
class Attempt:
    """One try at placing everything: the state so far, and how freely it chooses."""

    number: int
    state: State
    hard: list[Relation]
    soft: list[Relation]
    ghosts: set[str]
    random: Any
    work: Work
    guide: dict[str, tuple[float, float, int]] = field(default_factory=dict)  # where CP-SAT would have things: x, z, turn
    moved: Counter[str] = field(default_factory=Counter)  # how often each thing failed or was driven out


def split(relations: Iterable[Relation]) -> list[Relation]:
    """One relation per subject, except where it is said of all together."""
    found = []
    for relation in relations:
        if relation.kind in GROUP or len(relation.subjects) == 1:
            found.append(relation)
        else:
            found += [relation.model_copy(update={"subjects": (name,)}) for name in relation.subjects]
    return found


def state_of(task: Task) -> State:
    """What stands before anything is placed."""
    scene = task.scene
    known = bodies(scene)
    waived = {(r.kind, r.ids[0] if r.ids else "") for r in task.waived}
    for kind, name in waived:
        if kind == "opening":
            known.pop(name, None)
    clear: Clear = clearances(scene)
    things: dict[str, list[Body]] = {name: [] for name, body in known.items() if body.sort in ("room", "plot")}
    for thing in scene.objects:
        area = area_of(known[thing.id], known)
        if area is not None and ("stays", "") not in waived:
            things[area].append(known[thing.id])
    walls = {plot.id: covered(scene, known[plot.id]) for plot in scene.plots}
    used = {name for name in things if ("walk", name) not in waived}
    grounds = {name: ground(scene, known[name], things[name], clear) for name in used}
    return State(known, things, grounds, clear, walls)


Found = tuple[Object, ...] | Stuck


def solve(task: Task, seed: int = 0, work: Work | None = None, attempts: int = 24, asked: Asked = None) -> Found:
    """Places for all that is wanted, in the order of `wanted` and what each carries, or Stuck.

    After a few attempts that failed CP-SAT is asked; then its answer guides every second attempt. `asked` is what has to hold.
    """
    work = work or Work(2 * PACE)
    base = state_of(task)
    stuck = Stuck()
    hard, soft = split(task.relations), split(task.soft)
    guide: dict[str, tuple[float, float, int]] = {}
    for attempt in range(attempts):
        if attempt == min(ALONE, attempts - 1):
            verdict = _verdict(task, requirements(task) if asked is None else asked, seed)
            guide = verdict.places
            if verdict.possible is False:
                stuck.core = verdict.core or requirements(task)
                return stuck
        random = np.random.default_rng([seed, attempt])
        now = Attempt(attempt, base.copy(), hard, soft, task.ghosts(), random, work, guide if attempt % 2 else {})
        found = _attempt(task, now, stuck.failed)
        if found is not None:
            return tuple(thing for wanted in task.wanted for thing in found[wanted.thing.id])
        if work.left <= 0:
            break
    return stuck


def _verdict(task: Task, asked: Iterable[Requirement], seed: int) -> Verdict:
    from ownship.surfaces.worlds.proof import judge  # ortools takes half a second to import, and most tasks do without

    return judge(bodies(task.scene), task.wanted, list(dict.fromkeys(task.hard)), list(asked), split, seed, BUDGET)


def _attempt(task: Task, now: Attempt, failed: Counter[str]) -> dict[str, list[Object]] | None:
    """Places all things. One that finds no place drives out others: first what it is related to, then whatever stands around."""
    base = now.state.copy()
    rest = {wanted.thing.id: wanted for wanted in task.wanted}
    done: dict[str, tuple[Wanted, str, list[Object]]] = {}  # what stands: in which area, with what it carries
    urgent, driven = None, 0
    while rest:
        name = urgent or _next(rest, now.hard, failed, now.number)
        wanted = rest.pop(name)
        found = find(wanted, now, fine=False) or find(wanted, now, fine=True)
        if found is None:
            failed[name] += 1
            out = _in_the_way(name, done, now, again=now.moved[name] > 0)
            driven += len(out)
            now.moved.update([name, *out])
            if not out or driven > 3 * len(task.wanted) or now.work.left <= 0:
                return None
            rest |= {name: wanted, **{other: done.pop(other)[0] for other in out}}
            urgent = name
            now.state = base.copy()
            for other, (_, area, things) in done.items():
                _stand(things, area, other in now.ghosts, now.state)
            continue
        urgent = None
        thing, area = found
        things = [thing, *(carry(wanted.thing, thing, child) for child in wanted.carried)]
        done[name] = (wanted, area, things)
        _stand(things, area, name in now.ghosts, now.state)
    if now.moved or now.number:
        _settle(done, now, base)
    return {name: things for name, (_, _, things) in done.items()}


def _settle(done: dict[str, tuple[Wanted, str, list[Object]]], now: Attempt, base: State) -> None:
    """Each thing once more, now that all stand: what was placed in a hurry finds a more comfortable place."""
    now.moved, now.number, now.guide = Counter(), 0, {}
    bearers = {thing.on for _, _, things in done.values() for thing in things}
    for name in [name for name in done if name not in bearers]:
        if now.work.left <= 0:
            return
        now.state = base.copy()
        for other, (_, area, things) in done.items():
            if other != name:
                _stand(things, area, other in now.ghosts, now.state)
        wanted = done[name][0]
        if (found := find(wanted, now, fine=False)) is not None:
            done[name] = (wanted, found[1], [found[0], *(carry(wanted.thing, found[0], child) for child in wanted.carried)])


def _stand(things: list[Object], area: str, ghost: bool, state: State) -> None:
    for body in map(object_body, things):
        state.known[body.id] = body
        if not ghost:
            state.things[area].append(body)
    body = object_body(things[0])
    if area in state.grounds and not ghost and on_ground(body):
        state.grounds[area] = state.grounds[area].copy()
        state.grounds[area].block(body)


def _in_the_way(name: str, done: dict[str, Any], now: Attempt, again: bool) -> list[str]:
    """What has to go so that `name` may find a place: what it is related to, then three more; and what they bear."""
    out = {other for r in now.hard if name in (*r.subjects, *r.of) for other in (*r.subjects, *r.of) if other in done}
    out -= {other for r in now.hard if r.kind in ("on", "inside") and name in r.subjects for other in r.of}
    rest = sorted(done.keys() - out)
    if (again or not out) and rest:
        out |= {rest[i] for i in now.random.permutation(len(rest))[:3]}
    borne = {other for other, (_, _, things) in done.items() if ancestors(now.state.known[things[0].id], now.state.known) & out}
    return sorted(out | borne)


def _next(rest: dict[str, Wanted], hard: list[Relation], failed: Counter[str], attempt: int) -> str:
    """Whose turn it is: bearers before what they bear, then what others refer to, what failed, what is large."""
    waits: Counter[str] = Counter()
    borne: set[str] = set()
    for relation in hard:
        for name in relation.subjects:
            free = [other for other in relation.of if other in rest]
            waits[name] += len(free)
            if free and relation.kind in ("on", "inside"):
                borne.add(name)
    choose = [name for name in rest if name not in borne] or list(rest)

    def rank(name: str) -> tuple[float, ...]:
        wanted = rest[name]
        kind = object_body(wanted.thing).kind
        rug = kind is not None and kind.walkable
        fixed = wanted.x is not None
        size = wanted.thing.w * wanted.thing.d
        first = -failed[name] if attempt % 2 else 0
        return (not fixed, first, waits[name] > 0, rug, -failed[name], -size)

    return min(choose, key=rank)


def find(wanted: Wanted, now: Attempt, fine: bool) -> tuple[Object, str] | None:
    """The most comfortable place that breaks no rule, and its area."""
    name, state, work = wanted.thing.id, now.state, now.work
    ghost = name in now.ghosts
    mine = [relation for relation in now.hard if name in relation.subjects or name in relation.of]
    wishes = [relation for relation in now.soft if name in relation.subjects]
    slots: list[Slots] = []
    for slot in places(wanted, mine, state, fine):
        work.left -= restrict(slot, state, mine, obstacles=not ghost)
        if slot.allowed.any():
            comfort(slot, wanted, state, [*mine, *wishes])
            for relation in wishes:
                short = lacking(relation, slot.body, state.known)
                slot.cost += 0 if short is None else np.minimum(2 * np.asarray(short), 300.0)
            work.left -= 4 * slot.cost.size
            if name in now.guide:
                x, z, turn = now.guide[name]
                slot.cost += 2 * np.hypot(slot.body.x - x, slot.body.z - z) + between_angles(slot.body.turn, turn)
            slot.cost += now.random.random(slot.cost.shape) * max(5, 20 * (now.number + now.moved[name]))
            slot.cost[~slot.allowed] = np.inf
            slots.append(slot)
    for _ in range(TRIES if slots else 0):
        slot = min(slots, key=lambda slot: float(slot.cost.min()))
        i, j = np.unravel_index(int(slot.cost.argmin()), slot.cost.shape)
        if not np.isfinite(slot.cost[i, j]):
            return None
        x, z = float(slot.body.x[i, 0]), float(slot.body.z[0, j])
        body = slot.body.at(x, z)
        place = {"x": int(x), "y": int(body.y0), "z": int(z), "turn": int(body.turn) % 360, "on": body.on}
        thing = wanted.thing.model_copy(update=place)
        if ghost or _fine(body, thing, wanted, slot.area, state):
            return thing, slot.area
        work.left -= state.grounds[slot.area].blocked.size if slot.area in state.grounds else 100
        near = 12 if slot.cost.size > 400 else 0  # what is close by fails for the same reason
        slot.cost[(np.abs(slot.body.x - x) <= near) & (np.abs(slot.body.z - z) <= near)] = np.inf
    return None


def _fine(body: Body, thing: Object, wanted: Wanted, area: str, state: State) -> bool:
    """Whether what it carries fits there too, and one can still walk to everything."""
    children = [object_body(carry(wanted.thing, thing, child)) for child in wanted.carried]
    for child in children:
        if not within(child, state.known[area]):
            return False
        known = {**state.known, body.id: body, **{other.id: other for other in children}}
        exempt = ancestors(child, known)
        for other in state.things[area]:
            if other.id not in exempt and bool(collide(child, other)):
                return False
        if any(float(depth(child, wall)) > 0 for wall in state.walls.get(area, [])):
            return False
    if area not in state.grounds or not on_ground(body):
        return True
    trial: Ground = state.grounds[area].copy()
    trial.block(body)
    things = [other for other in state.things[area] if must_reach(other)]
    return not trial.unreachable([*things, body])


def carry(before: Object, after: Object, child: Object) -> Object:
    """Where a child is when what bears it went from `before` to `after`."""
    (ux, uz), (vx, vz) = axes(after.turn - before.turn)
    dx, dz = child.x - before.x, child.z - before.z
    x, z = after.x + dx * ux + dz * vx, after.z + dx * uz + dz * vz
    return child.model_copy(
        update={
            "x": round(x),
            "y": child.y + after.y - before.y,
            "z": round(z),
            "turn": (child.turn + after.turn - before.turn) % 360,
        }
    )


def requirements(task: Task) -> list[Requirement]:
    """Everything that the task asks for, what is most worth telling first."""
    scene = task.scene
    found = [Requirement(kind="relation", ids=(*r.subjects, *r.of), relation=r) for r in dict.fromkeys(task.hard)]
    found += [Requirement(kind="place", ids=(wanted.thing.id,)) for wanted in task.wanted if wanted.x is not None]
    found += [Requirement(kind="room_for", ids=(wanted.thing.id, *wanted.areas)) for wanted in task.wanted]
    if scene.objects:
        found.append(Requirement(kind="stays"))
    found += [Requirement(kind="opening", ids=(opening.id,)) for opening in scene.openings]
    return found + [Requirement(kind="walk", ids=(area.id,)) for areas in (scene.rooms, scene.plots) for area in areas]


def without(task: Task, waived: Iterable[Requirement]) -> Task:
    """The task with some of its requirements left out."""
    left_out = frozenset(waived)
    loose = {requirement.ids[0] for requirement in left_out if requirement.kind == "place"}
    wanted = tuple(replace(w, x=None, y=None, z=None, turn=None) if w.thing.id in loose else w for w in task.wanted)
    return replace(task, wanted=wanted, waived=left_out)
