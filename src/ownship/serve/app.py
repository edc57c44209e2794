"""The HTTP face of the gateway: which path does what."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from ownship.gateway import chat, completions, failure, messages, responses, sse
from ownship.gateway.codec import Asked, Front, Strict, validated
from ownship.gateway.fronts import FRONTS
from ownship.gateway.local import Local
from ownship.gateway.mcp import Toolbox
from ownship.gateway.routing import Router
from ownship.gateway.types import GatewayError, Image, ToolResult, Wire, invalid
from ownship.serve import metrics, openapi
from ownship.serve.admission import Admission, Caller
from ownship.serve.call import Call, Gone, Receive, Scope, Send
from ownship.serve.replies import ENDING, Replies
from ownship.serve.tracing import Spans
from ownship.serve.worlds import PATH, Worlds, described
from ownship.store.store import Store

if TYPE_CHECKING:
    from ownship.serve.workers import Worker

log = logging.getLogger(__name__)
Handler = Callable[[Call], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """`body` in bytes; `images` of one request, and the bytes of each where they are in the request."""

    body: int = 32 << 20
    images: int = 64
    image: int = 20 << 20


class Tokenize(Strict):
    prompt: str
    add_special_tokens: bool | None = None
    model: str | None = None


class Detokenize(Strict):
    tokens: list[int] = Field(max_length=1 << 20)
    model: str | None = None


_COUNT = f"/v1{messages.COUNT_PATH}"
_BODIES: dict[str, tuple[str, type[BaseModel]]] = {
    "/v1/chat/completions": ("OpenAI's chat completions", chat.Body),
    "/v1/completions": ("OpenAI's completions", completions.Body), "/v1/responses": ("OpenAI's responses", responses.Body),
    "/v1/messages": ("Anthropic's messages", messages.Body), _COUNT: ("How many tokens a prompt of messages has", messages.Counted),
    "/tokenize": ("Text to token ids", Tokenize), "/detokenize": ("Token ids to text", Detokenize)}
_READS = {"/v1/models": "The models that the caller may use", "/v1/models/{model}": "One of them",
          "/tokenizer_info": "Special tokens and chat template", "/health": "Is the server alive?",
          "/ready": "Are its engines ready?", "/metrics": "Measurements, for Prometheus", "/openapi.json": "This document"}


class App:
    """An ASGI application. It starts the router's local engines with the server and closes router and toolbox with it; the store
    belongs to whoever opened it."""

    def __init__(self, router: Router, store: Store | None, toolbox: Toolbox | None, limits: Limits, log_bodies: bool,
                 worker: Worker | None, spans: Spans | None, worlds: Worlds | None) -> None:
        self.router, self.store, self.toolbox, self.limits, self.worker = router, store, toolbox, limits, worker
        self.worlds = worlds
        self.admission = Admission(router, store, None if worker is None else worker.rates)
        self.metrics = metrics.Metrics(router)
        self.replies = Replies(router, store, toolbox, self.metrics, log_bodies, spans)
        self.locals = {name: upstream for name, upstream in router.upstreams.items() if isinstance(upstream, Local)}
        self.draining = False
        self.until = float("inf")  # when whatever is under way has to end, once it is draining
        self.on_start: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.created = int(time.time())
        self.routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health}, "/ready": {"GET": self._ready}, "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize}, "/detokenize": {"POST": self._detokenize},
            "/tokenizer_info": {"GET": self._tokenizer_info}, _COUNT: {"POST": self._count}, "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._document}}
        for wire, front in FRONTS.items():
            self.routes[f"/v1{front.PATH}"] = {"POST": self._generating(wire, front)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if scope["type"] != "http":
            return
        call = Call(scope, receive, send)
        try:
            await self._handler(call)(call)
        except Gone:
            call.status = call.status or 499
        except GatewayError as error:
            await self._refuse(call, error)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("request %s failed", call.id)
            await self._refuse(call, GatewayError(500, "internal", "the server failed on this request; its log says why"))

    def _handler(self, call: Call) -> Handler:
        found = self.routes.get(call.path)
        if found is None and call.path.startswith("/v1/models/"):
            found = {"GET": self._model}
        if found is None and self.worlds is not None and (call.path + "/").startswith(f"{PATH}/"):
            self.worlds.check(call)
            return self._world
        if found is None:
            raise GatewayError(404, "not_found", f"no such path: {call.path[:200]}")
        method = "GET" if call.method == "HEAD" else call.method
        if method not in found:
            call.told["allow"] = ", ".join(found)
            raise GatewayError(405, "invalid", f"{call.path} takes {', '.join(found)}, not {call.method[:20]}")
        return found[method]

    async def _refuse(self, call: Call, error: GatewayError) -> None:
        if call.status:  # it has begun: all that is left is to break off
            return
        said = failure.anthropic_error if call.path.startswith(f"/v1{messages.PATH}") else failure.openai_error
        await call.reply(error.status, sse.dumps(said(error)), failure.headers(error))

    # Its life

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        for local in self.locals.values():
            local.engine.start()
        tasks = [asyncio.create_task(self.replies.keep_alive())]
        if self.on_start is not None:
            tasks.append(asyncio.create_task(self.on_start()))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in tasks:
            task.cancel()
        await self.router.close()
        if self.worlds is not None:
            self.worlds.close()
        if self.toolbox is not None:
            await self.toolbox.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def drain(self, seconds: float) -> None:
        """From now on nothing new is taken; what is under way gets `seconds` to end, and is then told that the server ends."""
        self.draining = True
        self.until = min(self.until, time.monotonic() + seconds)
        while self.replies.open and time.monotonic() < self.until:
            await asyncio.sleep(0.02)
        self.replies.stop()

    # Small answers

    async def _health(self, call: Call) -> None:
        await call.reply(200, b'{"status":"ok"}')

    async def _ready(self, call: Call) -> None:
        states = {name: {"state": local.engine.state, **({"reason": local.engine.reason} if local.engine.reason else {})}
                  for name, local in self.locals.items()}
        well = not self.draining and all(state["state"] == "ready" for state in states.values())
        status = "ready" if well else "draining" if self.draining else "not ready"
        headers = {} if well else {"Retry-After": "1"}
        await call.reply(200 if well else 503, sse.dumps({"status": status, "engines": states}), headers)

    def _card(self, name: str) -> dict[str, Any]:
        route = self.router.routes.get(name)
        more = {"max_model_len": route.context} if route is not None and route.context is not None else {}
        return {"id": name, "object": "model", "created": self.created, "owned_by": "ownship", **more}

    async def _models(self, call: Call) -> None:
        names = self.router.names((await self._admit(call, "models")).ask)
        data = [self._card(name) for name in names]
        await call.reply(200, sse.dumps({"object": "list", "data": data, "has_more": False, "first_id": names[0] if names else None,
                                         "last_id": names[-1] if names else None}))

    async def _model(self, call: Call) -> None:
        name = call.path.removeprefix("/v1/models/")
        if name not in self.router.names((await self._admit(call, "models")).ask):
            raise GatewayError(404, "not_found", f"there is no model {name[:100]!r}", "model", "model_not_found")
        await call.reply(200, sse.dumps(self._card(name)))

    async def _tokenize(self, call: Call) -> None:
        await self._admit(call, "tokenize")
        given = validated(Tokenize, await self._body(call))
        ids = self._local(given.model).tokenize(given.prompt, given.add_special_tokens is not False)
        await call.reply(200, sse.dumps({"tokens": ids, "count": len(ids)}))

    async def _detokenize(self, call: Call) -> None:
        await self._admit(call, "tokenize")
        given = validated(Detokenize, await self._body(call))
        await call.reply(200, sse.dumps({"prompt": self._local(given.model).detokenize(given.tokens)}))

    async def _tokenizer_info(self, call: Call) -> None:
        await self._admit(call, "tokenize")
        await call.reply(200, sse.dumps(self._local(None).tokenizer_info()))

    async def _count(self, call: Call) -> None:
        caller = await self._admit(call, "messages")
        self.admission.pace(caller)
        tokens = await self.router.count(messages.read_count(await self._body(call)), caller.ask)
        await call.reply(200, sse.dumps({"input_tokens": tokens}))

    async def _metrics(self, call: Call) -> None:
        await self._admit(call, "metrics")
        text = self.metrics.text()
        await call.reply(200, text if self.worker is None else await self.worker.added(text), kind=metrics.KIND)

    async def _document(self, call: Call) -> None:
        streams = frozenset(f"/v1{front.PATH}" for front in FRONTS.values())
        try:
            models = self.router.names((await self._admit(call, "models")).ask)
        except GatewayError:  # the document is for everyone, the names of the models are not
            models = []
        await call.reply(200, sse.dumps(openapi.document(_BODIES, _READS, streams, models, described() if self.worlds else {})))

    async def _world(self, call: Call) -> None:
        caller = await self._admit(call, "worlds")
        if call.method == "POST":
            self.admission.pace(caller)
            if self.draining:
                raise ENDING
        assert self.worlds is not None
        await self.worlds.answer(call, "" if caller.key is None else caller.key.name)

    def _local(self, name: str | None) -> Local:
        """The local model of that name; without one, the first there is."""
        for route in self.router.routes.values():
            if route.upstream in self.locals and (name is None or self.router.config.aliases.get(name, name) == route.name):
                return self.locals[route.upstream]
        raise GatewayError(404, "not_found", "only models of the local engine show their tokenizer, and there is none"
                           + (" of that name" if name is not None else ""), "model", "model_not_found")

    # What every path has in common

    async def _admit(self, call: Call, endpoint: str) -> Caller:
        return await self.admission.admit(call, endpoint)

    async def _body(self, call: Call) -> Any:
        call.json_expected()
        data = await call.body(self.limits.body)
        try:
            return sse.loads(data)
        except ValueError as error:
            raise invalid(f"the body is not valid JSON: {error}") from None

    def _generating(self, wire: Wire, front: Front) -> Handler:
        async def handler(call: Call) -> None:
            caller = await self._admit(call, wire)
            self.admission.pace(caller)
            asked = front.read(await self._body(call))
            self._check(asked)
            if self.draining:
                raise ENDING
            await self.replies.answer(call, wire, front, caller, asked)

        return handler

    def _check(self, asked: Asked) -> None:
        images = [part for message in asked.request.messages for outer in message.parts
                  for part in (outer.content if isinstance(outer, ToolResult) else (outer,)) if isinstance(part, Image)]
        if len(images) > self.limits.images:
            raise invalid(f"there are {len(images)} images, and a request may have {self.limits.images}", "messages")
        if any(len(image.url) * 3 // 4 > self.limits.image for image in images):
            raise GatewayError(413, "too_large", f"an image is larger than {self.limits.image >> 20} MB", "messages")


def create(router: Router, store: Store | None = None, toolbox: Toolbox | None = None, limits: Limits = Limits(),
           log_bodies: bool = False, worker: Worker | None = None, spans: Spans | None = None,
           worlds: Worlds | None = None) -> App:
    """The application over a router; without a `store` there are no keys, and whoever is on this machine may do everything.
    `worker`: one of several processes. `spans`: OpenTelemetry's. `worlds`: who answers at /v1/worlds."""
    return App(router, store, toolbox, limits, log_bodies, worker, spans, worlds)
