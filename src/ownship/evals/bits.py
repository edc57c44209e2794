"""Bits per byte: how well a network predicts text, whatever its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ownship.learn.corpus import Encode
from ownship.learn.pack import pack
from ownship.learn.sample import Sample, supervised
from ownship.model.head import logprobs
from ownship.model.llama import Llama


@torch.no_grad()
def bits_per_byte(model: Llama, texts: Sequence[str], encode: Encode, context: int, micro_tokens: int = 2048) -> float:
    """−Σ log₂ p over all predicted tokens, divided by the texts' length in bytes of UTF-8.

    A text is cut into pieces of `context` tokens that overlap by one and are predicted each on its own, as in training, so the
    figure is an upper bound of what the network would need if it saw more of the text. Compare figures of the same texts only.
    """
    nats = 0.0
    for part in pack([piece for text in texts for piece in pieces(encode(text), context)], micro_tokens):
        hidden = model(part.tokens, part.positions, part.attention)
        nats -= float(logprobs(model, hidden[part.source], part.targets)[0].sum(dtype=torch.float64))
    return nats / math.log(2) / max(sum(len(text.encode("utf-8", "replace")) for text in texts), 1)


def pieces(tokens: Sequence[int], context: int) -> list[Sample]:
    """Samples of at most `context` tokens in which every token but the first is predicted once."""
    return [predicted(tokens[at : at + context]) for at in range(0, len(tokens) - 1, context - 1)]


def predicted(tokens: Sequence[int]) -> Sample:
    """A Sample that learns every token but the first, which nothing precedes."""
    return supervised(tokens, [False] + [True] * (len(tokens) - 1))
