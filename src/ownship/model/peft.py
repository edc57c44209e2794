"""Adapters on disk, in PEFT's format: adapter_config.json and adapter_model.safetensors, in and out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ownship.errors import UserError
from ownship.model import checkpoint, zoo
from ownship.model.linear import Adapter
from ownship.model.llama import Llama
from ownship.model.lora import HEAD, Lora, linears, merged, untie
from ownship.model.tokenizer import Tokenizer, from_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_READ = {"peft_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "use_rslora", "init_lora_weights",
         "layers_to_transform", "layers_pattern", "exclude_modules"}
_NO_MATTER = {"task_type", "inference_mode", "revision", "auto_mapping", "peft_version", "lora_dropout", "megatron_config",
              "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "runtime_config", "ensure_weight_tying"}
_KEY = re.compile(r"base_model\.model\.(?:model\.)?(.+)\.lora_([AB])\.weight")


def save(lora: Lora, folder: Path, base: str) -> None:
    """Writes the adapter; `folder` appears at once and whole, or not at all. `base` is the model that it belongs to."""
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": lora.rank, "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha, "lora_dropout": 0.0,
        "target_modules": list(lora.layers), "bias": "none", "fan_in_fan_out": False, "modules_to_save": None,
        "init_lora_weights": True, "use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}}
    with checkpoint.whole_folder(folder) as part:
        tensors = {f"base_model.model.{'' if name.startswith(HEAD) else 'model.'}{name}": tensor.detach().cpu().contiguous()
                   for name, tensor in lora.tensors().items()}
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


@dataclass(frozen=True)
class Saved:
    """An adapter as it lies on disk: s·B·A of each layer (`layers.0.mlp.up_proj`)."""

    base: str | None
    adapters: dict[str, Adapter]
    head: Tensor | None  # PEFT adds the base's own head [V, D] where that is adapted


def load(folder: Path, dtype: torch.dtype, base: str | None = None) -> tuple[Llama, Tokenizer]:
    """The adapter's base model (the one that it names, or `base`) with the adapter merged into it, rounded once to `dtype`.

    Raises UserError if the base cannot be had, the adapter is damaged or of a kind that is not known, or the two do not fit.
    """
    saved = read(folder)
    name = base or saved.base
    if not name:
        raise UserError(f"{folder}: {CONFIG} names no base model; give it: ownship merge {folder} --base MODEL")
    try:
        path = zoo.resolve(name)
    except UserError as error:
        raise UserError(f"{folder} is an adapter, whose base cannot be had; if it is elsewhere: ownship merge {folder} --base MODEL"
                        f" ({error})") from None
    if path.resolve() == folder.resolve():
        raise UserError(f"{folder}: {CONFIG} names the adapter itself as its base model")
    model, tokenizer = checkpoint.load(path, dtype)
    apply(saved, model, folder)
    return model, from_folder(folder) if (folder / "tokenizer.json").is_file() else tokenizer


def apply(saved: Saved, model: Llama, source: Path) -> None:
    """Merges the adapter into the network's weights. Raises UserError if it belongs to another network."""
    layers = linears(model)
    for name, adapter in saved.adapters.items():
        if name not in layers:
            raise UserError(f"{source}: adapts {name!r}, which the base model does not have")
        shape, wanted = [len(adapter.b), adapter.a.shape[1]], list(layers[name].weight.shape)
        if shape != wanted:
            raise UserError(f"{source}: the adapter of {name!r} is for a layer of shape {shape}; the base model's has {wanted}")
    if saved.head is not None and not torch.equal(saved.head.to(model.dtype), model.lm_head.weight):
        raise UserError(f"{source}: was made for a base model with another head ({HEAD})")
    if HEAD in saved.adapters:
        untie(model)
    with torch.no_grad():
        for name, adapter in saved.adapters.items():
            layers[name].weight.copy_(merged(layers[name].weight, adapter))


def read(folder: Path) -> Saved:
    """The adapter in `folder`. Raises UserError that names the file, field or tensor which is missing, damaged or not supported."""
    config, weights = folder / CONFIG, folder / WEIGHTS
    if not config.is_file():
        raise UserError(f"{folder}: not an adapter (there is no {CONFIG})")
    raw = checkpoint.read_json(config)
    if raw.get("peft_type") != "LORA":
        raise UserError(f"{config}: peft_type {raw.get('peft_type')!r} is not supported (LORA is)")
    if raw.get("init_lora_weights", True) not in (True, False, "gaussian", "orthogonal", "eva"):
        raise UserError(f"{config}: init_lora_weights {raw['init_lora_weights']!r} is not supported: it changes the base model")
    for name, value in raw.items():
        if name not in _READ | _NO_MATTER and value not in (None, False, "none", {}, []):
            raise UserError(f"{config}: {name} {value!r} is not supported")
    base, rank, alpha = (raw.get(name) for name in ("base_model_name_or_path", "r", "lora_alpha"))
    if type(rank) is not int or rank < 1:
        raise UserError(f"{config}: r must be a whole number of 1 or more, not {rank!r}")
    if not isinstance(alpha, int | float) or not 0 < alpha < 1e30:
        raise UserError(f"{config}: lora_alpha must be a positive number, not {alpha!r}")
    if not isinstance(base, str | None):
        raise UserError(f"{config}: base_model_name_or_path must be text, not {base!r}")
    factors, head = _tensors(weights, rank)
    targets = raw.get("target_modules")
    if isinstance(targets, list) and not any(raw.get(name) for name in ("layers_to_transform", "exclude_modules")):
        for target in targets:
            if not any(f".model.{name}".endswith(f".{target}") for name in factors):
                raise UserError(f"{weights}: holds nothing for {target!r}, which {CONFIG} lists in target_modules")
    scale = alpha / (rank**0.5 if raw.get("use_rslora") else rank)
    return Saved(base, {name: Adapter(parts["A"], parts["B"], scale) for name, parts in factors.items()}, head)


def _tensors(path: Path, rank: int) -> tuple[dict[str, dict[str, Tensor]], Tensor | None]:
    """A and B of each layer in float32, and the base's head if it is there."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    found: dict[str, dict[str, Tensor]] = {}
    head = None
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (the handle is no mapping)
                if key == f"base_model.model.{HEAD}.base_layer.weight":
                    head = file.get_tensor(key)
                elif match := _KEY.fullmatch(key):
                    found.setdefault(match[1], {})[match[2]] = file.get_tensor(key).float()
                else:
                    raise UserError(f"{path}: tensor {key!r} is not supported (lora_A and lora_B of linear layers are)")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or cut short ({error})") from None
    if not found:
        raise UserError(f"{path}: holds no adapter")
    for name, parts in found.items():
        if len(parts) < 2:
            raise UserError(f"{path}: {name!r} has only lora_{min(parts)}; an adapter has lora_A and lora_B")
        a, b = parts["A"], parts["B"]
        if a.dim() != 2 or b.dim() != 2 or len(a) != rank or b.shape[1] != rank:
            raise UserError(f"{path}: lora_A and lora_B of {name!r} have shapes {list(a.shape)} and {list(b.shape)};"
                            f" {CONFIG} says rank {rank}")
    return found, head
