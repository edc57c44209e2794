"""A run that is killed and started again is the run that was never killed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import tiny_model

from ownship.errors import UserError
from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import imitation
from ownship.learn.run import Run
from ownship.learn.sample import supervised
from ownship.recipes import sft
from ownship.recipes.settings import OptimSettings

RL = ["--env", "sums:low=2,high=2,largest=3", "--steps", "8", "--tasks", "4", "--group", "4", "--max-tokens", "16",
      "--dtype", "float32", "--optim.lr", "1e-3", "--save-every", "2"]
SFT = ["--env", "sums:low=2,high=2,largest=3", "--steps", "12", "--batch", "8", "--dtype", "float32", "--save-every", "3"]

CHATS = ["--data", "chats.jsonl", "--held-out", "0.2", "--measure-every", "4", "--steps", "12", "--batch", "8",
         "--dtype", "float32", "--save-every", "3"]
DPO = ["--data", "pairs.jsonl", "--held-out", "0.2", "--measure-every", "4", "--steps", "12", "--batch", "8",
       "--dtype", "float32", "--optim.lr", "1e-3", "--save-every", "3"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The files that CHATS and DPO read."""
    with open(tmp_path / "chats.jsonl", "w") as chats, open(tmp_path / "pairs.jsonl", "w") as pairs:
        for number in range(30):
            asked = [{"role": "user", "content": f"{number}+1="}]
            right, wrong = ({"role": "assistant", "content": str(number + more)} for more in (1, 2))
            chats.write(json.dumps({"messages": [*asked, right]}) + "\n")
            pairs.write(json.dumps({"prompt": asked, "chosen": [right], "rejected": [wrong]}) + "\n")
    return tmp_path

PRETRAIN = ["--depth", "1", "--width", "32", "--heads", "2", "--vocab", "300", "--context", "32", "--batch", "300", "--steps", "12",
            "--dtype", "float32", "--save-every", "3", "--eval-every", "4"]


KILLED = Path(__file__).with_name("killed.py")


