"""The kernels as compiled for AVX-512 and AMX, on any x86 processor with AVX2: what it lacks is emulated (tests/emulated)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import test_native as real
import torch
from tiny import need_kernels

from ownship.engine.native.forward import FORMATS, NativeForward, draw
from ownship.model.native import build

EMULATED = Path(__file__).parent.parent / "emulated"
LEVELS = {"AVX-512": ("avx512.h",), "VNNI": ("avx512.h", "vnni.h"), "AMX": ("avx512.h", "vnni.h", "amx.h")}
NEW = [("VNNI", "bfloat16"), ("VNNI", "int8"), ("AMX", "bfloat16"), ("AMX", "int8")]  # what differs from the level before
ALL = [*(("AVX-512", precision) for precision in FORMATS), *NEW]
SHAPES = [shape for shape in real.SHAPES if shape[0] < 500]
BF16_CACHE = [shape for shape in SHAPES if shape[5] % 32 == 0]


@pytest.fixture(autouse=True)
def compiled(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need_kernels()
    before = tuple(EMULATED / name for name in LEVELS[level])
    monkeypatch.setattr(build, "library", lambda source: build.compiled(source, "x86-64-v3", before))


@pytest.mark.parametrize(("level", "precision"), ALL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits(shape: tuple[int, ...], precision: str) -> None:
    real.test_logits(shape, precision)


@pytest.mark.parametrize(("level", "precision"), ALL)
def test_rows(precision: str) -> None:
    real.test_any_number_of_rows(precision)


@pytest.mark.parametrize(("level", "precision"), [("AVX-512", "float32"), *NEW])
@pytest.mark.parametrize("shape", BF16_CACHE, ids=str)
def test_company(shape: tuple[int, ...], precision: str) -> None:
    real.test_a_row_is_the_same_bit_for_bit_in_any_company(shape, precision)


@pytest.mark.parametrize(("level", "precision"), [("AVX-512", "float32"), *NEW])
def test_long_texts(precision: str) -> None:
    real.test_long_texts(precision, BF16_CACHE[0])
