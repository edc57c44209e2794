"""Reservations and the ledger: a request's worst case is reserved before it is sent, and whatever becomes of it is one row.

`commit` takes many requests in one transaction. It locks the balances of everyone concerned, decides in memory, and writes: so a
budget holds however many threads and processes share it, and a thousand requests cost a handful of statements.

What is charged:
- a request that ends well, fails or is cancelled: what the caller says was used, also where that is more than was reserved;
- an answer from our own cache: nothing;
- a request whose process died (status `lost`): all that was reserved. What the upstream did with it is not known, only that it was
  not more; a budget is a promise about the bill, and charging less could break it.

A request counts in the day and the month in which it began.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ownship.store import budgets, lease
from ownship.store.budgets import Balance, OverBudget
from ownship.store.schema import balances, ledger, processes, reservations

Status = Literal["ok", "failed", "cancelled", "lost"]
_LONGEST = 200  # characters of a name
_MOST = 2**53


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request under way: at most `money` (micro-dollars) and `tokens` of the budgets of `key` and `team`, since `time`."""

    id: int
    process: int
    time: int
    request: str
    key: int
    team: int
    asked: str
    money: int
    tokens: int

    def balance_ids(self) -> tuple[str, ...]:
        return (*budgets.balance_ids(f"key:{self.key}", self.time), *budgets.balance_ids(f"team:{self.team}", self.time))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. `cost` in micro-dollars; `cached` tokens are among `prompt`, `reasoning` ones among `completion`;
    times in milliseconds from the request's beginning. `hit`: answered from our own cache, so nothing is charged."""

    status: Status = "ok"
    cost: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    upstream: str = ""
    model: str = ""
    first_ms: int | None = None
    total_ms: int | None = None
    hit: bool = False


class Settlement(NamedTuple):
    reservation: Reservation
    outcome: Outcome


def plain(name: str) -> str:
    """A name as both databases take it: no NUL, no half of a surrogate pair, not too long. One odd name must not fail the
    transaction that others share."""
    return name.replace("\0", "").encode("utf-8", "replace").decode()[:_LONGEST]


def bounded(**values: int | None) -> None:
    """Raises ValueError for what is negative or could overflow a sum."""
    for name, value in values.items():
        if value is not None and not 0 <= value <= _MOST:
            raise ValueError(f"{name} must be between 0 and {_MOST:,}, not {value}")


def charge(reservation: Reservation, outcome: Outcome) -> tuple[int, int]:
    """Micro-dollars and tokens that count against the budgets."""
    if outcome.status == "lost":
        return reservation.money, reservation.tokens
    return (0, 0) if outcome.hit else (outcome.cost, outcome.prompt + outcome.completion)


_LOCKED = sa.select(balances).where(balances.c.id.in_(sa.bindparam("ids", expanding=True))).order_by(balances.c.id)
_ENDED = sa.delete(reservations).where(
    reservations.c.id.in_(sa.bindparam("ids", expanding=True))).returning(reservations.c.id)


@lru_cache
def _upserts(dialect: str) -> tuple[Any, Any]:
    """Statements: make the rows that are not there; write rows over."""
    statement: Any = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(balances)
    over = {column.name: statement.excluded[column.name] for column in balances.c if column.name != "id"}
    return statement.on_conflict_do_nothing(), statement.on_conflict_do_update(index_elements=["id"], set_=over)


def _lock(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Balance]:
    """The balances, this transaction's alone until its end. Always locked in the order of their names, so nobody waits in a ring.
    (SQLite locks the whole database when the transaction begins, and leaves FOR UPDATE out.)"""
    wanted = sorted(ids)
    made = False
    while True:
        rows = {row[0]: Balance(*row[1:]) for row in connection.execute(_LOCKED.with_for_update(), {"ids": wanted})}
        if made or len(rows) == len(wanted):
            return rows
        nothing = {"money": 0, "tokens": 0, "reserved_money": 0, "reserved_tokens": 0}
        missing = [{"id": id, **nothing} for id in wanted if id not in rows]
        connection.execute(_upserts(connection.dialect.name)[0], missing)
        made = True


