"""The one kind of error a user is meant to read, and the system's own made readable."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """Says what was wrong, what was expected and what to do next, in one line; the command line exits with code 2."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses while `path` is written (a full disk, above all) becomes an OSError that names it.

    A failed write of Python's names no file, and libraries in Rust (safetensors, tokenizers) raise errors of their own, whose
    text ends with "(os error 28)".
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _number(str(error))
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _number(text: str) -> int | None:
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None
