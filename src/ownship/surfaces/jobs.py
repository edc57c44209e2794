"""Work that takes seconds, in a bounded queue: who asked sees how far it is, may cancel it, and is told at once when it is full."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ownship.errors import UserError

State = Literal["waiting", "running", "done", "failed", "cancelled"]
Event = dict[str, Any]
KEPT = 200  # jobs that are over and can still be asked for
_KEPT_FOR = 3600.0  # seconds


class Full(Exception):
    """As many jobs wait as may."""


class Cancelled(Exception):
    """Raised inside the work by `Job.note` when nobody wants it any more."""


@dataclass(eq=False)
class Job:
    """One piece of work. `owner` is whoever may see it. Its events are numbered from 0; `result` is there when it is done."""

    work: Callable[[Job], Any]
    owner: str = ""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: State = "waiting"
    events: list[Event] = field(default_factory=list)
    result: Any = None
    error: str = ""
    ended: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _watchers: list[Callable[[], None]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def note(self, event: Event) -> None:
        """Says how far the work is. Raises Cancelled if it is to end."""
        if self.cancelled.is_set():
            raise Cancelled
        with self._changed:
            self.events.append(event)
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher()

    def end(self, state: State) -> None:
        with self._changed:
            if self.over:
                return
            self.state, self.ended = state, time.monotonic()
        self._tell()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits, in a thread, until the job is over; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.over, timeout)

    async def follow(self, start: int = 0) -> AsyncIterator[Event | None]:
        """The events from number `start` on as they come, until the job is over; None where nothing came for 15 seconds."""
        loop, wake = asyncio.get_running_loop(), asyncio.Event()

        def watcher() -> None:
            loop.call_soon_threadsafe(wake.set)

        with self._changed:
            self._watchers.append(watcher)
        try:
            while True:
                wake.clear()
                over = self.over  # before the events: none comes after it
                while start < len(self.events):
                    yield self.events[start]
                    start += 1
                if over:
                    return
                try:
                    await asyncio.wait_for(wake.wait(), 15)
                except TimeoutError:
                    yield None
        finally:
            with self._changed:
                self._watchers.remove(watcher)


class Jobs:
    """A queue with `workers` threads; at most `waiting` jobs wait, and `each` of one owner. `close` it at the end."""

    def __init__(self, waiting: int = 16, each: int = 4, workers: int = 1) -> None:
        self.waiting, self.each = waiting, each
        self._queue: deque[Job] = deque()
        self._running: list[Job] = []
        self._known: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"ownship-job-{index}", daemon=True) for index in range(workers)]
        for thread in self._threads:
            thread.start()

    def put(self, work: Callable[[Job], Any], owner: str = "") -> Job:
        """Queues the work. Raises Full."""
        job = Job(work, owner)
        with self._changed:
            mine = sum(other.owner == owner for other in [*self._queue, *self._running])
            if self._closed or len(self._queue) >= self.waiting or mine >= self.each:
                raise Full
            self._queue.append(job)
            self._known[job.id] = job
            self._forget()
            self._changed.notify()
        return job

    def _forget(self) -> None:
        now = time.monotonic()
        over = [job for job in self._known.values() if job.over]
        for job in over[: max(len(over) - KEPT, 0)] + [job for job in over if now - job.ended > _KEPT_FOR]:
            self._known.pop(job.id, None)

    def get(self, id: str, owner: str = "") -> Job | None:
        """The job of that id, if it is this owner's."""
        with self._changed:
            job = self._known.get(id)
        return job if job is not None and job.owner == owner else None

    def place(self, job: Job) -> int:
        """How many wait before it."""
        with self._changed:
            return self._queue.index(job) if job in self._queue else 0

    def cancel(self, job: Job) -> None:
        """A job that waits is over at once, one that runs at its next note."""
        job.cancelled.set()
        with self._changed:
            waiting = job in self._queue
            if waiting:
                self._queue.remove(job)
        if waiting:
            job.end("cancelled")

    def close(self) -> None:
        """Cancels everything and waits a little for what runs."""
        with self._changed:
            self._closed = True
            left = [*self._queue, *self._running]
            self._changed.notify_all()
        for job in left:
            self.cancel(job)
        for thread in self._threads:
            thread.join(5)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                job = self._queue.popleft()
                self._running.append(job)
                job.state = "running"
            try:
                job.note({"state": "running"})
                job.result = job.work(job)
            except Cancelled:
                job.end("cancelled")
            except UserError as error:
                job.error = str(error)
                job.end("failed")
            except Exception as error:  # the queue goes on; the log says why
                import logging

                logging.getLogger(__name__).exception("a job failed")
                job.error = f"this failed inside ({type(error).__name__}); the server's log says why"
                job.end("failed")
            else:
                job.end("done")
            finally:
                with self._changed:
                    self._running.remove(job)
