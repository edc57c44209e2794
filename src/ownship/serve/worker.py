"""The engine in a thread of its own, beside an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Sequence

from ownship.engine.engine import Engine
from ownship.engine.request import Event, Request


class Busy(Exception):
    """The queue is full."""


class Failed(Exception):
    """The server, not the request, is at fault: it shuts down, or the engine broke."""


class _Stream:
    """The way back from the engine's thread to the event loop that asked."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.ids: list[int] = []
        self._loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[int, Event] | Exception] = asyncio.Queue()

    def put(self, item: tuple[int, Event] | Exception) -> None:
        self._loop.call_soon_threadsafe(self.queue.put_nowait, item)


class Worker:
    """Owns an engine: only its thread touches it. At most `max_waiting` requests are taken beyond those running."""

    def __init__(self, engine: Engine, max_waiting: int) -> None:
        self.engine, self.limit = engine, max_waiting + engine.max_rows
        self._changed = threading.Condition()
        self._incoming: list[_Stream] = []
        self._gone: list[_Stream] = []
        self._streams: dict[int, tuple[_Stream, int]] = {}  # engine's id → who asked, and which of their requests it is
        self._stopping = False
        self._open = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stream(self, requests: Sequence[Request]) -> AsyncGenerator[tuple[int, Event], None]:
        """The events of requests that run side by side, each with the request's place in the list, as they come.

        Closing the generator early cancels what still runs: its cache rows are free after the next token. Raises Busy if
        the queue is full, Failed if the server cannot go on and UserError if a request can never run.
        """
        if self._open + len(requests) > self.limit:
            raise Busy
        stream, left = _Stream(requests), len(requests)
        with self._changed:
            if self._stopping:
                raise Failed("the server is shutting down")
            self._incoming.append(stream)
            self._changed.notify()
        self._open += len(requests)
        try:
            while left:
                item = await stream.queue.get()
                if isinstance(item, Exception):
                    raise item
                left -= item[1].completion is not None
                yield item
        finally:
            self._open -= len(requests)
            if left:
                with self._changed:
                    self._gone.append(stream)
                    self._changed.notify()

    def close(self) -> None:
        """Ends the thread; running requests end with Failed."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._incoming or self._gone or self.engine.busy)
                incoming, self._incoming = self._incoming, []
                gone, self._gone = self._gone, []
                stopping = self._stopping
            if stopping:
                self._fail("the server is shutting down", incoming)
                return
            for stream in incoming:
                self._submit(stream)
            for stream in gone:
                for id in stream.ids:
                    if self._streams.pop(id, None) is not None:
                        self.engine.cancel(id)
            if not self.engine.busy:
                continue
            try:
                events = self.engine.step()
            except Exception as error:  # one broken step must not leave clients waiting for ever
                logging.getLogger(__name__).exception("the engine failed")
                self._fail(f"the engine failed: {error}")
                continue
            for event in events:
                if (known := self._streams.get(event.id)) is not None:
                    stream, index = known
                    stream.put((index, event))
                    if event.completion is not None:
                        del self._streams[event.id]

    def _submit(self, stream: _Stream) -> None:
        try:
            for index, request in enumerate(stream.requests):
                id = self.engine.submit(request)
                stream.ids.append(id)
                self._streams[id] = stream, index
        except Exception as error:  # whoever asked reads it, and cancels those of its requests that were taken
            stream.put(error)

    def _fail(self, reason: str, incoming: Sequence[_Stream] = ()) -> None:
        """Cancels everything, and tells everyone why."""
        for id in self._streams:
            self.engine.cancel(id)
        for stream in {*(stream for stream, _ in self._streams.values()), *incoming}:
            stream.put(Failed(reason))
        self._streams.clear()
