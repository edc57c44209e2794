"""Servers in a thread, and official clients for them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai

from ownship.gateway.config import Config, parse
from ownship.gateway.routing import Router
from ownship.gateway.types import Upstream
from ownship.serve.app import App, create
from ownship.serve.server import Server

HTTP = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None))  # one for all: to make one takes as long as 20 requests
HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]
WHOLE_ABILITIES = ["images", "tools", "schema", "logprobs", "completions", "choices"]


@dataclass(frozen=True)
class Stage:
    """A running server."""

    url: str
    app: App
    server: Server

    def openai(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **{"timeout": 60, **options})

    def anthropic(self, key: str = "none", **options: Any) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, api_key=key, max_retries=0, **{"timeout": 60, **options})

    def post(self, path: str, body: Any = None, key: str | None = None, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        if body is not None:
            options["json"] = body
        return HTTP.post(self.url + path, headers={**headers, **options.pop("headers", {})}, **options)

    def metric(self, name: str, key: str | None = None, **labels: str) -> float:
        """The sum of all lines of a metric that have these labels."""
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        text = HTTP.get(f"{self.url}/metrics", headers=headers).text
        found = re.findall(rf"^ownship_{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for said, value in found if all(f'{label}="{wanted}"' in said for label, wanted in labels.items()))


@contextmanager
def serving(app: App, drain: float = 0.0) -> Iterator[Stage]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    server = Server(app, drain)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield Stage(f"http://127.0.0.1:{listener.getsockname()[1]}", app, server)
    finally:
        server.patience, app.until, server.should_exit = 0.0, time.monotonic(), True
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"


def tables(names: Mapping[str, Any] | list[str], **more: Any) -> Config:
    """A model and an upstream of each name, which can do everything; a dollar for a thousand tokens in, two for a thousand out."""
    price = {"input": 1000.0, "output": 2000.0}
    return parse({"upstreams": {name: {"url": "http://nobody.invalid"} for name in names},
                  "models": {name: {"upstream": name, "price": price, "can": WHOLE_ABILITIES} for name in names}, **more})


@contextmanager
def over(upstreams: Mapping[str, Upstream], config: Config | None = None, **options: Any) -> Iterator[Stage]:
    """A server before upstreams that a test has written."""
    with serving(create(Router(config or tables(list(upstreams)), upstreams), **options)) as stage:
        yield stage


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits until `condition` holds; a hang is the test's failure, not its speed."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


class Process:
    def __init__(self, *arguments: str, env: dict[str, str]) -> None:
        self.running = subprocess.Popen([sys.executable, "-m", "ownship", "serve", "--port", "0", *arguments], text=True, env=env,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.running.stdout is not None and self.running.stderr is not None
        self.said = ""
        while line := self.running.stdout.readline():
            self.said += line
            if "chat.completions.create(" in line:
                break
        found = re.search(r"serving (\S+) at (https?://\S+:\d+)/v1", self.said)
        assert found, self.said + self.running.stderr.read()
        self.model, self.url = found.groups()
        self.errors: list[str] = []  # read all the time: a full pipe would hold the server up
        self._reader = threading.Thread(target=lambda: self.errors.extend(self.running.stderr or ()), daemon=True)
        self._reader.start()

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def end(self, number: int) -> tuple[int, str]:
        """Exit code, and all that it wrote to standard error."""
        self.running.send_signal(number)
        self.running.wait(60)
        self._reader.join(60)
        return self.running.returncode, "".join(self.errors)


Start = Callable[..., Process]
