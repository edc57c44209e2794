"""`ownship watch`: what a frame shows, how files are followed while they grow and are cut, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ownship import cli
from ownship.errors import UserError
from ownship.recipes.live import frame, lasting, spark
from ownship.recipes.past import Lines, Past

NOW = 1_000_000.0


def append(path: Path, *values: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write("".join(json.dumps(value) + "\n" for value in values))


def write(folder: Path, steps: int, at: float = NOW, **config: Any) -> Path:
    """A run whose files were last written `at`; a step takes 3 seconds."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"recipe": "rl", "env": "sums", "steps": 50, **config}))
    for step in range(1, steps + 1):
        append(folder / "metrics.jsonl",
               {"step": step, "loss": 10.0 ** -step, "solve_rate": step / 10, "clipped": 0.0, "doctor": []})
        append(folder / "timings.jsonl", {"step": step, "sample": 2.0, "learn": 1.0, "tokens": 300})
    for path in folder.iterdir():
        os.utime(path, (at, at))
    return folder


def shown(*folders: Path, now: float = NOW, width: int = 110, height: int | None = None) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(frame([Past(folder, folder.name, rollouts=1) for folder in folders], now, width, height))
    return capture.get()


def test_what_a_frame_shows(tmp_path: Path) -> None:
    run = write(tmp_path / "run", 8)
    append(run / "metrics.jsonl", {"step": 9, "solve_rate": 0.9, "news": 4.0, "doctor": ["it is ill", "and tired"]})
    append(run / "timings.jsonl", {"step": 9, "sample": 2.0, "learn": 1.0, "tokens": 300})
    replies = [{"reward": reward, "messages": [{"role": "user", "content": f"Ask {reward}"},
                                               {"role": "assistant", "content": text}]}
               for reward, text in ((0.0, "wrong"), (1.0, "right\n\x1b[31mred [bold]"), (0.5, "go " * 300 + "end"))]
    append(run / "rollouts.jsonl", {"step": 8, "rollouts": []}, {"step": 9, "rollouts": replies})
    os.utime(run / "metrics.jsonl", (NOW, NOW))
    text = shown(run, now=NOW + 1)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == "● run  rl · sums"
    assert "step 9 of 50" in lines[1] and lines[1].endswith("about 2 min left")
    assert lines[1].count("━") == 36
    curves = {line[:20].strip(): line[20:].split() for line in lines}
    assert curves["Solve rate"] == ["▁▂▃▄▅▅▆▇█", "10", "%", "→", "90", "%"]  # of 0 to 100 %
    assert curves["Loss"] == ["█▇▆▅▄▃▂▁", "0.1", "→", "1e-8"]  # on a logarithmic scale
    assert curves["News"][-1] == "4"
    assert not any("Clipped" in line for line in lines)  # 0 throughout
    assert "sample 2 (67%) · learn 1 (33%) · 100 tokens/s" in text
    assert "doctor, step 9" in text and "it is ill" in text and "and tired" in text and "steps had" not in text
    rows = ("1    Ask 1.0 → right �[31mred [bold]", "0.5  Ask 0.5 → go", "0    Ask 0.0 → wrong")  # nothing steers the terminal
    assert [text.count(row) for row in rows] == [1, 1, 1] and sorted(rows, key=text.index) == list(rows)
    assert "\x1b" not in text and "go … go" in " ".join(text.split()) and text.count("go") < 120


def test_how_a_run_stands(tmp_path: Path) -> None:
    run = write(tmp_path / "run", 5)
    assert "about 2 min left" in shown(run)
    assert "about 100 s" not in shown(run, now=NOW + 45) and "about 90 s left" in shown(run, now=NOW + 45)
    assert "quiet for 10 min" in shown(run, now=NOW + 600)
    (run / "model").mkdir()
    os.utime(run / "model", (NOW + 3, NOW + 3))
    assert "done" in shown(run, now=NOW + 600)
    append(run / "timings.jsonl", {"step": 6, "learn": 3.0, "end": 20})  # ends earlier than was asked
    append(run / "metrics.jsonl", {"step": 6, "loss": 1.0})  # goes on, though there is a model of before
    os.utime(run / "metrics.jsonl", (NOW + 5, NOW + 5))
    assert "step 6 of 20" in shown(run, now=NOW + 5) and "about 42 s left" in shown(run, now=NOW + 5)
    limited = write(tmp_path / "limited", 5, minutes=1.5)
    assert "about 90 s left" in shown(limited)
    assert "has not finished a step yet" in shown(write(tmp_path / "new", 0))
    (limited / "config.json").write_text('{"recipe": "pretrain", "steps": null}')
    assert "  step 5  \n" in shown(limited) and "━" not in shown(limited)


