"""The key/value cache: one row of memory per running request, rows 0 to n−1 in use, attention over the live length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ownship.model.attention import RowAttention
from ownship.model.llama import LlamaConfig


class KVCache:
    """keys and values [layers, rows, K, capacity, E] in float32; grows on demand, keeps what it holds."""

    def __init__(self, config: LlamaConfig) -> None:
        self.config = config
        self.keys = self.values = torch.empty(config.num_hidden_layers, 0, config.num_key_value_heads, 0, config.head_dim)

    @staticmethod
    def token_bytes(config: LlamaConfig) -> int:
        return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4

    def reserve(self, rows: int, capacity: int) -> None:
        """Makes room for `rows` requests of at most `capacity` tokens; what rows beyond those hold may be dropped."""
        have_rows, have_capacity = self.keys.shape[1], self.keys.shape[3]
        if rows <= have_rows and capacity <= have_capacity:
            return
        if capacity <= have_capacity:
            capacity = have_capacity
        else:  # widened: only the rows in use are kept, or rows that nobody uses would be widened too
            capacity, have_rows = -(-capacity // 64) * 64, min(have_rows, rows)
        shape = (self.config.num_hidden_layers, rows, self.config.num_key_value_heads, capacity, self.config.head_dim)
        for name in ("keys", "values"):
            old, new = getattr(self, name), torch.zeros(shape)  # masked slots are read too: no NaN
            new[:, :have_rows, :, :have_capacity] = old[:, :have_rows]
            setattr(self, name, new)

    def clear(self) -> None:
        """Gives the memory back."""
        self.__init__(self.config)  # type: ignore[misc]

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of one row to another."""
        for store in (self.keys, self.values):
            store[:, target, :, :length] = store[:, source, :, :length]

    def prefill(self, inner: RowAttention, rows: Tensor, source: Tensor) -> _Prefill:
        """An `Attend` that also keeps keys and values: cache row `rows[i]` gets stream positions `source[i]` ([R], [R, L])."""
        return _Prefill(self, inner, rows, source)

    def decode(self, lengths: Tensor) -> _Decode:
        """An `Attend` for one new token in each of the rows 0 to n−1, which hold `lengths` [n] tokens already."""
        return _Decode(self, lengths)


class _Prefill:
    def __init__(self, cache: KVCache, inner: RowAttention, rows: Tensor, source: Tensor) -> None:
        self.cache, self.inner, self.rows, self.source = cache, inner, rows, source

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = self.source.shape[1]
        for store, new in ((self.cache.keys, k), (self.cache.values, v)):
            store[layer, self.rows, :, :length] = new[self.source].transpose(1, 2).float()  # [R, K, L, E]
        return self.inner(layer, q, k, v)


class _Decode:
    def __init__(self, cache: KVCache, lengths: Tensor) -> None:
        self.cache, self.lengths = cache, lengths
        self.rows = torch.arange(len(lengths))
        self.live = int(lengths.max()) + 1
        hidden = torch.arange(self.live) > lengths[:, None]  # [n, live]
        bias = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        self.bias = bias[:, None, None] if len(lengths) > 1 else None  # [n, 1, 1, live]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, :, self.lengths] = k
        values[self.rows, :, self.lengths] = v.float()
        count = len(self.lengths)
        out = F.scaled_dot_product_attention(
            q.unsqueeze(2), keys[:count, :, : self.live], values[:count, :, : self.live], self.bias, enable_gqa=True
        )
        return out.squeeze(2).to(v.dtype)  # [n, H, E]
