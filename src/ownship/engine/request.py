"""What goes into the engine and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ownship.errors import UserError

if TYPE_CHECKING:
    from ownship.engine.grammar import Grammar
    from ownship.engine.sampling import Scored

Precision = Literal["float32", "bfloat16", "int8", "int4"]  # of an engine's weights
Finish = Literal["stop", "length", "cancelled", "failed"]  # failed: the grammar's machine gave up


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off; a `seed` fixes every draw.

    `min_p` leaves out what is less likely than that share of the likeliest token. `repetition_penalty` divides positive and
    multiplies negative logits of tokens in prompt and reply; `presence_penalty` is taken off the logit of every token in the
    reply, `frequency_penalty` once for each time it is there; `logit_bias` adds to the logits of the token ids it names.
    `top_logprobs` asks for so many alternatives to each token. Before `min_tokens` no stop token is drawn; with `ignore_eos`
    one does not end the reply.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    seed: int | None = None
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    ignore_eos: bool = False
    min_tokens: int = 0

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
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p must lie between 0 and 1, not {self.min_p}")
        if not 0.01 <= self.repetition_penalty <= 100:  # as far as float32 logits bear it
            raise UserError(f"repetition_penalty must lie between 0.01 and 100, not {self.repetition_penalty}")
        if not -2 <= self.presence_penalty <= 2:
            raise UserError(f"presence_penalty must lie between -2 and 2, not {self.presence_penalty}")
        if not -2 <= self.frequency_penalty <= 2:
            raise UserError(f"frequency_penalty must lie between -2 and 2, not {self.frequency_penalty}")
        for id, bias in self.logit_bias:
            if id < 0 or not -100 <= bias <= 100:
                raise UserError(f"logit_bias must map token ids to numbers between -100 and 100, not {id} to {bias}")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= 20:
            raise UserError(f"top_logprobs must lie between 0 and 20, not {self.top_logprobs}")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise UserError(f"min_tokens must lie between 0 and max_tokens = {self.max_tokens}, not {self.min_tokens}")


@dataclass(frozen=True)
class Request:
    """Prompt token ids, and how to continue them: with a `grammar`, only as it allows. With `prompt_logprobs` the prompt's own
    tokens are scored as well, each with so many alternatives."""

    prompt: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    grammar: Grammar | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.prompt_logprobs is not None and not 0 <= self.prompt_logprobs <= 20:
            raise UserError(f"prompt_logprobs must lie between 0 and 20, not {self.prompt_logprobs}")


@dataclass(frozen=True)
class Completion:
    """A reply: ids (the stop token included), the sampler's raw log-probability of each, why it ended, the text (cut before a
    stop string), and the weights it came from: their fingerprint, and how many updates the engine has seen.

    `forced` marks tokens that a grammar left no choice about: they were not drawn, and their log-probability is given as 0. `tops`
    are the alternatives of each token if they were asked for, `prompt_scores` the prompt's tokens from the second on, `found` the
    number of prompt tokens that were in the cache, `stop` the stop string that ended the reply, if one did.
    """

    tokens: list[int]
    logprobs: list[float]
    finish: Finish
    text: str
    fingerprint: str
    version: int = 0
    forced: list[bool] = field(default_factory=list)
    tops: list[tuple[tuple[int, float], ...] | None] = field(default_factory=list)
    prompt_scores: list[Scored] = field(default_factory=list)
    found: int = 0
    stop: str | None = None


@dataclass(frozen=True)
class Event:
    """One token of request `id`: the text it makes visible, and the completion if it was the last. `token` is None where a
    request ended without one. `prompt_scores` come with the first token, if they were asked for."""

    id: int
    text: str
    completion: Completion | None = None
    token: Scored | None = None
    prompt_scores: list[Scored] | None = None
