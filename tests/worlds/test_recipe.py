"""The recipe's plan: how the time is divided, and that an interrupted run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ownship.errors import UserError
from ownship.surfaces.worlds import recipe


class _Machine:
    """A machine that takes 30 seconds to start and so long for an update; the commands it was given."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.done, self.told, self.breaks = seconds, 0.0, 0, list[dict[str, str]](), False

    def ownship(self, *arguments: object) -> None:
        if self.breaks:
            raise KeyboardInterrupt
        words = [str(argument) for argument in arguments]
        self.told.append(dict(zip(words[1::2], words[2::2], strict=True)) | {"verb": words[0]})
        steps = int(self.told[-1]["--steps"]) if words[0] == "sft" else self.done
        self.now += 30 + (steps - self.done) * self.seconds
        self.done = steps


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> _Machine:
    made = _Machine(2.0)
    monkeypatch.setattr(recipe, "_ownship", made.ownship)
    monkeypatch.setattr(recipe.time, "monotonic", lambda: made.now)
    found = {"satisfaction": 0.5, "ci95": [0.4, 0.6]}
    monkeypatch.setattr(recipe, "_measure", lambda *asked: dict(found))
    return made


@pytest.mark.parametrize("seconds", [1.0, 4.0, 20.0])
def test_the_time_is_used_up_whatever_the_speed(machine: _Machine, tmp_path: Path, seconds: float) -> None:
    machine.seconds = seconds
    report = recipe.run(recipe.WorldTrain(minutes=40, out=tmp_path / "run", baselines=False))
    assert len(machine.told) == len(recipe.PARTS) == len(report["curve"])
    assert all(int(told["--steps"]) <= int(told["--end"]) for told in machine.told)
    assert machine.told[-1]["--steps"] == machine.told[-1]["--end"] == str(report["steps"])
    assert 36 <= report["minutes"] <= 44
    assert report["examples"] == report["steps"] * recipe.BATCH
    assert (tmp_path / "run" / "curve.png").stat().st_size > 5_000
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report


def test_an_interrupted_run_goes_on_and_another_seed_is_refused(machine: _Machine, tmp_path: Path) -> None:
    config = recipe.WorldTrain(minutes=20, out=tmp_path / "run", baselines=False, reinforce=0.25)
    calm = recipe.run(recipe.WorldTrain(minutes=20, out=tmp_path / "calm", baselines=False, reinforce=0.25))
    machine.now, machine.done, told = 0.0, 0, machine.told[:]
    machine.told.clear()
    original = machine.ownship

    def second_breaks(*arguments: object) -> None:
        machine.breaks = len(machine.told) == 2
        original(*arguments)

    recipe._ownship = second_breaks  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        recipe.run(config)
    recipe._ownship = original  # type: ignore[assignment]
    machine.breaks = False
    assert recipe.run(config) == calm
    assert [one["verb"] for one in machine.told] == ["sft"] * len(recipe.PARTS) + ["rl"]
    assert [one.get("--steps") for one in machine.told] == [one.get("--steps") for one in told]
    with pytest.raises(UserError, match="holds a run with seed 0"):
        recipe.run(recipe.WorldTrain(out=tmp_path / "run", seed=1))
    with pytest.raises(UserError, match="--reinforce from 0"):
        recipe.run(recipe.WorldTrain(out=tmp_path / "run", reinforce=1.0))
