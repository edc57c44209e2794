"""The books of a store, added up in plain SQL and Python: what the store's own sums are held against."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import sqlalchemy as sa


def check(engine: sa.Engine, limits: dict[str, int] | None = None) -> int:
    """Every balance is the sum of the ledger and of the open reservations of its owner and period; none is above its limit (of
    money, by balance id). Returns how many reservations are open."""
    sums: dict[str, Counter[str]] = {}

    def count(row: sa.Row[tuple[object, ...]], **values: int) -> None:
        day = datetime.fromtimestamp(row.time / 1000, UTC).date().isoformat()
        for owner in (f"key:{row.key}", f"team:{row.team}"):
            for period in (f"day/{day}", f"month/{day[:7]}", "total"):
                sums.setdefault(f"{owner}/{period}", Counter()).update(values)

    with engine.connect() as connection:
        for row in connection.execute(sa.text("SELECT time, key, team, cost, tokens FROM ledger")):
            count(row, money=row.cost, tokens=row.tokens)
        open = connection.execute(sa.text("SELECT time, key, team, money, tokens FROM reservations")).all()
        for row in open:
            count(row, reserved_money=row.money, reserved_tokens=row.tokens)
        balances = connection.execute(sa.text("SELECT * FROM balances")).mappings().all()
    kept = {row["id"]: +Counter({name: value for name, value in row.items() if name != "id"}) for row in balances}
    assert {id: count for id, count in kept.items() if count} == {id: +count for id, count in sums.items() if +count}
    for id, limit in (limits or {}).items():
        assert kept[id]["money"] + kept[id]["reserved_money"] <= limit
    return len(open)


def ledger(engine: sa.Engine) -> list[sa.RowMapping]:
    with engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT * FROM ledger ORDER BY id")).mappings())
