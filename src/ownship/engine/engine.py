"""The engine: takes requests, gives tokens, from the weights that a learner updates.

Every `step` plans (scheduler.py), runs (forward.py) and draws (sampling.py). Requests join and leave between steps.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ownship import machine
from ownship.engine.fingerprint import fingerprint
from ownship.engine.forward import SLOTS, Forward, TorchForward
from ownship.engine.grammar import Grammar, GrammarFailed, Grammars
from ownship.engine.native.forward import FORMATS, NativeForward
from ownship.engine.request import Completion, Event, Finish, Request
from ownship.engine.sampling import Row, Scored, logprobs_of, sample
from ownship.engine.scheduler import Planned, Running, Scheduler
from ownship.engine.text import TextOut
from ownship.errors import UserError
from ownship.model import checkpoint
from ownship.model.llama import Llama
from ownship.model.native.build import Unavailable
from ownship.model.tokenizer import Tokenizer

_GUESS = {"bfloat16": 16, "float32": 4, "int8": 4, "int4": 4}  # rows that cost hardly more than one: guesses fill as many


class Engine:
    """Continuous batching over one network.

    `cache_bytes` bounds the key/value cache; a request that could never fit is refused when it is submitted, the others wait
    their turn. `precision` (float32, bfloat16, int8, int4) is that of the weights; by default the network's own. `guess` lets a
    request copy from its own text ahead of time where that saves time (prompt lookup): what is drawn is the same. A `frozen` engine
    only serves: it gives up what it does not need of the network, which nobody may use any more.
    """

    def __init__(self, model: Llama, tokenizer: Tokenizer, max_rows: int = 256, cache_bytes: int = 2 << 30,
                 precision: str | None = None, guess: bool = True, frozen: bool = False) -> None:
        self.model, self.tokenizer, self.max_rows, self.cache_bytes = model, tokenizer, max_rows, cache_bytes
        self.precision = precision or str(model.dtype).removeprefix("torch.")
        self.stop_ids = frozenset(model.config.eos_token_ids) or frozenset({tokenizer.eos_id})
        self.version = 0
        self.fingerprint = fingerprint(model)
        self._forward = _forward(model, self.precision, cache_bytes)
        if frozen and isinstance(self._forward, NativeForward):
            self._forward.freeze()
        self._grammars = Grammars(tokenizer, self.stop_ids, model.config.vocab_size)
        self._scheduler = Scheduler(self._forward.pool.blocks, max_rows, _GUESS[self.precision] if guess else 0)
        self._ids = itertools.count()

    @property
    def busy(self) -> bool:
        return bool(self._scheduler.waiting or self._scheduler.running)

    @property
    def load(self) -> dict[str, float]:
        """Requests running and waiting, share of the cache in use, prompt tokens looked up in it and found."""
        now = self._scheduler
        return {"running": now.rows, "waiting": len(now.waiting), "cache_usage": now.blocks.used / now.blocks.count,
                "prefix_queries": now.queries, "prefix_hits": now.hits}

    def weights_changed(self) -> str:
        """To be called after an update of the weights; returns the new fingerprint. Not while requests are running."""
        if self.busy:
            raise RuntimeError("the weights must not change under running requests")
        self._forward.reload()
        self._scheduler.blocks.forget()
        self.version += 1
        self.fingerprint = fingerprint(self.model)
        return self.fingerprint

    def reserve(self) -> threading.Thread:
        """Takes all of the cache's memory now, in the background, instead of as it is first used: for a server."""
        return machine.reserve((self._forward.pool.keys, self._forward.pool.values))

    def rest(self) -> None:
        """Gives the cache's memory back until requests come again; it knows no prompt then. Not while requests are running."""
        if self.busy:
            raise RuntimeError("the cache is in use by running requests")
        self._scheduler.blocks.forget()
        machine.give_back((self._forward.pool.keys, self._forward.pool.values))

    @property
    def capacity(self) -> int:
        """The most tokens, of prompt and reply together, that a request may have."""
        return min(self.model.config.max_position_embeddings, self._scheduler.blocks.count * SLOTS)

    def compile(self, grammar: Grammar) -> None:
        """Makes a grammar ready for requests to come; may be called beside `step`. Raises UserError if it cannot be used."""
        self._grammars.matcher(grammar)

    def submit(self, request: Request, ahead: bool = False) -> int:
        """Queues a request, before all others if `ahead`, and returns its id. Raises UserError if it can never run."""
        vocabulary, limit = self.model.config.vocab_size, self.model.config.max_position_embeddings
        length = len(request.prompt) + request.sampling.max_tokens
        if not request.prompt:
            raise UserError("the prompt is empty")
        if not 0 <= min(request.prompt) <= max(request.prompt) < vocabulary:
            raise UserError(f"the prompt holds a token id outside the vocabulary of {vocabulary}")
        if any(id >= vocabulary for id, _ in request.sampling.logit_bias):
            raise UserError(f"logit_bias names a token id outside the vocabulary of {vocabulary}")
        if length > limit:
            raise UserError(f"the prompt has {len(request.prompt)} tokens and max_tokens is {request.sampling.max_tokens}:"
                            f" together more than the model's {limit}")
        if -(-length // SLOTS) > (count := self._scheduler.blocks.count):
            size = self.cache_bytes // count
            raise UserError(f"{length} tokens need {-(-length // SLOTS) * size >> 20} MB of cache; the bound is"
                            f" {self.cache_bytes >> 20} MB")
        matcher = None if request.grammar is None else self._grammars.matcher(request.grammar)
        seed = request.sampling.seed
        generator = random.Random(seed) if seed is not None else random.Random()
        text = TextOut(self.tokenizer, request.sampling.stop)
        id = next(self._ids)
        running = Running(id, request, generator, text, matcher, list(request.prompt))
        if ahead:
            self._scheduler.waiting.appendleft(running)
        else:
            self._scheduler.waiting.append(running)
        return id

    def cancel(self, id: int) -> Completion | None:
        """Ends a request at once; what it has so far, or None if it is not here (any more)."""
        running = self._scheduler.withdraw(id)
        return None if running is None else self._complete(running, "cancelled")

    @torch.no_grad()
    def step(self) -> list[Event]:
        """One round: plan, run, draw. One event for each token that was drawn."""
        plan = self._scheduler.plan()
        if not plan:
            return []
        scores = self._forward([planned.chunk for planned in plan])
        for planned in plan:
            self._scheduler.ran(planned)
        return self._draw(plan, scores)

    def generate(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Completion]:
        """Runs the requests to their end, in the order given; `progress` is told each time how many tokens were drawn.

        Raises whatever `progress` raises, after cancelling what was running.
        """
        order: dict[int, int] = {}
        results: list[Completion | None] = [None] * len(requests)
        try:
            for index, request in enumerate(requests):
                order[self.submit(request)] = index
            while self.busy:
                events = self.step()
                for event in events:
                    if event.completion is not None and event.id in order:
                        results[order[event.id]] = event.completion
                if progress is not None:
                    progress(len(events))
        finally:
            for id, index in order.items():
                if results[index] is None:
                    self.cancel(id)
        return [result for result in results if result is not None]

    # Drawing

    def _draw(self, plan: Sequence[Planned], scores: torch.Tensor) -> list[Event]:
        """Draws from the logits [Σ wanted, V]: at the end of each sequence, and after each guess as if it were right."""
        places: list[int] = []
        rows: list[Row] = []
        drawing: list[tuple[Running, list[int]]] = []
        at = 0
        for planned in plan:
            running, guesses, wanted = planned.running, planned.guesses, planned.chunk.wanted
            begin, at = at, at + wanted
            end = planned.chunk.start + len(planned.chunk.tokens)
            if running.request.prompt_logprobs is not None and len(running.prompt_scores) < len(running.prompt) - 1:
                known = min(end, len(running.prompt) - 1) - planned.chunk.start
                nexts = running.prompt[planned.chunk.start + 1 : planned.chunk.start + 1 + known]
                running.prompt_scores += logprobs_of(scores[begin : begin + known], nexts,
                                                     [running.request.prompt_logprobs] * known)
            if end < len(running.tokens):
                continue  # there is more of the prompt to read
            for each in (running, *self._scheduler.join(running, self._forward.pool.copy)):
                drawing.append((each, guesses))
                for index in range(len(guesses) + 1):
                    places.append(at - len(guesses) - 1 + index)
                    reply = each.reply
                    reply += guesses[:index]
                    mask = None if each.matcher is None else each.mask
                    rows.append(Row(each.request.sampling, each.uniform(len(reply)), each.prompt, reply, self.stop_ids, mask))
        drawn = iter(sample(scores if places == list(range(len(scores))) else scores[places], rows, self._forward.draw))
        events: list[Event] = []
        for running, guesses in drawing:
            events += self._take(running, guesses, list(itertools.islice(drawn, len(guesses) + 1)))
        return events

    def _take(self, running: Running, guesses: list[int], drawn: list[Scored]) -> list[Event]:
        """The drawn tokens up to the first that was guessed wrong, and what a grammar forces after them."""
        events: list[Event] = []
        right = 0
        for index, token in enumerate(drawn):
            finish = None if running.failed else self._append(running, token, events)
            if finish is None and running.matcher is not None:
                finish = self._follow(running, token.id, events)
            if finish is not None:
                return events
            if index == len(guesses) or token.id != guesses[index]:
                break
            right += 1
        running.cached += right
        if guesses:
            running.lookup.learn(right, len(guesses))
        return events

    def _follow(self, running: Running, id: int, events: list[Event]) -> Finish | None:
        """Tells the grammar what was drawn, and appends what it leaves no choice about: no forward pass for each."""
        matcher = running.matcher
        assert matcher is not None
        try:
            if running.failed:
                raise GrammarFailed
            matcher.accept(id)
            while forced := matcher.forced():
                for next_id in forced:
                    matcher.accept(next_id)
                    finish = self._append(running, Scored(next_id, 0.0), events, forced=True)
                    if finish is not None:
                        return finish
            return None
        except GrammarFailed:
            completion = self._complete(running, "failed")
            self._scheduler.release(running)
            events.append(Event(running.id, running.text.finish(), completion))
            return "failed"

    def _append(self, running: Running, token: Scored, events: list[Event], forced: bool = False) -> Finish | None:
        running.tokens.append(token.id)
        running.logprobs.append(token.logprob)
        running.tops.append(token.top)
        running.forced.append(forced)
        ends = token.id in self.stop_ids and not running.request.sampling.ignore_eos
        text = "" if ends else running.text.push(token.id)
        finish: Finish | None = None
        if ends or running.text.stopped:
            finish = "stop"
        elif len(running.logprobs) == running.request.sampling.max_tokens:
            finish = "length"
        completion = None
        if finish is not None:
            text += running.text.finish()
            completion = self._complete(running, finish)
            self._scheduler.release(running)
        first = len(running.logprobs) == 1 and running.request.prompt_logprobs is not None
        events.append(Event(running.id, text, completion, token, running.prompt_scores if first else None))
        return finish

    def _complete(self, running: Running, finish: Finish) -> Completion:
        return Completion(running.reply, running.logprobs, finish, running.text.shown, self.fingerprint, self.version,
                          running.forced, running.tops, running.prompt_scores, running.found, running.text.stop)


def serving(path: Path, precision: str = "bfloat16", **options: Any) -> Engine:
    """An engine that only serves the model in `path`. Raises UserError as `checkpoint.load` does, and for int4 of what is no GGUF
    file: what a model has learnt since it had 4 bits is less than half a step, and rounding would undo it without a word."""
    if precision == "int4" and path.suffix != ".gguf":
        raise UserError(f"precision int4 is for .gguf files that have 4 bits already; {path} would lose what it learnt since")
    dtype = torch.float32 if precision == "float32" else torch.bfloat16  # the others are made from bfloat16
    return Engine(*checkpoint.load(path, dtype), precision=precision, frozen=True, **options)


def _forward(model: Llama, precision: str, cache_bytes: int) -> Forward:
    if precision not in FORMATS:
        raise UserError(f"precision must be one of {', '.join(FORMATS)}, not {precision!r}")
    try:
        return NativeForward(model, cache_bytes, precision)
    except Unavailable as reason:
        if precision in ("int8", "int4"):
            raise UserError(f"precision {precision} needs the compiled kernels: {reason}") from None
        log = logging.getLogger(__name__)
        level = logging.INFO if model.config.parameters < 10_000_000 else logging.WARNING  # nobody waits for a toy
        log.log(level, "%s: generating with plain torch, which is several times slower", reason)
        return TorchForward(model, cache_bytes)
