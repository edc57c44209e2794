"""The engine on a tiny network in float32: whatever the company, each request is what it would be alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chi2

from ownship.engine import scheduler
from ownship.engine.engine import Engine, serving
from ownship.engine.forward import Chunk, Pool
from ownship.engine.request import Completion, Request, Sampling
from ownship.errors import UserError
from ownship.model.attention import sequences
from ownship.model.head import logits
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer

END = 2  # the id that ends a turn


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(f"{length} {seed}").choices(range(20, 320), k=length)


def full_forward(model: Llama, before: list[int], tokens: list[int]) -> torch.Tensor:
    """log π of each of `tokens` [n] after `before`, by one pass over the whole sequence without a cache."""
    with torch.no_grad():
        positions, attention = sequences([len(before) + len(tokens)])
        hidden = model(torch.tensor(before + tokens), positions, attention)[len(before) - 1 : -1]
        return torch.log_softmax(logits(model, hidden).double(), -1)[torch.arange(len(tokens)), torch.tensor(tokens)]


def check(engine: Engine, request: Request, completion: Completion) -> None:
    """The completion is one that this request can have, and its log-probabilities are the full forward's."""
    assert len(completion.logprobs) == len(completion.tokens) <= request.sampling.max_tokens
    assert END not in completion.tokens[:-1] or request.sampling.ignore_eos
    assert completion.fingerprint == engine.fingerprint
    stopped = any(stop in engine.tokenizer.decode(completion.tokens) for stop in request.sampling.stop)
    if completion.finish == "length":
        assert len(completion.tokens) == request.sampling.max_tokens
        assert completion.tokens[-1] != END or request.sampling.ignore_eos
    elif completion.finish == "stop":
        assert completion.tokens[-1] == END or stopped
    assert not any(stop in completion.text for stop in request.sampling.stop)
    if not request.sampling.stop and completion.finish != "cancelled":
        assert completion.text == engine.tokenizer.decode(completion.tokens)
    if completion.tokens:
        expected = full_forward(engine.model, request.prompt, completion.tokens)
        assert torch.allclose(torch.tensor(completion.logprobs, dtype=torch.float64), expected, atol=1e-4)


def finish(engine: Engine) -> dict[int, Completion]:
    completions = {}
    while engine.busy:
        completions |= {event.id: event.completion for event in engine.step() if event.completion is not None}
    return completions


def counted(engine: Engine) -> list[int]:
    """How many tokens each forward pass reads, from now on."""
    sizes: list[int] = []
    forward = engine._forward

    class Counting:
        pool, reload, draw = forward.pool, forward.reload, None if forward.draw is None else staticmethod(forward.draw)

        def __call__(self, chunks: Sequence[Chunk]) -> torch.Tensor:
            sizes.append(sum(len(chunk.tokens) for chunk in chunks))
            return forward(chunks)

    engine._forward = Counting()
    return sizes


def unused(engine: Engine) -> bool:
    """No block is left to a request that has gone."""
    return engine._scheduler.blocks.used == 0 and not any(engine._scheduler.blocks._users)


# What is drawn


