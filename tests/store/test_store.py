"""The store under a gateway: many at once, several processes, death at any moment, a database that fails."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import books
import pytest
import sqlalchemy as sa

from ownship.errors import UserError
from ownship.store import budgets, database, keys, lease, schema, writer
from ownship.store.budgets import OverBudget
from ownship.store.keys import Key, KeyRefused
from ownship.store.ledger import Outcome, Reservation
from ownship.store.periods import now
from ownship.store.store import Store
from ownship.store.writer import StoreFailed

HAMMER = str(Path(__file__).with_name("hammer.py"))
CENT = 10_000


def key_with(store: Store, money: int | None = None, name: str = "a", **settings: Any) -> tuple[Key, str]:
    with database.writing(store.engine) as connection:
        key, secret = keys.create(connection, name, now(), **settings)
        if money is not None:
            budgets.put(connection, f"key:{key.id}", "money", "total", money)
    return key, secret


# Many at once


def test_two_hundred_tasks_on_one_budget(store: Store) -> None:
    key, _ = key_with(store, 120 * CENT)

    async def client() -> int:
        """Keeps asking for a cent until it is refused; uses half of what it gets."""
        got = 0
        while True:
            try:
                one = await store.reserve(key, "m", "r", CENT, 0)
            except OverBudget:
                return got
            got += 1
            await asyncio.sleep(0)
            assert await store.settle(one, Outcome(cost=CENT // 2))

    async def run() -> list[int]:
        return await asyncio.gather(*(client() for _ in range(200)))

    granted = sum(asyncio.run(run()))
    assert books.check(store.engine, {f"key:{key.id}/total": 120 * CENT}) == 0
    rows = books.ledger(store.engine)
    assert len(rows) == granted >= 120
    assert sum(row["cost"] for row in rows) == granted * CENT // 2 <= 120 * CENT


def test_two_hundred_reservations_at_once(store: Store) -> None:
    """None of them has settled yet: exactly what fits is granted, to the cent."""
    key, _ = key_with(store, 77 * CENT + CENT // 2)

    async def run() -> list[Any]:
        return await asyncio.gather(*(store.reserve(key, "m", "r", CENT, 0) for _ in range(200)), return_exceptions=True)

    results = asyncio.run(run())
    assert sum(isinstance(result, Reservation) for result in results) == 77
    assert all(result.left == CENT // 2 for result in results if isinstance(result, OverBudget))
    assert books.check(store.engine, {f"key:{key.id}/total": 77 * CENT + CENT // 2}) == 77


def test_two_hundred_threads(store: Store) -> None:
    """Of two keys, whose team has the budget."""
    found = [key_with(store, name=name)[0] for name in ("a", "b")]
    with database.writing(store.engine) as connection:
        budgets.put(connection, f"team:{found[0].team}", "tokens", "day", 900)

    def client(number: int) -> bool:
        try:
            one = store.reserve_now(found[number % 2], "m", "r", CENT, 10)
        except OverBudget:
            return False
        return store.settle_now(one, Outcome(prompt=4, completion=6))

    with ThreadPoolExecutor(200) as threads:
        assert sum(threads.map(client, range(200))) == 90
    assert sum(row["tokens"] for row in books.ledger(store.engine)) == 900
    assert books.check(store.engine) == 0


def test_two_processes_on_one_budget(store: Store, url: str) -> None:
    key, secret = key_with(store, 400 * 1000)
    command = [sys.executable, HAMMER, url, secret, "20", "until refused"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(line.startswith("settled") for lines in said for line in lines) == 400
    rows = books.ledger(store.engine)
    assert [row["cost"] for row in rows] == [1000] * 400
    assert books.check(store.engine, {f"key:{key.id}/total": 400 * 1000}) == 0


# Death


def test_killed_at_any_moment(url: str) -> None:
    """What was acknowledged is there; what was under way is charged as reserved; nothing is there twice; the books add up."""
    store = Store(url)
    key, secret = key_with(store, 10**9)
    store.close()
    reserved, settled = set(), {}
    for death in range(3):
        process = subprocess.Popen([sys.executable, HAMMER, url, secret, "8", "forever"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(1 + 40 * (death + 1)):
            process.stdout.readline()
        time.sleep(random.random() * 0.02)
        process.kill()
        for line in process.stdout.read().splitlines():  # some lines were read above: those are checked by their number below
            words = line.split()
            if words[0] == "reserved" and len(words) == 2:
                reserved.add(words[1])
            elif words[0] == "settled" and len(words) == 3:
                settled[words[1]] = int(words[2])
        process.wait()
        store = Store(url)  # the restart
        assert books.check(store.engine, {f"key:{key.id}/total": 10**9}) == 0
        rows = books.ledger(store.engine)
        lost = [row for row in rows if row["status"] == "lost"]
        assert len(lost) <= 8 * (death + 1)
        assert all((row["cost"], row["tokens"]) == (1000, 10) for row in lost)
        done = {row["model"]: row["cost"] for row in rows if row["status"] == "ok"}
        assert len(done) + len(lost) == len(rows)
        assert settled.items() <= done.items()
        store.close()


def test_closing_settles_what_is_under_way(store: Store, url: str) -> None:
    key, _ = key_with(store)
    other = Store(url)
    other.reserve_now(key, "m", "r", 5, 6)
    assert books.check(store.engine) == 1
    other.close()
    other.close()
    assert books.check(store.engine) == 0
    assert [(row["status"], row["cost"], row["tokens"]) for row in books.ledger(store.engine)] == [("lost", 5, 6)]
    with pytest.raises(StoreFailed, match="closed"):
        other.reserve_now(key, "m", "r", 1, 1)


def test_the_living_settle_for_the_dead(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW", 50)
    store = Store(url)
    key, _ = key_with(store)
    dead = lease.Process(7, "elsewhere", 1, 1)
    with database.writing(store.engine) as connection:
        lease.renew(connection, dead, now() - lease.LEASE - 1)
        one = store.reservation(key, "m", "r", 3, 4, None)
        connection.execute(sa.insert(schema.reservations), [{**{column.name: getattr(one, column.name)
                                                               for column in schema.reservations.c}, "process": 7}])
        connection.execute(sa.insert(schema.balances), [
            {"id": id, "money": 0, "tokens": 0, "reserved_money": 3, "reserved_tokens": 4} for id in one.balance_ids()])
    for _ in range(200):
        if books.ledger(store.engine):
            break
        time.sleep(0.05)
    assert [row["status"] for row in books.ledger(store.engine)] == ["lost"]
    store.close()


# Cancelled callers


def test_a_caller_that_gives_up(store: Store) -> None:
    """Before, during or after its transaction: in the end nothing is reserved."""
    key, _ = key_with(store)

    async def run() -> None:
        for wait in itertools.chain([0] * 5, (random.random() * 0.005 for _ in range(40))):
            task = asyncio.ensure_future(store.reserve(key, "m", "r", 5, 5))
            await asyncio.sleep(wait)
            if not task.cancel():
                await store.cancel(await task)
            await asyncio.gather(task, return_exceptions=True)
        await store.settle(await store.reserve(key, "m", "last", 1, 1), Outcome())

    asyncio.run(run())
    assert books.check(store.engine) == 0
    assert {row["status"] for row in books.ledger(store.engine)} <= {"cancelled", "ok"}
    assert sum(row["cost"] for row in books.ledger(store.engine)) == 0


# A database that fails


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Reserving fails and says so; a settlement that failed is made up for as soon as there is room."""
    monkeypatch.setattr(lease, "RENEW", 100)
    store = Store(str(tmp_path / "store.db"))
    key, _ = key_with(store)
    under_way = [store.reserve_now(key, "m", "r", 5, 5) for _ in range(200)]
    full = True

    @sa.event.listens_for(store.engine, "begin")
    def limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={1 if full else 2**30}")  # 1: as many as there are

    def ends(one: Reservation) -> bool:
        try:
            return store.settle_now(one, Outcome(cost=4, model="x" * 200, upstream="x" * 200))
        except StoreFailed:
            return False

    assert sum(map(ends, under_way)) < 200  # the free pages do not suffice for all
    assert "OperationalError" in caplog.text
    assert books.check(store.engine) > 0
    full = False
    for _ in range(200):
        if len(rows := books.ledger(store.engine)) >= 200:
            break
        time.sleep(0.05)
    assert [row["cost"] for row in rows if row["model"]] == [4] * 200
    store.close()
    engine = database.connect(str(tmp_path / "store.db"))
    assert books.check(engine) == 0
    engine.dispose()


