"""What goes into the engine and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ownship.errors import UserError

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; a `seed` fixes every draw."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise UserError(f"temperature must lie between 0 and 100, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise UserError(f"top_k must be 0 (off) or positive, not {self.top_k}")
        if self.max_tokens < 1:
            raise UserError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if any(not text for text in self.stop):
            raise UserError("a stop string must not be empty")


@dataclass(frozen=True)
class Request:
    """Prompt token ids, and how to continue them."""

    prompt: list[int]
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class Completion:
    """What was sampled: ids (the stop token included), the sampler's raw log-probability of each, why it ended, the
    text (cut before a stop string), and the fingerprint of the weights it came from."""

    tokens: list[int]
    logprobs: list[float]
    finish: Finish
    text: str
    fingerprint: str


@dataclass(frozen=True)
class Event:
    """One token of request `id`: the text it makes visible, and the completion if it was the last."""

    id: int
    text: str
    completion: Completion | None = None
