"""The HTTP face of the gateway: which path does what, and how a reply gets to its client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from ownship.gateway import failure, messages, sse, toolloop
from ownship.gateway.codec import Asked, Front, Strict, validated
from ownship.gateway.fronts import FRONTS, begun
from ownship.gateway.local import Local
from ownship.gateway.mcp import Toolbox
from ownship.gateway.merge import together
from ownship.gateway.reply import close, gather
from ownship.gateway.routing import Ask, Router
from ownship.gateway.trace import Trace
from ownship.gateway.types import Event, GatewayError, Image, Request, Started, ToolResult, Wire, invalid
from ownship.serve.call import EVENTS, Call, Gone, Receive, Scope, Send

KEEP_ALIVE = 15.0  # seconds of silence after which a stream says that it is still there

log = logging.getLogger(__name__)
Handler = Callable[[Call], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """`body` in bytes; `images` of one request, and the bytes of each where they are in the request."""

    body: int = 32 << 20
    images: int = 64
    image: int = 20 << 20


class App:
    """An ASGI application. It starts the router's local engines with the server and closes the router with it."""

    def __init__(self, router: Router, toolbox: Toolbox | None, limits: Limits) -> None:
        self.router, self.toolbox, self.limits = router, toolbox, limits
        self.locals = {name: upstream for name, upstream in router.upstreams.items() if isinstance(upstream, Local)}
        self.open: set[Call] = set()  # requests to models under way
        self.draining = False
        self.until = float("inf")  # when whatever is under way has to end, once it is draining
        self.on_start: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.created = int(time.time())
        self._streams: dict[Call, bytes] = {}  # those that have begun, and what they say when they have nothing to say
        self._pulse: asyncio.Task[None] | None = None
        self.routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health}, "/ready": {"GET": self._ready}, "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize}, "/detokenize": {"POST": self._detokenize},
            "/tokenizer_info": {"GET": self._tokenizer_info}, f"/v1{messages.COUNT_PATH}": {"POST": self._count}}
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
        self._pulse = asyncio.create_task(self._keep_alive())
        starting = asyncio.create_task(self.on_start()) if self.on_start is not None else None
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in (self._pulse, starting):
            if task is not None:
                task.cancel()
        await self.router.close()
        if self.toolbox is not None:
            await self.toolbox.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def drain(self, seconds: float) -> None:
        """From now on nothing new is taken; what is under way gets `seconds` to end, and is then told that the server ends."""
        self.draining = True
        self.until = min(self.until, time.monotonic() + seconds)
        while self.open and time.monotonic() < self.until:
            await asyncio.sleep(0.02)
        for call in [*self.open]:
            call.stop(_ENDING)

    async def _keep_alive(self) -> None:
        """One task for all streams: a timer for each would cost more than it says."""
        while True:
            await asyncio.sleep(KEEP_ALIVE / 4)
            late = time.monotonic() - KEEP_ALIVE
            for call, comment in [*self._streams.items()]:
                if call.touched < late:
                    call.touched = time.monotonic()
                    asyncio.create_task(call.write(comment))  # noqa: RUF006

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
        names = self.router.names(await self._admit(call, "models"))
        data = [self._card(name) for name in names]
        await call.reply(200, sse.dumps({"object": "list", "data": data, "has_more": False, "first_id": names[0] if names else None,
                                         "last_id": names[-1] if names else None}))

    async def _model(self, call: Call) -> None:
        name = call.path.removeprefix("/v1/models/")
        if name not in self.router.names(await self._admit(call, "models")):
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
        ask = await self._admit(call, "messages")
        tokens = await self.router.count(messages.read_count(await self._body(call)), ask)
        await call.reply(200, sse.dumps({"input_tokens": tokens}))

    def _local(self, name: str | None) -> Local:
        """The local model of that name; without one, the first there is."""
        for route in self.router.routes.values():
            if route.upstream in self.locals and (name is None or self.router.config.aliases.get(name, name) == route.name):
                return self.locals[route.upstream]
        raise GatewayError(404, "not_found", "only models of the local engine show their tokenizer, and there is none"
                           + (" of that name" if name is not None else ""), "model", "model_not_found")

    # Replies of models

    async def _admit(self, call: Call, endpoint: str) -> Ask:
        return Ask()

    async def _body(self, call: Call) -> Any:
        call.json_expected()
        data = await call.body(self.limits.body)
        try:
            return sse.loads(data)
        except ValueError as error:
            raise invalid(f"the body is not valid JSON: {error}") from None

    def _generating(self, wire: Wire, front: Front) -> Handler:
        async def handler(call: Call) -> None:
            ask = await self._admit(call, wire)
            asked = front.read(await self._body(call))
            self._check(asked)
            if self.draining:
                raise _ENDING
            self.open.add(call)
            call.watch()
            try:
                await self._answer(call, front, asked, ask)
            finally:
                call.unwatch()
                self.open.discard(call)
                self._streams.pop(call, None)

        return handler

    def _check(self, asked: Asked) -> None:
        images = [part for message in asked.request.messages for outer in message.parts
                  for part in (outer.content if isinstance(outer, ToolResult) else (outer,)) if isinstance(part, Image)]
        if len(images) > self.limits.images:
            raise invalid(f"there are {len(images)} images, and a request may have {self.limits.images}", "messages")
        if any(len(image.url) * 3 // 4 > self.limits.image for image in images):
            raise GatewayError(413, "too_large", f"an image is larger than {self.limits.image >> 20} MB", "messages")

    async def _answer(self, call: Call, front: Front, asked: Asked, ask: Ask) -> None:
        traces = [Trace(request.model) for request in asked.requests]
        deadline = time.monotonic() + self.router.config.retry.deadline
        streams = [self._events(request, ask, trace, deadline) for request, trace in zip(asked.requests, traces, strict=True)]
        events = together(streams, asked.request.n)
        try:
            if asked.stream:
                await self._stream(call, front, asked, events, traces[0])
            else:
                reply = await gather(events)
                await call.reply(200, sse.dumps(front.whole(asked, reply)), traces[0].headers())
        except asyncio.CancelledError:
            if (error := call.why_cancelled()) is None:
                raise
            raise error from None

    async def _stream(self, call: Call, front: Front, asked: Asked, events: AsyncIterator[Event], trace: Trace) -> None:
        writer = front.writer(asked)
        begin = asyncio.ensure_future(begun(events))
        try:
            await asyncio.wait((begin,), timeout=KEEP_ALIVE)
            if begin.done():
                events = begin.result()
                await call.begin(200, EVENTS, {**_STREAM, **trace.headers()})
            else:  # somebody on the way may take silence for death
                await call.begin(200, EVENTS, _STREAM)
            self._streams[call] = front.KEEP_ALIVE
            events = await begin
            async for event in events:
                if data := writer.write(event):
                    await call.write(data)
        except GatewayError as error:
            if not call.status:
                raise
            await call.write(writer.fail(error))
        except asyncio.CancelledError:
            if not call.status or (why := call.why_cancelled()) is None:
                raise
            await call.write(writer.fail(why))
        finally:
            begin.cancel()
            await close(events)
        self._streams.pop(call, None)
        await call.end()

    async def _events(self, request: Request, ask: Ask, trace: Trace, deadline: float) -> AsyncGenerator[Event, None]:
        """The reply to one request, tools of the gateway included."""
        def turn(request: Request) -> AsyncGenerator[Event, None]:
            return self._turn(request, ask, trace, deadline)

        if self.toolbox is None:
            stream = turn(request)
        else:
            stream = toolloop.run(request, turn, self.toolbox, ask.privacy, self.router.config.mcp_rounds, trace, deadline)
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                yield event

    async def _turn(self, request: Request, ask: Ask, trace: Trace, deadline: float) -> AsyncGenerator[Event, None]:
        """One question to a model."""
        plan = self.router.plan(request, ask)
        async with contextlib.aclosing(self.router.stream(plan, trace, deadline)) as events:
            async for event in events:
                if isinstance(event, Started):  # the client knows it by the gateway's name
                    event = replace(event, model=trace.model or event.model)
                yield event


_ENDING = GatewayError(503, "overloaded", "the server is shutting down", code="shutting_down", retry_after=1.0)
_STREAM: Mapping[str, str] = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Tokenize(Strict):
    prompt: str
    add_special_tokens: bool | None = None
    model: str | None = None


class Detokenize(Strict):
    tokens: list[int] = Field(max_length=1 << 20)
    model: str | None = None


def create(router: Router, toolbox: Toolbox | None = None, limits: Limits = Limits()) -> App:
    """The application over a router; see `App`."""
    return App(router, toolbox, limits)
