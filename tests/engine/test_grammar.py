"""Replies drawn from random logits under random grammars, against `jsonschema`, `re` and plain membership."""

from __future__ import annotations

import ipaddress
import json
import random
import re
import unicodedata
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from torch import Tensor

from ownship.engine.grammar import Grammar, GrammarFailed, Grammars, Matcher
from ownship.errors import UserError
from ownship.model.tokenizer import Tokenizer

STOP = 2
LETTERS = 'ab"\\\n é😀/'  # of keys, constants and texts
FORMATS = FormatChecker(formats=())
FORMATS.checks("ipv4", ValueError)(lambda value: not isinstance(value, str) or ipaddress.IPv4Address(value) is not None)
FORMATS.checks("uuid", ValueError)(lambda value: not isinstance(value, str) or uuid.UUID(value) is not None)
FORMATS.checks("date")(lambda value: not isinstance(value, str) or re.fullmatch(r"\d{4}-[01]\d-[0-3]\d", value) is not None)


@pytest.fixture(scope="session")
def grammars(pieces: Tokenizer) -> Grammars:
    return Grammars(pieces, frozenset({STOP, 0}), pieces.size)


@pytest.fixture(scope="session")
def rows(pieces: Tokenizer) -> Tensor:
    """Random logits, a few rows for all tests."""
    return torch.randn(64, pieces.size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def closing(pieces: Tokenizer) -> Tensor:
    """The tokens that bring a text nearer to its end."""
    return torch.tensor([STOP, *(id for text in ('"', "}", "]", '"}', '"]', "]}", "}}", '":') for id in pieces.encode(text))])


def allowed(matcher: Matcher) -> list[int]:
    return np.flatnonzero(np.unpackbits(matcher.mask(), bitorder="little")).tolist()


def accepts(grammars: Grammars, grammar: Grammar, text: str) -> bool:
    ids = [*grammars.tokenizer.encode(text), STOP]
    return grammars.matcher(grammar).validate(ids) == len(ids)


class Decoder:
    """Draws replies as the engine would, from logits that mean nothing."""

    def __init__(self, grammars: Grammars, rows: Tensor, closing: Tensor) -> None:
        self.grammars, self.rows, self.closing = grammars, rows, closing

    def run(self, grammar: Grammar, seed: int, temperature: float = 1.0, limit: int = 60, force: bool = True) -> str | None:
        """The text of a reply; None if even a strong wish to end did not end it."""
        draw, matcher = random.Random(seed), self.grammars.matcher(grammar)
        tokens: list[int] = []
        while not matcher.ended and len(tokens) < 4 * limit:
            run = matcher.forced() if force else []
            for token in run:
                self.check_forced(matcher, token)
                matcher.accept(token)
            tokens += run
            if run:
                continue
            row = self.rows[draw.randrange(64)].clone()
            if temperature:
                row.div_(temperature).sub_(self.rows[draw.randrange(64)].sigmoid().log().neg().log())  # about Gumbel noise
            if len(tokens) > limit:
                row[self.closing] += 1000
            elif draw.random() < 0.3:
                row[self.closing] += 5
            matcher.apply(row)
            token = int(row.argmax())
            assert row[token] > -torch.inf  # no dead end
            assert token in matcher._grammars.stop_ids or token not in self.grammars.tokenizer.special_ids
            matcher.accept(token)
            tokens.append(token)
        return self.grammars.tokenizer.decode(tokens) if matcher.ended else None

    @staticmethod
    def check_forced(matcher: Matcher, token: int) -> None:
        """The mask allows a forced token, and nothing that would begin another text."""
        ids = allowed(matcher)
        assert token in ids
        decode = matcher._grammars._library.decode_bytes
        if token in matcher._grammars.stop_ids:
            assert ids == matcher._grammars.stop_ids
        else:
            wanted = decode([token])
            rivals = [decode([id]) for id in ids]
            assert all(wanted.startswith(rival) or rival.startswith(wanted) for rival in rivals)


@pytest.fixture(scope="session")
def decoder(grammars: Grammars, rows: Tensor, closing: Tensor) -> Decoder:
    return Decoder(grammars, rows, closing)


def check_json(schema: Any, text: str) -> None:
    """Valid, and without white space. Decimals: a float would round 2.99…9 up to an excluded 3."""
    Draft202012Validator(schema, format_checker=FORMATS).validate(json.loads(text, parse_float=Decimal))
    assert not re.search(r"\s", re.sub(r'"(?:\\.|[^"\\])*"', "", text))


# --- random schemas -----------------------------------------------------------------------------------------------------

TEXTS = st.text(LETTERS, max_size=4)
CONSTANTS = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.integers(-99, 99).map(lambda n: n / 4) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=3)


