"""Our adapters against PEFT's, on a tiny random model in float32."""

import warnings
from pathlib import Path
from typing import Any

import peft as hf
import pytest
import torch
from test_gradients import group, reference_gradients, twins
from tiny import byte_tokenizer
from transformers import LlamaForCausalLM

from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import PolicyGradient, imitation
from ownship.model import checkpoint, peft
from ownship.model.attention import sequences
from ownship.model.head import logits
from ownship.model.llama import Llama
from ownship.model.lora import HEAD, PROJECTIONS, Lora

LAYERS = [PROJECTIONS, ("q_proj", "v_proj"), ("down_proj",), (*PROJECTIONS, HEAD)]
TOKENS = torch.randint(300, (23,), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():  # PEFT's, about tied embeddings
        warnings.simplefilter("ignore")
        yield


def adapted(layers: tuple[str, ...]) -> tuple[Llama, LlamaForCausalLM, Lora]:
    """Ours with random A and B merged, and theirs with the base weights."""
    ours, theirs = twins()
    lora = Lora(ours, 3, 5.0, layers)
    randomize(lora)
    return ours, theirs, lora


@torch.no_grad()
def randomize(lora: Lora) -> None:
    draw = torch.Generator().manual_seed(2)
    for tensor in lora.tensors().values():
        tensor.copy_(0.1 * torch.randn(tensor.shape, generator=draw))
    lora.merge()


def our_logits(model: Llama) -> torch.Tensor:
    positions, attention = sequences([len(TOKENS)])
    with torch.no_grad():
        return logits(model, model(TOKENS, positions, attention))


def their_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS[None]).logits[0]


@pytest.mark.parametrize("layers", LAYERS)
def test_peft_loads_our_adapter(layers: tuple[str, ...], tmp_path: Path) -> None:
    ours, theirs, lora = adapted(layers)
    before = their_logits(theirs)
    peft.save(lora, tmp_path / "adapter", "base")
    loaded = hf.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    assert torch.allclose(their_logits(loaded), our_logits(ours), atol=1e-4, rtol=1e-5)
    assert not torch.allclose(before, our_logits(ours), atol=1e-1)


@pytest.mark.parametrize("kind", ["imitation", "policy"])
@pytest.mark.parametrize("layers", LAYERS)
def test_gradients_equal_peft(layers: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    ours, theirs, lora = adapted(layers)
    peft.save(lora, tmp_path / "adapter", "base")
    loaded = hf.PeftModel.from_pretrained(theirs, tmp_path / "adapter", is_trainable=True)
    expected = reference_gradients(loaded.double(), group(), kind)  # the judge in float64: two float32 noises are more than 1e-5
    learner = Learner(ours, Optim(lr=0.0, max_grad_norm=1e9), lora=lora)
    learner.update(group(), imitation if kind == "imitation" else PolicyGradient())
    found = lora.tensors()
    assert len(found) == len(expected)
    for name, tensor in found.items():
        full = f"base_model.model.{'' if name.startswith(HEAD) else 'model.'}{name}".replace(".weight", ".default.weight")
        assert tensor.grad is not None
        assert (tensor.grad - expected[full]).abs().max() <= 2e-5 * expected[full].abs().max(), name


def test_merge_equals_merge_and_unload(tmp_path: Path) -> None:
    ours, theirs, lora = adapted(PROJECTIONS)
    peft.save(lora, tmp_path / "adapter", "base")
    merged = hf.PeftModel.from_pretrained(theirs, tmp_path / "adapter").merge_and_unload().state_dict()
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter, merged[f"model.{name}"], atol=1e-6, rtol=1e-6), name


@pytest.mark.parametrize("options", [
    {"target_modules": ["q_proj", "v_proj"]}, {"target_modules": "all-linear"}, {"target_modules": ["up_proj"], "use_rslora": True},
    {"target_modules": ["o_proj"], "layers_to_transform": [1]}, {"target_modules": r".*layers\.[02]\..*(gate|down)_proj"},
    {"target_modules": ["lm_head"]}, {"target_modules": ["model.layers.0.mlp.up_proj"], "init_lora_weights": "gaussian"}])
def test_we_load_pefts_adapter(options: dict[str, Any], tmp_path: Path) -> None:
    checkpoint.save(twins()[0], byte_tokenizer(), tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = hf.get_peft_model(base, hf.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    theirs.save_pretrained(tmp_path / "adapter")
    ours, _ = checkpoint.load(tmp_path / "adapter", torch.float32)  # the base is the one that the adapter names
    assert torch.allclose(our_logits(ours), their_logits(theirs), atol=1e-4, rtol=1e-5)
    assert not torch.allclose(our_logits(ours), our_logits(twins()[0]), atol=1e-2)


def test_starts_as_pefts_does() -> None:
    """Of 2,000 drawn values the extremes and the spread are those of PEFT's distribution."""
    ours, theirs = twins()
    lora = Lora(ours, 32, 32.0, ("down_proj",))
    expected = hf.get_peft_model(theirs, hf.LoraConfig(r=32, target_modules=["down_proj"]))
    values = {letter: torch.cat([t.detach().flatten() for name, t in lora.tensors().items() if f"lora_{letter}" in name])
              for letter in "AB"}
    others = {letter: torch.cat([p.detach().flatten() for name, p in expected.named_parameters() if f"lora_{letter}" in name])
              for letter in "AB"}
    assert not values["B"].any() and not others["B"].any()
    assert float(values["A"].abs().max()) == pytest.approx(float(others["A"].abs().max()), rel=0.01)
    assert float(values["A"].std()) == pytest.approx(float(others["A"].std()), rel=0.05)
