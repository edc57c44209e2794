"""Upstreams that say what a test wrote for them, and an application that puts the fronts before one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ownship.gateway import failure, messages, sse
from ownship.gateway.fronts import FRONTS, begun, stream
from ownship.gateway.merge import together
from ownship.gateway.reply import Reply, gather
from ownship.gateway.types import Event, GatewayError, Request, Upstream, Wire

Script = Callable[[Request], Iterable[Event | GatewayError]]


class Scripted:
    """Keeps what it was asked. An error in the script is raised where it stands."""

    def __init__(self, script: Script | Iterable[Event | GatewayError]) -> None:
        events = script if callable(script) else list(script)
        self.script: Script = events if callable(events) else lambda request: events
        self.requests: list[Request] = []
        self.closed = 0
        self.endless = False

    async def stream(self, request: Request, deadline: float | None = None) -> AsyncIterator[Event]:
        self.requests.append(request)
        try:
            for event in self.script(request):
                if isinstance(event, GatewayError):
                    raise event
                yield event
            while self.endless:
                await asyncio.sleep(0.01)
                yield event
        finally:
            self.closed += 1

    async def count(self, request: Request) -> int:
        self.requests.append(request)
        return 42

    async def close(self) -> None:
        pass


def app(upstream: Upstream) -> Starlette:
    async def answer(http: HTTPRequest, wire: Wire) -> Response:
        front = FRONTS[wire]
        try:
            asked = front.read(sse.loads(await http.body()))
            events = together([upstream.stream(request) for request in asked.requests], asked.request.n)
            if asked.stream:
                return StreamingResponse(stream(front.writer(asked), await begun(events)), media_type="text/event-stream")
            return JSONResponse(front.whole(asked, await gather(events)))
        except GatewayError as error:
            return JSONResponse(front.refusal(error), error.status, failure.headers(error))

    def route(wire: Wire) -> Route:
        async def handle(http: HTTPRequest) -> Response:
            return await answer(http, wire)

        return Route("/v1" + FRONTS[wire].PATH, handle, methods=["POST"])

    async def count(http: HTTPRequest) -> Response:
        try:
            return JSONResponse({"input_tokens": await upstream.count(messages.read_count(sse.loads(await http.body())))})
        except GatewayError as error:
            return JSONResponse(messages.refusal(error), error.status)

    return Starlette(routes=[*(route(wire) for wire in FRONTS), Route("/v1" + messages.COUNT_PATH, count, methods=["POST"])])


@contextlib.contextmanager
def served(application: Any) -> Iterator[str]:
    """The application behind a real socket; gives its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    server.force_exit = True
    thread.join()


def run(work: Any) -> Any:
    return asyncio.run(work)


async def listed(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def folded(events: Iterable[Event]) -> Reply:
    reply = Reply()
    for event in events:
        reply.add(event)
    return reply


def sent(data: bytes) -> list[dict[str, Any]]:
    """The objects of a stream, without the [DONE]."""
    return [sse.loads(one) for one in sse.Reader().feed(data) if one != b"[DONE]"]
