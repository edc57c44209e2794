"""Tools of MCP servers: connections to the servers, the tools that may be called there, and calls with bounds.

A server is not trusted. Its tools are shown to a model only if `allow` names them and its privacy label fits the request's; what a
call brings back is cut to size, and every failure is a result that the model can read, never an end of the reply.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ownship.errors import UserError
from ownship.gateway.config import MCPTable, Privacy, may_go
from ownship.gateway.types import Text, Tool, ToolResult

if TYPE_CHECKING:
    import mcp

_CONNECT = 10.0  # seconds for a server to come up
_AGAIN = 30.0  # seconds before one that did not is tried again
_MOST_TOOLS = 1000  # of one server
_DESCRIPTION = 4000  # characters of a tool's description that a model is shown
# What a server may answer and still be well: the call was wrong, not the connection.
_REFUSALS = frozenset({-32601, -32602, -32603, -32042})


@dataclass(frozen=True)
class Offer:
    """A tool that a model may call: `tool` is how it is shown, `name` how its server calls it."""

    server: Server
    name: str
    tool: Tool


class Toolbox:
    """All configured servers, by name. Each has a task of its own, because a connection must end in the task that began it."""

    def __init__(self, servers: Mapping[str, MCPTable]) -> None:
        self._servers = [Server(name, table) for name, table in servers.items()]

    async def offers(self, privacy: Privacy) -> dict[str, Offer]:
        """What may be called with data of this label, by the name shown to models. A server that is down offers nothing."""
        servers = [server for server in self._servers if may_go(privacy, server.table.privacy)]
        await asyncio.gather(*(server.connect() for server in servers))
        return {offer.tool.name: offer for server in servers for offer in server.offers()}

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers))


class Server:
    """A connection that comes back by itself when it was lost."""

    def __init__(self, name: str, table: MCPTable) -> None:
        self.name, self.table = name, table
        self._client: mcp.Client | None = None
        self._tools: list[Tool] = []
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._not_before = 0.0

    def offers(self) -> list[Offer]:
        if self._client is None:
            return []
        return [Offer(self, tool.name, Tool(shown(self.name, tool.name), tool.description, tool.schema)) for tool in self._tools]

    async def connect(self) -> None:
        """Tries to be connected; does not raise if the server is at fault. UserError without the package `mcp`."""
        async with self._connecting:
            now = asyncio.get_running_loop().time()
            if self._client is not None or now < self._not_before:
                return
            require()
            await self.close()
            self._stop = asyncio.Event()
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._live(ready, self._stop))
            try:
                async with asyncio.timeout(_CONNECT):
                    await ready
            except Exception as error:
                self._not_before = now + _AGAIN
                logging.getLogger(__name__).warning("MCP server %s does not answer (%s); next try in %g s", self.name,
                                                    _kind(error), _AGAIN)
                self._task.cancel()
                await self.close()

    async def call(self, name: str, arguments: dict[str, Any], call: str, limit: float) -> ToolResult:
        """The result of one call, as the model is to read it. `limit` is in seconds."""
        client = self._client
        if client is None:
            return _failed(call, "the server of this tool is down")
        seconds = min(limit, self.table.timeout)
        try:
            async with asyncio.timeout(seconds):
                result = await client.call_tool(name, arguments)
        except TimeoutError:
            return _failed(call, f"no result within {seconds:g} seconds")
        except Exception as error:
            if getattr(error, "code", None) not in _REFUSALS:
                # the connection may be gone: the next request makes a new one
                self._client = None
                self._stop.set()
            said = getattr(error, "message", "")
            return _failed(call, self._cut(said if isinstance(said, str) and said else f"the call failed ({_kind(error)})"))
        return ToolResult(call, (Text(self._cut(_text(result))),), bool(result.is_error))

    async def close(self) -> None:
        self._stop.set()
        self._client = None
        task, self._task = self._task, None
        if task is not None:
            done, _ = await asyncio.wait({task}, timeout=_CONNECT)
            if not done:
                task.cancel()
                await asyncio.wait({task})

    async def _live(self, ready: asyncio.Future[None], stop: asyncio.Event) -> None:
        from mcp import Client

        try:
            async with _transport(self.table) as transport, Client(transport) as client:
                self._tools = await self._list(client)
                self._client = client
                if not ready.done():
                    ready.set_result(None)
                await stop.wait()
        except BaseException as error:  # a task group's errors, and cancelling, too: who waits must hear of it
            if not ready.done():
                ready.set_exception(error if isinstance(error, Exception) else ConnectionError(type(error).__name__))
            elif not isinstance(error, Exception):
                raise
        finally:
            self._client = None

    async def _list(self, client: mcp.Client) -> list[Tool]:
        """The allowed tools."""
        tools: list[Tool] = []
        cursor, every = None, self.table.allow == ["*"]
        seen = 0
        while seen < _MOST_TOOLS:
            page = await client.list_tools(cursor=cursor)
            seen += max(1, len(page.tools))
            tools += [Tool(tool.name, (tool.description or "")[:_DESCRIPTION], tool.input_schema)
                      for tool in page.tools if every or tool.name in self.table.allow]
            cursor = page.next_cursor
            if cursor is None:
                break
        if missing := sorted(set(self.table.allow) - {"*"} - {tool.name for tool in tools}):
            logging.getLogger(__name__).warning("MCP server %s has no tool %s", self.name, ", ".join(missing))
        return tools

    def _cut(self, text: str) -> str:
        data = text.encode(errors="replace")
        if len(data) <= self.table.max_bytes:
            return text
        return data[:self.table.max_bytes].decode(errors="ignore") + f"\n[cut off: {len(data)} bytes in all]"


def shown(server: str, name: str) -> str:
    """The name that a model calls a tool by: `SERVER__NAME`, in the characters and the 64 places that all providers allow. Where
    that changes the name, a hash of the true one keeps two tools apart."""
    plain = f"{server}__{re.sub('[^A-Za-z0-9_-]', '_', name)}"
    if plain == f"{server}__{name}" and len(plain) <= 64:
        return plain
    return f"{plain[:55]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@asynccontextmanager
async def _transport(table: MCPTable) -> AsyncIterator[Any]:
    """What the official client takes for a server of this kind."""
    import httpx2
    from mcp import StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if table.command is not None:
        passed = {name: os.environ[name] for name in table.pass_env if name in os.environ}
        with open(os.devnull, "w") as silence:  # what it says on standard error may hold what it was asked: not for our log
            yield stdio_client(StdioServerParameters(command=table.command, args=table.args, env=passed), errlog=silence)
        return
    assert table.url is not None, "a command or a url"
    key = table.secret()
    headers = {"authorization": f"Bearer {key}"} if key is not None else {}
    limits = httpx2.Timeout(_CONNECT, read=table.timeout + 1)  # the call's own limit comes first
    async with httpx2.AsyncClient(headers=headers, timeout=limits) as client:
        yield streamable_http_client(table.url, http_client=client)


def require() -> None:
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise UserError("tools of MCP servers need the package mcp: pip install 'ownship[mcp]'") from None


def _text(result: mcp.types.CallToolResult) -> str:
    """A result's content as text. What is not text is named, not shown: not every model that may answer can see it."""
    lines = []
    for item in result.content:
        if item.type == "text":
            lines.append(item.text)
        elif item.type == "resource":
            lines.append(getattr(item.resource, "text", None) or f"[{item.resource.uri}: {item.resource.mime_type}, not shown]")
        elif item.type == "resource_link":
            lines.append(f"[{item.uri}]")
        else:
            lines.append(f"[{item.mime_type}, {len(item.data) * 3 // 4 - item.data.count('=')} bytes, not shown]")
    if not lines and result.structured_content is not None:
        lines.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(lines)


def _failed(call: str, why: str) -> ToolResult:
    return ToolResult(call, (Text(why),), failed=True)


def _kind(error: BaseException) -> str:
    """The name of what went wrong; of a task group's errors, that of the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
