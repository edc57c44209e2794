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


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Sixty short stories of few words, and a file that is none."""
    folder = tmp_path / "library"
    folder.mkdir()
    words = ["the", "ship", "sailed", "on", "through", "night", "and", "stars", "turned", "slowly", "above", "her", "masts",
             "while", "all", "slept"]
    for number in range(60):
        text = " ".join(words[(number + index * (1 + number % 3)) % len(words)] for index in range(20 + 5 * (number % 9)))
        (folder / f"{number:02}.txt").write_text(f"Story {number}: {text}.\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\0\0")
    return folder
