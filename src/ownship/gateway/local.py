"""The local engine as an upstream of the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ownship.engine.request import Sampling
from ownship.errors import UserError
from ownship.gateway.choice import Choice, Phase, Plan
from ownship.gateway.config import REPLY
from ownship.gateway.engine_process import EngineProcess, Info, Spec, within
from ownship.gateway.render import Renderer, offered, size, thinking
from ownship.gateway.toolcalls import parameters, spec
from ownship.gateway.types import Event, NamedTool, PromptScores, Request, Started, TokenScore, Usage, Used, invalid
from ownship.model import toolcalls
from ownship.model.tokenizer import Tokenizer

_SHORT = 20_000  # characters that are made into tokens at once, in a few milliseconds; more in a thread
# How much of a reply's bound its reasoning may take, by effort; with nothing said, as much as leaves room for an answer.
_SHARES = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.9, "max": 0.95, None: 0.8}


class Local:
    """Answers under `name`, whatever model a request names: routing is not its business."""

    def __init__(self, engine: EngineProcess, name: str) -> None:
        self.engine, self.name = engine, name
        self._served: _Served | None = None

    async def stream(self, request: Request, deadline: float | None = None) -> AsyncIterator[Event]:
        """See `Upstream`. The first event comes with the first token, so whatever fails before has nothing sent yet."""
        with self.engine.open(request.n) as jobs:
            plan = await within(deadline, self._plan(request))
            choices = [Choice(index, plan) for index in range(request.n)]
            running = {jobs.submit(choice.job): choice for choice in choices if choice.job is not None}
            started = False
            while running:
                piece = await jobs.next(deadline)
                if not started:
                    yield Started(self.name, len(plan.prompt))
                    if plan.echo is not None and plan.sampling.top_logprobs is None:
                        for choice in choices:
                            yield PromptScores(choice.index, (), plan.echo)
                    started = True
                choice = running[piece.number]
                if piece.finish is not None:
                    del running[piece.number]
                for event in choice.feed(piece):
                    yield event
                if piece.finish is not None and choice.job is not None:
                    running[jobs.submit(choice.job)] = choice
        yield Used(Usage(len(plan.prompt), sum(choice.completion for choice in choices), min(choice.found for choice in choices),
                         sum(choice.reasoning for choice in choices)))

    async def count(self, request: Request) -> int:
        """Exact. Raises GatewayError as `stream` does."""
        return len(await self._prompt(self._model(), request))

    async def close(self) -> None:
        await self.engine.close()

    # What evaluation harnesses ask for

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of raw text, special tokens written out in it included. Raises GatewayError 503 while there is no model."""
        return self._model().info.tokenizer.encode_raw(text, add_special_tokens)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Raises GatewayError: 400 for an id outside the vocabulary, 503 while there is no model."""
        info = self._model().info
        if any(not 0 <= id < info.vocabulary for id in ids):
            raise invalid(f"a token id lies outside the vocabulary of {info.vocabulary}", "tokens")
        return info.tokenizer.decode([*ids], skip_special=False)

    def tokenizer_info(self) -> dict[str, Any]:
        """The names of the special tokens and the chat template, as `transformers` calls them."""
        tokenizer = self._model().info.tokenizer
        opening = tokenizer.opening
        return {"eos_token": tokenizer.eos, "bos_token": tokenizer.decode(opening, skip_special=False) if opening else None,
                "pad_token": tokenizer.eos, "chat_template": tokenizer.chat_template,
                "add_bos_token": bool(opening), "max_model_len": self._model().info.context}

    # From a request to what the engine shall do

    def _model(self) -> _Served:
        info = self.engine.available()
        if self._served is None or self._served.info is not info:
            self._served = _Served(info)
        return self._served

    async def _prompt(self, model: _Served, request: Request) -> list[int]:
        if size(request) < _SHORT:
            return model.renderer.prompt(request)
        return await asyncio.to_thread(model.renderer.prompt, request)

    async def _plan(self, request: Request) -> Plan:
        """Raises GatewayError 400 for whatever cannot be carried out."""
        model, bare = self._model(), request.prompt is not None
        info, field = model.info, "prompt" if bare else "messages"
        if bare and (request.tools or request.effort not in (None, "none") or request.thinking_tokens):
            raise invalid("a bare prompt takes neither tools nor reasoning; use chat completions", "prompt")
        if request.prefill and (request.format is not None or thinking(request, False)):
            raise invalid("a reply that goes on from the assistant's last message takes neither a format nor reasoning", "messages")
        format, calls = await self._grammars(request)
        first: Phase = "text"
        if calls is not None and request.tool_choice != "auto":
            first = "calls"
        elif calls is not None and request.format is not None:
            first = "either"
        prompt = await self._prompt(model, request)
        reasons = thinking(request, model.renderer.thinks)
        if first == "calls" and not reasons:
            prompt = prompt + info.tokenizer.encode(toolcalls.OPEN)
        if not prompt:
            raise invalid("the prompt is empty", field)
        if not 0 <= min(prompt) <= max(prompt) < info.vocabulary:
            raise invalid(f"the prompt holds a token id outside the vocabulary of {info.vocabulary}", field)
        if any(not 0 <= id < info.vocabulary for id in request.logit_bias):
            raise invalid(f"logit_bias names a token id outside the vocabulary of {info.vocabulary}", "logit_bias")
        most = info.capacity - len(prompt)
        tokens = request.max_tokens if request.max_tokens is not None else max(1, min(most, REPLY))
        if tokens < (0 if request.echo else 1):
            raise invalid("max_tokens must be at least 1; 0 needs echo", "max_tokens")
        if max(tokens, 1) > most:
            raise invalid(f"the {field} field has {len(prompt)} tokens and the reply may have {tokens}: together more than the"
                          f" {info.capacity} that there is room for", field, "context_length_exceeded")
        echo = None
        if request.echo:
            echo = request.prompt if isinstance(request.prompt, str) else info.tokenizer.decode(prompt, skip_special=False)
        share = int(_SHARES[request.effort if request.effort != "none" else None] * tokens)
        bound = share if request.thinking_tokens is None else request.thinking_tokens
        return Plan(info.tokenizer, info.stop_ids, info.capacity, prompt, _sampling(request), tokens,
                    max(1, min(bound, tokens - 1)), model.score, request.stop, reasons, first, format, calls, bare, echo)

    async def _grammars(self, request: Request) -> tuple[Spec | None, Spec | None]:
        """The grammar of the answer and that of the calls, found to be usable."""
        format: Spec | None = None
        if request.format is not None:
            schema = request.format.schema
            format = ("json_object", '{"type":"object"}') if schema is None else ("json_schema", _json(schema, "response_format"))
            if (reason := await self.engine.compile(format)) is not None:
                raise invalid(reason, "response_format", "unsupported_schema")
        tools = offered(request)
        if not tools:
            return format, None
        forced, schemas = request.tool_choice != "auto", dict[str, dict[str, Any]]()
        for tool in tools:
            schemas[tool.name] = parameters(tool)
            reason = await self.engine.compile(("json_schema", _json(schemas[tool.name], "tools")))
            if reason is not None and (tool.strict or forced):
                raise invalid(f"tool {tool.name!r}: {reason}", "tools", "unsupported_schema")
            if reason is not None:  # nothing was promised about its arguments but that they are an object
                schemas[tool.name] = {"type": "object"}
        parallel = request.parallel_tools and not isinstance(request.tool_choice, NamedTool)
        calls = spec(schemas, parallel, None if forced else request.format)
        if (reason := await self.engine.compile(calls)) is not None:
            raise invalid(reason, "tools", "unsupported_schema")
        return format, calls


class _Served:
    """What is made once for a model: its renderer, and the texts of its tokens as they are asked for."""

    def __init__(self, info: Info) -> None:
        self.info, self.renderer = info, Renderer(info.tokenizer)
        self._texts: dict[int, tuple[str, bytes | None]] = {}

    def score(self, id: int, logprob: float | None, top: Sequence[tuple[int, float]]) -> TokenScore:
        text, raw = self._token(id)
        return TokenScore(text, logprob, id, tuple((self._token(other)[0], value, other) for other, value in top), raw)

    def _token(self, id: int) -> tuple[str, bytes | None]:
        if (known := self._texts.get(id)) is None:
            known = self._texts[id] = token_text(self.info.tokenizer, id)
        return known


def token_text(tokenizer: Tokenizer, id: int) -> tuple[str, bytes | None]:
    """A token's text, and its bytes where they are no text by themselves. Special tokens are spelt out."""
    text = tokenizer.decode([id], skip_special=False)
    if "\ufffd" not in text:
        return text, None
    letters = tokenizer.backend.id_to_token(id) or ""
    return text, bytes(_BYTES[letter] for letter in letters) if all(letter in _BYTES for letter in letters) else None


def _alphabet() -> dict[str, int]:
    """Byte-level BPE's letters → bytes: printable ones stand for themselves, the others are moved up from 256 on (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _alphabet()


def _json(schema: Any, param: str) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        raise invalid("the schema is not JSON", param) from None


def _sampling(request: Request) -> Sampling:
    """Raises GatewayError 400 for a value out of its range. Bound and stop strings are each run's own."""
    given: dict[str, Any] = {
        "temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k, "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty, "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty, "seed": request.seed, "top_logprobs": request.logprobs}
    if "" in request.stop:
        raise invalid("a stop string must not be empty", "stop")
    try:
        return Sampling(**{name: value for name, value in given.items() if value is not None}, stop=request.stop,
                        logit_bias=tuple(request.logit_bias.items()))
    except UserError as error:
        name = str(error).split()[0]  # these messages begin with it
        raise invalid(str(error), name if name in given or name == "logit_bias" else None) from None
