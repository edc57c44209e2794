"""Replies kept to be given again when exactly the same is asked, within one tenant.

A question is known by a hash over the tenant and the canonical JSON of the request, so no tenant can find, or test for, what
another asked. The size of all replies is bounded; those not used for longest go first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from ownship.store.schema import cache, cache_size

_AT_ONCE = 64


def name(tenant: str, request: Mapping[str, Any]) -> str:
    """The hash that a reply is kept under. `request` is what JSON can say; the order of its fields means nothing."""
    said = json.dumps([tenant, request], sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(said.encode()).hexdigest()


def get(connection: sa.Connection, hashed: str, moment: int) -> bytes | None:
    return connection.execute(sa.select(cache.c.body).where((cache.c.hash == hashed) & (cache.c.expires > moment))).scalar()


def put(connection: sa.Connection, tenant: str, hashed: str, body: bytes, expires: int, moment: int, most: int) -> None:
    """Keeps a reply until `expires`; what is then more than `most` bytes in all goes. A reply larger than a sixteenth of that is
    not kept: it would push out too much."""
    if len(body) > most // 16:
        return
    # the counter's row first: of several processes one at a time changes the cache
    size = connection.execute(sa.update(cache_size).values(bytes=cache_size.c.bytes).returning(cache_size.c.bytes)).scalar_one()
    size -= _drop(connection, cache.c.hash == hashed)
    connection.execute(sa.insert(cache).values(hash=hashed, tenant=tenant, body=body, size=len(body), expires=expires, used=moment))
    size += len(body)
    if size > most:
        size -= _drop(connection, cache.c.expires <= moment)
    while size > most:
        oldest = sa.select(cache.c.hash).where(cache.c.hash != hashed).order_by(cache.c.used, cache.c.hash).limit(_AT_ONCE)
        for row in connection.execute(oldest.add_columns(cache.c.size)).all():
            size -= _drop(connection, cache.c.hash == row.hash)
            if size <= most:
                break
    connection.execute(sa.update(cache_size).values(bytes=size))


def forget(connection: sa.Connection, tenant: str) -> int:
    """Drops all that is kept for a tenant; returns how many bytes that was."""
    gone = _drop(connection, cache.c.tenant == tenant)
    connection.execute(sa.update(cache_size).values(bytes=cache_size.c.bytes - gone))
    return gone


def touch(connection: sa.Connection, used: Iterable[tuple[str, int]]) -> None:
    """Notes when replies were last given again."""
    for hashed, moment in sorted(used):
        connection.execute(sa.update(cache).where(cache.c.hash == hashed).values(used=moment))


def _drop(connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
    return sum(connection.execute(sa.delete(cache).where(which).returning(cache.c.size)).scalars())
