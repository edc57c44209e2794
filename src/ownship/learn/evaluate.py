"""What the network thinks of samples, without learning from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ownship.learn.loss import Loss, Measured
from ownship.learn.pack import Pack, pack
from ownship.learn.sample import Sample
from ownship.model.head import logprobs
from ownship.model.llama import Llama


def scored(model: Llama, samples: Sequence[Sample], micro_tokens: int) -> Iterator[tuple[Pack, Tensor]]:
    """Each micro-batch and the log-probabilities [M] of its trained tokens, without gradient.

    Under `no_grad` attention takes another kernel, whose rounding in bf16 moves the log-probability of a reply of 25 tokens by
    0.1: with it a policy would not start out equal to its reference. So this is the forward pass of learning itself.
    """
    for part in pack(samples, micro_tokens):
        with torch.enable_grad():
            hidden = model(part.tokens, part.positions, part.attention)  # [N, D]
        yield part, logprobs(model, hidden[part.source].detach(), part.targets)[0].detach()


def evaluate(model: Llama, samples: Sequence[Sample], loss: Loss, micro_tokens: int, tick: Callable[[int], None] | None = None
             ) -> dict[str, float]:
    """The loss, and what it measures, as `Learner.update` would report them for these samples. `tick`: see there."""
    total, sums = 0.0, {"loss": 0.0}
    for part, found in scored(model, samples, micro_tokens):
        values = {"loss": float((loss(found, part) * part.weights).sum())}
        for name, value in (values | (loss.measure(found, part) if isinstance(loss, Measured) else {})).items():
            sums[name] = sums.get(name, 0.0) + value
        total += float(part.weights.sum())
        if tick is not None:
            tick(len(part.tokens))
    return {name: value / total for name, value in sums.items()} if total else {}
