"""The log: a line of JSON for whatever happens, on standard error. No text of a prompt or a reply is in it, and no key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import Any

import pydantic_core

_SOON = 0.01
_lines: list[bytes] = []  # that wait to be written
_on = False


class Lines(logging.Formatter):
    """An exception is its type and where it was raised: its message, and those of libraries, may repeat what a client sent."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": _time(record.created), "level": record.levelname.lower(), "logger": record.name,
                                "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)
            line["error"] = type(error).__name__
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        return json.dumps(line, ensure_ascii=False, default=str)


def _time(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def start(level: int = logging.INFO) -> None:
    """Sends everything that is logged in this process to standard error."""
    global _on
    _on = level <= logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ownship").setLevel(level)
    logging.raiseExceptions = False  # a full disk behind standard error must not end requests, nor print what was logged
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "httpx", "mcp"):
        logging.getLogger(name).setLevel(logging.WARNING)


def request(fields: dict[str, Any]) -> None:
    """A line about a request, past `logging` and many in one write: a write lets go of the interpreter's lock, and to get that back
    takes longer than all the rest. It is there within _SOON seconds. To be called on an event loop."""
    _lines.append(pydantic_core.to_json({"time": _time(time.time()), "level": "info", "event": "request", **fields},
                                        inf_nan_mode="null", serialize_unknown=True))
    if len(_lines) == 1:
        asyncio.get_running_loop().call_later(_SOON, flush)


def on() -> bool:
    """Does anybody read lines about requests?"""
    return _on


def flush() -> None:
    """Writes what waits. To be called at the end of the process."""
    lines, _lines[:] = b"\n".join([*_lines, b""]), []
    with contextlib.suppress(OSError, ValueError):  # a full disk behind standard error must not end requests
        sys.stderr.write(lines.decode())
        sys.stderr.flush()
