"""Who is fed what in the next step, and where it is kept.

A request waits, then runs: its prompt is read in pieces, then it is answered token by token. What a step feeds are the tokens whose
keys and values are not in the cache yet: one for a request that is being answered (more if a grammar forced them, or as a guess), a
piece of the prompt for one that is being read. When the cache is full the latest goes back to the queue and loses nothing.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ownship.engine.cache import ROOT, Blocks, Key, key
from ownship.engine.forward import SLOTS, Chunk
from ownship.engine.grammar import GrammarFailed, Matcher
from ownship.engine.lookup import Lookup
from ownship.engine.request import Request
from ownship.engine.sampling import Scored
from ownship.engine.text import TextOut

_READ = 512  # prompt tokens read in one step
_READ_BESIDE = 256  # … while others wait for their next token
_SCORE = 128  # … whose logits are all wanted


@dataclass(eq=False)
class Running:
    """One request and how far it has come."""

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
    followers: list[Running] = field(default_factory=list)  # have the same prompt, and wait for it to be read
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
class Planned:
    """What one request is fed in a step; `guesses` are the last tokens of the chunk."""

    running: Running
    chunk: Chunk
    guesses: list[int]


class Scheduler:
    """Owns the queue, the running requests and the blocks of the cache.

    `guess` rows cost hardly more than one: a step with fewer is filled up with guesses.
    """

    def __init__(self, blocks: int, max_rows: int, guess: int) -> None:
        self.blocks, self.max_rows, self.guess = Blocks(blocks), max_rows, guess
        self.waiting: deque[Running] = deque()
        self.running: dict[int, Running] = {}  # by id, in the order in which they were let in
        self.queries = self.hits = 0  # prompt tokens looked up in the cache, and found

    @property
    def rows(self) -> int:
        return sum(1 + len(running.followers) for running in self.running.values())

    def plan(self) -> list[Planned]:
        """What each running request is fed in this step: first those that are being answered, then pieces of prompts."""
        self._admit()
        pending = {running: len(running.tokens) - running.cached for running in self.running.values()}
        answering = [running for running, count in pending.items() if count <= SLOTS]
        reading = [running for running, count in pending.items() if count > SLOTS]
        rows = sum(pending[running] for running in answering)
        plan: dict[int, Planned] = {}
        for running in answering:
            if running.id not in self.running:  # pre-empted meanwhile
                continue
            guesses: list[int] = []
            left = len(running.prompt) + running.request.sampling.max_tokens - len(running.tokens)
            if rows < self.guess and not reading and len(running.tokens) > len(running.prompt) and running.matcher is None:
                guesses = running.lookup.guess(running.tokens, min(left - 1, (self.guess - rows) // len(answering)))
            if self._reserve(running, len(running.tokens) + len(guesses), plan):
                plan[running.id] = _planned(running, len(running.tokens), guesses)
        budget = _READ_BESIDE if plan else _READ
        for running in reading:
            if budget <= 0:
                break
            if running.id in self.running:
                count = min(pending[running], budget)
                if running.request.prompt_logprobs is not None:
                    count = min(count, _SCORE)
                if self._reserve(running, running.cached + count, plan):
                    plan[running.id] = _planned(running, running.cached + count, [])
                    budget -= count
        return list(plan.values())

    def ran(self, planned: Planned) -> None:
        """The step is done: what was fed is in the cache, and others may find the blocks that are full now."""
        running = planned.running
        running.cached += len(planned.chunk.tokens) - len(planned.guesses)
        while (running.named + 1) * SLOTS <= running.cached:
            start = running.named * SLOTS
            running.name = key(running.name, running.tokens[start : start + SLOTS])
            self.blocks.name(running.table[running.named], running.name)
            running.named += 1

    def join(self, leader: Running, copy: Callable[[int, int], None]) -> list[Running]:
        """The requests that waited for this prompt to be read: they share its full blocks and get a copy of the last one."""
        joined = []
        for follower in leader.followers:
            full = leader.cached // SLOTS
            if leader.cached % SLOTS:
                if (block := self.blocks.allocate()) is None:
                    self.waiting.appendleft(follower)
                    continue
                copy(leader.table[full], block)
                follower.table = [block]
            follower.table = [*(self.blocks.share(each) for each in leader.table[:full]), *follower.table]
            follower.cached = follower.found = leader.cached
            follower.named, follower.name = leader.named, leader.name
            self.running[follower.id] = follower
            joined.append(follower)
        leader.followers = []
        return joined

    def withdraw(self, id: int) -> Running | None:
        """Takes a request out, whether it waits or runs; None if it is not here (any more)."""
        if (found := self.running.get(id)) is not None:
            self.release(found)
            return found
        for queue in (self.waiting, *(running.followers for running in self.running.values())):
            for each in queue:
                if each.id == id:
                    queue.remove(each)
                    return each
        return None

    def release(self, running: Running) -> None:
        """Leaves the running requests; those that waited for its prompt to be read go back to the queue."""
        del self.running[running.id]
        self.waiting.extendleft(reversed(running.followers))
        self.blocks.release(running.table)
        running.followers, running.table, running.cached, running.named, running.name = [], [], 0, 0, ROOT

    def preempt(self, running: Running) -> None:
        """Back to the head of the queue, with all that was drawn; much of its cache may still be there when it returns."""
        self.release(running)
        if len(running.tokens) == len(running.prompt):
            running.prompt_scores = []  # read again from the start
        self.waiting.appendleft(running)

    def _admit(self) -> None:
        """Lets waiting requests in, in their order, while there are rows, and blocks for all of their prompt."""
        if not self.waiting:
            return
        rows = self.rows
        leaders = {tuple(running.prompt): running for running in self.running.values()
                   if len(running.tokens) == len(running.prompt)}
        promised = sum(max(0, _blocks(len(running.tokens) + 1) - len(running.table)) for running in self.running.values())
        while self.waiting and rows < self.max_rows:
            head = self.waiting[0]
            unread = len(head.tokens) == len(head.prompt)
            scored = unread and head.request.prompt_logprobs is not None  # every token's logits are wanted: nothing is skipped
            leader = leaders.get(tuple(head.prompt)) if unread and not scored else None
            if leader is not None:
                leader.followers.append(head)
            else:
                table, name = ([], ROOT) if scored else self.blocks.find(head.tokens)
                needed = _blocks(len(head.tokens) + 1) - len(table)
                if needed + promised > self.blocks.available and self.running:
                    self.blocks.release(table)
                    return
                head.table, head.name, head.named, head.cached = table, name, len(table), len(table) * SLOTS
                head.found = max(head.found, min(head.cached, len(head.prompt)))
                self.queries += len(head.tokens)
                self.hits += head.cached
                promised += needed
                self.running[head.id] = head
                if unread:
                    leaders[tuple(head.prompt)] = head
            self.waiting.popleft()
            rows += 1

    def _reserve(self, running: Running, length: int, plan: dict[int, Planned]) -> bool:
        """Blocks for so many tokens, if need be taken from the requests that came last; False if `running` itself had to go."""
        while len(running.table) < _blocks(length):
            if (block := self.blocks.allocate()) is not None:
                running.table.append(block)
                continue
            victim = next((other for other in reversed(self.running.values()) if other.id not in plan), running)
            self.preempt(victim)
            if victim is running:
                return False
        return True


def _planned(running: Running, end: int, guesses: list[int]) -> Planned:
    """The tokens from the first that is not cached to `end`, and guesses."""
    tokens = [*running.tokens[running.cached : end], *guesses]
    wanted = len(guesses) + 1 if end == len(running.tokens) else 0
    if running.request.prompt_logprobs is not None and running.cached < len(running.prompt):
        wanted = len(tokens)
    return Planned(running, Chunk(tokens, running.cached, running.table, wanted), guesses)


def _blocks(tokens: int) -> int:
    return -(-tokens // SLOTS)
