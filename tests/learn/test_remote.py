"""RL with a server as the sampler, against a stand-in that draws with our engine."""

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from standin import Standin, running
from test_distributed import in_two
from tiny import need_kernels, tiny_model

from ownship import cli
from ownship.engine.engine import Engine
from ownship.engine.fingerprint import fingerprint
from ownship.engine.request import Request, Sampling
from ownship.errors import UserError
from ownship.learn import remote
from ownship.learn.ahead import Ahead
from ownship.learn.doctor import diagnose
from ownship.learn.remote import Remote
from ownship.model import checkpoint
from ownship.recipes import rl
from ownship.recipes.settings import OptimSettings

ENV = "sums:low=2,high=2,largest=3,worked=0"
REQUESTS = [Request([257, 10, 20 + index], Sampling(max_tokens=6, seed=index)) for index in range(6)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSE", 0.01)


@pytest.fixture
def standin() -> Iterator[Standin]:
    with running(*tiny_model()) as standin:
        yield standin


@pytest.fixture
def pupils_standin(pupil: Path) -> Iterator[Standin]:
    with running(*checkpoint.load(pupil, torch.float32)) as standin:
        yield standin


def settings(pupil: Path, out: Path, **more: Any) -> rl.RL:
    return rl.RL(**{"model": str(pupil), "env": ENV, "out": out, "steps": 4, "tasks": 4, "group": 4, "max_tokens": 12,
                    "dtype": "float32", "optim": OptimSettings(lr=1e-3), "save_every": 2, **more})


def lines(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_a_run_on_a_server_is_the_run_in_this_process(pupil: Path, pupils_standin: Standin, tmp_path: Path) -> None:
    need_kernels()  # with them a completion does not depend on what it is drawn beside
    rl.run(settings(pupil, tmp_path / "local"))
    rl.run(settings(pupil, tmp_path / "remote", sampler=pupils_standin.url))
    assert any(step["trained_tokens"] > 0 for step in lines(tmp_path / "local"))
    for name in ("metrics.jsonl", "rollouts.jsonl", "model/model.safetensors"):
        assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert pupils_standin.loads == len({step["fingerprint"] for step in lines(tmp_path / "local")[:-1]}) + 1
    assert not (tmp_path / "remote" / "sampler").exists()


def test_a_stale_run_obeys_its_bound(pupil: Path, pupils_standin: Standin, tmp_path: Path) -> None:
    rl.run(settings(pupil, tmp_path / "run", steps=5, sampler=pupils_standin.url, stale=1))
    steps, drawn = lines(tmp_path / "run"), lines(tmp_path / "run", "rollouts")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["correction"] == "tis"
    assert [step["staleness"] for step in steps] == [0, 1, 1, 1, 1]  # each batch is begun when the one before is drawn
    known = [fingerprint(checkpoint.load(pupil, torch.float32)[0]), *(step["fingerprint"] for step in steps)]
    assert len(set(known)) == len(known)  # every step learnt something
    for at, (step, line) in enumerate(zip(steps, drawn, strict=True)):
        assert {item["fingerprint"] for item in line["rollouts"]} == {known[at - int(step["staleness"])]}
        assert {"ratio", "effective_samples", "left_out"} <= set(step)
    assert steps[0]["mismatch"] < 1e-4 < min(step["mismatch"] for step in steps[1:])
    rl.run(settings(pupil, tmp_path / "run", steps=6, sampler=pupils_standin.url, stale=1))
    assert [step["staleness"] for step in lines(tmp_path / "run")] == [0, 1, 1, 1, 1, 0]  # after a resume it begins afresh


@pytest.mark.parametrize("stale", [0, 1])
def test_a_server_that_fails_ends_the_run_where_it_can_go_on(stale: int, pupil: Path, pupils_standin: Standin, tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    calm = settings(pupil, tmp_path / "calm", sampler=pupils_standin.url)
    rl.run(calm)
    served = pupils_standin.served
    pupils_standin.statuses = itertools.chain([200] * (served * 5 // 8), itertools.repeat(500))
    flags = ["--model", str(pupil), "--env", ENV, "--out", str(out), "--steps", "4", "--tasks", "4", "--group", "4",
             "--max-tokens", "12", "--dtype", "float32", "--optim.lr", "1e-3", "--save-every", "100",
             "--sampler", pupils_standin.url, "--stale", str(stale)]
    assert cli.main(["rl", *flags]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ownship: ")]
    assert "refuses /inference/v1/generate" in line and "EngineCore encountered an issue. See stack trace" in line
    done = len(lines(out))
    assert 0 < done < 4
    pupils_standin.statuses = itertools.repeat(200)
    assert cli.main(["rl", *flags]) == 0
    assert [step["step"] for step in lines(out)] == [1, 2, 3, 4]
    if not stale:
        assert lines(out) == lines(calm.out)
        assert (out / "model" / "model.safetensors").read_bytes() == (calm.out / "model" / "model.safetensors").read_bytes()


def test_completions_are_the_engines(standin: Standin, tmp_path: Path) -> None:
    need_kernels()
    model, tokenizer = tiny_model(seed=1)
    sampler = Remote(standin.url, model, tokenizer, tmp_path / "sampler")
    assert sampler.load() == fingerprint(model) == standin.engine.fingerprint == standin.version
    drawn: list[int] = []
    found = sampler.generate(REQUESTS, drawn.append)
    expected = Engine(model, tokenizer).generate(REQUESTS)
    assert sum(drawn) == sum(len(completion.tokens) for completion in found)
    for one, other in zip(found, expected, strict=True):
        assert (one.tokens, one.logprobs, one.finish, one.text, one.fingerprint, one.forced) == (
            other.tokens, other.logprobs, other.finish, other.text, other.fingerprint, other.forced)


def test_new_weights_arrive(standin: Standin, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(seed=1)
    sampler = Remote(standin.url, model, tokenizer, tmp_path / "sampler")
    first = sampler.load()
    before = sampler.generate(REQUESTS)
    with torch.no_grad():
        model.norm.weight *= 2
    assert sampler.load() == first  # nothing was written since
    assert sampler.weights_changed() == fingerprint(model) != first
    assert sampler.generate(REQUESTS)[0].fingerprint == first
    assert sampler.load() == standin.version == fingerprint(model) and standin.loads == 2
    after = sampler.generate(REQUESTS)
    assert {completion.fingerprint for completion in after} == {fingerprint(model)}
    assert [completion.logprobs for completion in before] != [completion.logprobs for completion in after]
    assert list((tmp_path / "sampler").iterdir()) == []


def test_a_completion_from_other_weights_is_refused(standin: Standin, tmp_path: Path) -> None:
    sampler = Remote(standin.url, *tiny_model(), tmp_path / "sampler")
    sampler.load()
    standin.version = "somebody else's\nweights"
    with pytest.raises(UserError, match=r"drew from somebody else's weights instead of [0-9a-f]{16}, which it was given"):
        sampler.generate(REQUESTS)


def test_a_server_that_reads_other_weights_is_refused(standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin.worker, "load_ownship", lambda path: "0123456789abcdef")
    sampler = Remote(standin.url, *tiny_model(), tmp_path / "sampler")
    with pytest.raises(UserError, match=r'read the weights \["0123456789abcdef"\] instead of'):
        sampler.load()
    assert standin.paused and sampler.fingerprint == ""  # nobody draws from what nobody knows
    monkeypatch.undo()
    sampler.load()
    assert not standin.paused


def test_a_busy_server_is_asked_again_and_a_dead_one_not_for_ever(standin: Standin, tmp_path: Path) -> None:
    sampler = Remote(standin.url, *tiny_model(), tmp_path / "sampler")
    sampler.load()
    calm = sampler.generate(REQUESTS)
    standin.statuses = itertools.chain([503, 429, 502], itertools.repeat(200))
    assert sampler.generate(REQUESTS) == calm
    standin.statuses, served = itertools.repeat(503), standin.served
    with pytest.raises(UserError, match="answers 503: start it again; the same command then goes on"):
        sampler.generate(REQUESTS[:1])
    assert standin.served == served + 4


def test_a_server_that_is_not_there(tmp_path: Path, pupil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rl", "--model", str(pupil), "--env", ENV, "--out", str(tmp_path / "run"), "--sampler",
                     "http://127.0.0.1:9"]) == 2
    assert "the sampler at http://127.0.0.1:9/ cannot be reached" in capsys.readouterr().err
    for url in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://", "http://a:b"):
        with pytest.raises(UserError, match="--sampler"):
            Remote(url, *tiny_model(), tmp_path / "sampler")
    with pytest.raises(UserError, match="cannot be reached"):
        Remote(f"http://{'x' * 80}", *tiny_model(), tmp_path / "sampler").load()


def test_a_server_that_hangs(standin: Standin, tmp_path: Path) -> None:
    sampler = Remote(standin.url, *tiny_model(), tmp_path / "sampler", patience=0.5)
    sampler.load()
    standin.stall.clear()
    with pytest.raises(UserError, match="has finished nothing for 0 seconds"):
        sampler.generate(REQUESTS)


def test_ctrl_c_does_not_wait_for_the_server(standin: Standin, tmp_path: Path) -> None:
    sampler = Remote(standin.url, *tiny_model(), tmp_path / "sampler")
    sampler.load()
    standin.stall.clear()

    def stop(tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.generate(REQUESTS, stop)


@pytest.mark.parametrize(("spoilt", "word"), [
    ({"token_ids": None}, "answers otherwise"), ({"weight_versions": None}, "drew from weights without a name"),
    ({"logprobs": {"content": []}}, "ended a completion"), ({"finish_reason": "abort"}, "'abort'"),
    ({"token_ids": [7], "logprobs": {"content": [{"token_id": 7, "logprob": -1.0}]}}, "a larger --max-model-len")])
def test_answers_that_cannot_be_trained_on(spoilt: dict[str, Any], word: str, tmp_path: Path) -> None:
    sampler = Remote("http://127.0.0.1:9", *tiny_model(), tmp_path / "sampler")
    request = Request([1, 2], Sampling(max_tokens=2))
    choice = {"token_ids": [7, 8], "finish_reason": "length",
              "logprobs": {"content": [{"token_id": token, "logprob": -1.0} for token in (7, 8)]},
              "weight_versions": [{"version": "", "start": 0, "end": 2}]}
    assert sampler._completion({"choices": [choice]}, request).tokens == [7, 8]
    with pytest.raises(UserError, match=word):
        sampler._completion({"choices": [choice | spoilt]}, request)


def _alone_in_two(config: rl.RL) -> None:
    torch.set_num_threads(1)
    rl.run(config)
    with pytest.raises(UserError, match="--stale is for a learner in one process"):
        rl.run(replace(config, stale=1))


def test_two_ranks_share_a_server(pupil: Path, pupils_standin: Standin, tmp_path: Path) -> None:
    rl.run(settings(pupil, tmp_path / "one", steps=2))
    in_two(_alone_in_two, settings(pupil, tmp_path / "two", steps=2, sampler=pupils_standin.url))
    assert pupils_standin.loads == 2
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert {name: two[name] for name in ("reward", "flat_groups", "drawn_tokens")} == {
            name: one[name] for name in ("reward", "flat_groups", "drawn_tokens")}
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4) and two["mismatch"] < 1e-4


def test_stale_needs_a_server(pupil: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--stale needs --sampler"):
        rl.run(settings(pupil, tmp_path / "run", stale=1))


def test_the_doctor_knows_old_samples() -> None:
    healthy = {"flat_groups": 0.2, "solve_rate": 0.5, "truncated": 0.0, "stopped": 1.0, "mismatch": 0.05, "staleness": 2.0}
    assert diagnose(healthy, [healthy | {"mismatch": 0.001}] * 3) == []  # it grows, as it should
    (warning,) = diagnose(healthy | {"mismatch": 0.2}, [])
    assert "2 updates old" in warning


# Ahead

@pytest.mark.parametrize("stale", [0, 1, 3])
def test_ahead_keeps_its_bound_however_long_things_take(stale: int) -> None:
    chance = random.Random(stale)
    waits = [chance.random() * 0.02 for _ in range(40)]
    newest = 5

    def draw(step: int, tick: Callable[[int], None]) -> tuple[int, int]:
        version = newest
        time.sleep(waits[step])
        tick(1)
        return step, version

    found, drawn = [], 0

    def count(tokens: int) -> None:
        nonlocal drawn
        drawn += tokens

    with Ahead(draw, 5, 25, stale) as ahead:
        for step in range(5, 25):
            found.append(ahead.next(count))
            time.sleep(waits[step - 5])
            newest = step + 1
            ahead.published(newest)
    assert [step for step, _ in found] == list(range(5, 25)) and drawn == 20
    ages = [step - version for step, version in found]
    assert min(ages) >= 0 and max(ages) <= stale


def test_ahead_goes_as_far_as_it_may() -> None:
    drawn: list[int] = []
    with Ahead(lambda step, tick: drawn.append(step), 5, 25, 3) as ahead:
        while len(drawn) < 4:
            time.sleep(0.001)
        time.sleep(0.05)
        assert drawn == [5, 6, 7, 8]
        ahead.published(7)
        while len(drawn) < 6:
            time.sleep(0.001)
    assert drawn == [5, 6, 7, 8, 9, 10]


def test_ahead_hands_on_errors_and_ends_when_it_should() -> None:
    def fails(step: int, tick: Callable[[int], None]) -> int:
        if step == 1:
            raise UserError("the server is gone")
        return step

    with Ahead(fails, 0, 9, 2) as ahead:
        assert ahead.next(lambda tokens: None) == 0
        with pytest.raises(UserError, match="the server is gone"):
            ahead.next(lambda tokens: None)

    asleep, started = threading.Event(), threading.Event()

    def endless(step: int, tick: Callable[[int], None]) -> int:
        started.set()
        while not asleep.wait(0.01):
            tick(0)
        return step

    with Ahead(endless, 0, 9, 2) as ahead:
        started.wait()
    assert not ahead._thread.is_alive()