def maybe(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=options)


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["length", "pattern", "format"]))
    if kind == "pattern":
        return {"type": "string", "pattern": draw(st.sampled_from(
            ["^a+b$", "b", "^[^a]{2,5}$", "^(é|😀)?x\\d{1,3}", "a.b$", '^["\\\\/]*$', "^\\n|\\t$"]))}
    if kind == "format":
        return {"type": "string", "format": draw(st.sampled_from(["ipv4", "uuid", "date"]))}
    low = draw(st.integers(0, 5))
    return {"type": "string", "minLength": low} | draw(maybe(maxLength=st.integers(low, 12)))


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(-300, 300))
    bounds = draw(st.sampled_from([{}, {"minimum": low}, {"exclusiveMinimum": low}])) | draw(
        st.sampled_from([{}, {"maximum": low + 40}, {"exclusiveMaximum": low + 40}]))
    if draw(st.booleans()):
        return {"type": "number", **bounds}
    return {"type": "integer", **bounds, **draw(maybe(multipleOf=st.integers(1, 15)))}


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(TEXTS, inner, max_size=3))
    required = draw(st.sets(st.sampled_from([*properties]))) if properties else set()
    extra: str = draw(st.sampled_from(["none", "any", "typed", "pattern"]))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = sorted(required)
    if extra != "any":
        schema["additionalProperties"] = draw(numbers()) if extra == "typed" else False
    if extra == "pattern":
        schema["patternProperties"] = {"^a": draw(strings())}
    if not properties:
        schema |= draw(maybe(minProperties=st.integers(0, 1), maxProperties=st.integers(1, 3)))
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    low = draw(st.integers(0, 2))
    schema = {"type": "array", "minItems": low, "items": draw(inner)}
    return schema | draw(maybe(maxItems=st.integers(low, 4), prefixItems=st.lists(inner, min_size=1, max_size=2)))


LEAVES = st.one_of(strings(), numbers(), st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": ["string", "null"]},
                                                           {"$ref": "#/$defs/one"}, {"$ref": "#/$defs/tree"}]),
                   CONSTANTS.map(lambda value: {"const": value}),
                   st.lists(CONSTANTS, min_size=1, max_size=4).map(lambda values: {"enum": values}))
SCHEMAS = st.recursive(LEAVES, lambda inner: st.one_of(
    objects(inner), objects(inner), arrays(inner), st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    inner.map(lambda schema: {"allOf": [schema, {"title": "same"}]}),
    inner.map(lambda schema: {"oneOf": [{"type": "object", "properties": {"k": {"const": "x"}, "v": schema}, "required": ["k"]},
                                        {"type": "object", "properties": {"k": {"const": "y"}}, "required": ["k"]},
                                        {"type": "null"}]}),
), max_leaves=5)
TREE = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
        "required": ["next"], "additionalProperties": False}


