"""Preference files → pairs of replies to one prompt, and what a reference policy thinks of them.

    {"prompt": [messages], "chosen": [messages], "rejected": [messages]}    a conversation (TRL's conversational form)
    {"messages": [messages], "chosen": "reply", "rejected": "reply"}        the same; a reply may be text or one message, too
    {"chosen": [messages], "rejected": [messages]}                          whole conversations: the prompt is how both begin
    {"prompt": "text", "chosen": "text", "rejected": "text"}                plain text that goes on (TRL's standard form)
    {"chosen": "text", "rejected": "text"}                                  the same with the prompt in both

A conversation may define `tools`, as in learn/chats.py.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ownship.learn import distributed
from ownship.learn.chats import Example, cut, digest, messages, tools
from ownship.learn.evaluate import scored
from ownship.learn.lines import BadLine
from ownship.learn.sample import Sample
from ownship.model.chat import Chat, Message, Tools
from ownship.model.llama import Llama

WANTED = '{"prompt": …, "chosen": …, "rejected": …}'

_SAVE_EVERY = 256  # pairs between two writes of the reference's log-probabilities


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt, which is the first `prompt` tokens of both."""

    prompt: int
    chosen: Example
    rejected: Example

    def samples(self, number: int, reference: Sequence[float] = (0.0, 0.0)) -> list[Sample]:
        """The two samples of pair `number` of an update, for learn/preference.py.

        `reference` holds the reference's log-probability of the chosen and of the rejected reply; since only the sum over a
        reply's tokens counts, each token is given an equal part of it.
        """
        counts = [sum(self.chosen.mask), sum(self.rejected.mask)]
        made = []
        for item, count, sign, logprob in zip((self.chosen, self.rejected), counts, (1.0, -1.0), reference, strict=True):
            weights, logprobs, signs = ([value if target else 0.0 for target in item.mask]
                                        for value in (1 / sum(counts), logprob / count, sign))
            made.append(Sample(list(item.tokens), self.prompt, weights, logprobs, signs, pair=number))
        return made


def pair(value: dict[str, Any], chat: Chat, longest: int) -> Pair:
    """A line's object → a Pair; trained on are the assistant's turns after the prompt, or all of the text after it, with their
    stop tokens. Raises BadLine if it is none, or longer than `longest` tokens; UserError if the chat template refuses it."""
    for name in ("chosen", "rejected"):
        if not value.get(name):
            raise BadLine(f'no "{name}" reply')
    prompt, chosen, rejected = value.get("prompt", value.get("messages")), value["chosen"], value["rejected"]
    if chosen == rejected:
        raise BadLine("the chosen and the rejected reply are the same")
    if isinstance(chosen, str) and isinstance(rejected, str) and not isinstance(prompt, list):
        if value.get("tools"):
            raise BadLine("tools are for conversations, not for plain text")
        context, parts = _plain(prompt, chosen, rejected, chat)
    else:
        context, parts = _conversations(prompt, chosen, rejected, chat, tools(value))
    made = [cut(context + ids, [False] * len(context) + mask, longest) for ids, mask in parts]
    if made[0] == made[1]:
        raise BadLine("the chosen and the rejected reply are the same")
    return Pair(len(context), *made)


_Reply = tuple[list[int], list[bool]]  # token ids after the prompt and which of them are trained on


def _plain(prompt: object, chosen: str, rejected: str, chat: Chat) -> tuple[list[int], list[_Reply]]:
    if prompt is None:
        prompt = chosen[: _shared(chosen, rejected)]
        prompt = prompt.removesuffix(" ")  # a token is a word with the space before it
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if not isinstance(prompt, str) or not prompt:
        raise BadLine("the prompt is empty" if isinstance(prompt, str) else "the prompt is not text")
    encode, stop = chat.tokenizer.encode, chat.tokenizer.eos_id
    replies = [[*encode(text), stop] for text in (chosen, rejected)]
    return encode(prompt), [(ids, [True] * len(ids)) for ids in replies]


