"""One choice of a local reply: a state machine that says what the engine shall do next, and makes events of what it gives.

A reply is up to three runs of the engine, each going on from the tokens of the one before, which are in its cache: reasoning up to
</think> or its bound; text up to <tool_call>; calls, under the grammar of the tools. So a schema or a tool's parameters are
enforced whatever was thought before, free text is generated without a grammar's cost, and a bound of the reasoning is exact.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ownship.engine.request import Sampling
from ownship.gateway.engine_process import Job, Piece, Spec
from ownship.gateway.render import THINK, THOUGHT
from ownship.gateway.types import (
    Event,
    Finished,
    GatewayError,
    PromptScores,
    ReasoningDelta,
    TextDelta,
    TokenScore,
    ToolDelta,
)
from ownship.model import toolcalls
from ownship.model.tokenizer import Tokenizer

Phase = Literal["reasoning", "text", "calls", "either"]  # either: an answer in a format, or calls


@dataclass(frozen=True)
class Plan:
    """What all choices of a request share. `sampling` has no bound and stop strings; `capacity` bounds prompt and reply together.

    With `reasons` the reply begins with reasoning, of at most `thinking` tokens; `first` is what comes then, in `format` if that is
    set. `calls` is the grammar of the calls that the reply may turn to. Where the reply begins with calls, the prompt ends with
    their opening tag. `bare`: a prompt is continued, and the token that ends the reply is scored as well. `score` makes a token's
    score for the client.
    """

    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    capacity: int
    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    thinking: int
    score: Callable[[int, float | None, Sequence[tuple[int, float]]], TokenScore]
    stop: tuple[str, ...] = ()
    reasons: bool = False
    first: Phase = "text"
    format: Spec | None = None
    calls: Spec | None = None
    bare: bool = False
    echo: str | None = None  # the prompt as text, if it is to be repeated


class Choice:
    """Its `job` is what the engine shall do now, None when the reply is complete."""

    def __init__(self, index: int, plan: Plan) -> None:
        self.index, self.plan = index, plan
        self.completion = self.reasoning = 0  # tokens
        self.found = 0  # prompt tokens that were in the cache
        self.phase: Phase = "reasoning" if plan.reasons else plan.first
        self.job: Job | None = None
        self._runs = 0
        self._may_think = not (plan.reasons or plan.bare or plan.format)  # a model that opens <think> unasked
        self._calls = toolcalls.Calls()
        self._undecided = ""  # text of which it is open whether it is an answer or a call
        self._scores: list[tuple[int, TokenScore]] = []  # of tokens whose text is not shown yet, and where it begins
        self._blank = ""  # white space at the end of the text so far, dropped if a tool call follows
        self._run(plan.prompt)

    def feed(self, piece: Piece) -> list[Event]:
        """What a piece of the current job tells the client. Raises GatewayError 500 if the grammar could not be followed."""
        if piece.finish == "failed":
            raise GatewayError(500, "internal", "the grammar of this reply could not be followed to its end")
        if piece.finish is not None:
            self.job = None
            if self._runs == 1:
                self.found = piece.found
        events: list[Event] = []
        if piece.prompt_scores is not None:
            scores = (self.plan.score(id, logprob, top or ()) for id, logprob, top in piece.prompt_scores)
            events.append(PromptScores(self.index, (self.plan.score(self.plan.prompt[0], None, ()), *scores), self.plan.echo))
        if not self.plan.max_tokens:  # only the prompt was asked for; the engine draws one token all the same
            return events if piece.finish is None else [*events, Finished(self.index, "length")]
        self.completion += len(piece.tokens)
        self._tokens += [id for id, _, _ in piece.tokens]
        self._text += piece.text
        if self.phase == "either" and not self._decide(piece):
            return events
        if self.phase == "reasoning":
            return events + self._reason(piece)
        if self.phase == "text":
            return events + self._answer(piece)
        return events + self._call(piece)

    # What a piece means in each phase

    def _reason(self, piece: Piece) -> list[Event]:
        self.reasoning += len(piece.tokens)
        events: list[Event] = [ReasoningDelta(self.index, piece.text)] if piece.text else []
        if piece.finish is None:
            return events
        # cut off at its bound, or ended without the tag: it is closed here, since an answer was asked for
        closing = ("" if self._text.endswith("\n") or not self._text else "\n") + f"{THOUGHT}\n\n"
        self.phase = self.plan.first
        return events + self._go_on(closing + (toolcalls.OPEN if self.phase == "calls" else ""))

    def _answer(self, piece: Piece) -> list[Event]:
        plan = self.plan
        if plan.sampling.top_logprobs is not None:
            for id, logprob, top in piece.tokens:
                if plan.bare or id not in plan.stop_ids:
                    score, begin = plan.score(id, logprob, top or ()), self._length
                    self._length += len(self._stream.push(id))
                    # a token may make bytes before it visible as well
                    self._scores.append((max(begin, self._length - len(score.text)), score))
        text, self._blank = self._blank + piece.text, ""
        if piece.finish is None:
            if plan.calls is not None:
                shown = text.rstrip()
                text, self._blank = shown, text[len(shown) :]
            return self._shown(text) if text else []
        if piece.stop == toolcalls.OPEN and plan.calls is not None:
            events = self._shown(text.rstrip()) if text.strip() else []
            self.phase, self._scores = "calls", []
            return events + self._go_on(toolcalls.OPEN)
        if piece.stop == THINK and self._may_think:
            self._may_think = False
            if self._text.strip():  # it speaks of the tag
                return self._shown(text + THINK) + self._go_on(THINK)
            self.phase, self._scores = "reasoning", []
            return self._go_on(f"{THINK}\n")
        rest = piece.stop is None or plan.bare  # else what is left are the tokens of the stop string
        events = self._shown(text, rest) if text or (rest and self._scores) else []
        return [*events, Finished(self.index, "length" if piece.finish == "length" else "stop", piece.stop)]

    def _shown(self, text: str, rest: bool = False) -> list[Event]:
        """Text with the scores of the tokens that it came from; with `rest`, all that are left."""
        end = len(self._text) - len(self._blank)
        count = sum(rest or start < end for start, _ in self._scores)
        scores, self._scores = tuple(score for _, score in self._scores[:count]), self._scores[count:]
        return [TextDelta(self.index, text, scores)]

    def _call(self, piece: Piece) -> list[Event]:
        events: list[Event] = [
            ToolDelta(self.index, call, arguments, f"call_{uuid.uuid4().hex[:24]}" if name is not None else None, name)
            for call, name, arguments in self._calls.push(piece.text)]
        if piece.finish is not None:
            events.append(Finished(self.index, "length" if piece.finish == "length" else "tool_calls"))
        return events

    def _decide(self, piece: Piece) -> bool:
        """Whether it is known by now if this is an answer or a call: JSON never begins as a call does."""
        self._undecided += piece.text
        if piece.finish is None and toolcalls.OPEN.startswith(self._undecided):
            return False
        called = self._undecided[: len(toolcalls.OPEN)] == toolcalls.OPEN[: len(self._undecided)] and bool(self._undecided)
        self.phase = "calls" if called else "text"
        piece.text = self._undecided[len(toolcalls.OPEN) :] if called else self._undecided
        return True

    # What the engine shall do next

    def _run(self, prompt: list[int]) -> bool:
        """Sets `job`, if there is room for one more token."""
        plan = self.plan
        left = min(max(plan.max_tokens, 1) - self.completion, plan.capacity - len(prompt))
        if left < 1:
            return False
        stop, grammar = plan.stop, None
        if self.phase == "reasoning":
            left, stop = min(left, plan.thinking), (THOUGHT,)
        elif self.phase == "text" and plan.format is None:
            stop += ((toolcalls.OPEN,) if plan.calls is not None else ()) + ((THINK,) if self._may_think else ())
        elif self.phase == "text":
            grammar = plan.format
        else:
            stop, grammar = (), plan.calls
        seed, top = plan.sampling.seed, plan.sampling.top_logprobs
        sampling = replace(plan.sampling, max_tokens=left, stop=stop,
                           seed=None if seed is None else seed + self.index + (self._runs << 32),
                           top_logprobs=top if self.phase in ("text", "either") else None)
        scored = top if plan.echo is not None and not self._runs else None
        self.job = Job(prompt, sampling, grammar, scored, ahead=self._runs > 0)
        self._runs += 1
        self._prompt, self._tokens, self._text = prompt, list[int](), ""
        self._stream, self._length, self._blank = plan.tokenizer.stream(), 0, ""
        return True

    def _go_on(self, tail: str) -> list[Event]:
        """The next run, behind what the current one has shown and `tail`; the end, if there is no room."""
        tokens = self._tokens
        while tokens and tokens[-1] in self.plan.stop_ids:
            tokens = tokens[:-1]
        shown = self.plan.tokenizer.decode(tokens)
        while tokens and not self._text.startswith(shown):  # a token may reach into the tag, and beyond
            tokens = tokens[:-1]
            shown = self.plan.tokenizer.decode(tokens)
        rest = self.plan.tokenizer.encode(self._text[len(shown) :] + tail)
        return [] if self._run([*self._prompt, *tokens, *rest]) else [Finished(self.index, "length")]
