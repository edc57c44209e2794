"""A tiny random network with the default model's tokenizer, and servers around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import CONTEXT, Server, running

from ownship.engine.engine import Engine
from ownship.model import gguf, zoo
from ownship.model.llama import Llama, LlamaConfig
from ownship.model.tokenizer import Tokenizer, from_gguf


@pytest.fixture(scope="session")
def smol_tokenizer() -> Tokenizer:
    path = zoo.resolve(zoo.DEFAULT)
    return from_gguf(gguf.GGUF(path).meta, path)


@pytest.fixture(scope="session")
def tiny() -> Llama:
    """Weights large enough that replies depend on their prompts, and that no two best tokens are nearly equal."""
    sizes = LlamaConfig(vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, head_dim=8, max_position_embeddings=CONTEXT)
    return Llama(sizes).init_weights(0, std=0.3)


@pytest.fixture(scope="session")
def server(tiny: Llama, smol_tokenizer: Tokenizer) -> Iterator[Server]:
    with running(Engine(tiny, smol_tokenizer), max_waiting=256) as found:
        yield found


@pytest.fixture
def narrow(tiny: Llama, smol_tokenizer: Tokenizer) -> Iterator[Server]:
    """One request runs, one waits."""
    with running(Engine(tiny, smol_tokenizer, max_rows=1), max_waiting=1) as found:
        yield found
