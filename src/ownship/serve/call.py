"""One HTTP request and what is sent for it, over bare ASGI: a framework's layers would take longer than the gateway itself."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from ownship.gateway.codec import new_id
from ownship.gateway.types import GatewayError, invalid

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]

_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_BODY_WITHIN = 60.0  # seconds for a body to arrive
JSON = "application/json"
EVENTS = "text/event-stream"
CONNECTION = "ownship.connection"  # in a scope: who knows when the client leaves, if somebody does


class Gone(Exception):
    """The client has left: nobody is there to be answered."""


class Call:
    """`id` is the client's own x-request-id if it is a plain word. `status` is 0 until the response begins; `touched` is when
    something was last sent."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.id = given if given and _ID.fullmatch(given) else new_id("req_")
        self.began = self.touched = time.monotonic()
        self.status = 0
        self.told: dict[str, str] = {}  # headers that the response will have, whatever it is
        self.gone = self.ended = self.writing = False
        self.failure: GatewayError | None = None  # what was told in the midst of a stream
        self._main: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stop: GatewayError | None = None

    async def body(self, most: int) -> bytes:
        """Raises GatewayError 413 for more than `most` bytes, which are read all the same and dropped: a client that is cut off
        while it sends never sees the answer. Raises Gone."""
        message = await self.receive()
        if message["type"] != "http.request":
            raise Gone
        if not message.get("more_body", False) and len(message.get("body", b"")) <= most:
            return message.get("body", b"")
        body, size = bytearray(message.get("body", b"")), len(message.get("body", b""))
        try:
            async with asyncio.timeout(_BODY_WITHIN):
                while message.get("more_body", False):
                    message = await self.receive()
                    if message["type"] != "http.request":
                        raise Gone
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= most:
                        body += part
        except TimeoutError:
            raise GatewayError(408, "timeout", f"the body did not arrive within {_BODY_WITHIN:g} seconds") from None
        if size > most:
            raise GatewayError(413, "too_large", f"the body is larger than {most >> 20} MB")
        return bytes(body)

    # Whoever works on the answer is told when nobody wants it any more

    def watch(self) -> None:
        """From now on the current task is cancelled when the client leaves (`gone`) or the server ends. To be called after the
        body was read."""
        self._main = asyncio.current_task()
        connection = self.scope.get(CONNECTION)
        if connection is not None:  # which tells it: a task for each request only to wait would be a tenth of its cost
            connection.watch(self.leave)
        else:
            self._watcher = asyncio.create_task(self._wait_for_the_end())

    async def _wait_for_the_end(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.leave()

    def leave(self) -> None:
        """Takes the client for gone."""
        if not self.ended and self._main is not None and not self.gone:
            self.gone = True
            self._main.cancel()

    def stop(self, why: GatewayError) -> None:
        """Ends the work; the client is told why."""
        if self._main is not None and self._stop is None and not self.ended:
            self._stop = why
            self._main.cancel()

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        elif (connection := self.scope.get(CONNECTION)) is not None:
            connection.watch(None)

    def why_cancelled(self) -> GatewayError | None:
        """In the handler of a CancelledError: Gone or an error for the client, instead of the cancellation, if it was ours."""
        if (self.gone or self._stop is not None) and self._main is not None:
            self._main.uncancel()
            if self.gone:
                raise Gone from None
        return self._stop

    # The response

    async def begin(self, status: int, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.touched = status, time.monotonic()
        lines = [(b"content-type", kind.encode()), (b"x-request-id", self.id.encode()), (b"request-id", self.id.encode())]
        for given in (self.told, headers or {}):
            lines += [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in given.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": lines})

    async def write(self, data: bytes) -> None:
        self.touched, self.writing = time.monotonic(), True
        await self.send({"type": "http.response.body", "body": data, "more_body": True})
        self.writing = False

    async def end(self, data: bytes = b"") -> None:
        self.ended = True
        await self.send({"type": "http.response.body", "body": data, "more_body": False})

    async def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None, kind: str = JSON) -> None:
        await self.begin(status, kind, {"content-length": str(len(body)), **(headers or {})})
        await self.end(b"" if self.method == "HEAD" else body)

    def json_expected(self) -> None:
        """Raises GatewayError 400 for a body that is declared to be something else. A page of another site that a browser shows
        can send forms and plain text to this machine, but not JSON."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON:
            raise invalid(f"the body must be JSON, sent with Content-Type: {JSON}")
