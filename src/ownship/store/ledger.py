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
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from ownship.store import budgets, lease, rows
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


_BALANCE = ("id", "money", "tokens", "reserved_money", "reserved_tokens")
_RESERVATION = ("id", "process", "time", "request", "key", "team", "asked", "money", "tokens")
_ENTRY = ("time", "request", "key", "team", "asked", "upstream", "model", "prompt", "completion", "cached", "reasoning", "tokens",
          "cost", "status", "first_ms", "total_ms", "hit")


def _lock(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Balance]:
    """The balances, this transaction's alone until its end. Always locked in the order of their names, so nobody waits in
    a ring."""
    wanted = sorted(ids)
    made = False
    while True:
        found = {row[0]: Balance(*row[1:]) for row in rows.select(connection, balances, "id", wanted, lock=True)}
        if made or len(found) == len(wanted):
            return found
        rows.insert(connection, balances, _BALANCE, [(id, 0, 0, 0, 0) for id in wanted if id not in found], over=False)
        made = True


def commit(connection: sa.Connection, wanted: Sequence[Reservation], ended: Sequence[Settlement],
           ) -> tuple[list[OverBudget | None], list[bool]]:
    """Settles `ended`, then reserves `wanted` in their order, in the caller's transaction.

    Returns for each wanted one None or why it was refused, and for each ended one whether it was still open: what was settled
    before (a lease that ran out, for instance) is not charged twice.
    """
    held = _lock(connection, {id for one in (*wanted, *(each.reservation for each in ended)) for id in one.balance_ids()})
    still_open = rows.delete(connection, reservations, [each.reservation.id for each in ended]) if ended else set()
    settled = []
    for each in ended:
        settled.append(each.reservation.id in still_open)
        still_open.discard(each.reservation.id)  # given twice, it counts once
    entries = [_entry(each, held) for each, counts in zip(ended, settled, strict=True) if counts]
    limits = budgets.of(connection, {f"{kind}:{id}" for one in wanted for kind, id in (("key", one.key), ("team", one.team))}
                        ) if wanted else {}
    refused = []
    for one in wanted:
        applying = (*limits.get(f"key:{one.key}", ()), *limits.get(f"team:{one.team}", ()))
        refused.append(budgets.refusal(applying, held, one.money, one.tokens, one.time))
        if refused[-1] is None:
            for id in one.balance_ids():
                held[id].reserved_money += one.money
                held[id].reserved_tokens += one.tokens
    granted = [one for one, no in zip(wanted, refused, strict=True) if no is None]
    if granted:
        rows.insert(connection, reservations, _RESERVATION, [
            (one.id, one.process, one.time, one.request, one.key, one.team, one.asked, one.money, one.tokens) for one in granted])
    if entries or granted:
        _write(connection, entries, held)
    return refused, settled


def recover(connection: sa.Connection, me: lease.Process, moment: int) -> int:
    """Settles what dead processes left under way as `lost`, in the caller's transaction; returns how many requests that were."""
    lease.bury(connection, me, moment)
    left = connection.execute(sa.delete(reservations).where(reservations.c.process.not_in(sa.select(processes.c.id)))
                              .returning(*reservations.c)).all()
    if left:
        lost = [Settlement(Reservation(*row), Outcome("lost", total_ms=max(moment - row.time, 0))) for row in left]
        held = _lock(connection, {id for each in lost for id in each.reservation.balance_ids()})
        _write(connection, [_entry(each, held) for each in lost], held)
    return len(left)


def _entry(settlement: Settlement, held: dict[str, Balance]) -> tuple[Any, ...]:
    """The row of the ledger, as _ENTRY; the balances are changed with it."""
    reservation, outcome = settlement
    cost, tokens = charge(reservation, outcome)
    for id in reservation.balance_ids():
        row = held[id]
        row.money += cost
        row.tokens += tokens
        row.reserved_money -= reservation.money
        row.reserved_tokens -= reservation.tokens
    return (reservation.time, reservation.request, reservation.key, reservation.team, reservation.asked, plain(outcome.upstream),
            plain(outcome.model), outcome.prompt, outcome.completion, outcome.cached, outcome.reasoning, tokens, cost,
            outcome.status, outcome.first_ms, outcome.total_ms, outcome.hit)


def _write(connection: sa.Connection, entries: list[tuple[Any, ...]], held: dict[str, Balance]) -> None:
    if entries:
        rows.insert(connection, ledger, _ENTRY, entries)
    rows.insert(connection, balances, _BALANCE, [(id, row.money, row.tokens, row.reserved_money, row.reserved_tokens)
                                                 for id, row in sorted(held.items())], over=True)
