"""What evaluation harnesses ask for, on the default model: log-likelihoods and greedy flags as `transformers` has them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from engines import Door, user

from ownship.gateway.types import NamedTool, Tool

PAIRS = [("The capital of France is", " Paris"), ("The capital of France is", " a city of contradictions"), ("2 + 2 =", " 4"),
         ("def add(a, b):\n    return", " a + b\n"), ("Größe, naïve, 日本の首都は", "東京です"), ("A", " man"),
         ("Once upon a time, in a village by the sea, " * 12, "there lived a fisherman.")]


@pytest.mark.parametrize(("context", "continuation"), PAIRS)
def test_loglikelihood_as_transformers_has_it(default: Door, hf_smollm: Any, context: str, continuation: str) -> None:
    """lm-eval's way: echo with log-probabilities, one token generated, greedy where the best alternative's value is equal."""
    tokenizer = default.local._model().info.tokenizer
    head = tokenizer.encode(context)
    ids = head + tokenizer.encode(continuation)
    reply = default.ask(prompt=tuple(ids), echo=True, logprobs=1, max_tokens=1, temperature=0.0, seed=1234)
    prompt = reply.choices[0].prompt
    assert prompt is not None and [score.id for score in prompt.scores] == ids  # no token added at the beginning
    assert prompt.scores[0].logprob is None and prompt.scores[0].top == ()
    assert len(reply.choices[0].scores) == 1 and reply.usage.completion == 1
    with torch.no_grad():
        expected = hf_smollm(torch.tensor([ids])).logits[0].log_softmax(-1)
    asked = prompt.scores[len(head):]
    likelihood = math.fsum(score.logprob or 0 for score in asked)
    theirs = math.fsum(float(expected[at - 1, ids[at]]) for at in range(len(head), len(ids)))
    assert abs(likelihood - theirs) < 1e-3
    greedy = [score.logprob == score.top[0][1] for score in asked]
    assert greedy == [int(expected[at - 1].argmax()) == ids[at] for at in range(len(head), len(ids))]
    drawn = reply.choices[0].scores[0]
    assert drawn.id == int(expected[-1].argmax()) and drawn.logprob == drawn.top[0][1]
    assert abs((drawn.logprob or 0) - float(expected[-1].max())) < 1e-3


def test_log_probabilities_are_raw(default: Door) -> None:
    """Temperature and penalties change what is drawn, not how it is scored."""
    cold = default.ask(prompt="The sea is", logprobs=5, max_tokens=1, temperature=0.0).choices[0].scores[0]
    hot = default.ask(prompt="The sea is", logprobs=5, max_tokens=1, temperature=3.0, seed=5, top_k=3).choices[0].scores[0]
    assert hot.top == cold.top and hot.logprob in [value for _, value, _ in hot.top]


def test_a_stop_token_is_scored_too(default: Door) -> None:
    """In a bare completion, so that a harness finds the token that was generated; in a chat the scores are those of the text."""
    text = "<|im_start|>user\nSay only: ok<|im_end|>\n<|im_start|>assistant\nok<|im_end|>"
    ids = default.local.tokenize(text)
    assert ids[-1] == 2 and ids.count(1) == 2
    bias = {2: 100.0}
    bare = default.ask(prompt=tuple(ids[:-1]), max_tokens=5, temperature=0.0, logprobs=0, logit_bias=bias).choices[0]
    assert (bare.text, bare.finish, [score.id for score in bare.scores], bare.scores[0].text) == ("", "stop", [2], "<|im_end|>")
    chat = default.ask(messages=user("Say only: ok"), max_tokens=5, temperature=0.0, logprobs=0, logit_bias=bias).choices[0]
    assert (chat.text, chat.finish, chat.scores) == ("", "stop", [])


def test_the_model_fills_in_a_call(default: Door) -> None:
    """Meaning, not only form: the city that was asked about."""
    tool = Tool("get_weather", "Weather of a city", {"type": "object", "properties": {"city": {"type": "string"}},
                                                     "required": ["city"], "additionalProperties": False})
    reply = default.ask(messages=user("What is the weather in Paris?"), tools=(tool,), tool_choice=NamedTool("get_weather"),
                        temperature=0.0, max_tokens=60)
    assert [call.arguments for call in reply.choices[0].calls] == ['{"city":"Paris"}']