def test_a_database_that_cannot_be_written(url: str) -> None:
    engine = database.connect(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE processes"))
    engine.dispose()
    with pytest.raises(UserError, match=r"cannot be written: .*processes"):
        Store(url)


def test_a_lost_connection(postgres_server: str) -> None:
    """PostgreSQL ends all connections, as on its restart: the next requests do not notice."""
    import postgres

    url = postgres.empty(postgres_server)
    store = Store(url)
    key, _ = key_with(store, 10)
    one = store.reserve_now(key, "m", "r", 5, 5)
    admin = sa.create_engine(store.engine.url, isolation_level="AUTOCOMMIT")
    for _ in range(3):
        with admin.connect() as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                                       " AND pid <> pg_backend_pid()")
        two = store.reserve_now(key, "m", "r", 5, 5)
        assert asyncio.run(store.read(lambda connection: connection.scalar(sa.text("SELECT 1")))) == 1
        assert store.settle_now(two, Outcome())
    assert store.settle_now(one, Outcome(cost=5))
    admin.dispose()
    assert books.check(store.engine) == 0
    store.close()


def test_one_bad_request_does_not_fail_the_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in one transaction; the one at fault is found."""
    key, _ = key_with(store)
    good = [store.reservation(key, "m", "r", 1, 1, None) for _ in range(5)]
    bad = Reservation(good[0].id, 1, now(), "r", key.id, key.team, "m", 1, 1)  # the same id

    async def run() -> list[Any]:
        loop = asyncio.get_running_loop()
        asked = [store._writer.put(one, loop) for one in (*good, bad)]
        return await asyncio.gather(*(each.future for each in asked), return_exceptions=True)

    results = asyncio.run(run())
    assert results[1:5] == [None] * 4 and sum(isinstance(result, StoreFailed) for result in results) == 1
    assert store._writer.put(lambda connection: connection.scalar(sa.text("SELECT count(*) FROM reservations"))
                             ).future.result() == 5


def test_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait share a transaction, and one that is committed has its answer only then."""
    sizes, commit = [], writer.ledger.commit

    def counting(connection: sa.Connection, wanted: Any, ended: Any) -> Any:
        sizes.append(len(wanted) + len(ended))
        time.sleep(0.01)
        return commit(connection, wanted, ended)

    monkeypatch.setattr(writer.ledger, "commit", counting)
    key, _ = key_with(store)

    async def run() -> None:
        made = await asyncio.gather(*(store.reserve(key, "m", "r", 1, 1) for _ in range(500)))
        with store.engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM reservations")) == 500
        await asyncio.gather(*(store.settle(one, Outcome()) for one in made))

    asyncio.run(run())
    assert sum(sizes) == 1000 and max(sizes) == 256 and len(sizes) < 12
    assert books.check(store.engine) == 0


