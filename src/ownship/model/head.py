"""The language-model head: logits in float32, and log-probabilities of chosen tokens without keeping the logits.

In bf16 the head would round logits around 20 to steps of 0.125, which is the largest part of the difference between a
sampler and a learner. Here bf16 inputs are multiplied exactly, summed in float32 and never rounded: oneDNN does so at
almost the speed of a bf16 product (`fp32_precision = "bf16"` rounds *inputs* to bf16, and they already are). Where nothing
multiplies bf16, they are rounded in fixed point, which is less than a tenth of bf16's rounding (`native/fixed.h`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor

from ownship.model.llama import Llama
from ownship.model.native import training
from ownship.model.ops import bf16_units, operand, product, wide_product, widens

_BLOCK = 1 << 21  # logits alive at once: 8 MB, which stay in the processor's cache
_KEPT = 1 << 26  # logits (256 MB) that are kept for the backward pass where products are slower than memory


def logits(model: Llama, hidden: Tensor) -> Tensor:
    """hidden [M, D] → logits [M, V] float32, without gradient."""
    with torch.no_grad(), bf16_units(hidden.dtype == torch.bfloat16 and hidden.device.type == "cpu"):
        return hidden.float() @ model.wide_head().T


def _blocks(hidden: Tensor, weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The vocabulary in blocks: where each begins, and the logits [M, n] of float32 `hidden`."""
    for at, part in zip(count(0, size := _size(hidden)), weight.split(size)):
        yield at, wide_product(hidden, part.T)


def _size(hidden: Tensor) -> int:
    return max(256, _BLOCK // max(len(hidden), 1) // 64 * 64)


def _scored(scores: Tensor, targets: Tensor, at: int, seen: Tensor) -> None:
    """Adds a block's logits to `seen` [4, M]: the largest logit so far, Σ exp(logit − largest), that sum with each term times its
    logit, and the target's logit (the running softmax of arXiv:1805.02867)."""
    if training.ready(scores):
        return training.scored(scores, targets, at, seen)
    top = torch.maximum(seen[0], scores.amax(-1))
    factor, weights = (seen[0] - top).exp(), (scores - top[:, None]).exp()
    seen[1] = seen[1] * factor + weights.sum(-1)
    seen[2] = seen[2] * factor + weights.mul_(scores).sum(-1)
    inside = (targets >= at) & (targets < at + scores.shape[1])
    seen[3] = torch.where(inside, scores.gather(1, (targets - at).clamp(0, scores.shape[1] - 1)[:, None])[:, 0], seen[3])
    seen[0] = top


def _scored_backward(scores: Tensor, targets: Tensor, at: int, normalizers: Tensor, grad: Tensor) -> None:
    """d log π(target) / d logits = onehot − π, times the gradient, in the logits' place."""
    if training.ready(scores):
        return training.scored_backward(scores, targets, at, normalizers, grad)
    scores.sub_(normalizers[:, None]).exp_().mul_(-grad[:, None])
    inside = ((targets >= at) & (targets < at + scores.shape[1])).nonzero()[:, 0]
    scores[inside, targets[inside] - at] += grad[inside]


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.zeros(4, len(hidden), device=hidden.device)
        seen[0] = -torch.inf
        keep = widens(hidden.device.type) and any(ctx.needs_input_grad) and len(hidden) * len(weight) <= _KEPT
        ctx.kept = []
        for at, scores in _blocks(hidden.float(), weight):
            _scored(scores, targets, at, seen)
            if keep:
                ctx.kept.append((at, scores))
        normalizers = seen[0] + seen[1].log()
        ctx.save_for_backward(hidden, weight, targets, normalizers)
        entropy = normalizers - seen[2] / seen[1]
        ctx.mark_non_differentiable(entropy)
        return seen[3] - normalizers, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        hidden, weight, targets, normalizers = ctx.saved_tensors
        rows, grad = hidden.float(), grads[0].contiguous()
        hidden_grad = torch.zeros_like(rows)
        weight_grad = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        kept, ctx.kept = ctx.kept, []  # they become their gradient: a second pass makes its own
        for at, scores in kept or _blocks(rows, weight):
            part = slice(at, at + scores.shape[1])
            _scored_backward(scores, targets, at, normalizers, grad)
            pull = operand(scores, weight)  # rounded, as the fast units would do anyway
            hidden_grad += product(pull, weight[part])
            if weight_grad is not None:
                product(pull.T, hidden, out=weight_grad[part])
        return hidden_grad.to(hidden.dtype), weight_grad, None


def logprobs(model: Llama, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log π(target) and the entropy of π, both [M] float32, from hidden [M, D] and targets [M].

    Logits live only for a block of the vocabulary at a time and are computed again in the backward pass: with a 49k vocabulary,
    4,000 targets would otherwise hold 0.8 GB, and go through memory instead of the processor's cache. The entropy carries no
    gradient.
    """
    result: tuple[Tensor, Tensor] = _Logprobs.apply(hidden, model.lm_head.trained_weight(), targets)  # type: ignore[no-untyped-call]
    return result
