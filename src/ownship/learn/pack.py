"""Samples → micro-batches: flat streams without padding, in which samples with the same prompt share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ownship.learn.sample import Sample
from ownship.model.attention import Row, RowAttention


@dataclass(frozen=True)
class Pack:
    """One micro-batch: a stream of N tokens with M trained predictions in it, of S samples."""

    tokens: Tensor  # [N]
    positions: Tensor  # [N]
    attention: RowAttention
    source: Tensor  # [M] stream place whose hidden state makes the prediction
    targets: Tensor  # [M] the token to be predicted
    weights: Tensor  # [M]
    logprobs: Tensor  # [M] the sampler's
    advantages: Tensor  # [M]
    sample: Tensor  # [M] which of the S samples it belongs to, 0-based
    pair: Tensor  # [M] which of the P pairs it belongs to, 0-based; −1: none
    members: tuple[Sample, ...] = ()  # the S samples, in this order
    old: Tensor | None = None  # [M] the learner's own before the first update on these samples, if it was computed
    reference: Tensor | None = None  # [M] the reference's, if there is one


Group = tuple[tuple[int, ...], Sequence[Sample]]  # a prompt and samples that begin with it


def pack(samples: Sequence[Sample], max_tokens: int) -> list[Pack]:
    """Micro-batches of at most `max_tokens` (a longer sample gets one of its own). Raises ValueError as `plan` does."""
    return [build(groups) for groups in plan(samples, max_tokens)]


def plan(samples: Sequence[Sample], max_tokens: int) -> list[list[Group]]:
    """What goes into which micro-batch: groups samples by prompt and fills streams.

    Samples without any weight are left out: they have no gradient. Longest first, so that rows in a stream are alike. A pair is
    never split, so a paired loss sees both. Raises ValueError for half a pair.
    """
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        if any(sample.weights):
            groups.setdefault(tuple(sample.tokens[: sample.prompt]), []).append(sample)
    packs: list[list[Group]] = [[]]
    room = max_tokens
    for prompt, members in sorted(groups.items(), key=lambda item: (-max(len(s.tokens) for s in item[1]), item[0])):
        sized = [(sum(len(s.tokens) - len(prompt) for s in unit), unit) for unit in _units(members)]
        rest = sorted(sized, key=lambda item: -item[0])
        while rest:
            if room < len(prompt) + rest[0][0] and packs[-1]:
                packs.append([])
                room = max_tokens
            size, unit = rest.pop(0)
            taken = list(unit)
            room -= len(prompt) + size
            while rest and room >= rest[0][0]:
                size, unit = rest.pop(0)
                taken += unit
                room -= size
            packs[-1].append((prompt, taken))
    return [part for part in packs if part]


def _units(members: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of one prompt, those of a pair together."""
    pairs: dict[int, list[Sample]] = {}
    units: list[list[Sample]] = []
    for sample in members:
        if sample.pair is None:
            units.append([sample])
        elif sample.pair in pairs:
            pairs[sample.pair].append(sample)
        else:
            units.append(pairs.setdefault(sample.pair, [sample]))
    for number, pair in pairs.items():
        if len(pair) != 2:
            raise ValueError(f"pair {number} has {len(pair)} samples with this prompt and something to train on, not 2")
    return units


def build(groups: Sequence[Group], device: torch.device | str = "cpu") -> Pack:
    """The micro-batch of these groups."""
    tokens: list[int] = []
    positions: list[int] = []
    rows: list[Row] = []
    source: list[int] = []
    chosen: list[tuple[int, float, float, float, int, int]] = []
    pairs: dict[int | None, int] = {None: -1}
    count = 0
    for prompt, members in groups:
        # The prompt's last token goes with the shared part: it predicts every member's first token.
        begin, size = len(tokens), len(prompt)
        tokens += prompt
        positions += range(size)
        if len(members) > 1:
            rows.append(Row(begin, begin + size))
        for sample in members:
            start = len(tokens)
            tokens += sample.tokens[size:]
            positions += range(size, len(sample.tokens))
            if len(members) == 1:
                rows.append(Row(begin, len(tokens)))
            elif len(tokens) > start:
                rows.append(Row(start, len(tokens), begin, begin + size))
            pair = pairs.setdefault(sample.pair, len(pairs) - 1)
            for at in range(size, len(sample.tokens)):
                if sample.weights[at]:
                    source.append(begin + size - 1 if at == size else start + at - size - 1)
                    chosen.append((sample.tokens[at], sample.weights[at], sample.logprobs[at], sample.advantages[at], count, pair))
            count += 1
    targets, weights, logprobs, advantages, which, pair_of = (torch.tensor(column, device=device)
                                                              for column in zip(*chosen, strict=True))
    everyone = tuple(sample for _, members in groups for sample in members)
    return Pack(torch.tensor(tokens, device=device), torch.tensor(positions, device=device), RowAttention(rows, device),
                torch.tensor(source, device=device), targets, weights, logprobs, advantages, which, pair_of, members=everyone,
                old=_beside(everyone, [sample.old for sample in everyone], device),
                reference=_beside(everyone, [sample.reference for sample in everyone], device))


def _beside(samples: Sequence[Sample], values: Sequence[Sequence[float]], device: torch.device | str) -> Tensor | None:
    """Further log-probabilities of the trained tokens, [M], if every sample has them."""
    if not all(values):
        return None
    return torch.tensor([value for sample, row in zip(samples, values, strict=True)
                         for weight, value in zip(sample.weights, row, strict=True) if weight], device=device)
