"""Grammars that a reply must follow: JSON schemas, regular expressions, Lark grammars, choices; on `llguidance`.

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

from ownship.errors import UserError
from ownship.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Kind = Literal["json_schema", "json_object", "regex", "lark", "choice"]

_MAX_BYTES = 256 << 10  # of a grammar's text
_MAX_DEPTH = 64  # of schemas within schemas
_MAX_RULES = 500  # of a Lark grammar
_MAX_REFS = 500  # different ones in a schema
_COMPILED = 32  # grammars kept
_EXACT = 1 << 53  # the library reads every number as a 64-bit float
_NAMES: dict[Kind, str] = {"json_schema": "JSON schema", "json_object": "JSON object", "regex": "regular expression",
                           "lark": "Lark grammar", "choice": "choice"}

# Without \u escapes: with them "\u0061" passes for a property other than "a", and is read as "a".
_JSON_OPTIONS: JsonCompileOptions = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False,
                                     "json_allowed_escapes": 'nrbtf\\"'}
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")  # characters that only a \u escape could write

# What a schema may say, and of what type; the library ignores keywords it has never heard of, and misspelt ones.
_NUMBER, _SCHEMA = (int, float), (dict, bool)
_KEYWORDS: dict[str, type | tuple[type, ...]] = {
    "type": (str, list), "enum": list, "const": object, "$ref": str, "anyOf": list, "oneOf": list, "allOf": list,
    "properties": dict, "patternProperties": dict, "additionalProperties": _SCHEMA, "required": list,
    "minProperties": int, "maxProperties": int,
    "items": (dict, bool, list), "prefixItems": list, "additionalItems": _SCHEMA, "minItems": int, "maxItems": int,
    "minLength": int, "maxLength": int, "pattern": str, "format": str,
    "minimum": _NUMBER, "maximum": _NUMBER, "exclusiveMinimum": _NUMBER, "exclusiveMaximum": _NUMBER, "multipleOf": _NUMBER,
    "$defs": dict, "definitions": dict, "$schema": str, "$id": str, "id": str, "$anchor": str,
    # these say nothing about the value
    "title": str, "description": str, "$comment": str, "default": object, "examples": list, "example": object,
    "deprecated": bool, "readOnly": bool, "writeOnly": bool, "contentEncoding": str, "contentMediaType": str,
    "discriminator": object,
}

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
    """What a reply must look like. `text` is the schema or the list of choices as JSON, the pattern, or the Lark source.

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
    _check_schema(value)
    return LLMatcher.grammar_from_json_schema("{}" if value is True else grammar.text, None, _JSON_OPTIONS)


def _check_lark(text: str) -> None:
    """Refuses what would let a reply hold special tokens or broken text, or the library ask for what we do not do."""
    bare = re.sub(r"\s+", " ", _LARK_TEXT.sub(" ", text)).replace("& ~", "&~").replace("~ ", "~")
    for pattern, reason in _LARK_REFUSED.items():
        if re.search(pattern, bare):
            raise UserError(f"the Lark grammar cannot be used: {reason}")
    if len(re.findall(r":", bare)) > _MAX_RULES:  # at some thousands that use each other, the library's stack overflows
        raise UserError(f"the Lark grammar cannot be used: it has more than {_MAX_RULES} rules")


