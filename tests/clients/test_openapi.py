"""schemathesis reads our OpenAPI document and asks whatever it allows, and much that it does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUIET, Server

from ownship.model import zoo


def fuzz(server: Server, folder: Path, examples: int, phases: str) -> int:
    """The number of cases. Raises AssertionError for a 5xx, an answer after more than a minute, or one that the document does not
    describe. What JSON schema cannot say (`stream_options` needs `stream`) may be refused."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "st"), "run", f"{server.url}/openapi.json", "--phases", phases, "-n", str(examples),
         "--request-timeout", "60", "--seed", "1", "--exclude-checks", "positive_data_acceptance", "--continue-on-failure",
         "--no-shrink", "--suppress-health-check", "all", "--generation-database", "none", "--no-color", "--warnings", "off"],
        cwd=folder, capture_output=True, text=True, timeout=1500, env=os.environ | QUIET | {
            "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(Path(__file__).parent), "OWNSHIP_FUZZED_MODEL": zoo.DEFAULT})
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    found = re.search(r"(\d+) generated", done.stdout)
    assert found, done.stdout[-2000:]
    return int(found[1])


def test_a_hundred_requests(server: Server, tmp_path: Path) -> None:
    assert fuzz(server, tmp_path, 12, "fuzzing") >= 100


@pytest.mark.skipif("OWNSHIP_CLIENTS" not in os.environ, reason="takes minutes: make test-clients")
def test_two_thousand_requests(server: Server, tmp_path: Path) -> None:
    assert fuzz(server, tmp_path, 15, "coverage,fuzzing") >= 2000
