"""Messages → token ids, and which of them are the assistant's own (the loss mask).

Templates are Jinja from model files, so they run in a sandbox. What people write cannot become a special token: special
tokens written out in a message are broken up before rendering and restored, as plain text, before encoding.
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
from ownship.model.tokenizer import Tokenizer

_EXTENSIONS = ["jinja2.ext.loopcontrols"]


class _Required(TypedDict):
    role: str
    content: str


class Message(_Required, total=False):
    """One turn of a conversation, in OpenAI's shape."""

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
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        try:
            return environment.from_string(self.tokenizer.chat_template)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"the chat template cannot be read: {error}") from None

    def takes(self, variable: str) -> bool:
        """Whether the template asks for a variable beside the messages, such as `tools`."""
        return variable in jinja2.meta.find_undeclared_variables(jinja2.Environment(extensions=_EXTENSIONS).parse(
            self.tokenizer.chat_template or ""))

    def text(self, messages: Sequence[Message], reply: bool = False) -> str:
        """The rendered conversation; with `reply` it ends where the assistant is to speak."""
        marker = _unused_character(messages, self.tokenizer.chat_template or "")
        return self._render(messages, reply, marker).replace(marker, "")

    def prompt(self, messages: Sequence[Message], **variables: Any) -> list[int]:
        """Token ids up to and including the opening of the assistant's reply; `variables` are for the template."""
        marker = _unused_character([*messages, variables], self.tokenizer.chat_template or "")
        return self._encode(self._render(messages, True, marker, variables), marker)

    def render(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Token ids of a whole conversation and, for each, whether the assistant has to produce it.

        The targets are the assistant's turns, each with its stop token; the ids are those that the assistant would have
        seen and emitted turn by turn, so that training and sampling agree. Raises UserError if the template rewrites
        earlier turns, or never closes a turn with a stop token.
        """
        marker = _unused_character(messages, self.tokenizer.chat_template or "")
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
            opening = self._render(messages[:index], True, marker)
            closed = self._render(messages[: index + 1], False, marker)
            if not (opening.startswith(done) and closed.startswith(opening)):
                raise UserError("the chat template rewrites earlier turns, so a conversation cannot be trained on as a whole:"
                                " split it into one example per assistant turn")
            extend(opening[len(done) :], False)
            end = self._stop(closed, len(opening))
            extend(closed[len(opening) : end], True)
            done = closed[:end]
        extend(self._render(messages, False, marker)[len(done) :], False)
        return ids, mask

    def between(self, messages: Sequence[Message], answer: Sequence[Message]) -> list[int]:
        """Token ids that lead from the stop token of the last assistant turn, over `answer`, to the next reply's opening."""
        marker = _unused_character([*messages, *answer], self.tokenizer.chat_template or "")
        opening = self._render(messages[:-1], True, marker)
        closed = self._render(messages, False, marker)
        whole = self._render([*messages, *answer], True, marker)
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

    def _render(self, messages: Sequence[Message], reply: bool, marker: str,
                variables: Mapping[str, Any] = MappingProxyType({})) -> str:
        def defuse(value: Any) -> Any:
            if isinstance(value, str):
                return self.tokenizer.specials.sub(lambda match: match[0][0] + marker + match[0][1:], value)
            if isinstance(value, dict):
                return {defuse(key): defuse(item) for key, item in value.items()}
            return [defuse(item) for item in value] if isinstance(value, list) else value

        try:
            return self._template.render(
                messages=[defuse(_as_templates_say(message)) for message in messages], add_generation_prompt=reply,
                eos_token=self.tokenizer.eos or "", bos_token="", **defuse(dict(variables)),
            )
        except (jinja2.TemplateError, TypeError) as error:
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
    """Templates of reasoning models call it `reasoning_content`."""
    return {**message, "reasoning_content": message["reasoning"]} if "reasoning" in message else dict(message)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _unused_character(messages: Sequence[Mapping[str, Any]], template: str) -> str:
    """A private-use character that occurs nowhere in the conversation."""
    used = set(json.dumps(list(messages), ensure_ascii=False) + template)
    for code in range(0xE000, 0xF900):
        if chr(code) not in used:
            return chr(code)
    raise UserError("the messages use all 6,400 private-use characters of Unicode")