def test_greedy_decoding_equals_the_full_forward(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    request = Request(prompt(9), Sampling(temperature=0, max_tokens=40))
    completion = engine.generate([request])[0]
    check(engine, request, completion)
    tokens = list(request.prompt)
    for token in completion.tokens:
        with torch.no_grad():
            positions, attention = sequences([len(tokens)])
            assert int(logits(small, small(torch.tensor(tokens), positions, attention)[-1:]).argmax()) == token
        tokens.append(token)


def test_unequal_requests_that_join_and_leave(small: Llama, pieces: Tokenizer) -> None:
    engine, requests, completions = Engine(small, pieces), {}, {}
    for index in range(24):
        request = Request(prompt(1 + 37 * index % 90, index), Sampling(max_tokens=1 + 11 * index % 30, seed=index))
        requests[engine.submit(request)] = request
        for _ in range(index % 4):
            completions |= {event.id: event.completion for event in engine.step() if event.completion is not None}
    completions |= finish(engine)
    assert completions.keys() == requests.keys()
    for id, request in requests.items():
        check(engine, request, completions[id])
        assert engine.generate([request])[0].tokens == completions[id].tokens  # alone, it draws the same


def test_events_tell_the_whole_text(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    texts: dict[int, str] = {engine.submit(Request(prompt(5, i), Sampling(max_tokens=30, seed=i, stop=("e", "a ")))): ""
                             for i in range(20)}
    completions = {}
    while engine.busy:
        for event in engine.step():
            texts[event.id] += event.text
            if event.completion is not None:
                completions[event.id] = event.completion
    assert {id: completion.text for id, completion in completions.items()} == texts


def test_seed_fixes_every_draw(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)

    def tokens(seed: int | None) -> list[int]:
        return engine.generate([Request(prompt(5), Sampling(seed=seed, max_tokens=20))])[0].tokens

    assert tokens(3) == tokens(3) != tokens(4)
    assert tokens(None) != tokens(None)


def test_end_of_turn(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    requests = [Request(prompt(4, i), Sampling(max_tokens=500, seed=i)) for i in range(20)]
    completions = engine.generate(requests)
    assert sum(completion.finish == "stop" for completion in completions) > 5
    for request, completion in zip(requests, completions, strict=True):
        check(engine, request, completion)
        assert (completion.finish == "stop") == (completion.tokens[-1] == END)  # the stop token is part of the completion
        assert "<|im_end|>" not in completion.text


def test_the_models_own_stop_tokens_come_first(small: Llama, pieces: Tokenizer) -> None:
    request = Request(prompt(4), Sampling(temperature=0, max_tokens=20))
    tokens = Engine(small, pieces).generate([request])[0].tokens
    other = Llama(type(small.config)(**{**vars(small.config), "eos_token_ids": (tokens[5], tokens[3])}))
    other.load_state_dict(small.state_dict())
    completion = Engine(other, pieces).generate([request])[0]
    first = min(tokens.index(tokens[5]), tokens.index(tokens[3]))
    assert completion.tokens == tokens[: first + 1]
    assert completion.text == pieces.decode(tokens[:first])  # these stop tokens have texts, which are not part of the reply
    assert completion.finish == "stop"


def test_stop_strings(small: Llama, pieces: Tokenizer) -> None:
    """Each stretch of a reply in turn is made the stop string: mostly it crosses a border between tokens."""
    engine = Engine(small, pieces)
    whole = engine.generate([Request(prompt(6), Sampling(max_tokens=40, seed=8))])[0]
    stops = [whole.text[begin : begin + 4] for begin in range(0, len(whole.text) - 4)]
    requests = [Request(prompt(6), Sampling(max_tokens=40, seed=8, stop=("not to be said", stop))) for stop in stops]
    crossed = 0
    for stop, completion in zip(stops, engine.generate(requests), strict=True):
        assert completion.text == whole.text[: whole.text.index(stop)]
        assert completion.tokens == whole.tokens[: len(completion.tokens)]
        if "\ufffd" not in whole.text:
            assert stop in pieces.decode(completion.tokens)
            assert stop not in pieces.decode(completion.tokens[:-1])  # no token more than was needed
        assert completion.finish == "stop"
        crossed += all(stop not in pieces.decode([token]) for token in completion.tokens)
    assert crossed > 10


# Shared prompts


def test_a_shared_prompt_is_read_once(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, guess=False)
    groups = [prompt(30, 1), prompt(12, 2), prompt(50, 3)]
    requests = [Request(groups[i % 3], Sampling(max_tokens=10, seed=i)) for i in range(24)]
    sizes = counted(engine)
    together = engine.generate(requests)
    assert sizes[0] == 30 + 12 + 50
    assert sizes[1:] == [24] * 9
    separate = [engine.generate([request])[0] for request in requests]
    assert [completion.tokens for completion in together] == [completion.tokens for completion in separate]
    for request, completion in zip(requests, together, strict=True):
        check(engine, request, completion)


def test_more_prompts_than_one_step_reads(small: Llama, pieces: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_READ", 100)
    monkeypatch.setattr(scheduler, "_READ_BESIDE", 40)
    engine = Engine(small, pieces, guess=False)
    requests = [Request(prompt(1 + 29 * i % 130, i), Sampling(max_tokens=5, seed=i)) for i in range(30)]
    sizes = counted(engine)
    completions = engine.generate(requests)
    assert max(sizes) <= 16 * 30 + 40
    for request, completion in zip(requests, completions, strict=True):
        check(engine, request, completion)


def test_a_long_prompt_does_not_hold_up_the_others(small: Llama, pieces: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_READ_BESIDE", 32)
    engine = Engine(small, pieces, guess=False)
    talking = engine.submit(Request(prompt(5), Sampling(max_tokens=100, temperature=0, ignore_eos=True)))
    engine.step()
    long = engine.submit(Request(prompt(400), Sampling(max_tokens=1)))
    for _ in range(-(-400 // 32) - 1):
        assert [event.id for event in engine.step()] == [talking]  # a token in every step
    assert {event.id for event in engine.step()} == {talking, long}


# Bounds


def test_max_rows(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, max_rows=3)
    requests = [Request(prompt(5, i), Sampling(max_tokens=1 + i % 7, seed=i)) for i in range(20)]
    most = 0

    def watch(_: int) -> None:
        nonlocal most
        most = max(most, int(engine.load["running"]))

    completions = engine.generate(requests, watch)
    assert most == 3
    for request, completion in zip(requests, completions, strict=True):
        check(engine, request, completion)


def bounded(small: Llama, pieces: Tokenizer, requests: list[Request], blocks: int) -> int:
    """Runs the requests with a cache of so many blocks of 16 tokens, as they run without a bound; returns how many pre-emptions
    there were."""
    expected = Engine(small, pieces).generate(requests)
    engine = Engine(small, pieces, cache_bytes=blocks * Pool.block_bytes(small.config, torch.float32))
    preempted = 0
    preempt = engine._scheduler.preempt

    def counting(running: Any) -> None:
        nonlocal preempted
        preempted += 1
        preempt(running)

    engine._scheduler.preempt = counting  # type: ignore[method-assign]
    for request, completion, other in zip(requests, engine.generate(requests), expected, strict=True):
        check(engine, request, completion)
        assert completion.finish != "cancelled"
        assert (completion.tokens, completion.text, completion.finish) == (other.tokens, other.text, other.finish)
    assert unused(engine)
    return preempted


def test_cache_bound(small: Llama, pieces: Tokenizer) -> None:
    requests = [Request(prompt(20, i), Sampling(max_tokens=40, seed=i, ignore_eos=True)) for i in range(30)]
    assert bounded(small, pieces, requests, blocks=10) > 5


def test_cache_bound_after_many_short_requests(small: Llama, pieces: Tokenizer) -> None:
    short = [Request(prompt(2, i), Sampling(max_tokens=3, seed=i)) for i in range(30)]
    lasting = Request(prompt(3), Sampling(max_tokens=60, seed=1))
    long = [Request(prompt(400, i), Sampling(max_tokens=20, seed=i)) for i in range(4)]
    bounded(small, pieces, [lasting, *short, *long], blocks=32)


def test_long_and_short_requests_all_finish(small: Llama, pieces: Tokenizer) -> None:
    requests = [Request(prompt(300 if i % 5 == 0 else 4, i), Sampling(max_tokens=9, seed=i)) for i in range(30)]
    bounded(small, pieces, requests, blocks=20)


def test_groups_in_a_small_cache(small: Llama, pieces: Tokenizer) -> None:
    requests = [Request(prompt(50, i // 8), Sampling(max_tokens=30, seed=i, ignore_eos=True)) for i in range(64)]
    assert bounded(small, pieces, requests, blocks=16) > 5


def test_many_requests_that_come_and_go(small: Llama, pieces: Tokenizer) -> None:
    """500 of random lengths, stops and cancellations, a cache too small for half of those that could run."""
    draw = random.Random(3)
    engine = Engine(small, pieces, max_rows=40, cache_bytes=60 * Pool.block_bytes(small.config, torch.float32))
    waiting = [Request(prompt(draw.choice([1, 5, 16, 17, 40, 200]), draw.randrange(60)),
                       Sampling(max_tokens=draw.choice([1, 2, 17, 60]), seed=i, stop=draw.choice([(), ("e",), ("th", "a")]),
                                temperature=draw.choice([0, 1]))) for i in range(500)]
    requests: dict[int, Request] = {}
    completions: dict[int, Completion] = {}
    cancelled = 0
    for _ in range(100_000):
        for request in waiting[: draw.choice([0, 0, 1, 5])]:
            requests[engine.submit(waiting.pop(0))] = request
        if draw.random() < 0.2 and requests:
            id = draw.choice(list(requests))
            if (completion := engine.cancel(id)) is not None:
                completions[id] = completion
                cancelled += 1
        completions |= {event.id: event.completion for event in engine.step() if event.completion is not None}
        if not waiting and not engine.busy:
            break
    assert len(completions) == 500 and 20 < cancelled < 400
    for id, completion in completions.items():
        check(engine, requests[id], completion)
    assert unused(engine)
    for id in draw.sample([id for id, completion in completions.items() if completion.finish != "cancelled"], 30):
        assert Engine(small, pieces).generate([requests[id]])[0].tokens == completions[id].tokens


# Equal beginnings


def test_a_second_turn_reads_only_what_is_new(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, guess=False)
    first = Request(prompt(70), Sampling(max_tokens=30, seed=1, ignore_eos=True))
    reply = engine.generate([first])[0]
    second = Request([*first.prompt, *reply.tokens, *prompt(9, 1)], Sampling(max_tokens=5, seed=2))
    sizes = counted(engine)
    found = engine.generate([second])[0]
    assert found.found == 96 and sizes[0] == 109 - 96  # full blocks of what was there
    alone = Engine(small, pieces, guess=False).generate([second])[0]
    assert found.tokens == alone.tokens and alone.found == 0
    check(engine, second, found)


def test_what_was_used_longest_ago_is_forgotten_first(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, cache_bytes=12 * Pool.block_bytes(small.config, torch.float32))
    ask = {name: Request(prompt(65, name), Sampling(max_tokens=1, temperature=0)) for name in (1, 2, 3)}

    def found(name: int) -> int:
        return engine.generate([ask[name]])[0].found

    assert [found(name) for name in (1, 2, 1)] == [0, 0, 64]
    assert found(3) == 0  # in the place of 2
    assert found(1) == 64
    assert found(2) < 64


def test_new_weights_forget_everything(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    request = Request(prompt(70), Sampling(max_tokens=20, temperature=0))
    before = engine.generate([request])[0]
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert engine.weights_changed() != before.fingerprint
    after = engine.generate([request])[0]
    assert after.found == 0 and after.version == before.version + 1 and after.tokens != before.tokens
    check(engine, request, after)


# Scores of prompts, guesses


@pytest.mark.parametrize("length", [1, 2, 16, 17, 200])
def test_prompt_logprobs(small: Llama, pieces: Tokenizer, length: int) -> None:
    engine = Engine(small, pieces)
    request = Request(prompt(length), Sampling(max_tokens=3, temperature=0), prompt_logprobs=3)
    for _ in range(2):  # the second time its blocks could be found
        completion = engine.generate([request, *[Request(prompt(30, i), Sampling(max_tokens=9)) for i in range(3)]])[0]
        assert [scored.id for scored in completion.prompt_scores] == request.prompt[1:]
        if length > 1:
            expected = full_forward(small, request.prompt[:1], request.prompt[1:])
            assert torch.allclose(torch.tensor([scored.logprob for scored in completion.prompt_scores]).double(), expected,
                                  atol=1e-4)
        assert all(scored.top is not None and len(scored.top) == 3 for scored in completion.prompt_scores)
        check(engine, request, completion)


@pytest.mark.parametrize("temperature", [0, 1])
def test_guesses_change_nothing(small: Llama, pieces: Tokenizer, temperature: float) -> None:
    """Prompts that repeat themselves, so that there is much to guess; and, greedily, a network that goes in circles."""
    if temperature == 0:
        for block in small.layers:
            torch.nn.init.zeros_(block.self_attn.o_proj.weight)  # what comes next depends on the last token alone
    requests = [Request(prompt(6, i) * 6, Sampling(max_tokens=200, seed=i, temperature=temperature, ignore_eos=True,
                                                   repetition_penalty=1 + temperature * (i % 2))) for i in range(8)]
    engine, plain = Engine(small, pieces), Engine(small, pieces, guess=False)
    with_guesses, without = counted(engine), counted(plain)
    for request in requests:
        guessed, expected = engine.generate([request])[0], plain.generate([request])[0]
        assert guessed.tokens == expected.tokens
        assert guessed.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert max(with_guesses[1:]) > 1 and max(without) == 36
    if temperature == 0:
        assert len(with_guesses) < 0.7 * len(without)  # many were right


def test_guesses_leave_the_distribution_as_it_is(small: Llama, pieces: Tokenizer) -> None:
    """20,000 draws of three tokens, the third often after a right guess of the second, against the network's probabilities."""
    before, draws, temperature = prompt(5) * 3, 20_000, 0.3
    bias = torch.zeros(small.config.vocab_size)
    bias[before] = 2.0  # or what was said before would seldom be said again
    with torch.no_grad():
        small.lm_head.weight.mul_(0.1)
    engine = Engine(small, pieces)
    engine._scheduler.guess = 10_000  # whatever the company
    sizes = counted(engine)
    requests = [Request(before, Sampling(max_tokens=3, seed=i, ignore_eos=True, temperature=temperature,
                                         logit_bias=tuple((id, 2.0) for id in set(before)))) for i in range(draws)]
    seen = Counter(tuple(completion.tokens) for completion in engine.generate(requests))
    assert max(sizes) > engine.max_rows + 20  # there were guesses

    def after(texts: list[list[int]]) -> torch.Tensor:
        positions, attention = sequences([len(before) + len(text) for text in texts])
        hidden = small(torch.tensor([token for text in texts for token in before + text]), positions, attention)
        ends = torch.tensor([len(before) + len(text) for text in texts]).cumsum(0) - 1
        return torch.softmax((logits(small, hidden[ends]) + bias).double() / temperature, -1)

    with torch.no_grad():
        texts: dict[tuple[int, ...], float] = {(): 1.0}
        for _ in range(3):
            nexts = after([list(text) for text in texts])
            texts = {(*text, token): share * float(nexts[row, token]) for row, (text, share) in enumerate(texts.items())
                     for token in torch.nonzero(nexts[row] * share * draws > 0.5)[:, 0].tolist()}
    likely = {text: share * draws for text, share in texts.items() if share * draws >= 5}
    rest = draws - sum(likely.values())
    statistic = sum((seen[text] - expected) ** 2 / expected for text, expected in likely.items())
    statistic += (draws - sum(seen[text] for text in likely) - rest) ** 2 / rest
    assert len(likely) > 30 and chi2.sf(statistic, len(likely)) > 1e-4


def test_what_can_never_run_is_refused(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, cache_bytes=13 * Pool.block_bytes(small.config, torch.float32))
    for request, words in (
        (Request(prompt(150), Sampling(max_tokens=59)), "cache"),
        (Request(prompt(10), Sampling(max_tokens=503)), "512"),
        (Request([]), "empty"),
        (Request([1, 320]), "vocabulary"),
        (Request([-1]), "vocabulary"),
    ):
        with pytest.raises(UserError, match=words):
            engine.submit(request)
    assert not engine.busy
    assert len(engine.generate([Request(prompt(150), Sampling(max_tokens=58))])) == 1  # what just fits does run


@pytest.mark.parametrize("cache_bytes", [-5, 0, 100])
def test_a_cache_that_holds_nothing_is_refused(small: Llama, pieces: Tokenizer, cache_bytes: int) -> None:
    with pytest.raises(UserError, match="the cache must hold 16 tokens"):
        Engine(small, pieces, cache_bytes=cache_bytes)


def test_generate_with_one_that_is_refused_runs_none(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    with pytest.raises(UserError):
        engine.generate([Request(prompt(3)), Request([])])
    assert not engine.busy


@pytest.mark.parametrize("setting", [
    {"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"max_tokens": 0},
    {"stop": ("a", "")}])
def test_impossible_settings(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        Sampling(**setting)  # type: ignore[arg-type]


# Leaving early


def test_cancel(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, max_rows=2)
    requests = [Request(prompt(5, i), Sampling(temperature=0, max_tokens=10)) for i in range(4)]
    expected = Engine(small, pieces).generate(requests)
    ids = [engine.submit(request) for request in requests]
    for _ in range(3):
        engine.step()
    running, waiting = engine.cancel(ids[0]), engine.cancel(ids[2])
    assert running is not None and running.finish == "cancelled"
    assert running.tokens == expected[0].tokens[:3]
    assert running.logprobs == pytest.approx(expected[0].logprobs[:3], abs=1e-5)
    assert waiting is not None and (waiting.finish, waiting.tokens, waiting.text) == ("cancelled", [], "")
    assert engine.cancel(ids[0]) is None and engine.cancel(ids[2]) is None and engine.cancel(12345) is None
    completions = finish(engine)
    assert {id: completion.tokens for id, completion in completions.items()} == \
        {ids[1]: expected[1].tokens, ids[3]: expected[3].tokens}
    assert engine.cancel(ids[1]) is None


def test_progress_that_raises_cancels_everything(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, max_rows=4)
    calls = []

    def progress(tokens: int) -> None:
        calls.append(tokens)
        if len(calls) == 3:
            raise KeyboardInterrupt

    requests = [Request(prompt(5, i), Sampling(temperature=0, max_tokens=10)) for i in range(9)]
    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests, progress)
    assert calls == [4, 4, 4]
    assert not engine.busy
    assert len(engine.generate(requests)) == 9  # and the engine is as good as new


def test_progress_counts_the_tokens(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, max_rows=4)
    calls: list[int] = []
    completions = engine.generate([Request(prompt(5, i), Sampling(max_tokens=10, seed=i)) for i in range(9)], calls.append)
    assert sum(calls) == sum(len(completion.tokens) for completion in completions)


@pytest.mark.parametrize("seed", range(3))
def test_200_random_requests(small: Llama, pieces: Tokenizer, seed: int) -> None:
    """Random lengths, shared prompts, stops, arrivals, cancels and bounds: rows move about, and no request notices."""
    draw = random.Random(seed)
    size = Pool.block_bytes(small.config, torch.float32)
    engine = Engine(small, pieces, max_rows=draw.choice([3, 8, 32]), cache_bytes=draw.choice([12, 60, 5000]) * size)
    prompts = [prompt(draw.choice([1, 2, 7, 30, 64, 90]), i) for i in range(40)]
    requests: dict[int, Request] = {}
    completions: dict[int, Completion] = {}
    while len(requests) < 200 or engine.busy:
        for _ in range(draw.choice([0, 0, 1, 2, 9]) if len(requests) < 200 else 0):
            stop = tuple(draw.choices(["a", "er", "in", " t", "he"], k=draw.choice([0, 0, 1, 3])))
            sampling = Sampling(temperature=draw.choice([0, 0.7, 1, 1]), top_p=draw.choice([1, 0.9]), top_k=draw.choice([0, 20]),
                                max_tokens=draw.choice([1, 2, 5, 20, 70]), seed=draw.randrange(1000), stop=stop)
            request = Request(draw.choice(prompts), sampling)
            requests[engine.submit(request)] = request
        if requests and draw.random() < 0.1:
            id = draw.choice(list(requests))
            completion = engine.cancel(id)
            assert (completion is None) == (id in completions)
            if completion is not None:
                completions[id] = completion
        for event in engine.step():
            assert event.id not in completions
            if event.completion is not None:
                completions[event.id] = event.completion
        assert engine.load["running"] <= engine.max_rows
    assert completions.keys() == requests.keys() and unused(engine)
    assert len({completion.finish for completion in completions.values()}) == 3
    for id, request in requests.items():
        check(engine, request, completions[id])


# Weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_single_weight_changes_the_fingerprint(small: Llama, pieces: Tokenizer, dtype: torch.dtype) -> None:
    model = small.to(dtype)
    engine = Engine(model, pieces)
    first = engine.fingerprint
    draw = random.Random(0)
    for parameter in model.parameters():
        for place in {0, parameter.numel() - 1, draw.randrange(parameter.numel())}:
            flat = parameter.data.view(-1)
            before = flat[place].clone()
            flat[place] = torch.nextafter(before, torch.tensor(9.0, dtype=dtype))  # the smallest change there is
            assert engine.weights_changed() != first
            flat[place] = before
    assert engine.weights_changed() == first
    engine.generate([Request(prompt(5), Sampling(max_tokens=5))])
    assert engine.weights_changed() == first  # generating changes nothing


def test_new_weights_are_used(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    request = Request(prompt(9), Sampling(temperature=0, max_tokens=10))
    before = engine.generate([request])[0]
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(1.3)
    fingerprint = engine.weights_changed()
    after = engine.generate([request])[0]
    assert after.fingerprint == fingerprint != before.fingerprint
    assert after.logprobs != before.logprobs
    check(engine, request, after)


def test_a_rested_engine_goes_on(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    requests = [Request(prompt(40 + seed), Sampling(max_tokens=20, seed=seed)) for seed in range(4)]
    before = engine.generate(requests)
    engine.rest()
    assert engine.generate(requests) == before
    engine.submit(requests[0])
    with pytest.raises(RuntimeError, match="in use"):
        engine.rest()


def test_weights_must_not_change_under_requests(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces, max_rows=1)
    ids = [engine.submit(Request(prompt(5), Sampling(max_tokens=5))) for _ in range(2)]
    with pytest.raises(RuntimeError, match="running"):
        engine.weights_changed()
    engine.step()
    engine.cancel(ids[0])
    with pytest.raises(RuntimeError, match="running"):  # one still waits
        engine.weights_changed()
    engine.cancel(ids[1])
    engine.weights_changed()


def test_int4_is_refused_for_what_may_have_been_trained_from_4_bits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"int4 is for \.gguf files"):
        serving(tmp_path, "int4")
    with pytest.raises(UserError, match="missing"):
        serving(tmp_path / "missing.gguf", "int4")
