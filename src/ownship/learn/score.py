"""What a network says of given samples: log-probabilities without gradients, for a reference or an earlier policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ownship.learn.pack import pack
from ownship.learn.sample import Sample
from ownship.model.head import logprobs
from ownship.model.llama import Llama


@torch.no_grad()
def score(model: Llama, samples: Sequence[Sample], micro_tokens: int, tick: Callable[[int], None] | None = None
          ) -> list[list[float]]:
    """Each sample's log π per token, 0 where its weight is 0: computed as the learner computes it, one forward pass in all.

    `micro_tokens` and `tick` as for the learner.
    """
    results = {id(sample): [0.0] * len(sample.tokens) for sample in samples}
    for part in pack(samples, micro_tokens):
        hidden = model(part.tokens, part.positions, part.attention)  # [N, D]
        values = iter(logprobs(model, hidden[part.source], part.targets)[0].tolist())
        for sample in part.members:
            for at, weight in enumerate(sample.weights):
                if weight:
                    results[id(sample)][at] = next(values)
        if tick is not None:
            tick(len(part.tokens))
    return [results[id(sample)] for sample in samples]
