"""Tool calls as a local model reads and writes them, in the form that Hermes and Qwen models have learnt:

    <tool_call>{"name":"weather","arguments":{"city":"Oslo"}}</tool_call>

one after the other on lines of their own; results come back as `<tool_response>…</tool_response>` in a user's turn. A chat template
that knows this form is used as it is; for any other the tools are described in the system message, as `describe` does it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ownship.gateway.engine_process import Spec
from ownship.gateway.types import JSONFormat, Tool, ToolCall, invalid

OPEN, CLOSE = "<tool_call>", "</tool_call>"

# What stands before the arguments in a call, as the grammar lets it be written; and what stands behind them.
_HEAD = re.compile(r'\n?(?:<tool_call>)?\n?\{"name":("(?:\\.|[^"\\])*"),"arguments":')
_TAIL = re.compile(r"\}\n?</tool_call>")


def wire(tool: Tool) -> dict[str, Any]:
    """OpenAI's description of a tool, which chat templates expect."""
    return {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.schema)}}


def describe(tools: Sequence[Tool]) -> str:
    """What the system message says of the tools."""
    lines = "\n".join(json.dumps(wire(tool), ensure_ascii=False) for tool in tools)
    return (f"# Tools\n\nYou may call these functions to help with the user's request:\n<tools>\n{lines}\n</tools>\n\n"
            "To call a function, answer with its name and arguments as JSON inside these tags, once for each call:\n"
            f'{OPEN}{{"name":"function name","arguments":{{"argument":"value"}}}}{CLOSE}')


def write(calls: Sequence[ToolCall]) -> str:
    """Calls of an earlier turn, as the model wrote them."""
    return "\n".join(f'{OPEN}{{"name":{json.dumps(call.name, ensure_ascii=False)},"arguments":{call.arguments or "{}"}}}{CLOSE}'
                     for call in calls)


def parameters(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are always an object."""
    if tool.schema.get("type", "object") != "object":
        raise invalid(f"tool {tool.name!r}: the schema of the parameters must be of type object", "tools")
    return {"type": "object", **tool.schema}


def spec(tools: Mapping[str, dict[str, Any]], parallel: bool, answer: JSONFormat | None) -> Spec:
    """The grammar of calls of these tools (name → schema), or of an answer in a format instead."""
    reply = None if answer is None else answer.schema or {"type": "object"}
    return "calls", json.dumps({"tools": [*tools.items()], "parallel": parallel, "reply": reply}, ensure_ascii=False)


class Calls:
    """Reads calls from a reply as it comes, from behind the first `<tool_call>` on: (number of the call, its name at its beginning,
    more of its arguments). The text follows the grammar of `spec`."""

    def __init__(self) -> None:
        self.count = 0  # calls begun
        self._text = ""
        self._place = "head"
        self._depth, self._quoted, self._escaped = 0, False, False

    def push(self, text: str) -> Iterator[tuple[int, str | None, str]]:
        self._text += text
        while self._text:
            if self._place == "arguments":
                end = self._end()
                yield self.count - 1, None, self._text[:end]
                self._text = self._text[end:]
                if not self._depth:
                    self._place = "tail"
                continue
            match = (_HEAD if self._place == "head" else _TAIL).match(self._text)
            if match is None:
                return
            self._text = self._text[match.end() :]
            if self._place == "head":
                self.count += 1
                yield self.count - 1, json.loads(match[1]), ""
            self._place = "arguments" if self._place == "head" else "head"

    def _end(self) -> int:
        """How much of the text belongs to the arguments."""
        for at, letter in enumerate(self._text):
            if self._quoted:
                self._quoted = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if not self._depth:
                    return at + 1
        return len(self._text)
