"""Chat files → examples to imitate: OpenAI's shape and ShareGPT's.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": [{"type": "text", "text": "…"}]}]}
    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}], "system": "…"}

Either may define `tools` in OpenAI's shape. The model is shown them, learns to call them, and only reads their results (turns of
role "tool"). Calls stand in an assistant's `tool_calls`, or in its text as model/toolcalls.py writes them.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ownship.learn.lines import BadLine
from ownship.learn.sample import Sample, supervised
from ownship.model import toolcalls
from ownship.model.chat import Chat, Message

WANTED = '{"messages": [{"role": …, "content": …}, …]} or {"conversations": [{"from": …, "value": …}, …]}'

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
             "model": "assistant", "assistant": "assistant", "tool": "tool", "observation": "tool"}
_KEPT = ("reasoning", "name", "tool_call_id")


@dataclass(frozen=True)
class Example:
    """Token ids and, for each, 1 if it is trained on: five bytes a token, since a whole file of them stays in memory."""

    tokens: array[int]
    mask: bytes

    def sample(self) -> Sample:
        """Imitate the masked tokens."""
        return supervised(list(self.tokens), [bool(target) for target in self.mask])


def example(value: dict[str, Any], chat: Chat, longest: int) -> Example:
    """A line's object → what is imitated: the assistant's turns with their stop tokens, less those of weight 0.

    Raises BadLine if it is no conversation, teaches nothing or takes more than `longest` tokens; UserError if the chat
    template refuses it.
    """
    messages, weights = conversation(value)
    if not any(message["role"] == "assistant" for message in messages):
        raise BadLine("no assistant turn to learn")
    ids, mask = chat.render(messages, tools(value))
    return cut(ids, _weighted(mask, weights), longest)


def conversation(value: dict[str, Any]) -> tuple[list[Message], list[int]]:
    """A line's object → its messages, and the weight of each assistant turn (OpenAI's `weight`: 1, or 0 to only read it)."""
    if "messages" in value:
        said = messages(value["messages"])
        turns = [raw.get("weight", 1) for raw in value["messages"] if raw["role"] == "assistant"]
        if any(weight not in (0, 1) for weight in turns):
            raise BadLine("the weight of an assistant turn must be 0 or 1")
        return said, turns
    if "conversations" not in value:
        raise BadLine('neither "messages" nor "conversations"')
    said = _shared(value["conversations"])
    if system := value.get("system"):
        said.insert(0, {"role": "system", "content": _text(system)})
    return said, [1] * sum(message["role"] == "assistant" for message in said)


def tools(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools that a line's object defines, in OpenAI's shape. Raises BadLine."""
    if value.get("functions"):
        raise BadLine('it defines "functions", OpenAI\'s former shape: write them as "tools"')
    raw = value.get("tools") or []
    if not isinstance(raw, list):
        raise BadLine(f"the tools are not a list but a {type(raw).__name__}")
    for number, tool in enumerate(raw, 1):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not toolcalls.shallow(function):
            raise BadLine(f'tool {number} is not {{"type": "function", "function": {{"name": …, "parameters": …}}}}')
    return raw


def messages(raw: object) -> list[Message]:
    """A list in OpenAI's shape → messages whose content is plain text. Raises BadLine."""
    said: list[Message] = []
    for number, item in enumerate(_list(raw), 1):
        role = _role(item, "role", _ROLES, number)
        kept = {name: item[name] for name in _KEPT if item.get(name)}
        if item.get("tool_calls"):
            if role != "assistant":
                raise BadLine(f"message {number} calls tools and is not the assistant's")
            kept["tool_calls"] = _calls(item["tool_calls"], number)
        content = item.get("content")
        if content is None and "tool_calls" not in kept:
            raise BadLine(f"message {number} has no content")
        text = "" if content is None else _text(content)
        if role == "assistant" and not text.strip() and "tool_calls" not in kept:
            raise BadLine(f"message {number}, the assistant's, is empty")
        said.append(cast(Message, {"role": role, "content": text, **kept}))
    return said


def _shared(raw: object) -> list[Message]:
    said: list[Message] = []
    for number, item in enumerate(_list(raw), 1):
        role, text = _role(item, "from", _SPEAKERS, number), _text(item.get("value"))
        if role == "assistant" and not text.strip():
            raise BadLine(f"message {number}, the assistant's, is empty")
        said.append({"role": role, "content": toolcalls.unwrapped(text) if role == "tool" else text})
    return said


def _calls(raw: object, number: int) -> list[dict[str, Any]]:
    """Calls whose arguments are one JSON object, written without spaces. Raises BadLine."""
    calls = []
    for place, item in enumerate(raw if isinstance(raw, list) else [None], 1):
        function = item.get("function") if isinstance(item, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadLine(f'message {number}: call {place} is not {{"function": {{"name": …, "arguments": …}}}}')
        arguments = function.get("arguments") or {}
        try:
            value = json.loads(arguments) if isinstance(arguments, str) else arguments
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not toolcalls.shallow(value):
            raise BadLine(f"message {number}: the arguments of call {place} are no JSON object")
        calls.append({**item, "type": "function", "function": {"name": function["name"], "arguments": toolcalls.compact(value)}})
    return calls


def _list(raw: object) -> list[Any]:
    if not isinstance(raw, list):
        raise BadLine(f"the messages are not a list but a {type(raw).__name__}")
    if not raw:
        raise BadLine("no messages")
    return raw


def _role(item: object, key: str, known: dict[str, str], number: int) -> str:
    if not isinstance(item, dict):
        raise BadLine(f"message {number} is not an object")
    name = item.get(key)
    if not isinstance(name, str) or name not in known:
        raise BadLine(f"message {number} has the unknown role {reprlib.repr(name)} (known: {', '.join(known)})")
    return known[name]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadLine(f"a message's content is not text but {type(content).__name__}")
    parts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise BadLine(f"a part of a message's content is not text but {reprlib.repr(kind)}")
        parts.append(part["text"])
    return "".join(parts)


def cut(ids: Sequence[int], mask: Sequence[bool], longest: int) -> Example:
    """An Example that ends with the last trained token: what follows would be computed for nothing. Raises BadLine."""
    if True not in mask:
        raise BadLine("nothing to learn: the weight of every assistant turn is 0")
    size = len(mask) - list(reversed(mask)).index(True)
    if size > longest:
        raise BadLine(f"too long: {size:,} tokens, and the model's context is {longest:,}")
    return Example(array("i", ids[:size]), bytes(mask[:size]))


def _weighted(mask: list[bool], weights: Sequence[int]) -> list[bool]:
    """The mask without the turns of weight 0. A turn is a run of masked tokens: an opening stands between two turns."""
    if all(weights):
        return mask
    begins = [at for at in range(len(mask)) if mask[at] and not (at and mask[at - 1])]
    if len(begins) != len(weights):
        raise BadLine("turns of weight 0 cannot be told from the others in the model's chat template")
    kept = list(mask)
    for begin, weight in zip(begins, weights, strict=True):
        for at in range(begin, len(mask) if not weight else begin):
            if not mask[at]:
                break
            kept[at] = False
    return kept


def digest(examples: Iterable[Example]) -> str:
    """16 hex digits that tell whether these are the same examples in the same order."""
    seen = hashlib.blake2b(digest_size=8)
    for item in examples:
        seen.update(f"{len(item.mask)} ".encode() + item.tokens.tobytes() + item.mask)
    return seen.hexdigest()
