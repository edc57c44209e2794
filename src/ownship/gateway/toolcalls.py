"""From a request's tools to what the local model is shown and held to: descriptions, and the grammar of calls in the form that
model/toolcalls.py writes and reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ownship.gateway.engine_process import Spec
from ownship.gateway.types import JSONFormat, Tool, ToolCall, invalid


def wire(tool: Tool) -> dict[str, Any]:
    """OpenAI's description of a tool, which chat templates expect."""
    return {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.schema)}}


def made(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Calls of an earlier turn in OpenAI's shape."""
    return [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in calls]


def parameters(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are always an object."""
    if tool.schema.get("type", "object") != "object":
        raise invalid(f"tool {tool.name!r}: the schema of the parameters must be of type object", "tools")
    return {"type": "object", **tool.schema}


def spec(tools: Mapping[str, dict[str, Any]], parallel: bool, answer: JSONFormat | None) -> Spec:
    """The grammar of calls of these tools (name → schema), or of an answer in a format instead."""
    reply = None if answer is None else answer.schema or {"type": "object"}
    return "calls", json.dumps({"tools": [*tools.items()], "parallel": parallel, "reply": reply}, ensure_ascii=False)
