"""The recipe with each algorithm, on the tiny network: what a step does, and what a wrong name says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ownship import cli
from ownship.engine.engine import Engine
from ownship.errors import UserError
from ownship.learn import rollout
from ownship.learn.algorithm import ALGORITHMS
from ownship.recipes import rl
from ownship.recipes.settings import OptimSettings


def trained(pupil: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    """The metrics of a few steps."""
    rl.run(rl.RL(**{"model": str(pupil), "env": "sums:low=2,high=2,largest=3", "out": out, "steps": 2, "tasks": 4, "group": 4,
                    "max_tokens": 16, "dtype": "float32", "optim": OptimSettings(lr=1e-3, warmup=1), **settings}))
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_takes_a_step(name: str, pupil: Path, tmp_path: Path) -> None:
    steps = trained(pupil, tmp_path / "run", algorithm=name)
    assert [step["doctor"] for step in steps] == [[], []]
    for step in steps:  # the first and only update on samples of the current policy: π is μ but for rounding
        assert step["trained_tokens"] > 0 and step["weights_changed"] == 1.0 and step["same_weights"] == 1.0
        assert step["clipped"] == 0.0 and step["effective_samples"] == pytest.approx(1.0, abs=1e-4)
        assert step["ratio"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("correction", ["none", "tis", "icepop", "geometric", "dppo_tv"])
def test_several_epochs_move_away_from_the_sampler(correction: str, pupil: Path, tmp_path: Path) -> None:
    (step,) = trained(pupil, tmp_path / "run", correction=correction, epochs=3, steps=1, optim=OptimSettings(lr=1e-2, warmup=1))
    assert step["mismatch"] < 1e-4  # of the first update: sampler and learner agree
    assert step["effective_samples"] < 0.999 and step["clipped"] > 0.0  # of the last
    state = json.loads(next((tmp_path / "run" / "checkpoints").glob("*/state.json")).read_text())
    assert state["updates"] == 3


def test_kl_holds_the_policy_near_the_reference(pupil: Path, tmp_path: Path) -> None:
    """The divergence is 0 before the first update and afterwards smaller with a weight on it than with a tiny one."""
    found = {kl: trained(pupil, tmp_path / str(kl), kl=kl, steps=5, optim=OptimSettings(lr=3e-3, warmup=1)) for kl in (1e-9, 10.0)}
    for steps in found.values():
        assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert 0.0 < found[10.0][-1]["kl"] < 0.5 * found[1e-9][-1]["kl"]


def test_the_reference_of_a_continued_run_is_where_it_began(pupil: Path, tmp_path: Path) -> None:
    calm = trained(pupil, tmp_path / "calm", kl=0.1, epochs=2, steps=4, algorithm="gspo")
    trained(pupil, tmp_path / "again", kl=0.1, epochs=2, steps=2, algorithm="gspo")
    assert trained(pupil, tmp_path / "again", kl=0.1, epochs=2, steps=4, algorithm="gspo") == calm


def told(pupil: Path, out: Path, **settings: Any) -> str:
    """What the doctor says of the last of a few steps."""
    return "\n".join(trained(pupil, out, **settings)[-1]["doctor"])


def test_the_doctor_in_a_run(pupil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each illness brought about in a run, not in a table of numbers (test_learn.py has that)."""
    assert "did not change" in told(pupil, tmp_path / "lazy", steps=1, optim=OptimSettings(lr=0.0, warmup=1))
    said = told(pupil, tmp_path / "short", max_tokens=1)
    assert "hit the token limit" in said and "never sampled" in said and "every group is flat" in said

    play, gap = rollout.play, iter([0.001, 0.05, 0.3])

    def astray(*args: Any, **kwargs: Any) -> list[rollout.Rollout]:
        found, off = play(*args, **kwargs), next(gap)
        return [replace(item, logprobs=[value - off * drawn for value, drawn in zip(item.logprobs, item.drawn, strict=True)])
                for item in found]

    with monkeypatch.context() as patch:
        patch.setattr(rollout, "play", astray)
        steps = trained(pupil, tmp_path / "astray", steps=3, refill=0.0, optim=OptimSettings(lr=1e-6, warmup=1))
    assert steps[0]["doctor"] == [] and "mismatch of sampler and learner grows" in steps[1]["doctor"][0]
    assert "sampler and learner disagree" in steps[2]["doctor"][0]

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "weights_changed", lambda self: self.fingerprint)
        assert "fingerprints differ" in told(pupil, tmp_path / "stale", steps=1)


@pytest.mark.parametrize("setting", ["algorithm", "advantage", "correction", "overlong"])
def test_wrong_names_give_one_line(setting: str, pupil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ownship.machine.prepare", lambda: None)
    assert cli.main(["rl", "--model", str(pupil), "--out", str(tmp_path / "run"), f"--{setting}", "nosuch"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{setting} 'nosuch' is not known" in error and "choose one of" in error
    assert not (tmp_path / "run").exists()


def test_settings_that_make_no_sense(pupil: Path, tmp_path: Path) -> None:
    for name, wrong in (("epochs", 0), ("kl", -1.0)):
        with pytest.raises(UserError, match=f"--{name} must be at least"):
            trained(pupil, tmp_path / "run", **{name: wrong})
