"""The one thread of a process that writes to the database. What waits is committed together: a transaction's cost is shared.

While one transaction runs, requests queue; the next takes all of them. Under light load that is one request and no waiting, under
heavy load hundreds. An answer is given only after the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ownship.store import lease, ledger, periods
from ownship.store.database import Turns, error_fields
from ownship.store.ledger import Outcome, Reservation, Settlement

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Reservation | Settlement | Callable[[sa.Connection], Any]
_TOGETHER = 256  # requests in a transaction
# seconds for each request of a transaction until the next one: when there are many, more of them share one; and at most
_PAUSE, _LONGEST_PAUSE = 0.000_25, 0.004
_TRIES = 5  # of a transaction that the database broke off (a deadlock, a lost connection)


class StoreFailed(Exception):
    """The database did not take a write: the disk is full, the server is gone. Nothing was reserved. The log says why."""


class Asked:
    """Something that waits for its transaction. `dropped`: nobody waits any more, and it has not begun."""

    def __init__(self, what: Work, loop: asyncio.AbstractEventLoop | None) -> None:
        self.what, self.loop, self.dropped = what, loop, False
        self.future: Any = Future() if loop is None else loop.create_future()

    def answer(self, result: Any, error: BaseException | None) -> None:
        """In the thread of the loop, if there is one."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Writer:
    """Starts at once; `close` ends it. `idle` is run about every five seconds in a transaction of its own."""

    def __init__(self, engine: sa.Engine, process: lease.Process, idle: Callable[[sa.Connection, int], None]) -> None:
        self.engine, self.process, self.idle = engine, process, idle
        self._queue: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._unsettled: list[Settlement] = []  # that the database would not take: tried again until it does
        self._leased = self._next = 0  # when the lease was last renewed; when it is the next time (milliseconds)
        self._connection: sa.Connection | None = None  # of the thread, once it runs
        self._turns = Turns(engine)
        self._closed = threading.Lock()
        self._open = True
        self._alive(periods.now())  # before the first reservation; raises if the database cannot be written
        self._thread = threading.Thread(target=self._run, name="ownship-store", daemon=True)
        self._thread.start()

    def put(self, what: Work, loop: asyncio.AbstractEventLoop | None = None) -> Asked:
        """Queues a write; its `future` (of asyncio, if a loop is given) is done after the commit. Raises StoreFailed once it
        is closed."""
        asked = Asked(what, loop)
        with self._closed:
            if not self._open:
                raise StoreFailed("the store is closed")
            self._queue.put(asked)
        return asked

    def close(self) -> None:
        """Commits what waits, settles what this process has left under way as lost, and ends the thread."""
        with self._closed:
            if not self._open:
                return
            self._open = False
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            wait = max(self._next - periods.now(), 0) / 1000
            with contextlib.suppress(queue.Empty):
                asked = self._queue.get(timeout=wait)
                batch = []
                while asked is not None:
                    batch.append(asked)
                    if len(batch) == _TOGETHER or self._queue.empty():
                        break
                    asked = self._queue.get()
                self._do(batch)
                if asked is None:
                    break
                time.sleep(min(_PAUSE * len(batch), _LONGEST_PAUSE))
            self._tick()
        try:
            self._write(self._farewell)
        except SQLAlchemyError as error:
            log.error("the store could not be closed cleanly (%s); requests under way are settled at the next start", _kind(error))
        self._disconnect()
        self._turns.close()

    def _tick(self) -> None:
        """The lease, what others left, and the owner's own odds and ends; all of it can wait if the database fails."""
        moment = periods.now()
        if moment < self._next:
            return
        self._next = moment + lease.RENEW
        try:
            self._alive(moment)
            self._write(lambda connection: self.idle(connection, moment))
            if self._unsettled:
                self._write(lambda connection: ledger.commit(connection, [], self._unsettled))
                self._unsettled.clear()
        except Exception as error:  # whatever it is, the thread has to go on
            log.error("the store's database fails (%s); trying again", _kind(error))

    def _alive(self, moment: int) -> None:
        def renewed(connection: sa.Connection) -> int:
            lease.renew(connection, self.process, moment)
            return ledger.recover(connection, self.process, moment)

        if lost := self._write(renewed):
            log.warning("settled %d requests of a process that died: charged what they had reserved", lost)
        self._leased = moment

    def _farewell(self, connection: sa.Connection) -> None:
        ledger.commit(connection, [], self._unsettled)
        lease.leave(connection, self.process)
        ledger.recover(connection, self.process, periods.now())

    def _do(self, batch: list[Asked]) -> None:
        batch = [asked for asked in batch if not asked.dropped]
        together = [asked for asked in batch if not callable(asked.what)]
        if together:
            # after a standstill others may have taken this process for dead: first the lease, then new reservations
            late = periods.now() - self._leased > lease.LEASE // 2
            self._answer(together, self._ledger(together, late))
        for asked in batch:
            if callable(asked.what):
                try:
                    self._answer([asked], [(self._write(asked.what), None)])
                except Exception as error:
                    self._answer([asked], [(None, _shown(error))])

    def _ledger(self, batch: list[Asked], late: bool) -> list[tuple[Any, BaseException | None]]:
        """Result or error of each reservation and settlement."""
        wanted = [asked.what for asked in batch if isinstance(asked.what, Reservation)]
        ended = [asked.what for asked in batch if isinstance(asked.what, Settlement)]
        try:
            if late:
                self._alive(periods.now())
            refused, settled = self._write(lambda connection: ledger.commit(connection, wanted, ended))
        except Exception as error:
            if len(batch) > 1 and not _down(error):  # one of them is at fault, and the others shall not pay for it
                return [self._ledger([asked], False)[0] for asked in batch]
            # tried again later. Whether a reservation was made before the connection broke is not known: one that was is taken
            # back, and taking back one that was not does nothing.
            self._unsettled += [*ended, *(Settlement(one, Outcome("cancelled")) for one in wanted)]
            return [(None, _shown(error))] * len(batch)
        refusals, settlements = iter(refused), iter(settled)
        return [(None, next(refusals)) if isinstance(asked.what, Reservation) else (next(settlements), None) for asked in batch]

    def _write(self, function: Callable[[sa.Connection], T]) -> T:
        """The function in a transaction, again if the database broke that off."""
        for tried in range(1, _TRIES + 1):
            try:
                if self._connection is None:  # kept: the pool takes as long as a transaction of one request
                    self._connection = self.engine.execution_options(ownship_write=True).connect()
                with self._turns, self._connection.begin():
                    return function(self._connection)
            except DBAPIError as error:
                self._disconnect()
                if tried == _TRIES or not _broken_off(error):
                    raise
                time.sleep(0.02 * 2**tried)
        raise AssertionError

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                connection.close()

    def _answer(self, batch: list[Asked], results: list[tuple[Any, BaseException | None]]) -> None:
        """Wakes each loop once, however many of its futures are done."""
        of_loop: dict[asyncio.AbstractEventLoop, list[tuple[Asked, Any, BaseException | None]]] = {}
        for asked, (result, error) in zip(batch, results, strict=True):
            if asked.loop is None:
                asked.answer(result, error)
            else:
                of_loop.setdefault(asked.loop, []).append((asked, result, error))
        for loop, answers in of_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_wake, answers)


def _wake(answers: list[tuple[Asked, Any, BaseException | None]]) -> None:
    for asked, result, error in answers:
        asked.answer(result, error)


def _broken_off(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed now: after a lost connection or a deadlock."""
    return error.connection_invalidated or error_fields(error.orig).get("C") in ("40001", "40P01")


def _down(error: Exception) -> bool:
    """Whether it is the database that fails, and not one request."""
    return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated)


def _kind(error: Exception) -> str:
    """For the log: what failed, never what was written. (Parameters are hidden by the engine, too.)"""
    return type(error.orig if isinstance(error, DBAPIError) and error.orig is not None else error).__name__


def _shown(error: Exception) -> Exception:
    if not isinstance(error, SQLAlchemyError):
        return error
    log.error("the store's database refused a write: %s", _kind(error))
    return StoreFailed("the database did not take the write")
