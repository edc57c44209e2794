"""The engine: takes requests, gives tokens, from the weights that a learner updates.

Every `step` plans, runs and draws. It feeds each running request the tokens whose keys and values are not in the cache yet: one
for a request that is being answered (more if a grammar forced them, or as a guess), a piece of the prompt for one that is being
read. Requests join and leave between steps; when the cache is full the latest goes back to the queue and loses nothing.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ownship.engine.cache import ROOT, Blocks, Key, key
from ownship.engine.fingerprint import fingerprint
from ownship.engine.forward import SLOTS, Chunk, Forward, TorchForward
from ownship.engine.grammar import GrammarFailed, Grammars, Matcher
from ownship.engine.lookup import Lookup
from ownship.engine.native.build import Unavailable
from ownship.engine.native.forward import FORMATS, NativeForward
from ownship.engine.request import Completion, Event, Finish, Request
from ownship.engine.sampling import Row, Scored, logprobs_of, sample
from ownship.engine.text import TextOut
from ownship.errors import UserError
from ownship.model import checkpoint
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer

_READ = 512  # prompt tokens read in one step
_READ_BESIDE = 256  # … while others wait for their next token
_SCORE = 128  # … whose logits are all wanted
_GUESS = {"bfloat16": 16, "float32": 4, "int8": 4}  # rows that cost hardly more than one: so many are filled with guesses


@dataclass(eq=False)
class _Running:
    id: int
    request: Request
    random: random.Random
    text: TextOut
    matcher: Matcher | None
    tokens: list[int]  # prompt and reply
    logprobs: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    tops: list[tuple[tuple[int, float], ...] | None] = field(default_factory=list)
    prompt_scores: list[Scored] = field(default_factory=list)
    uniforms: list[float] = field(default_factory=list)
    table: list[int] = field(default_factory=list)  # blocks
    cached: int = 0  # leading tokens whose keys and values are there
    found: int = 0  # prompt tokens that were in the cache already
    named: int = 0  # leading blocks whose contents are known to others, and the last one's name
    name: Key = ROOT
    followers: list[_Running] = field(default_factory=list)  # have the same prompt, and wait for it to be read
    lookup: Lookup = field(default_factory=Lookup)
    failed: bool = False

    @property
    def prompt(self) -> list[int]:
        return self.request.prompt

    @property
    def reply(self) -> list[int]:
        return self.tokens[len(self.prompt) :]

    def mask(self, row: torch.Tensor) -> None:
        """Leaves the tokens [V] that the grammar allows; one request's failure must not be the whole batch's."""
        assert self.matcher is not None
        try:
            self.matcher.apply(row)
        except GrammarFailed:
            self.failed = True

    def uniform(self, index: int) -> float:
        """The number that decides the reply's token `index`: the same whatever happened on the way."""
        while len(self.uniforms) <= index:
            self.uniforms.append(self.random.random())
        return self.uniforms[index]


@dataclass
class _Planned:
    running: _Running
    chunk: Chunk
    guesses: list[int]


