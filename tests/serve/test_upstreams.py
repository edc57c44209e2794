"""What a client sees when an upstream misbehaves: a table. Each upstream is a socket that does what its row says."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from stage import HELLO, Stage, eventually, over

from ownship.gateway.config import parse
from ownship.gateway.upstreams import build

Behaviour = Callable[[socket.socket, int], None]

CHUNK = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "theirs"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(delta: Any, finish: str | None = None) -> bytes:
    return b"data: " + json.dumps({**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


HELLO_CHUNKS = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Hel"}), chunk({"content": "lo"})]
END = [chunk({}, "stop"), b"data: " + json.dumps({**CHUNK, "choices": [], "usage": USAGE}).encode() + b"\n\n", b"data: [DONE]\n\n"]
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
WHOLE = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "theirs", "usage": USAGE, "choices": [
    {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}).encode()


def head(status: str, length: int, kind: str = "application/json", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n".encode()


def good(line: socket.socket, stream: bool, pause: float = 0.0) -> None:
    if not stream:
        line.sendall(head("200 OK", len(WHOLE)) + WHOLE)
        return
    line.sendall(EVENTS)
    for piece in [*HELLO_CHUNKS, *END]:
        line.sendall(piece)
        time.sleep(pause)


@contextmanager
def upstream(behave: Callable[[socket.socket, int, bool], None]) -> Iterator[tuple[str, list[int]]]:
    """Its URL, and the numbers of the requests that it has seen."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    seen: list[int] = []

    def handle(line: socket.socket) -> None:
        with contextlib.suppress(OSError), line:
            with line.makefile("rb") as file:
                length = 0
                while (said := file.readline()).strip():
                    if said.lower().startswith(b"content-length:"):
                        length = int(said.partition(b":")[2])
                if not length:
                    return
                body = json.loads(file.read(length))
            seen.append(len(seen))
            behave(line, len(seen), body.get("stream", False))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", seen
    finally:
        listener.close()


@contextmanager
def before(url: str, **more: Any) -> Iterator[Stage]:
    config = parse({"upstreams": {"a": {"url": url, "first_token": 1.0}}, "retry": {"attempts": 2, "base": 0.01, "deadline": 20.0},
                    "models": {"a": {"upstream": "a", "price": {"input": 1.0, "output": 1.0}}}, **more})
    with over(build(config), config) as stage:
        yield stage


def hangs(line: socket.socket, number: int, stream: bool) -> None:
    time.sleep(5)


def closes_at_once(line: socket.socket, number: int, stream: bool) -> None:
    pass


def breaks_off(line: socket.socket, number: int, stream: bool) -> None:
    line.sendall(EVENTS + b"".join(HELLO_CHUNKS) if stream else head("200 OK", len(WHOLE)) + WHOLE[:30])


def garbage(line: socket.socket, number: int, stream: bool) -> None:
    line.sendall(b"\x00\xff what is this\r\n\r\n")


def garbage_events(line: socket.socket, number: int, stream: bool) -> None:
    line.sendall(EVENTS + b'data: {"choices": 7}\n\n' if stream else head("200 OK", 15) + b'{"choices": 7 }')


def a_page(line: socket.socket, number: int, stream: bool) -> None:
    line.sendall(head("200 OK", 13, "text/html") + b"<html></html>")


def fails_once(line: socket.socket, number: int, stream: bool) -> None:
    if number == 1:
        line.sendall(head("500 No", 2) + b"{}")
    else:
        good(line, stream)


def fails(line: socket.socket, number: int, stream: bool) -> None:
    line.sendall(head("500 No", 2) + b"{}")


def busy(line: socket.socket, number: int, stream: bool) -> None:
    line.sendall(head("429 Busy", 2, more="retry-after: 30\r\n") + b"{}")


def refuses_our_key(line: socket.socket, number: int, stream: bool) -> None:
    line.sendall(head("401 No", 2) + b"{}")


def drips(line: socket.socket, number: int, stream: bool) -> None:
    good(line, stream, 0.05)


def endless(line: socket.socket, number: int, stream: bool) -> None:
    if not stream:
        line.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    else:
        line.sendall(EVENTS + HELLO_CHUNKS[0])
    while True:
        line.sendall(chunk({"content": "x" * 20_000}) if stream else b" " * 20_000)


def huge(line: socket.socket, number: int, stream: bool) -> None:
    line.sendall(head("200 OK", 100 << 20, "text/event-stream" if stream else "application/json"))
    for _ in range(100):
        line.sendall(b"x" * (1 << 20))


