"""What the recipes' settings have in common. No torch here: the command line's help must be quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ownship.errors import UserError

if TYPE_CHECKING:
    import torch

    from ownship.learn.optim import Optim

T = TypeVar("T")


@dataclass(frozen=True)
class OptimSettings:
    """AdamW."""

    lr: float = 2e-5
    """Learning rate, after a linear warm-up."""
    warmup: int = 5
    """Updates until the full learning rate."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""


def optim(settings: OptimSettings) -> Optim:
    from ownship.learn.optim import Optim

    if settings.lr < 0 or settings.max_grad_norm <= 0:
        raise UserError("the learning rate must not be negative and max_grad_norm must be positive")
    return Optim(lr=settings.lr, warmup=settings.warmup, weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm)


def torch_dtype(name: str) -> torch.dtype:
    import torch

    return choose({"float32": torch.float32, "bfloat16": torch.bfloat16}, name, "dtype")


def choose(known: Mapping[str, T], name: str, what: str) -> T:
    """The entry of that name, or a UserError that lists the known ones."""
    if name not in known:
        raise UserError(f"{what} {name!r} is not known; choose one of: {', '.join(known)}")
    return known[name]
