"""Losses, as pure functions of per-token log-probabilities. The learner sums weight · loss and divides by Σ weight over
the whole update, so no loss depends on how the update was split into micro-batches.

M trained tokens; `logprobs` [M] under the current policy π; the pack holds the sampler's own (μ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ownship.learn.pack import Pack


class Loss(Protocol):
    def __call__(self, logprobs: Tensor, pack: Pack) -> Tensor: ...


@runtime_checkable
class Measured(Protocol):
    """A loss that reports more than itself: measurements of a micro-batch as sums which, divided by Σ weight, are means."""

    def measure(self, logprobs: Tensor, pack: Pack) -> dict[str, float]: ...


def imitation(logprobs: Tensor, pack: Pack) -> Tensor:
    """−log π: cross-entropy on the trained tokens, [M]."""
    return -logprobs


@dataclass(frozen=True)
class PolicyGradient:
    """−min(r·A, clip(r, 1−low, 1+high)·A), r = π/μ with the sampler's own μ, [M].

    PPO's clip (arXiv:1707.06347) with DAPO's higher upper bound (arXiv:2503.14476), and a dual clip that bounds the loss at
    `dual`·|A| for negative advantages (arXiv:1912.09729).
    """

    low: float = 0.2
    high: float = 0.28
    dual: float = 3.0

    def __call__(self, logprobs: Tensor, pack: Pack) -> Tensor:
        ratio = (logprobs - pack.logprobs).clamp(-20, 20).exp()
        gain = torch.minimum(ratio * pack.advantages, ratio.clamp(1 - self.low, 1 + self.high) * pack.advantages)
        return -torch.where(pack.advantages < 0, torch.maximum(gain, self.dual * pack.advantages), gain)
