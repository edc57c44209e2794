"""The scripted baseline: English and German words → ops in the line language, by rules. And a random baseline.

Both have the interface of a model: `decide(words, scene)` gives the lines. The parser knows the lexicon and a grammar of noun
phrases ("two red leather armchairs"), relations between them and a few verbs; words that it does not know it passes over.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from ownship.surfaces.worlds import grammar, lines
from ownship.surfaces.worlds.catalogue import COLOURS, KINDS
from ownship.surfaces.worlds.lexicon import Tag, normal, tags
from ownship.surfaces.worlds.lines import SIZES
from ownship.surfaces.worlds.names import Names, spoken
from ownship.surfaces.worlds.types import (
    Add,
    AddOpening,
    AddPlot,
    AddRoom,
    Frame,
    Op,
    Recolour,
    Redo,
    Relate,
    Relation,
    RelationKind,
    Remove,
    Rotate,
    Scale,
    Scene,
    SetSky,
    Side,
    Undo,
)

_FACING = re.compile(r"\b(?:zum|zur|auf de[nm]|auf die|auf das|to the|at the|towards? the)\b.*"
                     r"\b(?:schau|blick|seh|gerichtet|gewandt|look)", re.IGNORECASE)
_BEFORE_NOUN = ("number", "article", "definite", "not", "colour", "material", "size", "unknown")
_ALONE = ("against_wall", "in_corner", "aligned", "centred")


@dataclass
class _Phrase:
    """A noun phrase: what it says, and the things it means once that is known."""

    kind: str
    count: int | None = None  # None: no number is said
    definite: bool = False
    every: bool = False
    plural: bool = False
    number: str = ""  # of an id: "1" in "sofa1"
    wanted: bool = True
    colour: str | None = None
    material: str | None = None
    ids: list[str] = field(default_factory=list)


@dataclass
class _Verb:
    sort: str
    value: str = ""


_Item = _Phrase | Tag


def decide(words: str, scene: Scene) -> str:
    """The lines that the words ask for in this scene; `nothing` if the rules find nothing in them."""
    return lines.write(_Reader(scene).read(words), scene)


class _Reader:
    """One request being read, sentence by sentence."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.names = scene, Names(scene)
        self.looks: dict[str, tuple[str, str]] = {thing.id: (thing.colour, thing.material) for thing in scene.objects}
        self.adds: list[Op] = []
        self.others: list[Op] = []
        self.last: list[str] = []  # the things that "them" means

    def read(self, words: str) -> list[Op]:
        fresh = not self.scene.rooms and not self.scene.plots
        for sentence in re.split(r"(?<=[.!?;])\s+|\n", words):
            said = tags(sentence)
            if fresh:
                self._place(said)
            if any(tag.sort == "undo" for tag in said):
                return [Undo()]
            if any(tag.sort == "redo" for tag in said):
                return [Redo()]
            for clause in self._clauses(_phrases(said)):
                self._clause(clause, sentence)
        if fresh and self.adds and "room" not in self.names.ids and "plot" not in self.names.ids:
            indoors = [op for op in self.adds if isinstance(op, Add) and KINDS[op.kind].indoors]
            self.adds.insert(0, AddRoom(id="room1") if indoors else AddPlot(id="plot1"))
        return self.adds + self.others

    # The place and its openings

    def _place(self, said: Sequence[Tag]) -> None:
        for at, tag in enumerate(said):
            if tag.sort == "place" and not ({"room", "plot"} & self.names.ids.keys()):
                if at and said[at - 1].text in ("the", "des", "der", "im"):
                    continue
                near = said[max(0, at - 2) : at]
                size = next((item.value for item in near if item.sort == "size"), None)
                w, d = SIZES[tag.value][size] if size else ((400, 400) if tag.value == "room" else (1000, 1000))
                op: Op = AddRoom(id="room1", w=w, d=d) if tag.value == "room" else AddPlot(id="plot1", w=w, d=d)
                self.adds.insert(0, op)
                self.names.follow(op)

    # Clauses

    def _clauses(self, items: list[_Item]) -> list[list[_Item]]:
        """Cut before "and" where a new verb or a colour of a new thing comes: "remove the lamp and make the rug red"."""
        if not self.scene.objects:
            return [items]
        found: list[list[_Item]] = [[]]
        for at, item in enumerate(items):
            if isinstance(item, Tag) and item.sort in ("and", "stop"):
                ahead = items[at + 1 : at + 6]
                between = self._relation_before(items[:at])
                if not between and any(isinstance(other, _Phrase) for other in ahead):
                    found.append([])
                    continue
            found[-1].append(item)
        # a verb without a thing belongs to what follows, and a verb that is not said again goes on ("remove the lamp and the rug")
        return [clause for clause in found if clause]

    @staticmethod
    def _relation_before(items: Sequence[_Item]) -> bool:
        last = next((item for item in reversed(items) if isinstance(item, Tag) and item.sort == "relation"), None)
        return last is not None and last.value == "between" and sum(
            isinstance(item, _Phrase) for item in items[items.index(last) :]) < 2

    def _clause(self, items: list[_Item], sentence: str) -> None:
        phrases = [item for item in items if isinstance(item, _Phrase) and item.kind in KINDS]
        verbs = {item.sort: item for item in items if isinstance(item, Tag)}
        amount = next((int(item.value) for item in items if isinstance(item, Tag) and item.sort == "number"), None)
        for item in items:
            if isinstance(item, Tag) and item.sort == "night":
                self.others.append(SetSky(time=item.value))  # type: ignore[arg-type]
        if self.scene.objects and phrases:
            removing = "remove" in verbs and "relation" not in verbs
            if removing:
                for phrase in phrases:
                    self.others += [Remove(id=id) for id in self._existing(phrase)]
                return
            if amount is not None and ("degrees" in verbs):
                self.others += [Rotate(id=id, by=max(-360, min(amount, 360))) for id in self._existing(phrases[0])]
                return
            smaller = any(isinstance(item, Tag) and item.text == "kleiner" for item in items)
            percent = self._percent(verbs | ({"bigger": Tag("bigger", "-", "kleiner")} if smaller else {}), amount)
            if percent is not None:
                self.others += [Scale(id=id, percent=max(10, min(percent, 1000))) for id in self._existing(phrases[0])]
                return
        self._things(items, sentence)

    @staticmethod
    def _percent(verbs: dict[str, Tag], amount: int | None) -> int | None:
        if "scale" in verbs:
            return int(verbs["scale"].value)
        if "bigger" not in verbs:
            return None
        sign = 1 if verbs["bigger"].value == "+" else -1
        return 100 + sign * (amount if amount is not None and "percent" in verbs else 20)

    def _things(self, items: list[_Item], sentence: str) -> None:
        """New things, colours and relations, in the order in which they are said."""
        subject: _Phrase | None = None  # what a relation or a colour would be said of
        before: list[_Phrase] = []  # what was listed before it
        at = 0
        while at < len(items):
            item = items[at]
            if isinstance(item, _Phrase) and item.kind in ("door", "window"):
                # "in the north wall": the tags of "in" and "the" lie between
                found = next((index for index in range(at + 1, min(at + 4, len(items)))
                              if isinstance(items[index], Tag) and items[index].sort == "side"  # type: ignore[union-attr]
                              and not any(isinstance(between, _Phrase) for between in items[at + 1 : index])), None)
                if not item.definite:
                    self._opening(item, None if found is None else items[found].value)  # type: ignore[union-attr, arg-type]
                at = found or at
            elif isinstance(item, _Phrase):
                self._mean(item)
                if item.ids:
                    subject = item
                    before.append(item)
            elif item.sort == "relation" and subject is not None:
                at = self._relation(item.value, subject, items, at, sentence)  # type: ignore[arg-type]
            elif item.sort == "side" and subject is not None:
                self._relate("against_wall", subject.ids, [], side=item.value)  # type: ignore[arg-type]
            elif item.sort == "colour" and subject is not None and self.scene.objects and set(subject.ids) <= self.looks.keys():
                self.others += [Recolour(id=id, colour=item.value) for id in subject.ids]
            at += 1
        related = any(isinstance(item, Tag) and item.sort == "relation" for item in items)
        if len(before) == 2 and not related and _FACING.search(sentence):
            self._relate("facing", before[0].ids, before[1].ids)

    def _relation(self, kind: RelationKind, subject: _Phrase, items: list[_Item], at: int, sentence: str) -> int:
        """Reads what the relation refers to; returns the place of the last item that belongs to it."""
        if kind in _ALONE:
            side = next((item.value for item in items[at + 1 : at + 2] if isinstance(item, Tag) and item.sort == "side"), None)
            if kind == "inside":
                return at
            self._relate(kind, subject.ids, [], side=side)  # type: ignore[arg-type]
            return at
        of: list[str] = []
        end = at
        for index in range(at + 1, min(at + 6, len(items))):
            item = items[index]
            if isinstance(item, _Phrase) and item.kind not in KINDS:
                break
            if isinstance(item, _Phrase):
                self._mean(item)
                of += item.ids
                end = index
                if kind != "between" or len(of) >= 2:
                    break
            elif item.sort == "pronoun":
                of, end = list(self.last), index
                break
            elif item.sort in ("relation", "side", "place", "stop"):
                break
        if kind == "inside" and not of:
            return at
        viewer = any(isinstance(item, Tag) and item.sort == "viewer" for item in items[end + 1 : end + 2])
        if of:
            self._relate(kind, subject.ids, of, "viewer" if viewer else "object")
        return end

    def _relate(self, kind: RelationKind, subjects: list[str], of: list[str], frame: Frame = "object",
                side: Side | None = None) -> None:
        needed = {"between": 2, **dict.fromkeys(_ALONE, 0)}.get(kind, 1)
        if len(of) > needed:
            of = of[:needed]
        if len(of) < needed or not subjects or set(subjects) & set(of) or (kind in ("around", "aligned") and len(subjects) < 2):
            return
        self.others.append(Relate(relation=Relation(kind=kind, subjects=tuple(subjects), of=tuple(of), frame=frame, side=side)))

    def _opening(self, phrase: _Phrase, side: Side | None) -> None:
        rooms = self.names.ids.get("room")
        if not rooms or not phrase.wanted:
            return
        kind: Literal["door", "window"] = "door" if phrase.kind == "door" else "window"
        usual: Side = "south" if kind == "door" else "north"
        for _ in range(min(phrase.count or 1, 4)):
            op = AddOpening(id=f"{kind}{self.names.next(kind)}", kind=kind, room=rooms[-1], side=side or usual)
            self.adds.append(op)
            self.names.follow(op)

    # What a phrase means

    def _mean(self, phrase: _Phrase) -> None:
        """Gives the phrase its things: those that are there if it is definite, new ones otherwise."""
        if phrase.ids or not phrase.wanted:
            return
        there = self._existing(phrase)
        if there and (phrase.definite or phrase.every or phrase.count is None):
            phrase.ids = there
        elif not phrase.number:
            count = max(1, min(phrase.count or 1, grammar.MAX_COUNT * 8))
            first = self.names.next(phrase.kind)
            for number in range(first, first + count):
                op = Add(id=f"{phrase.kind}{number}", kind=phrase.kind, colour=phrase.colour, material=phrase.material)
                self.adds.append(op)
                self.names.follow(op)
                self.looks[op.id] = (phrase.colour or KINDS[phrase.kind].colour, phrase.material or KINDS[phrase.kind].material)
                phrase.ids.append(op.id)
        if len(phrase.ids) > 1 or not self.last:
            self.last = list(phrase.ids)

    def _existing(self, phrase: _Phrase) -> list[str]:
        """The things there are that the phrase could mean."""
        ids = list(self.names.ids.get(phrase.kind, ()))
        if phrase.number:
            return [id for id in ids if id == phrase.kind + phrase.number]
        alike = [id for id in ids if phrase.colour in (None, self.looks[id][0]) and phrase.material in (None, self.looks[id][1])]
        if phrase.colour is None:
            usual = [id for id in alike if self.looks[id][0] == KINDS[phrase.kind].colour]
            alike = usual if usual and not phrase.plural and len(alike) > 1 else alike
        return alike if phrase.plural or phrase.every or len(alike) <= 1 else alike[-1:]


