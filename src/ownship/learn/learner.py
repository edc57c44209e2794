"""The learner: samples in, one optimizer step out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from ownship import machine
from ownship.engine.fingerprint import fingerprint
from ownship.learn import distributed
from ownship.learn.loss import Loss, Measured
from ownship.learn.optim import Optim as Optim
from ownship.learn.optim import Optimizer, schedule
from ownship.learn.pack import Group, build, plan
from ownship.learn.sample import Sample
from ownship.model.head import logprobs
from ownship.model.llama import Llama
from ownship.model.lora import Lora
from ownship.model.ops import rounded

_NOTHING: list[Group] = [((0,), [Sample([0, 0], 1, [0.0, 1.0], [0.0, 0.0], [0.0, 0.0])])]


class Learner:
    """Holds the network and its optimizer. A bf16 network keeps float32 masters: an update of 1e-5 would vanish in bf16.

    `micro_tokens` bounds the tokens of one forward and backward pass (memory), never the result. With `lora`, adapters on this
    network, only these are trained and saved; `base` is then the fingerprint of the network that they belong to. Not `exact`, the
    layers of a bf16 network round more: faster, where no sampler's log-probabilities have to be met. `recompute` keeps only what
    goes into each layer for the backward pass and computes the rest again there: less memory, the same result.

    In several processes (learn/distributed.py) what learns is a sharded copy of this network, which `model` follows; adapters are
    trained whole in each, on the network itself. Every rank gives `update` the same samples and reads its share of them.
    """

    def __init__(self, model: Llama, optim: Optim | None = None, micro_tokens: int = 2048, lora: Lora | None = None,
                 exact: bool = True, recompute: bool = False) -> None:
        self.model, self.optim, self.micro_tokens = model, optim or Optim(), micro_tokens
        self.updates, self.exact = 0, exact or model.dtype != torch.bfloat16
        self._heap = machine.Heap()
        self.fingerprint = fingerprint(model)
        self.lora, self.base = lora, self.fingerprint if lora is not None else None
        self.sharded = distributed.several() and lora is None
        self._network = model
        if self.sharded:
            from ownship.learn import sharded

            self._network = sharded.shard(model)
        for block in self._network.layers:
            block.recomputed = recompute  # type: ignore[assignment]
        trained: dict[str, Tensor] = dict(self._network.named_parameters()) if lora is None else lora.tensors()
        self._names, self._params = list(trained), list(trained.values())
        self._masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self._params]
        for param, master in zip(self._params, self._masters, strict=True):
            param.requires_grad_(True)
            if param is not master:
                master.grad = torch.zeros_like(master)
        self._optimizer = Optimizer(dict(zip(self._names, self._masters, strict=True)), self.optim)

    def update(self, samples: Sequence[Sample], loss: Loss, tick: Callable[[int], None] | None = None, share: float = 1.0,
               drawn_from: Collection[str] = ()) -> dict[str, float]:
        """One optimizer step on all samples together; returns its measurements.

        `share` scales the learning rate: what a batch is smaller than it should be (the linear rule of arXiv:1706.02677).

        `tick` is told the tokens of each finished micro-batch; if it raises, the weights are as before. With no trained
        token at all nothing happens. Raises ValueError for samples that were drawn from other weights than these: their
        log-probabilities would be taken for those of this policy. `drawn_from` are the fingerprints of earlier weights
        that they may come from: those before the first of several updates on the same samples, those of a sampler that lags behind.
        """
        if strangers := {sample.policy for sample in samples} - {"", self.fingerprint, *drawn_from}:
            raise ValueError(f"samples of the policy {min(strangers)} for a learner whose weights are {self.fingerprint}")
        planned = plan(samples, self.micro_tokens)
        weight = float(sum(sum(sample.weights) for sample in samples))
        total = float(sum(sum(s.weights) if s.divisor is None else s.divisor for s in samples))
        self._zero_grad()
        sums: dict[str, float] = {}
        with self._collecting():
            for groups in distributed.rounds(planned):
                found = self._backward(groups, loss, total)
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value
                if tick is not None:
                    distributed.together(partial(tick, int(found.get("stream_tokens", 0))))
        if not planned:
            return {"trained_tokens": 0.0}
        sums = distributed.added(sums)
        norm = self._clip()
        rate = self.optim.lr * share * schedule(self.updates, self.optim.warmup, self.optim.end, self.optim.decay)
        self._optimizer.step(rate)
        self._publish()
        self._heap.tidy()
        self.updates += 1
        counts = {name: sums.pop(name) for name in ("trained_tokens", "stream_tokens")}
        return {name: value / (total if name == "loss" else weight) for name, value in sums.items()} | {
            "grad_norm": norm, "lr": rate, **counts}

    @contextmanager
    def _collecting(self) -> Iterator[None]:
        """Meanwhile each bf16 gradient goes to its float32 master. For an update only: a network may have another learner later."""
        hooks = [param.register_post_accumulate_grad_hook(partial(_collect, master))
                 for param, master in zip(self._params, self._masters, strict=True) if param is not master]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _backward(self, groups: Sequence[Group] | None, loss: Loss, total: float) -> dict[str, float]:
        """One micro-batch's gradient, and its measurements as sums. None: another rank has one and this rank none left, but all
        must gather the layers, so it reads two tokens for nothing."""
        part = build(groups or _NOTHING, distributed.device() if self.sharded else "cpu")
        with rounded(not self.exact):
            hidden = self._network(part.tokens, part.positions, part.attention)  # [N, D]
        new, entropy = logprobs(self._network, hidden[part.source], part.targets)  # [M]
        if groups is None:
            (new * 0.0).sum().backward()
            return {}
        losses = (loss(new, part) * part.weights).sum() / total
        losses.backward()
        gap = new.detach() - part.logprobs
        more = loss.measure(new.detach(), part) if isinstance(loss, Measured) else {}
        return {"loss": float(losses.detach()) * total, "entropy": float((entropy * part.weights).sum()),
                "mismatch": float((gap.abs() * part.weights).sum()), **more,
                "trained_tokens": float(len(part.targets)), "stream_tokens": float(len(part.tokens))}

    def _clip(self) -> float:
        """Scales the gradients down to the bound of their norm; returns what it was."""
        if distributed.several() and not self.sharded:
            distributed.add_gradients(self._masters)
        grads = [master.grad for master in self._masters if master.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads, foreach=True)
        if self.sharded:
            norm = norm.full_tensor()  # type: ignore[attr-defined]
        torch.nn.utils.clip_grads_with_norm_(self._masters, self.optim.max_grad_norm, norm, foreach=True)
        return float(norm)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a later learner needs to go on bit for bit: the trained float32 weights and the optimizer's moments."""
        weights = {f"weight.{name}": master.detach() for name, master in zip(self._names, self._masters, strict=True)}
        return weights | self._optimizer.tensors()

    @property
    def params(self) -> dict[str, Tensor]:
        """The trained float32 weights; in several processes each is a DTensor, of which this rank has its part."""
        return dict(zip(self._names, self._masters, strict=True))

    def load(self, saved: dict[str, Tensor], updates: int) -> None:
        """The inverse of `tensors`. Raises KeyError if a tensor is missing."""
        self.updates = updates
        for name, master in zip(self._names, self._masters, strict=True):
            master.data.copy_(saved[f"weight.{name}"])
        if updates:
            self._optimizer.load(saved)
        self._publish()

    def _zero_grad(self) -> None:
        for param, master in zip(self._params, self._masters, strict=True):
            if param is master:
                param.grad = None
            elif master.grad is not None:
                master.grad.zero_()

    @torch.no_grad()
    def _publish(self) -> None:
        """Rounds the masters into the network that the engine shares."""
        pairs = [(p, m) for p, m in zip(self._params, self._masters, strict=True) if p is not m]
        if pairs:
            torch._foreach_copy_([p for p, _ in pairs], [m for _, m in pairs])
        if self.sharded:
            from ownship.learn import sharded

            sharded.publish(self._network, self.model)
        if self.lora is not None:
            self.lora.merge()
        self.fingerprint = fingerprint(self.model)
        distributed.equal(self.fingerprint)


@torch.no_grad()
def _collect(master: Tensor, param: Tensor) -> None:
    """Adds a bf16 gradient to the float32 sum as soon as it is there, while it is in the processor's cache."""
    assert param.grad is not None and master.grad is not None
    master.grad.add_(param.grad)
    param.grad = None
