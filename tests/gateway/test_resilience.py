"""The one retry loop against upstreams that misbehave, on a clock that jumps."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import Any

import pytest
from faulty import Scripted, Step, Wait, ask, busy, collect, reply, run, text
from hypothesis import given, settings
from hypothesis import strategies as st

from ownship.gateway.config import BreakerTable, parse
from ownship.gateway.health import Breaker, RetryBudget, Speed
from ownship.gateway.routing import Ask, Router
from ownship.gateway.trace import Trace
from ownship.gateway.types import Event, GatewayError, Started, TextDelta, Used

FREE = {"price": {"input": 0, "output": 0}}


def router(upstreams: dict[str, Scripted], **more: Any) -> Router:
    """A model per upstream, named like it; the models after `a` are its fallbacks on errors and long prompts."""
    names = list(upstreams)
    table = more.pop("upstream", {})
    config = parse({
        "upstreams": {name: {"url": f"http://{name}", "wire": "chat", **table} for name in names},
        "models": {name: {"upstream": name, **FREE} for name in names},
        "fallbacks": {"a": {"error": names[1:], "context": names[1:]}} if len(names) > 1 else {}, **more})
    return Router(config, upstreams, random.Random(0))


async def get(door: Router, deadline: float | None = None, **more: Any) -> tuple[list[Event], Trace]:
    plan = door.plan(ask(**more), Ask())
    trace = Trace(plan.asked)
    start = asyncio.get_running_loop().time()
    return await collect(door.stream(plan, trace, None if deadline is None else start + deadline)), trace


def outcomes(trace: Trace) -> list[tuple[str, str, str]]:
    return [(attempt.model, attempt.reason, attempt.outcome) for attempt in trace.attempts]


OK = reply("from a")
A_FAULT_THEN_OK: dict[str, tuple[list[Step], str]] = {
    "refused": ([ConnectionRefusedError("no")], "502 upstream"),
    "reset": ([Started("m"), ConnectionResetError("no")], "502 upstream"),
    "unavailable": ([busy(503)], "503 upstream"),
    "internal": ([busy(500)], "500 upstream"),
    "bad gateway": ([busy(502)], "502 upstream"),
    "timeout told": ([busy(504)], "504 timeout"),
    "rate limit": ([busy(429)], "429 rate_limit"),
    "overloaded": ([busy(529)], "529 upstream"),
    "overloaded after it accepted": ([Started("m"), busy(529)], "529 upstream"),
    "empty": ([], "502 upstream"),
    "started and no more": ([Started("m")], "502 upstream"),
    "hangs": ([Wait(10_000)], "504 timeout"),
    "hangs after it accepted": ([Started("m"), Wait(10_000)], "504 timeout"),
}


@pytest.mark.parametrize(("script", "outcome"), A_FAULT_THEN_OK.values(), ids=A_FAULT_THEN_OK)
def test_a_fault_before_the_first_event_is_tried_again(script: list[Step], outcome: str) -> None:
    a = Scripted([script, OK])
    events, trace = run(get(router({"a": a})))
    assert events == OK
    assert outcomes(trace) == [("a", "first", outcome), ("a", "retry", "ok")]
    assert a.running == 0


@pytest.mark.parametrize(("script", "outcome"), A_FAULT_THEN_OK.values(), ids=A_FAULT_THEN_OK)
def test_who_goes_on_failing_is_replaced(script: list[Step], outcome: str) -> None:
    a, b = Scripted([script]), Scripted([reply("from b")])
    events, trace = run(get(router({"a": a, "b": b})))
    assert text(events) == "from b"
    assert len(a.requests) == 3 and len(b.requests) == 1
    assert outcomes(trace)[-1] == ("b", "fallback after error", "ok")
    assert trace.headers()["x-ownship-model"] == "b" and trace.headers()["x-ownship-attempts"] == "4"


@pytest.mark.parametrize("fault", [busy(503), ConnectionResetError(), busy(529), Wait(10_000)], ids=repr)
def test_nothing_is_tried_again_once_the_client_has_read_something(fault: Step) -> None:
    a, b = Scripted([[Started("m"), TextDelta(0, "The"), fault]]), Scripted([OK])
    seen: list[Event] = []

    async def main() -> Trace:
        door = router({"a": a, "b": b})
        plan = door.plan(ask(), Ask())
        trace = Trace(plan.asked)
        with pytest.raises(GatewayError) as caught:
            await collect(door.stream(plan, trace, asyncio.get_running_loop().time() + 60), seen.append)
        assert caught.value.status in (502, 503, 504, 529)
        return trace

    trace = run(main())
    assert seen == [Started("m"), TextDelta(0, "The")]
    assert len(a.requests) == 1 and not b.requests and a.running == 0
    assert trace.model == "a" and trace.attempts[0].outcome not in ("ok", "under way")


def test_a_reply_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    with pytest.raises(GatewayError, match="midst of its reply") as caught:
        run(get(router({"a": Scripted([OK[:-1]])})))
    assert caught.value.status == 502


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_fault_of_the_client_is_told_at_once(status: int) -> None:
    a, b = Scripted([[busy(status)]]), Scripted([OK])
    with pytest.raises(GatewayError) as caught:
        run(get(router({"a": a, "b": b})))
    assert caught.value.status == status
    assert len(a.requests) == 1 and not b.requests


@pytest.mark.parametrize("fault", [busy(401), busy(402), busy(403), busy(502, code="upstream_key_refused")], ids=repr)
def test_an_upstream_that_refuses_the_gateway_is_not_the_clients_fault(fault: Step) -> None:
    a = Scripted([[fault]])
    with pytest.raises(GatewayError, match="a refuses the gateway") as caught:
        run(get(router({"a": a})))
    assert caught.value.status == 502 and len(a.requests) == 1
    a, b = Scripted([[fault]]), Scripted([OK])
    assert run(get(router({"a": a, "b": b})))[0] == OK
    assert len(a.requests) == 1


def test_too_long_a_prompt_goes_only_where_there_is_more_room() -> None:
    def models(b: int | None) -> dict[str, Any]:
        sizes = {"a": 1000, "b": b, "c": 4000}
        return {name: {"upstream": name, **FREE, **({"context": size} if size else {})} for name, size in sizes.items()}

    long = busy(400, code="context_length_exceeded")
    for size, answers in ((1000, "c"), (2000, "b"), (None, "b")):
        upstreams = {"a": Scripted([[long]]), "b": Scripted([reply("b")]), "c": Scripted([reply("c")])}
        events, trace = run(get(router(upstreams, models=models(size))))
        assert text(events) == answers
        assert outcomes(trace)[-1][1] == "fallback after context"
    only_errors = {"a": Scripted([[long]]), "b": Scripted([OK])}
    with pytest.raises(GatewayError, match="no"):
        run(get(router(only_errors, fallbacks={"a": {"error": ["b"]}})))
    assert not only_errors["b"].requests


def test_retry_after_is_waited_for() -> None:
    a = Scripted([[busy(429, retry_after=42.0)], OK])
    _, trace = run(get(router({"a": a})))
    assert 42 <= a.times[1] - a.times[0] <= 42.5
    assert trace.attempts[1].started >= 42


def test_retry_after_beyond_the_deadline_is_told_at_once() -> None:
    a = Scripted([[busy(429, retry_after=42.0)]])

    async def main() -> float:
        start = asyncio.get_running_loop().time()
        with pytest.raises(GatewayError) as caught:
            await get(router({"a": a}), deadline=30)
        assert caught.value.status == 429 and caught.value.retry_after == 42
        return asyncio.get_running_loop().time() - start

    assert run(main()) == 0 and len(a.requests) == 1


def test_somebody_else_is_asked_rather_than_waited_long_for() -> None:
    a, b = Scripted([[busy(429, retry_after=42.0)]]), Scripted([OK])
    _, trace = run(get(router({"a": a, "b": b})))
    assert len(a.requests) == 1 and trace.attempts[1].started == 0


def test_waits_are_drawn_from_the_whole_interval_and_double() -> None:
    waits = []
    for seed in range(200):
        a = Scripted([[busy(503)], [busy(503)], OK])
        door = router({"a": a}, retry={"base": 1.0, "cap": 1.5})
        door._rng = random.Random(seed)
        run(get(door))
        waits.append((a.times[1] - a.times[0], a.times[2] - a.times[1]))
    first, second = zip(*waits, strict=True)
    assert 0 <= min(first) < 0.05 and 0.95 < max(first) <= 1.0  # full jitter
    assert 0 <= min(second) < 0.05 and 1.45 < max(second) <= 1.5  # 2 s, but for the cap


@pytest.mark.parametrize("hang", [[Wait(1e6)], [Started("m"), Wait(1e6)], [Started("m"), TextDelta(0, "x"), Wait(1e6)]], ids=repr)
def test_a_deadline_ends_it(hang: list[Step]) -> None:
    a = Scripted([hang])

    async def main() -> None:
        start = asyncio.get_running_loop().time()
        door = router({"a": a})
        with pytest.raises(GatewayError, match="deadline") as caught:
            await get(door, deadline=5)
        assert caught.value.status == 504
        assert asyncio.get_running_loop().time() - start == pytest.approx(5)
        assert door.guards["a"].breaker._calls.count((1005.0, False)) == 0  # the client was impatient, not the upstream slow

    run(main())
    assert a.running == 0 and len(a.requests) == 1


def test_the_deadline_is_handed_on() -> None:
    told: list[float | None] = []

    class Curious(Scripted):
        def stream(self, request: Any, deadline: float | None = None) -> Any:
            told.append(deadline)
            return super().stream(request, deadline)

    run(get(router({"a": Curious([OK])}), deadline=7))
    run(get(router({"a": Curious([OK])}, retry={"deadline": 9.0})))
    assert told == [1007.0, 1009.0]


@pytest.mark.parametrize("where", ["before", "between"])
@pytest.mark.parametrize("how", ["close", "cancel"])
def test_who_hangs_up_ends_the_upstreams_work_at_once(where: str, how: str) -> None:
    a = Scripted([[Wait(5), *OK[:2], Wait(5), *OK[2:]]])

    async def main() -> str:
        door = router({"a": a})
        plan = door.plan(ask(), Ask())
        trace = Trace(plan.asked)
        stream = door.stream(plan, trace)

        async def read() -> None:
            async with aclosing(stream):
                async for event in stream:
                    if how == "close" and isinstance(event, TextDelta):
                        return

        task = asyncio.create_task(read())
        if how == "cancel" or where == "before":
            await asyncio.sleep(1 if where == "before" else 7)
            assert a.running == 1
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert a.running == 0
        assert door.guards["a"].slots._value == 64
        return trace.attempts[0].outcome

    assert run(main()) == "cancelled"


def test_a_bug_is_not_tried_again_and_leaves_nothing_open() -> None:
    a = Scripted([[ZeroDivisionError()], OK])
    with pytest.raises(ZeroDivisionError):
        run(get(router({"a": a})))
    assert len(a.requests) == 1 and a.running == 0


def test_an_upstream_is_never_given_more_than_it_can_take() -> None:
    a = Scripted([[Wait(1), *OK]])

    async def main() -> float:
        door = router({"a": a}, upstream={"concurrency": 3})
        await asyncio.gather(*(get(door) for _ in range(10)))
        return asyncio.get_running_loop().time() - 1000

    assert run(main()) == pytest.approx(4)
    assert a.most == 3 and len(a.requests) == 10


def test_who_is_full_is_passed_over_if_somebody_else_has_room() -> None:
    a, b = Scripted([[Wait(100), *reply("a")]]), Scripted([reply("b")])

    async def main() -> list[tuple[str, str]]:
        door = router({"a": a, "b": b}, upstream={"concurrency": 1})
        slow = asyncio.create_task(get(door))
        await asyncio.sleep(1)
        events, trace = await get(door)
        assert text(events) == "b"
        assert text((await slow)[0]) == "a"
        return trace.skipped

    assert run(main()) == [("a", "a is full")]


def test_who_waits_too_long_for_a_place_is_told() -> None:
    async def main() -> GatewayError:
        door = router({"a": Scripted([[Wait(500), *OK]])}, upstream={"concurrency": 1, "first_token": 600.0})
        slow = asyncio.create_task(get(door))
        await asyncio.sleep(0)
        with pytest.raises(GatewayError) as caught:
            await get(door, deadline=10)
        await slow
        return caught.value

    error = run(main())
    assert error.status == 503 and error.retry_after


def test_a_breaker_opens_probes_once_and_closes() -> None:
    a = Scripted([[busy(500)]])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        door = router({"a": a}, retry={"attempts": 1}, breaker={"minimum": 4, "open": 20.0})
        for _ in range(4):
            with pytest.raises(GatewayError):
                await get(door)
        assert len(a.requests) == 4
        with pytest.raises(GatewayError, match="does not answer at present") as caught:
            await get(door)
        assert caught.value.status == 503 and caught.value.retry_after == pytest.approx(20)
        assert len(a.requests) == 4  # it was not called
        await asyncio.sleep(20)
        a.scripts = [[Wait(3), busy(500)]]
        probe, second = await asyncio.gather(get(door), get(door), return_exceptions=True)  # one probe at a time
        assert len(a.requests) == 5
        assert isinstance(probe, GatewayError) and probe.status == 500
        assert isinstance(second, GatewayError) and second.status == 503
        await asyncio.sleep(19)
        with pytest.raises(GatewayError, match="at present"):
            await get(door)
        await asyncio.sleep(1)
        a.scripts = [[Wait(3), *OK]]
        task = asyncio.create_task(get(door))
        await asyncio.sleep(1)
        task.cancel()  # a probe whose client hangs up says nothing: the next is a probe
        await asyncio.gather(task, return_exceptions=True)
        before = loop.time()
        await get(door)
        assert loop.time() - before == pytest.approx(3)
        await asyncio.gather(*(get(door) for _ in range(5)))  # closed: all are let through

    run(main())


@pytest.mark.parametrize("status", [400, 404, 413, 429])
def test_a_breaker_does_not_count_what_clients_do_wrong(status: int) -> None:
    a = Scripted([[busy(status)]])

    async def main() -> None:
        door = router({"a": a}, retry={"attempts": 1}, breaker={"minimum": 2})
        for _ in range(20):
            with pytest.raises(GatewayError) as caught:
                await get(door)
            assert caught.value.status == status

    run(main())
    assert len(a.requests) == 20


def test_a_breaker_forgets_and_judges_by_rate() -> None:
    breaker = Breaker("a", BreakerTable(window=30.0, minimum=4, rate=0.5, open=20.0))

    def call(ok: bool, now: float) -> bool:
        permit = breaker.admit(now)
        assert permit is not None
        breaker.record(permit, ok, now)
        return breaker.opened is not None

    assert not any(call(False, at) for at in (0, 1, 2))
    assert not any(call(ok, at) for ok, at in ((True, 40), (True, 41), (True, 42), (False, 43)))  # the failures were long ago
    assert not call(False, 44)
    late = breaker.admit(44)
    assert call(False, 45)  # 3 of 6
    assert breaker.admit(46) is None
    breaker.record(late, True, 47)  # began before it opened
    assert breaker.opened == 45


def test_when_everything_fails_load_does_not_multiply() -> None:
    a = Scripted([[busy(503)]])

    async def main() -> None:
        door = router({"a": a}, retry={"attempts": 5, "share": 0.1}, breaker={"minimum": 10_000})
        for _ in range(300):
            with pytest.raises(GatewayError):
                await get(door)

    run(main())
    assert 300 + 10 <= len(a.requests) <= 300 + 10 + 30


@given(st.floats(0, 1), st.lists(st.booleans(), max_size=300))
def test_the_retry_budget_holds(share: float, calls: list[bool]) -> None:
    budget, spent = RetryBudget(share), 0
    for number, retry in enumerate(calls):
        budget.request()
        spent += retry and budget.spend()
        assert spent <= 10 + share * (number + 1) + 1e-9


def test_a_hedge_races_the_slow_and_the_loser_is_ended() -> None:
    quick, slow = [Wait(1), *reply("quick")], [Wait(100), *reply("slow")]

    async def main(script: list[list[Step]]) -> tuple[Scripted, str, Trace, float]:
        a = Scripted([quick] * 20 + script)
        door = router({"a": a}, hedge={"on": True})
        for _ in range(20):
            await get(door)
        start = asyncio.get_running_loop().time()
        events, trace = await get(door)
        assert a.running == 0 and door.guards["a"].slots._value == 64
        return a, text(events), trace, asyncio.get_running_loop().time() - start

    a, said, trace, took = run(main([slow, quick]))
    assert said == "quick" and took == pytest.approx(2) and len(a.requests) == 22
    assert outcomes(trace) == [("a", "first", "cancelled"), ("a", "hedge", "ok")]
    _, said, trace, took = run(main([[Wait(1.5), *reply("first")], slow]))
    assert said == "first" and took == pytest.approx(1.5)
    assert outcomes(trace) == [("a", "first", "ok"), ("a", "hedge", "cancelled")]
    _, said, trace, _ = run(main([[Wait(1.5), *reply("first")], [Wait(0.5), *reply("second")]]))  # both at once
    assert said == "first" and [outcome for _, _, outcome in outcomes(trace)] == ["ok", "cancelled"]
    _, said, trace, took = run(main([[Wait(1.5), busy(503)], quick]))  # the second lives on
    assert said == "quick" and took == pytest.approx(2)
    _, said, trace, took = run(main([[Wait(1.5), busy(503)], [Wait(1), busy(503)], [Wait(0.5), *reply("quick")]]))
    assert said == "quick" and [outcome for _, _, outcome in outcomes(trace)] == ["503 upstream", "503 upstream", "ok"]
    _, said, trace, _ = run(main([[Wait(0.5), *reply("in time")]]))
    assert said == "in time" and len(trace.attempts) == 1


def test_a_hedged_reply_can_be_hung_up_on() -> None:
    async def main() -> None:
        a = Scripted([[Wait(1), *OK]] * 20 + [[Wait(100), *OK]])
        door = router({"a": a}, hedge={"on": True})
        for _ in range(20):
            await get(door)
        task = asyncio.create_task(get(door))
        await asyncio.sleep(5)
        assert a.running == 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert a.running == 0

    run(main())


def test_hedging_is_off_unless_asked_for() -> None:
    async def main() -> None:
        a = Scripted([[Wait(1), *OK]] * 30 + [[Wait(100), *OK]])
        door = router({"a": a})
        for _ in range(31):
            await get(door)
        assert len(a.requests) == 31

    run(main())


def test_speed_is_measured() -> None:
    async def main() -> Speed:
        door = router({"a": Scripted([[Wait(2), Started("m"), TextDelta(0, "x"), Wait(4), *reply(tokens=41)[2:]]])})
        await get(door)
        return door.speeds["a"]

    speed = run(main())
    assert speed.first == pytest.approx(2) and speed.rate == pytest.approx(10)
    assert speed.expected(100) == pytest.approx(12)


STEPS: st.SearchStrategy[Step] = st.one_of(
    st.sampled_from([busy(503), busy(429, retry_after=3.0), busy(400), busy(401), busy(400, code="context_length_exceeded"),
                     ConnectionResetError(), busy(504)]),
    st.builds(Wait, st.sampled_from([0.5, 50.0, 700.0])))
SCRIPTS = st.builds(lambda kept, steps, at: [*kept[:at], *steps, *kept[at:]],
                    st.sampled_from([reply("x"), reply("yy")]), st.lists(STEPS, max_size=2), st.integers(0, 4))


@settings(deadline=None, max_examples=150)
@given(scripts=st.lists(st.lists(SCRIPTS, min_size=1, max_size=4), min_size=1, max_size=3), attempts=st.integers(1, 4),
       hedge=st.booleans(), hang_up=st.none() | st.integers(0, 4), deadline=st.sampled_from([1.0, 60.0, 2000.0]))
def test_whatever_happens(scripts: list[list[list[Step]]], attempts: int, hedge: bool, hang_up: int | None,
                          deadline: float) -> None:
    """One reply at most, from one upstream; bounded attempts; nothing left open; never later than the deadline."""
    upstreams = {name: Scripted([[Started(name) if isinstance(step, Started) else step for step in script] for script in mine])
                 for name, mine in zip("abc", scripts, strict=False)}

    async def main() -> None:
        door = router(upstreams, retry={"attempts": attempts}, hedge={"on": hedge})
        for speed in door.speeds.values():
            for _ in range(20):
                speed.saw_first(0.4)
        plan = door.plan(ask(), Ask())
        trace = Trace(plan.asked)
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        seen: list[Event] = []
        failed = False
        try:
            async with aclosing(door.stream(plan, trace, end)) as stream:
                async for event in stream:
                    seen.append(event)
                    if hang_up is not None and len(seen) > hang_up:
                        break
        except GatewayError:
            failed = True
        assert sum(isinstance(event, Started) for event in seen) <= 1
        assert len({event.model for event in seen if isinstance(event, Started)} | {trace.model} - {None}) <= 1
        assert failed or hang_up is not None or isinstance(seen[-1], Used)
        assert loop.time() <= end + 1e-6
        calls = sum(len(upstream.requests) for upstream in upstreams.values())
        assert calls == len(trace.attempts) <= len(upstreams) * attempts * (2 if hedge else 1)
        assert all(attempt.outcome != "under way" and attempt.ended is not None for attempt in trace.attempts)
        assert all(upstream.running == 0 for upstream in upstreams.values())
        assert all(guard.slots._value == 64 for guard in door.guards.values())

    run(main())
