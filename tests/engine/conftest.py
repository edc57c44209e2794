"""A tiny random network over the first tokens of the default model's vocabulary: bytes, special tokens, short pieces."""

from __future__ import annotations

import pytest
from tiny import need_kernels

from ownship.model import gguf, zoo
from ownship.model.llama import Llama, LlamaConfig
from ownship.model.tokenizer import Tokenizer, from_gguf

VOCABULARY = 320


@pytest.fixture(scope="session")
def pieces() -> Tokenizer:
    """The default model's tokenizer; id 2 ends a turn."""
    path = zoo.resolve(zoo.DEFAULT)
    return from_gguf(gguf.GGUF(path).meta, path)


@pytest.fixture(params=["compiled", "torch"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Llama:
    """For engines on compiled kernels and on plain torch."""
    monkeypatch.setenv("OWNSHIP_NATIVE", "0" if request.param == "torch" else "1")
    if request.param == "compiled":
        need_kernels()
    sizes = LlamaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, head_dim=16, max_position_embeddings=512)
    return Llama(sizes).init_weights(0, std=0.3)
