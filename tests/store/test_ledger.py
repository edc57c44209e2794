"""Budgets by reservation: never over, whoever asks at once; and books that add up, whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import books
import postgres
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ownship.store import budgets, database, keys, lease, ledger, periods
from ownship.store.budgets import OverBudget
from ownship.store.ledger import Outcome, Reservation, Settlement

NOW = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp() * 1000)
MOMENTS = (NOW, NOW + 1000, NOW + periods.DAY, NOW + 8 * periods.DAY)  # the last one is in December
_ids = count(1)


def reservation(key: int, team: int, money: int, tokens: int = 0, moment: int = NOW, process: int = 1) -> Reservation:
    id = next(_ids)
    return Reservation(id, process, moment, f"request-{id}", key, team, "m", money, tokens)


@dataclass
class Oracle:
    """Budgets as one would explain them: everything there is, added up anew for each question."""

    limits: dict[tuple[str, int, str, str], int]  # kind, id, unit, period → amount
    open: list[Reservation] = field(default_factory=list)
    closed: list[tuple[Reservation, int, int]] = field(default_factory=list)  # with money and tokens charged

    def fits(self, new: Reservation) -> bool:
        for (kind, id, unit, period), amount in self.limits.items():
            if (new.key if kind == "key" else new.team) != id:
                continue
            sums = {"money": 0, "tokens": 0}
            for one, money, tokens in [*((one, one.money, one.tokens) for one in self.open), *self.closed]:
                if (one.key if kind == "key" else one.team) == id and _named(one.time, period) == _named(new.time, period):
                    sums["money"] += money
                    sums["tokens"] += tokens
            wanted = {"money": new.money, "tokens": new.tokens}[unit]
            if wanted and sums[unit] + wanted > amount:
                return False
        return True


def _named(moment: int, period: str) -> str:
    date = datetime.fromtimestamp(moment / 1000, UTC)
    return {"day": f"{date:%x}", "month": f"{date:%m %Y}", "total": ""}[period]


AMOUNTS = st.integers(0, 12)
BATCH = st.tuples(
    st.lists(st.tuples(st.integers(0, 1), AMOUNTS, AMOUNTS, st.sampled_from(MOMENTS)), max_size=4),  # key, money, tokens, when
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["ok", "failed", "cancelled", "hit", "twice"]), st.floats(0, 1),
                       st.floats(0, 1)), max_size=3),
    st.booleans())  # whether the process dies after it
LIMITS = st.dictionaries(st.tuples(st.sampled_from(["key", "team"]), st.sampled_from(["money", "tokens"]),
                                   st.sampled_from(["day", "month", "total"])), st.integers(0, 40), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One database for all of a property's examples: each takes keys and a team of its own."""
    url = (str(tmp_path_factory.mktemp("shared") / "store.db") if request.param == "sqlite"
           else postgres.empty(request.getfixturevalue("postgres_server"), "shared"))
    engine = database.connect(url)
    yield engine
    engine.dispose()


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=LIMITS, batches=st.lists(BATCH, min_size=1, max_size=8))
def test_what_fits_is_granted_and_nothing_else(shared: sa.Engine, limits: Any, batches: Any) -> None:
    """Against the oracle, through any history of reservations, ends and deaths; and the books add up after each step."""
    team, ids = next(_ids), [next(_ids), next(_ids)]
    me = replace(lease.this(), id=next(_ids))
    oracle = Oracle({(kind, team if kind == "team" else ids[0], unit, period): amount
                     for (kind, unit, period), amount in limits.items()})
    with database.writing(shared) as connection:
        lease.renew(connection, me, NOW)
        for (kind, id, unit, period), amount in oracle.limits.items():
            budgets.put(connection, f"{kind}:{id}", unit, period, amount)
    for asked, ends, dies in batches:
        ended = []
        for index, how, money, tokens in ends:
            if not oracle.open:
                break
            one = oracle.open.pop(index % len(oracle.open))
            used = Outcome("ok" if how in ("hit", "twice") else how, cost=int(one.money * money), prompt=int(one.tokens * tokens),
                           hit=how == "hit")
            ended += [Settlement(one, used)] * (2 if how == "twice" else 1)
            oracle.closed.append((one, 0, 0) if how == "hit" else (one, used.cost, used.prompt))
        wanted = [reservation(ids[key], team, money, tokens, moment, me.id) for key, money, tokens, moment in asked]
        with database.writing(shared) as connection:
            refused, settled = ledger.commit(connection, wanted, ended)
        assert settled.count(True) == len({each.reservation.id for each in ended})
        for one, refusal in zip(wanted, refused, strict=True):
            assert (refusal is None) == oracle.fits(one), refusal
            if refusal is None:
                oracle.open.append(one)
            else:
                assert 0 <= refusal.left < refusal.wanted
        if dies:
            with database.writing(shared) as connection:
                lease.leave(connection, me)
                assert ledger.recover(connection, lease.this(), NOW) == len(oracle.open)
                lease.renew(connection, me, NOW)
            oracle.closed += [(one, one.money, one.tokens) for one in oracle.open]
            oracle.open.clear()
        with shared.connect() as connection:
            rows = connection.execute(sa.text("SELECT count(*), coalesce(sum(cost), 0), coalesce(sum(tokens), 0) FROM ledger"
                                              " WHERE team = :team"), {"team": team}).one()
        assert tuple(map(int, rows)) == (len(oracle.closed), sum(money for _, money, _ in oracle.closed),
                                         sum(tokens for _, _, tokens in oracle.closed))
    assert books.check(shared) == len(oracle.open)
    with database.writing(shared) as connection:  # for the next example
        lease.leave(connection, me)
        ledger.recover(connection, lease.this(), NOW)