def _check_schema(root: Any) -> None:
    """Refuses what the library would ignore or get wrong."""
    refs: set[str] = set()
    seen: set[int] = set()
    todo: list[tuple[Any, str, int]] = [(root, "", 0)]
    while todo:
        schema, path, depth = todo.pop()
        if schema is True or (schema is False and path) or id(schema) in seen:
            continue
        if not isinstance(schema, dict):
            raise _refusal(path, "false allows nothing" if schema is False else "a schema is an object or a truth value")
        if depth > _MAX_DEPTH:
            raise _refusal("", f"schemas are nested more than {_MAX_DEPTH} deep")
        seen.add(id(schema))
        for key, value in schema.items():
            if key not in _KEYWORDS and (not key.startswith("x-") or key == "x-guidance"):
                raise _refusal(path, f"the keyword {key[:80]!r} is not supported")
            kind = _KEYWORDS.get(key, object)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, _NUMBER)):
                raise _refusal(path, f"{key!r} has a value of the wrong type")
            if isinstance(value, int | float) and kind in (int, _NUMBER) and abs(value) > _EXACT:
                raise _refusal(path, f"{key!r} is beyond ±2^53, where numbers are no longer exact")
        _check_constants([schema.get("const"), *schema.get("enum", [])], path)
        if schema.get("minProperties", 0) > len(schema.get("required", [])) + 1:
            raise _refusal(path, "minProperties may exceed the number of required properties by one at most,"
                                 " since a further property may be written twice")
        for key in ("properties", "patternProperties", "$defs", "definitions"):
            todo += [(value, f"{path}/{key}/{name}", depth + 1) for name, value in schema.get(key, {}).items()]
        for key in ("anyOf", "oneOf", "allOf", "prefixItems", "items"):
            values = schema.get(key, [])
            todo += [(value, f"{path}/{key}", depth + 1) for value in (values if isinstance(values, list) else [values])]
        todo += [(schema[key], f"{path}/{key}", depth + 1) for key in ("additionalProperties", "additionalItems") if key in schema]
        if (ref := schema.get("$ref")) is not None:
            refs.add(ref)
            todo.append((_resolve(root, ref), ref, 0))
    if len(refs) > _MAX_REFS:
        raise _refusal("", f"it has more than {_MAX_REFS} different $ref")
    if not _ends(root, _ending_refs(root, refs)):
        raise _refusal("", "every value of it would contain another without end")


def _refusal(path: str, reason: str) -> UserError:
    return UserError(f"the JSON schema cannot be used: {reason}" + (f" (at {path[:200]!r})" if path else ""))


def _check_constants(values: list[Any], path: str) -> None:
    """Refuses what `const` and `enum` could not write."""
    while values:
        value = values.pop()
        if isinstance(value, str) and _UNWRITABLE.search(value):
            raise _refusal(path, "a constant holds a control character")
        if isinstance(value, int | float) and abs(value) > _EXACT:
            raise _refusal(path, "a constant is beyond ±2^53, where numbers are no longer exact")
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value


def _resolve(root: Any, ref: str) -> Any:
    """What a JSON pointer (#/a/b) points to; True if that is nothing, which the library reports, or no pointer."""
    start, *parts = ref.split("/")
    for part in parts:
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(root, dict) or part not in root:
            return True
        root = root[part]
    return root if start == "#" else True


def _ending_refs(root: Any, refs: set[str]) -> set[str]:
    """Those of the references that a finite value can satisfy."""
    ending: set[str] = set()
    while more := {ref for ref in refs - ending if _ends(_resolve(root, ref), ending)}:
        ending |= more
    return ending


def _ends(schema: Any, ending: set[str]) -> bool:
    """Whether a finite value can satisfy the schema, given the references of which that is known."""
    if not isinstance(schema, dict) or "const" in schema or "enum" in schema:
        return True
    if "$ref" in schema and schema["$ref"] not in ending:
        return False
    if not all(_ends(part, ending) for part in schema.get("allOf", [])):
        return False
    for key in ("anyOf", "oneOf"):
        if schema.get(key) and not any(_ends(part, ending) for part in schema[key]):
            return False
    kind = schema.get("type", "any")
    kinds = {kind} if isinstance(kind, str) else {*map(str, kind)}
    if not kinds <= {"object", "array"}:
        return True
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    if "object" in kinds and all(_ends(properties.get(str(name), rest), ending) for name in schema.get("required", [])):
        return True
    items = schema.get("items", True)
    first = schema.get("prefixItems", items if isinstance(items, list) else [])
    needed = schema.get("minItems", 0)
    return "array" in kinds and all(_ends(item, ending) for item in first[:needed]) and (
        needed <= len(first) or isinstance(items, list) or _ends(items, ending))
