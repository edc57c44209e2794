"""What the recipes' settings have in common. No torch here: the command line's help must be quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from tyro.conf import arg

from ownship.errors import UserError

if TYPE_CHECKING:
    import torch

    from ownship.learn.optim import Optim
    from ownship.model.llama import Llama
    from ownship.model.lora import Lora

T = TypeVar("T")


@dataclass(frozen=True)
class OptimSettings:
    """AdamW."""

    lr: float | None = None
    """Learning rate, after a linear warm-up. By default 2e-5 in rl, 1e-4 in sft, 1e-6 in dpo; with LoRA ten times that."""
    warmup: int = 5
    """Updates until the full learning rate."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""


@dataclass(frozen=True)
class LoraSettings:
    """LoRA: train small adapters beside the frozen model; `adapter/` holds them in PEFT's format, `model/` the merged model."""

    rank: Annotated[int, arg(name="lora-rank", prefix_name=False)] = 0
    """Rank of the adapters; 0 trains the whole model."""
    alpha: Annotated[float, arg(name="lora-alpha", prefix_name=False)] = 32.0
    """What the adapters add is scaled by alpha / rank."""
    layers: Annotated[str, arg(name="lora-layers", prefix_name=False)] = "all"
    """Which layers: all (the seven projections of each block), or some of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,
    down_proj and lm_head, with commas between."""


def lora(settings: LoraSettings, model: Llama, seed: int) -> Lora | None:
    """The adapters that were asked for, on this model; its own weights are frozen then."""
    from ownship.model.lora import PROJECTIONS, Lora

    if settings.rank == 0:
        return None
    named = [name.strip() for name in settings.layers.split(",") if name.strip()]
    layers = dict.fromkeys(layer for name in named for layer in (PROJECTIONS if name == "all" else (name,)))
    return Lora(model, settings.rank, settings.alpha, tuple(layers), seed)


def save_adapter(adapters: Lora | None, base: str, folder: Path) -> None:
    """Writes the adapter alone, if there is one; `base` is the model that it was trained on, as the user named it."""
    from ownship.model import peft

    if adapters is not None:
        peft.save(adapters, folder, str(Path(base).resolve()) if Path(base).exists() else base)


def optim(settings: OptimSettings, lr: float, lora: LoraSettings | None = None) -> Optim:
    """The settings with `lr` where the user named no learning rate; ten times as much for adapters (arXiv:2405.09673)."""
    from ownship.learn.optim import Optim

    if settings.lr is not None:
        lr = settings.lr
    elif lora is not None and lora.rank:
        lr *= 10
    if lr < 0 or settings.max_grad_norm <= 0:
        raise UserError("the learning rate must not be negative and max_grad_norm must be positive")
    return Optim(lr=lr, warmup=settings.warmup, weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm)


def at_least(config: object, **least: int) -> None:
    """Raises UserError for the first of these settings that is smaller than it may be; one that was not given is None."""
    for name, bound in least.items():
        if (value := getattr(config, name)) is not None and value < bound:
            raise UserError(f"--{name.replace('_', '-')} must be at least {bound}, not {value}")


def torch_dtype(name: str) -> torch.dtype:
    import torch

    return choose({"float32": torch.float32, "bfloat16": torch.bfloat16}, name, "dtype")


def choose(known: Mapping[str, T], name: str, what: str) -> T:
    """The entry of that name, or a UserError that lists the known ones."""
    if name not in known:
        raise UserError(f"{what} {name!r} is not known; choose one of: {', '.join(known)}")
    return known[name]
