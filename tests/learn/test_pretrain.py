"""Pretraining a tiny network on made-up stories: what the dial sets, that it learns, and what it leaves."""

import json
import math
import time
from dataclasses import asdict, replace
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch

from ownship.errors import UserError
from ownship.evals.bits import bits_per_byte, pieces, predicted
from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import imitation
from ownship.learn.run import Run
from ownship.model import checkpoint
from ownship.model.llama import Llama, LlamaConfig
from ownship.recipes import pretrain, sft
from ownship.recipes.pretrain import Pretrain, in_time, sizes


@pytest.fixture
def tiny(library: Path, tmp_path: Path) -> Pretrain:
    return Pretrain(depth=1, data=library, out=tmp_path / "run", steps=30, width=32, heads=2, vocab=300, context=64, batch=512,
                    lr=1e-2, dtype="float32", eval_every=10, micro_tokens=512)


def test_the_dial_by_hand() -> None:
    found = sizes(Pretrain(depth=4))
    layer = 4 * 256**2 + 3 * 256 * 704 + 2 * 256
    assert (found.width, found.heads, found.mlp, found.vocab, found.context) == (256, 4, 704, 4096, 512)
    assert found.parameters == 4 * layer + 256 + 4096 * 256
    compute = 6 * found.parameters * 20 * found.parameters
    assert found.lr == pytest.approx(0.3118 * compute**-0.125, rel=0.02)
    assert found.batch == pytest.approx(0.292 * compute**0.3271, rel=0.02) and found.batch % 512 == 0
    assert 0 <= found.tokens - 20 * found.parameters < found.batch
    larger = [sizes(Pretrain(depth=depth)) for depth in range(1, 33)]
    for small, large in pairwise(larger):
        assert all(asdict(small)[name] <= asdict(large)[name] for name in
                   ("width", "heads", "mlp", "vocab", "context", "parameters", "tokens", "batch"))
        assert small.lr >= large.lr


def test_every_value_has_a_flag() -> None:
    given = {"width": 96, "heads": 3, "mlp": 100, "vocab": 1000, "context": 100, "batch": 777, "steps": 9, "lr": 0.5, "warmup": 4}
    found = asdict(sizes(replace(Pretrain(), **given)))
    assert {name: found[name] for name in given} == given
    assert found["tokens"] == 9 * 777
    assert sizes(Pretrain(tokens=10_000_000)).steps == math.ceil(10_000_000 / sizes(Pretrain(tokens=10_000_000)).batch)
    model = LlamaConfig(vocab_size=1000, hidden_size=96, intermediate_size=100, num_hidden_layers=4, num_attention_heads=3,
                        num_key_value_heads=3, head_dim=32, tie_word_embeddings=True)
    assert found["parameters"] == model.parameters


@pytest.mark.parametrize(("wrong", "word"), [
    ({"depth": 0}, "--depth"), ({"width": 100, "heads": 3}, "--heads 3"), ({"steps": 0}, "--steps"),
    ({"minutes": 0.0}, "--minutes"), ({"lr": -1.0}, "--lr"), ({"decay": 1.5}, "--decay"),
    ({"steps": 3, "tokens": 3}, "--tokens"), ({"vocab": 10}, "at least 259, not 10"),
    ({"dtype": "int8"}, "int8"), ({"tokenizer": Path("x"), "vocab": 300}, "--tokenizer"),
    ({"tokenizer": Path("none"), "vocab": None}, "none"),
    ({"data": Path("none")}, "none: no such")])
def test_mistakes(wrong: dict[str, object], word: str, tiny: Pretrain) -> None:
    with pytest.raises(UserError, match=word):
        pretrain.run(replace(tiny, **wrong))  # type: ignore[arg-type]
    assert not tiny.out.exists()  # the same folder takes the mended command


def test_it_learns_and_goes_on_to_sft(tiny: Pretrain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pretrain.run(replace(tiny, steps=60))
    printed = capsys.readouterr().out
    for word in ("--width", "--lr", "--batch", "--vocab", "parameters", "as given", "from --depth 1", "1 binary", "held out"):
        assert word in printed
    metrics = Run(tiny.out, json.loads((tiny.out / "config.json").read_text())).read("metrics")
    bits = {line["step"]: line["bits_per_byte"] for line in metrics if "bits_per_byte" in line}
    assert set(bits) == {1, 10, 20, 30, 40, 50, 60}
    assert bits[60] < 0.55 * bits[1]
    assert all(line["trained_tokens"] == 512 for line in metrics)
    rates = [line["lr"] for line in metrics]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01]) and rates[-1] == pytest.approx(0.01 / 12)

    model, tokenizer = checkpoint.load(folder, torch.float32)
    assert model.config.eos_token_ids == (2, 0)
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}) + "\n")
    further = sft.run(sft.SFT(model=str(folder), data=chats, out=tmp_path / "sft", steps=2, batch=2, dtype="float32"))
    assert checkpoint.load(further)[1].size == tokenizer.size

    before = (tiny.out / "metrics.jsonl").read_bytes()
    assert pretrain.run(replace(tiny, steps=60)) == folder  # all is done: no new step
    assert (tiny.out / "metrics.jsonl").read_bytes() == before
    (tiny.data / "more.txt").write_text("The data is another now.")
    with pytest.raises(UserError, match="digest of the data"):
        pretrain.run(replace(tiny, steps=60))


