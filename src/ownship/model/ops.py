"""The operations of a layer that torch has not as we want them, with backward passes that keep only what they need.

Plain autograd would keep every float32 intermediate: 0.5 MB per token on the 135M network, more than everything else together.
Each computes in float32 and rounds its result once: what is rounded less, sampler and learner agree on better.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ownship.model.native import training


@contextmanager
def bf16_units(wanted: bool) -> Iterator[None]:
    """float32 products on oneDNN's bf16 units: inputs rounded to bf16, sums and result in float32."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if wanted:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


_rounded = False


@contextmanager
def rounded(wanted: bool) -> Iterator[None]:
    """Forward passes inside round the result of every product to the weights' type, and attention over long rows what goes into its
    products: faster, for training that no sampler has to agree with."""
    global _rounded
    before, _rounded = _rounded, wanted
    try:
        yield
    finally:
        _rounded = before


def is_rounded() -> bool:
    return _rounded


@cache
def widens(device: str = "cpu") -> bool:
    """Whether products of bf16 tensors on this type of device are made otherwise: an x86 processor without AVX-512 has nothing that
    multiplies bf16, and torch's own product is four to thirty times slower there than the one in float32 (docs/log.md). They are
    made in fixed point (native/fixed.h), small ones and those without a compiler of float32 copies."""
    return device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


def _slow(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and widens(x.device.type)


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a [M, K] @ b [K, N], as `operand` gives them, summed in float32 and rounded to b's dtype. Without gradient."""
    if not _slow(b):
        return torch.mm(a, b, out=out)
    return _widened(a, b, torch.empty(len(a), b.shape[1], dtype=b.dtype) if out is None else out)


def operand(x: Tensor, like: Tensor) -> Tensor:
    """x as it goes into a product with tensors `like` that one: rounded to its dtype, unless it would only be widened again."""
    return x if _slow(like) else x.to(like.dtype)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, K] times a weight [O, K] → [N, O], rounded to the weight's dtype."""
    x = x.to(weight.dtype)
    if _slow(weight):
        return _Linear.apply(x, weight, False)  # type: ignore[no-untyped-call]
    return F.linear(x, weight)


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """a [M, K] @ b [K, N] → float32, not rounded. If b is in bf16, a holds bf16 values too, whatever its dtype:
    fast bf16 units lose nothing then. Without gradient."""
    if _slow(b):
        return _widened(a, b, torch.empty(len(a), b.shape[1]))
    with bf16_units(b.dtype == torch.bfloat16 and b.device.type == "cpu"):
        return a.float() @ b.float()


def _widened(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return training.product(a, b, out) if training.multiplies(a, b) else out.copy_(a.float() @ b.float())


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if x.dtype == torch.float32 and training.ready(x, weight):
            out, scale = training.norm(x, weight, eps)
            ctx.save_for_backward(x, weight, scale)
            return out
        wide = x.float()
        scale = torch.rsqrt(torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(eps)).unsqueeze(-1)  # 1 / rms(x), [N, 1]
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        if scale.dim() == 1:  # a compiled forward pass
            back = training.norm_backward(x, weight, scale, grads[0])
            return back[0], back[1].to(weight.dtype), None
        unit = x.float() * scale  # x / rms(x)
        grad = grads[0].float()
        weight_grad = (grad * unit).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad = grad * weight
        # d/dx of x/rms(x): the part of the gradient along x itself vanishes
        along = torch.linalg.vecdot(grad, unit).div_(x.shape[-1]).unsqueeze(-1)
        return grad.sub_(unit.mul_(along)).mul_(scale).to(x.dtype), weight_grad, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        if training.ready(gate, up):
            return training.swiglu(gate, up)
        return F.silu(gate.float()).mul_(up).to(gate.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        if training.ready(gate, up):
            return training.swiglu_backward(gate, up, grads[0])
        up_grad = F.silu(gate).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up, gate), up_grad


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return training.rotate(x, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return training.rotate(grads[0].contiguous(), cos, sin, back=True), None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, wide: bool) -> Tensor:
        x = x.to(weight.dtype)
        ctx.save_for_backward(x, weight)
        return (wide_product if wide else product)(x, weight.T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = operand(grads[0], weight)
        return (product(grad, weight) if ctx.needs_input_grad[0] else None,
                product(grad.T, x) if ctx.needs_input_grad[1] else None, None)


def wide_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, K] times a bf16 weight [O, K] → [N, O] in float32, summed in float32 and not rounded. In float32, on devices that
    have no such product, and inside `rounded`, the plain one."""
    if weight.dtype == torch.float32 or weight.device.type != "cpu" or _rounded:
        return linear(x, weight)
    return _Linear.apply(x, weight, True)  # type: ignore[no-untyped-call]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight over the last dimension, [N, D], in the weight's dtype; computed in float32 (arXiv:1910.07467)."""
    return _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up (arXiv:2002.05202), [N, I]."""
    return _SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv:2104.09864) in the half-split layout: x [N, heads, E], cos and sin [N, E/2] float32 → x's shape and
    dtype."""
    if training.ready(x):
        return _Rotate.apply(x.contiguous(), cos, sin)  # type: ignore[no-untyped-call]
    cos, sin = cos[:, None], sin[:, None]
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
