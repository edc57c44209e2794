"""What the ledger adds up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from ownship.store.periods import DAY, date
from ownship.store.schema import keys, ledger, teams

By = Literal["key", "team", "model", "day"]


@dataclass(frozen=True)
class Line:
    """A group of requests. `tokens` and `cost` (micro-dollars) are what was charged; `failed` ones did not end well."""

    group: str
    requests: int
    failed: int
    hits: int
    prompt: int
    cached: int
    completion: int
    reasoning: int
    tokens: int
    cost: int


def usage(connection: sa.Connection, by: By, since: int | None = None, until: int | None = None, *, key: int | None = None,
          team: int | None = None) -> list[Line]:
    """Requests that began from `since` to before `until` (milliseconds since 1970), grouped; days in order, else the dearest
    first."""
    group: Any = {"key": keys.c.name, "team": teams.c.name, "model": ledger.c.model,
                  "day": ledger.c.time - ledger.c.time % sa.literal_column(str(DAY))}[by]

    def total(column: Any) -> Any:
        return sa.cast(sa.func.coalesce(sa.func.sum(column), 0), sa.BigInteger)

    def count(which: Any) -> Any:
        return total(sa.case((which, 1), else_=0))

    cost = total(ledger.c.cost)
    wanted = sa.select(
        group, sa.func.count(), count(ledger.c.status != "ok"), count(ledger.c.hit), total(ledger.c.prompt),
        total(ledger.c.cached), total(ledger.c.completion), total(ledger.c.reasoning), total(ledger.c.tokens), cost)
    if by == "key":  # by its id: a revoked key's name may be another's by now
        wanted = wanted.join_from(ledger, keys, keys.c.id == ledger.c.key).group_by(keys.c.id, keys.c.name)
    elif by == "team":
        wanted = wanted.join_from(ledger, teams, teams.c.id == ledger.c.team).group_by(teams.c.name)
    else:
        wanted = wanted.group_by(group)
    for limit in ([ledger.c.time >= since] if since is not None else []) + ([ledger.c.time < until] if until is not None else []):
        wanted = wanted.where(limit)
    if key is not None:
        wanted = wanted.where(ledger.c.key == key)
    if team is not None:
        wanted = wanted.where(ledger.c.team == team)
    rows = connection.execute(wanted.order_by(group) if by == "day" else wanted.order_by(cost.desc(), group)).all()
    return [Line(f"{date(row[0]):%Y-%m-%d}" if by == "day" else row[0] or "(none)", *(int(value) for value in row[1:]))
            for row in rows]