def _phrases(said: Sequence[Tag]) -> list[_Item]:
    """Tags → noun phrases and what lies between them."""
    items: list[_Item] = []
    at = 0
    while at < len(said):
        end = at
        phrase = _Phrase("")
        while end < len(said) and said[end].sort in _BEFORE_NOUN:
            tag = said[end]
            match tag.sort:
                case "number" | "article":
                    # "a" before "single" or "pair of" says nothing more
                    phrase.count = int(tag.value)
                case "definite":
                    phrase.definite, phrase.every = True, phrase.every or tag.value == "all"
                case "not":
                    phrase.wanted = False
                case "colour":
                    phrase.colour = tag.value
                case "material":
                    phrase.material = tag.value
            end += 1
        if end < len(said) and said[end].sort in ("kind", "opening"):
            phrase.kind, phrase.plural = said[end].value, said[end].plural or (phrase.count or 0) > 1
            phrase.number = said[end].text[len(said[end].text.rstrip("0123456789")) :]
            if any(tag.text == "die" for tag in said[at:end]):
                phrase.plural = phrase.plural or said[end].text in _not_feminine()
            if end + 1 < len(said) and said[end + 1].sort == "material" and said[end + 1].text.startswith("aus "):
                end += 1
                phrase.material = said[end].value
            items.append(phrase)
            at = end + 1
        else:
            items.append(said[at])
            at += 1
    return items


