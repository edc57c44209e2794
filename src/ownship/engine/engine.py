"""The engine: takes requests, gives tokens. It runs on the very tensors that a learner updates.

Every `step` either reads the prompts of waiting requests (a prompt that several of them share is read once) or draws one
token for every running one. Requests join and leave between steps.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ownship.engine.cache import KVCache
from ownship.engine.fingerprint import fingerprint
from ownship.engine.request import Completion, Event, Finish, Request
from ownship.engine.sampling import sample
from ownship.engine.text import TextOut
from ownship.errors import UserError
from ownship.model.attention import sequences
from ownship.model.head import logits
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer

_PREFILL_TOKENS = 4096  # prompt tokens read in one step
_PADDING = 1 << 20  # scores that one step may compute for nothing, beside as many as it computes for something


@dataclass
class _Running:
    id: int
    request: Request
    random: random.Random
    text: TextOut
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def cached(self) -> int:
        """Tokens whose keys and values are in the cache: all but the one drawn last."""
        return len(self.request.prompt) + len(self.tokens) - 1


class Engine:
    """Continuous batching over one network.

    `cache_bytes` bounds the key/value cache; a request that could never fit is refused when it is submitted, the others
    wait their turn.
    """

    def __init__(self, model: Llama, tokenizer: Tokenizer, max_rows: int = 128, cache_bytes: int = 2 << 30) -> None:
        self.model, self.tokenizer, self.max_rows, self.cache_bytes = model, tokenizer, max_rows, cache_bytes
        self.stop_ids = frozenset(model.config.eos_token_ids) or frozenset({tokenizer.eos_id})
        self.fingerprint = fingerprint(model)
        self._cache = KVCache(model.config)
        self._token_bytes = KVCache.token_bytes(model.config)
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []  # _running[i] owns cache row i
        self._ids = itertools.count()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def weights_changed(self) -> str:
        """To be called after an update of the weights; returns the new fingerprint. Not while requests are running."""
        if self.busy:
            raise RuntimeError("the weights must not change under running requests")
        self.fingerprint = fingerprint(self.model)
        return self.fingerprint

    def submit(self, request: Request) -> int:
        """Queues a request and returns its id. Raises UserError if it can never run."""
        length = len(request.prompt) + request.sampling.max_tokens
        limit = self.model.config.max_position_embeddings
        if not request.prompt:
            raise UserError("the prompt is empty")
        if not 0 <= min(request.prompt) <= max(request.prompt) < self.model.config.vocab_size:
            raise UserError(f"the prompt holds a token id outside the vocabulary of {self.model.config.vocab_size}")
        if length > limit:
            raise UserError(f"the prompt has {len(request.prompt)} tokens and max_tokens is {request.sampling.max_tokens}:"
                            f" together more than the model's {limit}")
        if length * self._token_bytes > self.cache_bytes:
            raise UserError(f"{length} tokens need {length * self._token_bytes >> 20} MB of cache; the bound is"
                            f" {self.cache_bytes >> 20} MB")
        seed = request.sampling.seed
        generator = random.Random(seed) if seed is not None else random.Random()
        text = TextOut(self.tokenizer, request.sampling.stop)
        self._waiting.append(_Running(next(self._ids), request, generator, text))
        return self._waiting[-1].id

    def cancel(self, id: int) -> Completion | None:
        """Ends a request at once; what it has so far, or None if it is not here (any more)."""
        for row, running in enumerate(self._running):
            if running.id == id:
                self._release(row)
                return self._complete(running, "cancelled")
        for waiting in self._waiting:
            if waiting.id == id:
                self._waiting.remove(waiting)
                return self._complete(waiting, "cancelled")
        return None

    @torch.no_grad()
    def step(self) -> list[Event]:
        """One round: prompts of waiting requests if there is room for them, else one token for each running request."""
        admitted = self._admit()
        scores = self._prefill(admitted) if admitted else self._decode()
        return self._draw(admitted or self._running, scores)

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

    def _admit(self) -> list[_Running]:
        """Moves waiting requests into cache rows, as many as fit."""
        if not self._running:
            self._cache.clear()
        admitted: list[_Running] = []
        prompts: set[tuple[int, ...]] = set()
        tokens, capacity = 0, self._cache.keys.shape[3]
        while self._waiting and len(self._running) < self.max_rows:
            request = self._waiting[0].request
            prompt = tuple(request.prompt)
            if prompt not in prompts and admitted and tokens + len(prompt) > _PREFILL_TOKENS:
                break
            # Attention pads every prompt to the longest: short ones beside a long one would each cost as much as it.
            lengths = [*map(len, prompts), *([len(prompt)] if prompt not in prompts else [])]
            if admitted and len(lengths) * max(lengths) ** 2 > 2 * sum(length**2 for length in lengths) + _PADDING:
                break
            needed = max(capacity, -(-(len(prompt) + request.sampling.max_tokens) // 64) * 64)
            if (len(self._running) + 1) * needed * self._token_bytes > self.cache_bytes and self._running:
                break
            if prompt not in prompts:
                prompts.add(prompt)
                tokens += len(prompt)
            capacity = needed
            admitted.append(self._waiting.popleft())
            self._running.append(admitted[-1])
        if admitted:
            rows, have = len(self._running), self._cache.keys.shape[1]
            if rows > have:  # twice as many as now if the bound allows: each growth copies the whole cache
                rows = max(rows, min(2 * have, self.max_rows, self.cache_bytes // (capacity * self._token_bytes)))
            self._cache.reserve(rows, capacity)
        return admitted

    def _prefill(self, admitted: list[_Running]) -> Tensor:
        """Reads each distinct prompt once, into the rows of all requests that have it; logits of the next token [n, V]."""
        first_row = len(self._running) - len(admitted)
        starts: dict[tuple[int, ...], int] = {}
        stream: list[int] = []
        for running in admitted:
            prompt = tuple(running.request.prompt)
            if prompt not in starts:
                starts[prompt] = len(stream)
                stream += prompt
        lengths = torch.tensor([len(running.request.prompt) for running in admitted])  # [n]
        begin = torch.tensor([starts[tuple(running.request.prompt)] for running in admitted])  # [n]
        source = begin[:, None] + torch.arange(int(lengths.max())).clamp(max=lengths[:, None] - 1)  # [n, L]
        positions, attention = sequences([len(prompt) for prompt in starts])
        rows = torch.arange(first_row, len(self._running))
        hidden = self.model(torch.tensor(stream), positions, self._cache.prefill(attention, rows, source))
        ends, which = torch.unique(begin + lengths - 1, return_inverse=True)
        return logits(self.model, hidden[ends])[which]

    def _decode(self) -> Tensor:
        """Feeds each running request's last token; logits of the next [n, V]."""
        if not self._running:
            return torch.empty(0, self.model.config.vocab_size)
        lengths = torch.tensor([running.cached for running in self._running])
        tokens = torch.tensor([running.tokens[-1] for running in self._running])
        return logits(self.model, self.model(tokens, lengths, self._cache.decode(lengths)))

    def _draw(self, rows: Sequence[_Running], scores: Tensor) -> list[Event]:
        """Draws one token per row, tells the text it makes visible, and releases what has ended."""
        if not rows:
            return []
        ids, logprobs = sample(scores, [running.request.sampling for running in rows],
                               [running.random.random() for running in rows])
        events = []
        ended: list[_Running] = []
        for running, id, logprob in zip(rows, ids, logprobs, strict=True):
            running.tokens.append(id)
            running.logprobs.append(logprob)
            finish: Finish | None = None
            text = "" if id in self.stop_ids else running.text.push(id)
            if id in self.stop_ids or running.text.stopped:
                finish = "stop"
            elif len(running.tokens) == running.request.sampling.max_tokens:
                finish = "length"
            if finish is None:
                events.append(Event(running.id, text))
                continue
            text += running.text.finish()
            ended.append(running)
            events.append(Event(running.id, text, self._complete(running, finish)))
        for running in ended:  # only now: until every row has its token, `cached` does not yet count this step
            self._release(self._running.index(running))
        return events

    def _complete(self, running: _Running, finish: Finish) -> Completion:
        return Completion(running.tokens, running.logprobs, finish, running.text.shown, self.fingerprint)

    def _release(self, row: int) -> None:
        """Frees a cache row; the last row moves into the gap, so that rows 0 to n−1 stay in use."""
        last = self._running.pop()
        if row < len(self._running):
            self._cache.move(len(self._running), row, last.cached)
            self._running[row] = last
