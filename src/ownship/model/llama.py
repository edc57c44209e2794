"""The network: a Llama-family decoder over a flat stream of tokens.

There is one definition for training and for serving. It knows nothing of batches, caches or devices: tokens come as one
flat stream `[N]`, every matrix product runs on exactly the tokens that exist (no padding), and attention, the only place
where tokens meet, is a function that the caller passes in (`model/attention.py` for whole sequences, the engine's cache
for decoding).

Shapes: N tokens, D hidden size, H query heads, K key/value heads, E head size, V vocabulary.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ownship.errors import UserError
from ownship.model.linear import Linear
from ownship.model.ops import is_rounded, rms_norm, rotate, rounded, swiglu


class Attend(Protocol):
    """Mixes the tokens of one layer: q [N, H, E], k and v [N, K, E] → [N, H, E], all of one dtype."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LlamaConfig:
    """The sizes of a network, under the names of Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None  # None, {"rope_type": "linear", …} or {"rope_type": "llama3", …}
    tie_word_embeddings: bool = False
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for names, most in ((("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"), 1 << 24),
                            (("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"), 1 << 12)):
            for name in names:
                value = getattr(self, name)
                if type(value) is not int or not 1 <= value <= most:  # a damaged file must not make us build for ever
                    raise UserError(f"{name} must be a whole number from 1 to {most}, not {value!r}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise UserError(f"head_dim must be even for rotary positions, not {self.head_dim}")
        _positive("rms_norm_eps", self.rms_norm_eps)
        _positive("rope_theta", self.rope_theta)
        if type(self.tie_word_embeddings) is not bool:
            raise UserError(f"tie_word_embeddings must be true or false, not {self.tie_word_embeddings!r}")
        if any(type(id) is not int for id in self.eos_token_ids):
            raise UserError(f"eos_token_id must be a token id or a list of them, not {list(self.eos_token_ids)!r}")
        rope_frequencies(self)  # refuses a scaling that is unknown or incomplete

    @property
    def parameters(self) -> int:
        """Number of weights, a tied head counted once."""
        heads = self.num_attention_heads + 2 * self.num_key_value_heads
        attention = self.hidden_size * self.head_dim * (heads + self.num_attention_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * layer + self.hidden_size


def _positive(name: str, value: Any) -> Any:
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise UserError(f"{name} must be a positive number, not {value!r}")
    return value


def rope_frequencies(config: LlamaConfig) -> Tensor:
    """Angular frequency of each rotary pair, [E/2] float32.

    Plain (Su et al. 2021, arXiv:2104.09864), `linear`, or Llama 3.1's piecewise scaling (`llama3`: wavelengths longer
    than the original context are slowed by `factor`, short ones kept, and those between are blended).
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / (config.rope_theta ** exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in (None, "default"):
        return frequencies
    if kind not in ("linear", "llama3"):
        raise UserError(f"rope_scaling type {kind!r} is not supported (known: linear, llama3)")

    def need(name: str) -> Any:
        if name not in scaling:
            raise UserError(f"rope_scaling of type {kind!r} lacks the field {name!r}")
        return _positive(f"rope_scaling.{name}", scaling[name])

    if kind == "linear":
        return frequencies / need("factor")
    factor, low, high = need("factor"), need("low_freq_factor"), need("high_freq_factor")
    context = need("original_max_position_embeddings")
    if low >= high:
        raise UserError(f"rope_scaling.low_freq_factor ({low}) must be below high_freq_factor ({high})")
    wavelength = 2 * math.pi / frequencies
    blend = ((context / wavelength - low) / (high - low)).clamp(0, 1)  # 0: slowed by factor, 1: kept
    return (1 - blend) * frequencies / factor + blend * frequencies


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self.q_proj = Linear(config.hidden_size, self.heads * self.head_dim)
        self.k_proj = Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.v_proj = Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = Linear(self.heads * self.head_dim, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        q = rotate(self.q_proj(x).view(-1, self.heads, self.head_dim), cos, sin)  # [N, H, E]
        k = rotate(self.k_proj(x).view(-1, self.kv_heads, self.head_dim), cos, sin)  # [N, K, E]
        v = self.v_proj(x).view(-1, self.kv_heads, self.head_dim)  # [N, K, E]
        mixed = attend(layer, q, k, v).reshape(-1, self.heads * self.head_dim)
        return self.o_proj(mixed)  # [N, D]


class MLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, wide=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, wide=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Block(nn.Module):
    recomputed = False  # in training only what goes in is kept, and the rest computed again in the backward pass

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        if not (self.recomputed and torch.is_grad_enabled()):
            return self._run(x, cos, sin, layer, attend)
        now = is_rounded()  # the second time must round as the first
        return checkpoint(self._run, x, cos, sin, layer, attend, use_reentrant=False, preserve_rng_state=False,
                          context_fn=lambda: (nullcontext(), rounded(now)))

    def _run(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, layer, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """The decoder. Parameter names are Hugging Face's, less the `model.` prefix (`model/checkpoint.py` adds it)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        # the weight is given, or torch would draw one: without memory (device meta) that costs a second and 90 MB of imports
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size,
                                         _weight=torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self._frequencies: Tensor | None = None  # [E/2], made on first use: never a saved weight
        self._wide_head: tuple[tuple[int, int], Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of the rotary angles: positions [N] → two tensors [N, E/2] in float32."""
        if self._frequencies is None:
            self._frequencies = rope_frequencies(self.config).to(self.embed_tokens.weight.device)
        angles = torch.outer(positions.float(), self._frequencies)  # [N, E/2]
        return angles.cos(), angles.sin()

    def wide_head(self) -> Tensor:
        """The head's weights [V, D] in float32; a copy that follows every update of a bf16 head."""
        weight = self.lm_head.weight
        if weight.dtype == torch.float32:
            return weight
        version = weight.data_ptr(), weight._version
        if self._wide_head is None or self._wide_head[0] != version:
            self._wide_head = (version, weight.detach().float())
        return self._wide_head[1]

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """tokens [N] and positions [N] (0-based place within the own sequence) → final hidden states [N, D]."""
        # The residual stream is float32 whatever the weights are: rounding it to bf16 after each of 60 additions made up
        # half of the difference between sampler and learner (docs/log.md), and it costs nothing.
        x = self.embed_tokens(tokens).float()  # [N, D]
        cos, sin = self.rope(positions)
        for layer, block in enumerate(self.layers):
            x = block(x, cos, sin, layer, attend)
        return self.norm(x)

    @torch.no_grad()
    def init_weights(self, seed: int, std: float = 0.02) -> Llama:
        """Normal(0, std) everywhere, as a fresh Llama starts; norms stay at 1. Returns itself."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        return self
