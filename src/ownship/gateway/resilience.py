"""One loop around every upstream: it tries again, tries elsewhere, or gives up, and writes down why.

Nothing is tried again once an event was handed on: a client must never read the beginning of one reply and the end of another.
`Started` alone is held back until something follows it, because upstreams often accept a request and then find that they are
overloaded. All times are the event loop's clock, which is `time.monotonic`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ownship.gateway.config import RetryTable
from ownship.gateway.health import Breaker, RetryBudget, Speed
from ownship.gateway.trace import Attempt, Trace
from ownship.gateway.types import Event, GatewayError, NotNow, Request, Started, Upstream, Used
from ownship.gateway.within import within

Reason = Literal["error", "context"]
_AGAIN = frozenset({429, 500, 502, 503, 504, 529})  # 529 is Anthropic's "overloaded"
_OURS = frozenset({401, 402, 403})  # the upstream refuses the gateway: not a client's fault and not its business
_ELSEWHERE = _AGAIN | _OURS | {404, 408}


@dataclass
class Guard:
    """An upstream, and what protects it and us from each other."""

    name: str
    upstream: Upstream
    breaker: Breaker
    budget: RetryBudget
    slots: asyncio.Semaphore
    first_token: float  # seconds to wait for a reply's beginning
    queue: int = 1 << 30  # requests that may wait for a slot
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True)
class Candidate:
    """A model that may answer: `request` is as its upstream wants it; `after` says which failures of others it steps in for."""

    model: str
    guard: Guard
    speed: Speed
    request: Request
    context: int | None = None
    after: frozenset[Reason] = frozenset({"error", "context"})


async def stream(candidates: Sequence[Candidate], trace: Trace, deadline: float, settings: RetryTable, rng: random.Random,
                 hedge: bool = False) -> AsyncGenerator[Event, None]:
    """The reply of the first candidate that gives one. Raises the last GatewayError if none does, or one in the midst of a reply.

    Closing it, or cancelling who waits for it, closes the upstream's stream at once.
    """
    call = await _open(candidates, trace, deadline, settings, rng, hedge)
    try:
        while (event := await call.next()) is not None:
            yield event
    except BaseException as error:
        call.broke(error)
        raise
    finally:
        await call.close()


async def _open(candidates: Sequence[Candidate], trace: Trace, deadline: float, settings: RetryTable, rng: random.Random,
                hedge: bool) -> _Call:
    failure: GatewayError | None = None
    reason: Reason | None = None
    failed: Candidate | None = None
    for position, candidate in enumerate(candidates):
        if reason is not None and failed is not None and (refusal := _does_not_help(candidate, reason, failed)):
            trace.skipped.append((candidate.model, refusal))
            continue
        more = any("error" in other.after for other in candidates[position + 1:])
        candidate.guard.budget.request()
        for number in range(settings.attempts):
            why = "retry" if number else "first" if failure is None else f"fallback after {reason}"
            try:
                return await _begin(_Call(candidate, trace, deadline, why), hedge, wait=not more)
            except GatewayError as error:
                failure, reason, failed = error, _reason(error), candidate
            if reason is None:
                raise failure
            pause = (failure.retry_after or 0.0) + rng.uniform(0.0, min(settings.cap, settings.base * 2.0**number))
            now = asyncio.get_running_loop().time()
            if (isinstance(failure, NotNow) or failure.status not in _AGAIN or number + 1 == settings.attempts
                    or now + pause >= deadline or (more and pause > settings.cap) or not candidate.guard.budget.spend()):
                break
            await asyncio.sleep(pause)
    assert failure is not None, "there is at least one candidate"
    raise failure


async def _begin(call: _Call, hedge: bool, wait: bool) -> _Call:
    """The call once its reply has begun; with `hedge`, a second one races it when it takes longer than 19 of 20 do."""
    delay = call.candidate.speed.p95() if hedge else None
    if delay is None:
        await call.begin(wait)
        return call
    tasks = {asyncio.create_task(call.begin(wait, apart=True)): call}
    try:
        await asyncio.wait(tasks, timeout=delay)
        guard = call.candidate.guard
        if not any(task.done() for task in tasks) and not guard.slots.locked() and guard.budget.spend():
            second = _Call(call.candidate, call.trace, call.deadline, "hedge")
            tasks[asyncio.create_task(second.begin(wait=False, apart=True))] = second
        pending, failure = set(tasks), None
        while pending:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in tasks if task.done()]:
                racer = tasks.pop(task)
                if (error := task.exception()) is None:
                    return racer
                failure = failure or error
        assert failure is not None, "every racer either answers or fails"
        raise failure
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for loser in tasks.values():
            await loser.close()


class _Call:
    """One call of an upstream: takes a place there in `begin`, gives it back in `close`."""

    def __init__(self, candidate: Candidate, trace: Trace, deadline: float, why: str) -> None:
        self.candidate, self.trace, self.deadline, self.why = candidate, trace, deadline, why
        self._held: list[Event] = []
        self._stream: AsyncIterator[Event] | None = None
        self._attempt: Attempt | None = None
        self._permit = -1
        self._has_slot = self._whole = False
        self._punctual = getattr(candidate.guard.upstream, "punctual", False)

    async def begin(self, wait: bool, apart: bool = False) -> None:
        """Calls, and returns when something of the reply is there. Raises GatewayError, and is closed then.

        `wait` for a place if all are taken; `apart` reads the stream in a task of its own, since another goes on reading.
        """
        guard = self.candidate.guard
        until = min(self.deadline, _now() + guard.first_token)
        try:
            await self._enter(wait, until)
            if not self.candidate.request.stream:  # its first token comes with its last one
                until = self.deadline
            self._attempt = Attempt(self.candidate.model, guard.name, self.why, self.trace.now())
            self.trace.attempts.append(self._attempt)
            stream = guard.upstream.stream(self.candidate.request, self.deadline)
            self._stream = _Apart(stream) if apart else stream
            while not self._held or isinstance(self._held[-1], Started):
                self._held.append(await self._read(until))
        except BaseException as error:
            self.broke(error)
            await self.close()
            if isinstance(error, GatewayError) and (error.status in _OURS or error.code == "upstream_key_refused"):
                raise NotNow(502, "upstream", f"{guard.name} refuses the gateway's own key", code=error.code) from None
            raise
        guard.breaker.record(self._permit, True, _now())
        self._attempt.first_event = self.trace.now()
        self.candidate.speed.saw_first(self._attempt.first_event - self._attempt.started)

    async def next(self) -> Event | None:
        """The next event; None at the end."""
        assert self._attempt is not None
        if self._held:
            event = self._held.pop(0)
            self.trace.model, self.trace.upstream = self.candidate.model, self.candidate.guard.name
        else:
            try:
                event = await self._read(None if self._punctual else self.deadline)
            except _Ended:
                if self._whole:
                    return None
                raise
        if isinstance(event, Used):
            self._whole = True
            self._attempt.outcome = "ok"
            self.candidate.speed.saw_reply(event.usage.completion, self.trace.now() - (self._attempt.first_event or 0.0))
        return event

    def broke(self, error: BaseException) -> None:
        """Writes down how it ended, and whether that speaks against the upstream."""
        if self._attempt is None or self._whole:
            return
        bad = not isinstance(error, asyncio.CancelledError | GeneratorExit)
        if isinstance(error, GatewayError):
            # a deadline that has passed says more of the client's patience than of the upstream
            bad = not isinstance(error, NotNow) and ((error.status >= 500 and _now() < self.deadline) or error.status in (401, 402))
            self._attempt.outcome = f"{error.status} {error.code or error.kind}"
        else:
            self._attempt.outcome = type(error).__name__ if bad else "cancelled"
        if bad:
            self.candidate.guard.breaker.record(self._permit, False, _now())
        else:
            self.candidate.guard.breaker.release(self._permit)

    async def close(self) -> None:
        """Ends the upstream's work and gives its place back. May be called twice."""
        stream, self._stream = self._stream, None
        has_slot, self._has_slot = self._has_slot, False
        try:
            if stream is not None and (aclose := getattr(stream, "aclose", None)) is not None:
                await aclose()
        finally:
            if has_slot:
                self.candidate.guard.running -= 1
                self.candidate.guard.slots.release()
            if self._attempt is not None and self._attempt.ended is None:
                self._attempt.ended = self.trace.now()
                if self._attempt.outcome == "under way":
                    self._attempt.outcome = "cancelled"

    async def _enter(self, wait: bool, until: float) -> None:
        guard = self.candidate.guard
        if not wait and guard.slots.locked():
            self.trace.skipped.append((self.candidate.model, f"{guard.name} is full"))
            raise NotNow(503, "overloaded", f"{guard.name} is full", retry_after=1.0)
        if guard.slots.locked() and guard.waiting >= guard.queue:
            self.trace.skipped.append((self.candidate.model, f"{guard.name}'s queue is full"))
            raise NotNow(429, "rate_limit", "too many requests are waiting", code="queue_full", retry_after=1.0)
        if (left := guard.breaker.wait(_now())) == 0:
            guard.waiting += 1
            try:
                await within(guard.slots.acquire(), until)
            except TimeoutError:
                self.trace.skipped.append((self.candidate.model, f"{guard.name} is full"))
                raise NotNow(503, "overloaded", f"{guard.name} is full", retry_after=1.0) from None
            finally:
                guard.waiting -= 1
            self._has_slot = True
            guard.running += 1
            permit = guard.breaker.admit(_now())
            if permit is not None:
                self._permit = permit
                return
            left = guard.breaker.wait(_now())
        self.trace.skipped.append((self.candidate.model, f"{guard.name} fails: its breaker is open"))
        raise NotNow(503, "overloaded", f"{guard.name} does not answer at present", retry_after=left)

    async def _read(self, until: float | None) -> Event:
        assert self._stream is not None
        name = self.candidate.guard.name
        try:
            return await (anext(self._stream) if until is None else within(anext(self._stream), until))
        except StopAsyncIteration:
            raise _Ended(502, "upstream", f"{name} ended in the midst of its reply") from None
        except TimeoutError:
            late = "the deadline has passed" if _now() >= self.deadline else f"{name} did not begin to answer in time"
            raise GatewayError(504, "timeout", late) from None
        except OSError as error:
            raise GatewayError(502, "upstream", f"{name} cannot be reached ({type(error).__name__})") from None


