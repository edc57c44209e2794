"""From a client's request to the last byte of its reply: asked, metered, kept alive, ended when nobody waits any more, logged."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ownship.gateway import sse, toolloop
from ownship.gateway.codec import Asked, Front, Writer
from ownship.gateway.fronts import begun
from ownship.gateway.mcp import Toolbox
from ownship.gateway.merge import together
from ownship.gateway.reply import close, gather
from ownship.gateway.routing import Router
from ownship.gateway.trace import Trace
from ownship.gateway.types import Event, GatewayError, Request, Started, Usage, Wire, invalid
from ownship.gateway.upstream import TRACING
from ownship.serve import logs
from ownship.serve.admission import Caller
from ownship.serve.bill import Bill
from ownship.serve.call import EVENTS, Call
from ownship.serve.metrics import Metrics
from ownship.serve.tracing import Spans, handed_on
from ownship.store.ledger import Outcome
from ownship.store.store import Store
from ownship.store.writer import StoreFailed

if TYPE_CHECKING:
    from opentelemetry.trace import Span

KEEP_ALIVE = 15.0  # seconds of silence after which a stream says that it is still there
_UNREAD = 60.0  # seconds after which a client that does not read what it is sent is taken to have left
_KEPT = 3600.0  # seconds that the cache keeps a reply
_STREAM: Mapping[str, str] = {"cache-control": "no-cache", "x-accel-buffering": "no"}
ENDING = GatewayError(503, "overloaded", "the server is shutting down", code="shutting_down", retry_after=1.0)


@dataclass(eq=False)
class Work:
    """One request to models under way. `said` is what a stream says when it has nothing to say, from its first byte on; `copy` what
    was sent, for the cache."""

    call: Call
    wire: Wire
    front: Front
    caller: Caller
    asked: Asked
    deadline: float
    traces: list[Trace]
    said: bytes | None = None
    copy: list[bytes] | None = None
    span: Span | None = None
    bills: list[Bill] = field(default_factory=list)

    @property
    def trace(self) -> Trace:
        return self.traces[0]


class Replies:
    def __init__(self, router: Router, store: Store | None, toolbox: Toolbox | None, metrics: Metrics, log_bodies: bool,
                 spans: Spans | None = None) -> None:
        self.router, self.store, self.toolbox, self.metrics, self.log_bodies = router, store, toolbox, metrics, log_bodies
        self.spans = spans
        self.open: set[Work] = set()

    async def answer(self, call: Call, wire: Wire, front: Front, caller: Caller, asked: Asked) -> None:
        """Raises GatewayError, if nothing was sent yet, and Gone."""
        work = Work(call, wire, front, caller, asked, self._deadline(call), [Trace(request.model) for request in asked.requests])
        self.open.add(work)
        call.watch()
        if self.spans is not None:
            work.span = self.spans.begin(call, wire)
        TRACING.set(handed_on(call) if work.span is None or self.spans is None else self.spans.headers(work.span))
        error: GatewayError | None = None
        try:
            if not await self._from_cache(work):
                await (self._stream(work) if asked.stream else self._whole(work))
        except asyncio.CancelledError:
            if (error := call.why_cancelled()) is None:
                raise
            raise error from None
        except GatewayError as failed:
            error = failed
            raise
        finally:
            call.unwatch()
            self.open.discard(work)
            self._record(work, error)

    def stop(self) -> None:
        """Ends whatever is under way; the clients are told why."""
        for work in [*self.open]:
            work.call.stop(ENDING)

    async def keep_alive(self) -> None:
        """One task for all streams: a timer for each would cost more than it says."""
        while True:
            await asyncio.sleep(KEEP_ALIVE / 4)
            now = time.monotonic()
            for work in [*self.open]:
                if work.call.writing:
                    if work.call.touched < now - _UNREAD:
                        work.call.leave()
                elif work.said is not None and work.call.touched < now - KEEP_ALIVE:
                    work.call.touched = time.monotonic()
                    asyncio.create_task(work.call.write(work.said))  # noqa: RUF006

    def _deadline(self, call: Call) -> float:
        seconds = self.router.config.retry.deadline
        if (said := call.headers.get("x-ownship-timeout")) is not None:
            try:
                asked = float(said)
            except ValueError:
                asked = -1.0
            if not asked > 0:  # nor NaN
                raise invalid("x-ownship-timeout is a number of seconds", "x-ownship-timeout")
            seconds = min(seconds, asked)
        return time.monotonic() + seconds

    # The reply

    async def _whole(self, work: Work) -> None:
        reply = await gather(self._events(work))
        body = sse.dumps(work.front.whole(work.asked, reply))
        if work.copy is not None:
            work.copy.append(body)
        await self._keep(work)
        await work.call.reply(200, body, work.trace.headers())

    async def _stream(self, work: Work) -> None:
        call, writer = work.call, work.front.writer(work.asked)
        try:
            events = await self._begun(work)
        except GatewayError as error:
            if not call.status:
                raise
            await self._break_off(work, writer, error)
            return
        gaps, last = [], time.monotonic()
        try:
            async for event in events:
                if data := writer.write(event):
                    now = time.monotonic()
                    gaps.append(now - last)
                    last = now
                    if work.copy is not None:
                        work.copy.append(data)
                    await call.write(data)
            work.said = None
            await self._keep(work)
            await call.end()
        except GatewayError as error:
            await self._break_off(work, writer, error)
        except asyncio.CancelledError:
            if (why := call.why_cancelled()) is None:
                raise
            await self._break_off(work, writer, why)
        finally:
            await close(events)
            if work.trace.model is not None:
                self.metrics.pieces(work.trace.model, gaps[1:])

    async def _begun(self, work: Work) -> AsyncIterator[Event]:
        """Waits for the first event, so that a refusal is a status code; but not in silence for ever: somebody on the way to the
        client may take that for death."""
        first = asyncio.ensure_future(begun(self._events(work)))
        try:
            await asyncio.wait((first,), timeout=KEEP_ALIVE)
            if first.done():
                events = first.result()
                await work.call.begin(200, EVENTS, {**_STREAM, **work.trace.headers()})
                work.said = work.front.KEEP_ALIVE
                return events
            await work.call.begin(200, EVENTS, _STREAM)
            work.said = work.front.KEEP_ALIVE
            await work.call.write(work.said)
            return await first
        finally:
            if not first.done():
                first.cancel()
                await asyncio.wait((first,))

    async def _break_off(self, work: Work, writer: Writer, error: GatewayError) -> None:
        """The status has been sent: all that is left is to say it in the stream."""
        work.said = work.copy = None
        work.call.failure = error
        await work.call.write(writer.fail(error))
        await work.call.end()

    def _events(self, work: Work) -> AsyncIterator[Event]:
        streams = [self._one(work, request, trace) for request, trace in zip(work.asked.requests, work.traces, strict=True)]
        return together(streams, work.asked.request.n)

    def _one(self, work: Work, request: Request, trace: Trace) -> AsyncGenerator[Event, None]:
        """The reply to one request, tools of the gateway included."""
        if self.toolbox is None:
            return self._turn(work, request, trace)
        return toolloop.run(request, lambda turn: self._turn(work, turn, trace), self.toolbox, work.caller.ask.privacy,
                            self.router.config.mcp_rounds, trace, work.deadline)

    async def _turn(self, work: Work, request: Request, trace: Trace) -> AsyncGenerator[Event, None]:
        """One question to a model, on its bill."""
        bill = Bill(self.router, self.store, work.caller, request, trace, work.call.id)
        plan = await bill.open()
        work.bills.append(bill)
        failed, events = False, self.router.stream(plan, trace, work.deadline)
        try:
            async for event in events:
                bill.see(event)
                if isinstance(event, Started) and trace.model is not None:  # the client knows it by the gateway's name
                    event = Started(trace.model, event.prompt_tokens)
                yield event
        except GatewayError:
            failed = True
            raise
        finally:
            try:
                await events.aclose()
            finally:
                bill.settle(failed)

    # Replies kept

    async def _from_cache(self, work: Work) -> bool:
        key, store = work.caller.key, self.store
        if key is None or store is None or not key.cache or self.toolbox is not None:  # what tools find changes
            return False
        try:
            body = await store.cached(key, _name(work))
            if body is None:
                work.copy = []
                work.call.told["x-ownship-cache"] = "miss"
                return False
            reservation = await store.reserve(key, work.asked.request.model, work.call.id, 0, 0)
        except StoreFailed:
            return False
        work.call.told["x-ownship-cache"] = "hit"
        if work.asked.stream:
            await work.call.begin(200, EVENTS, _STREAM)
            await work.call.end(body)
        else:
            await work.call.reply(200, body)
        store.settle(reservation, Outcome(hit=True))
        return True

    async def _keep(self, work: Work) -> None:
        """Before the client has the last of it: whoever asks again finds it."""
        key, copy = work.caller.key, work.copy
        if copy and key is not None and self.store is not None:
            with contextlib.suppress(StoreFailed):
                await self.store.keep(key, _name(work), b"".join(copy), _KEPT)

    # What is left of it

    def _record(self, work: Work, error: GatewayError | None) -> None:
        call, trace = work.call, work.trace
        error = error or call.failure
        status = 499 if call.gone else error.status if error is not None else call.status
        self.metrics.request(work.wire, status)
        for one in work.traces:
            bills = [bill for bill in work.bills if bill.trace is one]
            self.metrics.reply(one.model, _sum(bills), sum(bill.cost for bill in bills), one, call.began, _first(bills))
        said = (error.code or error.kind) if error is not None else None
        usage, cost, first = _sum(work.bills), sum(bill.cost for bill in work.bills), _first(work.bills)
        if work.span is not None and self.spans is not None:
            self.spans.end(work.span, status, said, trace, usage, cost, None if first is None else first - call.began)
        if not logs.on():
            return
        key = work.caller.key
        fields: dict[str, Any] = {
            "id": call.id, "key": key.name if key is not None else None, "endpoint": work.wire, "status": status,
            "error": said, "stream": work.asked.stream,
            "prompt_tokens": usage.prompt, "completion_tokens": usage.completion,
            "cost_micro_dollars": cost,
            "first_ms": None if first is None else round((first - call.began) * 1000, 1),
            "total_ms": round((time.monotonic() - call.began) * 1000, 1), **trace.record()}
        if "x-ownship-cache" in call.told:
            fields["cache"] = call.told["x-ownship-cache"]
        if self.log_bodies:
            fields["body"] = work.asked.body
        logs.request(fields)


def _sum(bills: list[Bill]) -> Usage:
    if len(bills) == 1:
        return bills[0].used
    return Usage(sum(bill.used.prompt for bill in bills), sum(bill.used.completion for bill in bills),
                 sum(bill.used.cached for bill in bills))


def _first(bills: list[Bill]) -> float | None:
    return min((bill.first for bill in bills if bill.first is not None), default=None)


def _name(work: Work) -> dict[str, Any]:
    """What a kept reply answers: the same request by somebody who may go as far."""
    ask = work.caller.ask
    return {"wire": work.wire, "body": work.asked.body, "privacy": ask.privacy, "task": ask.task,
            "models": None if ask.models is None else sorted(ask.models)}

