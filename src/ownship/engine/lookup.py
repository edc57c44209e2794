"""Guessing a request's next tokens from its own text: what followed the last two tokens when they last occurred.

Saxena 2023, "Prompt Lookup Decoding": answers quote their prompts. Whether a guess was right is decided by what is drawn there, so
the distribution is untouched (it is what speculative sampling, arXiv:2302.01318, comes to if the draft is certain).
"""

from __future__ import annotations

from collections.abc import Sequence

_TRY_AGAIN = 32  # tokens after which a request that is hard to guess is tried again


class Lookup:
    """One request's index of pairs of tokens, and how lucky its guesses were."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, int], int] = {}  # a pair of tokens → the place after its last occurrence
        self._indexed = 1
        self._luck = 0.5  # share of guesses that were right lately
        self._tried = 0

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may come next; none where guessing has not paid lately."""
        if most < 1 or (self._luck < 0.15 and len(tokens) < self._tried + _TRY_AGAIN):
            return []
        while self._indexed < len(tokens) - 1:  # all pairs but the last
            self._indexed += 1
            self._after[tokens[self._indexed - 2], tokens[self._indexed - 1]] = self._indexed
        place = self._after.get((tokens[-2], tokens[-1])) if len(tokens) > 1 else None
        if place is None:
            return []
        self._tried = len(tokens)
        return list(tokens[place : place + most])

    def learn(self, right: int, guessed: int) -> None:
        self._luck += 0.3 * (right / guessed - self._luck)
