"""A disk that is full ends a run with one line; what was saved is whole, and with space made the run is what it would have been."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ownship import cli
from ownship.learn.run import Run, write_whole

FLAGS = {
    "rl": ["--env", "sums:low=2,high=2,largest=3", "--tasks", "4", "--group", "4", "--max-tokens", "16", "--optim.lr", "1e-3"],
    "sft": ["--env", "sums:low=2,high=2,largest=3", "--batch", "8"],
    "dpo": ["--data", "pairs.jsonl", "--batch", "4", "--optim.lr", "1e-3"],
    "pretrain": ["--depth", "1", "--width", "32", "--heads", "2", "--vocab", "300", "--context", "32", "--batch", "300"],
}


class Disk:
    """A small file system of its own in `folder`, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")

    def resize(self, size: int) -> None:
        """To `size` bytes, in whole pages."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def fill(self) -> None:
        """Leaves not a page."""
        with open(self.folder / "ballast", "ab", buffering=0) as file:
            while True:
                try:
                    file.write(b"\0" * 4096)
                except OSError:
                    return


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root on Linux can mount a small disk")
    made = Disk(tmp_path / "disk")
    yield made
    subprocess.run(["umount", made.folder], check=True)


@pytest.fixture
def train(pupil: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
          capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a recipe; gives the exit code and what it said, but for its progress."""
    monkeypatch.setattr("ownship.machine.prepare", lambda: None)  # not for the test process
    monkeypatch.chdir(tmp_path)
    with open("pairs.jsonl", "w") as file:
        for number in range(30):
            right, wrong = ([{"role": "assistant", "content": str(number + more)}] for more in (1, 2))
            asked = [{"role": "user", "content": f"{number}+1="}]
            file.write(json.dumps({"prompt": asked, "chosen": right, "rejected": wrong}) + "\n")

    def call(verb: str, out: Path, *more: str) -> tuple[int, str]:
        source = ["--data", str(library)] if verb == "pretrain" else ["--model", str(pupil)]
        code = cli.main([verb, *source, "--out", str(out), *FLAGS[verb], "--dtype", "float32", *more])
        lines = capsys.readouterr().err.splitlines(keepends=True)
        return code, "".join(line for line in lines if line.startswith(("ownship:", "Traceback")))

    return call


def size(folder: Path) -> int:
    """In pages, as a disk counts."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def temporary(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part-" in path.name or ".old-" in path.name]


def checkpoints(run: Path) -> list[str]:
    return [path.name for path in (run / "checkpoints").iterdir()]


def same(run: Path, calm: Path) -> None:
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (run / name).read_bytes() == (calm / name).read_bytes()


@pytest.mark.parametrize("verb", list(FLAGS))
def test_no_room_for_a_checkpoint(verb: str, train: Callable[..., tuple[int, str]], disk: Disk, tmp_path: Path) -> None:
    flags = ("--steps", "4", "--save-every", "2")
    assert train(verb, tmp_path / "calm", *flags) == (0, "")
    run, rest = disk.folder / "run", size(tmp_path / "calm") - size(tmp_path / "calm" / "model")
    disk.resize(rest + size(tmp_path / "calm" / "checkpoints") // 2)  # for one and a half
    code, said = train(verb, run, *flags)
    assert code == 2 and said.count("\n") == 1
    assert f"{run}/checkpoints/000004: No space left on device" in said and "make space" in said
    assert checkpoints(run) == ["000002"] and temporary(disk.folder) == []
    assert not (run / "model").exists()
    code, said = train(verb, run, *flags)  # as full as before
    assert code == 2 and "No space left on device" in said and checkpoints(run) == ["000002"]
    disk.resize(64 << 20)
    assert train(verb, run, *flags) == (0, "")
    same(run, tmp_path / "calm")


def test_no_room_for_the_model(train: Callable[..., tuple[int, str]], disk: Disk, tmp_path: Path) -> None:
    assert train("sft", tmp_path / "calm", "--steps", "3") == (0, "")
    run = disk.folder / "run"
    disk.resize(size(tmp_path / "calm") - size(tmp_path / "calm" / "model") // 2)
    code, said = train("sft", run, "--steps", "3")
    assert code == 2 and f"{run}/model: No space left on device" in said and said.count("\n") == 1
    assert checkpoints(run) == ["000003"] and temporary(disk.folder) == [] and not (run / "model").exists()
    disk.resize(64 << 20)
    assert train("sft", run, "--steps", "3") == (0, "")
    same(run, tmp_path / "calm")


@pytest.mark.parametrize("name", ["metrics", "rollouts"])
def test_no_room_for_a_line(name: str, train: Callable[..., tuple[int, str]], disk: Disk, tmp_path: Path,
                            monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while a step's lines are written; they are made long, for a page's end to come soon."""
    flags = ("--steps", "5", "--save-every", "2")
    run, log = disk.folder / "run", Run.log

    def late(self: Run, kind: str, **values: Any) -> None:
        if kind == name and self.step == 2 and self.folder == run:
            disk.fill()
        log(self, kind, **values, padding="." * 5000)

    monkeypatch.setattr(Run, "log", late)
    assert train("rl", tmp_path / "calm", *flags) == (0, "")
    code, said = train("rl", run, *flags)
    assert code == 2 and f"{run / name}.jsonl: No space left on device" in said and said.count("\n") == 1
    assert checkpoints(run) == ["000002"] and temporary(disk.folder) == []
    monkeypatch.setattr(disk, "fill", lambda: None)
    (disk.folder / "ballast").unlink()
    assert train("rl", run, *flags) == (0, "")
    same(run, tmp_path / "calm")
    assert (run / "rollouts.jsonl").read_bytes() == (tmp_path / "calm" / "rollouts.jsonl").read_bytes()


def test_a_limit_on_files_is_a_full_disk(train: Callable[..., tuple[int, str]], pupil: Path, tmp_path: Path,
                                         one_thread: dict[str, str]) -> None:
    """Needs no mount: the system refuses what a file would grow beyond."""
    run = tmp_path / "run"
    assert train("sft", tmp_path / "calm", "--steps", "6", "--save-every", "3") == (0, "")
    assert train("sft", run, "--steps", "4") == (0, "")
    command = [sys.executable, "-m", "ownship", "sft", "--model", str(pupil), "--out", str(run), *FLAGS["sft"],
               "--dtype", "float32", "--steps", "6"]
    ended = subprocess.run(command, env=one_thread, capture_output=True, text=True,
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)))
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert f"ownship: {run}/checkpoints/000006: File too large\n" in ended.stderr
    assert checkpoints(run) == ["000004"] and temporary(run) == []
    assert train("sft", run, "--steps", "6") == (0, "")
    same(run, tmp_path / "calm")


def test_a_file_that_cannot_be_written_whole_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a.json", "before")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        write_whole(tmp_path / "a.json", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "before"
