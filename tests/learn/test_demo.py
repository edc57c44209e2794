"""The demo's whole course on the tiny network: what it leaves, a second start, and going on for longer."""

import json
import time
from pathlib import Path

import pytest

from ownship.errors import UserError
from ownship.recipes import demo


@pytest.fixture
def short(pupil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same course on a model and tasks that take seconds."""
    for name, value in {"MODEL": str(pupil), "TASK": "sums:low=2,high=2,largest=4", "COLD": "sums:low=2,high=2,largest=4",
                        "COLD_STEPS": 2, "HELD_OUT": 2, "MAX_TOKENS": 16}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setenv("OWNSHIP_STARTED", str(time.time() - 2))


@pytest.mark.usefixtures("short")
def test_demo_leaves_what_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    report = demo.run(demo.Demo(minutes=0.5, out=out))
    assert json.loads((out / "report.json").read_text()) == report
    assert set(report) >= {"task", "held_out", "base", "cold_start", "rl", "seconds", "peak_memory_mb", "seed", "versions"}
    assert set(report["seconds"]) >= {"setup", "base_eval", "cold_start", "rl", "total"}
    assert report["seconds"]["setup"] >= 2  # what `make` did before counts
    for name in ("base", "cold_start", "rl"):
        replies = [json.loads(line) for line in (out / f"{name}.rollouts.jsonl").read_text().splitlines()]
        assert report[name]["accuracy"] == sum(reply["reward"] == 1 for reply in replies) / len(replies)
        assert report[name]["ci95"][0] <= report[name]["accuracy"] <= report[name]["ci95"][1]
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "rollouts.html").read_text()
    assert page.count("<section>") == len(replies)
    assert (out / "model" / "model.safetensors").is_file()
    printed = capsys.readouterr().out
    assert f"ownship chat {out / 'model'}" in printed
    assert f"ownship serve {out / 'model'}" in printed

    steps = report["rl_steps"]
    again = demo.run(demo.Demo(minutes=0.5, out=out))  # all is done: the same report, no new step
    assert (again["rl_steps"], again["rl"]) == (steps, report["rl"])
    with pytest.raises(UserError, match="seed 0"):
        demo.run(demo.Demo(minutes=0.5, out=out, seed=1))


def test_demo_refuses_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(UserError, match="not a demo run"):
        demo.run(demo.Demo(out=tmp_path))
    with pytest.raises(UserError, match="minutes"):
        demo.run(demo.Demo(minutes=0, out=tmp_path / "new"))


def test_what_a_model_wrote_is_escaped_in_the_page(tmp_path: Path) -> None:
    from ownship.recipes import page

    reply = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<script>alert(1)</script>"}],
             "answer": "1", "reward": 0.0}
    for name in ("base", "cold_start", "rl"):
        (tmp_path / f"{name}.rollouts.jsonl").write_text(json.dumps(reply) + "\n")
    stage = {"accuracy": 0.5, "ci95": [0.1, 0.9]}
    page.rollouts(tmp_path, {"base": stage, "cold_start": stage, "rl": stage, "task": "t", "held_out": 1, "rl_steps": 1,
                             "seconds": {"total": 60}})
    html = (tmp_path / "rollouts.html").read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
