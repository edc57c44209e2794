"""A tiny network behind the served application. One for all tests, started when the first one asks."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import HTTP, Process, Stage, Start, serving
from tiny import byte_tokenizer

from ownship.gateway.routing import Router
from ownship.gateway.upstreams import build, single
from ownship.model import checkpoint
from ownship.model.llama import Llama, LlamaConfig
from ownship.serve.app import create

CONTEXT = 4096
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the engines' processes: beside other work, threads wait for each other


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every byte is a token; weights large enough that replies depend on their prompts."""
    tokenizer = byte_tokenizer()
    sizes = LlamaConfig(vocab_size=tokenizer.size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, head_dim=8, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
                        eos_token_ids=(tokenizer.eos_id,))
    folder = tmp_path_factory.mktemp("model") / "tiny"
    checkpoint.save(Llama(sizes).init_weights(0, std=0.3), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Iterator[Stage]:
    config = single(str(tiny_folder), "tiny")
    with serving(create(Router(config, build(config, "float32")))) as stage:
        while HTTP.get(f"{stage.url}/ready").status_code != 200:
            time.sleep(0.05)
        yield stage


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:
        def started(*arguments: str, **env: str) -> Process:
            process = Process(*arguments, env={**os.environ, "OWNSHIP_STORE": str(tmp_path / "store.db"), **env})
            stack.callback(process.running.wait, 60)
            stack.callback(process.running.kill)
            return process

        yield started
