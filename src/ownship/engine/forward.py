"""One step of the network over a paged cache: which tokens are fed, what they may see, whose logits are wanted.

Two ways of computing it: compiled kernels (`native/`), and plain torch where there is no compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ownship.engine.sampling import Draw
from ownship.errors import UserError
from ownship.model.head import logits
from ownship.model.llama import Llama, LlamaConfig

SLOTS = 16  # tokens in a block of the cache


@dataclass(frozen=True)
class Chunk:
    """Tokens of one request at positions `start`, `start + 1`, …; `table[i]` is the block of positions 16 i to 16 i + 15.

    Logits are wanted at the last `wanted` tokens.
    """

    tokens: Sequence[int]
    start: int
    table: Sequence[int]
    wanted: int


class Pool:
    """The cache's memory, for all layers: keys [layers, blocks, K, E, 16] and values [layers, blocks, K, 16, E] in float32; in
    bf16 the blocks hold pairs of features and of slots (native/attention.h).

    Keys lie by feature, so that 16 scores are computed at once. The whole bound is reserved, and the system gives pages as they
    are first written. Raises UserError if the bound is less than a block.
    """

    def __init__(self, config: LlamaConfig, cache_bytes: int, dtype: torch.dtype) -> None:
        layers, heads, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        blocks = self.blocks = cache_bytes // self.block_bytes(config, dtype)
        if blocks < 1:
            raise UserError(f"the cache must hold {SLOTS} tokens at least, which take"
                            f" {self.block_bytes(config, dtype) / 2**20:.2f} MB with this model, not {cache_bytes / 2**20:g} MB")
        self.keys = torch.empty(layers, blocks, heads, size, SLOTS, dtype=dtype)
        self.values = torch.empty(layers, blocks, heads, SLOTS, size, dtype=dtype)

    @staticmethod
    def block_bytes(config: LlamaConfig, dtype: torch.dtype) -> int:
        return 2 * SLOTS * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize

    def copy(self, source: int, target: int) -> None:
        self.keys[:, target] = self.keys[:, source]
        self.values[:, target] = self.values[:, source]


class Forward(Protocol):
    """Writes the chunks' keys and values into the pool; logits [Σ wanted, V] float32 in the order of the chunks, good until the
    next call."""

    pool: Pool

    @property
    def draw(self) -> Draw | None:
        """A faster way to draw plain tokens, if there is one."""

    def __call__(self, chunks: Sequence[Chunk]) -> Tensor: ...

    def reload(self) -> None:
        """To be called after the network's weights have changed."""


class TorchForward:
    """The network itself, with attention over gathered blocks."""

    def __init__(self, model: Llama, cache_bytes: int) -> None:
        self.model = model
        self.draw: Draw | None = None
        self.pool = Pool(model.config, cache_bytes, torch.float32)

    def reload(self) -> None:
        pass

    def __call__(self, chunks: Sequence[Chunk]) -> Tensor:
        attend = _Gathered(self.pool, chunks)
        tokens = torch.tensor([token for chunk in chunks for token in chunk.tokens])
        hidden = self.model(tokens, attend.positions, attend)
        return logits(self.model, hidden[wanted_places(chunks)])


def wanted_places(chunks: Sequence[Chunk]) -> list[int]:
    """Places in the stream whose logits are wanted."""
    places: list[int] = []
    end = 0
    for chunk in chunks:
        end += len(chunk.tokens)
        places += range(end - chunk.wanted, end)
    return places


class _Gathered:
    """An `Attend` over the pool: R chunks, the longest of Q tokens, T slots in the longest table."""

    def __init__(self, pool: Pool, chunks: Sequence[Chunk]) -> None:
        self.pool = pool
        lengths = [len(chunk.tokens) for chunk in chunks]
        starts = torch.tensor([chunk.start for chunk in chunks])
        width = max(-(-(chunk.start + len(chunk.tokens)) // SLOTS) for chunk in chunks)
        table = np.zeros((len(chunks), width), np.int64)
        for row, chunk in enumerate(chunks):
            need = -(-(chunk.start + len(chunk.tokens)) // SLOTS)
            table[row, :need] = chunk.table[:need]
        self.table = torch.from_numpy(table)
        self.row = torch.repeat_interleave(torch.arange(len(chunks)), torch.tensor(lengths))  # [N]
        self.step = torch.cat([torch.arange(length) for length in lengths])  # [N] place in the own chunk
        self.positions = starts[self.row] + self.step
        self.block, self.slot = self.table[self.row, self.positions // SLOTS], self.positions % SLOTS  # [N]
        self.longest = max(lengths)
        seen = starts[:, None] + torch.arange(self.longest)  # [R, Q]
        self.mask = (torch.arange(width * SLOTS) <= seen[..., None])[:, None]  # [R, 1, Q, T]
        self.used = (torch.arange(width * SLOTS) < (starts + torch.tensor(lengths))[:, None])[:, None, :, None]  # [R, 1, T, 1]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        keys[self.block, :, :, self.slot] = k
        values[self.block, :, self.slot] = v.float()
        rows, width = self.table.shape
        heads, size = k.shape[1:]
        k = keys[self.table].permute(0, 2, 1, 4, 3).reshape(rows, heads, width * SLOTS, size)
        v_all = values[self.table].transpose(1, 2).reshape(rows, heads, width * SLOTS, size)
        # memory never written may hold NaN, and 0 · NaN is NaN
        k, v_all = k.masked_fill(~self.used, 0), v_all.masked_fill(~self.used, 0)
        queries = q.new_zeros(rows, self.longest, *q.shape[1:])
        queries[self.row, self.step] = q
        out = F.scaled_dot_product_attention(queries.transpose(1, 2), k, v_all, self.mask, enable_gqa=True)
        return out.transpose(1, 2)[self.row, self.step].to(v.dtype)  # [N, H, E]
