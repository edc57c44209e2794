"""Models behind a URL: one request, one reply, every answer of a server bounded in time and size. Trying again, and elsewhere, is
for others to decide."""

from __future__ import annotations

import asyncio
import math
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import httpx

from ownship.errors import UserError
from ownship.gateway import failure, sse, to_chat, to_completions, to_messages, to_responses
from ownship.gateway.codec import Dialect
from ownship.gateway.connections import Connections, Late, Reply, head
from ownship.gateway.reply import close
from ownship.gateway.types import Event, GatewayError, Image, Request, Text, ToolCall, ToolResult, Used, Wire
from ownship.gateway.within import within

DIALECTS: Mapping[Wire, Dialect] = {"chat": to_chat, "completions": to_completions, "responses": to_responses,
                                    "messages": to_messages}

# headers that tell an upstream whose request it is part of: set by who has the request, in its task
TRACING: ContextVar[Mapping[str, str]] = ContextVar("ownship_tracing", default={})  # noqa: B039
MAX_REPLY = 32 << 20  # bytes of one reply, whole or streamed: 64 choices of 100,000 tokens have less
_MAX_REFUSAL = 64 << 10  # bytes of an error that are read
_CONNECT = 10.0  # seconds
_GARBLED = (KeyError, IndexError, TypeError, ValueError, AttributeError, UnicodeError)  # what reading a strange reply ends in
_IMAGE_TOKENS = 1600  # what one of the largest costs in the field


def estimate(request: Request) -> int:
    """Tokens of the prompt, rather too many than too few: no tokenizer in use needs more than a token for three bytes of running
    text on the average (English has four to five), and a message has a few tokens around it."""
    if request.prompt is not None:
        return len(request.prompt) if isinstance(request.prompt, tuple) else len(request.prompt.encode()) // 3 + 1
    size, images = 0, 0
    for tool in request.tools:
        size += len(tool.name) + len(tool.description.encode()) + len(sse.dumps(tool.schema)) + 60
    if request.format is not None and request.format.schema is not None:
        size += len(sse.dumps(request.format.schema))
    for message in request.messages:
        size += 24
        parts: Iterable[Any] = message.parts
        for part in parts:
            for one in part.content if isinstance(part, ToolResult) else (part,):
                if isinstance(one, Image):
                    images += 1
                elif isinstance(one, ToolCall):
                    size += len(one.name) + len(one.arguments.encode()) + 30
                elif isinstance(one, Text) or one.text:
                    size += len(one.text.encode())
    return size // 3 + images * _IMAGE_TOKENS + 1


