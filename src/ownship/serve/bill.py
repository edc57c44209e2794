"""What a question to a model may cost is set aside before it is asked; what it did cost is charged at its end, in any case."""

from __future__ import annotations

import time
from dataclasses import replace

from ownship.gateway.prices import estimate
from ownship.gateway.routing import Plan, Router
from ownship.gateway.trace import Trace
from ownship.gateway.types import (
    Event,
    Finished,
    GatewayError,
    ReasoningDelta,
    Request,
    Started,
    TextDelta,
    ToolDelta,
    Usage,
    Used,
)
from ownship.serve.admission import Caller
from ownship.store import periods
from ownship.store.budgets import OverBudget
from ownship.store.ledger import Outcome, Reservation, Status
from ownship.store.store import Store
from ownship.store.writer import StoreFailed

_PLENTY = 2**52  # micro-dollars: a budget whose rest is not known yet


class Bill:
    """One question: `see` its events, then `settle`. `plan` is what it may come to."""

    def __init__(self, router: Router, store: Store | None, caller: Caller, request: Request, trace: Trace, id: str) -> None:
        self.router, self.store, self.caller, self.request, self.trace, self.id = router, store, caller, request, trace, id
        self.usage: Usage | None = None  # as the upstream told it
        self.used = Usage()  # what is charged, once it is settled
        self.first: float | None = None  # when the reply began, on time.monotonic
        self.began = time.monotonic()
        self.cost = 0
        self._reservation: Reservation | None = None
        self._prompt = self._pieces = self._bytes = 0
        self._attempts = len(trace.attempts)

    async def open(self) -> Plan:
        """Chooses a model that the budgets suffice for. Raises GatewayError: as `Router.plan`, 429 for a budget that does not."""
        key, store, ask = self.caller.key, self.store, self.caller.ask
        if key is None or store is None:
            return self.router.plan(self.request, ask)
        try:
            if await store.limited(key):
                ask = replace(ask, money=_PLENTY)
            plan = self.router.plan(self.request, ask)
            try:
                self._reservation = await store.reserve(key, plan.asked, self.id, plan.worst, plan.tokens)
            except OverBudget as over:
                if over.budget.unit != "money":
                    raise
                plan = self.router.plan(self.request, replace(ask, money=over.left))  # a cheaper one, if there is one
                self._reservation = await store.reserve(key, plan.asked, self.id, plan.worst, plan.tokens)
            return plan
        except OverBudget as over:
            wait = None if over.renews is None else max(1.0, (over.renews - periods.now()) / 1000)
            raise GatewayError(429, "rate_limit", str(over), code="insufficient_quota", retry_after=wait) from None
        except StoreFailed:
            raise GatewayError(503, "internal", "the ledger cannot be written at present", retry_after=1.0) from None

    def see(self, event: Event) -> None:
        if isinstance(event, TextDelta | ReasoningDelta):
            self._pieces += 1
            self._bytes += len(event.text)
        elif isinstance(event, ToolDelta):
            self._pieces += 1
            self._bytes += len(event.arguments)
        elif isinstance(event, Used):
            self.usage = event.usage
            return
        elif isinstance(event, Started):
            self._prompt = event.prompt_tokens
            return
        if self.first is None and not isinstance(event, Finished):
            self.first = time.monotonic()

    def settle(self, failed: bool) -> Status:
        """To be called once, whatever happened. The writing goes on by itself."""
        status: Status = "ok" if self.usage is not None else "failed" if failed else "cancelled"
        usage = self.used = self.usage or self._seen()
        model = self.trace.model
        if model is None and self.trace.attempts[self._attempts :]:
            model = self.trace.attempts[-1].model
        if model is not None:
            # another upstream that raced for the same reply had not more to do than the one that won
            calls = 1 + sum(attempt.outcome == "cancelled" for attempt in self.trace.attempts[self._attempts :]
                            if status == "ok")
            self.cost = calls * self.router.cost(model, usage)
        if self._reservation is None or self.store is None:
            return status
        if status != "ok":
            self.cost = min(self.cost, self._reservation.money)  # an estimate never breaks a budget
        now = time.monotonic()
        self.store.settle(self._reservation, Outcome(
            status, self.cost, usage.prompt, usage.completion, usage.cached, usage.reasoning,
            self.trace.upstream or "", model or "", None if self.first is None else int((self.first - self.began) * 1000),
            int((now - self.began) * 1000)))
        self._reservation = None
        return status

    def _seen(self) -> Usage:
        """Of a reply that broke off: what was used as far as it can be told, rather more than less. Who was never called, or said
        no, used nothing."""
        reached = self._pieces or any(attempt.outcome in ("cancelled", "under way") or attempt.outcome.startswith("504")
                                      for attempt in self.trace.attempts[self._attempts :])
        if not reached:
            return Usage()
        most = self._reservation.tokens if self._reservation is not None else 1 << 50
        prompt = self._prompt or estimate(self.request)
        return Usage(min(prompt, most), max(0, min(max(self._pieces, self._bytes // 3), most - prompt)))
