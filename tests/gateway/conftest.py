"""Engines in processes of their own: a tiny random network, and the default model. One of each for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import LOOP, Door, opened
from tiny import byte_tokenizer

from ownship.model import checkpoint, zoo
from ownship.model.llama import Llama, LlamaConfig


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every byte is a token; weights large enough that replies depend on their prompts."""
    tokenizer = byte_tokenizer()
    sizes = LlamaConfig(vocab_size=tokenizer.size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, head_dim=8, max_position_embeddings=4096, tie_word_embeddings=True,
                        eos_token_ids=(tokenizer.eos_id,))
    folder = tmp_path_factory.mktemp("model") / "tiny"
    checkpoint.save(Llama(sizes).init_weights(0, std=0.3), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Iterator[Door]:
    with opened(str(tiny_folder), precision="float32") as door:
        yield door


@pytest.fixture(scope="session")
def default() -> Iterator[Door]:
    with opened(zoo.DEFAULT, precision="float32", cache_bytes=256 << 20) as door:
        yield door


@pytest.fixture(scope="session", autouse=True)
def _loop() -> Iterator[None]:
    yield
    LOOP.close()
