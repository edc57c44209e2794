"""Two processes (gloo, FSDP2) are one: the same update, the same curve, and each goes on where the other stopped."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model
from torch import Tensor
from torch.distributed.tensor import DTensor

from ownship.learn import distributed
from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import Loss, PolicyGradient, imitation
from ownship.learn.preference import Preference
from ownship.learn.run import Run
from ownship.learn.sample import Sample, supervised
from ownship.model.llama import Llama, LlamaConfig
from ownship.model.lora import Lora
from ownship.recipes import dpo, pretrain, rl, sft
from ownship.recipes.settings import LoraSettings, OptimSettings

UNTIED = LlamaConfig(vocab_size=101, hidden_size=36, intermediate_size=50, num_hidden_layers=3, num_attention_heads=6,
                     num_key_value_heads=2, head_dim=6)  # sizes that two ranks cannot share out evenly


def port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def ranks(master: int) -> list[dict[str, str]]:
    """What torchrun puts into the environment of two processes."""
    return [{"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": str(master)}
            for rank in (0, 1)]


def _joined(rank: int, master: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(ranks(master)[rank])
    torch.set_num_threads(1)
    with distributed.session():
        assert distributed.several()
        work(*arguments)
    os._exit(0)  # threads of torch that are still there at an ordinary end have turned it into SIGABRT


def in_two(work: Callable[..., None], *arguments: Any) -> None:
    """Runs `work` in two processes that are one training; raises what they raise."""
    context = torch.multiprocessing.spawn(_joined, (port(), work, arguments), nprocs=2, join=False)
    for process in context.processes:  # one that only ends because the other failed says nothing
        process.join()
    for file in context.error_files:
        if os.path.exists(file):
            with open(file, "rb") as told:
                pytest.fail(pickle.load(told))
    context.join()


# One update


def groups() -> list[Sample]:
    """Three prompts with replies of unlike lengths, whose advantages have both signs."""
    draw = torch.Generator().manual_seed(1)
    samples = []
    for length, sizes in ((7, (5, 1, 9, 3)), (4, (2, 6, 6)), (9, (4, 4))):
        prompt = torch.randint(101, (length,), generator=draw).tolist()
        for size in sizes:
            zeros, advantage = [0.0] * length, float(torch.randn((), generator=draw))
            samples.append(Sample(prompt + torch.randint(101, (size,), generator=draw).tolist(), length, zeros + [1.0] * size,
                                  zeros + (-4.6 + torch.randn(size, generator=draw)).tolist(), zeros + [advantage] * size))
    return samples


def pairs() -> list[Sample]:
    """Three pairs of replies, the second of each rejected."""
    found = groups()[:2] + groups()[4:6] + groups()[7:]
    return [replace(sample, pair=at // 2, weights=[weight / 2 / sum(sample.weights) for weight in sample.weights],
                    advantages=[weight * (1.0 if at % 2 == 0 else -1.0) for weight in sample.weights])
            for at, sample in enumerate(found)]


def texts() -> list[Sample]:
    draw = torch.Generator().manual_seed(2)
    return [supervised(torch.randint(101, (size,), generator=draw).tolist(), [False] + [True] * (size - 1)) for size in (9, 5, 12)]


BATCHES: dict[str, tuple[list[Sample], Loss]] = {
    "texts": (texts(), imitation), "groups": (groups(), PolicyGradient()), "pairs": (pairs(), Preference(beta=1.0))}


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def updated(batch: str, micro_tokens: int, recompute: bool = False, kind: str = "adamw", dtype: torch.dtype = torch.float32,
            rank: int = 0, exact: bool = True, tied: bool = False, updates: int = 2) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Measurements, weights and first moments after `updates`. The moments are sums of gradients: AdamW's weights alone would not
    show a gradient of another size."""
    model = Llama(replace(UNTIED, tie_word_embeddings=tied)).init_weights(0, std=0.2).to(dtype)
    adapters = Lora(model, rank, 8.0) if rank else None
    learner = Learner(model, Optim(lr=1e-4, warmup=1, weight_decay=0.1, kind=kind, max_grad_norm=0.5),  # type: ignore[arg-type]
                      micro_tokens, adapters, exact, recompute)
    for part in learner._optimizer._parts:
        for group in part.param_groups:
            if "betas" in group:  # AdamW: where a gradient is rounding alone, the usual 1e-8 would make a whole step of it
                group["eps"] = 1e-4  # below most gradients here
    samples, loss = BATCHES[batch]
    for _ in range(updates):
        measured = learner.update(samples, loss, lambda _: None)
    moments = {name: whole(tensor) for name, tensor in learner.tensors().items() if name.startswith("exp_avg.")}
    return measured, {name: parameter.detach().float() for name, parameter in model.named_parameters()} | moments


Updated = tuple[dict[str, float], dict[str, Tensor]]


