"""Servers as a person starts them: `ownship serve` in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import byte_tokenizer

from ownship.model import checkpoint, zoo
from ownship.model.llama import Llama, LlamaConfig

ROOT = Path(__file__).parents[2]
BENCH = Path(os.environ.get("OWNSHIP_BENCH_DIR") or ROOT / ".bench")
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}


@dataclass(frozen=True)
class Server:
    host: str  # with the port
    pid: int

    @property
    def url(self) -> str:
        return f"http://{self.host}"


def venv(name: str) -> str:
    """The Python of a peer's environment; skips where `make test-clients` has not made it."""
    if not (BENCH / name / "ready").exists():
        pytest.skip(f"no {name} here: make test-clients sets it up")
    return str(BENCH / name / "bin" / "python")


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    """`ownship serve` on a free port, with a store in `folder`, until it says where it is."""
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ownship", "serve", *arguments, "--port", "0", "--store", str(folder / "store.db")],
            stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | QUIET)
    watchdog = threading.Timer(300, process.kill)  # whatever it waits for: a hang is a failure
    watchdog.start()
    try:
        assert process.stdout is not None
        found = re.search(r"http://([\w.]+:\d+)", process.stdout.readline())
        assert found, (folder / "server.log").read_text()[-2000:]
        watchdog.cancel()
        yield Server(found[1], process.pid)
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tiny random network in the default model's place: what clients do is the same, and takes a hundredth of the time."""
    folder = tmp_path_factory.mktemp("server")
    tokenizer = byte_tokenizer()
    sizes = LlamaConfig(vocab_size=tokenizer.size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, head_dim=8, max_position_embeddings=8192, tie_word_embeddings=True,
                        eos_token_ids=(tokenizer.eos_id,))
    checkpoint.save(Llama(sizes).init_weights(0, std=0.3), tokenizer, folder / "model")
    with serving(folder, str(folder / "model"), "--name", zoo.DEFAULT, "--precision", "float32") as one:
        yield one
