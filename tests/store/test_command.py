"""`ownship keys` and `ownship usage`, as one types them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownship import cli
from ownship.errors import UserError
from ownship.store import command, money
from ownship.store.keys import KeyRefused
from ownship.store.ledger import Outcome
from ownship.store.periods import DAY
from ownship.store.store import Store

Run = Callable[..., str]
NOON = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that succeeds; returns what it printed."""
    monkeypatch.setenv("OWNSHIP_STORE", url)

    def call(*arguments: str, code: int = 0) -> str:
        assert cli.main(list(arguments)) == code
        out, err = capsys.readouterr()
        if code:
            assert out == "" and err.startswith("ownship: ") and err.count("\n") == 1
            return err
        return out

    return call


def test_a_key_s_life(run: Run, url: str) -> None:
    first = run("keys", "create", "web", "--team", "blue", "--models", "own*", "gpt-4o", "--expires", "90d", "--cache").strip()
    assert re.fullmatch("own-[0-9a-f]{48}", first)  # nothing else: KEY=$(ownship keys create web)
    second = run("keys", "rotate", "web", "--overlap", "1h").strip()
    listed = run("keys", "list")
    assert first[:12] in listed and second[:12] in listed and "blue" in listed and "own* gpt-4o" in listed and "never" in listed
    assert first not in listed and second not in listed
    (entry,) = json.loads(run("keys", "list", "--json"))
    assert entry["name"] == "web" and entry["models"] == ["own*", "gpt-4o"] and entry["cache"] and not entry["admin"]
    assert entry["secrets"][0]["expires"] - entry["secrets"][1]["created"] == 3_600_000
    assert entry["expires"] - entry["created"] == 90 * DAY
    assert first[12:] not in json.dumps(entry)

    async def admitted(secret: str) -> str:
        store = Store(url)
        try:
            return (await store.admit(secret)).name
        except KeyRefused as refused:
            return refused.reason
        finally:
            store.close()

    assert [asyncio.run(admitted(secret)) for secret in (first, second)] == ["web", "web"]
    assert "revoked web" in run("keys", "revoke", "web")
    assert asyncio.run(admitted(second)) == "revoked"
    assert "revoked" in run("keys", "list")
    assert "there is no key 'web'" in run("keys", "revoke", "web", code=2)


def test_budgets(run: Run) -> None:
    run("keys", "create", "web", "--team", "blue")
    assert "nothing is limited" in run("keys", "budget", "web")
    assert "$12.50" in run("keys", "budget", "web", "--money", "12.50")
    run("keys", "budget", "web", "--tokens", "1_000_000", "--per", "day")
    shown = run("keys", "budget", "web", "--money", "0.25", "--per", "total")
    assert "a month  $12.50" in shown and "a day    1,000,000 tokens" in shown and "never" in shown
    (team,) = json.loads(run("keys", "budget", "--team", "blue", "--money", "3", "--json"))
    assert (team["unit"], team["period"], team["amount"], team["left"]) == ("money", "month", 3_000_000, 3_000_000)
    run("keys", "budget", "web", "--money", "none")
    assert "$12.50" not in run("keys", "budget", "web")
    for arguments, words in (([], "one of them"), (["web", "--team", "blue"], "one of them"), (["--team", "red"], "no team 'red'"),
                             (["web", "--money", "-1"], "between"), (["web", "--money", "lots"], "12.50"),
                             (["web", "--money", "0.0000001"], "six decimals"), (["web", "--tokens", "1.5"], "--tokens")):
        assert words in run("keys", "budget", *arguments, code=2)


def test_usage(run: Run, url: str) -> None:
    assert "nothing was used" in run("usage")
    run("keys", "create", "web", "--team", "blue")
    secret = run("keys", "create", "app").strip()
    store = Store(url)

    async def use() -> None:
        web = (await store.read(lambda connection: command._key(connection, "web")))
        app = await store.admit(secret)
        for key, when, outcome in (
                (web, NOON, Outcome(cost=10_000, prompt=100, completion=20, cached=50, model="large")),
                (web, NOON + DAY, Outcome("failed", cost=5, prompt=1, model="large")),
                (app, NOON, Outcome(cost=2, prompt=10, completion=3, reasoning=1, model="small")),
                (app, NOON, Outcome(prompt=10, completion=3, model="small", hit=True))):
            await store.settle(await store.reserve(key, "auto", "r", 20_000, 1000, when), outcome)

    asyncio.run(use())
    store.close()

    def lines(*arguments: str) -> Any:
        return [tuple(line.values()) for line in json.loads(run("usage", "--json", *arguments))]

    # requests, failed, hits, prompt, cached, completion, reasoning, tokens, cost
    web, app = (2, 1, 0, 101, 50, 20, 0, 121, 10_005), (2, 0, 1, 20, 0, 6, 1, 13, 2)
    assert lines() == [("web", *web), ("app", *app)]
    assert lines("--by", "team") == [("blue", *web), ("default", *app)]
    assert lines("--by", "model") == [("large", *web), ("small", *app)]
    assert lines("--by", "day") == [("2026-11-24", 3, 0, 1, 120, 50, 26, 1, 133, 10_002), ("2026-11-25", 1, 1, 0, 1, 0, 0, 0, 1, 5)]
    assert lines("--by", "day", "--since", "2026-11-25") == [("2026-11-25", 1, 1, 0, 1, 0, 0, 0, 1, 5)]
    assert lines("--until", "2026-11-24T12:00") == []
    assert json.loads(run("usage", "--json"))[0]["key"] == "web"
    table = run("usage").splitlines()
    assert table[1].split() == ["web", "2", "1", "0", "101", "20", "$0.010005"]
    assert table[3].split() == ["together", "4", "1", "1", "121", "26", "$0.010007"]
    assert "neither a date" in run("usage", "--since", "yesterday", code=2)


def test_mistakes(run: Run) -> None:
    run("keys", "create", "web")
    for arguments, words in ((["create", "web"], "already"), (["create", "a b"], "letter or digit"),
                             (["create", "x", "--team", "-"], "team's name"),
                             (["create", "x", "--expires", "2001-01-01"], "expire"),
                             (["create", "x", "--expires", "soon"], "neither"),
                             (["rotate", "web", "--overlap", "soon"], "--overlap"),
                             (["rotate", "none"], "no key")):
        assert words in run("keys", *arguments, code=2)
    assert run("keys", "list").count("\n") == 2  # what was refused left nothing


@given(st.integers(0, 10**15))
def test_money(micro: int) -> None:
    assert money.parse(money.dollars(micro).replace(",", "")) == micro


def test_money_texts() -> None:
    assert [money.dollars(micro) for micro in (0, 2, 12_500_000, 1_234_567_890_000, -10_000)] == [
        "$0.00", "$0.000002", "$12.50", "$1,234,567.89", "-$0.01"]
    for bad in ("", "x", "nan", "inf", "-1", "1e30", "0.0000001"):
        with pytest.raises(UserError):
            money.parse(bad)
