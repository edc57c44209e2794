"""Draws, against distributions computed in float64 by the textbook."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tiny import need_kernels

from ownship.engine import sampling
from ownship.engine.engine import Engine
from ownship.engine.native.forward import draw as native_draw
from ownship.engine.request import Request, Sampling
from ownship.engine.sampling import Row, logprobs_of, sample
from ownship.errors import UserError
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer

DRAWS = 5_000
VOCABULARY = 49152


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def drawing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With compiled code for the rows that ask for nothing but a temperature, and without."""
    if request.param == "compiled":
        need_kernels()
        monkeypatch.setitem(globals(), "sample", partial(sampling.sample, draw=native_draw))


def scores(rows: int, seed: int = 0, width: int = 50, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def draw(logits: torch.Tensor, settings: Sequence[Sampling], uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
    tokens = sample(logits, [Row(setting, uniform) for setting, uniform in zip(settings, uniforms, strict=True)])
    return [token.id for token in tokens], [token.logprob for token in tokens]


def distribution(logits: torch.Tensor, setting: Sampling) -> np.ndarray:
    """What `setting` should draw from: temperature, min-p, top-k, then the smallest set that reaches top_p."""
    values = logits.double().numpy() / setting.temperature
    weights = np.exp(values - values.max())
    order = np.argsort(-weights, kind="stable")
    kept = order[weights[order] >= setting.min_p][: setting.top_k or None]
    share = weights[kept] / weights[kept].sum()
    kept = kept[: int(np.searchsorted(np.cumsum(share), setting.top_p)) + 1]
    result = np.zeros_like(weights)
    result[kept] = weights[kept] / weights[kept].sum()
    return result


def frequencies(logits: torch.Tensor, setting: Sampling, draws: int = DRAWS, **row: Any) -> np.ndarray:
    """How often each id of logits [V] is drawn, over evenly spaced uniforms: an inverse CDF is then off by at most one draw
    at each border."""
    uniforms = (np.arange(draws) + 0.5) / draws
    tokens = sample(logits.expand(draws, -1), [Row(setting, uniform, **row) for uniform in uniforms.tolist()])
    return np.bincount([token.id for token in tokens], minlength=len(logits)) / draws


def same(drawn: np.ndarray, expected: np.ndarray) -> bool:
    """Nothing from outside the set, and all within it as often as it should be."""
    within = set(np.flatnonzero(drawn)) <= set(np.flatnonzero(expected))
    return bool(within and np.abs(drawn - expected).max() < 1.5 / DRAWS)


def only(*ids: int) -> Any:
    """A mask that leaves these."""
    def mask(scores: torch.Tensor) -> None:
        kept = scores[list(ids)].clone()
        scores.fill_(-torch.inf)
        scores[list(ids)] = kept
    return mask


@pytest.mark.parametrize("setting", [
    Sampling(), Sampling(temperature=0.5), Sampling(temperature=2.0), Sampling(top_k=1), Sampling(top_k=7),
    Sampling(top_k=500), Sampling(top_p=0.3), Sampling(top_p=0.9), Sampling(top_p=0.999999), Sampling(top_p=1e-9),
    Sampling(temperature=1.5, top_k=10, top_p=0.8), Sampling(temperature=0.7, top_p=0.5), Sampling(min_p=0.05),
    Sampling(min_p=1), Sampling(min_p=1e-6), Sampling(temperature=3, min_p=0.3), Sampling(min_p=0.02, top_k=5),
    Sampling(min_p=0.1, top_k=30, top_p=0.9), Sampling(temperature=2, min_p=0.1, top_p=0.6),
], ids=lambda setting: "-".join(f"{k}={v}" for k, v in vars(setting).items() if v != getattr(Sampling(), k)) or "plain")
def test_frequencies(setting: Sampling) -> None:
    logits = scores(1, seed=3)[0]
    assert same(frequencies(logits, setting), distribution(logits, setting))


def test_top_p_at_its_borders() -> None:
    """Shares 1/2, 1/4, 1/8, 1/8: exact in binary, so that a set which just reaches top_p can be told from one that does not."""
    logits = torch.tensor([0.125, 0.5, 0.125, 0.25]).log2() * float(np.log(2))
    for top_p, count in ((0.4, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.88, 4), (1.0, 4)):
        drawn = frequencies(logits, Sampling(top_p=top_p), 1000)
        assert np.count_nonzero(drawn) == count, top_p


def test_equal_scores() -> None:
    """Of equals, top-k keeps exactly k and top-p just enough, the lowest ids; min-p keeps them all."""
    logits = torch.zeros(10)
    assert np.flatnonzero(frequencies(logits, Sampling(top_k=3), 1000)).tolist() == [0, 1, 2]
    assert np.flatnonzero(frequencies(logits, Sampling(top_p=0.35), 1000)).tolist() == [0, 1, 2, 3]
    assert np.count_nonzero(frequencies(logits, Sampling(min_p=1), 1000)) == 10
    logits[7] = 1.0
    assert np.flatnonzero(frequencies(logits, Sampling(top_k=3), 1000)).tolist() == [0, 1, 7]
    wide = torch.zeros(1000)  # more equals than top-p looks at first
    assert np.flatnonzero(frequencies(wide, Sampling(top_p=0.5), 5000)).tolist() == list(range(500))


def test_greedy_is_argmax() -> None:
    logits = scores(40, width=1000)
    settings = [Sampling(temperature=0), Sampling(temperature=0, top_k=5, top_p=0.1)] * 20
    assert draw(logits, settings, [0.999] * 40)[0] == logits.argmax(-1).tolist()
    settings[7] = Sampling(temperature=2.0)  # company that is not greedy changes nothing
    ids, best = draw(logits, settings, [0.999] * 40)[0], logits.argmax(-1).tolist()
    assert ids[:7] + ids[8:] == best[:7] + best[8:]


def test_logprobs_are_of_the_raw_distribution() -> None:
    logits = scores(60, seed=1, scale=5.0)
    settings = [Sampling(temperature=t, top_k=k, top_p=p)
                for t, k, p in itertools.product((0, 0.3, 1, 1.7), (0, 1, 9), (0.2, 0.9, 1))][:60]
    rows = len(settings)
    uniforms = np.random.default_rng(0).random(rows).tolist()
    ids, logprobs = draw(logits[:rows], settings, uniforms)
    expected = torch.log_softmax(logits[:rows].double(), -1)[torch.arange(rows), torch.tensor(ids)]
    assert torch.allclose(torch.tensor(logprobs, dtype=torch.float64), expected, atol=1e-5)


def test_large_scores_stay_finite() -> None:
    logits = scores(4, scale=5.0) + torch.tensor([[3e4], [-3e4], [0.0], [1e2]])
    ids, logprobs = draw(logits, [Sampling(temperature=0.01)] * 4, [0.3, 0.6, 0.9, 0.99])
    expected = torch.log_softmax(logits.double(), -1)[torch.arange(4), torch.tensor(ids)]
    assert torch.allclose(torch.tensor(logprobs, dtype=torch.float64), expected, atol=5e-3)


def mixed(count: int, width: int) -> list[Row]:
    """Rows with all kinds of settings."""
    pick = np.random.default_rng(1)
    rows = []
    for _ in range(count):
        setting = Sampling(
            temperature=float(pick.choice([0, 0.2, 1, 1, 3])), top_k=int(pick.choice([0, 0, 1, 20, 300])),
            top_p=float(pick.choice([1, 1, 0.5, 0.9, 0.99])), min_p=float(pick.choice([0, 0, 0.01])),
            repetition_penalty=float(pick.choice([1, 1, 1.3])), presence_penalty=float(pick.choice([0, 0, 1.5])),
            frequency_penalty=float(pick.choice([0, 0, -0.5])), top_logprobs=[None, 0, 5][pick.integers(3)],
            min_tokens=int(pick.choice([0, 0, 20])), logit_bias=((3, 5.0),) if pick.random() < 0.2 else ())
        mask = only(*pick.integers(0, width, 40).tolist()) if pick.random() < 0.2 else None
        rows.append(Row(setting, pick.random(), pick.integers(0, width, 30).tolist(), pick.integers(0, width, 10).tolist(),
                        {2}, mask))
    return rows


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [997, VOCABULARY])
def test_a_row_gives_the_same_bits_in_any_company(width: int, threads: int) -> None:
    count, had = 64, torch.get_num_threads()
    rows, logits = mixed(count, width), scores(count, width=width, scale=3.0)
    before = logits.clone()
    torch.set_num_threads(threads)
    try:
        together = sample(logits, rows)
        assert [sample(logits[i : i + 1], rows[i : i + 1])[0] for i in range(count)] == together
        for size in (3, 8, 13):  # other rows beside it, and other places among them
            assert [token for at in range(0, count, size)
                    for token in sample(logits[at : at + size], rows[at : at + size])] == together
        back = torch.arange(count - 1, -1, -1)
        assert sample(logits[back], rows[::-1]) == together[::-1]
        plain = [replace(row, sampling=Sampling()) for row in rows]
        assert [sample(logits[i : i + 1], plain[i : i + 1])[0] for i in range(count)] == sample(logits, plain)
        padded = torch.randn(count, width + 3)
        padded[:, 1 : width + 1] = logits  # rows that begin anywhere in memory
        assert sample(padded[:, 1 : width + 1], rows) == together
    finally:
        torch.set_num_threads(had)
    assert torch.equal(logits, before)  # the scores are the caller's


@pytest.mark.parametrize("setting", [Sampling(), Sampling(temperature=0.5), Sampling(top_k=3), Sampling(top_p=0.95)], ids=str)
def test_impossible_tokens_are_never_drawn(setting: Sampling) -> None:
    possible = [5, 6, 30]
    logits = torch.full((50,), -torch.inf)
    logits[possible] = torch.tensor([0.0, 1.0, 2.0])
    uniforms = [0.0, 2.0**-60, *np.random.default_rng(0).random(2000).tolist(), 1 - 2.0**-20, 1 - 2.0**-24]
    ids, logprobs = draw(logits.expand(len(uniforms), -1), [setting] * len(uniforms), uniforms)
    assert set(ids) <= set(possible)
    assert min(logprobs) > -10
    assert ids[0] == 5  # and the smallest uniform draws the first possible one


@pytest.mark.parametrize("setting", [Sampling(), Sampling(top_k=3), Sampling(top_p=0.9)], ids=str)
def test_impossible_tokens_are_never_drawn_by_the_largest_uniform(setting: Sampling) -> None:
    logits = torch.full((50,), -torch.inf)
    logits[[5, 6, 30]] = torch.tensor([0.0, 1.0, 2.0])
    assert draw(logits[None], [setting], [1 - 2.0**-53])[0] == [30]


def test_a_wide_vocabulary() -> None:
    """Every block of the vocabulary is reached, and top-p finds its border beyond the weights it looks at first."""
    logits = scores(1, width=VOCABULARY - 77, scale=1.0)[0]
    for setting in (Sampling(), Sampling(top_p=0.9), Sampling(top_p=0.9, min_p=0.1), Sampling(top_k=5000, top_p=0.5)):
        expected = distribution(logits, setting)
        uniforms = (np.arange(500) + 0.5) / 500
        ids, _ = draw(logits.expand(500, -1), [setting] * 500, uniforms.tolist())
        cumulative = expected.cumsum()
        at = cumulative[ids]
        assert (expected[ids] > 0).all()
        assert ((at > uniforms - 1e-6) & (at - expected[ids] < uniforms + 1e-6)).all()


def test_top_p_of_many_equals_beyond_the_first_sorted() -> None:
    logits = torch.zeros(VOCABULARY)
    ids, _ = draw(logits.expand(2, -1), [Sampling(top_p=0.25)] * 2, [0.0, 1 - 2.0**-53])
    assert ids == [0, VOCABULARY // 4 - 1]


@pytest.mark.parametrize(("presence", "frequency"), [(0.0, 1.1), (0.7, 0.0), (-2.0, 0.0), (0.0, -1.3), (1.5, 2.0), (2.0, -2.0)])
def test_presence_and_frequency_penalty(presence: float, frequency: float) -> None:
    """OpenAI: mu[j] -> mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence, c counting the reply alone."""
    logits, reply = scores(1, seed=5)[0], [4, 4, 4, 9, 11, 11, 40]
    mu = logits.clone()
    for j in range(len(mu)):
        c = reply.count(j)
        mu[j] = mu[j] - c * frequency - float(c > 0) * presence
    setting = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    drawn = frequencies(logits, setting, prompt=[1, 2, 2, 4], generated=reply)
    assert same(drawn, distribution(mu, Sampling()))
    assert not same(drawn, distribution(logits, Sampling()))
    assert same(frequencies(logits, setting, prompt=[1, 2]), distribution(logits, Sampling()))  # nothing said yet


@pytest.mark.parametrize("penalty", [0.5, 1.2, 10.0])
def test_repetition_penalty(penalty: float) -> None:
    """Over prompt and reply, once however often a token is there; away from it whatever the sign of its logit."""
    logits, prompt, reply = scores(1, seed=6)[0], [1, 2, 2, 3, 7], [3, 3, 20, 21, 22]
    assert {bool(logits[id] > 0) for id in prompt} == {bool(logits[id] > 0) for id in reply} == {True, False}
    expected = logits.clone()
    for id in {*prompt, *reply}:
        expected[id] = logits[id] / penalty if logits[id] > 0 else logits[id] * penalty
    drawn = frequencies(logits, Sampling(repetition_penalty=penalty), prompt=prompt, generated=reply)
    assert same(drawn, distribution(expected, Sampling()))


def test_penalties_follow_the_bias_and_one_another() -> None:
    logits = scores(1, seed=7)[0]
    expected = logits.clone()
    expected[3] += 2.0
    expected[3] = expected[3] / 1.5 if expected[3] > 0 else expected[3] * 1.5
    expected[3] -= 2 * 0.5 + 0.25
    setting = Sampling(logit_bias=((3, 2.0),), repetition_penalty=1.5, frequency_penalty=0.5, presence_penalty=0.25)
    assert same(frequencies(logits, setting, generated=[3, 3]), distribution(expected, Sampling()))


def test_logit_bias() -> None:
    logits = scores(1, seed=8)[0]
    best, worst = int(logits.argmax()), int(logits.argmin())
    assert frequencies(logits, Sampling(logit_bias=((worst, 100.0),)), 1000)[worst] == 1
    assert frequencies(logits, Sampling(logit_bias=((best, -100.0),)), 1000)[best] == 0
    bias = ((best, -1.5), (worst, 2.5), (7, 1.0), (7, 1.0))  # what is named twice is added twice
    expected = logits.clone()
    expected[[best, worst, 7]] += torch.tensor([-1.5, 2.5, 2.0])
    assert same(frequencies(logits, Sampling(logit_bias=bias)), distribution(expected, Sampling()))
    greedy = sample(logits[None], [Row(Sampling(temperature=0, logit_bias=((worst, 100.0),)), 0.5)])[0]
    assert greedy.id == worst
    assert greedy.logprob == pytest.approx(float(logits.double().log_softmax(-1)[worst]), abs=1e-5)  # raw nevertheless


def test_an_unlikely_token_has_a_finite_logprob() -> None:
    logits = torch.zeros(1, 50)
    logits[0, 4] = -150.0  # exp(-150) is 0 in float32
    token = sample(logits, [Row(Sampling(top_logprobs=20), 0.5, mask=only(4))])[0]
    assert token.id == 4
    assert token.logprob == pytest.approx(-150 - float(np.log(49)))


@pytest.mark.parametrize("setting", [Sampling(), Sampling(temperature=0), Sampling(top_k=3), Sampling(top_p=0.1),
                                     Sampling(temperature=2, min_p=0.5)])
def test_mask(setting: Sampling) -> None:
    logits = scores(1, seed=9)[0]
    assert frequencies(logits, setting, 200, mask=only(17))[17] == 1
    some = frequencies(logits, Sampling(), mask=only(3, 17, 29))
    expected = torch.full_like(logits, -torch.inf)
    expected[[3, 17, 29]] = logits[[3, 17, 29]]
    assert same(some, distribution(expected, Sampling()))
    with pytest.raises(ValueError, match="mask"):
        sample(logits[None], [Row(setting, 0.5, mask=only())])


def test_min_tokens() -> None:
    logits = scores(1, seed=10)[0]
    logits[[5, 6]] += 10
    for temperature in (0, 1):
        setting = Sampling(temperature=temperature, min_tokens=3)
        for said in range(5):
            stopped = frequencies(logits, setting, 200, generated=[1] * said, stops=(5, 6))[[5, 6]].sum()
            assert stopped == 0 if said < 3 else stopped > 0.9
    # a grammar that allows nothing but to stop goes before
    assert frequencies(logits, Sampling(min_tokens=3), 10, stops=(5, 6), mask=only(5))[5] == 1
    assert frequencies(logits, Sampling(min_tokens=3), 10, stops=(5, 6), mask=only(5, 8))[8] == 1


@pytest.mark.parametrize("width", [50, 997])
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_top_logprobs(count: int, width: int) -> None:
    logits = scores(30, width=width, scale=4.0)
    rows = [Row(Sampling(temperature=i % 2, top_logprobs=count, presence_penalty=1.0), i / 30, generated=[1]) for i in range(30)]
    expected = torch.log_softmax(logits.double(), -1).topk(count)
    for i, token in enumerate(sample(logits, rows)):
        assert token.top is not None
        assert [id for id, _ in token.top] == expected.indices[i].tolist()
        assert [logprob for _, logprob in token.top] == pytest.approx(expected.values[i].tolist(), abs=1e-5)
        assert dict(token.top).get(token.id, token.logprob) == token.logprob  # the same float
    plain = sample(logits, [Row(Sampling(temperature=0, top_logprobs=count), 0.5)] * 30)
    assert count == 0 or all(token.top and token.top[0] == (token.id, token.logprob) for token in plain)


def test_top_logprobs_of_equals_and_of_few() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]])
    rows = [Row(Sampling(temperature=0, top_logprobs=count), 0.5) for count in (3, 20)] + [Row(Sampling(), 0.5)]
    few, all_, none = sample(logits.expand(3, -1), rows)
    assert few.top is not None and [id for id, _ in few.top] == [1, 3, 0]
    assert all_.top is not None and [id for id, _ in all_.top] == [1, 3, 0, 2, 4]
    assert none.top is None


