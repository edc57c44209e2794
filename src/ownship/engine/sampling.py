"""Drawing tokens from logits, many requests at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ownship.engine.request import Sampling


def sample(logits: Tensor, settings: Sequence[Sampling], uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
    """One token per row: logits [B, V] float32, one setting and one uniform number in [0, 1) per row.

    Returns the ids and their log-probabilities under the raw distribution (temperature 1, nothing cut off). Draws by
    inverse CDF: one uniform per row, against one exponential per vocabulary entry for `torch.multinomial`. A row's draw
    depends on its own logits, setting and uniform alone.
    """
    top, best = logits.max(-1)  # [B]
    weights = (logits - top[:, None]).exp_()  # [B, V]
    ids = best
    if any(setting.temperature > 0 for setting in settings):
        drawn = weights
        if any(setting.temperature not in (0, 1) for setting in settings):
            inverse = torch.tensor([1 / max(setting.temperature, 1e-6) for setting in settings])
            drawn = ((logits - top[:, None]) * inverse[:, None]).exp_()
        if any(setting.top_k or setting.top_p < 1 for setting in settings):
            drawn = _cut(drawn, settings)
        cumulative = drawn.cumsum(-1)
        total = cumulative[:, -1]
        # below the total even where the product rounds up to it: the last entry that has any weight stays the last drawn
        level = torch.minimum(torch.tensor(list(uniforms)) * total, torch.nextafter(total, torch.zeros(())))
        # right=True: the first entry whose cumulative weight is above the level, so entries of weight 0 are never drawn
        ids = torch.searchsorted(cumulative, level[:, None], right=True)[:, 0].clamp_(max=logits.shape[1] - 1)
        ids = torch.where(torch.tensor([setting.temperature > 0 for setting in settings]), ids, best)
    logprobs = logits.gather(1, ids[:, None])[:, 0] - top - weights.sum(-1).log()
    return ids.tolist(), logprobs.tolist()


def _cut(weights: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Weights [B, V] with everything outside top-k and then top-p set to zero."""
    weights = weights.clone()
    for row, setting in enumerate(settings):
        if not setting.temperature or not (setting.top_k or setting.top_p < 1):
            continue
        width = setting.top_k or len(weights[row])
        values, order = weights[row].topk(min(width, len(weights[row])))
        if setting.top_p < 1:
            # keep the smallest set whose probability reaches top_p: a token stays while the mass before it is below
            share = values / values.sum()
            values = torch.where(share.cumsum(0) - share < setting.top_p, values, 0)
        weights[row] = 0
        weights[row, order] = values
    return weights
