"""The store as the gateway uses it: asks and answers on an event loop that is never blocked, one thread that writes.

    store = Store(database.default())
    key = await store.admit(secret)                                       # raises KeyRefused
    reservation = await store.reserve(key, "model", "request id", money, tokens)  # raises OverBudget
    ...
    await store.settle(reservation, Outcome(cost=…, prompt=…, completion=…))

Every reservation has to be settled, whatever becomes of the request. A change made in this process (revoke, rotate) holds at once;
one made in another process within `KNOWN_FOR` seconds for keys, at once for budgets.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import sqlalchemy as sa

from ownship.errors import UserError
from ownship.store import budgets, cache, database, keys, lease, ledger, periods
from ownship.store.keys import Key, KeyRefused, Secret
from ownship.store.ledger import Outcome, Reservation, Settlement
from ownship.store.writer import StoreFailed, Writer

T = TypeVar("T")
KNOWN_FOR = 5.0  # seconds that a key is taken from memory
_KNOWN = 10_000  # keys in memory
_SECRET = re.compile(rf"{keys.PREFIX}[0-9a-f]{{48}}")
_TOUCHED = 60_000  # milliseconds: the last use of a secret is noted no more often


class Store:
    """An open database. `close` it at the end; a process that dies without is settled by the next one, or by another alive.

    Raises UserError if the database cannot be opened.
    """

    def __init__(self, url: str, cache_bytes: int = 256 << 20) -> None:
        self.engine = database.connect(url)
        self.cache_bytes = cache_bytes
        self.process = lease.this()
        self._known: OrderedDict[str, tuple[float, tuple[Key, Secret] | None]] = OrderedDict()
        self._changes = 0  # of keys in this process: what was read before one is not believed after it
        self._limited: dict[int, tuple[float, bool]] = {}
        self._lock = threading.Lock()
        self._used: dict[int, int] = {}  # secret → when; written when the writer is idle
        self._given: dict[str, int] = {}  # cached reply → when
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="ownship-store-read")
        try:
            self._writer = Writer(self.engine, self.process, self._note)
        except sa.exc.DBAPIError as error:  # it can be read, but not written
            self.engine.dispose()
            raise UserError(f"the database cannot be written: {database.reason(error)}") from None

    def close(self) -> None:
        """Writes what waits; requests still under way are settled as lost. To be called when nothing is asked any more."""
        self._writer.close()
        self._readers.shutdown()
        with contextlib.suppress(sa.exc.SQLAlchemyError), database.writing(self.engine) as connection:
            self._note(connection, periods.now())
        self.engine.dispose()

    # Keys

    async def admit(self, secret: str, moment: int | None = None) -> Key:
        """The key that this secret opens. Raises KeyRefused; StoreFailed if the database is gone."""
        moment = periods.now() if moment is None else moment
        if not _SECRET.fullmatch(secret):
            raise KeyRefused("unknown")
        hashed = keys.digest(secret)
        known = self._known.get(hashed)
        if known is None or time.monotonic() - known[0] > KNOWN_FOR:
            changes = self._changes
            found = await self.read(lambda connection: keys.look_up(connection, hashed))
            self._remember(hashed, found, changes)
        else:
            found = known[1]
        key = keys.admit(found, hashed, moment)
        assert found is not None
        if moment - max(found[1].used or 0, self._used.get(found[1].id, 0)) > _TOUCHED:
            self._used[found[1].id] = moment
        return key

    def _remember(self, hashed: str, found: tuple[Key, Secret] | None, changes: int) -> None:
        with self._lock:
            if changes == self._changes:
                self._known[hashed] = time.monotonic(), found
                self._known.move_to_end(hashed)
                if len(self._known) > _KNOWN:
                    self._known.popitem(last=False)

    def forget_keys(self) -> None:
        """Keys are read from the database again: after a change to one."""
        with self._lock:
            self._changes += 1
            self._known.clear()

    async def create(self, name: str, **settings: Any) -> tuple[Key, str]:
        """A new key and its secret, as `keys.create`."""
        return await self.write(lambda connection: keys.create(connection, name, periods.now(), **settings))

    async def rotate(self, key: Key, overlap: int) -> str:
        """A new secret; the old ones end after `overlap` milliseconds."""
        return await self._changing(lambda connection: keys.rotate(connection, key, overlap, periods.now()))

    async def revoke(self, key: Key) -> None:
        await self._changing(lambda connection: keys.revoke(connection, key, periods.now()))

    async def _changing(self, function: Callable[[sa.Connection], T]) -> T:
        try:
            return await self.write(function)
        finally:
            self.forget_keys()

    async def keyed(self) -> bool:
        """Was ever a key made? From then on nobody is let in without one."""
        return await self.read(keys.any_ever)

    async def limited(self, key: Key) -> bool:
        """Has the key or its team a budget? As it was some `KNOWN_FOR` seconds ago."""
        known = self._limited.get(key.id)
        if known is None or time.monotonic() - known[0] > KNOWN_FOR:
            found = await self.read(lambda connection: budgets.of(connection, (f"key:{key.id}", f"team:{key.team}")))
            known = self._limited[key.id] = time.monotonic(), bool(found)
        return known[1]

    # Requests

    async def reserve(self, key: Key, asked: str, request: str, money: int, tokens: int, moment: int | None = None) -> Reservation:
        """Sets the worst case of a request aside: micro-dollars and tokens (prompt and reply). When this returns it is durable.

        Raises OverBudget, or StoreFailed; then nothing is reserved. If the caller is cancelled meanwhile, nothing is either.
        """
        one = self.reservation(key, asked, request, money, tokens, moment)
        waiting = self._writer.put(one, asyncio.get_running_loop())
        try:
            await waiting.future
        except asyncio.CancelledError:
            waiting.dropped = True  # not to begin; and if it has begun it ends
            with contextlib.suppress(StoreFailed):
                self._writer.put(Settlement(one, Outcome("cancelled")))
            raise
        return one

    def settle(self, reservation: Reservation, outcome: Outcome) -> Awaitable[bool]:
        """Charges what was used, and gives the rest back. It is on its way when this returns; awaiting it waits for the commit
        and says whether the reservation was still open. A write that fails raises StoreFailed and is tried again."""
        waiting = self._writer.put(_settlement(reservation, outcome), asyncio.get_running_loop())
        waiting.future.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody has to await it
        return waiting.future

    def cancel(self, reservation: Reservation) -> Awaitable[bool]:
        """The request was given up before anything was used; its row in the ledger says so."""
        return self.settle(reservation, Outcome("cancelled"))

    def reserve_now(self, key: Key, asked: str, request: str, money: int, tokens: int, moment: int | None = None) -> Reservation:
        """`reserve` for threads: waits."""
        one = self.reservation(key, asked, request, money, tokens, moment)
        self._writer.put(one).future.result()
        return one

    def settle_now(self, reservation: Reservation, outcome: Outcome) -> bool:
        """`settle` for threads: waits."""
        settled: bool = self._writer.put(_settlement(reservation, outcome)).future.result()
        return settled

    def reservation(self, key: Key, asked: str, request: str, money: int, tokens: int, moment: int | None) -> Reservation:
        ledger.bounded(money=money, tokens=tokens)
        return Reservation(random.getrandbits(62), self.process.id, periods.now() if moment is None else moment,
                           ledger.plain(request), key.id, key.team, ledger.plain(asked), money, tokens)

    # Replies kept, for keys that ask for it

    async def cached(self, key: Key, request: Mapping[str, Any], moment: int | None = None) -> bytes | None:
        """What was kept for exactly this request by a key of the same team; None for keys without `cache`."""
        if not key.cache:
            return None
        hashed, moment = cache.name(str(key.team), request), periods.now() if moment is None else moment
        body = await self.read(lambda connection: cache.get(connection, hashed, moment))
        if body is not None:
            self._given[hashed] = moment
        return body

    async def keep(self, key: Key, request: Mapping[str, Any], body: bytes, seconds: float, moment: int | None = None) -> None:
        """Keeps a reply for the team; does nothing for keys without `cache`."""
        if not key.cache:
            return
        tenant, moment = str(key.team), periods.now() if moment is None else moment
        hashed, expires = cache.name(tenant, request), moment + int(seconds * 1000)
        await self.write(lambda connection: cache.put(connection, tenant, hashed, body, expires, moment, self.cache_bytes))

    # Anything else

    async def read(self, function: Callable[[sa.Connection], T]) -> T:
        """The function on a connection in another thread: `usage.usage`, `budgets.status`, …"""

        def run() -> T:
            for last in (False, True):
                try:
                    with self.engine.connect() as connection:
                        return function(connection)
                except sa.exc.SQLAlchemyError as error:
                    if last or not (isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated):
                        raise StoreFailed(f"the database did not answer ({type(error).__name__})") from None
            raise AssertionError

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def write(self, function: Callable[[sa.Connection], T]) -> T:
        """The function in a transaction in the writer's thread: `budgets.put`, `cache.forget`, …"""
        result: T = await self._writer.put(function, asyncio.get_running_loop()).future
        return result

    def _note(self, connection: sa.Connection, moment: int) -> None:
        """In the writer's thread when it is idle: what is only kept to some seconds."""
        used, self._used = self._used, {}
        given, self._given = self._given, {}
        keys.touch(connection, used)
        cache.touch(connection, given.items())


def _settlement(reservation: Reservation, outcome: Outcome) -> Settlement:
    ledger.bounded(cost=outcome.cost, prompt=outcome.prompt, completion=outcome.completion, cached=outcome.cached,
                   reasoning=outcome.reasoning, first_ms=outcome.first_ms, total_ms=outcome.total_ms)
    return Settlement(reservation, outcome)
