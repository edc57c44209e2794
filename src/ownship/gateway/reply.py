"""A whole reply, gathered from its events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from ownship.gateway.types import (
    Event,
    Finish,
    Finished,
    PromptScores,
    Reasoning,
    ReasoningDelta,
    Started,
    Text,
    TextDelta,
    TokenScore,
    ToolCall,
    ToolDelta,
    Usage,
    Used,
)


@dataclass
class _Piece:
    """A part under way."""

    kind: type[Text] | type[Reasoning] | type[ToolCall]
    texts: list[str] = field(default_factory=list)
    id: str = ""
    name: str = ""
    signature: str | None = None
    redacted: str | None = None

    def part(self) -> Text | Reasoning | ToolCall:
        text = "".join(self.texts)
        if self.kind is Text:
            return Text(text)
        if self.kind is Reasoning:
            return Reasoning(text, self.signature, self.redacted)
        return ToolCall(self.id, self.name, text)


@dataclass
class Choice:
    """One answer: its parts in the order in which they came."""

    scores: list[TokenScore] = field(default_factory=list)
    prompt: PromptScores | None = None
    finish: Finish = "stop"
    stop: str | None = None
    _pieces: list[_Piece] = field(default_factory=list)
    _calls: dict[int, _Piece] = field(default_factory=dict)

    @property
    def parts(self) -> list[Text | Reasoning | ToolCall]:
        return [piece.part() for piece in self._pieces]

    def _last(self, kind: type[Text] | type[Reasoning]) -> _Piece:
        if not self._pieces or self._pieces[-1].kind is not kind or self._pieces[-1].signature is not None \
                or self._pieces[-1].redacted is not None:
            self._pieces.append(_Piece(kind))
        return self._pieces[-1]

    def add(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            if event.text:
                self._last(Text).texts.append(event.text)
            self.scores.extend(event.scores)
        elif isinstance(event, ToolDelta):
            piece = self._calls.get(event.call)
            if piece is None:
                piece = self._calls[event.call] = _Piece(ToolCall)
                self._pieces.append(piece)
            piece.texts.append(event.arguments)
            piece.id, piece.name = event.id or piece.id, event.name or piece.name
        elif isinstance(event, ReasoningDelta):
            if event.redacted is not None:
                self._pieces.append(_Piece(Reasoning, redacted=event.redacted))
            elif event.text or event.signature:
                piece = self._last(Reasoning)
                piece.texts.append(event.text)
                piece.signature = event.signature
        elif isinstance(event, PromptScores):
            self.prompt = event
        elif isinstance(event, Finished):
            self.finish, self.stop = event.reason, event.stop


@dataclass
class Reply:
    model: str = ""
    choices: dict[int, Choice] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self.model = event.model
        elif isinstance(event, Used):
            self.usage = event.usage
        else:
            choice = self.choices.get(event.index)
            if choice is None:
                choice = self.choices[event.index] = Choice()
            choice.add(event)


async def gather(events: AsyncIterator[Event]) -> Reply:
    """Raises what the stream raises; closes it in any case."""
    reply = Reply()
    try:
        async for event in events:
            reply.add(event)
    finally:
        await close(events)
    return reply


async def close(events: AsyncIterator[Any]) -> None:
    """Ends the work behind a stream that is not read to its end; of one that was, it does nothing."""
    if isinstance(events, AsyncGenerator):
        await events.aclose()
