"""`ownship serve` as a process: how it starts, how it ends, and what is left when it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from books import check, ledger
from stage import HELLO, HTTP, Start, eventually

from ownship import cli
from ownship.store import database
from ownship.store.store import Store

SLOW = """
import asyncio, json, sys
async def answer(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    await reader.readexactly(int([line for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length")][0][16:]))
    writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\nconnection: close\\r\\n\\r\\n")
    try:
        for number in range(%d):
            writer.write(b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
                         b'{"content":"canary-reply "},"finish_reason":null}]}\\n\\n')
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},'
                     b'"finish_reason":"stop"}]}\\n\\ndata: [DONE]\\n\\n')
    except ConnectionError:
        pass
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A gateway.toml before an upstream that sends a word every 50 ms, so many of them."""
    with contextlib.ExitStack() as stack:
        def made(words: int) -> Path:
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", SLOW % words], stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            path = tmp_path / "gateway.toml"
            path.write_text(f'[upstreams.a]\nurl = "http://127.0.0.1:{process.stdout.readline().strip()}"\n'
                            '[models.a]\nupstream = "a"\nprice = { input = 1000.0, output = 1000.0 }\n')
            return path

        yield made


@pytest.fixture(scope="module")
def endless(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with so much room for a reply that none ends by itself while a test looks."""
    folder = tmp_path_factory.mktemp("endless") / "endless"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1 << 20}))
    return folder


def test_it_says_how_to_use_it_and_ends_at_once_with_ctrl_c(endless: Path, start: Start) -> None:
    process = start(str(endless), "--name", "small", "--precision", "float32")
    curl = next(line for line in process.said.splitlines() if "curl" in line)
    curl = curl.replace('"messages"', '"max_tokens": 3, "messages"')
    answer = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60)
    assert '"chat.completion"' in answer.stdout, answer
    code = [line.strip() for line in process.said.splitlines() if "client" in line or "import" in line]
    scope: dict[str, Any] = {}
    exec("\n".join([*code[:2], "reply = " + code[2].replace("model=", "max_tokens=3, model=")]), scope)
    assert type(scope["reply"]).__name__ == "ChatCompletion"
    # the engine's own process is killed: what runs gets an error of its own, and then it is there again
    chunks = iter(process.client().chat.completions.create(model="small", messages=HELLO, stream=True, max_tokens=100_000,
                                                           logit_bias={"257": -100}))
    next(chunks)
    processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    child, = [entry for entry in processes if _parent(entry) == process.running.pid]
    os.kill(int(child.name), signal.SIGKILL)
    with pytest.raises(openai.APIError, match="the engine ended"):
        list(chunks)
    refused = HTTP.post(f"{process.url}/v1/chat/completions", json={"model": "small", "messages": HELLO, "max_tokens": 3})
    assert refused.status_code in (200, 503)
    if refused.status_code == 503:
        assert int(refused.headers["retry-after"]) >= 1 and refused.json()["error"]["code"] == "model_not_ready"
    eventually(lambda: HTTP.get(f"{process.url}/ready").status_code == 200)
    assert process.client().chat.completions.create(model="small", messages=HELLO, max_tokens=3).choices
    chunks = iter(process.client().chat.completions.create(model="small", messages=HELLO, stream=True, n=4, max_tokens=100_000,
                                                           logit_bias={"257": -100}))
    next(chunks)
    code_, errors = process.end(signal.SIGINT)
    with pytest.raises(openai.APIError, match="shutting down"):
        list(chunks)
    assert code_ == 0 and "Traceback" not in errors


def _parent(entry: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return -1


def test_sigterm_waits_for_replies_under_way(start: Start, slow: Callable[[int], Path]) -> None:
    process = start("--config", str(slow(20)))
    chunks = iter(process.client().chat.completions.create(model="a", messages=HELLO, stream=True))
    next(chunks)
    process.running.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    with pytest.raises(httpx.ConnectError):  # nobody new is let in
        httpx.get(f"{process.url}/health")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).count("canary") >= 19
    process.running.wait(60)
    assert process.running.returncode == 0


