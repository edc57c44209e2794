"""Many clients at once before a model that costs nothing: every reply is whole, and its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT, Server, serving

BENCH = ROOT / "bench"
CONFIG = """[upstreams.stub]
url = "http://127.0.0.1:{port}/v1"
privacy = "local"
concurrency = 2000
[models.stub]
upstream = "stub"
price = {{ input = 1.0, output = 2.0 }}
[models.stub-paced]
upstream = "stub"
price = {{ input = 1.0, output = 2.0 }}
"""


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("load")
    stub = subprocess.Popen([sys.executable, str(BENCH / "stub.py"), "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert stub.stdout is not None
        (folder / "gateway.toml").write_text(CONFIG.format(port=int(stub.stdout.readline())))
        with serving(folder, "--config", str(folder / "gateway.toml")) as one:
            yield one
    finally:
        stub.kill()
        stub.wait()


def load(door: Server, **settings: Any) -> dict[str, Any]:
    asked = {"port": int(door.host.rpartition(":")[2]), "key": "none", "model": "stub", "stream": True, "seconds": 240, **settings}
    done = subprocess.run([sys.executable, str(BENCH / "load.py"), json.dumps(asked)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("settings", [{"stream": False, "clients": 50, "requests": 500}, {"clients": 50, "requests": 300},
                                      {"model": "stub-paced", "clients": 200, "requests": 200}])
def test_none_lost_none_mixed_up(door: Server, settings: dict[str, Any]) -> None:
    found = load(door, **settings)
    assert (found["ok"], found["lost"], found["mixed"]) == (settings["requests"], 0, 0), found["said"]


@pytest.mark.skipif("OWNSHIP_CLIENTS" not in os.environ, reason="takes a minute: make test-clients")
def test_a_thousand_streams_at_once(door: Server) -> None:
    found = load(door, model="stub-paced", clients=1000, requests=1000)
    assert (found["ok"], found["lost"], found["mixed"]) == (1000, 0, 0), found["said"]