class Engine:
    """Continuous batching over one network.

    `cache_bytes` bounds the key/value cache; a request that could never fit is refused when it is submitted, the others wait
    their turn. `precision` (float32, bfloat16, int8) is that of the weights; by default the network's own. `guess` lets a request
    copy from its own text ahead of time where that saves time (prompt lookup): what is drawn is the same. A `frozen` engine only
    serves: it gives up what it does not need of the network, which nobody may use any more.
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
        self._blocks = Blocks(self._forward.pool.blocks)
        self._grammars = Grammars(tokenizer, self.stop_ids, model.config.vocab_size)
        self._guess = _GUESS[self.precision] if guess else 0
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._ids = itertools.count()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def load(self) -> dict[str, float]:
        """Requests running and waiting, share of the cache in use, prompt tokens looked up in it and found."""
        rows = sum(1 + len(running.followers) for running in self._running)
        return {"running": rows, "waiting": len(self._waiting), "cache_usage": self._blocks.used / self._blocks.count,
                "prefix_queries": self._blocks.queries, "prefix_hits": self._blocks.hits}

    def weights_changed(self) -> str:
        """To be called after an update of the weights; returns the new fingerprint. Not while requests are running."""
        if self.busy:
            raise RuntimeError("the weights must not change under running requests")
        self._forward.reload()
        self._blocks.forget()
        self.version += 1
        self.fingerprint = fingerprint(self.model)
        return self.fingerprint

    def submit(self, request: Request) -> int:
        """Queues a request and returns its id. Raises UserError if it can never run."""
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
        if -(-length // SLOTS) > self._blocks.count:
            size = self.cache_bytes // max(self._blocks.count, 1)
            raise UserError(f"{length} tokens need {-(-length // SLOTS) * size >> 20} MB of cache; the bound is"
                            f" {self.cache_bytes >> 20} MB")
        matcher = None if request.grammar is None else self._grammars.matcher(request.grammar)
        seed = request.sampling.seed
        generator = random.Random(seed) if seed is not None else random.Random()
        text = TextOut(self.tokenizer, request.sampling.stop)
        self._waiting.append(_Running(next(self._ids), request, generator, text, matcher, list(request.prompt)))
        return self._waiting[-1].id

    def cancel(self, id: int) -> Completion | None:
        """Ends a request at once; what it has so far, or None if it is not here (any more)."""
        for running in self._running:
            if running.id == id:
                self._release(running)
                return self._complete(running, "cancelled")
            for follower in running.followers:
                if follower.id == id:
                    running.followers.remove(follower)
                    return self._complete(follower, "cancelled")
        for waiting in self._waiting:
            if waiting.id == id:
                self._waiting.remove(waiting)
                return self._complete(waiting, "cancelled")
        return None

    @torch.no_grad()
    def step(self) -> list[Event]:
        """One round: plan, run, draw. One event for each token that was drawn."""
        self._admit()
        plan = self._plan()
        if not plan:
            return []
        scores = self._forward([planned.chunk for planned in plan])
        for planned in plan:
            planned.running.cached += len(planned.chunk.tokens) - len(planned.guesses)
            self._name(planned.running)
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

    # Planning

    def _admit(self) -> None:
        """Lets waiting requests in, in their order, while there are rows, and blocks for all of their prompt."""
        rows = sum(1 + len(running.followers) for running in self._running)
        leaders = {tuple(running.prompt): running for running in self._running if len(running.tokens) == len(running.prompt)}
        promised = sum(max(0, _blocks(len(running.tokens) + 1) - len(running.table)) for running in self._running)
        while self._waiting and rows < self.max_rows:
            head = self._waiting[0]
            unread = len(head.tokens) == len(head.prompt)
            scored = unread and head.request.prompt_logprobs is not None  # every token's logits are wanted: nothing is skipped
            leader = leaders.get(tuple(head.prompt)) if unread and not scored else None
            if leader is not None:
                leader.followers.append(head)
            else:
                if not scored:
                    head.table, head.name = self._blocks.find(head.tokens)
                needed = _blocks(len(head.tokens) + 1) - len(head.table)
                if needed + promised > self._blocks.available and self._running:
                    self._blocks.release(head.table)
                    head.table, head.name = [], ROOT
                    return
                head.cached, head.named = len(head.table) * SLOTS, len(head.table)
                head.found = max(head.found, min(head.cached, len(head.prompt)))
                promised += needed
                self._running.append(head)
                if unread:
                    leaders[tuple(head.prompt)] = head
            self._waiting.popleft()
            rows += 1

    def _plan(self) -> list[_Planned]:
        """What each running request is fed in this step: first those that are being answered, then pieces of prompts."""
        answering = [running for running in self._running if len(running.tokens) - running.cached <= SLOTS]
        reading = [running for running in self._running if len(running.tokens) - running.cached > SLOTS]
        rows = sum(len(running.tokens) - running.cached for running in answering)
        plan: list[_Planned] = []
        for running in answering:
            if running not in self._running:  # pre-empted meanwhile
                continue
            guesses: list[int] = []
            left = len(running.prompt) + running.request.sampling.max_tokens - len(running.tokens)
            if rows < self._guess and not reading and len(running.tokens) > len(running.prompt) and running.matcher is None:
                guesses = running.lookup.guess(running.tokens, min(left - 1, (self._guess - rows) // len(answering)))
            if self._reserve(running, len(running.tokens) + len(guesses), plan):
                plan.append(_planned(running, len(running.tokens), guesses))
        budget = _READ_BESIDE if plan else _READ
        for running in reading:
            if budget <= 0:
                break
            if running in self._running:
                count = min(len(running.tokens) - running.cached, budget)
                if running.request.prompt_logprobs is not None:
                    count = min(count, _SCORE)
                if self._reserve(running, running.cached + count, plan):
                    plan.append(_planned(running, running.cached + count, []))
                    budget -= count
        return plan

    def _reserve(self, running: _Running, length: int, plan: list[_Planned]) -> bool:
        """Blocks for so many tokens, if need be taken from the requests that came last; False if `running` itself had to go."""
        while len(running.table) < _blocks(length):
            block = self._blocks.allocate()
            if block is not None:
                running.table.append(block)
                continue
            planned = {part.running.id for part in plan}
            victim = next((other for other in reversed(self._running) if other.id not in planned), running)
            self._preempt(victim)
            if victim is running:
                return False
        return True

    def _name(self, running: _Running) -> None:
        """Lets others find the blocks that are full now."""
        while (running.named + 1) * SLOTS <= running.cached:
            start = running.named * SLOTS
            running.name = key(running.name, running.tokens[start : start + SLOTS])
            self._blocks.name(running.table[running.named], running.name)
            running.named += 1

    def _preempt(self, running: _Running) -> None:
        """Back to the head of the queue, with all that was drawn; much of its cache may still be there when it returns."""
        self._release(running)
        if len(running.tokens) == len(running.prompt):
            running.prompt_scores = []  # read again from the start
        self._waiting.appendleft(running)

    def _release(self, running: _Running) -> None:
        """Leaves the running requests; those that waited for its prompt to be read go back to the queue."""
        self._running.remove(running)
        self._waiting.extendleft(reversed(running.followers))
        self._blocks.release(running.table)
        running.followers, running.table, running.cached, running.named, running.name = [], [], 0, 0, ROOT

    # Drawing

    def _draw(self, plan: Sequence[_Planned], scores: torch.Tensor) -> list[Event]:
        """Draws from the logits [Σ wanted, V]: at the end of each sequence, and after each guess as if it were right."""
        places: list[int] = []
        rows: list[Row] = []
        drawing: list[tuple[_Running, list[int]]] = []
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
            for each in (running, *self._joined(running)):
                drawing.append((each, guesses))
                for index in range(len(guesses) + 1):
                    places.append(at - len(guesses) - 1 + index)
                    reply = [*each.reply, *guesses[:index]]
                    mask = None if each.matcher is None else each.mask
                    rows.append(Row(each.request.sampling, each.uniform(len(reply)), each.prompt, reply, self.stop_ids, mask))
        drawn = iter(sample(scores if places == list(range(len(scores))) else scores[places], rows, self._forward.draw))
        events: list[Event] = []
        for running, guesses in drawing:
            events += self._take(running, guesses, list(itertools.islice(drawn, len(guesses) + 1)))
        return events

    def _joined(self, leader: _Running) -> list[_Running]:
        """The requests that waited for this prompt to be read: they share its full blocks and get a copy of the last one."""
        joined = []
        for follower in leader.followers:
            full = leader.cached // SLOTS
            if leader.cached % SLOTS:
                if (block := self._blocks.allocate()) is None:
                    self._waiting.appendleft(follower)
                    continue
                self._forward.pool.copy(leader.table[full], block)
                follower.table = [block]
            follower.table = [*(self._blocks.share(each) for each in leader.table[:full]), *follower.table]
            follower.cached = follower.found = leader.cached
            follower.named, follower.name = leader.named, leader.name
            self._running.append(follower)
            joined.append(follower)
        leader.followers = []
        return joined

    def _take(self, running: _Running, guesses: list[int], drawn: list[Scored]) -> list[Event]:
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

    def _follow(self, running: _Running, id: int, events: list[Event]) -> Finish | None:
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
            self._release(running)
            events.append(Event(running.id, running.text.finish(), completion))
            return "failed"

    def _append(self, running: _Running, token: Scored, events: list[Event], forced: bool = False) -> Finish | None:
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
            self._release(running)
        events.append(Event(running.id, text, completion, token))
        return finish

    def _complete(self, running: _Running, finish: Finish) -> Completion:
        return Completion(running.reply, running.logprobs, finish, running.text.shown, self.fingerprint, self.version,
                          running.forced, running.tops, running.prompt_scores, running.found)


def serving(path: Path, precision: str = "bfloat16", **options: Any) -> Engine:
    """An engine that only serves the model in `path`. Raises UserError as `checkpoint.load` does."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16  # int8 is made from bfloat16
    return Engine(*checkpoint.load(path, dtype), precision=precision, frozen=True, **options)


def _planned(running: _Running, end: int, guesses: list[int]) -> _Planned:
    """The tokens from the first that is not cached to `end`, and guesses."""
    tokens = [*running.tokens[running.cached : end], *guesses]
    wanted = len(guesses) + 1 if end == len(running.tokens) else 0
    if running.request.prompt_logprobs is not None and running.cached < len(running.prompt):
        wanted = len(tokens)
    return _Planned(running, Chunk(tokens, running.cached, running.table, wanted), guesses)


def _blocks(tokens: int) -> int:
    return -(-tokens // SLOTS)


def _forward(model: Llama, precision: str, cache_bytes: int) -> Forward:
    if precision not in FORMATS:
        raise UserError(f"precision must be one of {', '.join(FORMATS)}, not {precision!r}")
    try:
        return NativeForward(model, cache_bytes, precision)
    except Unavailable as reason:
        if precision == "int8":
            raise UserError(f"precision int8 needs the compiled kernels: {reason}") from None
        log = logging.getLogger(__name__)
        level = logging.INFO if model.config.parameters < 10_000_000 else logging.WARNING  # nobody waits for a toy
        log.log(level, "%s: generating with plain torch, which is several times slower", reason)
        return TorchForward(model, cache_bytes)
