"""Messages → token ids, and which of them are the assistant's own (the loss mask).

Templates are Jinja from model files, so they run in a sandbox. What people write cannot become a special token: special
tokens written out in a message are broken up before rendering and restored, as plain text, before encoding. Tools, and calls of
them, are shown as the template knows to, or as model/toolcalls.py writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypedDict

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ownship.errors import UserError
from ownship.model import toolcalls
from ownship.model.tokenizer import Tokenizer

_EXTENSIONS = ["jinja2.ext.loopcontrols"]

Tools = Sequence[Mapping[str, Any]]  # in OpenAI's shape: {"type": "function", "function": {"name": …, "parameters": {…}}}


class _Required(TypedDict):
    role: str
    content: str


class Message(_Required, total=False):
    """One turn of a conversation, in OpenAI's shape. Calls of tools stand in `tool_calls` of an assistant's turn, each result in a
    turn of role "tool"."""

    reasoning: str
    name: str
    tool_calls: list[dict[str, Any]]
    tool_call_id: str


class Chat:
    """Renders conversations for one tokenizer by its chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def _template(self) -> jinja2.Template:
        if self.tokenizer.chat_template is None:
            raise UserError("the model has no chat template: it is a base model, or chat_template.jinja was left out")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=_EXTENSIONS)
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _tojson
        try:
            return environment.from_string(self.tokenizer.chat_template)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"the chat template cannot be read: {error}") from None

    def takes(self, variable: str) -> bool:
        """Whether the template asks for a variable beside the messages, such as `tools`; False if it cannot be read."""
        try:
            tree = jinja2.Environment(extensions=_EXTENSIONS).parse(self.tokenizer.chat_template or "")
        except jinja2.TemplateSyntaxError:  # whoever renders with it is told
            return False
        return variable in jinja2.meta.find_undeclared_variables(tree)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template shows tools and their calls itself, in the form in which calls are read."""
        return toolcalls.OPEN in (self.tokenizer.chat_template or "") and self.takes("tools")

    def text(self, messages: Sequence[Message], reply: bool = False, tools: Tools = ()) -> str:
        """The rendered conversation; with `reply` it ends where the assistant is to speak."""
        marker = self._marker(messages, tools)
        return self._render(messages, tools, reply, marker).replace(marker, "")

    def prompt(self, messages: Sequence[Message], tools: Tools = (), **variables: Any) -> list[int]:
        """Token ids up to and including the opening of the assistant's reply, which may call the `tools`; `variables` are for the
        template."""
        marker = self._marker(messages, tools, variables)
        return self._encode(self._render(messages, tools, True, marker, variables), marker)

    def render(self, messages: Sequence[Message], tools: Tools = ()) -> tuple[list[int], list[bool]]:
        """Token ids of a whole conversation and, for each, whether the assistant has to produce it.

        The targets are the assistant's turns, calls of tools included, each with its stop token; the ids are those that the
        assistant would have seen and emitted turn by turn, so that training and sampling agree. Raises UserError if the template
        rewrites earlier turns, or never closes a turn with a stop token.
        """
        marker = self._marker(messages, tools)
        ids: list[int] = []
        mask: list[bool] = []
        done = ""

        def extend(text: str, target: bool) -> None:
            part = self._encode(text, marker)
            ids.extend(part)
            mask.extend([target] * len(part))

        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            opening = self._render(messages[:index], tools, True, marker)
            closed = self._render(messages[: index + 1], tools, False, marker)
            if not (opening.startswith(done) and closed.startswith(opening)):
                raise UserError("the chat template rewrites earlier turns, so a conversation cannot be trained on as a whole:"
                                " split it into one example per assistant turn")
            extend(opening[len(done) :], False)
            end = self._stop(closed, len(opening))
            extend(closed[len(opening) : end], True)
            done = closed[:end]
        extend(self._render(messages, tools, False, marker)[len(done) :], False)
        return ids, mask

    def between(self, messages: Sequence[Message], answer: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Token ids that lead from the stop token of the last assistant turn, over `answer`, to the next reply's opening."""
        marker = self._marker([*messages, *answer], tools)
        opening = self._render(messages[:-1], tools, True, marker)
        closed = self._render(messages, tools, False, marker)
        whole = self._render([*messages, *answer], tools, True, marker)
        end = self._stop(closed, len(opening))
        if not (closed.startswith(opening) and whole.startswith(closed[:end])):
            raise UserError("the chat template rewrites earlier turns: it cannot be used over several turns")
        return self._encode(whole[end:], marker)

    def _stop(self, text: str, begin: int) -> int:
        """Where the stop token of the assistant's turn that begins at `begin` ends."""
        matches = [match.end() for match in self.tokenizer.specials.finditer(text, begin)]
        if not matches:
            raise UserError("the chat template does not end the assistant's turn with a stop token")
        return matches[-1]

    def _marker(self, messages: Sequence[Message], tools: Tools, variables: Mapping[str, Any] = MappingProxyType({})) -> str:
        """A private-use character that occurs nowhere in what is rendered."""
        said = [*messages, *map(_as_templates_say, messages), *tools, variables]
        return _unused_character(json.dumps(said, ensure_ascii=False, default=dict) + (self.tokenizer.chat_template or ""))

    def _render(self, messages: Sequence[Message], tools: Tools, reply: bool, marker: str,
                variables: Mapping[str, Any] = MappingProxyType({})) -> str:
        def defuse(value: Any) -> Any:
            if isinstance(value, str):
                return self.tokenizer.specials.sub(lambda match: match[0][0] + marker + match[0][1:], value)
            if isinstance(value, dict):
                return {defuse(key): defuse(item) for key, item in value.items()}
            return [defuse(item) for item in value] if isinstance(value, list) else value

        if not self.knows_tools:
            messages, tools = toolcalls.plain(messages, tools), ()
        given = {**variables, "tools": [*tools]} if tools else dict(variables)
        try:
            return self._template.render(
                messages=[defuse(_as_templates_say(message)) for message in messages], add_generation_prompt=reply,
                eos_token=self.tokenizer.eos or "", bos_token="", **defuse(given),
            )
        except (jinja2.TemplateError, TypeError, RecursionError) as error:
            raise UserError(f"the chat template refuses these messages: {error}") from None

    def _encode(self, text: str, marker: str) -> list[int]:
        ids: list[int] = []
        at = 0
        for match in self.tokenizer.specials.finditer(text):
            ids += self._plain(text[at : match.start()], marker)
            ids.append(self.tokenizer.special[match[0]])
            at = match.end()
        return ids + self._plain(text[at:], marker)

    def _plain(self, text: str, marker: str) -> list[int]:
        return self.tokenizer.encode(text.replace(marker, "")) if text else []


def _as_templates_say(message: Message) -> dict[str, Any]:
    """Templates of reasoning models call it `reasoning_content`; those that know tools write the arguments as JSON themselves."""
    said: dict[str, Any] = dict(message)
    if "reasoning" in message:
        said["reasoning_content"] = message["reasoning"]
    if "tool_calls" in message:
        said["tool_calls"] = [{**call, "function": {**call["function"], "arguments": _object(call["function"].get("arguments"))}}
                              for call in message["tool_calls"]]
    return said


def _object(arguments: Any) -> Any:
    """A call's arguments as an object; text as it is where it is none."""
    if not isinstance(arguments, str | None):
        return arguments
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None,
            sort_keys: bool = False) -> str:
    """As `transformers` gives it to templates."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _unused_character(text: str) -> str:
    """A private-use character that does not occur in the text."""
    used = set(text)
    for code in range(0xE000, 0xF900):
        if chr(code) not in used:
            return chr(code)
    raise UserError("the messages use all 6,400 private-use characters of Unicode")