def test_several_runs_share_a_scale_and_the_window_bounds_them(tmp_path: Path) -> None:
    short, long = write(tmp_path / "short", 4), write(tmp_path / "long", 8)
    text = shown(short, long)
    rows = [line for line in text.splitlines() if "→" in line]
    assert rows[0].split()[2] == "▁▂▃▄" and rows[1].split()[0] == "▁▂▃▄▅▅▆▇"
    assert text.count("●") == 2 and text.count("tokens/s") == 2
    for more in range(40):
        append(long / "metrics.jsonl", {"step": 9 + more, **{f"number{at}": 1.0 + more for at in range(40)}})
    assert len(shown(long, height=24).splitlines()) <= 24 < len(shown(long).splitlines())


def test_lasting() -> None:
    assert [lasting(seconds) for seconds in (0, 98.4, 100, 5000, 7300, 1e6)] == [
        "0 s", "98 s", "2 min", "83 min", "2 h 2 min", "11 days"]


def test_spark() -> None:
    nan, inf = float("nan"), float("inf")
    assert spark([(1, 0.0), (2, 1.0)], (0.0, 1.0), 2, 80) == "▁█"
    assert spark([(step, float(step)) for step in range(1, 1001)], (1.0, 1000.0), 1000, 8) == "▁▂▃▄▅▆▇█"
    assert spark([(3, 1.0), (6, 2.0)], (1.0, 2.0), 8, 80) == "  ▁▁▁█"  # nothing before the first, and nothing after the last
    assert spark([(1, 1.0), (2, nan), (3, inf), (4, 1.0)], (1.0, 1.0), 4, 80) == "▅▅▅▅"
    assert spark([(1, 1.0), (2, 10.0), (3, 100.0)], (1.0, 100.0), 3, 80, log=True) == "▁▅█"
    assert spark([(1, nan)], (0.0, 1.0), 1, 80) == ""


# Files that grow


Steps = st.lists(st.tuples(st.sampled_from(["append", "half", "cut", "remade", "gone"]), st.integers(0, 5)), max_size=12)


@given(Steps)
def test_lines_are_followed_however_the_file_changes(changes: list[tuple[str, int]]) -> None:
    """Against reading the whole file each time."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        follower, last = Lines(path), Lines(path, keep=2)
        for version, (change, count) in enumerate(changes):
            before = path.read_bytes() if path.exists() else b""
            whole = before[: before.rfind(b"\n") + 1].splitlines(keepends=True)
            new = [json.dumps({"step": len(whole) + at + 1, "value": version}).encode() + b"\n" for at in range(count)]
            kept = whole[:-count] if change in ("cut", "remade") and count else whole
            made = kept + (new if change in ("append", "remade") else [])
            if change == "gone":
                path.unlink(missing_ok=True)
                made = []
            else:
                path.write_bytes(b"".join(made) + (b'{"step": 99, "va' if change == "half" else b""))
            expected = [json.loads(line) for line in made]
            assert follower.follow() == expected
            assert last.follow() == expected[-2:]


@pytest.mark.parametrize("line", ["{", "3", '{"loss": 1}', '{"step": "1"}', "[" * 100_000])
def test_damaged_lines(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: damaged"):
        Lines(tmp_path / "metrics.jsonl").follow()


# The command


def test_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path / "run", 3)
    for arguments in (["--once"], []):  # without a terminal the one is the other
        assert cli.main(["watch", str(run), *arguments]) == 0
        assert "step 3 of 50" in capsys.readouterr().out


@pytest.mark.parametrize(("make", "word"), [(lambda folder: None, "not a run"), (lambda folder: folder.mkdir(), "not a run"),
                                            (lambda folder: append(write(folder, 1) / "metrics.jsonl", {"a": 1}), "damaged")])
def test_what_cannot_be_watched(make: Callable[[Path], Any], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "run")
    assert cli.main(["watch", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


@pytest.mark.parametrize(("key", "code"), [(b"xq", 0), (b"\x03", 130)], ids=["q", "Ctrl-C"])
def test_it_follows_in_a_terminal_until_it_is_asked_to_end(key: bytes, code: int, tmp_path: Path) -> None:
    run = write(tmp_path / "run", 3)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="100", LINES="30")
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # who starts tests in the background has it ignored
        os.execv(sys.executable, [sys.executable, "-m", "ownship", "watch", str(run)])
    seen = b""

    def until(word: bytes) -> None:
        nonlocal seen
        while word not in seen:
            ready, _, _ = select.select([terminal], [], [], 60)
            assert ready, seen
            seen += os.read(terminal, 65536)

    try:
        until(b"step 3 of 50")
        (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')  # a resume cuts the file …
        until(b"step 1 of 50")
        append(run / "metrics.jsonl", *({"step": step, "loss": 0.25} for step in range(2, 6)))  # … and makes the lines again
        until(b"step 5 of 50")
        os.write(terminal, key)
        until(b"\x1b[?1049l")  # the screen of before is back
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(terminal)
    assert b"Traceback" not in seen