def same(first: Updated, second: Updated, most: float) -> None:
    for name, value in first[0].items():
        if name != "stream_tokens":  # how often a prompt is read depends on the split
            assert second[0][name] == pytest.approx(value, rel=1e-5 + most, abs=1e-6 + most), (name, value, second[0][name])
    assert first[0].keys() == second[0].keys()
    for name, tensor in first[1].items():
        apart = (tensor - second[1][name]).abs()
        assert float(apart.max()) <= (most / 10 if name.startswith("exp_avg.") else most), (name, float(apart.max()))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("micro_tokens", [1, 16, 40])  # 1: every sample alone, nothing shared
def test_one_update_is_the_same_however_it_is_split(batch: str, recompute: bool, micro_tokens: int) -> None:
    whole, split = updated(batch, 10_000), updated(batch, micro_tokens, recompute)
    assert split[0]["stream_tokens"] > whole[0]["stream_tokens"] or batch != "groups"
    same(whole, split, 1e-6)


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)])
@pytest.mark.parametrize("rank", [0, 4])
def test_recomputing_the_layers_changes_no_bit(dtype: torch.dtype, exact: bool, rank: int) -> None:
    kept, again = (updated("groups", 40, recompute, dtype=dtype, exact=exact, rank=rank) for recompute in (False, True))
    assert kept[0] == again[0]
    assert all(torch.equal(tensor, again[1][name]) for name, tensor in kept[1].items())


def test_recomputing_keeps_less() -> None:
    def held(recompute: bool) -> int:
        model = tiny_model()[0]
        for block in model.layers:
            block.recomputed = recompute  # type: ignore[assignment]
        sizes: list[int] = []
        from ownship.model.attention import sequences

        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor):
            model(torch.arange(200), *sequences([200]))
        return sum(sizes)

    assert held(True) < held(False) / 3


# In bfloat16 one update: a weight rounded the other way afterwards moves the next norm of the gradient by up to 1 %.
UPDATES: list[tuple[dict[str, Any], float]] = [
    ({"batch": "texts", "micro_tokens": 10_000}, 1e-6),  # one micro-batch: the second rank has none
    ({"batch": "texts", "micro_tokens": 1, "recompute": True}, 1e-6),
    ({"batch": "groups", "micro_tokens": 16}, 1e-6),
    ({"batch": "groups", "micro_tokens": 1, "tied": True}, 1e-6),
    ({"batch": "pairs", "micro_tokens": 16, "recompute": True}, 1e-6),
    ({"batch": "groups", "micro_tokens": 16, "rank": 4}, 1e-6),
    ({"batch": "texts", "micro_tokens": 10, "kind": "muon"}, 1e-5),  # Newton and Schulz's iteration runs in bf16
    ({"batch": "groups", "micro_tokens": 16, "dtype": torch.bfloat16, "updates": 1}, 2e-3),  # half of the last bit of 1
    ({"batch": "groups", "micro_tokens": 16, "dtype": torch.bfloat16, "exact": False, "recompute": True, "updates": 1}, 2e-3),
]


def _updates(alone: Path) -> None:
    expected = torch.load(alone)
    for (options, most), one in zip(UPDATES, expected, strict=True):
        try:
            same(one, updated(**options), most)
        except AssertionError as error:
            raise AssertionError(options) from error


def test_one_update_is_the_same_in_two_processes(tmp_path: Path) -> None:
    """Of 1 to 9 micro-batches: one rank has one less, or none at all."""
    torch.save([updated(**options) for options, _ in UPDATES], tmp_path / "alone.pt")
    in_two(_updates, tmp_path / "alone.pt")


# Whole runs


