"""What the face does itself: limits, keep-alive, tools of MCP servers, the document, requests with tasks and times."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from scripted import Scripted
from stage import HELLO, HTTP, eventually, over, serving, tables

from ownship.gateway import mcp
from ownship.gateway.config import parse
from ownship.gateway.mcp import Toolbox
from ownship.gateway.routing import Router
from ownship.gateway.types import Event, Finished, Request, Started, TextDelta, ToolDelta, ToolResult, Usage, Used
from ownship.gateway.upstreams import build, single
from ownship.serve import replies
from ownship.serve.app import Limits, create

WORDS: list[Event] = [Started("theirs", 5), TextDelta(0, "Hello"), Finished(0, "stop"), Used(Usage(5, 2))]
SERVER = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("t")
@server.tool()
def add(a: int, b: int) -> int:
    return a + b
@server.tool()
def hidden() -> str:
    return "no"
server.run()
"""


def test_limits() -> None:
    with over({"a": Scripted(WORDS)}, limits=Limits(body=1 << 20, images=2, image=1000)) as stage:
        large = {"model": "a", "messages": [{"role": "user", "content": "x" * (1 << 20)}]}
        chunked: Any = {"content": (b"x" * 65536 for _ in range(40)), "headers": {"content-type": "application/json"}}
        for options in ({"json": large}, chunked):
            said = HTTP.post(f"{stage.url}/v1/chat/completions", **options)
            assert said.status_code == 413 and "1 MB" in said.json()["error"]["message"]

        def pictures(*urls: str) -> int:
            parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            return stage.post("/v1/chat/completions", {"model": "a", "messages": [{"role": "user", "content": parts}]}).status_code

        near = "https://example.invalid/x.png"
        assert pictures(near, near) == 200 and pictures(near, near, near) == 400
        assert pictures("data:image/png;base64," + "A" * 2000) == 413
        with socket.create_connection(("127.0.0.1", int(stage.url.rpartition(":")[2]))) as line:
            line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ")
            line.sendall(b"y" * (65 << 10))
            assert b" 431 " in line.recv(4096)
            line.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                while line.recv(4096):
                    pass
        assert HTTP.get(f"{stage.url}/health").status_code == 200


