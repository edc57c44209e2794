"""Tools over MCP: a real server over pipes and over HTTP, and the loop around them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from faulty import Scripted, ask, collect, text

from ownship.errors import UserError
from ownship.gateway.config import MCPTable, Privacy
from ownship.gateway.mcp import Toolbox, shown
from ownship.gateway.toolloop import run
from ownship.gateway.trace import Trace
from ownship.gateway.types import (
    Event,
    Finished,
    GatewayError,
    JSONFormat,
    NamedTool,
    Reasoning,
    ReasoningDelta,
    Request,
    Started,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolDelta,
    ToolResult,
    Usage,
    Used,
)

HERE = Path(__file__).parent
ALLOWED = ["add", "table", "slow", "big", "fail", "picture", "variable", "with.dots and blanks", "die"]


def pipes(**more: Any) -> MCPTable:
    table = {"command": sys.executable, "args": [str(HERE / "tool_server.py")], "allow": ALLOWED, "timeout": 20.0}
    return MCPTable(**{**table, **more})


@asynccontextmanager
async def over_http(seen: list[str | None]) -> AsyncIterator[str]:
    """The same server on a free port of loopback; `seen` gets the Authorization header of each request."""
    from tool_server import server

    app = server.streamable_http_app()

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]).get(b"authorization", b"").decode() or None)
        await app(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        http = uvicorn.Server(uvicorn.Config(noting, log_level="critical", timeout_graceful_shutdown=1))
        task = asyncio.create_task(http.serve([listener]))
        while not http.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        http.should_exit = True
        await task


class Caller:
    """Calls tools by their own names, as the loop does."""

    def __init__(self, box: Toolbox, privacy: Privacy = "public") -> None:
        self.box, self.privacy = box, privacy

    async def __call__(self, tool: str, limit: float = 60.0, **arguments: Any) -> ToolResult:
        offer = (await self.box.offers(self.privacy))[tool]
        return await offer.server.call(offer.name, arguments, "id", limit)


def says(result: ToolResult) -> str:
    assert all(isinstance(part, Text) for part in result.content)
    return "".join(part.text for part in result.content if isinstance(part, Text))


def test_over_pipes(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FOR_IT", "yes")
    monkeypatch.setenv("NOT_FOR_IT", "a secret")

    async def main() -> None:
        box = Toolbox({"t": pipes(max_bytes=1000, pass_env=["FOR_IT"])})
        call = Caller(box)
        try:
            offers = await box.offers("public")
            odd = shown("t", "with.dots and blanks")
            assert sorted(offers) == sorted([*(f"t__{name}" for name in ALLOWED if "." not in name), odd])
            assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", name) for name in offers)
            assert offers["t__add"].tool.description == "Adds two numbers"
            assert offers["t__add"].tool.schema["required"] == ["a", "b"]
            result = await call("t__add", a=2, b=40)
            assert says(result) == "the sum is 42" and not result.failed and result.call == "id"
            assert says(await call(odd)) == "odd"
            assert json.loads(says(await call("t__table", n=3))) == {"0": 0, "1": 1, "2": 4}
            assert says(await call("t__picture")) == "[image/png, 100 bytes, not shown]"
            assert says(await call("t__variable", name="FOR_IT")) == "yes"
            assert says(await call("t__variable", name="NOT_FOR_IT")) == "not set"
            result = await call("t__fail")
            assert result.failed and "no such file: handbook.txt" in says(result)
            result = await call("t__add", a="two")
            assert result.failed and "validation error" in says(result)
            result = await call("t__big", size=600)
            assert not result.failed and says(result) == "é" * 500 + "\n[cut off: 1200 bytes in all]"
            result = await call("t__big", size=500)
            assert says(result) == "é" * 500
            result = await call("t__slow", limit=0.2, seconds=30)
            assert result.failed and says(result) == "no result within 0.2 seconds"
            both = await asyncio.gather(call("t__slow", seconds=0.1), call("t__add", a=1, b=1))  # and it goes on working
            assert [says(result) for result in both] == ["at last", "the sum is 2"]
            result = await call("t__die")
            assert result.failed
            assert says(await call("t__add", a=1, b=2)) == "the sum is 3"  # it was started again
        finally:
            await box.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert "asked for" not in capfd.readouterr().err  # what a server says of its calls is not for our log


def test_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_KEY", "s3cret")
    seen: list[str | None] = []

    async def main() -> None:
        async with over_http(seen) as url:
            box = Toolbox({"h": MCPTable(url=url, key_env="TOOL_KEY", allow=["add", "slow"], privacy="company"),
                           "all": MCPTable(url=url, allow=["*"], timeout=0.3)})
            call = Caller(box)
            assert set(await box.offers("company")) == {"h__add", "h__slow"}
            assert set(seen) == {"Bearer s3cret"}
            assert await box.offers("local") == {}
            assert "all__forbidden" in await box.offers("public")
            assert says(await call("h__add", a=2, b=3)) == "the sum is 5"
            result = await call("all__slow", seconds=30)
            assert result.failed and says(result) == "no result within 0.3 seconds"
            assert says(await call("h__slow", seconds=0.01)) == "at last"
            await box.close()

    asyncio.run(main())


def test_a_server_that_is_down_is_left_out_and_tried_again_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flag = tmp_path / "starts"
    flag.write_text("import sys; sys.exit(1)")

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}/mcp"
        box = Toolbox({"gone": MCPTable(command="/nowhere/at-all", allow=["*"]), "dead": pipes(args=[str(flag)]),
                       "closed": MCPTable(url=url, allow=["*"])})
        assert await box.offers("public") == {}
        said = caplog.text
        assert all(f"MCP server {name} does not answer" in said for name in ("gone", "dead", "closed"))
        assert await box.offers("public") == {} and caplog.text == said  # not for every request
        dead = box._servers[1]
        dead.table = pipes()
        dead._not_before = 0.0
        assert "dead__add" in await box.offers("public")
        await box.close()

    asyncio.run(main())


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(UserError, match=r"pip install 'ownship\[mcp\]'"):
        asyncio.run(Toolbox({"t": pipes()}).offers("public"))


def test_names_are_what_every_provider_takes_and_stay_apart() -> None:
    assert shown("files", "read_file") == "files__read_file"
    names = [shown("t", name) for name in ("a.b", "a b", "a_b", "x" * 70, "x" * 71, "é", "")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", name) for name in names)


# --- the loop -------------------------------------------------------------------------------------------------------------------


class Offering(Toolbox):
    """A toolbox whose one server was connected beforehand, so that the loop's tests start no process each."""

    def __init__(self) -> None:
        super().__init__({})
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.pause = 0.0

    async def offers(self, privacy: Privacy) -> dict[str, Any]:
        return {} if privacy == "local" else {f"t__{name}": _Offer(self, name) for name in ("add", "fail")}


