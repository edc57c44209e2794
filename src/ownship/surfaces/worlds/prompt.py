"""What a model is shown: the things that are there, in few tokens, and the words; and what is not even shown to it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

from ownship.model.chat import Message
from ownship.surfaces.worlds.catalogue import COLOURS, KINDS, MATERIALS
from ownship.surfaces.worlds.lexicon import COUNTED, Tag, mentions_thing, normal, tags
from ownship.surfaces.worlds.lines import NOTHING, WORDS
from ownship.surfaces.worlds.names import ids, kind_of, number_of, spoken
from ownship.surfaces.worlds.types import Language, Scene

SYSTEM = "World"  # for models that have learnt the language: three tokens instead of the default's twenty
MAX_WORDS = 4_000  # characters

_GUIDE = f"""Turn what the user says into ops, one per line, nothing else. What exists is listed before the words.
Add: COUNT KIND [COLOUR] [MATERIAL], e.g. "2 armchair red". A new world begins with "1 room", "1 room small|large|huge" or "1 plot".
Doors, windows: "1 door south". Change: "remove lamp", "rug red", "table scale 150", "chair1 turn 90", "sky night".
Relate: THING RELATION THING, e.g. "armchair facing fireplace", "rug between armchair1 sofa", "plant corner", "shelf wall north".
A thing is a kind (all of that kind), an id such as chair2, or a range such as chair1-3. New things get the next numbers.
If nothing can be built: {NOTHING}
Kinds: {", ".join(map(spoken, KINDS))}
Colours: {", ".join(COLOURS)}
Materials: {", ".join(MATERIALS)}
Relations: {", ".join(WORDS)}"""


class Refused(Exception):
    """Words that nothing is built from. The text is the answer, in the language of the words."""


def messages(words: str, scene: Scene, guide: bool = False) -> tuple[Message, ...]:
    """The conversation's opening. `guide`: the language is explained, for models that have not learnt it."""
    return opening(words, [(thing.id, thing.colour) for thing in scene.objects],
                   ids(scene)[: -len(scene.objects) or None], guide)


def opening(words: str, objects: Sequence[tuple[str, str]], places: Sequence[str], guide: bool = False) -> tuple[Message, ...]:
    there = listing(objects, places)
    return ({"role": "system", "content": _GUIDE if guide else SYSTEM},
            {"role": "user", "content": f"{there}\n{words}" if there else words})