class Thinks:
    """Begins to answer when it is told to."""

    def __init__(self) -> None:
        self.go: asyncio.Event | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    async def stream(self, request: Request, deadline: float | None = None) -> AsyncIterator[Event]:
        self.go, self.loop = asyncio.Event(), asyncio.get_running_loop()
        await asyncio.wait_for(self.go.wait(), 60)
        for event in WORDS:
            yield event

    async def count(self, request: Request) -> int:
        return 1

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(("path", "sign"), [("/v1/chat/completions", ": keep-alive"), ("/v1/messages", "event: ping")])
def test_silence_is_filled(path: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first token too, after a while: what was a status is then an event."""
    monkeypatch.setattr(replies, "KEEP_ALIVE", 0.1)
    upstream = Thinks()
    with over({"a": upstream}) as stage:
        body = {"model": "a", "messages": HELLO, "max_tokens": 10, "stream": True}
        with HTTP.stream("POST", stage.url + path, json=body) as response:
            lines = response.iter_lines()
            assert next(lines) == sign and response.status_code == 200
            assert sign in [next(lines) for _ in range(6)]
            assert upstream.go is not None and upstream.loop is not None
            upstream.loop.call_soon_threadsafe(upstream.go.set)
            rest = "\n".join(lines)
        assert "Hello" in rest and rest.rstrip().endswith("[DONE]" if "chat" in path else '"message_stop"}')


def test_tools_of_mcp_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model asks, the gateway calls, the client sees one reply."""
    monkeypatch.setattr(mcp, "_CONNECT", 120.0)  # beside other work a server takes a while to come up
    (tmp_path / "server.py").write_text(SERVER)
    asked: list[Request] = []

    def script(request: Request) -> list[Event]:
        asked.append(request)
        results = [part for message in request.messages for part in message.parts if isinstance(part, ToolResult)]
        if results:
            text = getattr(results[0].content[0], "text", "")
            return [Started("m"), TextDelta(0, f"It is {text}."), Finished(0, "stop"), Used(Usage(20, 4))]
        return [Started("m"), ToolDelta(0, 0, '{"a": 2, "b": 3}', "c1", "sums__add"), Finished(0, "tool_calls"), Used(Usage(10, 6))]

    config = tables(["a"], mcp={"sums": {"command": sys.executable, "args": [str(tmp_path / "server.py")], "allow": ["add"]}})
    with over({"a": Scripted(script)}, config, toolbox=Toolbox(config.mcp)) as stage:
        reply = stage.openai().chat.completions.create(model="a", messages=HELLO)
        assert reply.choices[0].message.content == "It is 5." and not reply.choices[0].message.tool_calls
        assert reply.usage is not None and reply.usage.prompt_tokens == 30
        assert [tool.name for tool in asked[0].tools] == ["sums__add"]
        assert stage.metric("generation_tokens_total") == 10


def test_the_document_is_that_of_the_codecs() -> None:
    with over({"a": Scripted(WORDS)}) as stage:
        document = HTTP.get(f"{stage.url}/openapi.json").json()
        chat = document["components"]["schemas"]["ChatCompletions"]
        assert chat["additionalProperties"] is False and {"model", "messages"} == set(chat["required"])
        assert chat["properties"]["model"]["examples"] == ["a", "ownship/auto"]
        for path, methods in document["paths"].items():
            for method in methods:
                said = HTTP.request(method, stage.url + path.replace("{model}", "a"), json={} if method == "post" else None)
                assert said.status_code in ((400, 404) if method == "post" else (200, 404)), path


def test_a_request_says_how_long_it_may_take() -> None:
    with over({"a": Thinks()}) as stage:
        with pytest.raises(openai.APIStatusError) as late:
            stage.openai().chat.completions.create(model="a", messages=HELLO, extra_headers={"x-ownship-timeout": "0.2"})
        assert late.value.status_code == 504
        for wrong in ("soon", "-1", "nan"):
            with pytest.raises(openai.BadRequestError):
                stage.openai().chat.completions.create(model="a", messages=HELLO, extra_headers={"x-ownship-timeout": wrong})


def test_a_request_keeps_its_id() -> None:
    with over({"a": Scripted(WORDS)}) as stage:
        body = {"model": "a", "messages": HELLO}
        assert stage.post("/v1/chat/completions", body, headers={"x-request-id": "shop-17"}).headers["x-request-id"] == "shop-17"
        odd = stage.post("/v1/chat/completions", body, headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
        assert odd.startswith("req_")


def test_labels_of_tasks_choose() -> None:
    config = parse({"upstreams": {name: {"url": "http://nobody.invalid"} for name in "ab"}, "models": {
        "a": {"upstream": "a", "price": {"input": 1.0, "output": 1.0}, "quality": {"general": 0.9, "code": 0.1}},
        "b": {"upstream": "b", "price": {"input": 1.0, "output": 1.0}, "quality": {"general": 0.1, "code": 0.9}}}})
    with over({"a": Scripted(WORDS), "b": Scripted(WORDS)}, config) as stage:
        create: Any = stage.openai().chat.completions.create
        assert create(model="ownship/auto", messages=HELLO).model == "a"
        assert create(model="ownship/auto", messages=HELLO, extra_headers={"x-ownship-task": "code"}).model == "b"


def test_a_model_that_is_loading_or_cannot_be_is_a_503() -> None:
    config = single("/no/such/model", "a")
    with serving(create(Router(config, build(config)))) as stage:
        for state in ("loading", "failed"):
            eventually(lambda state=state: HTTP.get(f"{stage.url}/ready").json()["engines"]["engine"]["state"] == state)
            for stream in (False, True):
                said = stage.post("/v1/chat/completions", {"model": "a", "messages": HELLO, "stream": stream})
                assert said.status_code == 503 and int(said.headers["retry-after"]) >= 1
                assert said.json()["error"]["code"] == "model_not_ready"
            ready = HTTP.get(f"{stage.url}/ready")
            assert ready.status_code == 503 and HTTP.get(f"{stage.url}/health").status_code == 200
            assert stage.post("/tokenize", {"prompt": "x"}).status_code == 503
        assert "no such model" in said.json()["error"]["message"]
