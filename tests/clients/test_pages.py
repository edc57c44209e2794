"""What docs/use-it-from says works: every block of every page, run in the page's order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUIET, Server, venv
from pages import PAGES, program

# page → the environment that has its client; None: this one
CLIENTS = {"openai": None, "anthropic": None, "langchain": "clients", "litellm": "litellm"}
SHELL = {"openai": None, "lm-eval": "lm-eval"}
TASKS = Path(__file__).parent / "tasks"


def run(command: list[str], folder: Path, **environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "OPENAI_", "ANTHROPIC_"))}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=clean | QUIET | environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_every_page_is_run() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*CLIENTS, *SHELL}


@pytest.mark.parametrize("page", CLIENTS)
def test_python(page: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name = CLIENTS[page]
    python = sys.executable if name is None else venv(name)
    server: Server = request.getfixturevalue("server")
    (tmp_path / "page.py").write_text(program(page, "python", server.host))
    run([python, "page.py"], tmp_path, LITELLM_LOCAL_MODEL_COST_MAP="True")


@pytest.mark.parametrize("page", SHELL)
def test_shell(page: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name = SHELL[page]
    python = sys.executable if name is None else venv(name)
    server: Server = request.getfixturevalue("server")
    (tmp_path / "tasks").mkdir()
    for file in TASKS.iterdir():
        (tmp_path / "tasks" / file.name).write_text(file.read_text().replace("FOLDER", "tasks"))
    script = "set -eu\n" + program(page, "bash", server.host)
    path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    run(["bash", "-c", script], tmp_path, PATH=path, HF_DATASETS_OFFLINE="1", HF_HOME=str(tmp_path), OPENAI_API_KEY="none")