def test_sigterm_does_not_wait_for_ever(start: Start, slow: Callable[[int], Path]) -> None:
    process = start("--config", str(slow(100_000)), "--drain", "0.5")
    chunks = iter(process.client().chat.completions.create(model="a", messages=HELLO, stream=True))
    next(chunks)
    assert process.end(signal.SIGTERM)[0] == 0
    with pytest.raises(openai.APIError, match="shutting down"):
        list(chunks)


def test_a_killed_gateway_leaves_a_ledger_that_settles(start: Start, slow: Callable[[int], Path], tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    """And no key, prompt or reply is in what it logged."""
    url, config = str(tmp_path / "store.db"), slow(100_000)
    assert cli.main(["keys", "create", "web", "--store", url]) == 0
    secret = capsys.readouterr().out.strip()
    assert cli.main(["keys", "budget", "web", "--money", "100", "--store", url]) == 0
    process = start("--config", str(config))
    assert "$OWNSHIP_KEY" in process.said
    ask: Any = {"model": "a", "messages": [{"role": "user", "content": "canary-prompt"}], "stream": True, "max_tokens": 100}
    running = [process.client(secret).chat.completions.create(**ask) for _ in range(5)]
    for chunks in running:
        next(chunks)
    metrics = HTTP.get(f"{process.url}/metrics", headers={"x-api-key": secret}).text
    for bad in ({**ask, "model": "canary-prompt-model"}, {**ask, "temperature": 9}, {**ask, "canary-prompt": 1}):
        refused = HTTP.post(f"{process.url}/v1/chat/completions", json=bad, headers={"x-api-key": secret})
        assert refused.status_code in (400, 404) and secret not in refused.text
    running[0].close()
    engine = database.connect(url)
    eventually(lambda: len(ledger(engine)) == 1)  # of who has left; what was refused had reserved nothing
    assert check(engine) == 4
    _, errors = process.end(signal.SIGKILL)
    for canary in ("canary-prompt\"", "canary-reply", secret, secret[4:]):
        assert canary not in errors and canary not in metrics, canary
    assert check(engine) == 4
    store = Store(url)  # what the next gateway opens
    try:
        assert check(engine) == 0
        lost = [row for row in ledger(engine) if row["status"] == "lost"]
        assert len(lost) == 4 and all(row["cost"] > 0 for row in lost)
    finally:
        store.close()
        engine.dispose()


def test_tls(start: Start, slow: Callable[[int], Path], tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)], capture_output=True)
    if made.returncode:
        pytest.skip("openssl is not there")
    process = start("--config", str(slow(3)), "--tls-cert", str(cert), "--tls-key", str(key))
    assert process.url.startswith("https://")
    import ssl

    context = ssl.create_default_context(cafile=cert)
    assert httpx.get(f"{process.url}/health", verify=context).json() == {"status": "ok"}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.url}/health")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["serve", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and printed.err.startswith("ownship: ")
    return printed.err


def test_what_cannot_be_served(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNSHIP_STORE", str(tmp_path / "store.db"))
    config = tmp_path / "gateway.toml"
    config.write_text('[upstreams.a]\nurl = "http://127.0.0.1:1"\n'
                      '[models.a]\nupstream = "a"\nprice = { input = 1.0, output = 1.0 }\n')
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        said = refused(capsys, "--config", str(config), "--host", host)
        assert "keys create" in said and "127.0.0.1" in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port}" in refused(capsys, "--config", str(config), "--port", port)
    for port in ("70000", "-1"):
        assert "--port" in refused(capsys, "--config", str(config), "--port", port)
    assert "not both" in refused(capsys, "some-model", "--config", str(config))
    assert "cannot be read" in refused(capsys, "--config", str(tmp_path / "none.toml"))
    assert "both --tls-cert" in refused(capsys, "--config", str(config), "--tls-cert", str(config))
    assert "cannot be used" in refused(capsys, "--config", str(config), "--tls-cert", str(config), "--tls-key", str(config))
    assert "postgres" in refused(capsys, "--config", str(config), "--store", "mysql://x/y")


def test_a_model_that_is_none_ends_it(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-m", "ownship", "serve", str(tmp_path), "--port", "0"], capture_output=True, text=True,
                           timeout=120, env={**os.environ, "OWNSHIP_STORE": str(tmp_path / "store.db")})
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.splitlines()[-1].startswith(f"ownship: {tmp_path}") and "Traceback" not in ended.stderr
