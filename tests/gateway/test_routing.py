"""gateway.toml, what things cost, and who is chosen."""

from __future__ import annotations

import asyncio
import json
import random
import tomllib
from dataclasses import replace
from datetime import date
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from faulty import Scripted, Wait, ask, busy, collect, reply, run, text
from hypothesis import given, settings
from hypothesis import strategies as st

from ownship.errors import UserError
from ownship.gateway import prices
from ownship.gateway.config import REACH, Config, load, may_go, parse
from ownship.gateway.routing import Ask, Plan, Router
from ownship.gateway.trace import Trace
from ownship.gateway.types import GatewayError, Image, JSONFormat, Message, Text, Tool, ToolCall, ToolResult, Usage
from ownship.model import zoo
from ownship.model.gguf import GGUF
from ownship.model.tokenizer import from_gguf

EXAMPLE = Path(__file__).parents[2] / "docs" / "gateway.toml"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What docs/gateway.toml refers to, and a copy of it."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "TICKETS_TOKEN"):
        monkeypatch.setenv(name, f"secret-of-{name}")
    monkeypatch.setenv("HOME", str(tmp_path))
    key = tmp_path / ".config" / "ownship" / "cluster.key"
    key.parent.mkdir(parents=True)
    key.write_text("secret-of-the-cluster\n")
    measured = {"own-small": {"general": 0.31}, "gpt": {"code": 0.1, "sums": 0.9}, "unserved": {"general": 0.5}}
    (tmp_path / "quality.json").write_text(json.dumps({"quality": measured}))
    path = tmp_path / "gateway.toml"
    path.write_text(EXAMPLE.read_text())
    return path


def test_the_example_is_read(environment: Path) -> None:
    config = load(environment)
    assert [table.secret() for table in config.upstreams.values()] == [
        None, "secret-of-the-cluster", "secret-of-OPENAI_API_KEY", "secret-of-ANTHROPIC_API_KEY"]
    assert "secret" not in repr(config)
    assert config.upstreams["own"].reach == "local" and config.upstreams["openai"].reach == "public"
    assert config.models["gpt"].quality == {"general": 0.71, "code": 0.74, "sums": 0.9}  # the file's own numbers go first
    assert config.models["own-small"].quality == {"general": 0.31}
    assert config.price("gpt") == prices.listed("gpt-6-sol") and config.price("own-small") == prices.FREE
    assert config.abilities("claude") == {"tools", "images"}
    assert config.mcp["files"].allow == ["read", "search"]


def test_the_example_shows_everything_and_the_true_defaults(environment: Path) -> None:
    shown = tomllib.loads(EXAMPLE.read_text())
    config = load(environment)
    assert set(shown) == set(Config.model_fields)
    for table in ("retry", "breaker", "hedge"):
        assert Config.model_fields[table].default.model_dump() == shown[table]
    assert config.mcp_rounds == Config.model_fields["mcp_rounds"].default
    for kind in ("upstreams", "models", "policies", "mcp"):
        fields = set(type(next(iter(getattr(config, kind).values()))).model_fields)
        rest = {"key", "key_file"}  # one place shows how; a key in the file is for those who must
        assert set().union(*shown[kind].values()) >= fields - rest


SMALL = """
[upstreams.x]
url = "http://x/v1"
[models.m]
upstream = "x"
price = { input = 1, output = 2 }
"""


