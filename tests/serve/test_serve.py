"""`ownship serve` as a process: how it starts, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from openai import APIError, OpenAI

from ownship import cli
from ownship.model import checkpoint
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tiny: Llama, smol_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with so much room for a reply that none ends by itself while a test looks."""
    model = Llama(replace(tiny.config, max_position_embeddings=1 << 20))
    model.load_state_dict(tiny.state_dict())
    path = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.save(model, smol_tokenizer, path)
    return path


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "ownship", "serve", str(folder), "--port", "0", "--name", "small"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield running
    running.kill()
    running.wait()


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"serving small at (http://127\.0\.0\.1:\d+)/v1 ", line)
    assert found, line
    return found[1]


def test_interrupt_ends_it_cleanly(process: subprocess.Popen[str]) -> None:
    url = address(process)
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client, httpx.Client() as idle:
        assert idle.get(f"{url}/health").status_code == 200  # and keeps its connection
        assert [model.id for model in client.models.list()] == ["small"]
        chunks = client.chat.completions.create(model="small", messages=[{"role": "user", "content": "Hi"}], stream=True, n=4,
                                                max_tokens=100_000)
        next(chunks)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        with pytest.raises(APIError, match="shutting down"):
            list(chunks)
    assert process.returncode == 0
    assert "Traceback" not in out + err


def test_what_it_prints_can_be_run(process: subprocess.Popen[str]) -> None:
    address(process)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(6)]
    curl = next(line for line in lines if "curl" in line)
    answer = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=120)
    assert '"chat.completion"' in answer.stdout, answer
    code = [line.strip() for line in lines if "client" in line or "import" in line]
    assert len(code) == 3
    scope: dict[str, object] = {}
    exec("\n".join([*code[:2], f"reply = {code[2]}"]), scope)
    assert type(scope["reply"]).__name__ == "ChatCompletion"


def test_port_in_use(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ownship.machine.prepare", lambda: None)  # not for the test process
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(folder), "--port", str(port)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert f"port {port}" in printed.err and "--port" in printed.err


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_impossible_port(port: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ownship.machine.prepare", lambda: None)
    assert cli.main(["serve", str(folder), "--port", port]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and f"port {port}" in printed.err
