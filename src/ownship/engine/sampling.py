"""Drawing tokens from logits, many requests at once.

What a row gives depends on that row alone, bit for bit, whatever it is computed beside: elementwise functions, sums over
blocks of fixed size and sums in a fixed order are all there is (a plain `sum` over the vocabulary is split among threads in
a way that depends on how many rows there are).

The order of operations is that of vLLM and `transformers`: logit bias, repetition penalty, presence and frequency penalty,
mask, `min_tokens`; then greedy, or temperature, min-p, top-k, top-p, each on what the one before has left, and the draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ownship.engine.request import Sampling

_ROWS = 8  # rows worked on at a time: their weights stay in the processor's cache
_BLOCK = 128  # vocabulary entries that are summed as one; most vocabularies are a multiple of it
_HEAD = 256  # top-p looks among this many of the largest weights before it sorts them all


@dataclass(frozen=True, slots=True)
class Row:
    """How to draw one token: the setting, a number in [0, 1), the tokens so far, the stop tokens that `min_tokens` holds
    back, and a mask, which sets the entries [V] that may not be drawn to −∞ in place."""

    sampling: Sampling
    uniform: float
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    stops: Collection[int] = ()
    mask: Callable[[Tensor], None] | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing but a temperature is asked for."""
        return self.sampling.top_logprobs is None and not self.adjusts and not _cuts(self.sampling)

    @property
    def adjusts(self) -> bool:
        """Whether anything but the temperature and the cuts changes the logits."""
        setting = self.sampling
        return (self.mask is not None or len(self.generated) < setting.min_tokens or bool(setting.logit_bias)
                or setting.repetition_penalty != 1 or setting.presence_penalty != 0 or setting.frequency_penalty != 0)


@dataclass(frozen=True, slots=True)
class Scored:
    """A token with its log-probability under the raw distribution (temperature 1, nothing changed or cut off) and, if asked
    for, the likeliest tokens with theirs, best first; of equals the lowest id. A token in both has the same float in both."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] | None = None


Draw = Callable[[Tensor, NDArray[np.float32], NDArray[np.float64]], tuple[list[int], list[float]]]


def sample(logits: Tensor, rows: Sequence[Row], draw: Draw | None = None) -> list[Scored]:
    """One token for each row of logits [B, V] float32, which are left as they are.

    Draws by inverse CDF: one uniform per row, against one exponential per vocabulary entry for `torch.multinomial`. Rows that
    ask for nothing but a temperature go to `draw` if there is one (compiled code): logits, 1 / temperature (0: greedy) and
    uniforms → ids and log-probabilities. Raises ValueError if a mask leaves no token.
    """
    plain = [index for index, row in enumerate(rows) if row.plain] if draw is not None else []
    if draw is None or not plain:
        return [token for part in _parts(logits) for token in _sample(logits[part], rows[part])]
    temperatures = np.array([rows[index].sampling.temperature for index in plain], np.float32)
    scales = np.where(temperatures > 0, 1 / np.maximum(temperatures, np.float32(1e-6)), np.float32(0))
    chosen = logits if len(plain) == len(rows) else logits[plain]
    drawn = draw(chosen, scales, np.array([rows[index].uniform for index in plain]))
    found = dict(zip(plain, map(Scored, *drawn), strict=True))
    rest = [index for index in range(len(rows)) if index not in found]
    if rest:
        found |= dict(zip(rest, sample(logits[rest], [rows[index] for index in rest]), strict=True))
    return [found[index] for index in range(len(rows))]


def logprobs_of(logits: Tensor, ids: Sequence[int], top: Sequence[int | None]) -> list[Scored]:
    """Given tokens, one for each row of logits [B, V] float32, scored as `sample` scores those it draws."""
    return [token for part in _parts(logits) for token in _Raw(logits[part]).score(ids[part], top[part])]


def adjusted(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Logits [n, V] after bias, penalties, mask and `min_tokens`; the very same tensor if there are none."""
    if not any(row.adjusts for row in rows):
        return logits
    scores = logits.clone(memory_format=torch.contiguous_format)
    for own, row in zip(scores, rows, strict=True):
        if row.adjusts:
            _adjust(own, row)
    return scores