class _Offer:
    def __init__(self, box: Offering, name: str) -> None:
        self.server, self.name, self.tool, self.box = self, name, Tool(f"t__{name}", "d"), box

    async def call(self, name: str, arguments: dict[str, Any], call: str, limit: float) -> ToolResult:
        self.box.calls.append((name, arguments))
        await asyncio.sleep(self.box.pause)
        if name == "fail":
            return ToolResult(call, (Text("it failed"),), failed=True)
        return ToolResult(call, (Text(str(arguments["a"] + arguments["b"])),))


def turn(*events: Event, reason: Any = "tool_calls", usage: Usage | None = None) -> list[Any]:
    return [Started("m"), *events, Finished(0, reason), Used(usage or Usage(10, 5, 2, 1))]


def wants(number: int, name: str, arguments: str, id: str | None = None) -> list[ToolDelta]:
    """A call in pieces, as models stream them."""
    half = len(arguments) // 2
    return [ToolDelta(0, number, "", id or f"id{number}", name), ToolDelta(0, number, arguments[:half]),
            ToolDelta(0, number, arguments[half:])]


ANSWER = turn(TextDelta(0, "It is "), TextDelta(0, "3."), reason="stop", usage=Usage(20, 4))
ADD = turn(*wants(0, "t__add", '{"a": 1, "b": 2}'))


