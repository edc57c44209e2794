"""The language-model head: logits in float32, and log-probabilities of chosen tokens without keeping the logits.

In bf16 the head would round logits around 20 to steps of 0.125, which is the largest part of the difference between a
sampler and a learner. Here bf16 inputs are multiplied exactly, summed in float32 and never rounded: oneDNN does so at
almost the speed of a bf16 product (`fp32_precision = "bf16"` rounds *inputs* to bf16, and they already are).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ownship.model.llama import Llama
from ownship.model.ops import bf16_units, wide_product

_CHUNK = 256  # rows of logits alive at once: 256 · 49k · 4 bytes = 50 MB


def logits(model: Llama, hidden: Tensor) -> Tensor:
    """hidden [M, D] → logits [M, V] float32, without gradient."""
    with torch.no_grad():
        return wide_product(hidden.float(), model.wide_head().T, hidden.dtype == torch.bfloat16)


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, wide: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        exact = hidden.dtype == torch.bfloat16
        logprobs, entropies, normalizers = [], [], []
        for rows, chosen in zip(hidden.split(_CHUNK), targets.split(_CHUNK), strict=True):
            scores = wide_product(rows.float(), wide.T, exact)  # [m, V]
            top = scores.amax(-1, keepdim=True)
            picked = scores.gather(1, chosen[:, None])[:, 0]
            weights = scores.sub(top).exp_()  # [m, V]
            total = weights.sum(-1)
            normalizer = top[:, 0] + total.log()
            entropies.append(normalizer - weights.mul_(scores).sum(-1) / total)
            logprobs.append(picked - normalizer)
            normalizers.append(normalizer)
        ctx.save_for_backward(hidden, weight, wide, targets, torch.cat(normalizers))
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, wide, targets, normalizers = ctx.saved_tensors
        exact = hidden.dtype == torch.bfloat16
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(wide) if ctx.needs_input_grad[1] else None  # frozen: 100 MB and a product saved
        at = 0
        for rows in hidden.split(_CHUNK):
            span = slice(at, at + len(rows))
            at += len(rows)
            scores = wide_product(rows.float(), wide.T, exact).sub_(normalizers[span, None]).exp_()  # probabilities
            scores.mul_(-grads[0][span, None])
            scores[torch.arange(len(rows)), targets[span]] += grads[0][span]  # d logp / d logits = onehot − p
            hidden_grad[span] = scores.to(hidden.dtype) @ weight
            if weight_grad is not None:
                with bf16_units(exact and hidden.device.type == "cpu"):
                    weight_grad.addmm_(scores.T, rows.float())
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype), None, None


def logprobs(model: Llama, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log π(target) and the entropy of π, both [M] float32, from hidden [M, D] and targets [M].

    Logits live only for a few rows at a time and are computed again in the backward pass: with a 49k vocabulary,
    4,000 targets would otherwise hold 0.8 GB. The entropy carries no gradient.
    """
    result: tuple[Tensor, Tensor] = _Logprobs.apply(hidden, model.lm_head.trained_weight(), model.wide_head(), targets)  # type: ignore[no-untyped-call]
    return result
