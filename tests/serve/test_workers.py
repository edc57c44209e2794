"""Several processes behind one port: what has to be counted once is, and what one of them loses the others settle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from books import check, ledger
from stage import HELLO, Start, eventually

from ownship import cli
from ownship.serve.admission import OwnRates
from ownship.serve.workers import Rates, added
from ownship.store import database

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """A gateway.toml before the stub of the benchmarks."""
    stub = subprocess.Popen([sys.executable, str(ROOT / "bench" / "stub.py"), "0"], stdout=subprocess.PIPE, text=True)
    assert stub.stdout is not None
    path = tmp_path / "gateway.toml"
    path.write_text(f'[upstreams.stub]\nurl = "http://127.0.0.1:{stub.stdout.readline().strip()}/v1"\n'
                    '[models.stub]\nupstream = "stub"\nprice = { input = 1000.0, output = 1000.0 }\n'
                    '[models.stub-paced]\nupstream = "stub"\nprice = { input = 1000.0, output = 1000.0 }\n')
    yield path
    stub.kill()
    stub.communicate()


@pytest.fixture
def key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def made(name: str, *more: str) -> str:
        assert cli.main(["keys", "create", name, "--store", str(tmp_path / "store.db"), *more]) == 0
        return capsys.readouterr().out.strip()

    return made


def ask(url: str, secret: str, **more: Any) -> int:
    """The status, over a connection of its own: the system gives it to whom it likes."""
    body = {"model": "stub", "messages": HELLO, "max_tokens": 1000, **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": secret}, timeout=60).status_code


def children(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_what_is_counted_once(config: Path, key: Callable[..., str], start: Start, tmp_path: Path) -> None:
    """60 requests at once, of which the rate lets 25 in; and money for fewer than that."""
    store = str(tmp_path / "store.db")
    fast, poor = key("fast", "--per-minute", "25"), key("poor")
    assert cli.main(["keys", "budget", "poor", "--money", "20", "--store", store]) == 0
    process = start("--config", str(config), "--workers", "2")
    assert len(children(process.running.pid)) == 2
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: ask(process.url, fast), range(60)))
        assert (statuses.count(200), statuses.count(429)) == (25, 35)
        statuses = list(pool.map(lambda _: ask(process.url, poor), range(40)))
    engine = database.connect(store)
    good = statuses.count(200)
    assert good >= 1 and statuses.count(429) == 40 - good
    eventually(lambda: check(engine, {"key:2/total": 20_000_000}) == 0)
    assert len(ledger(engine)) == 25 + good
    engine.dispose()
    found = {httpx.get(f"{process.url}/metrics", headers={"x-api-key": fast}).text for _ in range(8)}
    for text in found:  # whoever is asked
        lines = text.splitlines()
        assert f'ownship_requests_total{{endpoint="chat",status="200"}} {25 + good}.0' in lines
        assert f'ownship_e2e_request_latency_seconds_bucket{{le="+Inf",model="stub"}} {25 + good}.0' in lines
        assert lines.count("# TYPE ownship_requests_total counter") == 1
    code, errors = process.end(signal.SIGTERM)
    assert code == 0 and "Traceback" not in errors


def test_a_worker_that_is_killed(config: Path, key: Callable[..., str], start: Start, tmp_path: Path) -> None:
    secret = key("web")
    process = start("--config", str(config), "--workers", "2")
    first, second = children(process.running.pid)
    engine = database.connect(str(tmp_path / "store.db"))
    body = {"model": "stub-paced", "messages": HELLO, "stream": True}
    with contextlib.ExitStack() as stack:
        streams = [iter(stack.enter_context(httpx.stream("POST", f"{process.url}/v1/chat/completions", json=body, timeout=60,
                                                         headers={"x-api-key": secret})).iter_lines()) for _ in range(12)]
        for stream in streams:
            next(stream)
        os.kill(first, signal.SIGKILL)
        broken = 0
        for stream in streams:
            try:
                assert "data: [DONE]" in list(stream)
            except httpx.HTTPError:
                broken += 1
    eventually(lambda: len(children(process.running.pid)) == 2)
    assert second in children(process.running.pid)
    eventually(lambda: check(engine) == 0)  # the living settle it
    statuses = [row["status"] for row in ledger(engine)]
    assert (statuses.count("lost"), statuses.count("ok")) == (broken, 12 - broken)
    assert {ask(process.url, secret) for _ in range(12)} == {200}
    # without their parent they end
    left = children(process.running.pid)
    process.running.kill()
    eventually(lambda: not any(Path(f"/proc/{child}").exists() for child in left))
    engine.dispose()


def test_rates_in_a_file_are_those_of_one_process() -> None:
    shared, own = Rates(), OwnRates()
    for now in (0.0, 0.0, 0.0, 1.0, 9.0, 9.5, 30.0, 30.0, 30.0, 30.0):
        for key in (1, 7, 5000):
            assert shared.take(key, 100 + now, 4.0, 10.0) == own.take(key, 100 + now, 4.0, 10.0)


def test_metrics_are_added() -> None:
    one = b'# HELP a A\n# TYPE a counter\na_total{x="1"} 2.0\n# HELP b B\n# TYPE b gauge\nb 1.5\n'
    two = b'# HELP b B\n# TYPE b gauge\nb 1.0\n# HELP a A\n# TYPE a counter\na_total{x="2"} 5.0\na_total{x="1"} 1.0\n'
    assert added([one, b"", two]) == (b'# HELP a A\n# TYPE a counter\na_total{x="1"} 3.0\na_total{x="2"} 5.0\n'
                                      b'# HELP b B\n# TYPE b gauge\nb 2.5\n')


def test_what_workers_cannot_serve(capsys: pytest.CaptureFixture[str], tmp_path: Path, config: Path) -> None:
    engine = tmp_path / "engine.toml"
    engine.write_text('[upstreams.own]\nengine = "some-model"\n[models.own]\nupstream = "own"\n')
    for said, arguments in (("one process", ["--config", str(engine), "--workers", "2"]),
                            ("between", ["--config", str(config), "--workers", "0"])):
        assert cli.main(["serve", *arguments, "--store", str(tmp_path / "s.db")]) == 2
        assert said in capsys.readouterr().err