def test_logprobs_of_given_tokens() -> None:
    logits = scores(21, width=997)
    drawn = sample(logits, [Row(Sampling(top_logprobs=i % 3 or None), i / 21) for i in range(21)])
    given = logprobs_of(logits, [token.id for token in drawn], [i % 3 or None for i in range(21)])
    assert [token for token in given if token.top] == [token for token in drawn if token.top]  # the same floats
    assert [token.logprob for token in given] == pytest.approx([token.logprob for token in drawn], abs=1e-6)
    assert logprobs_of(logits[:0], [], []) == sample(logits[:0], []) == []
    last = logprobs_of(logits[:1], [996], [None])[0]
    assert last.id == 996
    assert last.logprob == pytest.approx(float(logits[0].double().log_softmax(-1)[996]), abs=1e-6)


@pytest.mark.parametrize("setting", [
    {"min_p": -0.1}, {"min_p": 1.1}, {"min_p": float("nan")}, {"repetition_penalty": 0}, {"repetition_penalty": -1},
    {"repetition_penalty": float("inf")}, {"repetition_penalty": float("nan")}, {"presence_penalty": 2.1},
    {"presence_penalty": float("nan")}, {"frequency_penalty": -2.1}, {"frequency_penalty": float("inf")},
    {"logit_bias": ((1, 101.0),)}, {"logit_bias": ((1, float("nan")),)}, {"logit_bias": ((-1, 1.0),)}, {"top_logprobs": -1},
    {"top_logprobs": 21}, {"min_tokens": -1}, {"min_tokens": 257}], ids=str)
