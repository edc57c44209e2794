"""DPO and IPO against TRL's own loss method, on random log-probabilities and as a whole step of a tiny network."""

from __future__ import annotations

from array import array
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_gradients import twins
from torch import Tensor

from ownship.learn.chats import Example
from ownship.learn.learner import Learner, Optim
from ownship.learn.pack import pack
from ownship.learn.pairs import Pair, Reference
from ownship.learn.preference import Preference, dpo, ipo

trl = pytest.importorskip("trl", reason="TRL, the judge here, is not installed")

LOSSES = [Preference("dpo", 0.1), Preference("dpo", 0.7), Preference("ipo", 0.1), Preference("ipo", 0.7)]
KINDS = {"dpo": "sigmoid", "ipo": "ipo"}


def pairs(seed: int = 1) -> list[Pair]:
    """Prompts and replies of different lengths; two pairs share a prompt, and one rejected reply is a single token."""
    draw = torch.Generator().manual_seed(seed)

    def tokens(size: int) -> list[int]:
        return torch.randint(300, (size,), generator=draw).tolist()

    def pair(prompt: list[int], *sizes: int) -> Pair:
        return Pair(len(prompt), *(Example(array("i", prompt + tokens(size)), bytes(len(prompt)) + b"\1" * size) for size in sizes))

    shared = tokens(6)
    return [pair(shared, 5, 9), pair(tokens(3), 4, 1), pair(shared, 7, 2), pair(tokens(11), 3, 3), pair(tokens(1), 12, 8)]


