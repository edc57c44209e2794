"""The grammar of the next line: whatever is said under it can be read and names only what is there."""

from __future__ import annotations

import random

import pytest

from ownship.engine.grammar import Grammar, Grammars
from ownship.model.tokenizer import Tokenizer
from ownship.surfaces.worlds import grammar, lines
from ownship.surfaces.worlds.lines import read
from ownship.surfaces.worlds.names import Names
from ownship.surfaces.worlds.types import Add, Op, Relate, Scene

BYTE_STOP = 257


@pytest.fixture
def grammars(tiny_tokenizer: Tokenizer) -> Grammars:
    return Grammars(tiny_tokenizer, frozenset({BYTE_STOP}), 264)


def _said(grammars: Grammars, tokenizer: Tokenizer, text: str, draw: random.Random) -> str:
    """A line drawn byte by byte, each allowed one as likely as the others: a model that knows nothing at all."""
    matcher = grammars.matcher(Grammar.lark(text))
    tokens: list[int] = []
    while not matcher.ended:
        mask = matcher.mask()
        allowed = [token for token in range(264) if mask[token // 8] >> (token % 8) & 1]
        tokens.append(draw.choice(allowed))
        matcher.accept(tokens[-1])
    return tokenizer.decode(tokens[:-1])


def test_random_replies_can_be_read_and_name_only_what_is_there(grammars: Grammars, tiny_tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    kinds: set[str] = set()
    for _ in range(25):
        names, ops = Names(Scene()), list[Op]()
        for at in range(10):
            text = _said(grammars, tiny_tokenizer, grammar.line(names, first=at == 0, last=at == 9), draw)
            known = names.copy()
            ops += (now := [op for group in lines.stepwise(text.rstrip("\n"), names) for op in group])
            for op in now:
                kinds.add(op.op)
                if isinstance(op, Add):
                    known.follow(op)
                if isinstance(op, Relate):
                    assert all(id in known for id in (*op.relation.subjects, *op.relation.of))
            if not text.endswith("\n"):
                break
            assert at < 9
    assert {"add", "relate", "recolour", "remove", "sky"} <= kinds


@pytest.mark.parametrize(("said", "allowed"), [
    ("armchair facing fireplace", True), ("armchair1-2 facing fireplace", True), ("rug between armchair", True),
    ("rug between armchair1 fireplace", True), ("3 coffee table red wood 80%", True), ("1 door south", True),
    ("remove armchair2", True),
    ("room red tiles", True), ("sky night", True), ("fireplace wall north", True),
    ("rug facing fireplace", False),  # it has no front
    ("armchair3 red", False), ("sofa red", False), ("2 unicorn", False), ("armchair adores fireplace", False), ("0 chair", False),
    ("rug on armchair3", False), ("rug in rug", False), ("armchair1-3 red", False), ("plot grass", False), ("nothing", False)])
def test_what_may_be_said_with_two_armchairs_a_fireplace_and_a_rug(grammars: Grammars, tiny_tokenizer: Tokenizer, said: str,
                                                                     allowed: bool) -> None:
    names = Names(Scene())
    for op in read("1 room\n2 armchair\n1 fireplace\n1 rug", Scene()):
        names.follow(op)
    matcher = grammars.matcher(Grammar.lark(grammar.line(names, first=False)))
    tokens = [*tiny_tokenizer.encode(said), BYTE_STOP]
    assert (matcher.validate(tokens) == len(tokens)) == allowed


def test_the_last_line_has_no_other_after_it(grammars: Grammars, tiny_tokenizer: Tokenizer) -> None:
    for last in (False, True):
        matcher = grammars.matcher(Grammar.lark(grammar.line(Names(Scene()), last=last)))
        tokens = tiny_tokenizer.encode("1 room\n")
        assert (matcher.validate(tokens) == len(tokens)) != last


def test_a_scene_of_hundreds_compiles(grammars: Grammars) -> None:
    names = Names(Scene())
    for op in read("1 room huge\n" + "\n".join(f"90 {kind}" for kind in ("chair", "table", "book", "tree")), Scene()):
        names.follow(op)
    grammars.matcher(Grammar.lark(grammar.line(names, first=False)))