def test_a_refusal_says_what_and_until_when(engine: sa.Engine) -> None:
    with database.writing(engine) as connection:
        budgets.put(connection, "key:1", "money", "day", 5_000_000)
        budgets.put(connection, "team:1", "tokens", "month", 1000)
        budgets.put(connection, "key:2", "money", "total", 10)
        one = reservation(1, 1, 4_880_000, 100)
        refused, _ = ledger.commit(connection, [one, reservation(1, 1, 300_000), reservation(3, 1, 0, 901),
                                                reservation(2, 2, 11)], [])
    assert refused[0] is None
    day, month, total = (refusal for refusal in refused if refusal is not None)
    assert (day.left, day.wanted, day.renews) == (120_000, 300_000, int(datetime(2026, 11, 25, tzinfo=UTC).timestamp() * 1000))
    assert str(day) == ("the key's budget of $5.00 a day has $0.12 left, and this request may take $0.30; it renews at"
                        " 2026-11-25 00:00Z")
    assert (month.left, month.renews) == (900, int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000))
    assert "the team's budget of 1,000 tokens a month" in str(month)
    assert (total.left, total.renews) == (10, None) and "does not renew" in str(total)


def test_a_budget_set_later_counts_what_was_spent(engine: sa.Engine) -> None:
    with database.writing(engine) as connection:
        spent, under_way = reservation(1, 1, 70), reservation(1, 1, 20)
        assert ledger.commit(connection, [spent, under_way], []) == ([None, None], [])
        assert ledger.commit(connection, [], [Settlement(spent, Outcome(cost=60))]) == ([], [True])
        budgets.put(connection, "key:1", "money", "day", 100)
        refused, _ = ledger.commit(connection, [reservation(1, 1, 21), reservation(1, 1, 20)], [])
        assert isinstance(refused[0], OverBudget) and refused[0].left == 20
        assert refused[1] is None
        budgets.put(connection, "key:1", "money", "day", 10)  # lowered below what is spent: nothing more, but what is free
        refused, _ = ledger.commit(connection, [reservation(1, 1, 1), reservation(1, 1, 0)], [])
        assert isinstance(refused[0], OverBudget) and refused[0].left == 0 and refused[1] is None
        budgets.put(connection, "key:1", "money", "day", None)
        assert ledger.commit(connection, [reservation(1, 1, 10**15)], [])[0] == [None]
    assert books.check(engine) == 4


def test_more_than_one_statement_takes(engine: sa.Engine) -> None:
    """200 requests of 100 keys in one transaction, each with a budget that the next one would break."""
    with database.writing(engine) as connection:
        for key in range(100):
            budgets.put(connection, f"key:{key}", "money", "total", 2)
        several = [reservation(at % 100, at % 7, 1, 1) for at in range(200)]
        assert ledger.commit(connection, several, []) == ([None] * 200, [])
        settled = [Settlement(one, Outcome(cost=1, prompt=1)) for one in several]
        refused, ended = ledger.commit(connection, [reservation(at, 0, 1) for at in range(100)], settled + settled[:50])
        assert all(isinstance(refusal, OverBudget) for refusal in refused) and ended == [True] * 200 + [False] * 50
    assert books.check(engine) == 0 and len(books.ledger(engine)) == 200