# Keys


def test_changes_hold_at_once_here(store: Store) -> None:
    async def run() -> None:
        key, first = await store.create("a", models=("own*",), endpoints=("chat", "respons?s"), privacy="company")
        found = await store.admit(first)
        assert found == key and found.may_use("ownship") and not found.may_use("gpt")
        assert found.may_call("responses") and not found.may_call("embeddings") and not found.admin
        second = await store.rotate(key, 60_000)
        assert (await store.admit(first)).id == (await store.admit(second)).id == key.id
        with pytest.raises(KeyRefused) as refused:
            await store.admit(first, now() + 60_001)
        assert refused.value.reason == "expired"
        third = await store.rotate(key, 0)
        for old in (first, second):
            with pytest.raises(KeyRefused):
                await store.admit(old)
        await store.admit(third)
        await store.revoke(key)
        with pytest.raises(KeyRefused) as refused:
            await store.admit(third)
        assert refused.value.reason == "revoked"
        for bad in ("", "own-", third[:-1], third + "0", "own-" + "0" * 48, third.upper(), "own-\ud800"):
            with pytest.raises(KeyRefused) as refused:
                await store.admit(bad)
            assert refused.value.reason == "unknown" and str(refused.value) == "the key is not valid"

    asyncio.run(run())


def test_changes_elsewhere_hold_soon(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key, secret = key_with(store)

    async def run() -> None:
        await store.admit(secret)
        with database.writing(store.engine) as connection:
            keys.revoke(connection, key, now())
        assert (await store.admit(secret)).id == key.id  # from memory
        monkeypatch.setattr("ownship.store.store.KNOWN_FOR", 0)
        with pytest.raises(KeyRefused):
            await store.admit(secret)

    asyncio.run(run())


def test_expiry_and_last_use(url: str) -> None:
    store = Store(url)
    key, secret = key_with(store, expires=now() + 1000)

    async def run() -> None:
        await store.admit(secret)
        with pytest.raises(KeyRefused) as refused:
            await store.admit(secret, now() + 1000)
        assert refused.value.reason == "expired"

    before = now()
    asyncio.run(run())
    store.close()
    engine = database.connect(url)
    with engine.connect() as connection:
        ((found, (kept,)),) = keys.everyone(connection)
    assert found == key and kept.used is not None and before <= kept.used <= now()
    assert secret.startswith(kept.prefix) and len(kept.prefix) == 12
    engine.dispose()


def test_a_revoked_name_is_free_again(engine: sa.Engine) -> None:
    with database.writing(engine) as connection:
        key, _ = keys.create(connection, "a", now())
        keys.revoke(connection, key, now())
        again, _ = keys.create(connection, "a", now())
        assert again.id != key.id and keys.find(connection, "a") == again


# Secrets


def test_nothing_secret_is_kept_or_said(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a table, a file, a log, an error or a repr: no secret, no prompt; replies only in the cache's body."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.DEBUG)
    store = Store(url)
    key, secret = key_with(store, 10, cache=True)
    said = [repr(key)]

    async def run() -> str:
        renewed = await store.rotate(key, 60_000)
        await store.admit(secret)
        await store.keep(key, {"messages": "canary-prompt"}, b"canary-reply", 60)
        assert await store.cached(key, {"messages": "canary-prompt"}) == b"canary-reply"
        for bad in (secret[:-1], secret[:-1] + ("0" if secret[-1] != "0" else "1")):
            with pytest.raises(KeyRefused) as refused:
                await store.admit(bad)
            said.append(repr(refused.value))
        with pytest.raises(OverBudget) as over:
            await store.reserve(key, "m", "r", 11, 0)
        said.append(repr(over.value))
        await store.settle(await store.reserve(key, "m", "r", 1, 0), Outcome())
        with pytest.raises(StoreFailed) as failed:  # the row is part of PostgreSQL's message
            await store.write(lambda connection: connection.execute(sa.insert(schema.secrets).values(
                key=key.id, hash="canary-reply", prefix=secret[:12], created=None)))
        said.append(repr(failed.value) + repr(failed.value.__cause__) + repr(failed.value.__context__))
        return renewed

    renewed = asyncio.run(run())
    logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
    tables = {}
    with store.engine.connect() as connection:
        for name, table in schema.metadata.tables.items():
            tables[name] = repr(connection.execute(sa.select(table)).all())
    store.close()
    files = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    everything = "".join(tables.values()) + caplog.text + "".join(said)
    assert "refused a write" in caplog.text  # it did log
    for hidden in (secret, renewed, secret[12:], renewed[12:], secret[12:30], "canary-prompt"):
        assert hidden not in everything
        assert hidden.encode() not in files
    assert "canary-reply" not in everything.replace(tables["cache"], "")