def lines(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def same_curve(first: Path, second: Path, most: float = 1e-4) -> None:
    one, two = lines(first), lines(second)
    assert len(one) == len(two) > 0
    for before, after in zip(one, two, strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            if name == "accuracy" and abs(before["margin"]) < 1e-5:
                continue  # before the first update all margins are rounding, and so is their sign
            if name not in ("fingerprint", "rates", "doctor"):
                assert after[name] == pytest.approx(value, rel=most, abs=1e-5), (before["step"], name)
    for before, after in zip(lines(first, "rollouts"), lines(second, "rollouts"), strict=True):
        for told, again in zip(before["rollouts"], after["rollouts"], strict=True):
            assert told["messages"] == again["messages"]


def recipes(pupil: Path, data: Path, out: Path) -> None:
    """Every recipe with what it can do beside the plain update: adapters, a reference, epochs, what is held out, Muon."""
    model, tuned = str(pupil), OptimSettings(lr=1e-3)
    sums = "sums:low=2,high=2,largest=3"
    rl.run(rl.RL(model, sums, out / "rl", 3, tasks=3, group=4, max_tokens=16, algorithm="gspo", epochs=2, kl=0.1, optim=tuned,
                 dtype="float32", micro_tokens=60, activation_checkpointing=True))
    rl.run(rl.RL(model, sums, out / "lora", 2, minutes=5.0, tasks=3, group=4, max_tokens=16, optim=tuned, lora=LoraSettings(4, 8.0),
                 dtype="float32", micro_tokens=60))
    sft.run(sft.SFT(model, data=data / "chats.jsonl", held_out=0.2, measure_every=2, out=out / "sft", steps=4, batch=8, optim=tuned,
                    dtype="float32", micro_tokens=60))
    dpo.run(dpo.DPO(model=model, data=data / "pairs.jsonl", held_out=0.2, measure_every=2, out=out / "dpo", steps=4, batch=5,
                    optim=tuned, dtype="float32", micro_tokens=60))
    pretrain.run(pretrain.Pretrain(1, data / "library", width=32, heads=2, vocab=300, context=32, batch=300, steps=4,
                                   out=out / "pretrain", dtype="float32", eval_every=2, micro_tokens=100))


def test_every_recipe_is_the_same_in_two_processes(pupil: Path, library: Path, tmp_path: Path) -> None:
    with open(tmp_path / "chats.jsonl", "w") as chats, open(tmp_path / "pairs.jsonl", "w") as file:
        for number in range(20):
            asked = [{"role": "user", "content": f"{number}+1="}]
            right, wrong = ({"role": "assistant", "content": str(number + more)} for more in (1, 2))
            chats.write(json.dumps({"messages": [*asked, right]}) + "\n")
            file.write(json.dumps({"prompt": asked, "chosen": [right], "rejected": [wrong]}) + "\n")
    recipes(pupil, tmp_path, tmp_path / "alone")
    in_two(recipes, pupil, tmp_path, tmp_path / "two")
    for name in ("rl", "lora", "sft", "dpo", "pretrain"):
        same_curve(tmp_path / "alone" / name, tmp_path / "two" / name, 1e-3 if name == "pretrain" else 1e-4)  # Muon's bf16
        assert (tmp_path / "two" / name / "model" / "model.safetensors").is_file()


# What the demo's test runs, in float32.
RL = ["rl", "--env", "sums:low=2,high=2,largest=4", "--tasks", "4", "--group", "4", "--max-tokens", "16", "--refill", "2.0",
      "--dtype", "float32", "--optim.lr", "1e-3", "--save-every", "2", "--micro-tokens", "60"]


def torchrun(env: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ownship"]
    return subprocess.Popen([*command, *map(str, arguments)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_torchrun_stops_and_one_process_goes_on(pupil: Path, tmp_path: Path, one_thread: dict[str, str]) -> None:
    """And the other way round: two processes go on with what one has saved. Together they are the run that one made alone."""
    config = rl.RL(str(pupil), "sums:low=2,high=2,largest=4", tmp_path / "run", 3, tasks=4, group=4, max_tokens=16, refill=2.0,
                   dtype="float32", optim=OptimSettings(lr=1e-3), save_every=2, micro_tokens=60)
    rl.run(config)
    process = torchrun(one_thread, *RL, "--model", pupil, "--out", config.out, "--steps", 100_000)
    while len(lines(config.out)) < 6:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert error.count("the same command goes on") == 1, error
    assert "src/ownship/" not in error, error  # no traceback of ours
    done = len(lines(config.out))
    saved = max((config.out / "checkpoints").iterdir())
    assert json.loads((saved / "state.json").read_text())["step"] == done
    assert len(list(saved.glob("*.safetensors"))) == 2  # each rank wrote its part
    rl.run(replace(config, steps=done + 1))
    rl.run(replace(config, steps=done + 1, out=tmp_path / "calm"))
    same_curve(tmp_path / "calm", config.out)


def pair_of(env: dict[str, str], *commands: list[object]) -> list[subprocess.Popen[str]]:
    """Two ranks started by hand: no torchrun beside them that could end the other."""
    return [subprocess.Popen([sys.executable, "-m", "ownship", *map(str, command)], env={**env, **rank}, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for rank, command in zip(ranks(port()), commands, strict=True)]


def test_what_fails_in_one_rank_ends_both_with_one_message(pupil: Path, tmp_path: Path, one_thread: dict[str, str]) -> None:
    nothing = tmp_path / "nothing"
    processes = pair_of(one_thread, *([*RL, "--model", model, "--out", tmp_path / "run"] for model in (pupil, nothing)))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert processes[0].returncode != 0 and processes[1].returncode == 2
    assert errors[0] == ""
    assert errors[1].startswith(f"ownship: {nothing}") and errors[1].count("\n") == 1, errors


def test_a_killed_rank_ends_the_other(pupil: Path, tmp_path: Path, one_thread: dict[str, str]) -> None:
    flags = [*RL, "--model", pupil, "--out", tmp_path / "run", "--steps", 100_000]
    first, second = pair_of(one_thread, flags, flags)
    while len(lines(tmp_path / "run")) < 3:
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.01)
    second.kill()
    error = first.communicate(timeout=120)[1]
    second.communicate()
    assert first.returncode == 2
    assert "ended without a word" in error and "Traceback" not in error, error
    assert json.loads((max((tmp_path / "run" / "checkpoints").iterdir()) / "state.json").read_text())["step"] >= 2


def test_one_process_needs_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ownship.learn.sharded", "torch.distributed", "torch.distributed.checkpoint"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    learner, run = Learner(tiny_model()[0]), Run(tmp_path / "run", {})
    learner.update(texts(), imitation, lambda _: None)
    run.finish_step(learner, 1)
    fresh = Learner(tiny_model(1)[0])
    Run(tmp_path / "run", {}).restore(fresh)
    assert fresh.fingerprint == learner.fingerprint
