"""The optimizer behind the learner, AdamW or Muon beside AdamW, and the learning rate over the updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ownship.learn import distributed
from ownship.model.ops import widens

Kind = Literal["adamw", "muon"]


@dataclass(frozen=True)
class Optim:
    """What the optimizer is and its bounds; `schedule` says how the learning rate goes over `warmup`, `end` and `decay`.

    `muon` moves the matrices inside the layers by Muon and everything else (embeddings, head, norms) by AdamW. Weight decay is
    decoupled (arXiv:1711.05101) and spares vectors: a norm's gain has nothing to gain from being small.
    """

    lr: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: int = 5
    max_grad_norm: float = 1.0
    kind: Kind = "adamw"
    end: int | None = None  # updates until the learning rate has decayed; None: it never does
    decay: float = 0.2  # share of all updates in which it decays


def schedule(update: int, warmup: int, end: int | None = None, decay: float = 0.2) -> float:
    """Share of the learning rate for an update (0-based): warm-up, stable, decay.

    Rises linearly over `warmup` updates and stays at 1; if there is an `end`, the last `decay`·end updates fall linearly
    towards 0, the last one being the smallest (WSD: MiniCPM, arXiv:2404.06395, section 4; linear and a fifth of the run:
    arXiv:2405.18392). Up to the decay nothing depends on the end, so it can be chosen while the run goes on.
    """
    share = min(1.0, (update + 1) / max(warmup, 1))
    if end is None:
        return share
    return max(0.0, min(share, (end - update) / max(round(decay * end), 1)))


class Muon(torch.optim.Muon):
    """torch's with Nesterov's momentum and updates as large as AdamW's: one learning rate and one weight decay serve both
    (Moonlight, arXiv:2502.16982, equation 4). torch orthogonalises in bf16; here it is float32 where bf16 products are slow, which
    makes a whole update ten times as fast."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(param.grad)
                momentum = state["momentum_buffer"].lerp_(param.grad, 1 - group["momentum"])
                update = _orthogonal(param.grad.lerp(momentum, group["momentum"]), group["ns_coefficients"], group["ns_steps"])
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(update, alpha=-0.2 * math.sqrt(max(param.shape)) * group["lr"])


def _orthogonal(grad: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Near the orthogonal factor of grad [O, K] by Newton-Schulz, singular values of about 0.7 to 1.2 (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon)."""
    a, b, c = coefficients
    x = grad.to(torch.float32 if widens(grad.device.type) else torch.bfloat16)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Optimizer:
    """One or two of torch's optimizers over named float32 tensors, as one: `step`, and a state of plain tensors."""

    def __init__(self, params: Mapping[str, Tensor], optim: Optim) -> None:
        self._params = dict(params)
        muon = optim.kind == "muon"
        hidden = {name for name, param in params.items() if muon and name.startswith("layers.") and param.dim() == 2}
        rest = [param for name, param in params.items() if name not in hidden]
        groups = [{"params": [param for param in rest if param.dim() > 1], "weight_decay": optim.weight_decay},
                  {"params": [param for param in rest if param.dim() <= 1], "weight_decay": 0.0}]
        self._parts: list[torch.optim.Optimizer] = []
        if rest:
            self._parts.append(torch.optim.AdamW([group for group in groups if group["params"]], lr=optim.lr, betas=optim.betas,
                                                 fused=True))
        if hidden:
            self._parts.append(Muon([params[name] for name in sorted(hidden)], lr=optim.lr, momentum=0.95,
                                    weight_decay=optim.weight_decay))

    def step(self, lr: float) -> None:
        """Moves the tensors against their gradients, at this learning rate."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = lr
            if isinstance(part, Muon) and distributed.several():
                from ownship.learn import sharded

                sharded.step_whole(part)
            else:
                part.step()

    def tensors(self) -> dict[str, Tensor]:
        """The moments, as `moment.name`; empty before the first step."""
        return {f"{key}.{name}": value for name, param in self._params.items()
                for part in self._parts if param in part.state for key, value in part.state[param].items()}

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; what belongs to other names is ignored. Raises KeyError if a moment is missing."""
        for part in self._parts:
            keys = ("momentum_buffer",) if isinstance(part, Muon) else ("step", "exp_avg", "exp_avg_sq")
            names = {id(param): name for name, param in self._params.items()}
            for group in part.param_groups:
                for param in group["params"]:
                    part.state[param] = {key: saved[f"{key}.{names[id(param)]}"] for key in keys}
