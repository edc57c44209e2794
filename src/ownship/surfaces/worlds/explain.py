"""Why a task has no solution: a smallest set of its requirements that exclude each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ownship.surfaces.worlds.solver import PACE, Stuck, Task, Work, requirements, solve, without
from ownship.surfaces.worlds.types import Conflict, Requirement


def explain(task: Task, stuck: Stuck, seed: int = 0, work: Work | None = None) -> Conflict:
    """A smallest set of requirements that exclude each other (QuickXplain, Junker 2004: none of them can be left out)."""
    work = work or Work(4 * PACE)
    proved = True

    def impossible(asked: Sequence[Requirement], of: Task) -> bool:
        nonlocal proved
        if work.left <= 0:  # no time to look: it may be possible
            proved = False
            return False
        share = Work(min(PACE / 4, work.left))
        before = share.left
        found = solve(without(of, set(requirements(of)) - set(asked)), seed, share, attempts=2, asked=asked)
        work.left -= before - share.left + (PACE / 4 if isinstance(found, Stuck) and not found.core else 20_000)
        proved = proved and (not isinstance(found, Stuck) or bool(found.core))
        return isinstance(found, Stuck)

    def shrink(kept: list[Requirement], fresh: bool, doubtful: list[Requirement]) -> list[Requirement]:
        if (fresh and impossible(kept, task)) or not doubtful:
            return []
        if len(doubtful) == 1:
            return doubtful
        half = len(doubtful) // 2
        first, second = doubtful[:half], doubtful[half:]
        late = shrink([*kept, *first], True, second)
        return [*shrink([*kept, *late], bool(late), first), *late]

    if stuck.core:
        doubtful = [requirement for requirement in requirements(task) if requirement in stuck.core]
    else:
        smaller = narrow(task, stuck, lambda smaller: impossible(requirements(smaller), smaller))
        proved = proved and smaller is not task  # the whole was only not found, which proves nothing
        task, doubtful = smaller, requirements(smaller)
    found = shrink([], False, doubtful)
    return Conflict(requirements=tuple(found), proved=proved)


def narrow(task: Task, stuck: Stuck, impossible: Callable[[Task], bool]) -> Task:
    """The task with fewer things that is impossible as well: what failed and what it has to do with, if that is."""
    for name, _ in stuck.failed.most_common(2):
        close = {name}
        for relation in task.hard:
            names = {*relation.subjects, *relation.of}
            close |= names if name in names else set()
        wanted = tuple(wanted for wanted in task.wanted if wanted.thing.id in close)
        dropped = {wanted.thing.id for wanted in task.wanted} - close
        hard = tuple(r for r in task.hard if not dropped & {*r.subjects, *r.of})
        smaller = replace(task, wanted=wanted, hard=hard)
        if len(wanted) < len(task.wanted) and impossible(smaller):
            return smaller
    return task
