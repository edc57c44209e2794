"""A page of docs/use-it-from as a program: its blocks in one language, in their order, against the server of a test."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "use-it-from"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
HOST = "127.0.0.1:8000"  # as the pages write it


def program(page: str, language: str, host: str) -> str:
    """Raises AssertionError for a page without blocks of the language, or with one that asks another server."""
    code = "\n".join(text for kind, text in _BLOCK.findall((PAGES / f"{page}.md").read_text()) if kind == language)
    assert HOST in code
    return code.replace(HOST, host)
