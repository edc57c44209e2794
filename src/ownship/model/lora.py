"""LoRA: small trainable factors beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ownship.errors import UserError
from ownship.model.linear import Adapter, Linear
from ownship.model.llama import Llama

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of each block
HEAD = "lm_head"


class Lora:
    """Adapters on a network: W = W₀ + (alpha / rank)·B·A in each chosen layer, A [rank, K] and B [O, rank] in float32.

    The network itself holds W, rounded to its dtype by `merge`; W₀ is kept beside it and nothing but A and B is trained. They start
    as PEFT's do: A Kaiming-uniform with a = √5, i.e. within ±1/√K, and B zero, so that W is W₀. A head that shares its weights with
    the embeddings gets its own first. Raises UserError for a layer that is not known or smaller than the rank.
    """

    def __init__(self, model: Llama, rank: int, alpha: float, layers: tuple[str, ...] = PROJECTIONS, seed: int = 0) -> None:
        if unknown := [name for name in layers if name not in (*PROJECTIONS, HEAD)]:
            raise UserError(f"there is no layer {unknown[0]!r} to adapt; choose from: {', '.join((*PROJECTIONS, HEAD))}")
        if not layers or rank < 1 or not 0 < alpha < math.inf:
            raise UserError("an adapter needs at least one layer, a rank of 1 or more and a positive alpha")
        self.model, self.rank, self.alpha, self.layers = model, rank, alpha, layers
        model.requires_grad_(False)
        if HEAD in layers:
            untie(model)
        self.adapted = {name: layer for name, layer in linears(model).items() if name.rpartition(".")[2] in layers}
        self._frozen: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, layer in self.adapted.items():
            if rank > min(layer.weight.shape):
                raise UserError(f"rank {rank} is more than {name} has ({min(layer.weight.shape)})")
            bound = layer.in_features**-0.5
            a = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
            b = torch.zeros(layer.out_features, rank)
            device = layer.weight.device
            layer.adapter = Adapter(a.to(device).requires_grad_(), b.to(device).requires_grad_(), alpha / rank)
            self._frozen[name] = layer.weight.detach()
            layer.weight = nn.Parameter(self._frozen[name].clone(), requires_grad=False)

    def tensors(self) -> dict[str, Tensor]:
        """What is trained: A and B of each layer, by PEFT's names less their prefix (`layers.0.mlp.up_proj.lora_A.weight`)."""
        found: dict[str, Tensor] = {}
        for name, layer in self.adapted.items():
            assert layer.adapter is not None
            found |= {f"{name}.lora_A.weight": layer.adapter.a, f"{name}.lora_B.weight": layer.adapter.b}
        return found

    @torch.no_grad()
    def merge(self) -> None:
        """Makes the network that of the present A and B."""
        for name, layer in self.adapted.items():
            assert layer.adapter is not None
            layer.weight.copy_(merged(self._frozen[name], layer.adapter))


@torch.no_grad()
def merged(weight: Tensor, adapter: Adapter) -> Tensor:
    """W₀ + s·B·A in float32, [O, K]: exactly W₀ where B is zero."""
    return weight.to(torch.float32, copy=True).addmm_(adapter.b, adapter.a, alpha=adapter.scale)


def linears(model: Llama) -> dict[str, Linear]:
    """The layers that can be adapted, by the names of their parameters less `.weight`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


def untie(model: Llama) -> None:
    """Gives the head weights of its own, equal to the embeddings, if it shares them."""
    if model.config.tie_word_embeddings:
        model.config = replace(model.config, tie_word_embeddings=False)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=model.lm_head.weight.requires_grad)
