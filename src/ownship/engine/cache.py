"""Which block of the cache holds what: allocation, sharing of equal beginnings, and what is forgotten first.

A full block is known by a hash over all tokens up to its end, so any request that begins with the same tokens finds it: a system
prompt, an earlier turn of the chat, the prompt of a group, a request's own work before it was pre-empted.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from ownship.engine.forward import SLOTS

Key = bytes
ROOT: Key = b""


def key(parent: Key, tokens: Sequence[int]) -> Key:
    """The name of a full block with these 16 tokens after the block `parent`."""
    return hashlib.blake2b(parent + array("i", tokens).tobytes(), digest_size=16).digest()


class Blocks:
    """Blocks 0 to count − 1. A block is free, in use (by one request or several), or kept: unused, but its contents are known."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._names: dict[int, Key] = {}
        self._known: dict[Key, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # the one unused for longest first

    @property
    def available(self) -> int:
        """Blocks that can be allocated now; kept ones would be forgotten."""
        return len(self._free) + len(self._kept)

    @property
    def used(self) -> int:
        return self.count - self.available

    def allocate(self) -> int | None:
        """A block for one user, or None if all are in use."""
        if self._free:
            block = self._free.pop()
        elif self._kept:
            block, _ = self._kept.popitem(last=False)
            del self._known[self._names.pop(block)]
        else:
            return None
        self._users[block] = 1
        return block

    def share(self, block: int) -> int:
        """One user more."""
        if not self._users[block]:
            del self._kept[block]
        self._users[block] += 1
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """One user less of each. What is known stays until its memory is needed; ends of sequences go first."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                if block in self._names:
                    self._kept[block] = None
                else:
                    self._free.append(block)

    def name(self, block: int, name: Key) -> None:
        """The block is full and will not be written again. Of two equal blocks the first is known."""
        if name not in self._known:
            self._known[name] = block
            self._names[block] = name

    def find(self, tokens: Sequence[int]) -> tuple[list[int], Key]:
        """Blocks that hold the beginning of `tokens`, now shared with the caller, and the last one's name.

        At least one token is left over: its logits are wanted.
        """
        found: list[int] = []
        parent = ROOT
        for start in range(0, (len(tokens) - 1) // SLOTS * SLOTS, SLOTS):
            name = key(parent, tokens[start : start + SLOTS])
            if name not in self._known:
                break
            found.append(self.share(self._known[name]))
            parent = name
        return found, parent

    def forget(self) -> None:
        """Nothing kept is valid any more (the weights changed)."""
        self._free += self._kept
        self._kept.clear()
        self._names.clear()
        self._known.clear()
