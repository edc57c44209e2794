"""Replies kept: exactly what was asked, within one team, no more than there is room for."""

from __future__ import annotations

import asyncio
from typing import Any

import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ownship.store import cache, database, keys, schema
from ownship.store.periods import now
from ownship.store.store import Store

JSON: Any = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                         lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def keep(engine: sa.Engine, body: bytes, name: str, moment: int = 0, most: int = 1600, tenant: str = "t") -> None:
    with database.writing(engine) as connection:
        cache.put(connection, tenant, name, body, moment + 1000, moment, most)


def kept(engine: sa.Engine) -> set[str]:
    """The names of what is there; the counter of bytes must be right."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(schema.cache.c.hash, schema.cache.c.body, schema.cache.c.size)).all()
        assert connection.scalar(sa.select(schema.cache_size.c.bytes)) == sum(row.size for row in rows)
        assert all(len(row.body) == row.size for row in rows)
    return {row.hash for row in rows}


def test_who_gets_what(store: Store) -> None:
    with database.writing(store.engine) as connection:
        one, _ = keys.create(connection, "one", now(), cache=True)
        mate, _ = keys.create(connection, "mate", now(), cache=True)
        without, _ = keys.create(connection, "without", now())
        stranger, _ = keys.create(connection, "stranger", now(), cache=True, team_name="others")
    asked = {"model": "m", "messages": [{"role": "user", "content": "Größe?"}], "temperature": 0.0}
    same = {"temperature": 0.0, "messages": [{"content": "Größe?", "role": "user"}], "model": "m"}

    async def run() -> None:
        await store.keep(without, asked, b"of one that did not want it", 60)
        assert await store.cached(one, asked) is None
        await store.keep(one, asked, b"\x00reply\xff", 60, moment=1000)
        assert await store.cached(one, same, moment=60_999) == b"\x00reply\xff"
        assert await store.cached(mate, same, moment=60_999) == b"\x00reply\xff"
        assert await store.cached(one, same, moment=61_000) is None
        for other in ({**asked, "temperature": 0.1}, {**asked, "seed": None}, {**asked, "model": "M"}):
            assert await store.cached(one, other, moment=2000) is None
        for who in (without, stranger):
            assert await store.cached(who, asked, moment=2000) is None
        await store.keep(one, asked, b"newer", 60, moment=2000)
        assert await store.cached(one, asked, moment=3000) == b"newer"
        assert await store.write(lambda connection: cache.forget(connection, str(one.team))) == 5
        assert await store.cached(one, asked, moment=3000) is None

    asyncio.run(run())
    assert kept(store.engine) == set()


def test_room(engine: sa.Engine) -> None:
    """16 replies of 100 bytes fit; the one not used for longest goes first, and what is too large never comes in."""
    for number in range(16):
        keep(engine, b"x" * 100, f"n{number}", moment=number)
    assert len(kept(engine)) == 16
    with database.writing(engine) as connection:
        cache.touch(connection, [("n0", 50)])
    keep(engine, b"x" * 100, "new", moment=60)
    assert kept(engine) == {"n0", "new", *(f"n{number}" for number in range(2, 16))}
    keep(engine, b"x" * 101, "large", moment=61)
    assert "large" not in kept(engine)
    keep(engine, b"y" * 40, "new", moment=62)  # another reply to the same: no more room than it takes
    assert len(kept(engine)) == 16
    keep(engine, b"x" * 100, "later", moment=2000)  # by now the others have expired: they go before anything is counted out
    assert kept(engine) == {"later"}
    for number in range(200):
        keep(engine, b"x" * 10, f"s{number}", moment=3000)
    assert len(kept(engine)) == 160 and "s199" in kept(engine)


@settings(max_examples=50, deadline=None)
@given(JSON, JSON, st.sampled_from(["1", "2"]))
def test_names(one: Any, other: Any, tenant: str) -> None:
    """Two requests have one name if and only if they are the same JSON, of the same tenant."""
    import json

    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (cache.name("1", {"a": one}) == cache.name(tenant, {"a": other})) == (same and tenant == "1")
