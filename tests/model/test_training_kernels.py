"""The compiled operations of training against torch's own, values and gradients, and against themselves on other threads."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from test_blockwise import ROWS, plain
from tiny import tiny_model
from torch import Tensor

from ownship.model import head, ops
from ownship.model.attention import Row, RowAttention
from ownship.model.native import build, training

SIZES = [(1, 16), (7, 48), (50, 100), (33, 576)]
DTYPES = [torch.float32, torch.bfloat16]


EMULATED = tuple(Path(__file__).parent.parent / "emulated" / name for name in ("avx512.h", "vnni.h"))


@pytest.fixture(params=["native", "x86-64-v3", "AVX-512 emulated"], autouse=True)
def architecture(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiled for this machine, for one without AVX-512, and for one that has it."""
    how = ("x86-64-v3", EMULATED) if request.param == "AVX-512 emulated" else (request.param,)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "library", lambda source: build.compiled(source, *how))
        training.library.cache_clear()
        if training.library() is None:
            pytest.skip("there is no C++ compiler for these")
        yield
    training.library.cache_clear()


def both(work: Callable[[], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """What compiled code gives, and torch."""
    found = work()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "ready", lambda *_: False)
        return found, work()


def close(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    assert len(found) == len(expected)
    for one, other in zip((x.detach() for x in found), (x.detach() for x in expected), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        bound = (2e-6 if dtype == torch.float32 else 1e-2) * float(other.float().abs().max())
        assert torch.allclose(one.float(), other.float(), atol=bound, rtol=0)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return [out, *torch.autograd.grad(out, leaves, pull)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), SIZES)
def test_norm_and_activation(rows: int, size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, size) * 3, (1 + torch.rand(size)).to(dtype)
    close(*both(lambda: with_gradients(lambda x, w: ops.rms_norm(x, w, 1e-5), x, weight)), dtype)
    gate, up = (4 * torch.randn(2, rows, size)).to(dtype).unbind()
    close(*both(lambda: with_gradients(ops.swiglu, gate, up)), dtype)


def test_activation_far_out() -> None:
    gate = torch.tensor([-1e4, -100.0, -88.0, -0.0, 0.0, 88.0, 1e4]).repeat(7)
    close(*both(lambda: with_gradients(ops.swiglu, gate, torch.ones_like(gate))), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [2, 16, 40, 64])
def test_rotation(size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(size)
    angles = torch.rand(30, size // 2) * 100
    x = torch.randn(30, 3, size).to(dtype)
    close(*both(lambda: with_gradients(lambda x: ops.rotate(x, angles.cos(), angles.sin()), x)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 4, 16), (4, 2, 48), (9, 3, 64), (71, 1, 16)])
def test_attention(heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(size)
    inputs = [torch.randn(99, count, size).to(dtype) for count in (heads, kv_heads, kv_heads)]
    found = with_gradients(lambda q, k, v: RowAttention([Row(*row) for row in ROWS])(0, q, k, v), *inputs)
    wide = with_gradients(lambda q, k, v: plain(q, k, v), *(x.float() for x in inputs))
    close([x.float() for x in found], wide, torch.float32 if dtype == torch.float32 else dtype)


def test_attention_over_long_rows_and_large_scores() -> None:
    """More keys than one panel and more queries than one block, and scores whose exponentials would overflow."""
    torch.manual_seed(0)
    rows = [(0, 517, 0, 0), (517, 700, 0, 0), (700, 703, 517, 700), (703, 900, 517, 700)]
    inputs = [torch.randn(900, count, 32) * scale for count, scale in ((4, 30.0), (2, 3.0), (2, 1.0))]

    def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return RowAttention([Row(*row) for row in rows])(0, q, k, v)

    found, expected = both(lambda: with_gradients(mixed, *inputs))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * float(other.abs().max()), rtol=0)


def test_a_prefix_that_is_no_row_of_its_own() -> None:
    """Torch takes over: the compiled attention works on prompts and what follows them."""
    assert not training.Units([(0, 9, 0, 0), (9, 12, 0, 4)]).possible
    q, k, v = torch.randn(3, 12, 2, 16).unbind()
    out = RowAttention([Row(0, 9), Row(9, 12, 0, 4)])(0, q, k, v)
    alone = RowAttention([Row(0, 7)])(0, *(torch.cat((x[:4], x[9:])) for x in (q, k, v)))
    assert torch.allclose(out[9:], alone[4:], atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_head(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_BLOCK", 64)  # at least 256 of the vocabulary: two blocks, the second one short
    model = tiny_model()[0].to(dtype)
    hidden, targets = torch.randn(20, 64).to(dtype) * 3, torch.randint(model.config.vocab_size, (20,))
    targets[:2] = torch.tensor([255, 256])  # on both sides of the border

    def measured() -> list[Tensor]:
        model.zero_grad()
        rows = hidden.clone().requires_grad_()
        logprobs, entropy = head.logprobs(model, rows, targets)
        logprobs.backward(torch.linspace(-1, 1, 20))
        assert rows.grad is not None and model.embed_tokens.weight.grad is not None
        return [logprobs, entropy, rows.grad, model.embed_tokens.weight.grad]

    found, expected = both(measured)
    close(found, expected, torch.float32 if dtype == torch.float32 else torch.bfloat16)
    full = (hidden.double() @ model.embed_tokens.weight.double().T).log_softmax(-1)
    assert torch.allclose(found[0].double(), full.gather(1, targets[:, None])[:, 0], atol=1e-5)
    assert torch.allclose(found[1].double(), -(full.exp() * full).sum(-1), atol=1e-5)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(99, count, 16) for count in (4, 2, 2)]
    x, weight = torch.randn(40, 64), torch.rand(64)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append([*with_gradients(lambda q, k, v: RowAttention([Row(*row) for row in ROWS])(0, q, k, v), *inputs),
                          *with_gradients(lambda x, w: ops.rms_norm(x, w, 1e-5), x, weight)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for others in found[1:] for one, other in zip(found[0], others, strict=True))


def log_softmax(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return torch.log_softmax(hidden.float() @ weight.float().T, -1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_kept_for_the_backward_pass_or_made_again(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(4)
    hidden, weight = (torch.randn(size, 64, generator=draw).to(dtype) for size in (40, 700))
    targets = torch.randint(700, (40,), generator=draw)
    monkeypatch.setattr(head, "widens", lambda _: True)

    def work() -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
        out = head._Logprobs.apply(*leaves, targets)[0]  # type: ignore[no-untyped-call]
        pull = torch.randn(40, generator=torch.Generator().manual_seed(9))
        first = torch.autograd.grad(out, leaves, pull, retain_graph=True)
        return [out, *first, *torch.autograd.grad(out, leaves, pull)]

    kept = work()
    assert all(torch.equal(one, again) for one, again in zip(kept[1:3], kept[3:], strict=True))
    close(kept[:3], with_gradients(lambda hidden, weight: log_softmax(hidden, weight, targets), hidden, weight), dtype)
    monkeypatch.setattr(head, "_KEPT", 0)
    assert all(torch.equal(one, other) for one, other in zip(kept, work(), strict=True))


where_it_is = pytest.mark.parametrize("architecture", ["x86-64-v3"], indirect=True)


@where_it_is
@pytest.mark.parametrize("sizes", [(32, 32, 32), (33, 47, 65), (100, 200, 300), (193, 129, 640), (333, 334, 1000)], ids=str)
@pytest.mark.parametrize("dtypes", [DTYPES, DTYPES[::-1], DTYPES[1:] * 2], ids=str)
def test_products_in_fixed_point(sizes: tuple[int, int, int], dtypes: list[torch.dtype]) -> None:
    """Of matrices that lie either way, some numbers a thousand times the others; errors within half a step of each number."""
    rows, columns, sums = sizes
    draw = torch.Generator().manual_seed(rows)
    a, b = torch.randn(rows, sums, generator=draw), torch.randn(sums, columns, generator=draw)
    a[:, :: sums // 3] *= 1000
    a, b = a.to(dtypes[0]), b.to(dtypes[1])
    assert training.multiplies(a, b)
    exact, bound = a.double() @ b.double(), torch.zeros(rows, columns, dtype=torch.float64)
    for x, y in zip(a.double().abs().split(64, 1), b.double().abs().split(64, 0), strict=True):
        half, other = x.amax(1, keepdim=True) / 11584, y.amax(0, keepdim=True) / 11584
        bound += half * y.sum(0) + (x.sum(1, keepdim=True) + half * len(y)) * other
    expected = None
    for left in (a, a.T.contiguous().T):
        for right in (b, b.T.contiguous().T):
            found = training.product(left, right, torch.empty(rows, columns))
            assert float(((found - exact).abs() / bound).max()) < 1
            assert expected is None or torch.equal(found, expected)
            expected = found
            rounded = training.product(left, right, torch.empty(rows, columns, dtype=torch.bfloat16))
            assert torch.equal(rounded, found.bfloat16())
    torch.set_num_threads(3)
    try:
        assert torch.equal(training.product(a, b, torch.empty(rows, columns)), expected)
    finally:
        torch.set_num_threads(1)


@where_it_is
def test_products_hide_no_infinity() -> None:
    a, b = torch.randn(40, 100), torch.randn(100, 50)
    assert training.multiplies(a, b)
    a[3, 70], a[5, 0] = torch.nan, torch.inf
    b[99, 7] = -torch.inf
    for left in (a, a.T.contiguous().T):
        found = training.product(left, b, torch.empty(40, 50)).isnan()
        expected = torch.zeros(40, 50, dtype=torch.bool)
        expected[[3, 5]] = expected[:, 7] = True
        assert torch.equal(found, expected)


@where_it_is
def test_small_products_in_fixed_point() -> None:
    """Gradients are: of 1e-30 and of 1e30 alike."""
    a, b = torch.randn(40, 100), torch.randn(100, 50)
    assert training.multiplies(a, b)
    for scale in (1e-30, 1e30):
        found = training.product(a * scale, b, torch.empty(40, 50))
        assert torch.allclose(found / scale, a @ b, atol=1e-2), scale
    assert not training.product(a * 0, b, torch.empty(40, 50)).any()