class _Ended(GatewayError):
    """The stream has ended; a fault if the reply was not whole."""


class _Apart:
    """A stream that is read by a task of its own, so that whoever takes its events may change. One event is read ahead."""

    def __init__(self, stream: AsyncIterator[Event]) -> None:
        self._queue: asyncio.Queue[Event | Exception] = asyncio.Queue(1)
        self._task = asyncio.create_task(self._pump(stream))

    def __aiter__(self) -> _Apart:
        return self

    async def __anext__(self) -> Event:
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _pump(self, stream: AsyncIterator[Event]) -> None:
        try:
            async for event in stream:
                await self._queue.put(event)
            await self._queue.put(StopAsyncIteration())
        except Exception as error:
            await self._queue.put(error)
        finally:
            if (aclose := getattr(stream, "aclose", None)) is not None:
                await aclose()


def _reason(error: GatewayError) -> Reason | None:
    """Why another model may step in; None if it would fare no better."""
    if error.code == "context_length_exceeded":
        return "context"
    return "error" if error.status in _ELSEWHERE else None


def _does_not_help(candidate: Candidate, reason: Reason, failed: Candidate) -> str | None:
    if reason not in candidate.after:
        return f"not for {reason}"
    if reason == "context" and candidate.context is not None and failed.context is not None and candidate.context <= failed.context:
        return "its context is no longer"
    return None


def _now() -> float:
    return asyncio.get_running_loop().time()
