"""The kernels as compiled for AVX-512 and AMX, on any x86 processor with AVX2: what it lacks is emulated (tests/emulated)."""

from __future__ import annotations

from pathlib import Path

import pytest
import test_native as real
import torch
from tiny import need_kernels

from ownship.engine.forward import Chunk
from ownship.engine.native.forward import FORMATS, NativeForward
from ownship.model.native import build

EMULATED = Path(__file__).parent.parent / "emulated"
LEVELS = {"AVX-512": ("avx512.h",), "VNNI": ("avx512.h", "vnni.h"), "AMX": ("avx512.h", "vnni.h", "tiles.h", "calls.h"),
          "AMX's instructions": ("avx512.h", "vnni.h", "tiles.h", "instructions.h")}
# what differs from the level before
NEW = [("VNNI", "bfloat16"), ("VNNI", "int8"), ("VNNI", "int4"), ("AMX", "bfloat16"), ("AMX", "int8")]
ALL = [*(("AVX-512", precision) for precision in FORMATS), *NEW]
SHAPES = [shape for shape in real.SHAPES if shape[0] < 500]
BF16_CACHE = [shape for shape in SHAPES if shape[5] % 32 == 0]


def before(level: str) -> tuple[Path, ...]:
    """What is read before a source."""
    return tuple(EMULATED / name for name in LEVELS[level])


@pytest.fixture(autouse=True)
def compiled(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need_kernels()
    monkeypatch.setattr(build, "library", lambda source: build.compiled(source, "x86-64-v3", before(level)))


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_is_the_one_meant(level: str) -> None:
    """With AMX the cache is in bf16 where that can work on it, else for weights that no learner has."""
    assert len(BF16_CACHE) < len(SHAPES)
    for shape in SHAPES:
        model = real.network(shape)
        pools = {precision: NativeForward(model, real.CACHE, precision).pool for precision in FORMATS}
        found = {precision for precision, pool in pools.items() if pool.keys.dtype == torch.bfloat16}
        if level.startswith("AMX"):
            assert found == ({"bfloat16", "int8", "int4"} if shape in BF16_CACHE else set())
        else:
            assert found == {"int8", "int4"}


@pytest.mark.parametrize(("level", "precision"), ALL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits(shape: tuple[int, ...], precision: str) -> None:
    real.test_logits(shape, precision)


@pytest.mark.parametrize(("level", "precision"), [("AMX's instructions", "bfloat16"), ("AMX's instructions", "int8")])
def test_instructions(precision: str) -> None:
    """What the compiler makes of the intrinsics, too: the same bits as by calls."""
    model = real.network(BF16_CACHE[1])
    chunks = [Chunk(real.ids(model, length), 0, list(range(length, length + 4)), length) for length in (1, 7, 13, 40)]
    results = [NativeForward(model, real.CACHE, precision)(chunks)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "library", lambda source: build.compiled(source, "x86-64-v3", before("AMX")))
        results.append(NativeForward(model, real.CACHE, precision)(chunks))
    assert torch.equal(*results)


@pytest.mark.parametrize(("level", "precision"), ALL)
def test_rows(precision: str) -> None:
    real.test_any_number_of_rows(precision)


@pytest.mark.parametrize(("level", "precision"), [("AVX-512", "float32"), *NEW])
@pytest.mark.parametrize("shape", BF16_CACHE, ids=str)
def test_company(shape: tuple[int, ...], precision: str) -> None:
    real.test_a_row_is_the_same_bit_for_bit_in_any_company(shape, precision)


@pytest.mark.parametrize(("level", "precision"), [("AVX-512", "float32"), *NEW])
def test_long_texts(precision: str) -> None:
    real.test_long_texts(BF16_CACHE[0], precision)
