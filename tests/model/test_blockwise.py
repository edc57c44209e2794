"""Attention block by block against plain softmax attention under a mask, values and gradients."""

import pytest
import torch
from torch import Tensor

from ownship.model import blockwise as module
from ownship.model.attention import Row, RowAttention
from ownship.model.blockwise import blockwise

# Two rows, and a prefix that three rows share, one of them a single token.
ROWS = [(0, 37, 0, 0), (37, 40, 0, 0), (40, 51, 0, 0), (51, 70, 40, 51), (70, 71, 40, 51), (71, 99, 40, 51)]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    length = len(q)
    seen = torch.zeros(length, length, dtype=torch.bool)
    for start, stop, prefix_start, prefix_stop in ROWS:
        seen[start:stop, prefix_start:prefix_stop] = True
        seen[start:stop, start:stop] = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhe,khe->hqk", q, k) * q.shape[2] ** -0.5
    return torch.einsum("hqk,khe->qhe", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("block", [1, 7, 16, 256])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_values_and_gradients(block: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    inputs = [torch.randn(99, heads, 8, requires_grad=True) for heads in (4, kv_heads, kv_heads)]
    pull = torch.randn(99, 4, 8)
    expected = plain(*inputs)
    wanted = torch.autograd.grad(expected, inputs, pull)
    found = blockwise(*inputs, ROWS)
    assert torch.allclose(found, expected, atol=1e-5)
    for one, other in zip(torch.autograd.grad(found, inputs, pull), wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_long_rows_are_what_short_ones_are() -> None:
    """A stream trained on with one row too long for the padded way gives the others what they had without it."""
    lengths, draw = (300, 20, 100), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(420, heads, 8, generator=draw, requires_grad=True) for heads in (4, 2, 2))
    whole = RowAttention([Row(0, 300), Row(300, 320), Row(320, 420)])(0, q, k, v)
    at = 300
    for length in lengths[1:]:
        alone = RowAttention([Row(0, length)])(0, *(x[at : at + length] for x in (q, k, v)))
        assert torch.allclose(whole[at : at + length], alone, atol=1e-5)
        at += length
