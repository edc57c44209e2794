"""Paired losses: of two replies to one prompt the chosen one is to become likelier than the rejected one, measured against a
reference policy. Pure functions.

P pairs, M trained tokens. A pair is two samples (learn/pairs.py) whose `advantages` say which is which (+1 chosen,
−1 rejected), whose `logprobs` add up to the reference's log-probability of the reply, and whose weights add up to 1 together:
so the learner's Σ weight · loss / Σ weight is the mean over the pairs, however the update was split.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ownship.learn.pack import Pack


def dpo(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """−log σ(margin), [P]; margin = β · (log π/π_ref of the chosen reply − that of the rejected one).

    Rafailov et al., arXiv:2305.18290, eq. 7. With `label_smoothing` ε the label is taken to be wrong that often:
    −(1 − ε) · log σ(margin) − ε · log σ(−margin) ("conservative DPO", their later note of 2023).
    """
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo(gap: Tensor, beta: float) -> Tensor:
    """(gap − 1/(2β))², [P]; gap = log π/π_ref per token of the chosen reply − that of the rejected one.

    Azar et al., arXiv:2310.12036, eq. 17, whose τ is β here. The paper does not say what to do about log-probabilities that grow
    with a reply's length; we take their mean over its tokens as TRL does, which reports that the authors did the same.
    """
    return (gap - 1 / (2 * beta)).square()


@dataclass(frozen=True)
class Preference:
    """The loss of a pair, stated once for each of its tokens, [M]."""

    kind: str = "dpo"  # or ipo
    beta: float = 0.1
    label_smoothing: float = 0.0  # of DPO

    def __call__(self, logprobs: Tensor, pack: Pack) -> Tensor:
        ratios = (logprobs - pack.logprobs) * pack.advantages  # [M]
        if self.kind == "ipo":
            return ipo(_sums(ratios / torch.bincount(pack.sample)[pack.sample], pack), self.beta)[pack.pair]
        return dpo(self.beta * _sums(ratios, pack), self.label_smoothing)[pack.pair]

    def measure(self, logprobs: Tensor, pack: Pack) -> dict[str, float]:
        """Sums over the pairs of: the implicit rewards β · log π/π_ref and their margin, accuracy (the chosen reply has the
        larger one), and the log-probabilities of both replies."""
        chosen = pack.advantages > 0
        rewards = self.beta * (logprobs - pack.logprobs)
        margin = _sums(rewards * pack.advantages, pack)  # [P]
        values = {"margin": margin, "accuracy": margin > 0, "chosen_reward": rewards[chosen], "rejected_reward": rewards[~chosen],
                  "chosen_logprob": logprobs[chosen], "rejected_logprob": logprobs[~chosen]}
        return {name: float(value.sum()) for name, value in values.items()}


def _sums(values: Tensor, pack: Pack) -> Tensor:
    """values [M] added up by pair → [P]."""
    return values.new_zeros(int(pack.pair.max()) + 1).index_add(0, pack.pair, values)