def listing(objects: Iterable[tuple[str, str]], places: Iterable[str]) -> str:
    """Ids and, where things of a kind differ in it, colours: "room, chair1-2 red, chair3 blue, table"."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for id in places:
        kinds.setdefault(kind_of(id), []).append((id, ""))
    for id, colour in objects:
        kinds.setdefault(kind_of(id), []).append((id, colour))
    named = []
    for kind, things in kinds.items():
        if len(things) == 1:
            named.append(spoken(kind) if number_of(things[0][0]) == 1 else spoken(things[0][0]))
            continue
        tell = len({colour for _, colour in things}) > 1
        for colour, run in groupby(things, (lambda thing: thing[1]) if tell else (lambda thing: "")):
            named += [f"{spoken(kind)}{numbers}" + (f" {colour}" if colour else "") for numbers in _ranges(
                [number_of(id) for id, _ in run])]
    return ", ".join(named)


def _ranges(numbers: list[int]) -> list[str]:
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found]


# What is refused

_ANSWERS: dict[str, dict[Language, str]] = {
    "empty": {"en": "Nothing was said. Say what you would like to see, for example: a small room with two chairs and a table.",
              "de": "Es wurde nichts gesagt. Sag, was du sehen möchtest, zum Beispiel: ein kleines Zimmer mit zwei Stühlen"
                    " und einem Tisch."},
    "long": {"en": "That is too long: {count:,} characters, and at most {most:,} can be read at once.",
             "de": "Das ist zu lang: {count} Zeichen, und höchstens {most} können auf einmal gelesen werden."},
    "wordless": {"en": "There are no words in it that say what to build.", "de": "Darin sind keine Wörter, die sagen, was gebaut"
                 " werden soll."},
    "negative": {"en": "“{what}” cannot be: there is no fewer than none.", "de": "„{what}“ geht nicht: weniger als nichts gibt es"
                 " nicht."},
    "many": {"en": "“{what}” are too many: at most {most} at once.", "de": "„{what}“ sind zu viele: höchstens {most} auf einmal."},
    "strange": {"en": "Nothing in it is something that can be built here. There are rooms and gardens, and for example {some}.",
                "de": "Nichts davon kann hier gebaut werden. Es gibt Räume und Gärten, und zum Beispiel {some}."},
    "unknown": {"en": "I do not know what “{what}” is, so nothing was changed.",
                "de": "Ich weiß nicht, was „{what}“ ist; darum wurde nichts verändert."}}
_MOST = 100  # things of a kind at once
_SOME = ("chair", "table", "bed", "lamp", "tree", "fountain")


def heard(words: str, scene: Scene) -> str:
    """The words without what no one can see, or Refused with the answer: a clear case for which no model needs to be asked."""
    letters = unicodedata.normalize("NFC", words[:MAX_WORDS])
    text = " ".join("".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in letters).split())
    language = spoken_in(text)
    if not text:
        raise Refused(_ANSWERS["empty"][language])
    if len(words) > MAX_WORDS:
        raise Refused(_ANSWERS["long"][language].format(count=len(words), most=MAX_WORDS))
    if not any(letter.isalpha() for letter in text):
        raise Refused(_ANSWERS["wordless"][language])
    if found := re.search(r"(?<![\w.])(?:[-−]\s?|minus )(?:\d+|[a-zäöüß]+) [a-zäöüß]+", text, re.IGNORECASE):
        said = tags(found[0].lstrip("-− ").removeprefix("minus ").removeprefix("Minus "))
        if said and said[0].sort == "number" and any(tag.sort == "kind" for tag in said):
            raise Refused(_ANSWERS["negative"][language].format(what=found[0]))
    said = tags(text)
    for number, thing in pairwise(said):
        if number.sort == "number" and thing.sort == "kind" and int(number.value) > _MOST:
            raise Refused(_ANSWERS["many"][language].format(what=f"{number.text} {thing.text}", most=_MOST))
    if not mentions_thing(said):
        some = ", ".join((KINDS[kind].en if language == "en" else KINDS[kind].de)[0].many for kind in _SOME)
        raise Refused(_ANSWERS["strange"][language].format(some=some))
    if (what := _unknown(text)) is not None:
        raise Refused(_ANSWERS["unknown"][language].format(what=what))
    return text


def _unknown(text: str) -> str | None:
    """A noun that is counted like a thing but is none, in a sentence that asks for things: "a room with a unicorn"."""
    for sentence in re.split(r"[.!?;\n]+", text):
        said = tags(sentence)
        if not mentions_thing(said):
            continue
        for at, tag in enumerate(said):
            if tag.sort not in COUNTED or (at and said[at - 1].text in ("for", "für", "by", "um", "in", "like", "wie", "such")):
                continue
            end = _noun(said, at + 1)
            if end is not None:
                return " ".join(item.text for item in said[at + 1 : end])
    return None


def _noun(said: Sequence[Tag], at: int) -> int | None:
    """Where the unknown words end that stand where a noun should; None if there is a known one among them."""
    begin = at
    while at < len(said) and said[at].sort in ("colour", "material", "size", "unknown"):
        at += 1
    if at == begin or said[at - 1].sort != "unknown" or (at < len(said) and said[at].sort in ("kind", "place", "opening", "part")):
        return None
    return next((end for end in range(begin + 1, at + 1) if said[end - 1].sort == "unknown"), None)


_GERMAN = frozenset(
    """der die das den dem ein eine einen einem einer und mit ist soll sollen ich bitte mach stell zwei drei vier nicht auf neben
    von vom zum zur im an rot blau grün weiß schwarz kein keine entferne lösche noch wie mir""".split())  # noqa: SIM905
_ENGLISH = frozenset(
    """the a an and with is should i please make put two three four not on next to of in at no remove delete move another red blue
    green white black facing between room""".split())  # noqa: SIM905


def spoken_in(words: str) -> Language:
    """English or German, by the small words."""
    said = normal(words).split()
    german = sum(word in _GERMAN for word in said) + 2 * any(letter in words for letter in "äöüßÄÖÜ")
    return "de" if german > sum(word in _ENGLISH for word in said) else "en"