def test_impossible_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        Sampling(**setting)


def test_settings_can_be_hashed() -> None:
    assert len({Sampling(), Sampling(), Sampling(logit_bias=((1, 2.0),))}) == 2


def test_the_engine_hands_over_what_a_row_needs(small: Llama, pieces: Tokenizer) -> None:
    engine = Engine(small, pieces)
    stop = min(engine.stop_ids)

    def reply(**setting: Any) -> tuple[list[int], str]:
        completion = engine.generate([Request([7, 8, 9], Sampling(max_tokens=9, temperature=0, **setting))])[0]
        return completion.tokens, completion.finish

    force = ((stop, 100.0),)
    assert reply(logit_bias=force) == ([stop], "stop")
    tokens, finish = reply(logit_bias=force, min_tokens=5)
    assert (tokens.index(stop), len(tokens), finish) == (5, 6, "stop")
    assert reply(logit_bias=force, ignore_eos=True) == ([stop] * 9, "length")
    assert reply(logit_bias=((50, 100.0), (51, 99.0)), frequency_penalty=2.0, presence_penalty=2.0)[0].count(50) in (4, 5)
    assert reply(logit_bias=((7, 100.0), (60, 60.0)), repetition_penalty=100.0)[0][0] == 60  # 7 is in the prompt
    with pytest.raises(UserError, match="logit_bias"):
        engine.submit(Request([7], Sampling(logit_bias=((320, 1.0),))))


def test_scores_that_are_not_numbers_read_no_memory_but_their_own() -> None:
    """A network that diverged gives NaN: then any token will do, as long as it is one."""
    logits = torch.full((3, 997), torch.nan)
    logits[1, 5] = 1.0
    for token in sample(logits, [Row(Sampling(temperature=temperature), 0.7) for temperature in (0, 1, 0.5)]):
        assert 0 <= token.id < 997