def weights(scores: Tensor, top: NDArray[np.float32], rows: Sequence[Row]) -> Tensor:
    """What rows [n, V] are drawn from, relative to their largest scores `top` [n], in blocks [n, blocks, _BLOCK]; the last
    block is filled up with zeros. Temperature 0 counts as 1 with nothing cut off."""
    result = _exponentials(scores, top, [1 / max(row.sampling.temperature, 1e-6) if row.sampling.temperature else 1.0
                                         for row in rows])
    for own, row in zip(result.flatten(1), rows, strict=True):
        if row.sampling.temperature and _cuts(row.sampling):
            _cut(own, row.sampling)
    return result


class _Raw:
    """The raw distribution of a few rows of logits [n, V]."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.numpy()
        self.best, self.top = _best(logits)  # [n]
        self.weights = _exponentials(logits, self.top)
        self.cumulative = _cumulative(self.weights)
        # in float64 from here on, so that the order in which tokens are scored cannot matter
        totals = self.cumulative[:, -1].tolist()
        self._log_totals = [top + math.log(total) for top, total in zip(self.top.tolist(), totals, strict=True)]

    def score(self, ids: Sequence[int], top: Sequence[int | None]) -> list[Scored]:
        scored = []
        for logits, log_total, id, count in zip(self.logits, self._log_totals, ids, top, strict=True):
            others = None
            if count is not None:
                others = tuple((other, float(logits[other]) - log_total) for other in _likeliest(logits, count))
            scored.append(Scored(id, float(logits[id]) - log_total, others))
        return scored


def _parts(logits: Tensor) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, len(logits), _ROWS))


def _sample(logits: Tensor, rows: Sequence[Row]) -> list[Scored]:
    raw = _Raw(logits)
    scores, best, top = adjusted(logits, rows), raw.best, raw.top
    if scores is not logits:
        best, top = _best(scores)
        if np.isneginf(top).any():
            raise ValueError("a mask leaves no token to draw")
    ids: list[int] = best.tolist()
    if any(row.sampling.temperature for row in rows):
        drawn, cumulative = raw.weights, raw.cumulative
        if scores is not logits or any(row.sampling.temperature not in (0, 1) or _cuts(row.sampling) for row in rows):
            drawn = weights(scores, top, rows)
            cumulative = _cumulative(drawn)
        draws = _draw(drawn, cumulative, np.array([row.uniform for row in rows]))
        ids = [draw if row.sampling.temperature else id for row, draw, id in zip(rows, draws, ids, strict=True)]
    return raw.score(ids, [row.sampling.top_logprobs for row in rows])


def _adjust(scores: Tensor, row: Row) -> None:
    """One row [V], in place."""
    setting, values = row.sampling, scores.numpy()
    for id, bias in setting.logit_bias:
        values[id] += bias
    if setting.repetition_penalty != 1:  # Keskar et al., arXiv:1909.05858: away from what was said, whatever the sign
        ids = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in (row.prompt, row.generated)])
        seen = values[ids]
        values[ids] = np.where(seen < 0, seen * setting.repetition_penalty, seen / setting.repetition_penalty)
    if setting.presence_penalty or setting.frequency_penalty:  # as the OpenAI API defines them
        ids, counts = np.unique(np.asarray(row.generated, dtype=np.int64), return_counts=True)
        values[ids] -= (counts * setting.frequency_penalty + setting.presence_penalty).astype(np.float32)
    if row.mask is not None:
        row.mask(scores)
    if len(row.generated) < setting.min_tokens and row.stops:
        stops = list(row.stops)
        held = values[stops]
        values[stops] = -np.inf
        if np.isneginf(values.max()):  # a grammar at its end: it allows nothing but to stop
            values[stops] = held


def _cuts(setting: Sampling) -> bool:
    return setting.min_p > 0 or setting.top_k > 0 or setting.top_p < 1


def _cut(weights: Tensor, setting: Sampling) -> None:
    """Sets to zero in place what is outside min-p, then top-k, then top-p: weights [V] relative to the largest.

    Works on sorted values without their ids, which is many times as fast; of equals at the border the lowest ids stay.
    """
    if setting.min_p:
        _drop_below(weights, setting.min_p)
    if not setting.top_k and setting.top_p == 1:
        return
    array = weights.numpy()
    values = _largest(array, setting.top_k or _HEAD)
    if setting.top_p < 1:
        # keep the smallest set whose probability reaches top_p: a token stays while the mass before it is below
        enough = setting.top_p * float((values if setting.top_k else array).sum(dtype=np.float64))
        reached = values.cumsum(dtype=np.float64)
        if reached[-1] < enough and not setting.top_k:
            values = _largest(array, len(array))
            reached = values.cumsum(dtype=np.float64)
        values = values[: int(reached.searchsorted(enough)) + 1]
    border = values[-1]
    if border > 0:
        _drop_below(weights, float(border))
        equal = np.flatnonzero(array == border)
        array[equal[np.count_nonzero(values == border) :]] = 0


def _drop_below(weights: Tensor, least: float) -> None:
    """Sets weights under `least` to zero in place."""
    torch.threshold_(weights, float(np.nextafter(np.float32(least), np.float32(0))), 0)


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The `count` largest of values [V], falling."""
    if count < len(values):
        values = np.partition(values, len(values) - count)[-count:]
    return np.sort(values)[::-1]


