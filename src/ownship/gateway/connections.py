"""HTTP/1.1 to one server over connections that are kept: what the gateway does all day.

httpx looks at every connection of its pool for every request and asks the system about each idle one: 2 ms a request with 64
connections, and more with more. Here the connection that was used last is taken. The parsing is llhttp's, as it is in uvicorn.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable
from functools import cache
from typing import Any

import httptools
import httpx

_KEPT = 4.0  # seconds that a connection may idle: many servers give up after five, and a request must not meet the end
_SPARED = 1.0  # seconds for the last bytes of a reply that nobody reads any more
_MAX_HEAD = 64 << 10  # bytes of a reply's headers
_AHEAD = 256 << 10  # bytes of a reply that are read before anybody asks for them


def head(url: httpx.URL, headers: Iterable[tuple[str, str]]) -> bytes:
    """The beginning of a POST. Raises ValueError for a header that would end its line."""
    lines = [f"POST {url.raw_path.decode('ascii')} HTTP/1.1", f"host: {url.netloc.decode('ascii')}",
             *(f"{name}: {value}" for name, value in headers)]
    if any("\n" in line or "\r" in line for line in lines):
        raise ValueError("a header with a line's end in it")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


@cache
def _trust() -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Late(httpx.TimeoutException):
    """The reply has taken longer than it may."""


class Connections:
    """To the server of `url`. As many connections as there are requests at once. Raises httpx's errors."""

    def __init__(self, url: httpx.URL) -> None:
        self._host, self._ssl = url.host, url.scheme == "https"
        self._port = url.port or (443 if self._ssl else 80)
        self._idle: deque[_Connection] = deque()  # the one used last at the right end
        self._reaper: asyncio.TimerHandle | None = None

    async def post(self, head: bytes, body: bytes, connect: float, silence: float, until: float = math.inf) -> Reply:
        """The reply, once its headers are there. `head` is that of `head()`; `connect` in seconds, and `silence` without a byte.
        At `until` (on the loop's clock) whatever is under way ends, and whoever waits for it gets Late."""
        connection = self._kept() or await self._connect(connect, until)
        reply = connection.ask(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body), silence, until)
        try:
            await reply.begun()
        except BaseException:
            reply.drop()
            raise
        return reply

    async def aclose(self) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
        while self._idle:
            self._idle.pop().transport.abort()

    def _kept(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(now):
                return connection
            connection.transport.abort()
        return None

    async def _connect(self, seconds: float, until: float) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(loop.time() + seconds, until)):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=_trust() if self._ssl else None)
                return connection
        except TimeoutError:
            raise (Late if loop.time() >= until else httpx.ConnectTimeout)("no connection in time") from None
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(type(error).__name__) from None

    def keep(self, connection: _Connection) -> None:
        """It is free for another request."""
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = connection.loop.call_later(_KEPT, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        while self._idle and not self._idle[0].usable(self._idle[0].loop.time()):
            self._idle.popleft().transport.abort()
        if self._idle:
            first = self._idle[0]
            self._reaper = first.loop.call_at(first.touched + _KEPT, self._reap)


class Reply:
    """One reply: its head (names of headers in small letters), then its body as it comes. Its connection goes back to the pool when
    the last byte is there."""

    def __init__(self, connection: _Connection, silence: float, until: float) -> None:
        self.status_code = 0
        self.headers: dict[str, str] = {}
        self.headed = self.whole = False
        self.error: Exception | None = None
        self._connection, self._silence, self._until = connection, silence, until
        self._pieces: list[bytes] = []
        self._ahead = 0
        self._waiter: asyncio.Future[None] | None = None
        self._spared = self._paused = False
        self._timer = connection.loop.call_at(min(connection.touched + silence, until), self._look)

    # For who reads it

    async def begun(self) -> None:
        while not self.headed:
            if self.error is not None:
                raise self.error
            await self._wait()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self.error is not None:
                raise self.error
            if self.whole:
                raise StopAsyncIteration
            await self._wait()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._ahead = 0
        if self._paused:
            self._paused = False
            self._connection.touched = self._connection.loop.time()
            self._connection.transport.resume_reading()
        return piece

    async def aclose(self) -> None:
        if not self._spared:
            self.drop()

    def spare(self) -> None:
        """All that matters has been read: if the end comes soon, the connection can be kept."""
        if not self.whole and self.error is None:
            self._spared = True
            self._timer.cancel()
            self._timer = self._connection.loop.call_later(_SPARED, self.drop)

    def drop(self) -> None:
        """Ends the server's work, if it has not ended."""
        if not self.whole and self.error is None:
            self.fail(httpx.ReadError("given up"))

    async def _wait(self) -> None:
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # For the connection

    def head(self) -> None:
        self.headed = True
        self._wake()

    def body(self, data: bytes) -> None:
        if self._spared:
            return
        self._pieces.append(data)
        self._ahead += len(data)
        if self._ahead > _AHEAD and not self._paused:
            self._paused = True
            self._connection.transport.pause_reading()
        self._wake()

    def end(self) -> None:
        self.whole = True
        self._timer.cancel()
        if self._paused:  # the connection goes on without this reply
            self._paused = False
            self._connection.transport.resume_reading()
        self._wake()

    def fail(self, error: Exception) -> None:
        if self.whole or self.error is not None:
            return
        self.error = error
        self._timer.cancel()
        self._connection.transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look(self) -> None:
        """One timer for the whole reply, set again when it finds that something came meanwhile."""
        now = self._connection.loop.time()
        until = (now if self._paused else self._connection.touched) + self._silence
        if self._until <= now:
            self.fail(Late("too long"))
        elif until <= now:
            self.fail(httpx.ReadTimeout("silence"))
        else:
            self._timer = self._connection.loop.call_at(min(until, self._until), self._look)


class _Connection(asyncio.Protocol):
    """One request at a time. The methods that begin with on_ are the parser's."""

    transport: Any  # asyncio.Transport; uvloop's are not derived from it

    def __init__(self, pool: Connections) -> None:
        self.pool, self.loop = pool, asyncio.get_running_loop()
        self.touched = 0.0  # when the last byte came or went
        self._parser = httptools.HttpResponseParser(self)
        self._reply: Reply | None = None
        self._head = 0  # bytes of the head under way
        self._interim = self._until_end = False

    def usable(self, now: float) -> bool:
        return self.loop is asyncio.get_running_loop() and not self.transport.is_closing() and now - self.touched < _KEPT

    def ask(self, request: bytes, silence: float, until: float) -> Reply:
        self.touched = self.loop.time()
        self._head = 0
        self._reply = reply = Reply(self, silence, until)
        self.transport.write(request)
        return reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.touched = self.loop.time()
        reply = self._reply
        if reply is None:  # nothing was asked
            self.transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            reply.fail(httpx.RemoteProtocolError("not HTTP"))
            self.transport.abort()
            return
        if not reply.headed:
            self._head += len(data)
            if self._head > _MAX_HEAD:
                reply.fail(httpx.RemoteProtocolError("a head without an end"))

    def eof_received(self) -> None:
        if self._reply is not None and self._reply.headed and self._until_end:
            self._reply.end()
            self._reply = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._reply is not None:
            self._reply.fail(httpx.RemoteProtocolError("closed in the midst of a reply") if error is None else
                             httpx.ReadError(type(error).__name__))
            self._reply = None

    def on_message_begin(self) -> None:
        if self._reply is None or self._reply.headed:
            self.transport.abort()  # more than was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None and not self._reply.headed:  # else a trailer
            self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        reply = self._reply
        if reply is None or reply.headed:
            return
        reply.status_code = self._parser.get_status_code()
        self._interim = reply.status_code < 200
        if self._interim:
            reply.headers.clear()
            return
        self._until_end = not reply.headers.keys() & {"content-length", "transfer-encoding"}
        reply.head()

    def on_body(self, data: bytes) -> None:
        if self._reply is not None:
            self._reply.body(data)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None or self._interim:
            return
        self._reply = None
        reply.end()
        if self._parser.should_keep_alive() and not self.transport.is_closing():
            self.pool.keep(self)
        else:
            self.transport.abort()
