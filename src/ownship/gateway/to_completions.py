"""OpenAI's legacy completions as an upstream speaks them."""

from __future__ import annotations

from typing import Any

from ownship.gateway import failure, sse
from ownship.gateway.codec import cannot, count, mapping, string
from ownship.gateway.scores import logprob
from ownship.gateway.to_chat import sampling, used
from ownship.gateway.types import (
    Event,
    Finish,
    Finished,
    PromptScores,
    Request,
    Started,
    TextDelta,
    TokenScore,
    Usage,
    Used,
    invalid,
)

PATH = "/completions"

_FORMAT = "OpenAI completions"
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}


def body(request: Request) -> dict[str, Any]:
    """An echo is asked for in one piece, since only the whole text tells where the prompt ends."""
    if request.prompt is None:
        raise invalid(f"messages: the model behind this name is reached by {_FORMAT}, which knows no chat template: send a prompt",
                      "messages")
    cannot(request, _FORMAT, ("format", "tools", "effort", "thinking_tokens", "summary", "prefill"))
    body: dict[str, Any] = {"model": request.model,
                            "prompt": request.prompt if isinstance(request.prompt, str) else list(request.prompt)}
    body |= sampling(request)
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    if request.echo:
        body["echo"] = True
        body.pop("stream", None)
        body.pop("stream_options", None)
    return body


def events(reply: Any, request: Request) -> list[Event]:
    reply = mapping(reply)
    if reply.get("error"):
        raise failure.in_stream(reply)
    found: list[Event] = [Started(string(reply.get("model")) or request.model)]
    for choice in reply["choices"]:
        index, text, scores = count(choice.get("index")), string(choice["text"]), _scores(choice.get("logprobs"))
        if request.echo:
            text, scores = _echo(index, text, scores, choice, request, found)
        if text or scores:
            found.append(TextDelta(index, text, scores))
        found.append(_finished(index, choice))
    if sorted(event.index for event in found if isinstance(event, Finished)) != list(range(request.n)):
        raise failure.garbled(f"{request.n} choices expected")
    found.append(Used(used(reply.get("usage"))))
    return found


def _echo(index: int, text: str, scores: tuple[TokenScore, ...], choice: dict[str, Any], request: Request,
          found: list[Event]) -> tuple[str, tuple[TokenScore, ...]]:
    """Parts the prompt from what follows it. Of a prompt of token ids without log-probabilities nobody can tell where it ends: then
    all is one text, which is what the client sees in any case."""
    prompt = request.prompt
    offsets: list[int] = mapping(choice.get("logprobs")).get("text_offset") or []
    if len(offsets) != len(scores):
        raise failure.garbled("as many text_offsets as tokens expected")
    if isinstance(prompt, str):
        if not text.startswith(prompt):
            raise failure.garbled("an echo that does not begin with the prompt")
        end = len(prompt)
        tokens = sum(offset < end for offset in offsets)
    elif scores:
        tokens = len(prompt or ())
        end = offsets[tokens] if tokens < len(offsets) else len(text)
    else:
        return text, scores
    found.append(PromptScores(index, scores[:tokens], text[:end]))
    return text[end:], scores[tokens:]


def _finished(index: int, choice: dict[str, Any]) -> Finished:
    finish = _FINISHES.get(choice["finish_reason"])
    if finish is None:
        raise failure.garbled(f"finish_reason {str(choice['finish_reason'])[:40]!r}")
    stop = choice.get("stop_reason")
    return Finished(index, finish, stop if isinstance(stop, str) and finish == "stop" else None)


def _scores(told: Any) -> tuple[TokenScore, ...]:
    if told is None:
        return ()
    tokens, logprobs = told["tokens"], told["token_logprobs"]
    tops = told.get("top_logprobs") or [None] * len(tokens)
    return tuple(_score(token, value, top) for token, value, top in zip(tokens, logprobs, tops, strict=True))


def _score(token: Any, value: Any, top: Any) -> TokenScore:
    alternatives = []
    for name, one in mapping(top).items():
        alternatives.append((name, logprob(one), _token(name)[2]))
    text, spelt, id = _token(string(token))
    return TokenScore(text, None if value is None else logprob(value), id, tuple(alternatives), spelt)


def _token(name: str) -> tuple[str, bytes | None, int | None]:
    """Text, bytes and id of a token from its name: text, `bytes:\\xe2\\x80` or `token_id:7`."""
    if name.startswith("bytes:\\x"):
        try:
            spelt = bytes.fromhex(name.removeprefix("bytes:").replace("\\x", ""))
        except ValueError:
            return name, None, None
        return spelt.decode(errors="replace"), spelt, None
    digits = name.removeprefix("token_id:")
    if digits != name and digits.isascii() and digits.isdigit():
        return name, None, int(digits)
    return name, None, None


class CompletionsParser:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.started = False
        self.finished: set[int] = set()
        self.usage = Usage()

    def feed(self, data: bytes) -> list[Event]:
        if data == b"[DONE]":
            return self.end()
        chunk = mapping(sse.loads(data))
        if chunk.get("error"):
            raise failure.in_stream(chunk)
        found: list[Event] = []
        if not self.started:
            self.started = True
            found.append(Started(string(chunk.get("model")) or self.request.model))
        if chunk.get("usage"):
            self.usage = used(chunk["usage"])
        for choice in chunk.get("choices") or ():
            index = count(choice.get("index"))
            if index >= self.request.n:
                raise failure.garbled(f"choice {index} of {self.request.n}")
            if index in self.finished:
                continue
            text, scores = string(choice.get("text")), _scores(choice.get("logprobs"))
            if text or scores:
                found.append(TextDelta(index, text, scores))
            if choice.get("finish_reason"):
                self.finished.add(index)
                found.append(_finished(index, choice))
        return found

    def end(self) -> list[Event]:
        if len(self.finished) < self.request.n:
            raise failure.broken_off()
        return [Used(self.usage)]


def parser(request: Request) -> CompletionsParser:
    return CompletionsParser(request)
