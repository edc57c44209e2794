"""Grammars inside the engine: in a batch, beside free requests, pre-empted, cut short, broken."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
import torch
from jsonschema import validate

from ownship.engine.engine import Engine
from ownship.engine.forward import Pool
from ownship.engine.grammar import Grammar, GrammarFailed, Matcher
from ownship.engine.request import Request, Sampling
from ownship.errors import UserError
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer

SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["name_of_the_vessel", "crew", "flags"],
    "properties": {"name_of_the_vessel": {"type": "string", "maxLength": 5},
                   "crew": {"type": "integer", "minimum": 1, "maximum": 99},
                   "flags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2}}}


def prompt(seed: int) -> list[int]:
    return random.Random(seed).choices(range(20, 320), k=9)


def constrained(count: int) -> list[Request]:
    grammars = [Grammar.json_schema(SCHEMA), Grammar.regex("[ab]{3,9}c"), Grammar.choice(["yes", "no", "yes, but"]), None]
    return [Request(prompt(index // 3), Sampling(max_tokens=150, seed=index, temperature=index % 2), grammars[index % 4])
            for index in range(count)]


def obeys(request: Request, text: str) -> None:
    assert request.grammar is not None
    if request.grammar.kind == "json_schema":
        validate(json.loads(text), SCHEMA)
    elif request.grammar.kind == "regex":
        assert re.fullmatch("[ab]{3,9}c", text)
    else:
        assert text in ("yes", "no", "yes, but")


def test_in_a_batch(small: Llama, pieces: Tokenizer) -> None:
    engine, requests = Engine(small, pieces), constrained(48)
    together = engine.generate(requests)
    bounded = Engine(small, pieces, cache_bytes=40 * Pool.block_bytes(small.config, torch.float32)).generate(requests)
    steps = 0

    def count(_: int) -> None:
        nonlocal steps
        steps += 1

    for index, (request, completion, other) in enumerate(zip(requests, together, bounded, strict=True)):
        assert completion.tokens == other.tokens and completion.text == other.text
        assert len(completion.forced) == len(completion.tokens) == len(completion.logprobs)
        if request.grammar is None:
            assert not any(completion.forced)
            continue
        assert completion.finish == "stop"
        obeys(request, completion.text)
        assert [logprob == 0 for logprob, forced in zip(completion.logprobs, completion.forced, strict=True) if forced] == \
            [True] * sum(completion.forced)
        if index < 12:
            steps = 0
            alone = engine.generate([request], count)[0]
            assert alone.tokens == completion.tokens
            assert steps == len(completion.tokens) - sum(completion.forced)  # no forward pass for what is forced
    forced = sum(sum(completion.forced) for request, completion in zip(requests, together, strict=True)
                 if request.grammar is not None and request.grammar.kind == "json_schema")
    assert forced > 12 * 20  # of the keys at least


def test_cut_short(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    whole = engine.generate([Request(prompt(1), Sampling(max_tokens=150, seed=1), Grammar.json_schema(SCHEMA))])[0]
    for length in range(1, len(whole.tokens)):
        cut = engine.generate([Request(prompt(1), Sampling(max_tokens=length, seed=1), Grammar.json_schema(SCHEMA))])[0]
        assert (cut.tokens, cut.finish) == (whole.tokens[:length], "length")
        assert whole.text.startswith(cut.text.removesuffix("�"))


def test_refused_before_it_is_queued(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    for grammar, reason in ((Grammar.regex("(?=a)b"), "regular expression"), (Grammar.json_schema({"type": "no"}), "JSON schema"),
                            (Grammar.json_schema({"not": {}}), "'not' is not supported"), (Grammar.lark("start: other"), "Lark")):
        with pytest.raises(UserError, match=reason):
            engine.submit(Request(prompt(0), Sampling(), grammar))
    assert not engine.busy


def test_one_that_gives_up_is_not_the_end_of_the_others(small: Llama, pieces: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library may stop in the middle of a reply, at a limit of its own."""
    expected = Engine(small, pieces).generate(constrained(8))
    calls = {"accept": 0, "mask": 0}
    accept, mask = Matcher.accept, Matcher.mask

    def failing_accept(self: Matcher, token: int) -> None:
        calls["accept"] += 1
        if calls["accept"] == 40:
            raise GrammarFailed("enough")
        accept(self, token)

    def failing_mask(self: Matcher) -> Any:
        calls["mask"] += 1
        if calls["mask"] == 25:
            raise GrammarFailed("enough")
        return mask(self)

    monkeypatch.setattr(Matcher, "accept", failing_accept)
    monkeypatch.setattr(Matcher, "mask", failing_mask)
    engine = Engine(small, pieces)
    done = engine.generate(constrained(8))
    failed = [index for index, completion in enumerate(done) if completion.finish == "failed"]
    assert 1 <= len(failed) <= 2
    for index, (completion, other) in enumerate(zip(done, expected, strict=True)):
        if index in failed:
            assert other.tokens[: len(completion.tokens)] == completion.tokens
        else:
            assert (completion.tokens, completion.text, completion.finish) == (other.tokens, other.text, other.finish)
    assert not engine.busy and engine._scheduler.blocks.used == 0
