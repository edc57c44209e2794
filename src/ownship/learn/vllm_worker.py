"""What a vLLM server needs to take a learner's weights. Loaded in vLLM's own process and environment:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out --worker-extension-cls ownship.learn.vllm_worker.Weights

where this package is on the path, without its dependencies (PYTHONPATH=…/src, or pip install --no-deps): nothing but torch,
safetensors and the standard library may be imported here, and vLLM itself. Written for vLLM 0.32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ownship.engine.fingerprint import digest

ORDER = "order"  # safetensors sorts its tensors; a fingerprint needs the network's order, which stands under this name


class Weights:
    """Becomes a base class of vLLM's worker, whose methods `/collective_rpc` calls by name."""

    model_runner: Any

    def load_ownship(self, path: str) -> str:
        """Loads the safetensors file that `learn/remote.py` wrote, under Hugging Face's names; returns the fingerprint of what was
        read. Not while requests are running. With tensor parallelism each worker reads the file and keeps its part."""
        from vllm.platforms import current_platform

        with safe_open(path, framework="pt") as file:
            names: list[str] = json.loads(file.metadata()[ORDER])
            self.reload_weights(weights_iterator=((name, file.get_tensor(name)) for name in names))  # type: ignore[attr-defined]
            if current_platform.is_cpu():
                _pack_again(self.model_runner.get_model())
            return digest(_ours(file, names))


def _ours(file: Any, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors under the learner's names."""
    for name in names:
        yield name.removeprefix("model."), file.get_tensor(name)


def _pack_again(model: Any) -> None:
    """On a CPU a layer computes with a packed copy of its weight. vLLM packs again what it loads again, but not a head whose weight
    is the embedding's: that would go on with the old one."""
    for module in model.modules():
        if hasattr(module, "cpu_linear") and module.weight.numel():
            module.quant_method.process_weights_after_loading(module)
