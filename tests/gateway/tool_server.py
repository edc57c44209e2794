"""A real MCP server for the tests, by the official package: `python tool_server.py` speaks over standard input and output."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("tests")


@server.tool(description="Adds two numbers")
def add(a: int, b: int) -> str:
    print("asked for", a, b, file=sys.stderr)
    return f"the sum is {a + b}"


@server.tool()
def table(n: int) -> dict[str, int]:
    return {str(i): i * i for i in range(n)}


@server.tool()
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "at last"


@server.tool()
def big(size: int) -> str:
    return "é" * size


@server.tool()
def fail() -> str:
    raise ToolError("no such file: handbook.txt")


@server.tool()
def picture() -> Image:
    return Image(data=b"\x89PNG" + bytes(96), format="png")


@server.tool()
def variable(name: str) -> str:
    return os.environ.get(name, "not set")


@server.tool(name="with.dots and blanks")
def odd() -> str:
    return "odd"


@server.tool()
def die() -> str:
    os._exit(1)


@server.tool()
def forbidden() -> str:
    return "this must not be called"


if __name__ == "__main__":
    server.run()
