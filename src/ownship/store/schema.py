"""The tables. Times are milliseconds since 1970 in UTC, money is micro-dollars: both integers, so sums are exact.

Nothing a person wrote to a model, or a model to a person, is in any of them but `cache.body`, and that only for keys that asked for
a cache. Of a secret there is a hash and the first characters.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

HEAD = "0002"  # the last migration: a database that is there already needs no alembic to be imported

metadata = MetaData()
_ID = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself in SQLite

teams = Table(
    "teams", metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("created", BigInteger, nullable=False),
)

keys = Table(
    "keys", metadata,
    Column("id", _ID, primary_key=True),
    Column("team", _ID, ForeignKey("teams.id"), nullable=False),
    Column("name", String(100), nullable=False),
    Column("models", Text, nullable=False),  # JSON list of patterns
    Column("endpoints", Text, nullable=False),  # JSON list of patterns
    Column("privacy", String(20), nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("cache", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Column("revoked", BigInteger),
    Column("per_minute", Integer),  # requests; null: as many as it likes
    # a revoked key's name is free again
    Index("keys_name", "name", unique=True, sqlite_where=text("revoked IS NULL"), postgresql_where=text("revoked IS NULL")),
)

secrets = Table(  # a key has one, and while it is rotated two
    "secrets", metadata,
    Column("id", _ID, primary_key=True),
    Column("key", _ID, ForeignKey("keys.id"), nullable=False, index=True),
    Column("hash", String(64), nullable=False, unique=True),  # SHA-256, in hex
    Column("prefix", String(16), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Column("used", BigInteger),  # to about a minute
)

budgets = Table(
    "budgets", metadata,
    Column("owner", String(40), primary_key=True),  # key:12 or team:3
    Column("unit", String(10), primary_key=True),  # money or tokens
    Column("period", String(10), primary_key=True),  # day, month or total
    Column("amount", BigInteger, nullable=False),
)

balances = Table(  # what the ledger and the reservations add up to, for each owner and each of its periods
    "balances", metadata,
    Column("id", String(80), primary_key=True),  # key:12/day/2026-11-24
    Column("money", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("reserved_money", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    CheckConstraint("reserved_money >= 0 AND reserved_tokens >= 0", name="balances_reserved"),
)

processes = Table(  # who may hold reservations
    "processes", metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("lease", BigInteger, nullable=False),  # alive until then, unless it is renewed
)

reservations = Table(  # requests under way
    "reservations", metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("process", BigInteger, nullable=False, index=True),
    Column("time", BigInteger, nullable=False),
    Column("request", String(200), nullable=False),
    Column("key", BigInteger, nullable=False),
    Column("team", BigInteger, nullable=False),
    Column("asked", String(200), nullable=False),
    Column("money", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
)

ledger = Table(  # requests that have ended. Triggers refuse to change or remove a row.
    "ledger", metadata,
    Column("id", _ID, primary_key=True),
    Column("time", BigInteger, nullable=False, index=True),  # when the request began
    Column("request", String(200), nullable=False),
    Column("key", BigInteger, nullable=False),
    Column("team", BigInteger, nullable=False),
    Column("asked", String(200), nullable=False),  # the model as the client named it
    Column("upstream", String(200), nullable=False),
    Column("model", String(200), nullable=False),  # the model that answered
    Column("prompt", BigInteger, nullable=False),
    Column("completion", BigInteger, nullable=False),
    Column("cached", BigInteger, nullable=False),  # among prompt
    Column("reasoning", BigInteger, nullable=False),  # among completion
    Column("tokens", BigInteger, nullable=False),  # charged
    Column("cost", BigInteger, nullable=False),  # charged
    Column("status", String(20), nullable=False),
    Column("first_ms", BigInteger),
    Column("total_ms", BigInteger),
    Column("hit", Boolean, nullable=False),  # answered from our own cache
)

cache = Table(
    "cache", metadata,
    Column("hash", String(64), primary_key=True),
    Column("tenant", String(100), nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False, index=True),
    Column("used", BigInteger, nullable=False, index=True),
)

cache_size = Table(  # one row: the sum of cache.size
    "cache_size", metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("bytes", BigInteger, nullable=False),
)