def test_more_than_was_reserved_is_charged_all_the_same(engine: sa.Engine) -> None:
    """The ledger tells the truth also where the worst case was not."""
    with database.writing(engine) as connection:
        budgets.put(connection, "key:1", "money", "total", 10)
        one = reservation(1, 1, 10, 5)
        ledger.commit(connection, [one], [])
        ledger.commit(connection, [], [Settlement(one, Outcome(cost=12, prompt=4, completion=4))])
        assert ledger.commit(connection, [reservation(1, 1, 1)], [])[0][0] is not None
    row = books.ledger(engine)[0]
    assert (row["cost"], row["tokens"]) == (12, 8)
    assert books.check(engine) == 0


def test_what_a_row_says(engine: sa.Engine) -> None:
    one = replace(reservation(7, 8, 100, 50), asked=ledger.plain("ownship/auto\0\ud800" + "x" * 300))
    with database.writing(engine) as connection:
        ledger.commit(connection, [one], [])
        ledger.commit(connection, [], [Settlement(one, Outcome(
            cost=42, prompt=30, completion=10, cached=20, reasoning=5, upstream="bought", model="large-2026", first_ms=120,
            total_ms=900))])
    row = dict(books.ledger(engine)[0])
    assert row.pop("id") == 1 and row.pop("asked") == ("ownship/auto?" + "x" * 300)[:200]
    assert row == {"time": NOW, "request": one.request, "key": 7, "team": 8, "upstream": "bought", "model": "large-2026",
                   "prompt": 30, "completion": 10, "cached": 20, "reasoning": 5, "tokens": 40, "cost": 42, "status": "ok",
                   "first_ms": 120, "total_ms": 900, "hit": False}


def test_who_is_dead(engine: sa.Engine) -> None:
    """On this machine whoever is gone, at once; elsewhere whoever let the lease run out; never oneself."""
    me = lease.this()
    gone = replace(me, id=2, pid=2**22 + 1)
    reused = replace(me, id=3, started=me.started + 1)  # the number is another process's by now
    elsewhere = replace(me, id=4, host="elsewhere", pid=1)
    alive = replace(me, id=5)
    with database.writing(engine) as connection:
        for process in (me, gone, reused, elsewhere, alive):
            lease.renew(connection, process, NOW)
            ledger.commit(connection, [reservation(1, 1, 10, 3, process=process.id)], [])
        assert ledger.recover(connection, me, NOW + 500) == 2
        assert ledger.recover(connection, me, NOW + lease.LEASE) == 0
        lease.renew(connection, alive, NOW + lease.LEASE)
        assert ledger.recover(connection, me, NOW + lease.LEASE + 1) == 1
        assert ledger.recover(connection, me, NOW + lease.LEASE + 1) == 0
    rows = books.ledger(engine)
    assert [(row["status"], row["cost"], row["tokens"], row["prompt"]) for row in rows] == [("lost", 10, 3, 0)] * 3
    assert {row["total_ms"] for row in rows} == {500, lease.LEASE + 1}
    assert books.check(engine) == 2


def test_one_that_was_taken_for_dead(engine: sa.Engine) -> None:
    """It wakes and settles: the request is in the ledger already, and is not charged again."""
    me, sleeper = lease.this(), replace(lease.this(), id=2, host="elsewhere")
    one = reservation(1, 1, 10, process=2)
    with database.writing(engine) as connection:
        lease.renew(connection, sleeper, NOW)
        ledger.commit(connection, [one], [])
        ledger.recover(connection, me, NOW + lease.LEASE + 1)
        assert ledger.commit(connection, [], [Settlement(one, Outcome(cost=4))]) == ([], [False])
    assert [(row["status"], row["cost"]) for row in books.ledger(engine)] == [("lost", 10)]
    assert books.check(engine) == 0


def test_periods() -> None:
    assert periods.labels(NOW) == ("day/2026-11-24", "month/2026-11", "total")
    december = int(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() * 1000)
    new_year = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)
    assert periods.renews("day", december) == periods.renews("month", december) == new_year
    assert periods.renews("total", december) is None
    assert periods.labels(new_year - 1)[1] == "month/2026-12" and periods.labels(new_year)[1] == "month/2027-01"


def test_out_of_bounds() -> None:
    for bad in (-1, 2**60):
        with pytest.raises(ValueError, match="tokens"):
            ledger.bounded(tokens=bad)


def test_keys_unused_here_have_no_budget(engine: sa.Engine) -> None:
    with database.writing(engine) as connection:
        key, _ = keys.create(connection, "a", NOW)
        assert budgets.status(connection, [f"key:{key.id}"], NOW) == []
