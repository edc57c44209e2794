"""A client that leaves frees its place within one token: the test lets each token of the models through."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from stage import HELLO, HTTP, Stage, eventually, over, serving, tables

from ownship.gateway.routing import Router
from ownship.gateway.upstream import HTTPUpstream
from ownship.gateway.upstreams import build, single
from ownship.serve.app import create

GATE = """
import json, os
import ownship.engine.engine as engine
gate, log, step, loads = os.open({gate!r}, os.O_RDWR), os.open({log!r}, os.O_WRONLY | os.O_APPEND), engine.Engine.step, json.loads
def gated(self):
    os.write(log, b"w")
    os.read(gate, 1)
    events = step(self)
    os.write(log, b"t" * sum(event.token is not None for event in events))
    return events
def heard(text, **more):
    frame = loads(text, **more)
    if isinstance(frame, dict) and "cancel" in frame:
        os.write(log, b"c")
    return frame
engine.Engine.step, json.loads = gated, heard
engine._GUESS = dict.fromkeys(engine._GUESS, 0)  # a step is a token
"""


def leave_after(stage: Stage, model: str, texts: int, settled: Callable[[], bool] = lambda: True) -> None:
    """Reads so many pieces of text, waits until all is `settled`, and closes the connection. Each token is a letter: a text."""
    body = {"model": model, "messages": HELLO, "max_tokens": 1000, "stream": True, "logit_bias": {"40": 100}}
    with httpx.Client(timeout=60) as client, client.stream("POST", f"{stage.url}/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        while texts:
            texts -= '"content":"' in (line := next(lines)) and '"content":""' not in line
        eventually(settled)
        assert stage.metric("requests_running") == 1


def test_the_engine_says_one_token_more_at_most(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    os.mkfifo(gate)
    log.touch()
    (tmp_path / "sitecustomize.py").write_text(GATE.format(gate=str(gate), log=str(log)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    config = single(str(tiny_folder), "tiny")
    permits, read = os.open(gate, os.O_RDWR), threading.Event()

    def at_the_gate() -> bool:
        return not select.select([permits], [], [], 0)[0] and log.read_bytes().endswith(b"w")

    def let_through() -> None:
        while not read.wait(0.01):  # one by one: steps close together are one event of the stream
            if at_the_gate():
                os.write(permits, b".")

    def settled() -> bool:
        read.set()
        steps.join()
        return at_the_gate()

    steps = threading.Thread(target=let_through, daemon=True)
    with serving(create(Router(config, build(config, "float32")))) as stage:
        eventually(lambda: HTTP.get(f"{stage.url}/ready").status_code == 200)
        steps.start()
        leave_after(stage, "tiny", 3, settled)
        eventually(lambda: b"c" in log.read_bytes())
        eventually(lambda: stage.metric("requests_total", status="499") == 1)
        time.sleep(0.1)  # what the engine's process has heard is where its next step looks for it
        before = log.read_bytes().count(b"t")
        assert before >= 3 and stage.metric("requests_running") == 1  # the step under way does not end
        os.write(permits, b"." * 100)
        eventually(lambda: stage.metric("requests_running") == 0)
        assert log.read_bytes().count(b"t") - before <= 1
    os.close(permits)


@pytest.fixture
def stepped() -> Iterator[tuple[str, threading.Semaphore, list[str]]]:
    """An upstream that sends a token for each permit. What happens to it is noted: token, left."""
    permits, noted, ready, closed = threading.Semaphore(0), [], threading.Event(), threading.Event()
    url: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        left = asyncio.ensure_future(_until_left(reader))
        while not left.done():
            if permits.acquire(blocking=False):
                writer.write(b'data: {"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n')
                noted.append("token")
            await asyncio.sleep(0.005)
        noted.append("left")
        writer.close()

    async def until_closed() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        ready.set()
        while not closed.is_set():
            await asyncio.sleep(0.005)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(until_closed()), daemon=True)
    thread.start()
    ready.wait()
    yield url[0], permits, noted
    closed.set()
    thread.join()


async def _until_left(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass


def test_an_upstream_is_left_without_another_token(stepped: tuple[str, threading.Semaphore, list[str]]) -> None:
    url, permits, noted = stepped
    with over({"a": HTTPUpstream(url, "chat")}, tables(["a"])) as stage:
        permits.release(3)
        leave_after(stage, "a", 3)
        eventually(lambda: stage.metric("requests_running") == 0)
        eventually(lambda: "left" in noted)
        assert noted == ["token"] * 3 + ["left"]
        assert stage.metric("requests_total", status="499") == 1
