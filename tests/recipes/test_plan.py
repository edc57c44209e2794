"""Predictions against trainings that others have published, and advice that works when it is taken."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ownship.errors import UserError
from ownship.evals import pace
from ownship.recipes import plan as module
from ownship.recipes.plan import DEVICES, Device, Plan, Shape, alone, decode_rate, describe, expected_loss, memory, plan


# GPU hours: the model cards of Llama 2 and Llama 3.1; work: arXiv:2407.21783, section 3.4
@pytest.mark.parametrize(("model", "tokens", "cluster", "sequence", "hours"), [
    ("6.74B", "2T", "1024xa100", 4096, 184_320),
    ("13B", "2T", "1024xa100", 4096, 368_640),
    ("70B", "2T", "2048xa100", 4096, 1_720_320),
    ("405B", "15.6T", "16384xh100", 8192, 30_840_000),
])
def test_published_trainings(model: str, tokens: str, cluster: str, sequence: int, hours: float) -> None:
    found = plan(Plan(model, tokens, cluster, sequence=sequence))
    assert found["device_hours"] == pytest.approx(hours, rel=0.25)


def test_work_of_the_largest_llama() -> None:
    assert plan(Plan("405B", "15.6T", "16384xh100", sequence=8192))["flops"] == pytest.approx(3.8e25, rel=0.1)


def test_chinchilla_was_expected_to_reach_what_it_reached() -> None:
    assert expected_loss(70e9, 1.4e12) == pytest.approx(1.936, abs=0.01)  # arXiv:2203.15556, section D.3


def test_memory_by_hand() -> None:
    shape = Shape(parameters=1e9, layers=10, hidden=1000, vocabulary=50_000, kv_bytes=0)
    # 16 GB / 4 + two layers of bf16 + 34 bytes × 10 layers × 1,000 × 2,048 tokens + logits and their gradient
    expected = 4e9 + 2 * 2 * 1e8 + 34 * 10 * 1000 * 2048 + 8 * 2048 * 50_000
    assert memory(shape, 4, 1, 2048, False) == pytest.approx(expected)
    assert memory(shape, 4, 2, 2048, True) == pytest.approx(4e9 + 2e8 + (54 * 1000 * 2048 + 8 * 2048 * 50_000) / 2)


def test_sampling_waits_for_memory_first_and_for_work_at_last() -> None:
    shape, device = Shape(7e9, 32, 4096, 32_000, 4 * 32 * 1024), DEVICES["h100"]
    assert decode_rate(shape, device, 1, rows=1) == pytest.approx(0.6 * 3.35e12 / 14e9, rel=0.01)
    assert decode_rate(shape, device, 1, rows=100_000) == pytest.approx(0.4 * 989e12 / 14e9, rel=0.01)


@pytest.mark.parametrize("model", ["7B", "70B", "405B", "1T"])
@pytest.mark.parametrize("device", ["a100", "h100", "b200"])
def test_advice_that_is_taken_works(model: str, device: str) -> None:
    def needed(count: int) -> int:
        try:
            plan(Plan(model, "1T", f"{count}x{device}", sequence=2048))
        except UserError as error:
            found = re.search(r"take (\d+) of them", str(error))
            return int(found[1]) if found else -1
        return count

    count = 1
    while (more := needed(count)) != count:
        assert count < more < 10_000
        count = more


def test_twice_the_devices_take_half_the_time_and_the_same_money() -> None:
    few, many = (plan(Plan("7B", "1T", f"{count}xh100")) for count in (64, 128))
    assert few["hours"] == pytest.approx(2 * many["hours"]) and few["dollars"] == pytest.approx(many["dollars"])


def test_own_electricity_counts_instead_of_rent() -> None:
    rent, own = plan(Plan("7B", price=2.0)), plan(Plan("7B", price_kwh=0.1))
    assert rent["dollars"] == pytest.approx(2 * rent["device_hours"])
    assert own["dollars"] == pytest.approx(0.1 * own["energy_kwh"]) and own["dollars_are"] == "electricity"


def test_text() -> None:
    config = Plan("7B", "1B", method="rl")
    text = describe(config, plan(config))
    assert "% of it sampling" in text and "nats" not in text and "assumed" in text
    slow = Plan("7B", "1T", "64xrtx4090", batch="300K", sequence=2048)
    assert "exchanging weights" in describe(slow, plan(slow))


@pytest.mark.parametrize(("config", "reason"), [
    (Plan("seven"), "no such model"), (Plan("7B", cluster="8xabacus"), "expected COUNTxDEVICE"),
    (Plan("7B", cluster="0xh100"), "expected COUNTxDEVICE"),
    (Plan("7B", tokens="-3"), "--tokens"), (Plan("7B", tokens="1.2.3T"), "--tokens"), (Plan("7B", sequence=0), "--sequence"),
    (Plan("7B", efficiency=-1), "--efficiency"), (Plan("7B", sequence=100_000_000), "shorter --sequence"),
    (Plan("7B", cluster="1024xh100", batch="8K"), "larger --batch"),
])
def test_what_cannot_be_planned(config: Plan, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        plan(config)


def test_numbers_are_numbers() -> None:
    found = plan(Plan("smollm2-135m-instruct", "300M", "8xh100"))
    assert found["model"]["parameters"] == 134_515_008 and math.isfinite(found["expected_loss"])


# This machine


HERE = Device(100e9, 16e9, 20e9, 1e9, 1e9, 1, 20, 0.1, 0.5, "made up", 0.25)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_here", lambda shape: HERE)


@pytest.mark.usefixtures("here")
def test_a_plan_for_this_machine_by_hand() -> None:
    shape = Shape(parameters=1e8, layers=10, hidden=800, vocabulary=30_000, kv_bytes=0)
    config = Plan("", cluster="here", sequence=100, micro_tokens=1000, method="rl")
    layout = alone(shape, HERE, config, 5000, 0.5)
    assert layout.sequences == 10 and layout.compute_seconds == pytest.approx(5000 * (6e8 + 12 * 10 * 800 * 100) / 50e9)
    states = 2 + 2 + 4 + 4 + 8 + 2  # weights, gradients, masters, their gradients, moments; the engine's copy of the weights
    assert layout.bytes_per_device == pytest.approx(
        0.25e9 + 0.5e9 + states * 1e8 + 4e8 / 10 + 1000 * (34 * 10 * 800 + 8 * 30_000))
    found = plan(Plan("smollm2-135m-instruct", "1M", "here", method="rl", sequence=128))
    assert found["sampling_hours"] * 3600 == pytest.approx(1e6 * 2 * 134_515_008 / 25e9)
    with pytest.raises(UserError, match=r"16 are free: use a smaller model"):
        plan(Plan("7B", cluster="here"))
    with pytest.raises(UserError, match="--micro-tokens"):
        plan(Plan("135M", cluster="here", micro_tokens=0))


def test_what_is_measured_of_this_machine() -> None:
    """On a network of the least size: numbers that are possible, and the work that they stand for."""
    found = pace.measure(2, 64, 600)
    assert found.keys() == {"learning", "drawing"} and all(0 < value < 1e6 for value in found.values())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process had")
def test_memory_of_a_real_update(tmp_path: Path) -> None:
    """In a process of its own, for a network large enough that its state is most of what there is."""
    script = f"""
import json, re
from ownship import machine
machine.prepare()
import torch
from ownship.learn.learner import Learner
from ownship.learn.loss import imitation
from ownship.learn.sample import supervised
from ownship.model.llama import Llama, LlamaConfig
sizes = LlamaConfig(vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8,
                    num_key_value_heads=8, head_dim=64, tie_word_embeddings=True)
learner = Learner(Llama(sizes).init_weights(0).to(torch.bfloat16), micro_tokens=512)
samples = [supervised(list(range(start, start + 128)), [False] + [True] * 127) for start in range(8)]
learner.update(samples, imitation)
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]  # not what the parent had, as getrusage says
json.dump([sizes.parameters, int(peak) << 10], open({str(tmp_path / "found")!r}, "w"))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    parameters, measured = json.loads((tmp_path / "found").read_text())
    planned = alone(Shape(parameters, 6, 512, 8192, 0), HERE, Plan("", cluster="here", sequence=128, micro_tokens=512), 1024, 1)
    assert measured == pytest.approx(planned.bytes_per_device - 0.5e9, rel=0.25)  # one update has not freed anything yet
