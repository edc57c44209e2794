"""The compiled operations of training, on tensors in this machine's memory. What they compute is said where they are used:
`model/ops.py`, `model/attention.py`, `model/head.py`.

Shapes: N tokens, D hidden size, H query heads, K key/value heads, E head size, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ownship.model.native import build

SOURCE = Path(__file__).with_name("training.cpp")
_pointer, _int = ctypes.c_void_p, ctypes.c_int32
_ARGUMENTS = {"norm": "ppifiipp", "norm_backward": "ppippiipp", "swiglu": "ppilp", "swiglu_backward": "pppilpp",
              "rotate": "pippiiiip", "scored": "ppliipppp", "scored_backward": "pplppii", "product": "pillpilliiipi"}
_TYPES = {"p": _pointer, "i": _int, "f": ctypes.c_float, "l": ctypes.c_int64}


class _Attention(ctypes.Structure):
    _fields_ = (*((name, _int) for name in ("heads", "kv_heads", "size", "bf16", "units", "threads")),
                *((name, _pointer) for name in ("rows", "ends", "q", "k", "v", "out", "normalizers", "grad",
                                                "q_grad", "k_grad", "v_grad")))


@cache
def library() -> ctypes.CDLL | None:
    """The compiled operations, or None where they cannot be had: torch does the same then."""
    try:
        found = build.library(SOURCE)
    except build.Unavailable:
        return None
    for name, kinds in _ARGUMENTS.items():
        if name != "product" or hasattr(found, "ownship_product"):
            getattr(found, f"ownship_{name}").argtypes = [*(_TYPES[kind] for kind in kinds), _int]
    return found


def ready(*tensors: Tensor) -> bool:
    """Whether these can be given to the compiled operations: in this machine's memory, float32 or bf16."""
    return all(x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) for x in tensors) and library() is not None


def _call(name: str, *arguments: Tensor | float | int) -> None:
    found = library()
    assert found is not None
    given = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    getattr(found, f"ownship_{name}")(*given, torch.get_num_threads())


def _bf16(x: Tensor) -> int:
    return int(x.dtype == torch.bfloat16)


def multiplies(a: Tensor, b: Tensor) -> bool:
    """Whether a [M, K] and b [K, N] are for `product`: on a processor on which it is faster than torch's, and large enough."""
    return ready(a, b) and hasattr(library(), "ownship_product") and min(*a.shape, b.shape[1]) >= 32


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a [M, K] times b [K, N] into `out` [M, N], all in float32 or bf16. Numbers are rounded to 1/5792 of the largest of 64 along K
    (native/fixed.h): with those of a network less than a tenth of bf16's rounding."""
    a, b = (x if 1 in x.stride() else x.contiguous() for x in (a, b))
    assert out.is_contiguous() and out.shape == (len(a), b.shape[1])
    _call("product", a, _bf16(a), *a.stride(), b, _bf16(b), *b.stride(), len(a), b.shape[1], a.shape[1], out, _bf16(out))
    return out


def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x [N, D] float32 → x / rms(x) · weight in the weight's dtype, and 1 / rms(x) [N]."""
    out, scale = torch.empty(x.shape, dtype=weight.dtype), torch.empty(len(x))
    _call("norm", x, weight, _bf16(weight), eps, *x.shape, out, scale)
    return out, scale


def norm_backward(x: Tensor, weight: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and, in float32, of the weight."""
    x_grad, weight_grad = torch.empty_like(x), torch.empty(x.shape[1])
    _call("norm_backward", x, weight, _bf16(weight), scale, grad.contiguous(), *x.shape, x_grad, weight_grad)
    return x_grad, weight_grad


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    out = torch.empty_like(gate)
    _call("swiglu", gate, up, _bf16(gate), gate.numel(), out)
    return out


def swiglu_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    gate_grad, up_grad = torch.empty_like(gate), torch.empty_like(up)
    _call("swiglu_backward", gate, up, grad.contiguous(), _bf16(gate), gate.numel(), gate_grad, up_grad)
    return gate_grad, up_grad


def rotate(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """x [N, heads, E] turned by the angles of cos and sin [N, E/2], or back."""
    out = torch.empty_like(x)
    _call("rotate", x, _bf16(x), cos, sin, *x.shape, int(back), out)
    return out


def scored(logits: Tensor, targets: Tensor, offset: int, seen: Tensor) -> None:
    """Adds logits [M, n] float32 of the vocabulary from `offset` on to what was seen of it, [4, M]: see model/head.py."""
    _call("scored", logits, targets, offset, *logits.shape, *seen)


def scored_backward(logits: Tensor, targets: Tensor, offset: int, normalizers: Tensor, grad: Tensor) -> None:
    """Turns such logits into their gradient, given that of the targets' log-probabilities [M]."""
    _call("scored_backward", logits, targets, offset, normalizers, grad, *logits.shape)


class Units:
    """Rows (start, stop, prefix start, prefix stop) in the order in which attention takes them: each prompt, then the rows that see
    it. A unit is worked on by one thread."""

    def __init__(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        units: dict[tuple[int, int], list[tuple[int, int, int, int]]] = {row[:2]: [row] for row in rows if row[2] == row[3]}
        self.possible = all(row[2] == row[3] or row[2:] in units for row in rows)  # else a prefix is not a row of its own
        if self.possible:
            for row in rows:
                if row[2] < row[3]:
                    units[row[2:]].append(row)
        ordered = list(units.values())
        self.rows = torch.tensor([row for unit in ordered for row in unit], dtype=torch.int32)
        self.ends = torch.tensor([len(unit) for unit in ordered]).cumsum(0).int()


def _attention(q: Tensor, k: Tensor, v: Tensor, units: Units, backward: bool, **more: Tensor) -> None:
    found = library()
    assert found is not None and q.dtype == k.dtype == v.dtype and all(x.is_contiguous() for x in (q, k, v))
    asked = _Attention(q.shape[1], k.shape[1], q.shape[2], _bf16(q), len(units.ends), torch.get_num_threads(),
                       units.rows.data_ptr(), units.ends.data_ptr(), q.data_ptr(), k.data_ptr(), v.data_ptr(),
                       **{name: x.data_ptr() for name, x in more.items()})
    found.ownship_attention(ctypes.byref(asked), int(backward))


def attention(q: Tensor, k: Tensor, v: Tensor, units: Units) -> tuple[Tensor, Tensor]:
    """q [N, H, E], k and v [N, K, E] of one dtype → mixed values [N, H, E], and what the backward pass
    needs to normalise each query's scores [N, H, 2]."""
    out, normalizers = torch.empty_like(q), torch.empty(*q.shape[:2], 2)
    _attention(q, k, v, units, False, out=out, normalizers=normalizers)
    return out, normalizers


def attention_backward(q: Tensor, k: Tensor, v: Tensor, units: Units, normalizers: Tensor,
                       grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scores are computed again (as FlashAttention does, arXiv:2205.14135, section 3). Gradients of q, k and v."""
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    grad = grad.contiguous()
    _attention(q, k, v, units, True, normalizers=normalizers, grad=grad, q_grad=grads[0], k_grad=grads[1], v_grad=grads[2])
    return grads
