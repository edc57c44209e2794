"""The log: a line of JSON for whatever happens, on standard error. No text of a prompt or a reply is in it, and no key."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

REQUESTS = logging.getLogger("ownship.requests")


class Lines(logging.Formatter):
    """An exception is its type and where it was raised: its message, and those of libraries, may repeat what a client sent."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
                                "level": record.levelname.lower()}
        fields = getattr(record, "fields", None)
        line |= fields if fields is not None else {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)
            line["error"] = type(error).__name__
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        return json.dumps(line, ensure_ascii=False, default=str)


def start(level: int = logging.INFO) -> None:
    """Sends everything that is logged in this process to standard error."""
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
    REQUESTS.info("", extra={"fields": {"event": "request", **fields}})
