"""The engine in a thread of its own, beside an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator

from ownship.engine.engine import Engine
from ownship.engine.request import Event, Request
from ownship.errors import UserError


class Busy(Exception):
    """The queue is full."""


class _Stream:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.id: int | None = None

    def put(self, item: Event | Exception) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, item)


class Worker:
    """Owns an engine: only its thread touches it. At most `max_waiting` requests are taken beyond those running."""

    def __init__(self, engine: Engine, max_waiting: int) -> None:
        self.engine, self.limit = engine, max_waiting + engine.max_rows
        self._changed = threading.Condition()
        self._incoming: deque[tuple[Request, _Stream]] = deque()
        self._gone: deque[_Stream] = deque()
        self._streams: dict[int, _Stream] = {}
        self._stopping = False
        self._open = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stream(self, request: Request) -> AsyncIterator[Event]:
        """The events of one request. Leaving the iterator early cancels it: its cache row is free after the next token.

        Raises Busy if the queue is full and UserError if the request can never run.
        """
        if self._open >= self.limit or self._stopping:
            raise Busy
        stream = _Stream()
        self._open += 1
        finished = False
        with self._changed:
            self._incoming.append((request, stream))
            self._changed.notify()
        try:
            while not finished:
                item = await stream.queue.get()
                finished = isinstance(item, Exception) or item.completion is not None
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._open -= 1
            if not finished:
                with self._changed:
                    self._gone.append(stream)
                    self._changed.notify()

    def close(self) -> None:
        """Ends the thread; running requests end with an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._incoming or self._gone or self.engine.busy)
                incoming, gone = list(self._incoming), list(self._gone)
                self._incoming.clear()
                self._gone.clear()
                if self._stopping:
                    for stream in [*self._streams.values(), *(stream for _, stream in incoming)]:
                        stream.put(RuntimeError("the server is shutting down"))
                    return
            for request, stream in incoming:
                try:
                    stream.id = self.engine.submit(request)
                    self._streams[stream.id] = stream
                except UserError as error:
                    stream.put(error)
            for stream in gone:
                if stream.id is not None and self._streams.pop(stream.id, None) is not None:
                    self.engine.cancel(stream.id)
            try:
                events = self.engine.step()
            except Exception as error:  # one broken step must not leave clients waiting for ever
                events = []
                for id, stream in list(self._streams.items()):
                    self.engine.cancel(id)
                    stream.put(RuntimeError(f"the engine failed: {error}"))
                self._streams.clear()
            for event in events:
                if (known := self._streams.get(event.id)) is not None:
                    known.put(event)
                    if event.completion is not None:
                        del self._streams[event.id]
