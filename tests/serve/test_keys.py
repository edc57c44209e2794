"""Keys, budgets, rates, the cache and the ledger, as clients of a running server meet them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import sqlalchemy as sa
from books import check, ledger
from scripted import Scripted
from stage import HELLO, HTTP, Stage, eventually, over, tables

from ownship.gateway.types import Event, Finished, GatewayError, Started, TextDelta, Usage, Used
from ownship.store import budgets, database, keys, periods
from ownship.store.store import Store

WORDS: list[Event] = [Started("theirs", 5), TextDelta(0, "Hel"), TextDelta(0, "lo"), Finished(0, "stop"), Used(Usage(5, 2))]
COST = 5 * 1000 + 2 * 2000  # micro-dollars


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "store.db"))
    yield opened
    opened.close()


def new(store: Store, name: str, **settings: Any) -> str:
    """The secret of a new key."""
    with database.writing(store.engine) as connection:
        return keys.create(connection, name, periods.now(), **settings)[1]


def limit(store: Store, owner: str, unit: budgets.Unit, amount: int) -> None:
    with database.writing(store.engine) as connection:
        budgets.put(connection, owner, unit, "total", amount)


def rows(store: Store, count: int) -> list[sa.RowMapping]:
    eventually(lambda: len(ledger(store.engine)) >= count)
    return ledger(store.engine)


def ask(stage: Stage, secret: str, **options: Any) -> Any:
    return stage.openai(secret).chat.completions.create(**{"model": "a", "messages": HELLO, "max_tokens": 10, **options})


def test_who_is_let_in(store: Store) -> None:
    with over({"a": Scripted(WORDS)}, store=store) as stage:
        assert ask(stage, "whatever").choices[0].message.content == "Hello"  # nobody has made a key yet
        stage.app.admission._asked = 0.0
        secret = new(store, "web")
        assert ask(stage, secret).model == "a"
        assert stage.anthropic(secret).messages.create(model="a", max_tokens=5, messages=HELLO).content
        for wrong in ("none", "own-" + "0" * 48, secret[:-1] + ("0" if secret[-1] != "0" else "1"), secret + "x"):
            for header in ({"authorization": f"Bearer {wrong}"}, {"x-api-key": wrong}, {}):
                for path in ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/tokenize"):
                    assert HTTP.post(stage.url + path, json={}, headers=header).status_code == 401
                for path in ("/v1/models", "/v1/models/a", "/metrics", "/tokenizer_info"):
                    refused = HTTP.get(stage.url + path, headers=header)
                    assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert [HTTP.get(stage.url + path).status_code for path in ("/health", "/ready", "/openapi.json")] == [200] * 3
        with pytest.raises(openai.AuthenticationError) as error:
            ask(stage, "own-" + "0" * 48)
        assert error.value.code == "invalid_api_key"
        with pytest.raises(anthropic.AuthenticationError):
            stage.anthropic("x").messages.create(model="a", max_tokens=5, messages=HELLO)
        with database.writing(store.engine) as connection:
            key = keys.find(connection, "web")
            assert key is not None
            keys.revoke(connection, key, periods.now())
        store.forget_keys()
        with pytest.raises(openai.AuthenticationError):  # the last key is gone, and the door is not open again
            ask(stage, secret)


def test_a_key_ends_and_is_rotated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    short = new(store, "short", expires=periods.now() + periods.DAY)
    old = new(store, "long")
    with over({"a": Scripted(WORDS)}, store=store) as stage:
        ask(stage, short)
        key = asyncio.run(store.admit(old))
        fresh = asyncio.run(store.rotate(key, 0))
        ask(stage, fresh)
        tomorrow = periods.now() + periods.DAY + 1
        monkeypatch.setattr(periods, "now", lambda: tomorrow)
        for secret in (short, old):
            with pytest.raises(openai.AuthenticationError):
                ask(stage, secret)


def test_without_keys_only_this_machines_names_are_answered() -> None:
    """A web page may have its name resolved to 127.0.0.1; the browser says which name that was."""
    with over({"a": Scripted(WORDS)}) as stage:
        port = stage.url.rpartition(":")[2]
        for host, status in ((f"localhost:{port}", 200), ("127.0.0.1", 200), ("[::1]:80", 200), (f"evil.example:{port}", 403),
                             ("127.0.0.1.evil.example", 403), ("", 403)):
            said = HTTP.get(f"{stage.url}/v1/models", headers={"host": host})
            assert said.status_code == status, host


def test_scopes(store: Store) -> None:
    narrow = new(store, "narrow", models=("a*",), endpoints=("chat", "models"))
    near = new(store, "near", privacy="local")
    config = tables(["a", "b"], aliases={"old": "b"})
    with over({"a": Scripted(WORDS), "b": Scripted(WORDS)}, config, store=store) as stage:
        assert [model.id for model in stage.openai(narrow).models.list()] == ["a", "ownship/auto"]
        assert ask(stage, narrow, model="ownship/auto").model == "a"
        for model in ("b", "old"):
            with pytest.raises(openai.NotFoundError):
                ask(stage, narrow, model=model)
        with pytest.raises(openai.PermissionDeniedError) as error:
            stage.openai(narrow).responses.create(model="a", input="x")
        assert error.value.code == "endpoint_not_allowed"
        with pytest.raises(openai.PermissionDeniedError) as error:  # both are public, and this data must not leave
            ask(stage, near)
        assert error.value.code == "privacy"
        with pytest.raises(openai.BadRequestError, match="must stay local"):
            ask(stage, near, model="ownship/auto")
        with pytest.raises(openai.PermissionDeniedError):  # a request may be stricter than its key, never wider
            ask(stage, narrow, extra_headers={"x-ownship-privacy": "company"})
        with pytest.raises(openai.PermissionDeniedError):
            ask(stage, near, extra_headers={"x-ownship-privacy": "public"})
        with pytest.raises(openai.BadRequestError):
            ask(stage, narrow, extra_headers={"x-ownship-privacy": "secret"})


def test_the_ledger_has_a_row_for_each_request(store: Store) -> None:
    secret = new(store, "web")
    scripts: dict[str, Iterable[Event | GatewayError]] = {
        "good": WORDS, "refused": [GatewayError(400, "invalid", "no")],
        "broken": [*WORDS[:3], GatewayError(502, "upstream", "gone")]}
    with over({"a": Scripted(lambda request: scripts[request.user or "good"])}, store=store) as stage:
        raw = stage.openai(secret).chat.completions.with_raw_response.create(model="a", messages=HELLO, max_tokens=10)
        assert raw.headers["x-request-id"].startswith("req_") and raw.headers["x-ownship-model"] == "a"
        assert "was asked for" in raw.headers["x-ownship-why"]
        rows(store, 1)
        with pytest.raises(openai.BadRequestError):
            ask(stage, secret, user="refused")
        rows(store, 2)
        with pytest.raises(openai.APIError):
            list(ask(stage, secret, user="broken", stream=True))
        rows(store, 3)
        stage.openai(secret).completions.create(model="a", prompt=["x", "y"], max_tokens=5)
        found = rows(store, 5)
        assert [row["status"] for row in found] == ["ok", "failed", "failed", "ok", "ok"]
        assert [row["cost"] for row in found] == [COST, 0, COST, COST, COST]
        assert found[0]["request"] == raw.headers["x-request-id"] and found[0]["model"] == found[0]["upstream"] == "a"
        assert found[0]["first_ms"] is not None and found[0]["total_ms"] >= found[0]["first_ms"]
        assert check(store.engine) == 0


def test_who_leaves_pays_for_what_came(store: Store) -> None:
    secret = new(store, "web")
    upstream = Scripted([*WORDS[:3]])
    upstream.endless = True
    with over({"a": upstream}, store=store) as stage:
        stream = ask(stage, secret, stream=True, max_tokens=1000)
        for _, _ in zip(stream, range(20), strict=False):
            pass
        assert check(store.engine) == 1
        stream.close()
        row = rows(store, 1)[0]
        assert row["status"] == "cancelled" and row["prompt"] == 5 and 10 <= row["completion"] <= 1000
        assert row["cost"] == 5_000 + 2_000 * row["completion"]
        eventually(lambda: upstream.closed == 1)
        eventually(lambda: stage.metric("requests_running", secret) == 0)


def test_200_at_once_never_exceed_a_budget(store: Store) -> None:
    """Each may cost 20 times what it does cost: whatever the order, what is charged and reserved stays below the limit."""
    secrets = [new(store, name, team_name="blue") for name in ("one", "two")]
    most = COST * 50
    with store.engine.connect() as connection:
        team = keys.find_team(connection, "blue")
    limit(store, f"team:{team}", "money", most)
    with over({"a": Scripted(WORDS)}, store=store) as stage:
        def one(index: int) -> int:
            body = {"model": "a", "messages": HELLO, "max_tokens": 10, "stream": index % 2 == 0}
            return stage.post("/v1/chat/completions", body, secrets[index % 2]).status_code

        with ThreadPoolExecutor(200) as pool:
            statuses = list(pool.map(one, range(200)))
        while (last := one(1)) == 200:  # what is left is used up one by one
            pass
        assert set(statuses) <= {200, 429} and 200 in statuses and last == 429
        refused = stage.post("/v1/chat/completions", {"model": "a", "messages": HELLO, "max_tokens": 10}, secrets[0])
        assert refused.json()["error"]["code"] == "insufficient_quota" and "budget" in refused.json()["error"]["message"]
        eventually(lambda: check(store.engine) == 0)
        charged = sum(row["cost"] for row in ledger(store.engine))
        assert most - charged < 300_000 and charged <= most  # the rest is less than one request's worst case
        check(store.engine, {f"team:{team}/total": most})


def test_a_budget_bounds_a_reply_and_chooses_who_is_cheap_enough(store: Store) -> None:
    secret = new(store, "web")
    limit(store, "key:1", "money", 2_000_000)
    dear, cheap = Scripted(WORDS), Scripted(WORDS)
    config = tables(["dear", "cheap"], fallbacks={"dear": {"budget": ["cheap"]}})
    low = config.models["cheap"].model_copy(update={"price": config.models["cheap"].price.model_copy(
        update={"input": 1.0, "output": 1.0})})  # type: ignore[union-attr]
    config = config.model_copy(update={"models": {**config.models, "cheap": low}})
    with over({"dear": dear, "cheap": cheap}, config, store=store) as stage:
        raw = stage.openai(secret).chat.completions.with_raw_response.create(model="dear", messages=HELLO)
        assert raw.parse().model == "cheap" and "stands in" in raw.headers["x-ownship-why"]
        assert cheap.requests[0].max_tokens == 4096 and not dear.requests
        assert ask(stage, secret, model="dear").model == "dear"


def test_a_budget_of_tokens(store: Store) -> None:
    secret = new(store, "web")
    limit(store, "key:1", "tokens", 500)
    with over({"a": Scripted(WORDS)}, store=store) as stage:
        assert ask(stage, secret).choices
        with pytest.raises(openai.RateLimitError) as error:
            ask(stage, secret, max_tokens=400)
        assert error.value.code == "insufficient_quota" and "tokens" in error.value.message


def test_requests_a_minute(store: Store) -> None:
    slow, free = new(store, "slow", per_minute=3), new(store, "free")
    with over({"a": Scripted(WORDS)}, store=store) as stage:
        for _ in range(3):
            ask(stage, slow)
        with pytest.raises(openai.RateLimitError) as error:
            ask(stage, slow)
        assert 15 <= int(error.value.response.headers["retry-after"]) <= 20
        for _ in range(5):
            ask(stage, free)


def test_the_cache_is_a_teams_own(store: Store) -> None:
    one, two = (new(store, name, team_name="blue", cache=True) for name in ("one", "two"))
    other = new(store, "other", team_name="red", cache=True)
    plain = new(store, "plain", team_name="blue")
    upstream = Scripted(WORDS)
    with over({"a": upstream}, store=store) as stage:
        def raw(secret: str, **more: Any) -> httpx.Response:
            return stage.post("/v1/chat/completions", {"model": "a", "messages": HELLO, "max_tokens": 5, **more}, secret)

        first = raw(one)
        assert first.headers["x-ownship-cache"] == "miss"
        rows(store, 1)
        again = raw(two)
        assert again.headers["x-ownship-cache"] == "hit" and again.content == first.content and len(upstream.requests) == 1
        row = rows(store, 2)[1]
        assert row["hit"] and row["cost"] == row["tokens"] == 0
        assert raw(other).headers["x-ownship-cache"] == "miss"
        assert "x-ownship-cache" not in raw(plain).headers
        assert raw(one, seed=1).headers["x-ownship-cache"] == "miss"
        assert raw(two, **{"seed": 1}).headers["x-ownship-cache"] == "hit"
        narrow = HTTP.post(f"{stage.url}/v1/chat/completions", json={"model": "a", "messages": HELLO, "max_tokens": 5},
                            headers={"x-api-key": one, "x-ownship-task": "code"})
        assert narrow.headers["x-ownship-cache"] == "miss"
        streamed = [raw(one, stream=True), raw(two, stream=True)]
        assert [response.headers["x-ownship-cache"] for response in streamed] == ["miss", "hit"]
        assert streamed[0].content == streamed[1].content and streamed[1].content.endswith(b"data: [DONE]\n\n")
        upstream.script = lambda request: [*WORDS[:2], GatewayError(502, "upstream", "gone")]
        assert "gone" in raw(one, seed=9, stream=True).text
        upstream.script = lambda request: WORDS
        assert raw(one, seed=9, stream=True).headers["x-ownship-cache"] == "miss"  # what broke off is not kept


def test_commands_see_what_a_running_server_did(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    from ownship import cli

    url = str(store.engine.url.database)
    with over({"a": Scripted(WORDS)}, store=store) as stage:
        assert cli.main(["keys", "create", "shop", "--team", "sales", "--store", url]) == 0
        secret = capsys.readouterr().out.strip()
        assert cli.main(["keys", "budget", "shop", "--money", "1", "--store", url]) == 0
        ask(stage, secret)
        rows(store, 1)
        capsys.readouterr()
        assert cli.main(["usage", "--json", "--store", url]) == 0
        line = json.loads(capsys.readouterr().out)[0]
        assert (line["key"], line["requests"], line["cost"], line["prompt"], line["completion"]) == ("shop", 1, COST, 5, 2)
        assert cli.main(["keys", "revoke", "shop", "--store", url]) == 0
        store.forget_keys()  # else within seconds
        with pytest.raises(openai.AuthenticationError):
            ask(stage, secret)


def test_no_request_is_answered_without_a_ledger(store: Store) -> None:
    secret = new(store, "web")
    upstream = Scripted(WORDS)
    with over({"a": upstream}, store=store) as stage:
        ask(stage, secret)
        store._writer.close()
        with pytest.raises(openai.InternalServerError) as error:
            ask(stage, secret)
        assert error.value.status_code == 503 and len(upstream.requests) == 1