def test_a_given_tokenizer(tiny: Pretrain, tmp_path: Path) -> None:
    pretrain.run(replace(tiny, steps=1))
    other = replace(tiny, tokenizer=tiny.out / "model", vocab=None, out=tmp_path / "other", steps=1)
    assert pretrain.run(other) == tmp_path / "other" / "model"
    assert (tiny.out / "metrics.jsonl").read_bytes() == (tmp_path / "other" / "metrics.jsonl").read_bytes()
    assert not (tmp_path / "other" / "tokenizer").exists()


def test_minutes_bring_the_decay_forward(tiny: Pretrain, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_time(step=80, pace=1.0, left=21.0, decay=0.2) is None
    assert in_time(step=80, pace=1.0, left=20.0, decay=0.2) == 100
    assert in_time(step=80, pace=0.5, left=0.0, decay=0.0) == 81
    ticks = count()

    class Clock:
        """Every look at it takes 20 ms, so a step takes 40."""

        monotonic = staticmethod(lambda: 0.02 * next(ticks))
        perf_counter = staticmethod(time.perf_counter)

    monkeypatch.setattr(pretrain, "time", Clock)
    pretrain.run(replace(tiny, minutes=0.04, steps=100_000, warmup=2))  # 2.4 seconds
    rates = [json.loads(line)["lr"] for line in (tiny.out / "metrics.jsonl").read_text().splitlines()]
    assert len(rates) == pytest.approx(60, abs=5)
    assert sum(rate == 0.01 for rate in rates) == pytest.approx(48, abs=5)
    assert rates[-1] == min(rates) < 0.1 * 0.01 + 1e-9
    pretrain.run(replace(tiny, minutes=0.02, steps=100_000, warmup=2))  # it had ended
    assert len((tiny.out / "metrics.jsonl").read_text().splitlines()) == len(rates)


SIZES = LlamaConfig(vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                    num_key_value_heads=2, head_dim=16, tie_word_embeddings=True)
TEXT = "A ship, and a ship, and the sea. " * 9


def encode(text: str) -> list[int]:
    return [256, *text.encode(), 256]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("micro_tokens", [30, 64, 100])
def test_an_update_does_not_depend_on_micro_tokens(kind: str, micro_tokens: int) -> None:
    samples = [*pieces(encode(TEXT), 30), *pieces(encode("short"), 30), *pieces(encode(TEXT[3:50]), 30)]
    found = []
    for size in (micro_tokens, 10_000):
        learner = Learner(Llama(SIZES).init_weights(0, std=0.2), Optim(lr=1e-2, warmup=1, kind=kind), size)  # type: ignore[arg-type]
        found.append((learner.update(samples, imitation), {n: p.detach().clone() for n, p in learner.model.named_parameters()}))
    (split, few), (whole, many) = found
    assert split["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert split["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    if kind == "muon":  # AdamW's first update is lr · sign: where a gradient is nearly 0 it says nothing
        name = "layers.0.mlp.up_proj.weight"
        assert (few[name] - many[name]).abs().max() <= 0.02 * 1e-2  # Muon's iteration runs in bf16


def test_rounding_changes_little() -> None:
    """What pretraining does in bf16 beside what RL does and beside float32, on rows long enough to be cut into blocks."""
    samples = pieces(encode(TEXT * 3), 400)
    found = {}
    for name, dtype in (("float32", torch.float32), ("exact", torch.bfloat16), ("rounded", torch.bfloat16)):
        learner = Learner(Llama(SIZES).init_weights(0, std=0.2).to(dtype), Optim(lr=1e-3), exact=name != "rounded")
        found[name] = learner.update(samples, imitation)
    assert found["rounded"] != found["exact"]
    for name in ("exact", "rounded"):
        assert found[name]["loss"] == pytest.approx(found["float32"]["loss"], rel=0.01)
        assert found[name]["grad_norm"] == pytest.approx(found["float32"]["grad_norm"], rel=0.03)


def test_pieces_predict_every_token_but_the_first_once() -> None:
    tokens = encode(TEXT)
    for context in (2, 7, 30, 1000):
        parts = pieces(tokens, context)
        assert all(len(part.tokens) <= context and sum(part.weights) == len(part.tokens) - 1 for part in parts)
        assert [token for part in parts for token in part.tokens[1:]] == tokens[1:]
    assert predicted([1, 2, 3]).weights == [0.0, 1.0, 1.0]


def test_bits_per_byte_by_hand() -> None:
    model = Llama(SIZES).init_weights(0, std=0.2)
    nats = 0.0
    for part in pieces(encode(TEXT), 50):
        scores = torch.log_softmax(plain(model, list(part.tokens)), -1)
        nats -= float(sum(scores[at, token] for at, token in enumerate(part.tokens[1:])))
    assert bits_per_byte(model, [TEXT], encode, 50, 64) == pytest.approx(nats / math.log(2) / len(TEXT), rel=1e-5)
    with torch.no_grad():
        model.embed_tokens.weight.zero_()  # every token equally likely
    assert bits_per_byte(model, ["ÄÄÄ"], encode, 50) == pytest.approx(7 * math.log2(258) / 6)


def plain(model: Llama, tokens: list[int]) -> torch.Tensor:
    from ownship.model.attention import sequences
    from ownship.model.head import logits

    positions, attention = sequences([len(tokens)])
    with torch.no_grad():
        return logits(model, model(torch.tensor(tokens), positions, attention))
