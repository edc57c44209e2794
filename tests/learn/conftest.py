"""A tiny network with a byte tokenizer, taught in seconds to add up two small numbers, not always rightly."""

import os
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from ownship.model import checkpoint
from ownship.recipes import sft
from ownship.recipes.settings import OptimSettings


@pytest.fixture(scope="session")
def pupil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: knows the form of an answer, and sometimes the answer."""
    folder = tmp_path_factory.mktemp("pupil")
    checkpoint.save(*tiny_model(), folder / "raw")
    sft.run(sft.SFT(model=str(folder / "raw"), env="sums:low=2,high=2,largest=3,worked=0", out=folder / "run", steps=40,
                    optim=OptimSettings(lr=1e-2, warmup=3), dtype="float32"))
    return folder / "run" / "model"


@pytest.fixture
def one_thread() -> dict[str, str]:
    """Environment of a child process whose arithmetic is the same each time."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _same_random() -> None:
    torch.manual_seed(0)
