"""A model decides: the embedded engine line by line under the grammar of the present state, or any model behind the gateway.

The interface is that of the scripted baseline (parser.py): words and a scene → lines that can be read in that scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ownship.engine.engine import Engine
from ownship.engine.grammar import Grammar
from ownship.engine.request import Request, Sampling
from ownship.gateway import types as gateway
from ownship.model.chat import Chat, Message
from ownship.surfaces.worlds import grammar, lines
from ownship.surfaces.worlds.lines import NOTHING, Misread
from ownship.surfaces.worlds.names import Names
from ownship.surfaces.worlds.prompt import Refused, messages, spoken_in
from ownship.surfaces.worlds.types import OPS, Scene

MAX_LINES = 60  # of a reply
MAX_TOKENS = 64  # of a line: none that the grammar allows is as long
_MAX_REPLY = 4_000  # tokens of a gateway's model

Note = Callable[[str], None]  # is told every line as it is decided


@dataclass
class _Reply:
    """One reply being said. `tokens` are the prompt and all that was said, as it was said: nothing is tokenised twice."""

    tokens: list[int]
    names: Names
    lines: list[str] = field(default_factory=list)
    most: int = MAX_LINES
    ops: int = 0
    open: bool = True

    def grammar(self) -> Grammar:
        last = len(self.lines) + 1 == self.most
        return Grammar.lark(grammar.line(self.names, first=not self.lines, last=last))

    def take(self, text: str, tokens: Sequence[int], whole: bool) -> str | None:
        """A line that was said; returns it, or None if it cannot count (it was cut off)."""
        self.open = text.endswith("\n")
        line = text.rstrip("\n")
        if not whole or not line:
            self.open = False
            return None
        ops = [op for group in lines.stepwise(line, self.names) for op in group]
        if (ops_now := self.ops + len(ops)) > OPS:
            self.open = False
            return None
        self.ops = ops_now
        self.tokens += tokens
        self.lines.append(line)
        return line


def decide(engine: Engine, words: str, scene: Scene, note: Note | None = None, guide: bool = False, temperature: float = 0.0,
           seed: int = 0) -> str:
    """The lines that the engine's model decides on; every line is one that may be said."""
    return decide_all(engine, [(messages(words, scene, guide), Names(scene))], note, temperature, seed)[0]


def decide_all(engine: Engine, prompts: Sequence[tuple[Sequence[Message], Names]], note: Note | None = None,
               temperature: float = 0.0, seed: int = 0, most: int = MAX_LINES) -> list[str]:
    """Several at once, side by side. A line's tokens stay in the engine's cache, so that each line only reads what is new.

    A reply has at most `most` lines. Raises UserError if a prompt is longer than the model's context.
    """
    chat = Chat(engine.tokenizer)
    replies = [_Reply(chat.prompt(opening), names.copy(), most=most) for opening, names in prompts]
    turn = 0
    while active := [reply for reply in replies if reply.open and len(reply.lines) < most
                     and (not reply.lines or len(reply.tokens) + MAX_TOKENS <= engine.capacity)]:
        sampling = [Sampling(temperature=temperature, max_tokens=MAX_TOKENS, seed=seed * 1_000_003 + turn * 10_007 + index)
                    for index in range(len(active))]
        requests = [Request(list(reply.tokens), sampled, reply.grammar()) for reply, sampled in zip(active, sampling, strict=True)]
        for reply, completion in zip(active, engine.generate(requests), strict=True):
            said = completion.tokens[:-1] if completion.tokens and completion.tokens[-1] in engine.stop_ids else completion.tokens
            line = reply.take(completion.text, said, completion.finish == "stop")
            if line is not None and note is not None:
                note(line)
        turn += 1
    return ["\n".join(reply.lines) or NOTHING for reply in replies]


_MISREAD = {"en": "The model said something that is no change of a world ({reason}), so nothing was changed.",
            "de": "Das Modell sagte etwas, das keine Änderung einer Welt ist ({reason}); darum wurde nichts verändert."}


async def decide_by_gateway(upstream: gateway.Upstream, model: str, words: str, scene: Scene, note: Note | None = None,
                            deadline: float | None = None) -> str:
    """The lines that a model behind the gateway decides on. It is told the language and not held to it, so what it says is read
    line by line as it comes; the first line that cannot be read ends it. Raises Refused for such a line, and GatewayError."""
    system, user = messages(words, scene, guide=True)
    shown = (gateway.Message("system", (gateway.Text(system["content"]),)),
             gateway.Message("user", (gateway.Text(user["content"]),)))
    request = gateway.Request(model, shown, max_tokens=_MAX_REPLY, temperature=0.0)
    names, said, pending = Names(scene), [], ""

    def take(line: str) -> None:
        line = line.strip().strip("`").strip()
        if not line or line == "text":  # a fence around it is a habit of many models
            return
        try:
            for _ in lines.stepwise(line, names):
                said.append(line)
        except Misread as problem:
            raise Refused(_MISREAD[spoken_in(words)].format(reason=str(problem).partition(": ")[2])) from None
        if note is not None:
            note(line)

    async for event in upstream.stream(request, deadline):
        if isinstance(event, gateway.TextDelta):
            pending += event.text
            *whole, pending = pending.split("\n")
            for line in whole:
                take(line)
    take(pending)
    return "\n".join(line for line in said if line != NOTHING) or NOTHING
