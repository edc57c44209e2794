"""Corrections for a policy that is not quite the sampler's: factors [M] of the loss, without gradient. Pure functions.

`logprobs` [M] is the policy in question, the pack holds the sampler's (μ). Log-ratios stay within ±20. What a factor of 0
takes out still counts in the update's denominator: to leave tokens out does not make the others weigh more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ownship.learn.loss import log_ratio
from ownship.learn.pack import Pack


def truncated(logprobs: Tensor, pack: Pack, cap: float = 2.0) -> Tensor:
    """min(ratio, cap): truncated importance sampling, TIS (Ionides 2008; for language models Yao et al. 2025, "Your efficient
    RL framework secretly brings you off-policy RL training")."""
    return log_ratio(logprobs.detach(), pack).exp().clamp(max=cap)


def icepop(logprobs: Tensor, pack: Pack, low: float = 0.5, high: float = 5.0) -> Tensor:
    """The ratio where low ≤ ratio ≤ high, else 0: tokens on which both disagree much teach noise (IcePop, arXiv:2510.18855)."""
    ratio = log_ratio(logprobs.detach(), pack).exp()
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)


def geometric(logprobs: Tensor, pack: Pack, low: float = 0.9, high: float = 1.1) -> Tensor:
    """1 for sequences whose ratio per token, as the geometric mean, lies in [low, high], else 0.

    The product of the ratios would leave out long sequences for being long. The bounds are ours: ten times what bf16 does
    here (docs/architecture.md), so that only what is off for another reason falls out.
    """
    ratio = log_ratio(logprobs.detach(), pack, "mean").exp()
    return ((ratio >= low) & (ratio <= high)).float()


def total_variation(logprobs: Tensor, pack: Pack, most: float = 0.2) -> Tensor:
    """0 where an update would carry π further from μ than `most` in probability, else 1: A > 0 and π − μ > most, or A < 0 and
    π − μ < −most (DPPO-TV, arXiv:2602.04879). Unlike a ratio's clip, it leaves rare tokens alone."""
    moved = logprobs.detach().exp() - pack.logprobs.exp()
    return (~torch.where(pack.advantages < 0, moved < -most, (moved > most) & (pack.advantages > 0))).float()


@dataclass(frozen=True)
class Correction:
    """A factor, and whose log-probabilities it takes: the learner's own before the first update on these samples, π_old
    (`recomputed`: what separates π_old from μ is its business, and what separates π from π_old that of the clip), or π's."""

    factor: Callable[[Tensor, Pack], Tensor]
    recomputed: bool


CORRECTIONS: dict[str, Correction | None] = {
    "none": None,
    "tis": Correction(truncated, recomputed=True),
    "icepop": Correction(icepop, recomputed=True),
    "geometric": Correction(geometric, recomputed=True),
    "dppo_tv": Correction(total_variation, recomputed=False),
}
