"""Losses, as pure functions of per-token log-probabilities. The learner sums weight · loss over the whole update and divides
once, so no loss depends on how the update was split into micro-batches.

M trained tokens; `logprobs` [M] under the current policy π; the pack holds those that a ratio is measured from: the
sampler's own (μ), unless learn/algorithm.py put the learner's earlier ones in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ownship.learn.pack import Pack

Level = Literal["token", "mean", "sum"]


class Loss(Protocol):
    def __call__(self, logprobs: Tensor, pack: Pack) -> Tensor: ...


@runtime_checkable
class Measured(Protocol):
    """A loss that reports more than itself: measurements of a micro-batch as sums which, divided by Σ weight, are means."""

    def measure(self, logprobs: Tensor, pack: Pack) -> dict[str, float]: ...


class Surrogate(Loss, Protocol):
    """A policy gradient's loss, which can say where its bounds act."""

    def clipped(self, logprobs: Tensor, pack: Pack) -> Tensor: ...


def imitation(logprobs: Tensor, pack: Pack) -> Tensor:
    """−log π: cross-entropy on the trained tokens, [M]."""
    return -logprobs


def log_ratio(logprobs: Tensor, pack: Pack, level: Level = "token") -> Tensor:
    """log of π over the pack's probabilities, within ±20, [M].

    level "token": each token's own. Of a whole sequence, the same at each of its trained tokens: "mean", that of the
    geometric mean (GSPO, arXiv:2507.18071), or "sum", that of the product, which shrinks or grows with the length.
    """
    each = logprobs - pack.logprobs
    if level != "token":
        counts = torch.bincount(pack.sample)  # [S]; a sample is never split between packs
        sums = each.new_zeros(len(counts)).index_add(0, pack.sample, each)
        each = (sums / counts if level == "mean" else sums).index_select(0, pack.sample)
    return each.clamp(-20, 20)


@dataclass(frozen=True)
class PolicyGradient:
    """−min(r·A, clip(r, 1−low, 1+high)·A), r the ratio of the token or of its sequence, [M].

    PPO's clip (arXiv:1707.06347) with DAPO's higher upper bound (arXiv:2503.14476), and a dual clip that bounds the loss at
    `dual`·|A| for negative advantages (arXiv:1912.09729; None: no such bound).
    """

    low: float = 0.2
    high: float = 0.28
    dual: float | None = 3.0
    level: Level = "token"

    def __call__(self, logprobs: Tensor, pack: Pack) -> Tensor:
        ratio = log_ratio(logprobs, pack, self.level).exp()
        gain = torch.minimum(ratio * pack.advantages, ratio.clamp(1 - self.low, 1 + self.high) * pack.advantages)
        if self.dual is None:
            return -gain
        return -torch.where(pack.advantages < 0, torch.maximum(gain, self.dual * pack.advantages), gain)

    def clipped(self, logprobs: Tensor, pack: Pack) -> Tensor:
        """Which tokens have an advantage but, because of a bound, no gradient: [M] of bool."""
        ratio = log_ratio(logprobs, pack, self.level).exp()
        below = (ratio < 1 - self.low) | (ratio > self.dual if self.dual is not None else False)
        return torch.where(pack.advantages < 0, below, (ratio > 1 + self.high) & (pack.advantages > 0))


@dataclass(frozen=True)
class Cispo:
    """−clamp(r, 1−low, 1+high)·A·log π, the factor without gradient, so that every token keeps one, [M] (CISPO,
    MiniMax-M1, arXiv:2506.13585, eq. 4 and 5: no lower bound, which low = 1 is; the upper one at 5 as in arXiv:2510.13786).
    """

    low: float = 1.0
    high: float = 4.0

    def __call__(self, logprobs: Tensor, pack: Pack) -> Tensor:
        ratio = log_ratio(logprobs.detach(), pack).exp()
        return -ratio.clamp(1 - self.low, 1 + self.high) * pack.advantages * logprobs

    def clipped(self, logprobs: Tensor, pack: Pack) -> Tensor:
        """Which tokens count for more or less than their ratio: [M] of bool."""
        ratio = log_ratio(logprobs, pack).exp()
        return (ratio < 1 - self.low) | (ratio > 1 + self.high)


@dataclass(frozen=True)
class Reinforce:
    """−A·log π, [M]: no ratio, hence right only for samples of the current policy (Williams 1992)."""

    def __call__(self, logprobs: Tensor, pack: Pack) -> Tensor:
        return -pack.advantages * logprobs

    def clipped(self, logprobs: Tensor, pack: Pack) -> Tensor:
        return torch.zeros_like(logprobs, dtype=torch.bool)


def reference_kl(logprobs: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(π ‖ reference) at each drawn token, ≥ 0, [M]: the value of k3, the gradient of k2.

    With q = log reference − log π: k3 = e^q − 1 − q, k2 = q²/2 (Schulman 2020, "Approximating KL divergence"). k3 is unbiased,
    but its gradient estimates that of the *forward* KL; the gradient of k2 is, in expectation over π, that of KL(π ‖ reference)
    (arXiv:2510.01555). No ratio weighs it: after the first epoch it is that of the sampler's tokens.
    """
    gap = (reference - logprobs).clamp(-20, 20)
    k2, k3 = gap.square() / 2, gap.exp() - 1 - gap
    return k2 + (k3 - k2).detach()