def test_random_schemas(decoder: Decoder) -> None:
    count = {"refused": 0, "open": 0, "valid": 0}

    @settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(SCHEMAS, LEAVES, st.integers(0, 1 << 30), st.sampled_from([0, 0.5, 1, 3]))
    def check(schema: dict[str, Any], one: dict[str, Any], seed: int, temperature: float) -> None:
        schema = schema | {"$defs": {"one": one if "$ref" not in one else True, "tree": TREE}}
        try:
            text = decoder.run(Grammar.json_schema(schema), seed, temperature)
        except UserError:  # an intersection that is empty, or a pattern that is
            count["refused"] += 1
            return
        if text is None:
            count["open"] += 1
            return
        count["valid"] += 1
        check_json(schema, text)
        if seed % 4 == 0 and (other := decoder.run(Grammar.json_schema(schema), seed, 0, force=False)) is not None:
            check_json(schema, other)

    check()
    assert count["valid"] > 0.9 * sum(count.values()), count


@pytest.mark.parametrize("seed", range(10))
def test_any_object(decoder: Decoder, seed: int) -> None:
    text = decoder.run(Grammar.json_object(), seed)
    assert text is not None
    check_json({"type": "object"}, text)


@pytest.mark.parametrize(("text", "valid"), [
    ('{"a":1}', True), ('{"a":1,"b":"x"}', True), ('{"a":1,"b":"\\n\\"é"}', True), ('{}', False), ('{"a":"x"}', False),
    ('{"a":1,"b":2}', False), ('{"a":1,"a":2}', False), ('{"a":1,"\\u0061":"x"}', False), ('{"a": 1}', False), ('{"a":1} ', False),
    ('{"a":1,}', False), ('{"a":01}', False), ('{"a":1,"b":"\n"}', False), (' {"a":1}', False), ('{"a":1,"b":"\\ud800"}', False),
])
def test_texts(grammars: Grammars, text: str, valid: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
              "additionalProperties": {"type": "string"}}
    assert accepts(grammars, Grammar.json_schema(schema), text) == valid


