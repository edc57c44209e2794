"""Tools of an environment: what the model is shown, and what comes back when it calls them.

Text goes in and text comes out. What the model wrote is data for the tool's own function, never code; what it may cost is bounded:
calls in a turn, turns with calls, and the length of a result.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ownship.envs.env import Task
from ownship.model import toolcalls
from ownship.model.chat import Message

ERROR = "Error: "  # how a result begins that is none
_CALLS = 8  # in one turn
_LONGEST = 400  # characters of a result


@dataclass(frozen=True)
class Tool:
    """`arguments` maps the name of each to what it is; all are texts, and all have to be given. `run(task, **arguments)` gives the
    result as text; a ValueError that it raises is what the model is told instead."""

    name: str
    description: str
    arguments: Mapping[str, str]
    run: Callable[..., str]

    def shown(self) -> dict[str, Any]:
        """For `Task.tools`."""
        properties = {name: {"type": "string", "description": about} for name, about in self.arguments.items()}
        return {"type": "function", "function": {
            "name": self.name, "description": self.description,
            "parameters": {"type": "object", "properties": properties, "required": [*self.arguments]}}}


def call(name: str, **arguments: str) -> dict[str, Any]:
    """A call in a worked solution."""
    return {"type": "function", "function": {"name": name, "arguments": toolcalls.compact(arguments)}}


def results(tools: Sequence[Tool], task: Task, messages: Sequence[Message], turns: int) -> list[Message]:
    """What comes back for the calls of the last turn: a message for each, or one that says why they cannot be read.

    Empty, which ends the episode, if the turn calls nothing, or if `turns` turns before it did. Results are data: only what the
    model said is searched for calls, and a chat template cannot take a result for anything but text.
    """
    try:
        said = messages[-1]
        calls = said.get("tool_calls") or toolcalls.read(said["content"])[1]
        if len(calls) > _CALLS:
            raise toolcalls.BadCall(f"at most {_CALLS} calls in a turn")
    except toolcalls.BadCall as error:
        answers: list[Message] = [{"role": "tool", "content": f"{ERROR}{error}"}]
    else:
        answers = [{"role": "tool", "name": each["function"]["name"], "content": _result(tools, task, each["function"])}
                   for each in calls]
    before = sum(now["role"] == "tool" and then["role"] != "tool" for then, now in itertools.pairwise(messages))
    return answers if before < turns else []


def _result(tools: Sequence[Tool], task: Task, function: Mapping[str, Any]) -> str:
    tool = next((tool for tool in tools if tool.name == function["name"]), None)
    if tool is None:
        return f"{ERROR}there is no such function; there are {', '.join(tool.name for tool in tools)}"
    arguments = json.loads(function["arguments"])
    if arguments.keys() != tool.arguments.keys() or not all(isinstance(value, str) for value in arguments.values()):
        return f"{ERROR}{tool.name} takes {', '.join(tool.arguments)}, as text, and nothing else"
    try:
        result = tool.run(task, **arguments)
    except ValueError as error:
        result = f"{ERROR}{error}"
    return result if len(result) <= _LONGEST else result[:_LONGEST] + " … (cut off)"


def called(task: Task, messages: Sequence[Message]) -> float:
    """For a rubric: which share of what came back was no error; 0 if nothing was called."""
    found = [not message["content"].startswith(ERROR) for message in messages if message["role"] == "tool"]
    return sum(found) / len(found) if found else 0.0