def _conversations(prompt: object, chosen: object, rejected: object, chat: Chat, tools: Tools) -> tuple[list[int], list[_Reply]]:
    first, second = _reply(chosen), _reply(rejected)
    if isinstance(prompt, list):
        before = messages(prompt)
        if first[: len(before)] == second[: len(before)] == before:  # some data sets repeat it
            first, second = first[len(before) :], second[len(before) :]
    else:
        before = first[: _shared(first, second)]
        first, second = first[len(before) :], second[len(before) :]
        if isinstance(prompt, str) and prompt:
            said: Message = {"role": "user", "content": prompt}
            if not before:
                before = [said]
            elif before[-1] != said:
                raise BadLine("the prompt is not what the two conversations have in common")
    if not before:
        raise BadLine("the prompt is empty")
    context, parts = chat.prompt(before, tools), []
    for reply in (first, second):
        if not any(message["role"] == "assistant" for message in reply):
            raise BadLine("a reply has no assistant turn to learn")
        ids, mask = chat.render([*before, *reply], tools)
        if ids[: len(context)] != context:
            raise BadLine("the chat template shows the prompt differently once a reply follows")
        parts.append((ids[len(context) :], mask[len(context) :]))
    return context, parts


def _reply(raw: object) -> list[Message]:
    if isinstance(raw, str):
        return messages([{"role": "assistant", "content": raw}])
    return messages([raw] if isinstance(raw, dict) else raw)


def _shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many characters or messages both begin with."""
    return next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


def fingerprint(pairs: Iterable[Pair]) -> str:
    """Tells whether these are the same pairs in the same order."""
    return digest(Example(array("i", [item.prompt, *part.tokens]), b"\0" + part.mask)
                  for item in pairs for part in (item.chosen, item.rejected))


class Reference:
    """The reference's log-probability of every reply, computed once and kept in a file.

    `path` holds the results for one `key` (which pairs, which weights); another key's are dropped. `logprobs` [P, 2] float32:
    chosen and rejected; NaN: not computed yet.
    """

    def __init__(self, path: Path, key: str, pairs: Sequence[Pair]) -> None:
        self.path, self.key, self.pairs = path, key, pairs
        self.logprobs = torch.full((len(pairs), 2), torch.nan)
        if (found := distributed.from_first(self._read())) is not None:  # the file may grow while others begin
            self.logprobs = found

    def _read(self) -> Tensor | None:
        try:
            with safe_open(self.path, framework="pt") as file:
                if (file.metadata() or {}).get("key") == self.key:
                    return file.get_tensor("logprobs")
        except (OSError, SafetensorError):  # not there yet, or damaged: it only saves time
            pass
        return None

    def fill(self, numbers: Iterable[int], model: Llama, tick: Callable[[int], None] | None = None) -> int:
        """Computes what is missing of the pairs of these numbers with the network as it is; returns how many pairs that were.

        `tick` is told the tokens of each pair; if it raises, what was done until then is kept.
        """
        missing = [number for number in dict.fromkeys(numbers) if self.logprobs[number].isnan().any()]
        try:
            found = distributed.shared(missing, lambda mine, first: self._compute(mine, model, tick))
            self.logprobs[missing] = torch.tensor(found).view(-1, 2)
        finally:
            if missing:
                self._save()
        return len(missing)

    def _compute(self, numbers: Sequence[int], model: Llama, tick: Callable[[int], None] | None) -> list[list[float]]:
        for done, number in enumerate(numbers, 1):
            # One pair at a time, so that a result does not depend on what else was missing: a run that was killed and
            # one that was not have the same numbers to the last bit.
            (part, found), = scored(model, self.pairs[number].samples(0), 1)
            self.logprobs[number] = torch.zeros(2).index_add(0, part.sample, found)
            if done % _SAVE_EVERY == 0:
                self._save()
            if tick is not None:
                tick(len(part.tokens))
        return self.logprobs[list(numbers)].tolist()

    def _save(self) -> None:
        if not distributed.first():
            return
        with contextlib.suppress(OSError, SafetensorError):  # a full disk: the run's own checkpoint will say so
            part = self.path.with_name(f".{self.path.name}.part-{os.getpid()}")
            save_file({"logprobs": self.logprobs}, part, metadata={"key": self.key})
            os.replace(part, self.path)