@cache
def _not_feminine() -> frozenset[str]:
    """German nouns with which "die" can only be a plural: "die Sessel"."""
    return frozenset(normal(word.one) for kind in KINDS.values() for word in kind.de if word.gender in ("der", "das"))


# The random baseline


def decide_randomly(words: str, scene: Scene, seed: object = 0) -> str:
    """Lines drawn from what may be said now, without a look at the words (but for how long they are)."""
    draw = random.Random(f"worlds random {seed} {words}")
    names = Names(scene)
    said: list[str] = []
    if not names.ids:
        said.append(draw.choice(("1 room", "1 room", "1 room large", "1 plot")))
        names.follow(lines.read(said[0], names)[0])
    for _ in range(1 + min(len(normal(words).split()) // 8, 12)):
        things = [kind for kind in names.ids if kind in KINDS]
        if not things or draw.random() < 0.5:
            line = f"{draw.randint(1, 3)} {spoken(draw.choice(list(KINDS)))}" + (
                f" {draw.choice(list(COLOURS))}" if draw.random() < 0.3 else "")
        elif draw.random() < 0.3:
            line = f"{spoken(draw.choice(things))} {draw.choice(list(COLOURS))}"
        else:
            one, other = (spoken(draw.choice([id for kind in things for id in names.ids[kind]])) for _ in range(2))
            relation = draw.choice([word for word, kind in lines.WORDS.items() if kind not in ("around", "aligned", "between")])
            alone = lines.WORDS[relation] in _ALONE
            line = f"{one} {relation}" + ("" if alone else f" {other}")
        for op in lines.read(line, names):
            names.follow(op)
        said.append(line)
    return "\n".join(said)
