"""Which weights a completion came from."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """16 hex digits that change when any one weight changes: a hash over each tensor's name, shape and two checksums.

    The checksums are sums of the raw bits, of all weights and of every seventh. They tell that an update arrived; two different
    sets of changes can share one, so this is no protection against forgery.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        bits = parameter.detach().contiguous().view(torch.int16 if parameter.dtype.itemsize == 2 else torch.int32).flatten()
        sums = (int(bits.sum(dtype=torch.int64)), int(bits[::7].sum(dtype=torch.int64)))
        digest.update(f"{name} {tuple(parameter.shape)} {sums};".encode())
    return digest.hexdigest()
