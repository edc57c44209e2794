"""What a key or a team may spend in a day, a month or altogether, in money and in tokens; and what is left of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import sqlalchemy as sa

from ownship.store import rows
from ownship.store.money import dollars
from ownship.store.periods import Period, labels, renews, text
from ownship.store.schema import balances, budgets

Unit = Literal["money", "tokens"]
_PERIOD: dict[str, Period] = {"day": "day", "month": "month", "total": "total"}
_MOST = 2**53  # of micro-dollars and of tokens: sums of a thousand of them still fit in 64 bits


@dataclass(frozen=True, slots=True)
class Budget:
    """`amount` of `unit` (micro-dollars or tokens) per `period` for `owner` (key:12 or team:3)."""

    owner: str
    unit: Unit
    period: Period
    amount: int


@dataclass(slots=True)
class Balance:
    """What was charged in a period, and what requests under way may come to: micro-dollars and tokens."""

    money: int = 0
    tokens: int = 0
    reserved_money: int = 0
    reserved_tokens: int = 0

    def taken(self, unit: Unit) -> int:
        return self.money + self.reserved_money if unit == "money" else self.tokens + self.reserved_tokens


class OverBudget(Exception):
    """A reservation that does not fit. `left` is what the budget still has (never below 0), `renews` when it is full again
    (milliseconds since 1970; None: never)."""

    def __init__(self, budget: Budget, left: int, wanted: int, moment: int) -> None:
        self.budget, self.left, self.wanted, self.renews = budget, max(left, 0), wanted, renews(budget.period, moment)
        kind = budget.owner.split(":")[0]
        span = "in total" if budget.period == "total" else f"a {budget.period}"
        again = "it does not renew" if self.renews is None else f"it renews at {text(self.renews)}"
        super().__init__(f"the {kind}'s budget of {amount(budget.unit, budget.amount)} {span} has {amount(budget.unit, self.left)}"
                         f" left, and this request may take {amount(budget.unit, wanted)}; {again}")


def amount(unit: Unit, value: int) -> str:
    return dollars(value) if unit == "money" else f"{value:,} tokens"


def balance_ids(owner: str, moment: int) -> tuple[str, str, str]:
    """The rows of `balances` that a request of this moment counts in."""
    day, month, total = labels(moment)
    return f"{owner}/{day}", f"{owner}/{month}", f"{owner}/{total}"


def balance_id(budget: Budget, moment: int) -> str:
    return dict(zip(_PERIOD, balance_ids(budget.owner, moment), strict=True))[budget.period]


def refusal(limits: Iterable[Budget], held: Mapping[str, Balance], money: int, tokens: int, moment: int) -> OverBudget | None:
    """The first budget that `money` and `tokens` more would exceed. What costs nothing is never refused."""
    for budget in limits:
        wanted = money if budget.unit == "money" else tokens
        left = budget.amount - held[balance_id(budget, moment)].taken(budget.unit)
        if wanted > max(left, 0):
            return OverBudget(budget, left, wanted, moment)
    return None


def of(connection: sa.Connection, owners: Collection[str]) -> dict[str, list[Budget]]:
    """The budgets of each owner that has any."""
    found: dict[str, list[Budget]] = {}
    for owner, unit, period, most in sorted(rows.select(connection, budgets, "owner", owners)):
        found.setdefault(owner, []).append(Budget(owner, cast(Unit, unit), _PERIOD[period], most))
    return found


def put(connection: sa.Connection, owner: str, unit: Unit, period: Period, most: int | None) -> None:
    """Sets or, with None, removes a budget. What the owner has spent in the period already counts. It holds from the next
    reservation on, in every process."""
    if most is not None and not 0 <= most <= _MOST:
        raise ValueError(f"a budget is between 0 and {_MOST:,}")
    here = (budgets.c.owner == owner) & (budgets.c.unit == unit) & (budgets.c.period == period)
    connection.execute(sa.delete(budgets).where(here))
    if most is not None:
        connection.execute(sa.insert(budgets).values(owner=owner, unit=unit, period=period, amount=most))


def status(connection: sa.Connection, owners: Collection[str], moment: int) -> list[tuple[Budget, Balance]]:
    """Each budget of the owners and how its period stands now."""
    limits = [budget for found in of(connection, owners).values() for budget in found]
    wanted = {balance_id(budget, moment) for budget in limits}
    known = {row[0]: Balance(*row[1:]) for row in rows.select(connection, balances, "id", wanted)}
    return [(budget, known.get(balance_id(budget, moment), Balance())) for budget in limits]
