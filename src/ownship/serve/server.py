"""uvicorn around the application: bounds on what a connection may send before it says what it wants, and an orderly end."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ownship.serve.app import App
from ownship.serve.call import CONNECTION

_HEAD = 64 << 10  # bytes of a request's line and headers
_AT_ONCE = 64 << 10  # bytes that are written at once, whatever else the turn brings
_HEAD_WITHIN = 30.0  # seconds for the first request of a connection to say what it wants
_TOO_LARGE = (b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
              b'content-length: %d\r\n\r\n%b')
_TOO_LARGE_BODY = (b'{"error":{"message":"the headers are larger than 64 KB","type":"invalid_request_error","param":null,'
                   b'"code":null}}')


class _Gathered:
    """A transport whose writes of one turn of the loop go out together: the head of a reply and its body, or the events that an
    upstream sent at once. A system call and a packet for each would take as long as making them."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._waiting: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(data)
        self._size += len(data)
        if self._size > _AT_ONCE:  # whoever writes more is to learn from the transport that it waits
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """The parser keeps a header until it is complete, however long it is; so the bytes are counted here."""

    _reading = -1  # bytes of the head under way; -1 between heads
    _patience: asyncio.TimerHandle | None = None
    _lost = False
    _leave: Callable[[], None] | None = None

    def watch(self, leave: Callable[[], None] | None) -> None:
        """`leave` is called when the client leaves, at once if it has; None: nobody has to know any more."""
        self._leave = leave
        if self._lost and leave is not None:
            leave()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Gathered(transport, self.loop)))
        self._patience = self.loop.call_later(_HEAD_WITHIN, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)
        self._lost = True
        if self._leave is not None:
            self._leave()

    def on_message_begin(self) -> None:
        self._reading = 0
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._reading = -1
        self._calm()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._reading >= 0:
            self._reading += len(data)
            if self._reading > _HEAD and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE % (len(_TOO_LARGE_BODY), _TOO_LARGE_BODY))
                self.transport.close()

    def _calm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class Server(uvicorn.Server):
    """SIGTERM: what is under way gets `drain` seconds. SIGINT, or a second signal: it is told at once that the server ends."""

    def __init__(self, app: App, drain: float, **options: Any) -> None:
        super().__init__(uvicorn.Config(app, http=Protocol, access_log=False, log_config=None, server_header=False,
                                        proxy_headers=False, timeout_graceful_shutdown=5, ws="none", lifespan="on", **options))
        self.app, self.patience = app, drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit or sig == signal.SIGINT:
            self.patience = 0.0
            self.app.until = time.monotonic()
        self.should_exit = True

    def end(self) -> None:
        """As SIGTERM does."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for one in sockets or []:
            one.close()
        await self.app.drain(self.patience)
        await super().shutdown(sockets)
