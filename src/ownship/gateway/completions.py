"""OpenAI's legacy completions, as a client speaks them: a prompt as text or token ids, continued without a template.

Evaluation harnesses measure by this format: `echo` with `logprobs` gives every token of the prompt, None for the first one's; the
sampled token is always in `top_logprobs`, with the same float as in `token_logprobs`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from ownship.gateway import failure, sse
from ownship.gateway.chat import StreamOptions, biases, stops, usage
from ownship.gateway.codec import Asked, Strict, checked, new_id, validated
from ownship.gateway.reply import Reply
from ownship.gateway.scores import number
from ownship.gateway.to_completions import PATH as PATH
from ownship.gateway.types import (
    Event,
    Finish,
    Finished,
    GatewayError,
    PromptScores,
    Request,
    Started,
    TextDelta,
    TokenScore,
    Used,
    invalid,
)

KEEP_ALIVE = sse.KEEP_ALIVE
refusal = failure.openai_error

_Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
_MAX_PROMPTS = 1024


class Body(Strict):
    model: str
    prompt: Annotated[str, Field(min_length=1)] | _Ids | list[Annotated[str, Field(min_length=1)]] | list[_Ids]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=128)
    best_of: int | None = Field(None, ge=1, le=128)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    user: str | None = None


def read(body: Any) -> Asked:
    given = validated(Body, body)
    if given.stream_options is not None and not given.stream:
        raise invalid("stream_options needs stream: true", "stream_options")
    if given.best_of not in (None, given.n or 1):
        raise invalid("best_of: only as many as n are drawn", "best_of")
    if given.max_tokens == 0 and not given.echo:
        raise invalid("max_tokens: 0 needs echo: true, or else nothing is asked for", "max_tokens")
    prompts = _prompts(given.prompt)
    if not prompts or len(prompts) > _MAX_PROMPTS:
        raise invalid(f"prompt: 1 to {_MAX_PROMPTS} prompts", "prompt")
    first = Request(
        model=given.model, prompt=prompts[0], max_tokens=given.max_tokens, temperature=given.temperature, top_p=given.top_p,
        top_k=given.top_k, min_p=given.min_p, repetition_penalty=given.repetition_penalty,
        presence_penalty=given.presence_penalty, frequency_penalty=given.frequency_penalty, logit_bias=biases(given.logit_bias),
        stop=stops(given.stop), seed=given.seed, n=given.n or 1, logprobs=given.logprobs, echo=bool(given.echo), user=given.user,
        stream=bool(given.stream))
    return Asked((checked(first), *(replace(first, prompt=prompt) for prompt in prompts[1:])), first.stream,
                 bool(given.stream_options and given.stream_options.include_usage), body)


def _prompts(given: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]) -> list[str | tuple[int, ...]]:
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [tuple(given)]  # type: ignore[arg-type]
    return [one if isinstance(one, str) else tuple(one) for one in given]  # type: ignore[arg-type]


class _Offsets:
    """The log-probabilities of one choice, and where in its text (of the prompt too, if that is echoed) each token begins."""

    def __init__(self) -> None:
        self.at = 0
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def told(self, scores: Iterable[TokenScore]) -> dict[str, list[Any]]:
        told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for score in scores:
            name = _name(score.text, score.bytes)
            told["tokens"].append(name)
            told["token_logprobs"].append(None if score.logprob is None else number(score.logprob))
            told["top_logprobs"].append(None if score.logprob is None else _top(name, score))
            told["text_offset"].append(self.at)
            self.at += len(self.decoder.decode(score.text.encode() if score.bytes is None else score.bytes))
        return told


def _name(text: str, spelt: bytes | None) -> str:
    """As OpenAI writes a token that is not text by itself: bytes:\\xe2\\x80"""
    return text if spelt is None else "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)


def _top(name: str, score: TokenScore) -> dict[str, float]:
    """The sampled token, and its alternatives. Two tokens can have the same text: the second one goes by its id, so that a token
    that was less likely than its namesake is not taken for the likeliest one."""
    assert score.logprob is not None
    top: dict[str, float] = {}
    sampled = False
    for text, logprob, id in score.top:
        if not sampled and (id == score.id if id is not None and score.id is not None else text == score.text
                            and logprob == score.logprob):
            sampled = True
            top[name] = number(score.logprob)
        elif text not in top and text != name:
            top[text] = number(logprob)
        elif id is not None:
            top[f"token_id:{id}"] = number(logprob)
    if not sampled:
        top[name] = number(score.logprob)
    return top


def whole(asked: Asked, reply: Reply) -> dict[str, Any]:
    choices = []
    for index, choice in sorted(reply.choices.items()):
        prompt = _prompt(asked, index, choice.prompt)
        logprobs = None
        if asked.request.logprobs is not None:
            scored = (*choice.prompt.scores, *choice.scores) if choice.prompt is not None else choice.scores
            logprobs = _Offsets().told(scored)
        text = "".join(getattr(part, "text", "") for part in choice.parts)
        choices.append({"index": index, "text": prompt + text, "logprobs": logprobs, "finish_reason": _finish(choice.finish)})
    return {"id": new_id("cmpl-"), "object": "text_completion", "created": asked.created, "model": reply.model,
            "choices": choices, "usage": usage(reply.usage)}


def _prompt(asked: Asked, index: int, echoed: PromptScores | None) -> str:
    """The text of an echoed prompt."""
    if echoed is None:
        return ""
    if echoed.text is not None:
        return echoed.text
    prompt = asked.requests[index // asked.request.n].prompt
    if isinstance(prompt, str):
        return prompt
    return b"".join(score.text.encode() if score.bytes is None else score.bytes for score in echoed.scores).decode(errors="replace")


def _finish(reason: Finish) -> str:
    return "stop" if reason == "tool_calls" else reason


class CompletionsWriter:
    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.head: dict[str, Any] = {"id": new_id("cmpl-"), "object": "text_completion", "created": asked.created,
                                     "model": asked.request.model}
        self.offsets = [_Offsets() for _ in range(len(asked.requests) * asked.request.n)]

    def _chunk(self, index: int, text: str, scores: Iterable[TokenScore] = (), finish: str | None = None) -> bytes:
        logprobs = self.offsets[index].told(scores) if scores and self.asked.request.logprobs is not None else None
        chunk = {**self.head, "choices": [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}]}
        if self.asked.usage:
            chunk["usage"] = None
        return sse.send(chunk)

    def write(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return self._chunk(event.index, event.text, event.scores) if event.text or event.scores else b""
        if isinstance(event, PromptScores):
            return self._chunk(event.index, _prompt(self.asked, event.index, event), event.scores)
        if isinstance(event, Finished):
            return self._chunk(event.index, "", (), _finish(event.reason))
        if isinstance(event, Started):
            self.head["model"] = event.model
        elif isinstance(event, Used):
            end = {**self.head, "choices": [], "usage": usage(event.usage)}
            return (sse.send(end) if self.asked.usage else b"") + sse.DONE
        return b""  # a continued prompt has no thoughts and no tools

    def fail(self, error: GatewayError) -> bytes:
        return sse.send(refusal(error))


def writer(asked: Asked) -> CompletionsWriter:
    return CompletionsWriter(asked)