# behaviour, what a client hears (None: the reply; else the status), how often the upstream is asked, does a stream begin first
TABLE: list[tuple[Any, int | None, int, bool]] = [
    (hangs, 504, 2, False), (closes_at_once, 502, 2, False), (breaks_off, 502, 2, True), (garbage, 502, 2, False),
    (garbage_events, 502, 2, False), (a_page, 502, 2, False), (fails_once, None, 2, False), (fails, 502, 2, False),
    (busy, 429, 1, False), (refuses_our_key, 502, 1, False), (drips, None, 1, False), (endless, 502, 2, True),
    (huge, 502, 2, False)]


@pytest.mark.parametrize(("behave", "status", "asked", "begins"), TABLE, ids=[row[0].__name__ for row in TABLE])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_faulty(behave: Any, status: int | None, asked: int, begins: bool, stream: bool) -> None:
    patient = {"retry": {"attempts": 2, "base": 0.01, "deadline": 240.0}} if behave is endless else {}  # a busy machine needs it
    with upstream(behave) as (url, seen), before(url, **patient) as stage:
        client = stage.openai().chat.completions
        options: Any = {"model": "a", "messages": HELLO, "stream": stream}
        if behave is hangs and not stream:  # a whole reply may take its time: the request says how long
            options["extra_headers"] = {"x-ownship-timeout": "0.5"}
            asked = 1
        if status is None:
            reply = client.create(**options)
            text = "".join(one.choices[0].delta.content or "" for one in reply if one.choices) if stream \
                else reply.choices[0].message.content
            assert text == "Hello"
        elif stream and begins:
            with pytest.raises(openai.APIError) as error:
                for _ in client.create(**options):
                    pass
            assert not isinstance(error.value, openai.APIStatusError)
            asked = 1  # never again, once something was said
        else:
            with pytest.raises(openai.APIStatusError) as refused:
                client.create(**options)
            assert refused.value.status_code == status
            if status == 429:
                assert 29 <= int(refused.value.response.headers["retry-after"]) <= 30
            assert "data:" not in refused.value.message and "choices" not in refused.value.message
        assert len(seen) == asked
        eventually(lambda: stage.metric("requests_running") == 0 and not stage.app.replies.open)
        assert stage.metric("requests_total", endpoint="chat", status=str(status or 200)) == 1


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with before(url) as stage, pytest.raises(openai.InternalServerError) as error:
        stage.openai().chat.completions.create(model="a", messages=HELLO)
    assert error.value.status_code == 502


def test_a_whole_reply_may_take_longer_than_a_first_token() -> None:
    def thinks(line: socket.socket, number: int, stream: bool) -> None:
        time.sleep(1.5)
        good(line, stream)

    with upstream(thinks) as (url, seen), before(url) as stage:
        assert stage.openai().chat.completions.create(model="a", messages=HELLO).choices[0].message.content == "Hello"
        assert len(seen) == 1


def test_a_full_queue_is_told_at_once() -> None:
    release = threading.Event()

    def held(line: socket.socket, number: int, stream: bool) -> None:
        release.wait(30)
        good(line, stream)

    with upstream(held) as (url, seen), before(
            url, upstreams={"a": {"url": url, "concurrency": 1, "queue": 1}}) as stage:
        replies: list[Any] = []
        threads = [threading.Thread(target=lambda: replies.append(stage.openai().chat.completions.create(
            model="a", messages=HELLO))) for _ in range(2)]
        for thread in threads:
            thread.start()
        eventually(lambda: stage.metric("requests_waiting") == 1 and stage.metric("requests_running") == 1)
        with pytest.raises(openai.RateLimitError) as error:
            stage.openai().chat.completions.create(model="a", messages=HELLO)
        assert error.value.code == "queue_full" and int(error.value.response.headers["retry-after"]) >= 1
        release.set()
        for thread in threads:
            thread.join(30)
        assert len(replies) == 2 and len(seen) == 2


def test_another_upstream_steps_in_and_the_header_says_so() -> None:
    with upstream(fails) as (bad, _), upstream(lambda line, number, stream: good(line, stream)) as (well, _):
        price = {"input": 1.0, "output": 1.0}
        config = parse({"upstreams": {"a": {"url": bad}, "b": {"url": well}}, "retry": {"attempts": 1},
                        "models": {name: {"upstream": name, "price": price} for name in "ab"},
                        "fallbacks": {"a": {"error": ["b"]}}})
        with over(build(config), config) as stage:
            raw = stage.openai().chat.completions.with_raw_response.create(model="a", messages=HELLO)
            assert raw.parse().model == "b" and raw.headers["x-ownship-model"] == "b" and raw.headers["x-ownship-attempts"] == "2"
            auto = stage.openai().chat.completions.with_raw_response.create(model="ownship/auto", messages=HELLO)
            assert "ownship/auto chose" in auto.headers["x-ownship-why"]
