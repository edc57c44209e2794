"""Adapters: what is trained, what is not, and that what trains is what serves."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from ownship.engine.engine import Engine
from ownship.engine.request import Request, Sampling
from ownship.errors import UserError
from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import PolicyGradient, imitation
from ownship.learn.run import Run
from ownship.learn.sample import Sample, supervised
from ownship.model import checkpoint, zoo
from ownship.model.chat import Chat, Message
from ownship.model.llama import Llama
from ownship.model.lora import HEAD, PROJECTIONS, Lora
from ownship.recipes import sft
from ownship.recipes.settings import LoraSettings, OptimSettings, lora, optim

LESSON = supervised([5, 6, 7, 8, 9], [False, False, True, True, True])


def pupil(dtype: torch.dtype = torch.float32, layers: tuple[str, ...] = PROJECTIONS, seed: int = 0) -> tuple[Llama, Lora]:
    model = tiny_model()[0].to(dtype)
    return model, Lora(model, 4, 8.0, layers, seed)


def drawn(engine: Engine, count: int = 16) -> list[Sample]:
    """Completions of random prompts as training samples with advantages of both signs."""
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(256, (int(size),), generator=draw).tolist() for size in torch.randint(3, 40, (count,), generator=draw)]
    done = engine.generate([Request(prompt, Sampling(max_tokens=20, seed=index)) for index, prompt in enumerate(prompts)])
    samples = []
    for index, (prompt, completion) in enumerate(zip(prompts, done, strict=True)):
        zeros, size = [0.0] * len(prompt), len(completion.tokens)
        samples.append(Sample(prompt + completion.tokens, len(prompt), zeros + [1.0] * size, zeros + completion.logprobs,
                              zeros + [1.0 - index % 3] * size, completion.fingerprint))
    return samples


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_changes_nothing(dtype: torch.dtype) -> None:
    plain = tiny_model()[0].to(dtype)
    model, adapters = pupil(dtype)
    adapters.merge()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert Learner(model, lora=adapters).fingerprint == Learner(plain).fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [PROJECTIONS, ("q_proj", "down_proj"), (HEAD,)])
def test_only_the_adapter_is_trained(dtype: torch.dtype, layers: tuple[str, ...]) -> None:
    before = {name: p.detach().clone() for name, p in tiny_model()[0].to(dtype).named_parameters()}
    before[f"{HEAD}.weight"] = before["embed_tokens.weight"]
    model, adapters = pupil(dtype, layers)
    learner = Learner(model, Optim(lr=1e-1, warmup=1), lora=adapters)
    for _ in range(3):
        learner.update([LESSON], imitation)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None and not parameter.requires_grad
        assert torch.equal(parameter, before[name]) == (name.split(".")[-2] not in layers), name
    for name, layer in adapters.adapted.items():
        assert torch.equal(adapters._frozen[name], before[f"{name}.weight"])  # the base, bit for bit
        assert layer.adapter is not None
        exact = before[f"{name}.weight"].double() + 2.0 * layer.adapter.b.detach().double() @ layer.adapter.a.detach().double()
        assert torch.allclose(layer.weight.double(), exact, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert set(learner.tensors()) == {f"{kind}.{name}" for kind in ("weight", "step", "exp_avg", "exp_avg_sq")
                                      for name in adapters.tensors()}


@pytest.mark.parametrize("layers", [PROJECTIONS, (*PROJECTIONS, HEAD)])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_sampler_and_learner_agree_after_an_update(dtype: torch.dtype, most: float, layers: tuple[str, ...]) -> None:
    model, tokenizer = tiny_model()
    model = model.to(dtype)
    adapters = Lora(model, 4, 8.0, layers)
    learner, engine = Learner(model, Optim(lr=1e-2, warmup=1), lora=adapters), Engine(model, tokenizer)
    first = engine.fingerprint
    for _ in range(3):
        measured = learner.update(drawn(engine), PolicyGradient())
        assert measured["mismatch"] <= most
        assert engine.weights_changed() == learner.fingerprint != first


@pytest.mark.parametrize("micro_tokens", [10, 25, 60])
def test_update_does_not_depend_on_the_split(micro_tokens: int) -> None:
    samples = drawn(Engine(*tiny_model()))
    gradients = []
    for tokens in (10_000, micro_tokens):
        model, adapters = pupil()
        learner = Learner(model, Optim(lr=1e-2, warmup=1, max_grad_norm=1e9), micro_tokens=tokens, lora=adapters)
        for step in range(2):  # in the first, B is zero, and so is the gradient of A
            passes: list[int] = []
            learner.update(samples if step else [LESSON], PolicyGradient() if step else imitation, passes.append)
            samples = [Sample(s.tokens, s.prompt, s.weights, s.logprobs, s.advantages) for s in samples]  # of no matter whom
        gradients.append({name: tensor.grad for name, tensor in adapters.tensors().items()})
    assert len(passes) > 1
    for name, whole in gradients[0].items():
        split = gradients[1][name]
        assert whole is not None and split is not None and whole.abs().max() > 0
        assert (whole - split).abs().max() <= 1e-5 * whole.abs().max(), name


def test_an_adapter_learns_and_the_engine_says_it() -> None:
    model, tokenizer = tiny_model()
    model = model.bfloat16()
    engine, chat = Engine(model, tokenizer), Chat(tokenizer)
    lesson: list[Message] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    learner = Learner(model, Optim(lr=2e-2, warmup=1), lora=Lora(model, 8, 16.0, (*PROJECTIONS, HEAD)))
    losses = [learner.update([supervised(*chat.render(lesson))], imitation)["loss"] for _ in range(50)]
    assert losses[-1] < 0.05 < losses[0]
    engine.weights_changed()
    assert engine.generate([Request(chat.prompt(lesson[:1]), Sampling(temperature=0, max_tokens=9))])[0].text == "ho"


def test_a_run_saves_only_the_adapter_and_goes_on_from_it(tmp_path: Path) -> None:
    model, adapters = pupil(torch.bfloat16)
    learner, run = Learner(model, Optim(lr=1e-2), lora=adapters), Run(tmp_path / "run", {"a": 1})
    for _ in range(3):
        learner.update([LESSON], imitation)
        run.finish_step(learner, 3)
    (saved,) = (tmp_path / "run" / "checkpoints").glob("*/learner.safetensors")
    trained = sum(tensor.numel() for tensor in adapters.tensors().values())
    assert saved.stat().st_size < 12 * trained + 20_000
    again, other = pupil(torch.bfloat16, seed=7)
    fresh = Learner(again, Optim(lr=1e-2), lora=other)
    Run(tmp_path / "run", {"a": 1}).restore(fresh)
    assert fresh.fingerprint == learner.fingerprint
    assert learner.update([LESSON], imitation) == fresh.update([LESSON], imitation)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    strange = tiny_model(seed=5)[0].bfloat16()
    with pytest.raises(UserError, match="belongs to weights that the model no longer has"):
        Run(tmp_path / "run", {"a": 1}).restore(Learner(strange, lora=Lora(strange, 4, 8.0)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layers", ["all", "q_proj, lm_head"])
def test_recipe_leaves_the_merged_model_and_the_adapter(dtype: str, layers: str, tmp_path: Path) -> None:
    """The adapter loaded onto its base is the merged model, bit for bit; and another adapter can be trained on top of it."""
    checkpoint.save(*tiny_model(), tmp_path / "base")
    for name, model in (("one", "base"), ("two", "one/adapter")):
        sft.run(sft.SFT(model=str(tmp_path / model), env="sums:low=2,high=2", out=tmp_path / name, steps=3, batch=4, dtype=dtype,
                        lora=LoraSettings(rank=4, layers=layers)))
        whole, _ = checkpoint.load(tmp_path / name / "model", getattr(torch, dtype))
        parts, _ = checkpoint.load(zoo.resolve(str(tmp_path / name / "adapter")), getattr(torch, dtype))
        assert whole.config == parts.config
        for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.equal(a, b)
        base, _ = checkpoint.load(tmp_path / model, getattr(torch, dtype))
        assert not torch.equal(whole.layers[0].self_attn.q_proj.weight, base.layers[0].self_attn.q_proj.weight)  # type: ignore[union-attr, arg-type]


def test_learning_rate_is_ten_times_as_high_unless_it_is_given() -> None:
    on = LoraSettings(rank=4)
    assert optim(OptimSettings(), 2e-5).lr == optim(OptimSettings(), 2e-5, LoraSettings()).lr == 2e-5
    assert optim(OptimSettings(), 2e-5, on).lr == pytest.approx(2e-4)
    assert optim(OptimSettings(lr=2e-5), 2e-5, on).lr == 2e-5


@pytest.mark.parametrize(("settings", "words"), [
    (LoraSettings(rank=-1), "rank of 1"), (LoraSettings(rank=4, layers=""), "at least one layer"),
    (LoraSettings(rank=4, layers="q_proj,qkv"), "'qkv'"), (LoraSettings(rank=33), "has (32)"),
    (LoraSettings(rank=4, alpha=0.0), "positive alpha"), (LoraSettings(rank=4, alpha=float("nan")), "positive alpha")])
def test_adapters_that_cannot_be(settings: LoraSettings, words: str) -> None:
    with pytest.raises(UserError) as error:
        lora(settings, tiny_model()[0], 0)
    assert words in str(error.value)


def test_settings_survive_the_run_directory(tmp_path: Path) -> None:
    """A run is continued only if what was asked is equal to what was asked before, read back from JSON."""
    asked = asdict(sft.SFT(lora=LoraSettings(rank=4)))["lora"]
    assert json.loads(json.dumps(asked)) == asked
