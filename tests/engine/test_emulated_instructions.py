"""The emulation itself: each instruction on numbers and edges, against torch and numpy; and where the processor has the real ones,
against those, bit for bit."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_native_emulated import LEVELS, before
from tiny import need_kernels

from ownship.model.native import build

SOURCE = Path(__file__).parent.parent / "emulated" / "instructions.cpp"
FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
EDGES = [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 1e-40, -1e-40, 3e38, -3.4e38, np.inf, -np.inf, np.nan, 1.00390625, 1.01171875]
POWERS = [0.5, -3.0, 2.5, -0.0, 126.0, -126.0, -149.0, 3.0, 1.0, -140.0, 0.0, 2.0, 1.0, -1.0, 7.0, -20.0]


@pytest.fixture(params=["emulated", "instructions", "real"])
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    need_kernels()
    if request.param != "real":
        return build.compiled(SOURCE, "x86-64-v3", before("AMX" if request.param == "emulated" else "AMX's instructions"))
    if not all(f" {flag}" in FLAGS for flag in ("avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")):
        pytest.skip("this processor has no AMX: its instructions are only emulated")
    return build.compiled(SOURCE)


def call(function: ctypes._NamedFuncPointer, *arrays: NDArray[np.generic] | int) -> None:  # type: ignore[type-arg]
    function(*(x if isinstance(x, int) else ctypes.c_void_p(x.ctypes.data) for x in arrays))


def test_floats(library: ctypes.CDLL) -> None:
    draw = np.random.default_rng(0)
    rows = [(np.array(EDGES, np.float32), np.array(POWERS, np.float32))]
    rows += [(draw.normal(size=16).astype(np.float32) * 40, draw.normal(size=16).astype(np.float32) * 40) for _ in range(50)]
    for a, b in rows:
        larger, whole, scaled = np.empty((3, 16), np.float32)
        nearest = np.empty(16, np.int32)
        call(library.floats, a, b, larger, nearest, whole, scaled)
        with np.errstate(all="ignore"):
            assert np.array_equal(larger, np.where(a > b, a, b), equal_nan=True)
            assert np.array_equal(whole, np.rint(a), equal_nan=True)
            fits = np.abs(a) < 2**31
            assert np.array_equal(nearest, np.where(fits, np.rint(np.where(fits, a, 0)), -(2**31)).astype(np.int32))
            expected = np.where(a >= b, np.ldexp(a.astype(np.float64), np.floor(b).astype(np.int32)), 0).astype(np.float32)
            assert np.array_equal(scaled, expected, equal_nan=True)


def test_bytes_and_words(library: ctypes.CDLL) -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        a, places = draw.integers(-128, 128, (2, 64)).astype(np.int8)
        four = draw.integers(-(2**31), 2**31, 4).astype(np.int32)
        shuffled, shifted, repeated = np.empty(64, np.int8), np.empty(32, np.int16), np.empty(16, np.int32)
        call(library.bytes, a, places, four, shuffled, shifted, repeated)
        lanes = np.arange(64) // 16 * 16
        assert np.array_equal(shuffled, np.where(places < 0, 0, a[lanes + (places & 15)]))
        assert np.array_equal(shifted, a.view(np.int16) >> 8)
        assert np.array_equal(repeated, np.tile(four, 4))
        x, y = draw.integers(-32768, 32768, (2, 32)).astype(np.int16)
        x[:4] = y[:4] = -32768  # whose products together are one too many for 32 bits
        sums = draw.integers(-(2**31), 2**31, 16).astype(np.int32)
        wide = np.empty(32, np.int16)
        products = sums.astype(np.int64) + (x.astype(np.int64) * y).reshape(16, 2).sum(1)
        call(library.words, x, y, sums, a, wide)
        assert np.array_equal(sums, products.astype(np.int32)) and np.array_equal(wide, a[:32])
        whole = draw.integers(0, 256, 64).astype(np.uint8)
        products = sums.astype(np.int64) + (whole.astype(np.int64) * a).reshape(16, 4).sum(1)
        call(library.fours, whole, a, sums)
        assert np.array_equal(sums, products.astype(np.int32))


def test_bf16(library: ctypes.CDLL) -> None:
    draw = np.random.default_rng(0)
    for x in [np.array(EDGES, np.float32), *(draw.integers(0, 2**32, (200, 16), np.uint32).view(np.float32))]:
        y = np.empty(16, np.uint16)
        call(library.bf16, x, y)
        small = np.abs(x) < np.finfo(np.float32).tiny  # denormal: torch keeps these, the instruction does not
        expected = torch.from_numpy(np.where(small, np.copysign(np.float32(0), x), x)).bfloat16()
        found = torch.from_numpy(y.view(np.int16)).view(torch.bfloat16)
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.view(torch.int16)[~found.isnan()], expected.view(torch.int16)[~found.isnan()])


@pytest.mark.parametrize("sizes", [(16, 16, 16), (16, 16, 8), (3, 16, 16), (1, 5, 7), (16, 1, 1)])
def test_tiles(library: ctypes.CDLL, sizes: tuple[int, int, int]) -> None:
    m, n, k = sizes
    draw = np.random.default_rng(m + n + k)
    a, b = draw.integers(-128, 128, (2, 16, 96)).astype(np.int8)  # rows 96 bytes apart
    c = draw.integers(-(2**31), 2**31, (16, 24)).astype(np.int32)
    settings, expected = np.empty(64, np.uint8), c.copy()
    call(library.product, m, n, k, 0, a, b, c, 96, settings)
    left, right = a[:m, : 4 * k].astype(np.int64), b[:k, : 4 * n].astype(np.int64).reshape(k, n, 4)
    expected[:m, :n] += np.einsum("mki,kni->mn", left.reshape(m, k, 4), right).astype(np.int32)
    assert np.array_equal(c, expected)
    assert settings[0] == 1 and settings[16] == 4 * n and settings[30] == 4 * k
    assert list(settings[48:56]) == [m, 0, k, 0, 0, 0, 0, m]

    x, y = (torch.randn(16, 48, generator=torch.Generator().manual_seed(seed)).bfloat16() for seed in (0, 1))
    x[0, 0], y[0, 1] = 1e-39, 1e-39  # counts as 0
    sums = draw.normal(size=(16, 24)).astype(np.float32)
    results = sums.copy()
    call(library.product, m, n, k, 1, x.view(torch.int16).numpy(), y.view(torch.int16).numpy(), sums, 96, settings)
    x[0, 0] = y[0, 1] = 0
    for row in range(m):  # even and odd ones on their own, each in order, by multiplication and addition rounded once
        pairs = torch.zeros(n, 2)
        for i in range(k):
            pairs = (pairs.double() + x[row, 2 * i : 2 * i + 2].double() * y[i, : 2 * n].view(n, 2).double()).float()
        results[row, :n] += (pairs[:, 0] + pairs[:, 1]).numpy()
    assert np.array_equal(sums, results)


def test_levels() -> None:
    """Every header of the emulation is used by some level."""
    assert {name for names in LEVELS.values() for name in names} == {path.name for path in SOURCE.parent.glob("*.h")}
