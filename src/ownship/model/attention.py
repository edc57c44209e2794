"""Attention over a flat stream of tokens that holds many sequences.

A *row* is one stretch of query tokens that follow each other, together with the tokens before it that it may see. A whole
sequence is one row. A group of completions that share their prompt is one row for the prompt and one for each completion,
whose keys are the prompt's tokens and its own: the prompt is computed once, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ownship.model.blockwise import blockwise
from ownship.model.native import training

_LONG = 256  # queries: from there on, rows are trained on block by block


@dataclass(frozen=True)
class Row:
    """Query tokens `[start, stop)` of the stream; they see `[prefix_start, prefix_stop)` and, causally, themselves."""

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, units: training.Units) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, normalizers = training.attention(q, k, v, units)
        ctx.save_for_backward(q, k, v, normalizers)
        ctx.units = units
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, normalizers = ctx.saved_tensors
        return *training.attention_backward(q, k, v, ctx.units, normalizers, grads[0]), None


class RowAttention:
    """An `Attend` for rows that together cover every token of the stream exactly once.

    Rows are padded to the longest only inside attention; R rows, Q longest query, T longest key.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device | str = "cpu") -> None:
        def index(name: str) -> Tensor:
            return torch.tensor([getattr(row, name) for row in rows], device=device)

        self._units: training.Units | None = None
        self._rows = [(row.start, row.stop, row.prefix_start, row.prefix_stop) for row in rows]
        start, stop, prefix_start, prefix_stop = map(index, ("start", "stop", "prefix_start", "prefix_stop"))
        queries, prefix = stop - start, prefix_stop - prefix_start  # [R]
        q_step = torch.arange(int(queries.max()), device=device)  # [Q]
        k_step = torch.arange(int((prefix + queries).max()), device=device)  # [T]
        inside = q_step < queries[:, None]  # [R, Q]
        self.q_index = torch.where(inside, start[:, None] + q_step, 0)  # [R, Q]
        own = k_step - prefix[:, None]  # [R, T] place among the row's own tokens; negative: in the prefix
        k_index = torch.where(own < 0, prefix_start[:, None] + k_step, start[:, None] + own)
        present = own < queries[:, None]
        self.k_index = torch.where(present, k_index, 0)  # [R, T]
        self.mask = (own[:, None, :] <= q_step[None, :, None]) & present[:, None, :]  # [R, Q, T]
        covered = (stop - start).sum()
        self.place = torch.empty(int(covered), dtype=torch.long, device=device)  # [N] where each token's answer lies
        flat = torch.arange(inside.numel(), device=device).view_as(inside)
        self.place[self.q_index[inside]] = flat[inside]
        self._bias: Tensor | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if training.ready(q, k, v) and q.shape[2] % 16 == 0:
            if self._units is None:
                self._units = training.Units(self._rows)
            if self._units.possible:
                return _Compiled.apply(q, k, v, self._units)  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():
            # Computed again in the backward pass: what lies between q, k, v and the result is half of all that a micro-batch would
            # keep, and computing it twice takes no time that can be measured (docs/log.md).
            return checkpoint(self._mix, q, k, v, use_reentrant=False, preserve_rng_state=False)
        return self._mix(q, k, v)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, dtype = q.float(), k.float(), v.dtype
        rows, length = self.q_index.shape
        heads, size, groups = q.shape[1], q.shape[2], q.shape[1] // k.shape[1]
        if torch.is_grad_enabled() and length > _LONG:
            return blockwise(q, k, v.float(), self._rows).to(dtype)
        if self._bias is None:
            self._bias = torch.zeros(self.mask.shape, device=q.device).masked_fill_(~self.mask, -torch.inf)
        # Float32 here and in the cache: with bf16 weights between softmax and values, two kernels (decoding, training)
        # differ in 1 % of the rounded results, which was most of the difference between sampler and learner.
        queries = _gather(q, self.q_index).transpose(1, 2)  # [R, H, Q, E]
        keys = _gather(k, self.k_index).transpose(1, 2)  # [R, K, T, E]
        values = _gather(v, self.k_index).transpose(1, 2).float()  # [R, K, T, E]
        if torch.is_grad_enabled():
            # The fused kernel's backward is 2 to 6 times slower than three plain products on short rows (docs/log.md).
            folded = queries.reshape(rows, heads // groups, groups * length, size)
            scores = (folded @ (keys * size**-0.5).transpose(-1, -2)).view(rows, heads // groups, groups, length, -1)
            weights = torch.softmax(scores + self._bias[:, None, None], dim=-1)
            out = (weights.view(rows, heads // groups, groups * length, -1) @ values).view(rows, heads, length, size)
        else:
            out = F.scaled_dot_product_attention(queries, keys, values, self._bias[:, None], enable_gqa=groups > 1)
        return _gather(out.to(dtype).transpose(1, 2).reshape(rows * length, heads, size), self.place)  # [N, H, E]


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """x[index] along the first dimension; `index_select`'s backward is three times faster than indexing's."""
    return x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:])


def sequences(lengths: Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, RowAttention]:
    """Positions [N] and attention for whole sequences that lie one after the other in the stream."""
    rows, start = [], 0
    for length in lengths:
        rows.append(Row(start, start + length))
        start += length
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    return positions, RowAttention(rows, device)
