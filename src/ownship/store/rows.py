"""Statements over many rows whose text is made once for each number of rows.

A transaction of the writer is half a dozen statements. SQLAlchemy takes three times as long for one as the database does, most of
it for a text that was the same the last time. All rows go in one statement: one round trip to PostgreSQL, and one turn without the
interpreter's lock in SQLite, which an event loop in another thread would otherwise take from the writer at each row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

_AT_ONCE = 64  # rows of one statement


def select(connection: sa.Connection, table: sa.Table, column: str, among: Collection[Any], lock: bool = False) -> list[Any]:
    """The rows in which `column` is one of `among`, in its order; with `lock`, this transaction's alone until its end. (SQLite has
    locked the whole database when the transaction began.)"""
    return [row for part in _parts(sorted(among))
            for row in connection.exec_driver_sql(_select(connection.dialect.name, table, column, len(part), lock), tuple(part))]


def delete(connection: sa.Connection, table: sa.Table, ids: Sequence[int]) -> set[int]:
    """Deletes; the ids of the rows that were there."""
    return {row[0] for part in _parts(ids)
            for row in connection.exec_driver_sql(_delete(connection.dialect.name, table, len(part)), tuple(part))}


def insert(connection: sa.Connection, table: sa.Table, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]],
           over: bool | None = None) -> None:
    """`over` says what becomes of rows whose id is there already: True, they are written over; False, they stay."""
    for part in _parts(rows):
        text = _insert(connection.dialect.name, table, columns, len(part), over)
        connection.exec_driver_sql(text, tuple(value for row in part for value in row))


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE))


def _marks(dialect: str, count: int) -> str:
    return "(" + ", ".join(["%s" if dialect == "postgresql" else "?"] * count) + ")"


@lru_cache(1024)
def _select(dialect: str, table: sa.Table, column: str, count: int, lock: bool) -> str:
    columns = ", ".join(each.name for each in table.c)
    return (f"SELECT {columns} FROM {table.name} WHERE {column} IN {_marks(dialect, count)} ORDER BY {column}"
            + (" FOR UPDATE" if lock and dialect == "postgresql" else ""))


@lru_cache(1024)
def _delete(dialect: str, table: sa.Table, count: int) -> str:
    return f"DELETE FROM {table.name} WHERE id IN {_marks(dialect, count)} RETURNING id"


@lru_cache(1024)
def _insert(dialect: str, table: sa.Table, columns: tuple[str, ...], count: int, over: bool | None) -> str:
    text = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES {', '.join([_marks(dialect, len(columns))] * count)}"
    if over is None:
        return text
    written = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "id")
    return f"{text} ON CONFLICT (id) DO " + (f"UPDATE SET {written}" if over else "NOTHING")
