"""What this machine can do at most, measured: matrix products and reading memory.

    ownship bench roofline        prints it as JSON

And the least time that drawing tokens can take on such a machine (`least_seconds`), to say which fraction an engine reaches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ownship.model.ops import product

_WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 0.75}  # with scales, which int8 has few of


@dataclass(frozen=True)
class Network:
    """The sizes that count: weights that are multiplied with (embeddings are only looked up; the head counts, tied or
    not), and how keys and values are laid out."""

    body: int  # weights of the layers' matrices
    head: int  # vocabulary × width
    layers: int
    query_heads: int
    key_heads: int
    head_dim: int


def measure(seconds: float = 1.0) -> dict[str, float]:
    """Rates that all threads of torch reach together; each the best of the repetitions that fit into `seconds`.

    `bfloat16_gflops`, `float32_gflops`: a product, as the network makes them, of two square matrices of 1024 to 4096: the larger
    ones where one such product takes no longer than `seconds`.
    `read_gb_s`: reading 2 GB once. `read_256mb_gb_s`: reading the same 256 MB again and again, which is what decoding does
    with the weights of a small network; where the cache of the last level is larger than that, it is faster.
    """
    found: dict[str, float] = {}
    for dtype in (torch.bfloat16, torch.float32):
        rates: list[float] = []
        for size in (1024, 2048, 4096):
            if rates and 2 * size**3 / max(rates) / 1e9 > seconds:
                break
            left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
            into = torch.empty(size, size, dtype=dtype)
            best = _best(partial(product, left, right, out=into), seconds)
            rates.append(2 * size**3 / best / 1e9)
        found[f"{str(dtype).removeprefix('torch.')}_gflops"] = round(max(rates), 1)
    for name, length in (("read_gb_s", 2 << 30), ("read_256mb_gb_s", 256 << 20)):
        buffer = torch.ones(length // 4096, 1024)
        vector, into = torch.ones(1024), torch.empty(length // 4096)
        best = min(_best(buffer.sum, seconds),
                   _best(partial(torch.mv, buffer, vector, out=into), seconds))
        found[name] = round(length / best / 1e9, 2)
        del buffer
    return found


def _best(run: Callable[[], object], seconds: float) -> float:
    """The shortest of the runs that fit into `seconds`, at least three after one to warm up."""
    run()
    best, begin, count = float("inf"), time.perf_counter(), 0
    while count < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best


def least_seconds(rates: dict[str, float], network: Network, precision: str, prompts: list[int], n: int, tokens: int) -> float:
    """The least time for reading `prompts` (their lengths) and continuing each `n` times by `tokens` tokens.

    The limit of a step is max(flops / peak, bytes / bandwidth); the steps are one that reads every prompt once and draws
    the first tokens, and tokens − 1 that draw one token for all streams together:

        flops = 2 · body · T + 2 · head · S + 4 · layers · query heads · head dim · pairs
        bytes = (body + head) · bytes per weight + 4 · layers · key heads · head dim · cached

    T tokens go in, S streams draw, `pairs` are the (query, key) pairs, `cached` the cached positions that have to be read
    (bfloat16 keys and values at least; a prompt that n streams share needs to be read once for all of them). The peak is
    that of the precision (int8 and int4 weights are taken as if multiplied in bfloat16), the bandwidth the faster of the two
    that were measured.
    """
    peak = rates["float32_gflops" if precision == "float32" else "bfloat16_gflops"] * 1e9
    bandwidth = max(rates["read_gb_s"], rates["read_256mb_gb_s"]) * 1e9
    streams = len(prompts) * n

    def step(fed: int, drawn: int, pairs: float, cached: float) -> float:
        flops = (2 * network.body * fed + 2 * network.head * drawn
                 + 4 * network.layers * network.query_heads * network.head_dim * pairs)
        moved = ((network.body + network.head) * _WEIGHT_BYTES[precision]
                 + 4 * network.layers * network.key_heads * network.head_dim * cached)
        return max(flops / peak, moved / bandwidth)

    total = step(sum(prompts), len(prompts), sum(length * (length + 1) / 2 for length in prompts), 0)
    for drawn in range(1, tokens):
        pairs = n * sum(prompts) + streams * drawn
        total += step(streams, streams, pairs, sum(prompts) + streams * drawn)
    return total




