"""The one training record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A sequence of token ids and, for each token, how it is trained on.

    `weights[i]` scales the loss of predicting `tokens[i]` (0: context only); `logprobs[i]` is the sampler's own
    log-probability of it and `advantages[i]` its advantage (both 0 where the weight is 0). `prompt` counts the leading
    tokens that are context; samples with the same prompt share its computation. The four lists are equally long.

    Two samples with the same prompt and the same `pair` number are compared by a paired loss (learn/preference.py).
    The losses of an update are summed and divided by what its samples add up to: each the sum of its weights, or `divisor` if
    that is given. `old` and `reference` are further log-probabilities of the same tokens, empty if they are not needed: of the
    learner before the first of several updates, and of a reference.
    """

    tokens: Sequence[int]
    prompt: int
    weights: Sequence[float]
    logprobs: Sequence[float]
    advantages: Sequence[float]
    policy: str = ""  # fingerprint of the weights that it was sampled from; empty if nobody sampled it
    pair: int | None = None
    divisor: float | None = None
    old: Sequence[float] = ()
    reference: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.weights) == len(self.logprobs) == len(self.advantages):
            raise ValueError("tokens, weights, logprobs and advantages must be equally long")
        if not 1 <= self.prompt <= len(self.tokens) or any(self.weights[: self.prompt]):
            raise ValueError("the prompt needs at least one token, and its weights must be 0")
        if len(self.old) not in (0, len(self.tokens)) or len(self.reference) not in (0, len(self.tokens)):
            raise ValueError("old and reference must be empty or as long as tokens")


def supervised(tokens: Sequence[int], mask: Sequence[bool]) -> Sample:
    """A Sample that imitates the masked tokens."""
    first = mask.index(True) if True in mask else len(mask)
    zeros = [0.0] * len(tokens)
    return Sample(tokens, max(first, 1), [float(target) for target in mask], zeros, zeros)
