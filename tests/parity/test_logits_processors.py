"""What a row is drawn from, against the logits processors of `transformers` in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ownship.engine.request import Sampling
from ownship.engine.sampling import Row, adjusted, weights

STOPS = [5, 300]


def ours(logits: Tensor, rows: list[Row]) -> Tensor:
    scores = adjusted(logits, rows)
    drawn = weights(scores, scores.amax(-1).numpy(), rows).flatten(1)
    assert not drawn[:, logits.shape[1] :].any()
    return drawn[:, : logits.shape[1]].double() / drawn.double().sum(-1, keepdim=True)


def theirs(logits: Tensor, row: Row) -> Tensor:
    """Probabilities [V] of one row of logits [V]."""
    from transformers.generation import logits_process as hf

    setting = row.sampling
    ids, said = torch.tensor([[*row.prompt, *row.generated]]), len(row.prompt)
    processors: list[Any] = []
    if setting.logit_bias:
        processors.append(hf.SequenceBiasLogitsProcessor([[[id], bias] for id, bias in setting.logit_bias]))
    if setting.repetition_penalty != 1:
        processors.append(hf.RepetitionPenaltyLogitsProcessor(setting.repetition_penalty))
    if setting.min_tokens:
        processors.append(hf.MinNewTokensLengthLogitsProcessor(said, setting.min_tokens, STOPS))
    processors.append(hf.TemperatureLogitsWarper(setting.temperature))
    if setting.min_p:
        processors.append(hf.MinPLogitsWarper(setting.min_p))
    if setting.top_k:
        processors.append(hf.TopKLogitsWarper(setting.top_k))
    if setting.top_p < 1:
        processors.append(hf.TopPLogitsWarper(setting.top_p))
    scores = logits[None].clone()
    for processor in processors:
        scores = processor(ids, scores)
    return scores[0].double().softmax(-1)


def rows(count: int, width: int, seed: int) -> list[Row]:
    pick = np.random.default_rng(seed)

    def maybe(off: float, low: float, high: float) -> float:
        return float(off if pick.random() < 0.4 else pick.uniform(low, high))

    result = []
    for _ in range(count):
        setting = Sampling(
            temperature=maybe(1, 0.3, 2.5), top_p=maybe(1, 0.05, 0.99), top_k=int(maybe(0, 1, 1.2 * width)),
            min_p=maybe(0, 0.001, 0.4), repetition_penalty=maybe(1, 0.5, 2.0), min_tokens=int(maybe(0, 0, 20)),
            logit_bias=tuple((int(id), float(pick.normal())) for id in pick.choice(width, pick.integers(0, 4), replace=False)))
        prompt, reply = pick.integers(0, width, pick.integers(1, 60)), pick.integers(0, width, pick.integers(0, 20))
        result.append(Row(setting, 0.5, prompt.tolist(), reply.tolist(), STOPS))
    return result


@pytest.mark.parametrize(("width", "scale"), [(400, 2.0), (400, 6.0), (4096, 1.0), (4096, 3.0)])
def test_distribution(width: int, scale: float) -> None:
    count = 100
    logits = scale * torch.randn(count, width, generator=torch.Generator().manual_seed(width))
    logits[:, STOPS] += 2 * scale  # so that it matters whether they may be drawn
    settings = rows(count, width, seed=int(scale))
    expected = torch.stack([theirs(own, row) for own, row in zip(logits, settings, strict=True)])
    assert (ours(logits, settings) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("setting", [
    Sampling(temperature=0.6), Sampling(temperature=1.7), Sampling(top_k=1), Sampling(top_k=50), Sampling(top_k=10_000),
    Sampling(top_p=0.1), Sampling(top_p=0.95), Sampling(min_p=0.02), Sampling(min_p=1), Sampling(repetition_penalty=1.3),
    Sampling(repetition_penalty=0.7), Sampling(min_tokens=9), Sampling(min_tokens=8),
], ids=lambda setting: "-".join(f"{k}={v}" for k, v in vars(setting).items() if v != getattr(Sampling(), k)))
def test_one_setting(setting: Sampling) -> None:
    logits = 3 * torch.randn(10, 4096, generator=torch.Generator().manual_seed(1))
    logits[:, STOPS] += 6
    row = Row(setting, 0.5, [1, 2, 2, 3, *range(40)], [7, 7, 9, 300, 301, 302, 303, 304], STOPS)
    expected = torch.stack([theirs(own, row) for own in logits])
    assert (ours(logits, [row] * 10) - expected).abs().max() < 1e-6