def _likeliest(logits: NDArray[np.float32], count: int) -> list[int]:
    """Ids of the `count` largest logits [V], best first, of equals the lowest."""
    if not count:
        return []
    border = _largest(logits, count)[-1]
    above, equal = np.flatnonzero(logits > border), np.flatnonzero(logits == border)
    above = above[np.argsort(-logits[above], kind="stable")]
    return np.concatenate([above, equal])[:count].tolist()


def _best(scores: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The first largest of each row [n, V]: where it is and what it is."""
    array = scores.numpy()  # its argmax takes a tenth of torch's time
    best = array.argmax(1)
    return best, array[np.arange(len(array)), best]


def _exponentials(scores: Tensor, top: NDArray[np.float32], inverse: Sequence[float] = ()) -> Tensor:
    """exp((scores [n, V] − top [n]) · inverse temperature [n]) in blocks [n, blocks, _BLOCK], with zeros at the end."""
    result = torch.sub(scores, torch.from_numpy(top)[:, None])
    if any(value != 1 for value in inverse):
        result.mul_(torch.tensor(inverse)[:, None])
    result.exp_()
    if missing := -result.shape[1] % _BLOCK:
        result = F.pad(result, (0, missing))
    return result.view(len(result), -1, _BLOCK)


def _cumulative(weights: Tensor) -> NDArray[np.float64]:
    """Cumulative weight of the blocks [n, blocks]."""
    return weights.sum(-1).numpy().cumsum(1, dtype=np.float64)


def _draw(weights: Tensor, cumulative: NDArray[np.float64], uniforms: NDArray[np.float64]) -> list[int]:
    """One id per row by inverse CDF: the block, then the entry in it."""
    block, uniforms = _find(cumulative, uniforms)
    inside = weights.numpy()[np.arange(len(block)), block].cumsum(1, dtype=np.float64)
    entry, _ = _find(inside, uniforms)
    return (block * _BLOCK + entry).tolist()


def _find(cumulative: NDArray[np.float64], uniforms: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """In each row of cumulative weights [n, m], the entry in which that share of the total falls, never one of weight 0; and
    where in the entry, from 0 to 1, so that it can be divided further."""
    rows, total = np.arange(len(cumulative)), cumulative[:, -1]
    # below the total even where the product rounds up to it: the last entry that has any weight stays the last drawn
    level = np.minimum(uniforms * total, np.nextafter(total, 0))
    entry = (cumulative <= level[:, None]).sum(1)  # the first one above the level
    before = np.where(entry > 0, cumulative[rows, entry - 1], 0)
    return entry, (level - before) / (cumulative[rows, entry] - before)
