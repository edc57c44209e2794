"""How fast our own learner and engine are on this machine, on a small network of a large one's proportions.

What share of the rate of large products a training reaches depends on the processor: the faster its matrix unit, the more of a
step is spent on everything else. So it is measured, not assumed.
"""

from __future__ import annotations

import time

import torch

from ownship.engine.engine import Engine
from ownship.engine.request import Request, Sampling
from ownship.learn.learner import Learner
from ownship.learn.loss import imitation
from ownship.learn.sample import supervised
from ownship.model import bpe
from ownship.model.llama import Llama, LlamaConfig

_LAYERS, _WIDEST = 4, 1024  # of the small network
_LENGTH = 256  # tokens of a sequence that is learnt
_ROWS, _DRAWN = 64, 24  # sequences that are drawn together, and tokens of each


def measure(layers: int, hidden: int, vocabulary: int) -> dict[str, float]:
    """Floating-point operations per second, in units of 1e9: `learning`, forward, backward and the update (6 for each weight and
    token, 12 · layers · hidden · length for attention); `drawing` 64 sequences together (2 for each weight and token). The network
    has the width of the one that is asked about, up to 1024, four of its layers, and as much less of its vocabulary."""
    deep = min(layers, _LAYERS)
    wide = max(64, min(hidden, _WIDEST) // 64 * 64)
    tokenizer = bpe.train((), bpe.SMALLEST)
    sizes = LlamaConfig(vocab_size=max(512, vocabulary * deep // layers), hidden_size=wide, intermediate_size=wide * 8 // 192 * 64,
                        num_hidden_layers=deep, num_attention_heads=wide // 64, num_key_value_heads=wide // 64, head_dim=64,
                        tie_word_embeddings=True)
    model = Llama(sizes).init_weights(0).to(torch.bfloat16).eval()
    drawing = _drawing(Engine(model, tokenizer, max_rows=_ROWS, cache_bytes=256 << 20))
    learning = _learning(Learner(model, micro_tokens=1024))
    work = 6 * sizes.parameters + 12 * deep * wide * _LENGTH
    return {"learning": learning * work / 1e9, "drawing": drawing * 2 * sizes.parameters / 1e9}


def _learning(learner: Learner) -> float:
    """Tokens per second: the better of two updates after one to warm up."""
    draw = torch.Generator().manual_seed(0)
    vocabulary = learner.model.config.vocab_size
    samples = [supervised(torch.randint(vocabulary, (_LENGTH,), generator=draw).tolist(), [False] + [True] * (_LENGTH - 1))
               for _ in range(8)]
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        learner.update(samples, imitation)
        best = min(best, time.perf_counter() - start)
    return len(samples) * _LENGTH / best


def _drawing(engine: Engine) -> float:
    """Tokens per second: the better of two rounds, after one step to warm up."""
    best = float("inf")
    for tokens in (1, _DRAWN, _DRAWN):
        requests = [Request([3 + row], Sampling(max_tokens=tokens, seed=row, ignore_eos=True)) for row in range(_ROWS)]
        start = time.perf_counter()
        engine.generate(requests)
        if tokens > 1:
            best = min(best, time.perf_counter() - start)
    return _ROWS * _DRAWN / best
