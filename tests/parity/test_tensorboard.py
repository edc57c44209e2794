"""The event files that `ownship report --tensorboard` writes, as TensorBoard itself reads them."""

from __future__ import annotations

import json
import math
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ownship import cli

METRICS = [{"step": step, "loss": 1 / step, "part/form": 0.1 * step, "rates": {"4": 0.5, "10": step / 8}, "fingerprint": "ab",
            "same_weights": 1.0, "doctor": ["every group is flat"] if step == 2 else []} for step in range(1, 6)]
TIMINGS = [{"step": step, "sample": 2.0 * step, "learn": 1.0, "tokens": 7} for step in range(1, 6)]


def write(folder: Path, metrics: list[dict[str, Any]], timings: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"recipe": "rl", "optim": {"lr": 0.1}}))
    for name, lines in (("metrics", metrics), ("timings", timings)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def export(*runs: Path, out: Path) -> int:
    return cli.main(["report", *map(str, runs), "--tensorboard", str(out)])


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), {"scalars": 0, "tensors": 0}).Reload()


def single(value: float) -> float:
    """As float32, which is what an event keeps."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def test_every_number_of_every_step(tmp_path: Path) -> None:
    assert export(write(tmp_path / "run", METRICS, TIMINGS), out=tmp_path / "board") == 0
    found = read(tmp_path / "board" / "run")
    expected = {name: [line[name] for line in METRICS] for name in ("loss", "part/form", "same_weights")}
    expected |= {f"rates/{level}": [line["rates"][level] for line in METRICS] for level in ("4", "10")}
    expected |= {f"timings/{name}": [line[name] for line in TIMINGS] for name in ("sample", "learn", "tokens")}
    assert sorted(found.Tags()["scalars"]) == sorted(expected)
    for name, values in expected.items():
        events = found.Scalars(name)
        assert [(event.step, event.value) for event in events] == [(at, single(value)) for at, value in enumerate(values, 1)]
    times = [event.wall_time for event in found.Scalars("loss")]
    assert [after - before for before, after in pairwise(times)] == pytest.approx([5, 7, 9, 11])
    assert times[-1] == pytest.approx((tmp_path / "run" / "metrics.jsonl").stat().st_mtime)
    (warning,) = found.Tensors("doctor/text_summary")
    assert (warning.step, warning.tensor_proto.string_val) == (2, [b"every group is flat"])
    (settings,) = found.Tensors("settings/text_summary")
    assert b'"lr": 0.1' in settings.tensor_proto.string_val[0]


def test_again_replaces_and_runs_stay_apart(tmp_path: Path) -> None:
    """A run that has gone on in the meantime, lines of timings that are behind, numbers that are none."""
    first = write(tmp_path / "a" / "rl", METRICS[:2], TIMINGS[:1])
    second = write(tmp_path / "b" / "rl", [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}], [])
    board = tmp_path / "board"
    assert export(first, second, out=board) == 0
    (board / "a" / "rl" / "events.out.tfevents.1.other").touch()  # somebody else's
    write(first, METRICS, TIMINGS)
    assert export(first, second, out=board) == 0
    assert len(read(board / "a" / "rl").Scalars("loss")) == 5
    assert len(list((board / "a" / "rl").iterdir())) == 2
    odd = [event.value for event in read(board / "b" / "rl").Scalars("loss")]
    assert math.isnan(odd[0]) and odd[1] == math.inf


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    assert export(write(tmp_path / "run", METRICS, TIMINGS), out=tmp_path / "board") == 2
    error = capsys.readouterr().err
    assert "pip install 'ownship[tensorboard]'" in error and error.count("\n") == 1
