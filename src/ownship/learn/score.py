"""What a network says of given samples: the log-probabilities that a reference or an earlier policy gives their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ownship.learn import distributed
from ownship.learn.evaluate import scored
from ownship.learn.sample import Sample
from ownship.model.llama import Llama


def score(model: Llama, samples: Sequence[Sample], micro_tokens: int, tick: Callable[[int], None] | None = None
          ) -> list[list[float]]:
    """Each sample's log π per token, 0 where its weight is 0: exactly what a learner with this network and these `micro_tokens`
    would find. One forward pass in all; `tick` as for the learner. Ranks share the work.
    """
    return distributed.shared(samples, lambda mine, first: _score(model, mine, micro_tokens, tick))


def _score(model: Llama, samples: Sequence[Sample], micro_tokens: int, tick: Callable[[int], None] | None) -> list[list[float]]:
    results = {id(sample): [0.0] * len(sample.tokens) for sample in samples}
    for part, found in scored(model, samples, micro_tokens):
        values = iter(found.tolist())
        for sample in part.members:
            for at, weight in enumerate(sample.weights):
                if weight:
                    results[id(sample)][at] = next(values)
        if tick is not None:
            tick(len(part.tokens))
    return [results[id(sample)] for sample in samples]
