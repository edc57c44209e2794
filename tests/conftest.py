"""The default model, ours and as `transformers` reads it, and a tiny random one. Loaded once, and only if a test asks."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test may depend on the network
os.environ.setdefault("TQDM_DISABLE", "1")

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import tokenizers
import torch
from tiny import BYTES, CHATML, SPECIAL
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from ownship.model import checkpoint, zoo
from ownship.model.llama import Llama, LlamaConfig
from ownship.model.tokenizer import Tokenizer

torch.set_num_threads(1)  # beside other work on two cores, threads wait for each other longer than they help

TINY = LlamaConfig(vocab_size=264, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
                   num_key_value_heads=2, head_dim=8, max_position_embeddings=256, eos_token_ids=(257,))


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    """Engines that only the collector finds hold 2 GB of address space each: beyond a machine's memory no process can be forked."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def smollm() -> tuple[Llama, Tokenizer]:
    """The default model in float32. Not to be changed by a test."""
    return checkpoint.load(zoo.resolve(zoo.DEFAULT), torch.float32)


@pytest.fixture(scope="session")
def hf_smollm() -> Any:
    """The same file, read by `transformers`."""
    from transformers import AutoModelForCausalLM, GgufConfig

    path = zoo.resolve(zoo.DEFAULT)
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32)


@pytest.fixture(scope="session")
def hf_tokenizer() -> Any:
    from transformers import AutoTokenizer

    path = zoo.resolve(zoo.DEFAULT)
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture
def tiny_tokenizer() -> Tokenizer:
    """Every byte is a token; two merges; 256 and 257 open and close a turn."""
    vocabulary = {token: id for id, token in enumerate([*BYTES, *SPECIAL, "th", "the"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return Tokenizer(backend, "<|im_end|>", CHATML)


@pytest.fixture
def tiny_model() -> Llama:
    """Random weights, large enough that the most likely token is clear."""
    return Llama(TINY).init_weights(0, std=0.3).eval()
