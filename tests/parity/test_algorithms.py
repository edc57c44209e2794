"""Every algorithm's loss and gradient against TRL's own loss function, on random tensors; and no update depends on its split."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from ownship.learn.advantage import token_weight
from ownship.learn.algorithm import ALGORITHMS, Algorithm, Policy
from ownship.learn.correction import CORRECTIONS
from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import reference_kl
from ownship.learn.pack import Pack, pack
from ownship.learn.sample import Sample
from ownship.learn.score import score
from ownship.model.llama import Llama, LlamaConfig

LONGEST = 9  # max_completion_length
TRL: dict[str, dict[str, Any]] = {
    "dual_clip": {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 3.0},  # TRL's two-sided clip
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "gspo": {"loss_type": "grpo", "epsilon_low": 3e-4, "epsilon_high": 4e-4, "importance_sampling_level": "sequence"},
}


class Batch(NamedTuple):
    """B completions of up to T tokens."""

    mask: Tensor  # [B, T]
    advantages: Tensor  # [B]
    now: Tensor  # [B, T] log π, and further log-probabilities of the same tokens:
    old: Tensor
    sampled: Tensor
    reference: Tensor


def batch(seed: int, spread: float) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([9, 1, 4, 6, 9, 2, 7, 3])
    old = -0.2 - 2 * torch.rand(8, 9, generator=draw)

    def near(what: Tensor) -> Tensor:
        return what + spread * torch.randn(8, 9, generator=draw)

    return Batch((torch.arange(9) < lengths[:, None]).float(), torch.randn(8, generator=draw),
                 near(old).requires_grad_(), old, near(old), near(old))


def trl_loss(data: Batch, *, ratios: Tensor | None = None, beta: float = 0.0, loss_type: str = "grpo", epsilon_low: float = 0.2,
             epsilon_high: float = 0.2, delta: float | None = None, importance_sampling_level: str = "token") -> Tensor:
    """GRPOTrainer's loss, its network replaced by given log-probabilities."""
    trainer = SimpleNamespace(
        loss_type=loss_type, importance_sampling_level=importance_sampling_level, epsilon_low=epsilon_low,
        epsilon_high=epsilon_high, beta=beta,
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1),
        max_completion_length=LONGEST, use_vllm=ratios is not None, vllm_importance_sampling_correction=ratios is not None,
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1, model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x),
        _get_per_token_logps_and_entropies=lambda *_, **__: (data.now, torch.zeros_like(data.now), None))
    inputs = {"prompt_ids": torch.zeros(8, 1), "prompt_mask": torch.ones(8, 1), "completion_ids": torch.zeros(8, 9),
              "completion_mask": data.mask, "advantages": data.advantages, "old_per_token_logps": data.old,
              "num_items_in_batch": data.mask.sum(), "importance_sampling_ratio": ratios, "ref_per_token_logps": data.reference}
    return GRPOTrainer._compute_loss(trainer, None, inputs)


def rloo_loss(data: Batch) -> Tensor:
    """RLOOTrainer's, likewise."""
    trainer = SimpleNamespace(
        epsilon_low=0.2, epsilon_high=0.2, aux_loss_enabled=False, model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=SimpleNamespace(reduce=lambda x, reduction: x, gather=lambda x: x),
        _get_per_token_logps_and_entropies=lambda *_, **__: (data.now, torch.zeros_like(data.now), None))
    inputs = {"prompt_ids": torch.zeros(8, 1), "prompt_mask": torch.ones(8, 1), "completion_ids": torch.zeros(8, 9),
              "completion_mask": data.mask, "advantages": data.advantages, "old_logps": (data.old * data.mask).sum(1)}
    return RLOOTrainer._compute_loss(trainer, None, inputs)


def our_loss(data: Batch, algorithm: Algorithm, policy: Policy, anchor: Tensor, micro_tokens: int = 1000) -> Tensor:
    """Ours, as the learner sums and divides it; the samples' `logprobs` are `anchor`."""
    samples, row = [], {}
    for index, length in enumerate(data.mask.sum(1).int().tolist()):
        weight, divisor = token_weight(algorithm.weighting, length, LONGEST)
        advantage = float(data.advantages[index])
        samples.append(Sample([index] * (1 + length), 1, [0.0] + [weight] * length, [0.0, *anchor[index, :length].tolist()],
                              [0.0] + [advantage] * length, divisor=divisor, old=[0.0, *data.old[index, :length].tolist()],
                              reference=[0.0, *data.reference[index, :length].tolist()]))
        row[id(samples[-1])] = index
    total = sum(sample.divisor or 0.0 for sample in samples)
    losses = torch.zeros(())
    for part in pack(samples, micro_tokens):
        new = torch.cat([data.now[row[id(sample)], : len(sample.tokens) - 1] for sample in part.members])
        losses = losses + (policy(new, part) * part.weights).sum() / total
    return losses


