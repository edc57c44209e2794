"""A run that is killed and started again is the run that was never killed."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
def test_sigkill_then_resume_gives_the_same_metrics(verb: str, flags: list[str], pupil: Path, data: Path, library: Path,
                                                    tmp_path: Path, one_thread: dict[str, str]) -> None:
    flags = [str(data / flag) if flag.endswith(".jsonl") else flag for flag in flags]
    source = library if verb == "pretrain" else pupil
    finish(start(verb, source, tmp_path / "calm", flags, one_thread))
    calm = lines(tmp_path / "calm")
    steps = int(flags[flags.index("--steps") + 1])
    assert [json.loads(line)["step"] for line in calm] == list(range(1, steps + 1))
    assert any(json.loads(line)["trained_tokens"] > 0 for line in calm)
    draw = random.Random(verb)
    kills = 0
    for step in sorted(draw.sample(range(1, steps), 2)):
        process = start(verb, source, tmp_path / "killed", flags, one_thread)
        while len(lines(tmp_path / "killed")) < step and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.02)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert kills
    finish(start(verb, source, tmp_path / "killed", flags, one_thread))
    assert lines(tmp_path / "killed") == calm
    assert lines(tmp_path / "killed", "rollouts.jsonl") == lines(tmp_path / "calm", "rollouts.jsonl")
    for name in ("model/model.safetensors", *(["adapter/adapter_model.safetensors"] if "--lora-rank" in flags else [])):
        assert (tmp_path / "calm" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


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