def test_cut_replies_can_be_completed(grammars: Grammars, rows: Tensor, pieces: Tokenizer) -> None:
    """At every length, closing what is open is possible: the text so far is the beginning of a valid one."""
    grammar = Grammar.json_schema({"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}})
    matcher, tokens, preference = grammars.matcher(grammar), list[int](), rows.tolist()
    for step in range(40):
        options = [id for id in allowed(matcher) if id not in grammars.stop_ids and "]" not in pieces.decode([id])]
        token = max(options, key=preference[step].__getitem__)  # the list stays open
        matcher.accept(token)
        tokens.append(token)
        probe, rest = matcher.copy(), list[int]()
        while not probe.ended:
            assert len(rest) < 20
            order = [STOP, *(id for text in '":}]' for id in pieces.encode(text))]
            options = allowed(probe)
            rest.append(next((token for token in order if token in options), options[-1]))
            probe.accept(rest[-1])
        check_json(json.loads(grammar.text), pieces.decode(tokens + rest))
    assert '"' in pieces.decode(tokens)


# --- other grammars -----------------------------------------------------------------------------------------------------

ATOMS = st.sampled_from(["a", "b", "é", "😀", ".", "[ab]", "[^a]", r"\d", r"\.", "(?:ab|é)", '"', r"\n"])
REGEXES = st.recursive(ATOMS, lambda inner: st.one_of(
    st.lists(inner, min_size=1, max_size=3).map("".join),
    st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
    st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}")), max_leaves=5)


@settings(max_examples=150, deadline=None)
@given(REGEXES, st.text('abé😀1".\n', max_size=4), st.integers(0, 1000))
def test_regex(decoder: Decoder, pattern: str, text: str, seed: int) -> None:
    grammar = Grammar.regex(pattern)
    assert accepts(decoder.grammars, grammar, text) == (re.fullmatch(pattern, text) is not None)
    reply = decoder.run(grammar, seed)
    # The grammar's Unicode may be newer than Python's: what is a digit there is a letter Python does not know yet.
    assert reply is None or re.fullmatch(pattern, reply) or any(unicodedata.category(letter) == "Cn" for letter in reply)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(LETTERS + "\x00\x7f'|\u2028", max_size=5), min_size=1, max_size=6), st.text(LETTERS, max_size=3), st.data())
def test_choice(decoder: Decoder, choices: list[str], other: str, data: st.DataObject) -> None:
    grammar = Grammar.choice(choices)
    assert decoder.run(grammar, data.draw(st.integers(0, 1000))) in choices
    assert accepts(decoder.grammars, grammar, data.draw(st.sampled_from(choices)))
    assert accepts(decoder.grammars, grammar, other) == (other in choices)


def test_lark(decoder: Decoder) -> None:
    grammar = Grammar.lark('start: sum  // "<" in a comment\nsum: NUMBER | "(" sum ("+" | "-") sum ")"\nNUMBER: /[1-9][0-9]{0,3}/')
    replies = {decoder.run(grammar, seed, limit=30) for seed in range(40)} - {None}
    assert len(replies) > 10
    for reply in replies:
        assert re.fullmatch(r"[-+()0-9]+", str(reply))
        assert isinstance(eval(str(reply)), int)


# --- the matcher --------------------------------------------------------------------------------------------------------

CITY = {"type": "object", "required": ["city", "n\n"], "additionalProperties": False,
        "properties": {"city": {"enum": ["Zürich 😀", "Zug"]}, "n\n": {"type": "integer", "minimum": 5, "maximum": 9}}}


def test_forced_text_is_cut_as_the_tokenizer_cuts_it(grammars: Grammars, pieces: Tokenizer) -> None:
    text = '{"a":"Zürich 😀 is\\na \\"city\\"","list":[1,2.5,null,true]}'
    matcher = grammars.matcher(Grammar.json_schema({"const": json.loads(text)}))
    tokens: list[int] = []
    while run := matcher.forced():
        for token in run:
            matcher.accept(token)
        tokens += run
    assert matcher.ended and tokens == [*pieces.encode(text), grammars.stop_ids[0]]


def test_a_whole_reply(grammars: Grammars, pieces: Tokenizer) -> None:
    matcher = grammars.matcher(Grammar.json_schema(CITY))
    text = '{"city":"Zug","n\\n":7}'
    ids = pieces.encode(text)
    assert matcher.validate([*ids, STOP, STOP]) == len(ids) + 1
    assert matcher.validate([*ids[:3], STOP]) == 3
    assert matcher.validate(pieces.encode(text.replace("7", "4"))) < len(ids)
    assert pieces.decode(matcher.forced()) == '{"city":"Z'
    masks = []
    for token in ids:
        masks.append(allowed(matcher))
        assert STOP not in masks[-1] and not matcher.ended
        with pytest.raises(ValueError, match="not allowed"):
            matcher.accept(STOP)
        matcher.accept(token)
    assert allowed(matcher) == [0, STOP] == grammars.stop_ids and matcher.forced() == [0]
    assert matcher.validate([STOP]) == 1 and matcher.validate([ids[0]]) == 0
    other = matcher.copy()
    matcher.accept(STOP)
    assert matcher.ended and matcher.copy().ended and not other.ended and matcher.forced() == [] and matcher.validate([STOP]) == 0
    with pytest.raises(ValueError, match="ended"):
        matcher.mask()
    matcher.rollback(1)
    assert not matcher.ended and matcher.forced() == [0]
    matcher.accept(0)
    matcher.rollback(3)  # the stop token and two more
    assert allowed(matcher) == masks[-2]
    matcher.rollback(len(ids) - 2)
    assert allowed(matcher) == masks[0] and matcher.validate(ids) == len(ids)
    assert allowed(other) == grammars.stop_ids


def test_apply(grammars: Grammars, rows: Tensor) -> None:
    matcher = grammars.matcher(Grammar.json_schema(CITY))
    row = rows[0].clone()
    matcher.apply(row)
    assert row.isfinite().nonzero()[:, 0].tolist() == allowed(matcher)
    assert torch.equal(row[row.isfinite()], rows[0][row.isfinite()])


@pytest.mark.parametrize("extra", [1, 7, 100])
def test_logits_wider_than_the_tokenizer(pieces: Tokenizer, extra: int) -> None:
    matcher = Grammars(pieces, frozenset({STOP}), pieces.size + extra).matcher(Grammar.regex("(?s:.*)"))
    row = torch.zeros(pieces.size + extra)
    matcher.apply(row)
    assert row[STOP] == 0 and row[: pieces.size].isfinite().sum() > 40_000 and (row[pieces.size :] == -torch.inf).all()
    assert matcher.validate([pieces.size]) == 0


def test_logits_narrower_than_the_tokenizer(pieces: Tokenizer) -> None:
    """As in the tests of the engine: single bytes and the shortest pieces."""
    grammars = Grammars(pieces, frozenset({STOP}), 320)
    for seed in range(20):
        matcher, draw, tokens = grammars.matcher(Grammar.json_schema(CITY)), random.Random(seed), list[int]()
        while not matcher.ended:
            row = torch.tensor([draw.random() for _ in range(320)])
            matcher.apply(row)
            tokens += (run := matcher.forced() or [int(row.argmax())])
            for token in run:
                matcher.accept(token)
        assert max(tokens) < 320
        check_json(CITY, pieces.decode(tokens))


def test_a_failure_in_the_middle_is_told(grammars: Grammars) -> None:
    matcher = grammars.matcher(Grammar.json_schema(
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^\x01$"}}, "required": ["a"]}))
    for token in matcher.forced():
        matcher.accept(token)
    for failed in (matcher, matcher.copy()):
        with pytest.raises(GrammarFailed):
            failed.mask()
        with pytest.raises(GrammarFailed):
            failed.validate([STOP])


# --- what is refused ----------------------------------------------------------------------------------------------------

DEEP: dict[str, Any] = {"type": "null"}
for _ in range(80):
    DEEP = {"anyOf": [DEEP]}
DEEPEST: Any = []
for _ in range(5000):
    DEEPEST = [DEEPEST]


@pytest.mark.parametrize(("schema", "reason"), [
    ({"not": {}}, "'not'"), ({"type": "array", "uniqueItems": True}, "'uniqueItems'"), ({"if": {}, "then": {}}, "'if'"),
    ({"contains": {}}, "'contains'"), ({"propertyNames": {}}, "'propertyNames'"),
    ({"dependentRequired": {}}, "'dependentRequired'"),
    ({"unevaluatedProperties": False}, "'unevaluatedProperties'"), ({"$dynamicRef": "#a"}, r"'\$dynamicRef'"),
    ({"type": "string", "minlength": 2}, "'minlength'"), ({"nullable": True, "type": "string"}, "'nullable'"),
    ({"x-guidance": {"whitespace_flexible": True}}, "'x-guidance'"),
    ({"properties": {"a": {"items": {"not": {}}}}}, r"'not' is not supported .at '/properties/a/items'"),
    ({"$ref": "#/default", "default": {"minlength": 3}}, "'minlength'"),
    ({"type": "string", "format": "iri"}, "Unknown format: iri"), ({"pattern": "(?=a)b"}, "look-around.* not supported"),
    ({"pattern": "("}, "unclosed group"), ({"pattern": r"(a)\1"}, "backreferences"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum .5. is greater"), ({"type": "text"}, "Invalid type"),
    ({"type": 3}, "'type' has a value of the wrong type"), ({"minLength": True}, "'minLength' has a value of the wrong type"),
    ({"enum": []}, "Unsatisfiable"), (False, "false allows nothing"), ({"anyOf": [3]}, "an object or a truth value"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"), ({"$ref": "https://example.com/a"}, "not present"),
    ({"$ref": "#/$defs/a"}, "does not exist"), ({"const": 1 << 60}, r"2\^53"), ({"minimum": -(1 << 60)}, r"2\^53"),
    ({"properties": {"a": {"enum": ["b", {"c": ["\x7f"]}]}}}, "control character"), ({"const": "\ud800"}, "surrogate"),
    ({"type": "object", "required": ["a"], "properties": {"a": True}, "minProperties": 3}, "minProperties"),
    ({"type": "object", "properties": {"a": True, "b": True}, "minProperties": 1}, "min/maxProperties"),
    ({"$ref": "#"}, "without end"), ({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}, "without end"),
    ({"type": "array", "minItems": 1, "items": {"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}]}}, "without end"),
    (DEEP, "64 deep"), ({"const": DEEPEST}, "not JSON"), ({"enum": ["x" * 300_000]}, "at most 256 kB"),
    ({"const": float("nan")}, "not JSON"), ({"const": {1, 2}}, "not JSON"),
])
def test_refused_schemas(grammars: Grammars, schema: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        grammars.matcher(Grammar.json_schema(schema))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schema", [
    True, {}, {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"x-order": 3, "type": "null"},
    {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}, {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}},
    {"anyOf": [{"type": "null"}, {"type": "array", "minItems": 1, "prefixItems": [{"$ref": "#"}]}]},
    {"type": "object", "properties": {"not": {"type": "null"}}, "required": ["not"], "default": {"not": 3}},
])
def test_not_refused(decoder: Decoder, schema: Any) -> None:
    text = decoder.run(Grammar.json_schema(schema), 0)
    assert text is not None
    check_json(schema, text)


@pytest.mark.parametrize(("grammar", "reason"), [
    (Grammar.regex("(a"), "unclosed group"), (Grammar.regex(r"\bfoo"), "lookarounds"), (Grammar.regex("[a&&b]"), "nothing"),
    (Grammar.regex(r"(a)\1"), "backreferences"), (Grammar.lark("start: b"), 'unknown name: "b"'),
    (Grammar.lark('start: "a'), "lexer error"), (Grammar.lark('a: "b"'), "no start"),
    (Grammar.lark('start: <|im_end|> "a"'), "special tokens"), (Grammar.lark('start: %json {"type": "object"}'), "JSON schema"),
    (Grammar.lark("start: A\nA: ~/a/"), "not"), (Grammar.lark('start: x "b"\nx[stop="b"]: /a*/'), "stop"),
    (Grammar.lark('%llguidance {"no_forcing": true}\nstart: "a"'), "%llguidance"),
    (Grammar.lark("\n".join(["start: a0", *(f"a{n}: a{n + 1}" for n in range(5000)), 'a5000: "x"'])), "500 rules"),
    (Grammar.choice([]), "one or more"), (Grammar("choice", '["a", 3]'), "one or more"),
    (Grammar("json_schema", "{"), "JSON schema"), (Grammar("json_schema", '{"const":"\\ud800"}'), "JSON schema"),
    (Grammar("json_schema", "[" * 100_000), "JSON schema"),
])
def test_refused_grammars(grammars: Grammars, grammar: Grammar, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        grammars.matcher(grammar)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["start: A\nA: /(?s:.*)/ & ~/x/", 'start: "a" ~ 2..3', 'start: "<b>" /<i>\\/"/ // <c>\n'])
def test_lark_that_only_looks_refused(grammars: Grammars, text: str) -> None:
    assert allowed(grammars.matcher(Grammar.lark(text)))


def test_values() -> None:
    assert len({Grammar.regex("a"), Grammar.regex("a"), Grammar.choice(["a"]), Grammar.lark("a")}) == 3
    assert Grammar.json_schema({"b": 1, "a": "é"}).text == '{"b":1,"a":"é"}'  # in the order given
    with pytest.raises(UserError, match="surrogate"):
        Grammar.regex("\udc00")