def assert_same(ours: Tensor, theirs: Tensor, data: Batch) -> None:
    """float32: values and gradients to 1e-6."""
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6, abs=1e-6)
    mine, other = (torch.autograd.grad(loss, data.now)[0] for loss in (ours, theirs))
    assert other.abs().max() > 0.01
    assert torch.allclose(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 0.001, 0.5])  # on policy, about GSPO's bounds, far beyond all bounds
@pytest.mark.parametrize("name", TRL)
def test_losses_and_gradients_equal_trl(name: str, spread: float) -> None:
    algorithm = ALGORITHMS[name]
    for seed in range(5):
        data = batch(seed, spread)
        ours = our_loss(data, algorithm, Policy(algorithm.surrogate), data.old)
        assert_same(ours, trl_loss(data, **TRL[name]), data)


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.5])
def test_rloo_equals_trl(spread: float) -> None:
    algorithm = ALGORITHMS["rloo"]
    for seed in range(5):
        data = batch(seed, spread)
        assert_same(our_loss(data, algorithm, Policy(algorithm.surrogate), data.old), rloo_loss(data), data)


def test_reinforce_has_the_gradient_of_trl_on_policy() -> None:
    data = batch(0, 0.0)
    algorithm = ALGORITHMS["reinforce"]
    ours, theirs = our_loss(data, algorithm, Policy(algorithm.surrogate), data.old), trl_loss(data, loss_type="bnpo")
    assert torch.allclose(*(torch.autograd.grad(loss, data.now)[0] for loss in (ours, theirs)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TRL)
def test_truncated_and_masked_ratios_equal_trl(name: str) -> None:
    """π_old/μ is weighed by TIS ("token_truncate") or IcePop ("token_mask"), and π/π_old is the clip's."""
    algorithm = ALGORITHMS[name]
    data = batch(1, 0.5)
    ratios = torch.exp((data.old - data.sampled) * data.mask)
    masked = ratios.masked_fill((ratios < 0.5) | (ratios > 5.0), 0.0)
    for correction, theirs in (("tis", ratios.clamp(max=2.0)), ("icepop", masked)):
        assert not torch.equal(theirs, ratios)
        policy = Policy(algorithm.surrogate, CORRECTIONS[correction])
        assert_same(our_loss(data, algorithm, policy, data.sampled), trl_loss(data, ratios=theirs, **TRL[name]), data)


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo"])
def test_kl_has_the_value_of_trl(name: str) -> None:
    algorithm = ALGORITHMS[name]
    data = batch(2, 0.3)
    ours = our_loss(data, algorithm, Policy(algorithm.surrogate, kl=0.1), data.old)
    assert float(ours.detach()) == pytest.approx(float(trl_loss(data, beta=0.1, **TRL[name]).detach()), rel=1e-6)


def test_kl_has_the_gradient_of_the_kl_divergence() -> None:
    """Over a whole vocabulary: E_π of our gradient is that of Σ π (log π − log ref); that of k3's own gradient is not."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=draw).requires_grad_()
    reference = torch.randn(6, generator=draw).log_softmax(0)
    logprobs = logits.log_softmax(0)
    exact = (logprobs.exp() * (logprobs - reference)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    estimate = reference_kl(logprobs, reference)
    assert float((logprobs.exp() * estimate).sum().detach()) == pytest.approx(float(exact.detach()), rel=1e-5)
    (found,) = torch.autograd.grad((logprobs.detach().exp() * estimate).sum(), logits, retain_graph=True)
    assert torch.allclose(found, expected, atol=1e-6)
    gap = reference - logprobs
    (biased,) = torch.autograd.grad((logprobs.detach().exp() * (gap.exp() - 1 - gap)).sum(), logits)
    assert not torch.allclose(biased, expected, atol=0.01)


# Corrections by hand: sequences with the ratios (1, 4), (½, 2) and (0.2).


@pytest.fixture
def three() -> tuple[Tensor, Pack]:
    ratios = [[1.0, 4.0], [0.5, 2.0], [0.2]]
    samples = [Sample([index] * (1 + len(row)), 1, [0.0] + [1.0] * len(row), [0.0] + [-3.0] * len(row), [0.0] + [1.0] * len(row))
               for index, row in enumerate(ratios)]
    (part,) = pack(samples, 100)
    assert [sample.tokens[0] for sample in part.members] == [0, 1, 2]
    return torch.tensor([ratio for row in ratios for ratio in row]).log() - 3.0, part


@pytest.mark.parametrize(("name", "expected"), [
    ("tis", [1, 2, 0.5, 2, 0.2]), ("icepop", [1, 4, 0.5, 2, 0]), ("geometric", [0, 0, 1, 1, 0])])
def test_corrections_by_hand(name: str, expected: list[float], three: tuple[Tensor, Pack]) -> None:
    correction = CORRECTIONS[name]
    assert correction is not None
    assert correction.factor(*three).tolist() == pytest.approx(expected)
    logprobs, part = three
    far = correction.factor(logprobs + 200, part)  # exp(200) is more than a float holds
    assert far.isfinite().all()


@pytest.mark.parametrize(("advantage", "moved", "kept"), [
    (1.0, 0.3, 0.0), (1.0, 0.1, 1.0), (1.0, -0.3, 1.0), (-1.0, -0.3, 0.0), (-1.0, -0.1, 1.0), (-1.0, 0.3, 1.0), (0.0, 0.3, 1.0)])
def test_total_variation_by_hand(advantage: float, moved: float, kept: float) -> None:
    correction = CORRECTIONS["dppo_tv"]
    assert correction is not None
    (part,) = pack([Sample([1, 2], 1, [0.0, 1.0], [0.0, float(torch.tensor(0.5).log())], [0.0, advantage])], 10)
    assert correction.factor(torch.tensor([0.5 + moved]).log(), part).tolist() == [kept]


@pytest.mark.parametrize("name", CORRECTIONS)
def test_corrections_carry_no_gradient(name: str) -> None:
    correction = CORRECTIONS[name]
    data = batch(3, 0.5)
    algorithm = ALGORITHMS["reinforce"]
    loss = our_loss(data, algorithm, Policy(algorithm.surrogate, correction), data.sampled)
    (gradient,) = torch.autograd.grad(loss, data.now)
    if correction is not None:  # −A·log π is linear: its gradient is −A times the factor, whatever the factor is made of
        ratios = (gradient / -data.advantages[:, None] * data.mask.sum())[data.mask.bool()]
        assert ratios.min() >= 0
        if name == "tis":
            expected = torch.exp(data.old - data.sampled).clamp(max=2.0)
            assert torch.allclose(ratios, expected[data.mask.bool()], rtol=1e-4)


# The split into micro-batches, through the network.

SIZES = LlamaConfig(vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
                    num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)


def network(seed: int = 0) -> Llama:
    return Llama(SIZES).init_weights(seed, std=0.1)


def lessons(algorithm: Algorithm) -> list[Sample]:
    """Two groups; the sampler's log-probabilities are near the network's own, so that no ratio is extreme."""
    draw = torch.Generator().manual_seed(1)
    samples = []
    for prompt_length, sizes in ((7, (5, 1, 9, 3)), (4, (2, 6, 6))):
        prompt = torch.randint(300, (prompt_length,), generator=draw).tolist()
        for size in sizes:
            tail = torch.randint(300, (size,), generator=draw).tolist()
            weight, divisor = token_weight(algorithm.weighting, size, LONGEST)
            zeros, advantage = [0.0] * prompt_length, float(torch.randn((), generator=draw))
            samples.append(Sample(prompt + tail, prompt_length, zeros + [weight] * size, [0.0] * (prompt_length + size),
                                  zeros + [advantage] * size, divisor=divisor))

    def near(found: list[float], spread: float) -> list[float]:
        return [value + spread * float(torch.randn((), generator=draw)) if value else 0.0 for value in found]

    own = score(network(), samples, 1000)
    return [replace(sample, logprobs=near(found, 0.3), old=near(found, 0.001), reference=near(found, 0.5))
            for sample, found in zip(samples, own, strict=True)]


@pytest.mark.parametrize(("name", "correction", "kl"), [
    *((name, "none", 0.0) for name in ALGORITHMS), ("dr_grpo", "tis", 0.1), ("gspo", "geometric", 0.1), ("dapo", "dppo_tv", 0.0)])
def test_an_update_does_not_depend_on_the_split(name: str, correction: str, kl: float) -> None:
    algorithm = ALGORITHMS[name]
    samples = lessons(algorithm)
    loss = Policy(algorithm.surrogate, CORRECTIONS[correction], algorithm.recomputed, kl)
    results, gradients = [], []
    for micro_tokens in (10_000, 10, 16, 40):
        model = network()
        results.append(Learner(model, Optim(lr=0.0, max_grad_norm=1e9), micro_tokens).update(samples, loss))
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    assert len({result["stream_tokens"] for result in results}) > 1  # prompts were read more than once: groups were split
    for result, found in zip(results[1:], gradients[1:], strict=True):
        for key in ("loss", "grad_norm", "entropy", "mismatch", "ratio", "clipped"):
            assert result[key] == pytest.approx(results[0][key], rel=1e-5, abs=1e-7), key
        for key, gradient in found.items():
            whole = gradients[0][key]
            assert gradient is not None and whole is not None
            assert (gradient - whole).abs().max() <= 1e-5 * whole.abs().max(), key


def test_score_is_what_the_learner_sees() -> None:
    samples = lessons(ALGORITHMS["dapo"])
    for micro_tokens in (10, 10_000):
        scored = [replace(s, logprobs=found) for s, found in zip(samples, score(network(), samples, micro_tokens), strict=True)]
        assert Learner(network(), Optim(lr=0.0)).update(scored, Policy(ALGORITHMS["dapo"].surrogate))["mismatch"] < 1e-6
