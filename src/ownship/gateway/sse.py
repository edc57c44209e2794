"""JSON, and server-sent events in both directions."""

from __future__ import annotations

from typing import Any

import pydantic_core

from ownship.gateway.types import GatewayError

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"  # a comment, which every client skips
MAX_EVENT = 8 << 20  # bytes of one event from an upstream: the last event of `responses` holds the whole reply


def loads(data: bytes | str) -> Any:
    """JSON as RFC 8259 has it: no NaN, no halves of surrogate pairs, no more than 200 levels. Raises ValueError.

    pydantic's own parser takes a third of the time of the standard library's, and is there anyway.
    """
    return pydantic_core.from_json(data, allow_inf_nan=False)


def dumps(value: Any) -> bytes:
    """Compact UTF-8. What JSON cannot say (an infinite number) becomes null."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def send(value: Any) -> bytes:
    """One event without a name."""
    return b"data: " + pydantic_core.to_json(value, inf_nan_mode="null") + b"\n\n"


def send_named(value: dict[str, Any]) -> bytes:
    """One event whose name is its `type`."""
    return b"event: " + value["type"].encode() + b"\ndata: " + pydantic_core.to_json(value, inf_nan_mode="null") + b"\n\n"


class Reader:
    """Takes bytes as they come, gives the data of each event that is complete. Events are told apart by what their data say, so
    names are skipped, as are comments. Lines end with LF or CR LF; no server ends them with CR alone."""

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self.max_event = max_event
        self._rest = bytearray()  # the beginning of a line
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises GatewayError if an event is larger than `max_event`."""
        rest = self._rest
        events: list[bytes] = []
        seen = len(rest)  # holds no end of a line: not looked through again
        rest += chunk
        start = 0
        while True:
            end = rest.find(b"\n", max(start, seen))
            if end < 0:
                break
            self._line(bytes(rest[start:end]).removesuffix(b"\r"), events)
            start = end + 1
        del rest[:start]
        if len(rest) + self._size > self.max_event:
            raise GatewayError(502, "upstream", f"the upstream sent an event of more than {self.max_event} bytes")
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            self._size += len(line)
            if self._size > self.max_event:
                raise GatewayError(502, "upstream", f"the upstream sent an event of more than {self.max_event} bytes")
        elif not line and self._data:
            events.append(b"\n".join(self._data))
            self._data.clear()
            self._size = 0
