"""Which model answers a request: the one that was asked for, or the best by a policy; then who steps in for it.

What must hold comes first and is never traded: what the caller may use, how far the data may go, what the model can do, what the
budget allows. Only models that pass are compared by quality, price and speed. The same request in the same state gives the same
choice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace

from ownship.gateway import prices, resilience
from ownship.gateway.config import POLICY, REPLY, Ability, Config, PolicyTable, Privacy, may_go
from ownship.gateway.health import Breaker, RetryBudget, Speed
from ownship.gateway.prices import Price
from ownship.gateway.resilience import Candidate, Guard, Reason
from ownship.gateway.trace import Trace
from ownship.gateway.types import Event, GatewayError, Image, Request, ToolResult, Upstream, Usage

_REPLY = 400  # tokens that a reply is taken to have when models are compared
_ANY: frozenset[Reason] = frozenset({"error", "context"})


@dataclass(frozen=True)
class Ask:
    """What a request does not say itself. None is "no bound"."""

    privacy: Privacy = "public"  # how far its data may go
    task: str | None = None  # by which label quality is judged, instead of the policy's
    models: frozenset[str] | None = None  # that the caller may use
    money: int | None = None  # micro-dollars left in the caller's budget
    prompt: int | None = None  # tokens of the prompt; an estimate by default


@dataclass(frozen=True)
class Route:
    """A model of gateway.toml, with everything that is compared."""

    name: str
    upstream: str
    model: str
    privacy: Privacy
    price: Price
    context: int | None
    max_output: int
    abilities: frozenset[Ability]
    quality: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """Who is asked, in this order. `worst` is what any one of them may cost at most, in micro-dollars, and `tokens` how many prompt
    and replies may have: what a budget reserves. `bounded`: the request itself named no bound."""

    asked: str
    routes: tuple[tuple[Route, frozenset[Reason]], ...]  # and the failures of others after which it is asked
    request: Request
    why: str
    skipped: tuple[tuple[str, str], ...]
    worst: int
    tokens: int
    bounded: bool = False


class Router:
    """The one door. `upstreams` are by the names that gateway.toml gives them; the router closes them."""

    def __init__(self, config: Config, upstreams: Mapping[str, Upstream], rng: random.Random | None = None) -> None:
        self.config, self.upstreams = config, upstreams
        self._rng = rng or random.Random()
        self.guards = {
            name: Guard(name, upstreams[name], Breaker(name, config.breaker), RetryBudget(config.retry.share),
                        asyncio.Semaphore(table.concurrency), table.first_token, table.queue)
            for name, table in config.upstreams.items()}
        self.speeds = {name: Speed() for name in config.models}
        self.routes = {
            name: Route(name, table.upstream, table.model or name, config.upstreams[table.upstream].reach, config.price(name),
                        table.context, table.max_output, config.abilities(name), table.quality)
            for name, table in config.models.items()}

    def names(self, ask: Ask) -> list[str]:
        """What a caller may ask for: the models within its reach, the aliases of those, and the policies."""
        models = [name for name, route in self.routes.items() if _forbidden(route, ask) is None]
        policies = [POLICY + name for name in dict.fromkeys(["auto", *self.config.policies])]
        return [*models, *(alias for alias, target in self.config.aliases.items() if target in {*models, *policies}), *policies]

    def plan(self, request: Request, ask: Ask) -> Plan:
        """Raises GatewayError if no model may answer; says of each why not."""
        target = self.config.aliases.get(request.model, request.model)
        name = target.removeprefix(POLICY)
        if target in self.routes and (ask.models is None or target in ask.models):
            routes, why, skipped = self._named(self.routes[target], request, ask)
        elif target.startswith(POLICY) and (name == "auto" or name in self.config.policies):
            policy = self.config.policies.get(name, PolicyTable())
            prompt = prices.estimate(request) if ask.prompt is None else ask.prompt
            routes, why, skipped = self._chosen(target, policy, request, ask, prompt)
        else:
            raise GatewayError(404, "not_found", f"there is no model {request.model[:100]!r}", "model", "model_not_found")
        bounded = ask.money is not None and request.max_tokens is None
        if bounded:  # a reply without a bound could cost more than was reserved for it
            request = replace(request, max_tokens=min(route.max_output for route, _ in routes))
        most = _most(request, ask)
        worst = max(self._worst(route, request, most) for route, _ in routes)
        reply = request.max_tokens if request.max_tokens is not None else max(route.max_output for route, _ in routes)
        return Plan(request.model, tuple(routes), request, why, tuple(skipped), worst, most + request.n * reply, bounded)

    def stream(self, plan: Plan, trace: Trace, deadline: float | None = None) -> AsyncGenerator[Event, None]:
        """The reply; `trace` (of `Trace(plan.asked)`) is written as it goes. `deadline` is on `time.monotonic`."""
        candidates = []
        for route, after in plan.routes:
            request = plan.request if plan.request.model == route.model else replace(plan.request, model=route.model)
            if plan.bounded and (request.max_tokens or 0) >= REPLY and self.config.upstreams[route.upstream].engine is not None:
                request = replace(request, max_tokens=None)  # the engine's own bound is less, and minds the room there is
            candidates.append(
                Candidate(route.name, self.guards[route.upstream], self.speeds[route.name], request, route.context, after))
        trace.why = plan.why
        trace.skipped.extend(plan.skipped)
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self.config.retry.deadline
        return resilience.stream(candidates, trace, deadline, self.config.retry, self._rng, self.config.hedge.on)

    async def count(self, request: Request, ask: Ask) -> int:
        """Tokens of the prompt, as the model that would answer counts them."""
        plan = self.plan(request, ask)
        route = plan.routes[0][0]
        return await self.guards[route.upstream].upstream.count(replace(plan.request, model=route.model))

    def cost(self, model: str, usage: Usage) -> int:
        """Micro-dollars, of the model that `trace.model` names."""
        return prices.cost(self.routes[model].price, usage)

    async def close(self) -> None:
        await asyncio.gather(*(guard.upstream.close() for guard in self.guards.values()))

    def _worst(self, route: Route, request: Request, most: int) -> int:
        """`most` tokens of the prompt."""
        reply = route.max_output if request.max_tokens is None else request.max_tokens
        calls = 2 if self.config.hedge.on else 1
        return calls * prices.worst_case(route.price, most, reply, request.n)

    def _named(self, route: Route, request: Request, ask: Ask) -> _Choice:
        """The model that was asked for, then who steps in for it."""
        if refusal := _forbidden(route, ask):
            raise GatewayError(403, "permission", f"{route.name} {refusal}", "model", "privacy")
        fallbacks = self.config.fallbacks.get(route.name)
        lists = {"error": fallbacks.error, "context": fallbacks.context, "budget": fallbacks.budget} if fallbacks else {}
        poor = self._too_dear(route, request, ask)
        names = lists.get("budget", []) if poor else list(dict.fromkeys([*lists.get("error", []), *lists.get("context", [])]))
        routes: list[tuple[Route, frozenset[Reason]]] = [] if poor else [(route, _ANY)]
        skipped = [(route.name, poor)] if poor else []
        needs = _needs(request) if names else frozenset()
        for name in names:
            other = self.routes[name]
            refusal = _forbidden(other, ask) or _unable(other, needs) or self._too_dear(other, request, ask)
            if refusal:
                skipped.append((name, refusal))
            else:
                reasons: tuple[Reason, ...] = ("error", "context")
                routes.append((other, _ANY if poor else frozenset(reason for reason in reasons if name in lists[reason])))
        if not routes:
            raise GatewayError(429, "rate_limit", f"the budget does not suffice for {route.name}: it {poor}", None,
                               "insufficient_quota")
        why = f"{routes[0][0].name} stands in for {route.name}, which {poor}" if poor else f"{route.name} was asked for"
        return routes, why, skipped

    def _chosen(self, asked: str, policy: PolicyTable, request: Request, ask: Ask, prompt: int) -> _Choice:
        """All models that may and can, the best first."""
        needs = _needs(request)
        reply = min(_REPLY, request.max_tokens or _REPLY) * request.n
        room = prompt + (request.max_tokens or 1)
        task = ask.task or policy.task
        usage = Usage(prompt, reply)
        known = [seconds for speed in self.speeds.values() if (seconds := speed.expected(reply)) is not None]
        ranked: list[tuple[float, str, str]] = []
        skipped: list[tuple[str, str]] = []
        for name, route in self.routes.items():
            if (policy.among is not None and name not in policy.among) or (ask.models is not None and name not in ask.models):
                continue
            judged = task if task in route.quality else "general"
            quality = route.quality.get(judged, 0.0)
            cents = prices.cost(route.price, usage) / 10_000
            measured = self.speeds[name].expected(reply)
            # one that was never measured is taken to be like the others, or nobody would ever measure it
            seconds = measured if measured is not None else sum(known) / len(known) if known else 0.0
            refusal = (_forbidden(route, ask) or (None if may_go(policy.privacy, route.privacy) else f"is {route.privacy}")
                       or _unable(route, needs) or self._too_dear(route, request, ask))
            if refusal is None and route.context is not None and room > route.context:
                refusal = f"has room for {route.context} tokens, not {room}"
            if refusal is None and quality < policy.min_quality:
                refusal = f"has quality {quality:.2f}"
            if refusal is None and policy.max_cents is not None and cents > policy.max_cents:
                refusal = f"costs {cents:.3g} cents"
            if refusal is None and policy.max_seconds is not None and seconds > policy.max_seconds:
                refusal = f"takes {seconds:.3g} s"
            if refusal is not None:
                skipped.append((name, refusal))
                continue
            score = policy.quality * quality - policy.cents * cents - policy.seconds * seconds
            said = f"score {score:.3f}: quality {quality:.2f} ({judged}), {cents:.3g} cents, {seconds:.2g} s"
            ranked.append((score, name, said if measured is not None else f"{said} (not measured yet)"))
        if not ranked:
            reasons = "; ".join(f"{name} {refusal}" for name, refusal in skipped) or "there are no models"
            raise GatewayError(400, "invalid", f"no model suits this request: {reasons}", "model", "no_suitable_model")
        now = asyncio.get_running_loop().time()
        # who is known to be down is asked last, whatever its merits
        ranked.sort(key=lambda row: (self.guards[self.routes[row[1]].upstream].breaker.wait(now) > 0, -row[0], row[1]))
        why = f"{asked} chose {ranked[0][1]}, {ranked[0][2]}"
        if len(ranked) > 1:
            why += f"; next {ranked[1][1]}, score {ranked[1][0]:.3f}"
        if skipped:
            why += f"; left out: {', '.join(f'{name} ({refusal})' for name, refusal in skipped)}"
        return [(self.routes[name], _ANY) for _, name, _ in ranked], why[:800], skipped

    def _too_dear(self, route: Route, request: Request, ask: Ask) -> str | None:
        if ask.money is None or (worst := self._worst(route, request, _most(request, ask))) <= ask.money:
            return None
        return f"may cost {worst / 1e6:.6f} dollars, and {max(0, ask.money) / 1e6:.6f} are left"


_Choice = tuple[list[tuple[Route, frozenset[Reason]]], str, list[tuple[str, str]]]


def _forbidden(route: Route, ask: Ask) -> str | None:
    """Why this caller's data may not go there, whatever else speaks for it."""
    if ask.models is not None and route.name not in ask.models:
        return "is not allowed for this key"
    return None if may_go(ask.privacy, route.privacy) else f"is {route.privacy}, and this data must stay {ask.privacy}"


def _most(request: Request, ask: Ask) -> int:
    return prices.most(request) if ask.prompt is None else ask.prompt


def _unable(route: Route, needs: frozenset[Ability]) -> str | None:
    missing = sorted(needs - route.abilities)
    return f"cannot do {', '.join(missing)}" if missing else None


def _needs(request: Request) -> frozenset[Ability]:
    """What a model must be able to do for this request."""
    needs: set[Ability] = set()
    parts = [part for message in request.messages for part in message.parts]
    if any(isinstance(part, Image) or (isinstance(part, ToolResult) and any(isinstance(item, Image) for item in part.content))
           for part in parts):
        needs.add("images")
    if request.tools:
        needs.add("tools")
    if request.format is not None:
        needs.add("schema")
    if request.logprobs is not None:
        needs.add("logprobs")
    if request.prompt is not None:
        needs.add("completions")
    if request.n > 1:
        needs.add("choices")
    return frozenset(needs)