@pytest.mark.parametrize(("was", "becomes", "says"), [
    ('url = "http://x/v1"', 'ulr = "http://x/v1"', "upstreams.x.ulr is not known; did you mean 'url'?"),
    ("[upstreams.x]", "[upstream.x]", "upstream is not known; did you mean 'upstreams'?"),
    ('upstream = "x"', 'upstream = "y"', "models.m.upstream: 'y' is not known"),
    ("price = { input = 1, output = 2 }", "", "models.m has no price"),
    ("output = 2", "outptu = 2", "models.m.price.outptu is not known; did you mean 'output'?"),
    ("output = 2", "output = -2", "models.m.price.output: input should be greater than or equal to 0"),
    ("output = 2", "output = nan", "models.m.price.output: input should be"),
    ("output = 2", "output = '2'", "models.m.price.output: input should be a valid number"),
    ("[models.m]", '[models."m\\n"]', r"models.'m\n': string should match"),
    ('url = "http://x/v1"', 'url = "ftp://x"', "upstreams.x has a url that is not http"),
    ('url = "http://x/v1"', 'url = "http://me:pass@x"', "key_env"),
    ('url = "http://x/v1"', 'url = "http://x"\nengine = "e"', "upstreams.x has either a url or an engine"),
    ('url = "http://x/v1"', 'engine = "e"\nprivacy = "public"', "upstreams.x with an engine has no wire, no key and no privacy"),
    ('url = "http://x/v1"', 'url = "http://x"\nprivacy = "privat"', "upstreams.x.privacy: input should be 'local', 'company' or"),
    ("[models.m]", "[aliases]\nm2 = 'mm'\n[models.m]", "aliases.m2: 'mm' is not known; did you mean 'm'?"),
    ("[models.m]", "[aliases]\nm = 'm'\n[models.m]", "aliases.m is the name of a model"),
    ("[models.m]", "[fallbacks.m]\nerror = ['n']\n[models.m]", "fallbacks.m.error: 'n' is not known"),
    ("[models.m]", "[fallbacks.m]\nerrors = ['m']\n[models.m]", "fallbacks.m.errors is not known; did you mean 'error'?"),
    ("[models.m]", "[policies.fast]\namong = ['n']\n[models.m]", "policies.fast.among: 'n' is not known"),
    ("[models.m]", "[mcp.t]\ncommand = 'c'\n[models.m]", "mcp.t.allow: field required"),
    ("[models.m]", "[mcp.t]\nallow = []\n[models.m]", "mcp.t has either a url or a command"),
    ("[models.m]", "[models.m", "is not TOML"),
])
def test_a_file_that_cannot_be_meant_is_refused(was: str, becomes: str, says: str, tmp_path: Path) -> None:
    assert was in SMALL
    path = tmp_path / "gateway.toml"
    path.write_text(SMALL)
    load(path)
    path.write_text(SMALL.replace(was, becomes))
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(str(path)) and says in str(caught.value)


def test_no_error_tells_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gateway.toml"
    key = "sk-5up3r5ecret"

    def refused(line: str, mode: int = 0o600) -> str:
        path.write_text(SMALL.replace('url = "http://x/v1"', f'url = "http://x"\n{line}'))
        path.chmod(mode)
        with pytest.raises(UserError) as caught:
            load(path)
        assert key not in str(caught.value)
        return str(caught.value)

    assert "upstreams.x.key stands in a file that others can read" in refused(f'key = "{key}"', 0o644)
    assert "environment variable that is not set" in refused(f'key_env = "{key}"')  # a key in the wrong line
    assert "key_file cannot be read" in refused(f'key_file = "/nowhere/{key}"')
    assert "both set" in refused(f'key = "{key}"\nkey_env = "HOME"')
    assert "characters that no HTTP header can carry" in refused(f'key = "{key} x"')
    refused(f'key = ["{key}"]')
    path.write_text(SMALL.replace('url = "http://x/v1"', f'url = "http://x"\nkey = "{key}"'))
    path.chmod(0o600)
    assert load(path).upstreams["x"].secret() == key


@pytest.mark.parametrize("quality", ["[]", '{"quality": {"m": {"general": 1.5}}}', '{"quality": {"m": {"a\\nb": 0.5}}}', "{", "{}"])
def test_a_bad_quality_file_is_refused(quality: str, tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(quality)
    path = tmp_path / "gateway.toml"
    path.write_text(f'quality_file = "q.json"\n{SMALL}')
    with pytest.raises(UserError, match="quality_file must hold"):
        load(path)


# --- prices ---------------------------------------------------------------------------------------------------------------------


def test_the_price_table_says_when_and_where_it_was_read() -> None:
    table = prices.table()
    assert isinstance(table.date, date) and table.sources["openai"].startswith("https://") and len(table.models) > 20
    for name, price in table.models.items():
        for rate in (price, price.long or price):
            assert 0 < rate.cached <= rate.input <= rate.written < rate.output < prices.micro(1000), name
        assert price.long is None or (price.above > 0 and price.long.input > price.input and price.long.output > price.output)
    assert prices.listed("gpt-4o-2024-08-06") == prices.listed("gpt-4o") == prices.price(2.5, 10.0, 1.25)
    assert prices.listed("claude-opus-4-5-20251101") is not None
    assert prices.listed("gpt-4o-2024") is prices.listed("") is None


@given(st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 2 * 10**6), st.integers(0, 10**6),
       st.integers(0, 10**5))
