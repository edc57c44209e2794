"""A request → the prompt's token ids, by the model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ownship.errors import UserError
from ownship.gateway import toolcalls
from ownship.gateway.types import Image, Message, NamedTool, Reasoning, Request, Text, Tool, ToolCall, ToolResult, invalid
from ownship.model.chat import Chat
from ownship.model.chat import Message as Turn
from ownship.model.tokenizer import Tokenizer

THINK, THOUGHT = "<think>", "</think>"


class Renderer:
    """For one tokenizer. `thinks`: the template knows reasoning between <think> and </think>."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.chat = tokenizer, Chat(tokenizer)
        template = tokenizer.chat_template or ""
        self.thinks = THINK in template or THOUGHT in template
        self._switch = self.chat.takes("enable_thinking")

    def prompt(self, request: Request) -> list[int]:
        """Raises GatewayError 400 for what the model or its template cannot read."""
        if request.prompt is not None:
            return self.tokenizer.encode_raw(request.prompt) if isinstance(request.prompt, str) else [*request.prompt]
        messages = request.messages[:-1] if request.prefill else request.messages
        variables: dict[str, Any] = {"enable_thinking": thinking(request, self.thinks)} if self._switch else {}
        turns = [_turn(message) for each in messages for message in _single(each)]
        try:
            ids = self.chat.prompt(turns, [*map(toolcalls.wire, offered(request))], **variables)
        except UserError as error:
            raise invalid(str(error), "messages") from None
        ids = self._open(ids, request)
        return ids + self.tokenizer.encode(_text(request.messages[-1].parts)) if request.prefill else ids

    def _open(self, ids: list[int], request: Request) -> list[int]:
        """With the reasoning opened, or closed at once: whichever is wanted, whatever the template did."""
        end = self.tokenizer.decode(ids[-12:], skip_special=False).rstrip()
        opened = end.endswith(THINK)
        if thinking(request, self.thinks):
            return ids if opened else ids + self.tokenizer.encode(f"{THINK}\n")
        if opened:
            return ids + self.tokenizer.encode(f"\n{THOUGHT}\n\n")
        if self.thinks and not end.endswith(THOUGHT):
            return ids + self.tokenizer.encode(f"{THINK}\n\n{THOUGHT}\n\n")
        return ids


def thinking(request: Request, by_itself: bool) -> bool:
    """Whether the reply begins with reasoning: if it was asked for, or nothing was said and the model does so `by_itself`.

    A model whose template does not know reasoning is made to do it all the same when it is asked for: its reply is opened with
    <think>, and closed at the bound.
    """
    if request.prompt is not None or request.effort == "none" or request.thinking_tokens == 0:
        return False
    by_itself = by_itself and not request.prefill
    return by_itself or request.effort is not None or request.thinking_tokens is not None


def offered(request: Request) -> tuple[Tool, ...]:
    """The tools that may be called."""
    if request.tool_choice == "none":
        return ()
    if isinstance(request.tool_choice, NamedTool):
        return tuple(tool for tool in request.tools if tool.name == request.tool_choice.name)
    return request.tools


def size(request: Request) -> int:
    """About how many characters have to be made into tokens."""
    if request.prompt is not None:
        return len(request.prompt) if isinstance(request.prompt, str) else 0
    tools = sum(200 + len(tool.description) + len(str(tool.schema)) for tool in request.tools)
    return tools + sum(100 + sum(len(_text((part,))) for part in message.parts if isinstance(part, Text | ToolResult))
                       for message in request.messages)


def _text(parts: Sequence[Text | Image | Reasoning | ToolCall | ToolResult]) -> str:
    texts = []
    for part in parts:
        if isinstance(part, Image):
            raise invalid("the local model cannot see: images are not supported", "messages")
        if isinstance(part, Text):
            texts.append(part.text)
        elif isinstance(part, ToolResult):
            texts.append(("Error: " if part.failed else "") + _text(part.content))
    return "".join(texts)


def _single(message: Message) -> list[Message]:
    """A message with several results as one for each: templates know one."""
    return [Message("tool", (part,)) for part in message.parts] if message.role == "tool" else [message]


def _turn(message: Message) -> Turn:
    """In the shape of chat templates."""
    turn: Turn = {"role": message.role, "content": _text(message.parts)}
    if message.name is not None:
        turn["name"] = message.name
    if reasoning := "".join(part.text for part in message.parts if isinstance(part, Reasoning)):
        turn["reasoning"] = reasoning
    if calls := [part for part in message.parts if isinstance(part, ToolCall)]:
        turn["tool_calls"] = toolcalls.made(calls)
    if message.role == "tool" and isinstance(result := message.parts[0], ToolResult):
        turn["tool_call_id"] = result.call
    return turn
