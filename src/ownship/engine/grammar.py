"""Grammars that a reply must follow: JSON schemas, regular expressions, Lark grammars, choices, tool calls; on `llguidance`.

What is promised: a reply that ends by itself satisfies its grammar, and a reply that is cut off is the beginning of one
that does. Whatever the library cannot enforce is therefore refused when the grammar is compiled, not ignored. JSON comes
without any white space between its parts (a model can write blanks for ever) and with its properties in the order of the
schema; a string `format` fixes how the text is written, not that 30 February does not exist.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray
from torch import Tensor

from ownship.engine import schema
from ownship.errors import UserError
from ownship.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Kind = Literal["json_schema", "json_object", "regex", "lark", "choice", "calls"]

_MAX_BYTES = 256 << 10  # of a grammar's text
_MAX_RULES = 500  # of a Lark grammar
_COMPILED = 32  # grammars kept
_MAX_CALLS = 16  # of tools in one reply: a model that repeats itself comes to an end
_NAMES: dict[Kind, str] = {"json_schema": "JSON schema", "json_object": "JSON object", "regex": "regular expression",
                           "lark": "Lark grammar", "choice": "choice", "calls": "set of tools"}

# Without \u escapes: with them "\u0061" passes for a property other than "a", and is read as "a".
_JSON_OPTIONS: JsonCompileOptions = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False,
                                     "json_allowed_escapes": 'nrbtf\\"'}

# Lark: texts, comments and regular expressions, in which everything else is harmless; then what is refused, and why.
_LARK_TEXT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\\n])+/')
_LARK_REFUSED = {
    r"<": "special tokens (<...>) cannot be part of a reply's text",
    r"%json\b": "%json is not supported; use a JSON schema",
    r"%llguidance\b": "%llguidance is not supported",
    r"\b(?:stop|max_tokens|temperature)\s*=": "stop, max_tokens and temperature are not supported; suffix and lazy are",
    r"(?<!&)~(?!\d)": "~ (not) also matches what is no text; write what is meant before it: /(?s:.*)/ & ~...",
}


class GrammarFailed(Exception):
    """The matcher gave up in the middle of a reply, for example at a limit of its memory. What has been accepted so far
    is the beginning of a valid text; how it could go on is not known."""


@dataclass(frozen=True)
class Grammar:
    """What a reply must look like. `text` is the schema or the list of choices as JSON, the pattern, the Lark source, or the tools
    (see `calls`).

    A regular expression (Rust's `regex` syntax: no look-around, no back-references) describes the whole reply. Raises
    UserError for a text too long; whether it means something is found out by `Grammars.matcher`.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        try:
            size = len(self.text.encode())
        except UnicodeEncodeError:
            raise UserError(f"the {_NAMES[self.kind]} holds half a surrogate pair, which is not text") from None
        if size > _MAX_BYTES:
            raise UserError(f"the {_NAMES[self.kind]} has {size >> 10} kB; at most {_MAX_BYTES >> 10} kB are allowed")

    @staticmethod
    def json_schema(schema: dict[str, Any] | bool) -> Grammar:
        """Properties keep their order: it is the order in which they are written."""
        return Grammar("json_schema", _json(schema, "json_schema"))

    @staticmethod
    def json_object() -> Grammar:
        return Grammar("json_object", '{"type":"object"}')

    @staticmethod
    def regex(pattern: str) -> Grammar:
        return Grammar("regex", pattern)

    @staticmethod
    def lark(text: str) -> Grammar:
        return Grammar("lark", text)

    @staticmethod
    def choice(choices: list[str]) -> Grammar:
        return Grammar("choice", _json(choices, "choice"))

    @staticmethod
    def calls(tools: list[tuple[str, dict[str, Any]]], parallel: bool = True, reply: dict[str, Any] | None = None) -> Grammar:
        """One call of a tool, or several: `<tool_call>{"name":…,"arguments":…}</tool_call>`, the arguments as the tool's schema
        says. The reply goes on behind the first `<tool_call>`, which the prompt ends with; given a schema `reply` it begins with
        that tag or is an answer by that schema."""
        return Grammar("calls", _json({"tools": tools, "parallel": parallel, "reply": reply}, "calls"))


class Grammars:
    """Compiles grammars for one tokenizer. `vocab_size` is the width of the logits; `stop_ids` are the only way to end.

    The first call of `matcher` takes half a second. Logits may be wider than the tokenizer, and even narrower: tokens
    that only one of the two has are never allowed, and text is cut into the others.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int], vocab_size: int) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.stop_ids = sorted(stop_ids)
        self._compiled = lru_cache(_COMPILED)(self._compile)

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the beginning of a reply. Raises UserError, with the reason, if the grammar cannot be used."""
        return Matcher(self, self._compiled(grammar).deep_copy())

    @cached_property
    def _library(self) -> LLTokenizer:
        try:
            return LLTokenizer(_first_tokens(self.tokenizer, self.vocab_size), n_vocab=self.vocab_size, eos_token=self.stop_ids)
        except ValueError as error:
            raise UserError(f"this tokenizer cannot be used with grammars: {_reason(str(error))}") from None

    def _compile(self, grammar: Grammar) -> LLMatcher:
        name = _NAMES[grammar.kind]
        try:
            # precise errors would quote the whole grammar
            matcher = LLMatcher(self._library, _source(grammar), log_level=0, limits=LLParserLimits(verbose_errors=False))
        except (ValueError, RecursionError) as error:
            raise UserError(f"the {name} cannot be used: {_reason(str(error))}") from None
        if not matcher.is_error():
            matcher.compute_bitmask()  # only now is it found out if nothing at all satisfies the grammar
        problem = matcher.get_error() or "".join(matcher.get_grammar_warnings())
        if problem:
            raise UserError(f"the {name} cannot be used: {_reason(problem, place=grammar.kind == 'lark')}")
        return matcher


class Matcher:
    """Follows one reply through its grammar, token by token. Every method raises GrammarFailed if the library gives up."""

    def __init__(self, grammars: Grammars, library: LLMatcher) -> None:
        self.ended = False  # a stop token has been accepted
        self._grammars, self._library = grammars, library
        self._bits = np.zeros(-(-grammars.vocab_size // 32) * 4, np.uint8)

    def mask(self) -> NDArray[np.uint8]:
        """The tokens that may come next: bit i % 8 of byte i // 8 is set if token i may. The next call overwrites it."""
        if self.ended:
            raise ValueError("the reply has ended")
        self._library.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        return self._bits

    def apply(self, row: Tensor) -> None:
        """Sets what is not allowed to −∞, in place. Logits [V] float32."""
        bytes_ = torch.from_numpy(self.mask()[: -(-len(row) // 8)]).int()
        row.add_(_PENALTIES.index_select(0, bytes_).view(-1)[: len(row)])

    def forced(self) -> list[int]:
        """The tokens that come next whatever the model says; empty if it has a choice.

        Cut into tokens as the tokenizer would cut the text, as far as what follows cannot change the cut. If nothing but
        the end is possible, that is a stop token, alone: so accept what is forced and ask again until nothing is.
        """
        if self.ended:
            return []
        tokens = self._library.compute_ff_tokens()
        self._check()
        if tokens:
            return tokens
        stops = self._grammars.stop_ids
        only_end = self._library.is_accepting() and np.bitwise_count(self.mask()).sum() == len(stops)
        return stops[:1] if only_end else []

    def validate(self, tokens: Sequence[int]) -> int:
        """How many of the tokens, from the first on, are allowed one after the other. Nothing is accepted."""
        if self.ended:
            return 0
        stops = self._grammars.stop_ids
        text = [*itertools.takewhile(lambda token: token not in stops, tokens)]
        count = self._library.validate_tokens(text) if text else 0
        if count == len(text) < len(tokens):  # a stop token is next
            self._library.try_consume_tokens(text)
            count += self._library.is_accepting()
            self._library.rollback(len(text))
        self._check()
        return count

    def accept(self, token: int) -> None:
        """Takes the next token. Raises ValueError, and stays as it was, if the grammar does not allow it."""
        if self.validate([token]) != 1:
            raise ValueError(f"token {token} is not allowed here")
        if token in self._grammars.stop_ids:  # not told to the library, which would not count it
            self.ended = True
            return
        self._library.consume_token(token)
        self._check()

    def rollback(self, count: int) -> None:
        """Takes back the last `count` accepted tokens, a stop token among them."""
        if count and self.ended:
            self.ended = False
            count -= 1
        if count:
            self._library.rollback(count)
            self._check()

    def copy(self) -> Matcher:
        """A second matcher at the same place, which goes its own way."""
        other = Matcher(self._grammars, self._library.deep_copy())
        other.ended = self.ended
        return other

    def _check(self) -> None:
        if self._library.is_error():
            raise GrammarFailed(f"the grammar cannot be followed any further: {_reason(self._library.get_error())}")


# Byte of a mask → what is added to eight logits [256, 8].
_PENALTIES = torch.where(torch.from_numpy(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")) == 1,
                         0.0, float("-inf"))


def _first_tokens(tokenizer: Tokenizer, size: int) -> str:
    """tokenizer.json, with the tokens below `size` only."""
    if tokenizer.size <= size:
        return tokenizer.backend.to_str()
    spec = json.loads(tokenizer.backend.to_str())
    vocabulary = {token: id for token, id in spec["model"]["vocab"].items() if id < size}
    merges = [pair for pair in spec["model"]["merges"] if {*pair, "".join(pair)} <= vocabulary.keys()]
    spec["model"] |= {"vocab": vocabulary, "merges": merges}
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] < size]
    return json.dumps(spec)


def _json(value: object, kind: Kind) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"the {_NAMES[kind]} is not JSON: {_reason(str(error))}") from None


def _reason(error: str, place: bool = False) -> str:
    """The library's message in one line; with the line and column of the grammar if `place`."""
    lines = [line.strip() for line in error.removesuffix("<non-verbose/>").splitlines() if line.strip()]
    if not lines or lines[0].startswith("NoExtension"):
        return "nothing satisfies it"
    where, first = re.fullmatch(r"(?s)(?:at )?(\d+\(\d+\): )?(.*)", lines[0]).groups("")  # type: ignore[union-attr]
    detail = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), first)
    return ((where if place else "") + detail)[:300]


def _source(grammar: Grammar) -> str:
    """The grammar in the library's own form. Raises UserError or ValueError."""
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.text)
    if grammar.kind == "lark":
        _check_lark(grammar.text)
        return LLMatcher.grammar_from_lark(grammar.text)
    value = json.loads(grammar.text)
    if grammar.kind == "choice":
        if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
            raise UserError("the choice must be a list of one or more texts")
        texts = [json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f") for text in value]
        return LLMatcher.grammar_from_lark("start: CHOICE\nCHOICE: " + " | ".join(texts))
    if grammar.kind == "calls":
        return LLMatcher.grammar_from_lark(_calls(**value))
    schema.check(value)
    return LLMatcher.grammar_from_json_schema("{}" if value is True else grammar.text, None, _JSON_OPTIONS)


def _calls(tools: list[tuple[str, Any]], parallel: bool, reply: Any) -> str:
    """Lark, with the schemas inside: each is a document of its own, so its references mean what they meant alone."""

    def inner(rule: str, value: Any) -> str:
        schema.check(value)
        return f"{rule}: %json {_json({} if value is True else value | {'x-guidance': _JSON_OPTIONS}, 'calls')}"

    # a line break inside the tags is what most models have learnt
    lines = [r'first: /\n?/ call /\n?/ "</tool_call>"', r'more: /\n?/ "<tool_call>" first']
    heads = [_json(f'{{"name":{_json(name, "calls")},"arguments":', "calls") for name, _ in tools]
    lines.append("call: " + " | ".join(f'{head} arguments_{index} "}}"' for index, head in enumerate(heads)))
    lines += [inner(f"arguments_{index}", parameters) for index, (_, parameters) in enumerate(tools)]
    calls = f"first more{{0,{_MAX_CALLS - 1}}}" if parallel else "first"
    if reply is None:
        return "\n".join([f"start: {calls}", *lines])
    return "\n".join([f'start: reply | "<tool_call>" {calls}', *lines, inner("reply", reply)])


def _check_lark(text: str) -> None:
    """Refuses what would let a reply hold special tokens or broken text, or the library ask for what we do not do."""
    bare = re.sub(r"\s+", " ", _LARK_TEXT.sub(" ", text)).replace("& ~", "&~").replace("~ ", "~")
    for pattern, reason in _LARK_REFUSED.items():
        if re.search(pattern, bare):
            raise UserError(f"the Lark grammar cannot be used: {reason}")
    if len(re.findall(r":", bare)) > _MAX_RULES:  # at some thousands that use each other, the library's stack overflows
        raise UserError(f"the Lark grammar cannot be used: it has more than {_MAX_RULES} rules")
