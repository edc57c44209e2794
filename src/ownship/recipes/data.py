"""What the recipes that learn from a file have in common: reading it with a report, and going on only if it is the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ownship.errors import UserError

if TYPE_CHECKING:
    from ownship.learn.run import Run

T = TypeVar("T")


def read(path: Path, parse: Callable[[dict[str, Any]], T], wanted: str, strict: bool) -> list[T]:
    """What `parse` makes of the lines of a file or folder; bad lines are named on the screen, or end it if `strict`."""
    from rich.console import Console

    from ownship.learn import lines

    problems = lines.Problems(strict)
    with Console(file=sys.stderr).status(f"reading {path}"):
        found = lines.read(path, parse, problems, wanted)
    if problems.total:
        print(problems.text(), file=sys.stderr)
    return found


def same(now: Run, digest: str, path: Path) -> None:
    """Raises UserError if the run began with other examples than these: it could not go on where it was."""
    if now.state.setdefault("data", digest) != digest:
        raise UserError(f"{path} has changed since the run in {now.folder} began: choose another --out")


def due(step: int, every: int, steps: int) -> bool:
    """Whether what is held out is measured after this step (0-based): after the first, the last and every so many."""
    return step == 0 or (step + 1) % every == 0 or step + 1 == steps