class HTTPUpstream:
    """A server at `base_url` that speaks `wire`. A `base_url` without a path gets /v1, where all the formats live.

    `model` is the server's name of the model, where it is not the one the client asked for. `silence` is the longest time without a
    byte, in seconds: of a reply that is not streamed, the longest time to think. Raises UserError for a `base_url` that is none.
    """

    def __init__(self, base_url: str, wire: Wire, key: str | None = None, model: str | None = None, silence: float = 120.0,
                 max_reply: int = MAX_REPLY, transport: httpx.AsyncBaseTransport | None = None) -> None:
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise UserError(f"{base_url!r} is not a URL ({error})") from None
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
            raise UserError(f"an upstream's URL is http(s)://host[/path], not {httpx.URL(base_url, username='', password='')!s}")
        self.base_url = str(url.copy_with(path="/v1" if url.path == "/" else url.path.rstrip("/")))
        self.wire, self.dialect, self.model = wire, DIALECTS[wire], model
        self.silence, self.max_reply = silence, max_reply
        self._key = key
        headers = {"content-type": "application/json", "accept-encoding": "identity"}  # no bombs, and no work for short events
        if wire == "messages":
            headers |= to_messages.HEADERS | ({"x-api-key": key} if key else {})
        elif key:
            headers["authorization"] = f"Bearer {key}"
        self._urls = {path: httpx.URL(self.base_url + path) for path in (self.dialect.PATH, to_messages.COUNT_PATH)}
        self._headers = list(headers.items())
        self._heads = {path: head(url, self._headers) for path, url in self._urls.items()}
        # a transport without httpx's client: cookies, redirects and hooks take longer than the rest, and none of them is wanted (a
        # redirect could carry the key elsewhere)
        proxy = _proxy(url)
        self._transport = transport or (Connections(url) if proxy is None else httpx.AsyncHTTPTransport(proxy=proxy))
        self.punctual = isinstance(self._transport, Connections)  # ends at a deadline by itself: nobody has to watch each event

    def __repr__(self) -> str:
        return f"HTTPUpstream({self.base_url!r}, {self.wire!r})"  # and not the key

    async def stream(self, request: Request, deadline: float | None = None) -> AsyncIterator[Event]:
        asked = self._named(request)
        body = self.dialect.body(asked)
        # a reply that comes whole is silent while it is thought out, and may take as long as the request may
        silence = self.silence if asked.stream or deadline is None else max(self.silence, deadline - time.monotonic())
        response = await self._open(self.dialect.PATH, body, deadline, silence)
        try:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "text/event-stream":
                async for event in self._events(response, asked, deadline):
                    yield event
                return
            if kind != "application/json":  # also what servers send that know no streams
                raise failure.garbled(f"content type {kind[:40]!r}")
            reply = _parsed(await self._whole(response, self.max_reply, deadline))
            try:
                events = self.dialect.events(reply, asked)
            except _GARBLED as error:
                raise _strange(error) from None
        finally:
            await response.aclose()
        for event in events:
            yield event

    async def count(self, request: Request) -> int:
        """Anthropic's own count, and an estimate for the other formats, which have none."""
        if self.wire != "messages":
            return estimate(request)
        response = await self._open(to_messages.COUNT_PATH, to_messages.counted(self._named(request)), None)
        try:
            reply = _parsed(await self._whole(response, _MAX_REFUSAL, None))
        finally:
            await response.aclose()
        tokens = reply.get("input_tokens") if isinstance(reply, dict) else None
        if not isinstance(tokens, int):
            raise failure.garbled("no input_tokens")
        return tokens

    async def close(self) -> None:
        await self._transport.aclose()

    def _named(self, request: Request) -> Request:
        return request if self.model is None else replace(request, model=self.model)

    async def _open(self, path: str, body: Any, deadline: float | None, silence: float | None = None) -> httpx.Response | Reply:
        """A reply of status 200 whose body has not been read. Whoever has it closes it."""
        silence = self.silence if silence is None else silence
        try:
            if isinstance(self._transport, Connections):
                begin = self._heads[path]
                if tracing := TRACING.get():
                    begin += "".join(f"{name}: {value}\r\n" for name, value in tracing.items()).encode("latin-1", "replace")
                response: httpx.Response | Reply = await self._transport.post(
                    begin, sse.dumps(body), _CONNECT, silence, _on_the_loop(deadline))
            else:
                response = await self._within(self._post(path, sse.dumps(body), silence), deadline)
        except Late:
            raise _late() from None
        except httpx.TimeoutException:
            raise GatewayError(504, "timeout", "the upstream did not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GatewayError(502, "upstream", f"the upstream cannot be reached ({type(error).__name__})") from None
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise failure.garbled("an encoding that was not asked for")
            if response.status_code != 200:
                raise await self._refused(response, deadline)
            return response
        except BaseException:
            await response.aclose()
            raise

    async def _post(self, path: str, body: bytes, silence: float) -> httpx.Response:
        assert not isinstance(self._transport, Connections)
        timeouts = {"timeout": {"connect": _CONNECT, "read": silence, "write": silence, "pool": None}}
        headers = [*self._headers, *TRACING.get().items()]
        return await self._transport.handle_async_request(
            httpx.Request("POST", self._urls[path], headers=headers, content=body, extensions=timeouts))

    async def _refused(self, response: httpx.Response | Reply, deadline: float | None) -> GatewayError:
        try:
            body = sse.loads(await self._whole(response, _MAX_REFUSAL, deadline))
        except (ValueError, GatewayError):
            body = None
        error = failure.from_status(response.status_code, response.headers, body)
        if self._key and self._key in error.message:  # servers have been seen to repeat it
            return GatewayError(error.status, error.kind, error.message.replace(self._key, "…"), error.param, error.code,
                                error.retry_after)
        return error

    async def _events(self, response: httpx.Response | Reply, request: Request, deadline: float | None) -> AsyncIterator[Event]:
        parser, reader, started, size = self.dialect.parser(request), sse.Reader(), False, 0
        chunks = aiter(response) if isinstance(response, Reply) else response.aiter_raw()
        try:
            while (chunk := await self._next(chunks, deadline)) is not None:
                size += len(chunk)
                if size > self.max_reply:
                    raise _too_large(self.max_reply)
                for data in reader.feed(chunk):
                    try:
                        events = parser.feed(data)
                    except _GARBLED as error:
                        raise _strange(error) from None
                    for event in events:
                        started = True
                        yield event
                        if isinstance(event, Used):
                            if isinstance(response, Reply):
                                response.spare()
                            return
        finally:
            await close(chunks)
        if not started:
            raise failure.broken_off()
        for event in parser.end():
            yield event

    async def _whole(self, response: httpx.Response | Reply, limit: int, deadline: float | None) -> bytes:
        chunks = aiter(response) if isinstance(response, Reply) else response.aiter_raw()
        pieces, size = [], 0
        try:
            while (chunk := await self._next(chunks, deadline)) is not None:
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                pieces.append(chunk)
        finally:
            await close(chunks)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _next(self, chunks: AsyncIterator[bytes], deadline: float | None) -> bytes | None:
        """More of a reply; None at its end."""
        try:
            if isinstance(chunks, Reply):  # which minds its deadline itself
                return await anext(chunks)
            more: bytes = await self._within(anext(chunks), deadline)
            return more
        except StopAsyncIteration:
            return None
        except Late:
            raise _late() from None
        except httpx.TimeoutException:
            raise GatewayError(504, "timeout", f"the upstream was silent for {self.silence:g} seconds") from None
        except httpx.HTTPError:
            raise failure.broken_off() from None

    async def _within(self, work: Any, deadline: float | None) -> Any:
        if deadline is None:
            return await work
        try:
            return await within(work, _on_the_loop(deadline))
        except TimeoutError:
            raise _late() from None


def _on_the_loop(deadline: float | None) -> float:
    """On the loop's clock, which a test may have set."""
    return math.inf if deadline is None else asyncio.get_running_loop().time() + deadline - time.monotonic()


def _late() -> GatewayError:
    return GatewayError(504, "timeout", "the reply took longer than the request may take")


def _too_large(limit: int) -> GatewayError:
    return GatewayError(502, "upstream", f"the upstream's reply is larger than {limit} bytes")


def _proxy(url: httpx.URL) -> str | None:
    """As the environment has it, in http_proxy, https_proxy, all_proxy and no_proxy."""
    proxies = urllib.request.getproxies()
    return None if urllib.request.proxy_bypass(url.host) else proxies.get(url.scheme) or proxies.get("all")


def _parsed(data: bytes) -> Any:
    try:
        return sse.loads(data)
    except ValueError:
        raise failure.garbled("not JSON") from None


def _strange(error: Exception) -> GatewayError:
    """What was missing or wrong, but nothing of the reply itself."""
    return failure.garbled(f"no {error.args[0]}" if isinstance(error, KeyError) else type(error).__name__)