def loop(scripts: list[list[Any]], box: Toolbox | None = None, privacy: Privacy = "public", rounds: int = 3, wait: float = 60.0,
         **more: Any) -> tuple[list[Event], list[Request], Trace]:
    model = Scripted(scripts)

    async def main() -> tuple[list[Event], list[Request], Trace]:
        trace = Trace("m")
        deadline = asyncio.get_running_loop().time() + wait

        async def stream(request: Request) -> AsyncGenerator[Event, None]:
            async for event in model.stream(request, deadline):
                yield event

        events = await collect(run(ask("m", **more), stream, box or Offering(), privacy, rounds, trace, deadline))
        assert model.running == 0
        return events, model.requests, trace

    return asyncio.run(main())


CLIENTS = (Tool("mine"),)


def test_the_model_asks_and_reads_the_result() -> None:
    box = Offering()
    thought = [ReasoningDelta(0, "I must "), ReasoningDelta(0, "add."), ReasoningDelta(0, "", signature="sig")]
    first = turn(*thought, TextDelta(0, "Let me see."), *wants(0, "t__add", '{"a": 1, "b": 2}'),
                 *wants(1, "t__fail", ""), *wants(2, "t__nothing", "{}"), *wants(3, "t__add", "[1, 2"))
    events, requests, trace = loop([first, ANSWER], box, tools=CLIENTS, tool_choice="required")
    assert events == [Started("m"), *thought, TextDelta(0, "Let me see."), TextDelta(0, "\n\nIt is "), TextDelta(0, "3."),
                      Finished(0, "stop"), Used(Usage(30, 9, 2, 1))]
    assert [tool.name for tool in requests[0].tools] == ["mine", "t__add", "t__fail"]
    assert requests[0].tool_choice == "required" and requests[1].tool_choice == "auto"
    said, results = requests[1].messages[-2:]
    assert said.role == "assistant" and said.parts == (
        Reasoning("I must add.", "sig"), Text("Let me see."), ToolCall("id0", "t__add", '{"a": 1, "b": 2}'),
        ToolCall("id1", "t__fail", ""), ToolCall("id2", "t__nothing", "{}"), ToolCall("id3", "t__add", "[1, 2"))
    assert results.role == "tool" and results.parts == (
        ToolResult("id0", (Text("3"),)), ToolResult("id1", (Text("it failed"),), True),
        ToolResult("id2", (Text("there is no such tool; there are: t__add, t__fail"),), True),
        ToolResult("id3", (Text("the arguments are not a JSON object"),), True))
    assert box.calls == [("add", {"a": 1, "b": 2}), ("fail", {})]
    assert [(call.tool, call.failed) for call in trace.tools] == [("t__add", False), ("t__fail", True)]
    assert "42" not in json.dumps(trace.record())


def test_with_a_real_server() -> None:
    box = Toolbox({"t": pipes()})

    async def main() -> tuple[list[Event], list[Request]]:
        model = Scripted([turn(*wants(0, "t__add", '{"a": 20, "b": 22}')), ANSWER])
        deadline = asyncio.get_running_loop().time() + 60
        events = await collect(run(ask("m"), model.stream, box, "public", 3, Trace("m"), deadline))  # type: ignore[arg-type]
        await box.close()
        return events, model.requests

    events, requests = asyncio.run(main())
    assert text(events) == "It is 3."
    assert requests[1].messages[-1].parts == (ToolResult("id0", (Text("the sum is 42"),)),)


def test_calls_of_the_clients_tools_go_back_to_the_client() -> None:
    call = wants(1, "mine", '{"x": 1}', "c1")
    events, requests, _ = loop([turn(TextDelta(0, "I ask."), *call)], tools=CLIENTS)
    assert events == [Started("m"), TextDelta(0, "I ask."), *(replace(piece, call=0) for piece in call), Finished(0, "tool_calls"),
                      Used(Usage(10, 5, 2, 1))]
    box = Offering()  # of both kinds in one turn: the gateway's are not called, for nobody would read their results
    both = turn(*wants(0, "t__add", '{"a": 1, "b": 2}'), *wants(1, "mine", "{}", "c1"), *wants(2, "mine", "{}", "c2"))
    events, requests, _ = loop([both], box, tools=CLIENTS)
    assert {event.call for event in events if isinstance(event, ToolDelta)} == {0, 1}
    assert not box.calls and len(requests) == 1
    events, requests, _ = loop([ADD, turn(*call)], box, tools=CLIENTS)  # first the gateway's, then the client's
    assert [event.name for event in events if isinstance(event, ToolDelta) and event.name] == ["mine"] and len(requests) == 2


