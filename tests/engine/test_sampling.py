"""Draws, against distributions computed in float64 by the textbook."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ownship.engine.request import Sampling
from ownship.engine.sampling import sample

DRAWS = 20_000


def scores(rows: int, seed: int = 0, width: int = 50, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def distribution(logits: torch.Tensor, setting: Sampling) -> np.ndarray:
    """What `setting` should draw from: temperature, then top-k, then the smallest set that reaches top_p."""
    values = logits.double().numpy() / setting.temperature
    weights = np.exp(values - values.max())
    order = np.argsort(-weights)
    kept = order[: setting.top_k or None]
    share = weights[kept] / weights[kept].sum()
    kept = kept[: int(np.searchsorted(np.cumsum(share), setting.top_p)) + 1]
    result = np.zeros_like(weights)
    result[kept] = weights[kept] / weights[kept].sum()
    return result


def frequencies(logits: torch.Tensor, setting: Sampling, draws: int = DRAWS) -> np.ndarray:
    """How often each id of logits [V] is drawn, over evenly spaced uniforms: an inverse CDF is then off by at most one draw
    at each border."""
    uniforms = (np.arange(draws) + 0.5) / draws
    ids, _ = sample(logits.expand(draws, -1), [setting] * draws, uniforms.tolist())
    return np.bincount(ids, minlength=len(logits)) / draws


@pytest.mark.parametrize("setting", [
    Sampling(), Sampling(temperature=0.5), Sampling(temperature=2.0), Sampling(top_k=1), Sampling(top_k=7),
    Sampling(top_k=500), Sampling(top_p=0.3), Sampling(top_p=0.9), Sampling(top_p=0.999999), Sampling(top_p=1e-9),
    Sampling(temperature=1.5, top_k=10, top_p=0.8), Sampling(temperature=0.7, top_p=0.5),
], ids=str)
def test_frequencies(setting: Sampling) -> None:
    logits = scores(1, seed=3)[0]
    drawn, expected = frequencies(logits, setting), distribution(logits, setting)
    assert set(np.flatnonzero(drawn)) <= set(np.flatnonzero(expected))  # nothing from outside the set
    assert np.abs(drawn - expected).max() < 1.5 / DRAWS  # and all within it as often as it should be


def test_top_p_at_its_borders() -> None:
    """Shares 1/2, 1/4, 1/8, 1/8: exact in binary, so that a set which just reaches top_p can be told from one that does not."""
    logits = torch.tensor([0.125, 0.5, 0.125, 0.25]).log2() * float(np.log(2))
    for top_p, count in ((0.4, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.88, 4), (1.0, 4)):
        drawn = frequencies(logits, Sampling(top_p=top_p), 1000)
        assert np.count_nonzero(drawn) == count, top_p


def test_equal_scores() -> None:
    """Of equals, top-k keeps exactly k and top-p just enough."""
    logits = torch.zeros(10)
    assert np.count_nonzero(frequencies(logits, Sampling(top_k=3), 1000)) == 3
    assert np.count_nonzero(frequencies(logits, Sampling(top_p=0.35), 1000)) == 4


def test_greedy_is_argmax() -> None:
    logits = scores(40, width=1000)
    settings = [Sampling(temperature=0), Sampling(temperature=0, top_k=5, top_p=0.1)] * 20
    assert sample(logits, settings, [0.999] * 40)[0] == logits.argmax(-1).tolist()
    settings[7] = Sampling(temperature=2.0)  # company that is not greedy changes nothing
    ids, best = sample(logits, settings, [0.999] * 40)[0], logits.argmax(-1).tolist()
    assert ids[:7] + ids[8:] == best[:7] + best[8:]


def test_logprobs_are_of_the_raw_distribution() -> None:
    logits = scores(60, seed=1, scale=5.0)
    settings = [Sampling(temperature=t, top_k=k, top_p=p)
                for t, k, p in itertools.product((0, 0.3, 1, 1.7), (0, 1, 9), (0.2, 0.9, 1))][:60]
    rows = len(settings)
    uniforms = np.random.default_rng(0).random(rows).tolist()
    ids, logprobs = sample(logits[:rows], settings, uniforms)
    expected = torch.log_softmax(logits[:rows].double(), -1)[torch.arange(rows), torch.tensor(ids)]
    assert torch.allclose(torch.tensor(logprobs, dtype=torch.float64), expected, atol=1e-5)


def test_large_scores_stay_finite() -> None:
    logits = scores(4, scale=5.0) + torch.tensor([[3e4], [-3e4], [0.0], [1e2]])
    ids, logprobs = sample(logits, [Sampling(temperature=0.01)] * 4, [0.3, 0.6, 0.9, 0.99])
    expected = torch.log_softmax(logits.double(), -1)[torch.arange(4), torch.tensor(ids)]
    assert torch.allclose(torch.tensor(logprobs, dtype=torch.float64), expected, atol=5e-3)


def test_a_draw_depends_on_its_own_row_alone() -> None:
    draw = np.random.default_rng(1)
    rows = 100
    logits = scores(rows, width=997)
    settings = [Sampling(temperature=float(draw.choice([0, 0.2, 1, 3])), top_k=int(draw.choice([0, 0, 1, 20])),
                         top_p=float(draw.choice([1, 1, 0.5, 0.9]))) for _ in range(rows)]
    uniforms = draw.random(rows).tolist()
    together = sample(logits, settings, uniforms)
    alone = [sample(logits[row : row + 1], settings[row : row + 1], uniforms[row : row + 1]) for row in range(rows)]
    assert together[0] == [ids[0] for ids, _ in alone]
    assert together[1] == pytest.approx([logprobs[0] for _, logprobs in alone], abs=1e-6)
    before = logits.clone()
    sample(logits, settings, uniforms)
    assert torch.equal(logits, before)  # the scores are the caller's


@pytest.mark.parametrize("setting", [Sampling(), Sampling(temperature=0.5), Sampling(top_k=3), Sampling(top_p=0.95)], ids=str)
def test_impossible_tokens_are_never_drawn(setting: Sampling) -> None:
    possible = [5, 6, 30]
    logits = torch.full((50,), -torch.inf)
    logits[possible] = torch.tensor([0.0, 1.0, 2.0])
    uniforms = [0.0, 2.0**-60, *np.random.default_rng(0).random(2000).tolist(), 1 - 2.0**-20, 1 - 2.0**-24]
    ids, logprobs = sample(logits.expand(len(uniforms), -1), [setting] * len(uniforms), uniforms)
    assert set(ids) <= set(possible)
    assert min(logprobs) > -10
    assert ids[0] == 5  # and the smallest uniform draws the first possible one


@pytest.mark.parametrize("setting", [Sampling(), Sampling(top_k=3), Sampling(top_p=0.9)], ids=str)
def test_impossible_tokens_are_never_drawn_by_the_largest_uniform(setting: Sampling) -> None:
    logits = torch.full((50,), -torch.inf)
    logits[[5, 6, 30]] = torch.tensor([0.0, 1.0, 2.0])
    assert sample(logits[None], [setting], [1 - 2.0**-53])[0] == [30]
