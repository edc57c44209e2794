"""Causal attention for training on long rows: block by block, so that what a query may not see costs nothing.

Padded to the longest row and masked, half of the products of a causal row are thrown away, and a stream of unlike rows wastes
more. Here every row is its own, a block of queries meets only the keys up to its end, and nothing of the size queries × keys
outlives a block: the backward pass computes the scores again (as FlashAttention does, arXiv:2205.14135, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ownship.model.ops import bf16_units, is_rounded

_BLOCK = 256  # queries at a time: large enough for fast products, small enough to skip most of what is masked


class Span(NamedTuple):
    """Queries `[start, stop)` see `[prefix_start, prefix_stop)` and the stretch `[row, stop)`, causally."""

    start: int
    stop: int
    row: int
    prefix_start: int
    prefix_stop: int


def spans(rows: Sequence[tuple[int, int, int, int]]) -> Iterator[Span]:
    """Rows (start, stop, prefix start, prefix stop) cut into blocks of queries."""
    for start, stop, prefix_start, prefix_stop in rows:
        for begin in range(start, stop, _BLOCK):
            yield Span(begin, min(begin + _BLOCK, stop), start, prefix_start, prefix_stop)


def _seen(x: Tensor, span: Span) -> Tensor:
    """The keys or values of a span: x [K, N, E] → [K, T, E]."""
    own = x[:, span.row : span.stop]
    return own if span.prefix_start == span.prefix_stop else torch.cat((x[:, span.prefix_start : span.prefix_stop], own), 1)


def _weights(q: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """softmax of the scaled queries [K, G, n, E] and keys [K, T, E] → [K, G·n, T]; the last n keys are the queries' own."""
    heads, groups, count, size = q.shape
    scores = (q.reshape(heads, groups * count, size) @ keys.transpose(1, 2)).view(heads, groups, count, -1)
    scores[..., -count:] += mask[:count, :count]
    return torch.softmax(scores, -1).view(heads, groups * count, -1)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: Sequence[tuple[int, int, int, int]]) -> Tensor:
        kv_heads, size = k.shape[1:]
        queries = (q * size**-0.5).view(len(q), kv_heads, -1, size).permute(1, 2, 0, 3).contiguous()  # [K, G, N, E]
        keys, values = k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous()  # [K, N, E]
        mask = torch.full((_BLOCK, _BLOCK), -torch.inf, device=q.device).triu_(1)
        out = torch.empty_like(queries)
        with bf16_units(is_rounded() and q.device.type == "cpu"):
            for span in spans(rows):
                block = queries[:, :, span.start : span.stop]
                mixed = _weights(block, _seen(keys, span), mask) @ _seen(values, span)
                out[:, :, span.start : span.stop] = mixed.view_as(block)
        ctx.save_for_backward(queries, keys, values, mask)
        ctx.rows, ctx.rounded = rows, is_rounded()
        return out.permute(2, 0, 1, 3).reshape(q.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, mask = ctx.saved_tensors
        heads, groups, length, size = queries.shape
        grad = grads[0].view(length, heads, groups, size).permute(1, 2, 0, 3).contiguous()  # [K, G, N, E]
        query_grad, key_grad, value_grad = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        with bf16_units(ctx.rounded and grad.device.type == "cpu"):
            for span in spans(ctx.rows):
                block = queries[:, :, span.start : span.stop]
                folded = heads, groups * (span.stop - span.start), size
                seen = _seen(keys, span)
                weights = _weights(block, seen, mask)  # [K, G·n, T]
                above = grad[:, :, span.start : span.stop].reshape(folded)
                _add(value_grad, span, weights.transpose(1, 2) @ above)
                inner = torch.ops.aten._softmax_backward_data(above @ _seen(values, span).transpose(1, 2), weights, -1, grad.dtype)
                query_grad[:, :, span.start : span.stop] = (inner @ seen).view_as(block)
                _add(key_grad, span, inner.transpose(1, 2) @ block.reshape(folded))
        back = (query_grad * size**-0.5).permute(2, 0, 1, 3).reshape(length, heads * groups, size)
        return back, key_grad.transpose(0, 1), value_grad.transpose(0, 1), None


def _add(total: Tensor, span: Span, part: Tensor) -> None:
    """Adds gradients [K, T, E] of a span's keys or values to those of all tokens, [K, N, E]."""
    prefix = span.prefix_stop - span.prefix_start
    total[:, span.row : span.stop] += part[:, prefix:]
    if prefix:
        total[:, span.prefix_start : span.prefix_stop] += part[:, :prefix]


def blockwise(q: Tensor, k: Tensor, v: Tensor, rows: Sequence[tuple[int, int, int, int]]) -> Tensor:
    """q [N, H, E], k and v [N, K, E], all float32 → [N, H, E]. Rows (start, stop, prefix start, prefix stop) cover every token
    once; a query sees its row's prefix and, causally, the row. Inside `rounded`, products round what goes into them to bf16 (on
    processors)."""
    return _Blockwise.apply(q, k, v, rows)  # type: ignore[no-untyped-call]
