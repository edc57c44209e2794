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


@contextmanager
def held(engine: Engine) -> Iterator[threading.Semaphore]:
    """Every step of the engine takes one permit, of which there are none: a test says how far the engine gets."""
    permits, step = threading.Semaphore(0), engine.step

    def permitted() -> list[Event]:
        permits.acquire()
        return step()

    engine.step = permitted  # type: ignore[method-assign]
    try:
        yield permits
    finally:
        del engine.step  # type: ignore[method-assign]
        permits.release(1 << 20)
