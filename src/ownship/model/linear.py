"""A linear layer, and the low-rank adapter that may be trained in its stead (LoRA, Hu et al. 2021, arXiv:2106.09685).

An adapted layer holds the merged weight W = W₀ + s·B·A, rounded once, and computes with it: what trains is then, bit for bit, what
the engine packs and serves, and what is saved. By the chain rule the gradients are those of A and B at this W, and need only
products of rank r; the gradient of W itself, as large as W, is never made.

Shapes: N tokens, K inputs, O outputs, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ownship.model.ops import bf16_units, linear, product, wide_linear


@dataclass(frozen=True)
class Adapter:
    """The factors of s·B·A."""

    a: Tensor  # [r, K] float32
    b: Tensor  # [O, r] float32
    scale: float  # s


class Linear(nn.Linear):
    """x [N, K] → [N, O], without bias; the result in the weight's dtype or, if `wide`, in float32 and not rounded.

    With an `adapter`, `weight` is the merged one and gradients go to the adapter's factors.
    """

    def __init__(self, inputs: int, outputs: int, wide: bool = True) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.wide = wide
        self.adapter: Adapter | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.adapter is not None and torch.is_grad_enabled():
            return _Adapted.apply(x, self.weight, self.adapter.a, self.adapter.b, self.adapter.scale, self.wide)  # type: ignore[no-untyped-call]
        return _product(x, self.weight, self.wide)

    def trained_weight(self) -> Tensor:
        """The weight [O, K] for a product that is made elsewhere; its gradient goes where that of `forward` does."""
        if self.adapter is None:
            return self.weight
        return _Merged.apply(self.weight, self.adapter.a, self.adapter.b, self.adapter.scale)  # type: ignore[no-untyped-call]


def _product(x: Tensor, weight: Tensor, wide: bool) -> Tensor:
    return wide_linear(x, weight) if wide else linear(x, weight)


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float, wide: bool) -> Tensor:
        x = x.to(weight.dtype)
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return _product(x, weight, wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None, None]:
        x, weight, a, b = ctx.saved_tensors
        grad = grads[0].to(weight.dtype)  # [N, O]
        x_grad = product(grad, weight) if ctx.needs_input_grad[0] else None
        inputs, outputs = x.float(), grad.float()
        with bf16_units(weight.dtype == torch.bfloat16 and weight.device.type == "cpu"):
            a_grad = (outputs @ b).T @ inputs  # [r, K]
            b_grad = outputs.T @ (inputs @ a.T)  # [O, r]
        return x_grad, None, a_grad.mul_(ctx.scale), b_grad.mul_(ctx.scale), None, None


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.scale = scale
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None]:
        a, b = ctx.saved_tensors
        grad = grads[0].float() * ctx.scale  # [O, K]
        return None, b.T @ grad, grad @ a.T, None