def commit(connection: sa.Connection, wanted: Sequence[Reservation], ended: Sequence[Settlement],
           ) -> tuple[list[OverBudget | None], list[bool]]:
    """Settles `ended`, then reserves `wanted` in their order, in the caller's transaction.

    Returns for each wanted one None or why it was refused, and for each ended one whether it was still open: what was settled
    before (a lease that ran out, for instance) is not charged twice.
    """
    rows = _lock(connection, {id for one in (*wanted, *(each.reservation for each in ended)) for id in one.balance_ids()})
    still_open = _end(connection, [each.reservation.id for each in ended])
    settled = []
    for each in ended:
        settled.append(each.reservation.id in still_open)
        still_open.discard(each.reservation.id)  # given twice, it counts once
    entries = [_entry(each, rows) for each, counts in zip(ended, settled, strict=True) if counts]
    limits = budgets.of(connection, {f"{kind}:{id}" for one in wanted for kind, id in (("key", one.key), ("team", one.team))}
                        ) if wanted else {}
    refused = []
    for one in wanted:
        applying = (*limits.get(f"key:{one.key}", ()), *limits.get(f"team:{one.team}", ()))
        refused.append(budgets.refusal(applying, rows, one.money, one.tokens, one.time))
        if refused[-1] is None:
            for id in one.balance_ids():
                rows[id].reserved_money += one.money
                rows[id].reserved_tokens += one.tokens
    granted = [one for one, no in zip(wanted, refused, strict=True) if no is None]
    if granted:
        connection.execute(sa.insert(reservations), [_row(one) for one in granted])
    if entries or granted:
        _write(connection, entries, rows)
    return refused, settled


def recover(connection: sa.Connection, me: lease.Process, moment: int) -> int:
    """Settles what dead processes left under way as `lost`, in the caller's transaction; returns how many requests that were."""
    lease.bury(connection, me, moment)
    left = connection.execute(sa.delete(reservations).where(reservations.c.process.not_in(sa.select(processes.c.id)))
                              .returning(*reservations.c)).all()
    if left:
        lost = [Settlement(Reservation(*row), Outcome("lost", total_ms=max(moment - row.time, 0))) for row in left]
        rows = _lock(connection, {id for each in lost for id in each.reservation.balance_ids()})
        _write(connection, [_entry(each, rows) for each in lost], rows)
    return len(left)


def _end(connection: sa.Connection, ids: list[int]) -> set[int]:
    return set(connection.execute(_ENDED, {"ids": ids}).scalars()) if ids else set()


def _entry(settlement: Settlement, rows: dict[str, Balance]) -> dict[str, Any]:
    """The row of the ledger; the balances are changed with it."""
    reservation, outcome = settlement
    cost, tokens = charge(reservation, outcome)
    for id in reservation.balance_ids():
        row = rows[id]
        row.money += cost
        row.tokens += tokens
        row.reserved_money -= reservation.money
        row.reserved_tokens -= reservation.tokens
    return {"time": reservation.time, "request": reservation.request, "key": reservation.key, "team": reservation.team,
            "asked": reservation.asked, "upstream": plain(outcome.upstream), "model": plain(outcome.model),
            "prompt": outcome.prompt, "completion": outcome.completion, "cached": outcome.cached,
            "reasoning": outcome.reasoning, "tokens": tokens, "cost": cost, "status": outcome.status,
            "first_ms": outcome.first_ms, "total_ms": outcome.total_ms, "hit": outcome.hit}


def _row(one: Reservation) -> dict[str, Any]:
    return {"id": one.id, "process": one.process, "time": one.time, "request": one.request, "key": one.key, "team": one.team,
            "asked": one.asked, "money": one.money, "tokens": one.tokens}


def _write(connection: sa.Connection, entries: list[dict[str, Any]], rows: dict[str, Balance]) -> None:
    if entries:
        connection.execute(sa.insert(ledger), entries)
    connection.execute(_upserts(connection.dialect.name)[1], [
        {"id": id, "money": row.money, "tokens": row.tokens, "reserved_money": row.reserved_money,
         "reserved_tokens": row.reserved_tokens} for id, row in sorted(rows.items())])
