"""Log-probabilities of tokens as OpenAI's chat and responses formats write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ownship.gateway.codec import mapping, string
from ownship.gateway.types import TokenScore

LOWEST = -9999.0  # what OpenAI writes for a token that cannot be: JSON has no infinity


def number(logprob: float | None) -> float:
    """A log-probability as JSON can say it: the same float wherever it stands in a reply."""
    return LOWEST if logprob is None or not logprob >= LOWEST else logprob


def told(scores: Iterable[TokenScore]) -> list[dict[str, Any]]:
    return [{"token": score.text, "logprob": number(score.logprob), "bytes": list(score.bytes or score.text.encode()),
             "top_logprobs": [{"token": text, "logprob": number(logprob), "bytes": list(text.encode())}
                              for text, logprob, _ in score.top]}
            for score in scores]


def read(items: Any) -> tuple[TokenScore, ...]:
    """From an upstream. Raises TypeError or ValueError if it is not in the format."""
    return tuple(_score(mapping(item)) for item in items or ())


def logprob(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a log-probability expected")
    return float(value)


def _score(item: dict[str, Any]) -> TokenScore:
    text, raw = string(item["token"]), item.get("bytes")
    spelt = bytes(raw) if isinstance(raw, list) else None
    top = tuple((string(one["token"]), logprob(one["logprob"]), None) for one in item.get("top_logprobs") or ())
    return TokenScore(text, logprob(item["logprob"]), None, top, spelt if spelt != text.encode() else None)
