"""Times are milliseconds since 1970 in UTC; budgets renew at midnight UTC, each day or on the first of a month."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, get_args

Period = Literal["day", "month", "total"]
PERIODS: tuple[Period, ...] = get_args(Period)
DAY = 86_400_000


def now() -> int:
    return time.time_ns() // 1_000_000


def date(moment: int) -> datetime:
    return datetime.fromtimestamp(moment / 1000, UTC)


def text(moment: int | None) -> str:
    """2026-11-24 09:30Z; empty for None."""
    return "" if moment is None else f"{date(moment):%Y-%m-%d %H:%M}Z"


def labels(moment: int) -> tuple[str, str, str]:
    """What the periods are called in which a moment lies: day/2026-11-24, month/2026-11, total."""
    return _labels(moment // DAY)


@lru_cache(maxsize=8)
def _labels(day: int) -> tuple[str, str, str]:
    name = f"{date(day * DAY):%Y-%m-%d}"
    return f"day/{name}", f"month/{name[:7]}", "total"


def renews(period: Period, moment: int) -> int | None:
    """When the next period begins; None for the one that never ends."""
    if period == "total":
        return None
    if period == "day":
        return (moment // DAY + 1) * DAY
    today = date(moment)
    first = datetime(today.year + today.month // 12, today.month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp()) * 1000
