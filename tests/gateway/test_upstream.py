"""Servers that fail, lie, stall or never end: what comes of it is an error that says so, in bounded time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from json import dumps, loads
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import listed, run

from ownship.errors import UserError
from ownship.gateway.types import Event, GatewayError, Message, Request, Started, Text, TextDelta, Wire
from ownship.gateway.upstream import DIALECTS, HTTPUpstream

ASKED: dict[Wire, Request] = {wire: Request("m", prompt="x") if wire == "completions" else
                              Request("m", (Message("user", (Text("Hi"),)),), max_tokens=9) for wire in DIALECTS}
JSON, STREAM = {"content-type": "application/json"}, {"content-type": "text/event-stream; charset=utf-8"}
HELLO = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"He"}}]}\n\n'


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


def answer(status: int, content: bytes | AsyncIterator[bytes] = b"", headers: dict[str, str] | None = None,
           json: Any = None) -> httpx.Response:
    """A response whose body has not been looked at, as it comes from a socket."""
    if json is not None:
        content, headers = dumps(json).encode(), JSON
    return httpx.Response(status, headers=headers, content=_pieces(content) if isinstance(content, bytes) else content)


def mocked(handler: Callable[[httpx.Request], httpx.Response], wire: Wire = "chat", **options: Any) -> HTTPUpstream:
    return HTTPUpstream("http://server", wire, "sk-secret", transport=httpx.MockTransport(handler), **options)


def fails(upstream: HTTPUpstream, request: Request | None = None, deadline: float | None = None) -> GatewayError:
    with pytest.raises(GatewayError) as error:
        run(listed(upstream.stream(request or ASKED[upstream.wire], deadline)))
    assert "secret" not in error.value.message
    return error.value


@pytest.mark.parametrize("wire", DIALECTS)
@pytest.mark.parametrize("response", [
    lambda: answer(200, content=b"<html>hello</html>", headers={"content-type": "text/html"}),
    lambda: answer(200, content=b"{}"),
    lambda: answer(204),
    lambda: answer(301, headers={"location": "http://elsewhere/v1"}),
    lambda: answer(200, content=b"{", headers=JSON),
    lambda: answer(200, content=b"", headers=JSON),
    lambda: answer(200, content=b"[]", headers=JSON),
    lambda: answer(200, content=b'{"choices": [], "output": [], "content": []}', headers=JSON),
    lambda: answer(200, content=b"[" * 100_000, headers=JSON),
    lambda: answer(200, content=b'{"a": NaN}', headers=JSON),
    lambda: answer(200, content=b"\xff\xfe", headers=JSON),
    lambda: answer(200, content=b"", headers=STREAM),
    lambda: answer(200, content=b"data: [DONE]\n\n", headers=STREAM),
    lambda: answer(200, content=b"data: hello\n\n", headers=STREAM),
    lambda: answer(200, content=b"data: {}\n\ndata: []\n\n", headers=STREAM),
    lambda: answer(200, content=b"\x00" * 1000, headers=STREAM),
    lambda: answer(200, content=HELLO, headers=STREAM),
    lambda: answer(200, content=b"x", headers={**STREAM, "content-encoding": "br"}),
    lambda: answer(200, content=b"x", headers={**JSON, "content-encoding": "gzip"}),
    lambda: answer(500, content=b"<html>500</html>"),
    lambda: answer(502, content=b"[" * 100_000),
])
def test_what_is_no_reply(response: Callable[[], httpx.Response], wire: Wire) -> None:
    error = fails(mocked(lambda request: response(), wire))
    assert (error.status, error.kind) == (502, "upstream")


def fuzzed(keys: list[str]) -> st.SearchStrategy[Any]:
    leaves = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False, allow_infinity=False),
                       st.sampled_from(VALUES))
    names = st.sampled_from(keys)
    return st.recursive(leaves, lambda one: st.lists(one, max_size=3) | st.dictionaries(names, one, max_size=5), max_leaves=25)


KEYS = ["type", "choices", "index", "delta", "message", "content", "text", "tool_calls", "function", "name", "arguments", "id",
        "usage", "finish_reason", "logprobs", "tokens", "token_logprobs", "top_logprobs", "output", "item", "output_index",
        "response", "status", "content_block", "input", "stop_reason", "error", "reasoning_details", "summary", "partial_json",
        "call_id", "prompt_tokens", "reasoning_content", "model", "bytes", "token", "logprob", "text_offset", "incomplete_details"]
VALUES = ["", "x", "text", "message", "function_call", "reasoning", "stop", "end_turn", "completed", "response.created",
          "response.output_text.delta", "response.output_item.added", "response.completed", "content_block_start",
          "content_block_delta", "text_delta", "tool_use", "message_start", "message_delta", "input_json_delta"]


@pytest.mark.parametrize("wire", DIALECTS)
@settings(max_examples=100, deadline=None)
@given(st.lists(fuzzed(KEYS), max_size=4), st.booleans())
def test_strange_replies_end_in_events_or_in_an_error_of_ours(wire: Wire, replies: list[Any], stream: bool) -> None:
    content = b"".join(b"data: " + dumps(one).encode() + b"\n\n" for one in replies) if stream else \
        dumps(replies[0] if replies else {}).encode()
    upstream = mocked(lambda request: answer(200, content=content, headers=STREAM if stream else JSON), wire)
    with contextlib.suppress(GatewayError):
        for event in run(listed(upstream.stream(ASKED[wire]))):
            assert all(isinstance(getattr(event, name, ""), str) for name in ("text", "arguments", "model"))


STATUSES = [(400, 400, "invalid"), (422, 400, "invalid"), (401, 502, "upstream"), (403, 502, "upstream"), (404, 404, "not_found"),
            (408, 504, "timeout"), (413, 413, "too_large"), (429, 429, "rate_limit"), (500, 502, "upstream"),
            (503, 503, "overloaded"), (504, 504, "timeout"), (529, 503, "overloaded")]


@pytest.mark.parametrize(("status", "ours", "kind"), STATUSES)
@pytest.mark.parametrize("body", [{"error": {"message": "said", "type": "t", "param": "p", "code": "c"}}, {"error": "said"},
                                  {"message": "said"}, {"detail": "said"}, [{"error": {"message": "said"}}], None, {"error": 5}])
def test_statuses(status: int, ours: int, kind: str, body: Any) -> None:
    error = fails(mocked(lambda request: answer(status, json=body)))
    assert (error.status, error.kind) == (ours, kind)
    if status not in (401, 403):  # the gateway's own key is nothing to clients
        assert error.message == "said" or "said" not in dumps(body)


def test_retry_after() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    for head, low, high in (({"retry-after": "7"}, 7, 7), ({"retry-after-ms": "1500"}, 1.5, 1.5), ({"retry-after": date}, 90, 101),
                            ({"retry-after": "-5"}, 0, 0), ({"retry-after": "1e99"}, 86400, 86400)):
        wait = fails(mocked(lambda request, head=head: answer(429, headers=head))).retry_after
        assert wait is not None and low <= wait <= high
    for value in ("soon", "nan", ""):
        assert fails(mocked(lambda request, value=value: answer(503, headers={"retry-after": value}))).retry_after is None


def test_a_long_message_is_cut() -> None:
    assert len(fails(mocked(lambda request: answer(400, json={"error": {"message": "x" * 5000}}))).message) < 1000


def test_a_large_refusal_is_not_read_to_its_end() -> None:
    assert fails(mocked(lambda request: answer(500, content=b" " * (1 << 20)))).status == 502


async def _forever(piece: bytes, read: list[int]) -> AsyncIterator[bytes]:
    while True:
        read[0] += 1
        yield piece


@pytest.mark.parametrize(("piece", "headers"), [(HELLO, STREAM), (b"x" * 5000, STREAM), (b": comment\n\n", STREAM),
                                                (b" " * 999, JSON)])
def test_an_endless_reply_is_ended(piece: bytes, headers: dict[str, str]) -> None:
    read = [0]
    error = fails(mocked(lambda request: answer(200, content=_forever(piece, read), headers=headers), max_reply=100_000))
    assert (error.status, error.kind) == (502, "upstream") and "larger than" in error.message
    assert read[0] * len(piece) < 100_000 + 2 * len(piece)


def test_an_error_in_the_midst_of_a_whole_status() -> None:
    error = fails(mocked(lambda request: answer(200, content=HELLO + b'data: {"error":{"message":"gone","code":429}}\n\n',
                                                        headers=STREAM)))
    assert (error.kind, error.message) == ("rate_limit", "gone")


def test_a_server_that_knows_no_streams() -> None:
    whole = {"model": "m", "choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}
    events = run(listed(mocked(lambda request: answer(200, json=whole)).stream(ASKED["chat"])))
    assert events[:2] == [Started("m"), TextDelta(0, "Hello")]


@pytest.mark.parametrize(("wire", "header", "value"), [("chat", "authorization", "Bearer sk-secret"),
                                                       ("messages", "x-api-key", "sk-secret")])
def test_the_key_goes_where_the_format_wants_it_and_nowhere_else(wire: Wire, header: str, value: str) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer(307, headers={"location": "http://elsewhere/"})

    upstream = mocked(handler, wire, model="their-name")
    fails(upstream)
    assert len(seen) == 1 and seen[0].headers[header] == value
    assert str(seen[0].url) == "http://server/v1" + DIALECTS[wire].PATH
    assert loads(seen[0].content)["model"] == "their-name"
    assert "secret" not in repr(upstream)


@pytest.mark.parametrize("url", ["server", "ftp://server", "http://", "http://user:pass@server", "http://server?x=1", "http://[::1"])
def test_urls(url: str) -> None:
    with pytest.raises(UserError) as error:
        HTTPUpstream(url, "chat")
    assert "pass" not in str(error.value)


def test_paths_of_urls() -> None:
    assert HTTPUpstream("http://server", "chat").base_url == HTTPUpstream("http://server/v1/", "chat").base_url == "http://server/v1"
    assert HTTPUpstream("https://server/openai/v1", "chat").base_url == "https://server/openai/v1"


# Over a real socket


Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _with(server: Connected, work: Callable[[str], Awaitable[Any]]) -> Any:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await server(reader, writer)
        writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        return await work(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    finally:
        listening.close()


def over_socket(server: Connected, deadline: float | None = None, **options: Any) -> GatewayError:
    async def work(url: str) -> GatewayError:
        upstream = HTTPUpstream(url, "chat", **options)
        with pytest.raises(GatewayError) as error:
            async for _ in upstream.stream(ASKED["chat"], None if deadline is None else time.monotonic() + deadline):
                pass
        await upstream.close()
        return error.value

    return run(_with(server, work))


def sending(*pieces: bytes | None) -> Connected:
    """Reads the request, sends the pieces; None stalls until the client has left."""
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            if piece is None:
                while await reader.read(1 << 16):
                    pass
            else:
                writer.write(piece)
                await writer.drain()
    return server


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(("pieces", "options", "kind"), [
    ((b"hello\r\n\r\n",), {}, "upstream"),
    ((b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (at, b"x" * 1000) for at in range(1000)),), {}, "upstream"),
    ((b"",), {}, "upstream"),
    ((b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{}",), {}, "upstream"),
    ((HEAD, HELLO), {}, "upstream"),
    ((None,), {"silence": 0.2}, "timeout"),
    ((HEAD, HELLO, None), {"silence": 0.2}, "timeout"),
    ((None,), {"deadline": 0.2}, "timeout"),
    ((HEAD, HELLO, None), {"deadline": 0.2}, "timeout"),
    ((HEAD, HELLO, None), {"deadline": -1.0}, "timeout"),
])
def test_servers_that_break_off_or_stall(pieces: Any, options: dict[str, Any], kind: str) -> None:
    error = over_socket(sending(*pieces), **options)
    assert error.kind == kind and error.status == (504 if kind == "timeout" else 502)


def test_a_server_that_only_sends_comments_meets_the_deadline() -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(b": still here\n\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    assert over_socket(server, deadline=0.3).kind == "timeout"


def test_nobody_there() -> None:
    async def work(url: str) -> str:
        return url

    url = run(_with(sending(), work))  # this port is free again
    error = fails(HTTPUpstream(url, "chat"))
    assert (error.status, error.kind) == (502, "upstream") and "reached" in error.message


def test_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n"))
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    async def work(url: str) -> None:
        for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", url)
        with pytest.raises(GatewayError, match="overloaded"):
            await listed(HTTPUpstream("http://models.invalid", "chat").stream(ASKED["chat"]))
        monkeypatch.setenv("no_proxy", "models.invalid")
        with pytest.raises(GatewayError, match="reached"):
            await listed(HTTPUpstream("http://models.invalid", "chat").stream(ASKED["chat"]))

    run(_with(server, work))
    assert heard == [b"POST http://models.invalid/v1/chat/completions HTTP/1.1\r\n"]


def test_closing_the_stream_ends_the_connection() -> None:
    left = asyncio.Event()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + HELLO)
        while await reader.read(1 << 16):
            pass
        left.set()

    async def work(url: str) -> list[Event]:
        upstream = HTTPUpstream(url, "chat")
        events: Any = upstream.stream(ASKED["chat"])
        found = [await anext(events), await anext(events)]
        assert not left.is_set()
        await events.aclose()
        await asyncio.wait_for(left.wait(), 30)
        return found

    assert run(_with(server, work)) == [Started("m"), TextDelta(0, "He")]


def test_a_cancelled_request_ends_the_connection() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        while await reader.read(1 << 16):
            pass
        left.set()

    async def work(url: str) -> None:
        task = asyncio.create_task(listed(HTTPUpstream(url, "chat").stream(ASKED["chat"])))
        await asked.wait()
        task.cancel()
        await asyncio.wait_for(left.wait(), 30)
        with pytest.raises(asyncio.CancelledError):
            await task

    run(_with(server, work))
