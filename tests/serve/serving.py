"""Servers in a thread, for the tests of this folder."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from openai import OpenAI

from ownship.engine.engine import Engine
from ownship.engine.request import Event
from ownship.serve import app
from ownship.serve.worker import Worker

NAME = "tiny"
CONTEXT = 640


@dataclass(frozen=True)
class Server:
    """A running server, what is inside it, and OpenAI's client for it."""

    url: str
    engine: Engine
    worker: Worker
    client: OpenAI


@contextmanager
def running(engine: Engine, max_waiting: int) -> Iterator[Server]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    face = app.create(engine, NAME, max_waiting)
    server = uvicorn.Server(uvicorn.Config(face, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield Server(url, engine, face.state.worker, client)
    face.state.worker.close()
    server.should_exit = True
    thread.join()


def eventually(condition: Callable[[], object]) -> None:
    """Waits until `condition` holds; a hang is the test's failure, not its speed."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


class Gate:
    """Every step of the engine asks for one permit, of which there are none: a test says how far the engine gets."""

    def __init__(self, engine: Engine) -> None:
        self.asked = 0  # steps begun; the last one has not gone on if there were fewer permits
        self._permits, self._step = threading.Semaphore(0), engine.step

    def release(self, count: int = 1) -> None:
        self._permits.release(count)

    def step(self) -> list[Event]:
        self.asked += 1
        self._permits.acquire()
        return self._step()


@contextmanager
def held(engine: Engine) -> Iterator[Gate]:
    gate = Gate(engine)
    engine.step = gate.step  # type: ignore[method-assign]
    try:
        yield gate
    finally:
        del engine.step  # type: ignore[method-assign]
        gate.release(1 << 20)
