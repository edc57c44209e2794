"""Files of JSON lines → examples, with a report of the lines that cannot be used; and the order of training.

Files are read line by line and only what the parser makes of a line is kept, so a file may be larger than the memory.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ownship.errors import UserError

T = TypeVar("T")

MAX_LINE = 16 << 20  # bytes: no context holds as much, and a file without line ends must not fill the memory
_SHOWN = 20


class BadLine(ValueError):
    """Why a line cannot be used, in few words."""


class Problems:
    """The lines that could not be used: how many of how many, and the first 20 with file, number and reason.

    With `strict` the first one is raised as a UserError instead.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict, self.lines, self.total = strict, 0, 0
        self.first: list[str] = []

    def add(self, file: Path, number: int, reason: object) -> None:
        said = f"{file}, line {number}: {reason}"
        if self.strict:
            raise UserError(said)
        self.total += 1
        if len(self.first) < _SHOWN:
            self.first.append(said)

    def text(self) -> str:
        """The report; empty if there is nothing to report."""
        if not self.total:
            return ""
        more = [f"and {self.total - len(self.first):,} more"] if self.total > len(self.first) else []
        return "\n  ".join([f"skipped {self.total:,} of {self.lines:,} lines:", *self.first, *more])


def files(path: Path) -> list[Path]:
    """The file itself, or the *.jsonl files below a folder in the order of their names. Raises UserError if there is none."""
    if path.is_dir():
        if found := sorted(file for file in path.rglob("*.jsonl") if file.is_file()):
            return found
        raise UserError(f"{path}: the folder holds no .jsonl file")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return [path]


def read(path: Path, parse: Callable[[dict[str, Any]], T], problems: Problems, wanted: str) -> list[T]:
    """What `parse` makes of each line's object. Lines that are no object, and those for which `parse` raises BadLine or
    UserError, go to `problems`. Raises UserError if not one line can be used; `wanted` then says what was expected."""
    made = []
    for file in files(path):
        for number, line in _lines(file):
            problems.lines += 1
            try:
                made.append(parse(_object(line)))
            except (BadLine, UserError) as error:
                problems.add(file, number, error)
    if not made:
        first = f"; the first of them: {problems.first[0]}" if problems.first else ""
        raise UserError(f"{path}: none of {problems.lines:,} lines can be used, {wanted} is expected{first}")
    return made


def _lines(file: Path) -> Iterator[tuple[int, bytes | None]]:
    """Lines and their numbers, from 1; None for a line of more than MAX_LINE bytes, which is never in memory as a whole.

    Only a line feed ends a line: JSON text may hold Unicode's other line ends as they are.
    """
    with open(file, "rb") as handle:
        number = 0
        while line := handle.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                while (rest := handle.readline(1 << 20)) and not rest.endswith(b"\n"):
                    pass
                yield number, None
            else:
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # a byte order mark


def _object(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise BadLine(f"longer than {MAX_LINE >> 20} MB")
    if not line.strip():
        raise BadLine("empty")
    try:
        value = json.loads(line.decode())
        if re.search(rb"\\u[dD]", line):  # only an escape can smuggle half a pair through UTF-8
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8 (byte {error.start + 1})") from None
    except UnicodeEncodeError:
        raise BadLine("half of a surrogate pair: such text has no UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadLine(f"not JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise BadLine("JSON that is nested too deeply") from None
    except ValueError:  # the one that is left: Python reads no number of more than 4,300 digits
        raise BadLine("JSON with a number of too many digits") from None
    if not isinstance(value, dict):
        raise BadLine(f"not an object but a {type(value).__name__}")
    return value


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """The numbers 0 … count − 1, dealt out: those to train on, and a `share` of them (at least one if it is not 0) held out.

    Raises UserError if the share leaves nothing to train on.
    """
    if not 0 <= share < 1:
        raise UserError(f"--held-out is the share of examples that are not trained on, from 0 to below 1, not {share}")
    apart = max(round(count * share), 1) if share else 0
    if apart >= count:
        raise UserError(f"--held-out {share} of {count} examples leaves none to train on")
    order = list(range(count))
    random.Random(f"{seed} held out").shuffle(order)
    return sorted(order[apart:]), sorted(order[:apart])


def shuffled(numbers: list[int], seed: int) -> Iterator[int]:
    """The numbers in the order of training, without end: each epoch in a new order."""
    epoch = 0
    while True:
        order = list(numbers)
        random.Random(f"{seed} {epoch}").shuffle(order)
        yield from order
        epoch += 1
