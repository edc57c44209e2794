"""Rewards of a group → advantages. Pure functions: rewards_G [G] in, advantages_G [G] out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def centered(rewards_G: Floats) -> Floats:
    """r − mean: no division by the deviation, which would favour groups that are nearly all right or all wrong
    (Dr. GRPO, arXiv:2503.20783)."""
    return rewards_G - rewards_G.mean()


def normalized(rewards_G: Floats) -> Floats:
    """(r − mean) / (std + 1e-4), the sample deviation (GRPO, arXiv:2402.03300)."""
    deviation = rewards_G.std(ddof=1) if len(rewards_G) > 1 else 0.0
    return (rewards_G - rewards_G.mean()) / (deviation + 1e-4)


def leave_one_out(rewards_G: Floats) -> Floats:
    """r − mean of the others (RLOO, arXiv:2402.14740)."""
    return centered(rewards_G) * len(rewards_G) / max(len(rewards_G) - 1, 1)


def max_rl(rewards_G: Floats) -> Floats:
    """(r − mean) / mean: rare successes weigh more (MaxRL); 0 where nothing succeeded."""
    mean = rewards_G.mean()
    return np.zeros_like(rewards_G) if mean == 0 else (rewards_G - mean) / mean


ADVANTAGES: dict[str, Callable[[Floats], Floats]] = {
    "centered": centered, "normalized": normalized, "leave_one_out": leave_one_out, "max_rl": max_rl}