def test_costs_are_exact(rate_in: int, rate_out: int, prompt: int, cached: int, written: int, completion: int) -> None:
    long = prices.Price(2 * rate_in, 3 * rate_out, rate_in, 3 * rate_in)
    price = prices.Price(rate_in, rate_out, rate_in // 10, 2 * rate_in, 200_000, long)
    rate = price if prompt <= 200_000 else long
    had = min(prompt, cached)
    kept = min(prompt - had, written)
    rows = ((rate.input, prompt - had - kept), (rate.cached, had), (rate.written, kept), (rate.output, completion))
    exact = ceil(sum(Fraction(each, 10**6) * tokens for each, tokens in rows))
    assert prices.cost(price, Usage(prompt, completion, cached, written=written)) == exact
    assert exact <= prices.worst_case(price, prompt, completion)


@given(st.integers(0, 10**12))
def test_dollars_in_a_file_are_read_exactly(millionths: int) -> None:
    assert prices.micro(float(f"{millionths // 10**6}.{millionths % 10**6:06d}")) == millionths


def test_a_price_is_what_the_provider_would_charge() -> None:
    price = prices.listed("claude-haiku-5-5")
    assert price is not None
    assert prices.cost(price, Usage(1_000_000, 1_000_000)) == 3_000_000  # above 100,000 tokens of prompt: 0.50 + 2.50 dollars
    assert prices.cost(price, Usage(100_000, 0, 90_000)) == 1_000 + 900  # 10,000 at 0.10, 90,000 at 0.01
    assert prices.cost(price, Usage(100_000, 0, 0, 0, 100_000)) == 12_500
    assert prices.worst_case(price, 100_000, 1_000, n=4) == 12_500 + 4 * 500


def test_the_estimate_of_a_prompt_is_not_too_small() -> None:
    path = zoo.resolve(zoo.DEFAULT)
    tokenizer = from_gguf(GGUF(path).meta, path)
    samples = [Path(__file__).read_text(), EXAMPLE.read_text(), "The quick brown fox jumps over the lazy dog. " * 50]
    for sample in samples:
        tokens = len(tokenizer.encode(sample))
        request = ask()
        request = replace(request, messages=(Message("user", (Text(sample),)),))
        assert tokens <= prices.estimate(request) < 3 * tokens
        assert prices.estimate(replace(request, messages=(), prompt=sample)) >= tokens
    call = (Message("assistant", (ToolCall("1", "f", '{"a": 1}'),)), Message("tool", (ToolResult("1", (Text("x" * 300),)),)))
    assert prices.estimate(replace(ask(), messages=call, tools=(Tool("f", "d" * 300),))) > 200
    assert prices.estimate(replace(ask(), messages=(), prompt=(1, 2, 3))) == 3
    assert prices.estimate(replace(ask(), messages=(Message("user", (Image("http://x"),)),))) > 1000


# --- who is chosen --------------------------------------------------------------------------------------------------------------

THREE: dict[str, Any] = {
    "upstreams": {"here": {"engine": "e"}, "ours": {"url": "http://ours", "privacy": "company"}, "bought": {"url": "http://bought"}},
    "models": {
        "small": {"upstream": "here", "context": 2000, "quality": {"general": 0.3}},
        "middle": {"upstream": "ours", "context": 8000, "price": {"input": 1, "output": 2},
                   "quality": {"general": 0.5, "code": 0.1}},
        "large": {"upstream": "bought", "price": {"input": 10, "output": 50}, "quality": {"general": 0.9},
                  "can": ["tools", "images"]}}}


def router(**more: Any) -> tuple[Router, dict[str, Scripted]]:
    upstreams = {name: Scripted([reply(f"from {name}")]) for name in THREE["upstreams"]}
    return Router(parse({**THREE, **more}), upstreams, random.Random(0)), upstreams


def choose(model: str, about: Ask | None = None, request: dict[str, Any] | None = None, **more: Any) -> tuple[list[str], Plan]:
    async def main() -> Plan:
        return router(**more)[0].plan(ask(model, **(request or {})), about or Ask())

    plan = run(main())
    return [route.name for route, _ in plan.routes], plan


def refused(model: str, about: Ask | None = None, request: dict[str, Any] | None = None, **more: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        choose(model, about, request, **more)
    return caught.value


def test_names() -> None:
    assert choose("small")[0] == ["small"]
    assert choose("nick", aliases={"nick": "middle"})[0] == ["middle"]
    assert choose("nick", aliases={"nick": "ownship/auto"})[0][0] == "large"
    error = refused("smal")
    assert error.status == 404 and error.code == "model_not_found"
    assert refused("ownship/none").status == 404
    assert refused("small", Ask(models=frozenset({"large"}))).status == 404  # what a key may not use, it need not know of

    async def main() -> list[str]:
        return router(aliases={"nick": "middle", "deep": "large"})[0].names(Ask(privacy="company"))

    assert run(main()) == ["small", "middle", "nick", "ownship/auto"]


def test_data_that_must_not_leave_never_leaves() -> None:
    fallbacks = {"small": {"error": ["large", "middle"]}}
    assert choose("small", Ask("public"), fallbacks=fallbacks)[0] == ["small", "large", "middle"]
    assert choose("small", Ask("company"), fallbacks=fallbacks)[0] == ["small", "middle"]
    names, plan = choose("small", Ask("local"), fallbacks=fallbacks)
    assert names == ["small"] and dict(plan.skipped)["large"] == "is public, and this data must stay local"
    error = refused("large", Ask("company"))
    assert error.status == 403 and error.code == "privacy"
    assert choose("ownship/auto", Ask("local"))[0] == ["small"]
    assert choose("ownship/in", policies={"in": {"privacy": "company"}})[0] == ["middle", "small"]
    assert refused("ownship/auto", Ask("local"), {"messages": (Message("user", (Image("data:,"),)),)}).status == 400


def test_auto_takes_who_can() -> None:
    assert choose("ownship/auto", request={"logprobs": 1})[0] == ["middle", "small"]
    assert choose("ownship/auto", request={"format": JSONFormat()})[0] == ["middle", "small"]
    assert choose("ownship/auto", request={"messages": (), "prompt": "x"})[0] == ["small"]
    image = (Message("tool", (ToolResult("1", (Image("data:,"),)),)),)
    assert choose("ownship/auto", request={"messages": image})[0] == ["large"]
    assert choose("ownship/auto", Ask(prompt=7000, privacy="company"))[0] == ["middle"]
    assert choose("ownship/auto", Ask(prompt=1900, privacy="company"), {"max_tokens": 200})[0] == ["middle"]
    assert choose("ownship/auto", Ask(prompt=50_000))[0] == ["large"]
    error = refused("ownship/auto", Ask(prompt=50_000, privacy="company"))
    assert error.code == "no_suitable_model" and "small has room for 2000 tokens, not 50001" in error.message
    # who is asked for by name says itself what it cannot do, but stands in only for what it can
    assert choose("small", request={"messages": image})[0] == ["small"]
    assert choose("large", request={"messages": image}, fallbacks={"large": {"error": ["small"]}})[0] == ["large"]


def test_auto_weighs_quality_price_and_speed() -> None:
    def first(policy: dict[str, Any], about: Ask | None = None) -> str:
        return choose("ownship/p", about, policies={"p": policy})[0][0]

    about = Ask(prompt=1000)  # large: 1 cent in, 2 cents out; middle: 0.18 cents
    assert first({}, about) == "large"
    assert first({"cents": 0.2}, about) == "middle"
    assert first({"cents": 2.0}, about) == "small"
    assert first({"cents": 0.2, "task": "code"}, about) == "small"  # at code the middle one is worse
    assert first({"cents": 0.2}, replace(about, task="code")) == "small"
    assert first({"max_cents": 1.0}, about) == "middle"
    assert first({"among": ["small", "middle"]}, about) == "middle"
    assert choose("ownship/p", about, policies={"p": {"min_quality": 0.4}})[0] == ["large", "middle"]

    async def slow() -> tuple[Plan, Plan]:
        door, _ = router(policies={"p": {"seconds": 0.1}, "q": {"max_seconds": 5.0}})
        for name, seconds in (("small", 1.0), ("middle", 1.5), ("large", 9.0)):
            door.speeds[name].saw_first(seconds)
        return door.plan(ask("ownship/p"), about), door.plan(ask("ownship/q"), about)

    weighed, bounded = run(slow())
    assert weighed.routes[0][0].name == "middle"
    assert [route.name for route, _ in bounded.routes] == ["middle", "small"]
    assert bounded.skipped == (("large", "takes 9 s"),)


def test_auto_says_which_and_why() -> None:
    async def main() -> tuple[Trace, Trace]:
        door, upstreams = router()
        traces = []
        for privacy in ("public", "company"):
            plan = door.plan(ask("ownship/auto"), Ask(privacy=privacy, prompt=1000))  # type: ignore[arg-type]
            traces.append(Trace(plan.asked))
            await collect(door.stream(plan, traces[-1]))
        assert upstreams["bought"].requests[0].model == "large"
        return traces[0], traces[1]

    first, second = run(main())
    assert first.headers() == {
        "x-ownship-attempts": "1", "x-ownship-model": "large", "x-ownship-upstream": "bought",
        "x-ownship-why": "ownship/auto chose large, score 0.750: quality 0.90 (general), 3 cents, 0 s (not measured yet); "
                         "next middle, score 0.491"}
    assert second.why.endswith("left out: large (is public, and this data must stay company)")
    assert all(value.isascii() and value.isprintable() for trace in (first, second) for value in trace.headers().values())
    record = second.record()
    assert json.loads(json.dumps(record)) == {**record, "skipped": [["large", "is public, and this data must stay company"]]}
    assert "hi" not in record.values() and record["attempts"][0]["outcome"] == "ok"


def test_a_label_from_a_client_reaches_no_header() -> None:
    plan = choose("ownship/auto", Ask(task="x\r\nset-cookie: y"))[1]
    assert "cookie" not in plan.why and plan.why.isprintable()


def test_auto_asks_last_who_is_known_to_be_down() -> None:
    async def main() -> list[str]:
        door, upstreams = router(retry={"attempts": 1}, breaker={"minimum": 2})
        upstreams["bought"].scripts = [[busy(500)]]
        answers = []
        for _ in range(3):
            plan = door.plan(ask("ownship/auto"), Ask())
            answers.append(f"{plan.routes[0][0].name}: {text(await collect(door.stream(plan, Trace(plan.asked))))}")
        return answers

    assert run(main()) == ["large: from ours", "large: from ours", "middle: from ours"]


def test_budgets() -> None:
    request = {"max_tokens": 1000}
    plan = choose("large", Ask(prompt=100), request)[1]
    assert plan.worst == 1_000 + 50_000
    assert choose("large", Ask(prompt=100, money=51_000), request)[0] == ["large"]
    error = refused("large", Ask(prompt=100, money=50_999), request)
    assert error.status == 429 and error.code == "insufficient_quota" and "0.051000 dollars" in error.message
    fallbacks = {"large": {"budget": ["middle", "small"], "error": ["small"]}}
    names, plan = choose("large", Ask(prompt=100, money=50_999), request, fallbacks=fallbacks)
    assert names == ["middle", "small"] and plan.worst == 100 + 2_000
    assert plan.why.startswith("middle stands in for large, which may cost 0.051000 dollars")
    assert choose("large", Ask(prompt=100, money=0), request, fallbacks=fallbacks)[0] == ["small"]
    names, plan = choose("large", Ask(prompt=100, money=51_000), request, fallbacks=fallbacks)
    assert names == ["large", "small"] and plan.worst == 51_000
    assert choose("ownship/auto", Ask(prompt=100, money=10_000))[0] == ["middle", "small"]
    # a reply without a bound is given one where a budget must hold, and only there
    assert choose("large", Ask(money=10**9))[1].request.max_tokens == 4096
    assert choose("large")[1].request.max_tokens is None
    models = {"long": {"upstream": "ours", "price": {"input": 0, "output": 1}, "max_output": 10_000},
              "dear": {"upstream": "ours", "price": {"input": 0, "output": 100}, "max_output": 100}}
    plan = choose("long", Ask(money=10_000), models=models, fallbacks={"long": {"error": ["dear"]}})[1]
    assert plan.worst == 10_000 and plan.request.max_tokens == 100  # whoever answers
    assert choose("large", hedge={"on": True}, about=Ask(prompt=100), request=request)[1].worst == 2 * 51_000


def test_cost_and_count() -> None:
    async def main() -> None:
        door, upstreams = router()
        assert await door.count(ask("ownship/auto"), Ask(privacy="local")) == 7
        assert door.cost("large", Usage(1000, 100)) == 10_000 + 5_000
        await door.close()
        assert all(upstream.closed for upstream in upstreams.values())

    run(main())


PRIVACY = st.sampled_from(list(REACH))
NAMES = ["m0", "m1", "m2", "m3"]


@st.composite
def configs(draw: st.DrawFn) -> Config:
    reaches = [draw(PRIVACY) for _ in NAMES]
    subset = st.lists(st.sampled_from(NAMES), max_size=4)
    rules = {"among": draw(st.none() | subset), "privacy": draw(PRIVACY), "cents": draw(st.floats(0, 100)),
             "seconds": draw(st.floats(0, 100)), "quality": draw(st.floats(0, 100)), "min_quality": draw(st.floats(0, 1))}
    return parse({
        "upstreams": {f"u{index}": {"url": "http://x", "privacy": reach, "concurrency": draw(st.integers(1, 2))}
                      for index, reach in enumerate(reaches)},
        "models": {name: {"upstream": f"u{index}", "price": {"input": draw(st.floats(0, 10)), "output": draw(st.floats(0, 10))},
                          "quality": {"general": draw(st.floats(0, 1))}, "max_output": draw(st.integers(1, 10_000))}
                   for index, name in enumerate(NAMES)},
        "aliases": {"nick": draw(st.sampled_from([*NAMES, "ownship/p"]))},
        "fallbacks": {name: {"error": draw(subset), "context": draw(subset), "budget": draw(subset)}
                      for name in draw(st.sets(st.sampled_from(NAMES)))},
        "policies": {"p": {key: value for key, value in rules.items() if value is not None}},
        "hedge": {"on": draw(st.booleans())}})


@settings(deadline=None, max_examples=120)
@given(config=configs(), label=PRIVACY, asked=st.sampled_from([*NAMES, "nick", "ownship/p", "ownship/auto"]),
       money=st.none() | st.integers(0, 10**5), models=st.none() | st.frozensets(st.sampled_from(NAMES)),
       bound=st.sampled_from([None, 100]), data=st.data())
def test_no_rule_moves_data_further_than_its_label(config: Config, label: Any, asked: str, money: int | None,
                                                   models: frozenset[str] | None, bound: int | None,
                                                   data: st.DataObject) -> None:
    faults = [[busy(503)], [busy(400, code="context_length_exceeded")], [ConnectionResetError()], [Wait(2.0), *reply()], reply()]
    upstreams = {name: Scripted([data.draw(st.sampled_from(faults)) for _ in range(3)]) for name in config.upstreams}

    async def main() -> None:
        door = Router(config, upstreams, random.Random(0))
        about = Ask(label, money=money, models=models)
        for _ in range(3):
            try:
                plan = door.plan(ask(asked, max_tokens=bound), about)
                assert plan == door.plan(ask(asked, max_tokens=bound), about)
                assert money is None or plan.worst <= money
                trace = Trace(plan.asked)
                await asyncio.gather(collect(door.stream(plan, trace)), collect(door.stream(plan, Trace(plan.asked))),
                                     door.count(ask(asked), about), return_exceptions=True)
            except GatewayError:
                continue
            assert models is None or {attempt.model for attempt in trace.attempts} <= models
        for name, upstream in upstreams.items():
            assert not upstream.requests or may_go(label, config.upstreams[name].reach)
            assert upstream.running == 0

    run(main())