def test_the_rounds_are_bounded() -> None:
    events, requests, _ = loop([ADD, ADD, ANSWER], rounds=2)
    assert text(events) == "It is 3." and [request.tool_choice for request in requests] == ["auto", "auto", "none"]
    box = Offering()
    with pytest.raises(GatewayError, match="went on asking for tools after 2 rounds"):
        loop([ADD], box, rounds=2)
    assert len(box.calls) == 2


def test_max_tokens_are_those_of_all_turns() -> None:
    _, requests, _ = loop([ADD, ADD, ANSWER], max_tokens=100)
    assert [request.max_tokens for request in requests] == [100, 95, 90]
    box = Offering()
    events, requests, _ = loop([ADD], box, max_tokens=5)
    assert events == [Started("m"), Finished(0, "length"), Used(Usage(10, 5, 2, 1))] and not box.calls


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_call_that_was_cut_off_is_not_made(reason: str) -> None:
    box = Offering()
    events, _, _ = loop([turn(*wants(0, "t__add", '{"a": 1'), reason=reason)], box)
    assert events[-2] == Finished(0, reason) and not box.calls  # type: ignore[arg-type]


def test_a_reply_that_must_be_json_holds_only_the_last_turns_text() -> None:
    first = turn(TextDelta(0, "Let me see."), *wants(0, "t__add", '{"a": 1, "b": 2}'))
    last = turn(TextDelta(0, '{"sum": '), TextDelta(0, "3}"), reason="stop")
    assert json.loads(text(loop([first, last], format=JSONFormat())[0])) == {"sum": 3}


def test_many_calls_at_once_are_bounded() -> None:
    box = Offering()
    many = turn(*(piece for number in range(20) for piece in wants(number, "t__add", '{"a": 1, "b": 2}')))
    _, requests, _ = loop([many, ANSWER], box)
    results = requests[1].messages[-1].parts
    assert len(box.calls) == 16 and len(results) == 20
    assert [part.failed for part in results if isinstance(part, ToolResult)] == [False] * 16 + [True] * 4


def test_the_deadline_holds_during_calls() -> None:
    box = Offering()
    box.pause = 30.0
    with pytest.raises(GatewayError, match="deadline") as caught:
        loop([ADD, ANSWER], box, wait=0.1)
    assert caught.value.status == 504


def test_who_hangs_up_ends_the_calls() -> None:
    box = Offering()
    box.pause = 30.0

    async def main() -> None:
        model = Scripted([ADD, ANSWER])
        stream = run(ask("m"), model.stream, box, "public", 3, Trace("m"), 1e9)  # type: ignore[arg-type]
        task = asyncio.create_task(collect(stream))
        while not box.calls:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert model.running == 0 and asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_when_there_is_nothing_to_offer_a_request_passes_untouched() -> None:
    call = turn(*wants(0, "t__add", "{}"))
    named: list[dict[str, Any]] = [{"privacy": "local"}, {"tool_choice": "none"}, {"messages": (), "prompt": "x"}]
    for more in named:
        events, requests, _ = loop([call], tools=() if "prompt" in more else CLIENTS, n=2, **more)
        assert events == call and [tool.name for tool in requests[0].tools] == ([] if "prompt" in more else ["mine"])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(GatewayError, match="n > 1") as caught:
        loop([ANSWER], n=2)
    assert caught.value.status == 400
    with pytest.raises(GatewayError, match="goes on from"):
        loop([ANSWER], prefill=True)
    with pytest.raises(GatewayError, match="'t__add' is taken"):
        loop([ANSWER], tools=(Tool("t__add"),))
    _, requests, _ = loop([ADD, ANSWER], tool_choice=NamedTool("t__add"))
    assert [request.tool_choice for request in requests] == [NamedTool("t__add"), "auto"]


def test_no_process_is_left(tmp_path: Path) -> None:
    """Closing ends a server that ignores the end of its input, too."""
    script = tmp_path / "stubborn.py"
    script.write_text(f"import sys, os, threading\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
                      f"sys.path.insert(0, {str(HERE)!r})\nfrom tool_server import server\nserver.run()\n"
                      "threading.Event().wait()\n")

    async def main() -> None:
        box = Toolbox({"t": pipes(args=[str(script)])})
        assert "t__add" in await box.offers("public")
        await box.close()

    asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