def start(verb: str, source: Path, out: Path, flags: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    given = "--data" if verb == "pretrain" else "--model"
    command = [sys.executable, "-m", "ownship", verb, given, str(source), "--out", str(out), *flags]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    error = process.communicate()[1]
    assert process.returncode == 0, error.decode()


def lines(folder: Path, name: str = "metrics.jsonl") -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


LORA = ["--lora-rank", "4", "--lora-alpha", "8"]


@pytest.mark.parametrize(("verb", "flags"), [
    ("rl", RL), ("sft", SFT), ("sft", CHATS), ("dpo", DPO), ("rl", RL + LORA),
    ("pretrain", PRETRAIN), ("pretrain", [*PRETRAIN, "--optimizer", "adamw", "--dtype", "bfloat16"]),
], ids=["rl", "sft", "sft on a file", "dpo", "rl with adapters", "pretrain", "pretrain in bf16"])
def test_sigkill_at_any_moment_then_resume_gives_the_same_run(verb: str, flags: list[str], pupil: Path, data: Path, library: Path,
                                                    tmp_path: Path, one_thread: dict[str, str]) -> None:
    flags = [str(data / flag) if flag.endswith(".jsonl") else flag for flag in flags]
    source = library if verb == "pretrain" else pupil
    finish(start(verb, source, tmp_path / "calm", flags, one_thread))
    calm = lines(tmp_path / "calm")
    steps = int(flags[flags.index("--steps") + 1])
    assert [json.loads(line)["step"] for line in calm] == list(range(1, steps + 1))
    assert any(json.loads(line)["trained_tokens"] > 0 for line in calm)
    given = "--data" if verb == "pretrain" else "--model"
    out = tmp_path / "killed"
    killed = subprocess.run([sys.executable, KILLED, verb, out, verb, given, source, "--out", out, *flags], env=one_thread,
                            capture_output=True, text=True)
    assert killed.returncode == 0, killed.stdout + killed.stderr
    assert lines(tmp_path / "killed") == calm
    assert lines(tmp_path / "killed", "rollouts.jsonl") == lines(tmp_path / "calm", "rollouts.jsonl")
    for name in ("model/model.safetensors", *(["adapter/adapter_model.safetensors"] if "--lora-rank" in flags else [])):
        assert (tmp_path / "calm" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_a_kill_between_any_two_operations_on_files_leaves_a_whole_state(tmp_path: Path) -> None:
    """Every state of the folder that a kill can leave while steps are finished and saved, as Python's audit events tell them."""
    run, copies, watching = tmp_path / "run", list[Path](), False

    def before(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal watching
        if watching and event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            watching = False
            copies.append(Path(shutil.copytree(run, tmp_path / f"{len(copies):03}")))
            watching = True

    sys.addaudithook(before)  # for the rest of the process, but it does nothing then
    learner, now = Learner(tiny_model()[0], Optim(lr=1e-2)), Run(run, {"a": 1})
    copied = [0]
    for step in (1, 2, 3):
        learner.update([supervised([step, 2, 3], [False, True, True])], imitation)
        watching = True
        now.log("metrics", loss=float(step))
        now.state["last"] = step
        now.finish_step(learner, save_every=1)
        now.save(learner)  # as at the end of a run: what is there already is not touched
        watching = False
        copied.append(len(copies))
    assert len(copies) > 30
    for step in (1, 2, 3):
        seen = []
        for copy in copies[copied[step - 1] : copied[step]]:
            again, fresh = Run(copy, {"a": 1}), Learner(tiny_model(seed=9)[0], Optim(lr=1e-2))
            again.restore(fresh)
            assert again.step == fresh.updates == again.state.get("last", 0)
            assert [line["step"] for line in again.read("metrics")] == list(range(1, again.step + 1))
            for saved in copy.glob("checkpoints/*"):  # this one or the one before, both whole, and nothing that was begun
                assert int(saved.name) == json.loads((saved / "state.json").read_text())["step"] in (again.step, again.step - 1)
                assert load_file(saved / "learner.safetensors").keys() == fresh.tensors().keys()
            seen.append(again.step)
        assert sorted(seen) == seen and set(seen) == {step - 1, step}


@pytest.mark.parametrize(("verb", "chosen"), [("rl", RL), ("dpo", DPO)], ids=["rl", "dpo"])
def test_ctrl_c_saves_and_says_how_to_go_on(verb: str, chosen: list[str], pupil: Path, data: Path, tmp_path: Path,
                                            one_thread: dict[str, str]) -> None:
    chosen = [str(data / flag) if flag.endswith(".jsonl") else flag for flag in chosen]
    flags = [*chosen, "--steps", "100000"]
    process = start(verb, pupil, tmp_path / "run", flags, one_thread)
    while len(lines(tmp_path / "run")) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "the same command goes on" in error
    done = len(lines(tmp_path / "run"))
    again = start(verb, pupil, tmp_path / "run", [*chosen, "--steps", str(done + 1)], one_thread)
    finish(again)
    assert len(lines(tmp_path / "run")) == done + 1  # nothing was made twice


def test_ctrl_c_in_pretraining(library: Path, tmp_path: Path, one_thread: dict[str, str]) -> None:
    process = start("pretrain", library, tmp_path / "run", [*PRETRAIN, "--steps", "5000"], one_thread)
    while len(lines(tmp_path / "run")) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "Traceback" not in error and "the same command goes on" in error
    done = json.loads((max((tmp_path / "run" / "checkpoints").iterdir()) / "state.json").read_text())
    assert done["step"] == len(lines(tmp_path / "run"))  # whole, though it was no step to save at
    again = start("pretrain", library, tmp_path / "run", [*PRETRAIN, "--steps", "5000", "--minutes", "0.01"], one_thread)
    finish(again)
    steps = [json.loads(line)["step"] for line in lines(tmp_path / "run")]
    assert steps == list(range(1, len(steps) + 1)) and done["step"] < len(steps) < 5000


def test_another_run_in_the_same_place_is_refused(pupil: Path, tmp_path: Path, one_thread: dict[str, str]) -> None:
    finish(start("sft", pupil, tmp_path / "run", [*SFT, "--steps", "1"], one_thread))
    other = start("sft", pupil, tmp_path / "run", [*SFT, "--batch", "4"], one_thread)
    error = other.communicate()[1].decode()
    assert other.returncode == 2
    assert "batch=8" in error
    assert "Traceback" not in error


def test_the_rate_falls_to_nothing_over_the_whole_of_a_run_that_is_made_in_parts(pupil: Path, tmp_path: Path) -> None:
    def part(steps: int, end: int) -> list[float]:
        sft.run(sft.SFT(model=str(pupil), env="sums:low=2,high=2,largest=3", out=tmp_path / "run", steps=steps, end=end, batch=2,
                        optim=OptimSettings(lr=1e-3, warmup=2), dtype="float32"))
        return [round(json.loads(line)["lr"] * 1e3, 6) for line in lines(tmp_path / "run")]

    assert part(2, 10) == [0.5, 0.9]
    assert part(5, 5) == [0.5, 0.9, 0.6, 0.4, 0.2]  # it turned out to be slower than was thought
    with pytest.raises(UserError, match="--end 5 would leave the last of --steps 6"):
        part(6, 5)