def trl_inputs(found: list[Pair], reference: Tensor) -> dict[str, Tensor]:
    """What TRL's collator makes of the pairs, the reference's log-probabilities [P, 2] precomputed."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    examples = [{"prompt_ids": list(item.chosen.tokens[: item.prompt]), "chosen_ids": list(item.chosen.tokens[item.prompt :]),
                 "rejected_ids": list(item.rejected.tokens[item.prompt :]), "ref_chosen_logps": float(chosen),
                 "ref_rejected_logps": float(rejected)} for item, (chosen, rejected) in zip(found, reference, strict=True)]
    return DataCollatorForPreference(pad_token_id=0)(examples)


def trl_loss(loss: Preference, network: Any, inputs: dict[str, Tensor], kind: str | None = None) -> tuple[Tensor, dict[str, float]]:
    """TRL's loss method, given a stand-in for its trainer: the loss and the metrics that it logs."""
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True,
        accelerator=SimpleNamespace(device="cpu", gather=lambda value: value, gather_for_metrics=lambda value: value),
        f_divergence_type="reverse_kl", loss_types=[kind or KINDS[loss.kind]], loss_weights=[1.0], beta=loss.beta,
        label_smoothing=loss.label_smoothing, use_weighting=False, _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0, _tp_size=1)
    value = trl.DPOTrainer._compute_loss(trainer, network, inputs, False)
    return value, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def outputs(log_probs: Tensor) -> SimpleNamespace:
    """What TRL expects a network to return; all but the log-probabilities [2P, T−1] only feeds its metrics."""
    zeros = torch.zeros_like(log_probs)
    return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def same_metrics(ours: dict[str, float], theirs: dict[str, float], total: float = 1.0) -> None:
    for name, other in {"margin": "rewards/margins", "accuracy": "rewards/accuracies", "chosen_reward": "rewards/chosen",
                        "rejected_reward": "rewards/rejected", "chosen_logprob": "logps/chosen",
                        "rejected_logprob": "logps/rejected"}.items():
        assert ours[name] / total == pytest.approx(theirs[other], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_of_random_logprobs_equal_trl(loss: Preference) -> None:
    draw = torch.Generator().manual_seed(3)
    found = pairs()
    reference = -5 - 10 * torch.rand(len(found), 2, generator=draw)
    samples = [sample for number, item in enumerate(found) for sample in item.samples(number, reference[number].tolist())]
    (part,) = pack(samples, 10_000)
    ours = (-3 * torch.rand(len(part.targets), generator=draw)).requires_grad_()  # [M]
    value = (loss(ours, part) * part.weights).sum() / part.weights.sum()
    value.backward()

    # The same numbers where TRL has them: [chosen of all pairs, then rejected], less the first token of each row.
    inputs = trl_inputs(found, reference)
    mask = inputs["completion_mask"][:, 1:].bool()
    firsts = [int(part.pair[part.sample == sample][0]) for sample in range(2 * len(found))]
    theirs = torch.zeros(mask.shape)
    places = torch.full(mask.shape, -1)
    seen: dict[int, int] = {}
    for sample, _ in enumerate(firsts):
        at = (part.sample == sample).nonzero()[:, 0]
        reply = part.targets[at].tolist()
        row = next(row for row in range(len(mask)) if row not in seen and bool((part.advantages[at[0]] > 0) == (row < len(found)))
                   and inputs["input_ids"][row, 1:][mask[row]].tolist() == reply)
        seen[row] = sample
        places[row, mask[row]] = at
    theirs = torch.where(mask, ours.detach()[places.clamp(min=0)], 0.0).requires_grad_()
    expected, metrics = trl_loss(loss, lambda **_: outputs(theirs), inputs)
    expected.backward()
    assert theirs.grad is not None and ours.grad is not None
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(ours.grad[places[mask]], theirs.grad[mask], rtol=1e-5, atol=1e-7)
    same_metrics(loss.measure(ours.detach(), part), metrics, float(part.weights.sum()))


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_label_smoothing_is_a_mixture_of_both_labels(smoothing: float) -> None:
    """TRL's sigmoid loss has no smoothing any more: it is its loss of the pair and of the swapped pair, mixed. Its `robust` loss
    weighs the same two terms so that wrong labels cancel in the mean."""
    draw = torch.Generator().manual_seed(4)
    margin = 4 * torch.randn(7, generator=draw, dtype=torch.float64)
    loss = Preference("dpo", 1.0, smoothing)
    inputs = {"completion_mask": torch.tensor([[0, 1]] * 2), "input_ids": torch.zeros(2, 2, dtype=torch.long),
              "attention_mask": torch.ones(2, 2), "ref_chosen_logps": torch.zeros(1), "ref_rejected_logps": torch.zeros(1)}
    for one, value in zip(margin, dpo(margin, smoothing), strict=True):
        def theirs(sign: float, kind: str, one: Tensor = one) -> float:
            return float(trl_loss(loss, lambda **_: outputs(sign * torch.stack([one, 0 * one])[:, None]), inputs, kind)[0])

        right, wrong = theirs(1, "sigmoid"), theirs(-1, "sigmoid")
        assert float(value) == pytest.approx((1 - smoothing) * right + smoothing * wrong, rel=1e-6)
        robust = ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
        assert robust == pytest.approx(theirs(1, "robust"), rel=1e-6)


def test_by_hand() -> None:
    assert float(dpo(torch.tensor(0.0))) == pytest.approx(0.693147, abs=1e-6)
    assert float(dpo(torch.tensor(2.0))) == pytest.approx(0.126928, abs=1e-6)
    assert float(ipo(torch.tensor(1.0), beta=0.25)) == pytest.approx(1.0)  # (1 − 2)²
    assert float(ipo(torch.tensor(5.0), beta=0.1)) == pytest.approx(0.0)


@pytest.mark.parametrize("loss", LOSSES[1:3], ids=str)
def test_a_whole_step_equals_transformers_and_trl(loss: Preference, tmp_path: Path) -> None:
    """The reference, the loss, the rewards and every gradient; the reference is another network of the same shape."""
    found = pairs()
    (ours, theirs), (old, their_old) = twins(0), twins(5)

    def run(network: Any) -> Any:
        def forward(input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
            logits = network(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
            targets = labels[:, 1:]
            picked = torch.log_softmax(logits, -1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
            return outputs(torch.where(targets >= 0, picked, 0.0))
        return forward

    reference = Reference(tmp_path / "reference.safetensors", "key", found)
    assert reference.fill(range(len(found)), old) == len(found)
    inputs = trl_inputs(found, reference.logprobs)
    with torch.no_grad():
        masked = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        expected = run(their_old)(inputs["input_ids"], inputs["attention_mask"], masked).log_probs.sum(1)
    assert torch.allclose(reference.logprobs.T.reshape(-1), expected, rtol=1e-5)

    value, metrics = trl_loss(loss, run(theirs), inputs)
    value.backward()
    samples = [sample for number, item in enumerate(found) for sample in item.samples(number, reference.logprobs[number].tolist())]
    learned = Learner(ours, Optim(lr=0.0, max_grad_norm=1e9), micro_tokens=30).update(samples, loss)
    assert learned["loss"] == pytest.approx(value.item(), rel=1e-5)
    same_metrics(learned, metrics)
    gradients = {name.removeprefix("model."): p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - gradients[name]).abs().max() <= 1e-4 * gradients[name].abs().max(), name


@pytest.mark.parametrize("loss", LOSSES[1:3], ids=str)
def test_the_update_does_not_depend_on_the_split(loss: Preference) -> None:
    reference = [(-20.0, -30.0), (-18.0, -5.0), (-30.0, -9.0), (-12.0, -14.0), (-50.0, -30.0)]
    samples = [sample for number, item in enumerate(pairs()) for sample in item.samples(number, reference[number])]
    whole, learned, passes = twins()[0], [], []
    learned.append(Learner(whole, Optim(lr=0.0, max_grad_norm=1e9), micro_tokens=10_000).update(samples, loss))
    for micro_tokens in (1, 20, 30, 45):
        split = twins()[0]
        before = len(passes)
        learned.append(Learner(split, Optim(lr=0.0, max_grad_norm=1e9), micro_tokens).update(samples, loss, passes.append))
        assert len(passes) - before >= 2
        for (name, one), (_, many) in zip(whole.named_parameters(), split.named_parameters(), strict=True):
            assert one.grad is not None and many.grad is not None
            assert (one.grad - many.grad).abs().max() <= 5e-6 * one.grad.abs().max(), (name, micro_tokens)
    for other in learned[1:]:
        for name in ("loss", "margin", "accuracy", "chosen_logprob", "rejected_logprob", "trained_tokens"):
            assert other[name] == pytest.approx(learned[0][name], rel=1e-6), name


def test_half_a_pair_is_refused() -> None:
    one, two = pairs()[0].samples(0)
    assert [len(part.targets) for part in pack([one, two], 1)] == [14]  # together, however small the stream
    with pytest.raises(ValueError, match="pair 0"):
        pack([one], 100)
    with pytest.raises(ValueError, match="pair 0"):
        pack([one, two, one], 100)
