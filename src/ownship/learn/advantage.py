"""Rewards of a group → advantages. Pure functions: rewards_G [G] in, advantages_G [G] out. And what each token then weighs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weighting = Literal["token", "sequence", "constant"]


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


def token_weight(weighting: Weighting, drawn: int, longest: int) -> tuple[float, float]:
    """What each of a sequence's `drawn` tokens weighs, and what the sequence adds to the divisor of the update.

    "token": the mean over all tokens of the update. "sequence": the mean over its sequences of their means, in which a token of
    a long reply weighs less (GRPO). "constant": each sequence's sum over `longest`, the bound on a reply, so that a token
    weighs the same whatever else is in the update (Dr. GRPO).
    """
    if drawn == 0:
        return 0.0, 0.0
    match weighting:
        case "token":
            return 1.0, float(drawn)
        case "sequence":
            return 1.0 / drawn, 1.0
        case "constant":
            return 1.0 / longest, 1.0


def overlong_penalty(length: int, longest: int, margin: float = 0.2) -> float:
    """DAPO's soft punishment, added to the reward: 0 up to (1 − margin)·longest tokens, then falling to −1 at the limit
    (arXiv:2503.14476, eq. 13, where the margin is a fifth)."""
    start = (1 - margin) * longest
    return -min(max(length - start, 0.0) / (longest - start), 1.0)
