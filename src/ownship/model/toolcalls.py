"""Tool calls as a model reads and writes them, in the form that Hermes and Qwen models have learnt:

    <tool_call>{"name":"weather","arguments":{"city":"Oslo"}}</tool_call>

one after the other on lines of their own; results come back as `<tool_response>…</tool_response>` in a user's turn. A chat template
that knows this form is used as it is; for any other `plain` describes the tools in the system message, and writes calls and results
into the turns' text. So a model is trained on what it is shown when it is served, whatever its template knows.

Tools and calls are in OpenAI's shape: {"type": "function", "function": {"name", "description", "parameters"}} and
{"type": "function", "function": {"name", "arguments"}}, the arguments a JSON text or an object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ownship.model.chat import Message

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_RESULT, _RESULT_END = "<tool_response>", "</tool_response>"

# What stands before the arguments in a call, as the gateway's grammar lets it be written; and what stands behind them.
_HEAD = re.compile(r'\n?(?:<tool_call>)?\n?\{"name":("(?:\\.|[^"\\])*"),"arguments":')
_TAIL = re.compile(r"\}\n?</tool_call>")
_SPACE = re.compile(r"\s*")
_DEEPEST = 64  # objects and lists inside each other: more is nobody's arguments, and an attack on whoever walks through them


class BadCall(ValueError):
    """Why the calls in a reply cannot be read, in few words."""


# Conversations → what a template is given


def describe(tools: Sequence[Mapping[str, Any]]) -> str:
    """What the system message says of the tools."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (f"# Tools\n\nYou may call these functions to help with the user's request:\n<tools>\n{lines}\n</tools>\n\n"
            "To call a function, answer with its name and arguments as JSON inside these tags, once for each call:\n"
            f'{OPEN}{{"name":"function name","arguments":{{"argument":"value"}}}}{CLOSE}')


def write(calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls of an earlier turn, as the model wrote them."""
    written = []
    for call in calls:
        name, arguments = call["function"]["name"], call["function"].get("arguments") or "{}"
        if not isinstance(arguments, str):
            arguments = compact(arguments)
        written.append(f'{OPEN}{{"name":{json.dumps(name, ensure_ascii=False)},"arguments":{arguments}}}{CLOSE}')
    return "\n".join(written)


def compact(value: Any) -> str:
    """JSON without spaces, as the model is shown it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """For a template that knows nothing of tools: they stand in the system message, calls and results in the turns' text."""
    turns: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            text = f"{_RESULT}\n{message['content']}\n{_RESULT_END}"
            if turns and turns[-1]["role"] == "user":
                turns[-1]["content"] += "\n" + text
            else:
                turns.append({"role": "user", "content": text})
            continue
        turn = message.copy()
        if calls := turn.pop("tool_calls", None):
            turn["content"] = f"{turn['content']}\n{write(calls)}" if turn["content"] else write(calls)
        if turn["role"] == "user" and turns and turns[-1]["role"] == "user" and turns[-1]["content"].endswith(_RESULT_END):
            turns[-1]["content"] += "\n\n" + turn["content"]  # many templates want the roles to alternate
        else:
            turns.append(turn)
    if tools:
        if turns and turns[0]["role"] == "system":
            turns[0]["content"] += "\n\n" + describe(tools)
        else:
            turns.insert(0, {"role": "system", "content": describe(tools)})
    return turns


def shallow(value: Any, deepest: int = _DEEPEST) -> bool:
    """Whether a JSON value is nested at most so deeply."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return deepest > 0 and all(shallow(item, deepest - 1) for item in inside)


def unwrapped(result: str) -> str:
    """A result that some data set keeps in its tags → the result."""
    return result.strip().removeprefix(_RESULT).removesuffix(_RESULT_END).strip() if _RESULT in result else result


# Replies → calls


def message(text: str) -> Message:
    """An assistant's turn, its calls apart from its text. A turn whose calls cannot be read is kept as text: `read` says why."""
    try:
        said, calls = read(text)
    except BadCall:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": said, "tool_calls": calls} if calls else {"role": "assistant", "content": text}


def read(text: str) -> tuple[str, list[dict[str, Any]]]:
    """A whole reply that nothing held to the form → what it says before its calls, and these.

    Raises BadCall unless every call is closed, is JSON of a name and an object of arguments, and nothing else follows: of a reply
    that is half right, nothing may be carried out.
    """
    if (at := text.find(OPEN)) < 0:
        return text, []
    said, calls = text[:at].rstrip(), list[dict[str, Any]]()
    while at < len(text):
        if not text.startswith(OPEN, at):
            raise BadCall("nothing may follow the calls")
        try:
            value, at = _JSON.raw_decode(text, _after_space(text, at + len(OPEN)))
        except (ValueError, RecursionError):
            raise BadCall("the call is not JSON") from None
        if not shallow(value):
            raise BadCall("the call is nested too deeply")
        if not (isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("arguments"), dict)):
            raise BadCall('a call is written {"name":"function name","arguments":{"argument":"value"}}')
        calls.append({"type": "function", "function": {"name": value["name"], "arguments": compact(value["arguments"])}})
        if not text.startswith(CLOSE, at := _after_space(text, at)):
            raise BadCall(f"the call does not end with {CLOSE}")
        at = _after_space(text, at + len(CLOSE))
    return said, calls


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _no_number(name: str) -> None:
    raise ValueError(name)


_JSON = json.JSONDecoder(parse_constant=_no_number)  # NaN and its like are Python's, not JSON's


class Calls:
    """Reads calls from a reply as it comes, from behind the first `<tool_call>` on: (number of the call, its name at its beginning,
    more of its arguments). The text follows the grammar of the gateway's `toolcalls.spec`."""

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
