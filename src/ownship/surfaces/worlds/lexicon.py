"""The words of both languages, and what they mean: text → tags. Knows nothing of grammar."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from ownship.surfaces.worlds.catalogue import COLOURS, KINDS, MATERIALS
from ownship.surfaces.worlds.types import RelationKind

COUNTED = ("number", "article")


@dataclass(frozen=True)
class Tag:
    """A stretch of text and what it is: `sort`, and `value` (a kind, a colour, a number …). `plural`: it cannot be one thing."""

    sort: str
    value: str
    text: str
    plural: bool = False


_RELATIONS: dict[RelationKind, str] = {
    "on": "on|on top of|onto|standing on|auf|oben auf",
    "under": "under|underneath|below|beneath|unter|unterhalb von",
    "above": "above|over|hanging over|über|oberhalb von",
    "inside": "in|inside|into|inside of|innerhalb von",
    "next_to": "next to|right next to|beside|by the side of|alongside|adjacent to|neben|direkt neben",
    "near": "near|near to|close to|not far from|nearby|nahe|nahe bei|in der nähe von|in der nähe|unweit von|bei",
    "far": "far from|far away from|a long way from|weit weg von|weit entfernt von|weit von",
    "left_of": "left of|to the left of|on the left of|on the left side of|links von|links neben",
    "right_of": "right of|to the right of|on the right of|on the right side of|rechts von|rechts neben",
    "in_front_of": "in front of|before|vor",
    "behind": "behind|at the back of|hinter",
    "between": "between|in between|zwischen",
    "facing": "facing|turned towards|looking at|looking towards|pointing at|face|faces|turned to|mit blick auf|gerichtet auf"
              "|ausgerichtet auf|richtung",
    "against_wall": "against the wall|against a wall|along the wall|along a wall|at the wall|to the wall|an der wand|an einer wand"
                    "|an die wand|an eine wand",
    "in_corner": "in a corner|in the corner|into a corner|into the corner|in einer ecke|in der ecke|in eine ecke|in die ecke",
    "around": "around|all around|round|surrounding|rund um|rings um|um",
    "aligned": "in a row|in a line|in one row|lined up|aligned|in einer reihe|in reihe|aufgereiht",
    "centred": "in the middle|in the centre|in the center|in der mitte|mittendrin|into the middle|in die mitte|zentriert|centred"}
_PLACES = {
    "room": "room|living room|bedroom|study|kitchen|bathroom|office|hall|dining room|lounge|raum|zimmer|wohnzimmer|schlafzimmer"
            "|küche|büro|arbeitszimmer|bad|badezimmer|esszimmer|raums|zimmers",
    "plot": "garden|yard|park|backyard|courtyard|meadow|lawn|plot|garten|hof|wiese|innenhof|gartens|parks"}
_OPENINGS = {"door": "door|doors|tür|türen", "window": "window|windows|fenster|fenstern"}
_SIZES = {"small": "small|tiny|little|klein|winzig", "large": "large|big|spacious|groß|geräumig",
          "huge": "huge|enormous|giant|riesig|gewaltig"}
_SIDES = {"north": "north wall|northern wall|nordwand|nördlichen wand", "south": "south wall|southern wall|südwand|südlichen wand",
          "east": "east wall|eastern wall|ostwand|östlichen wand", "west": "west wall|western wall|westwand|westlichen wand"}
_NUMBERS = {
    "1": "one|a single|ein einziger|eine einzige|ein einziges|einzigen",
    "2": "two|a pair of|a couple of|zwei|ein paar", "3": "three|drei",
    "4": "four|vier", "5": "five|fünf", "6": "six|sechs", "7": "seven|sieben", "8": "eight|acht", "9": "nine|neun",
    "10": "ten|zehn",
    "11": "eleven|elf", "12": "twelve|dozen|a dozen|zwölf|ein dutzend",
    "100": "hundred|a hundred|hundert|einhundert", "1000": "thousand|a thousand|tausend|eintausend",
    "1000000": "million|a million|millions of|eine million|millionen"}
_OTHERS = {
    ("article", "1"): "a|an|another|ein|eine|einen|einem|einer|noch ein|noch eine|noch einen",
    ("definite", "all"): "both|both the|all|all the|every|beide|beiden|die beiden|alle|allen",
    ("definite", "the"): "the|der|die|das|den|dem|des|this|that|these",
    ("pronoun", "them"): "them|both of them|ihnen|dazwischen",
    ("and", ""): "and|und|sowie|also",
    ("not", ""): "no|not any|don't want any|do not want any|without|without any|kein|keine|keinen|keinem|keiner|ohne",
    ("remove", ""): "remove|delete|take away|away|get rid of|throw out|do not need|don't need|entferne|entfernen|lösche|löschen"
                    "|nimm|brauche|wirf",
    ("rotate", ""): "turn|rotate|spin|dreh|drehe|rotiere",
    ("move", ""): "move|put|place|shift|push|stell|stelle|rück|rücke|schieb|schiebe|setz|setze|leg|lege|häng|hänge",
    ("viewer", ""): "as seen by the viewer|seen by the viewer|from the viewer|vom betrachter aus|vom betrachter gesehen",
    ("scale", "50"): "half as big|half the size|halve|halve the size of|halb so groß|halbiere",
    ("scale", "200"): "twice as big|double the size of|doppelt so groß|verdopple",
    ("scale", "150"): "one and a half times as big|anderthalbmal so groß|eineinhalbmal so groß",
    ("bigger", "+"): "bigger|larger|taller|größer|höher", ("bigger", "-"): "smaller|kleiner|niedriger",
    ("degrees", ""): "degrees|degree|grad|°", ("percent", ""): "percent|%|prozent",
    ("undo", ""): "undo|undo that|mach das rückgängig|rückgängig", ("redo", ""): "redo|wiederhole",
    ("night", "night"): "at night|by night|night|nachts|nacht|bei nacht", ("night", "dusk"): "at dusk|dusk|dämmerung|abends|sunset",
    ("part", ""): "side|row|line|corner|middle|centre|center|wall|bit|way|reihe|ecke|mitte|wand|seite|film|look|lot"}
# Words that stand near things without being any: what is left is `unknown`.
_PLAIN = frozenset(
    """
    aber add against all als also alte alten am any are as at auch baue bauen be beautiful bei betrachter bitte blicken
    brauche build but by can color colour cosy could cozy create da darin dazu den dir do dort du er es few for from färbe
    färben füge für gehören gemütlich gemütliche gemütliches gestellt gibt give go goes haben has have here hier hin hinein
    hinzu hängen hängt i ich ihr im imagine in is ist it just kannst kommen kommt let's liegen liegt like mach mache make me
    mehr might mir mit modern more my möchte need new nice nicht noch not now of old paint please pretty put really schauen
    schaut schön schöne schönen schönes seen sein should show sie sind sitzt so soll sollen some stand standing stands stehen
    steht stell streich streiche that then there this to too uns us very viewer vom von vor vorstellen want we weg werden
    where which will wir wird with would you zu zum zur
    """.split())  # noqa: SIM905
_ENDINGS = ("e", "en", "er", "es", "em")


def normal(text: str) -> str:
    """Lower case, with blanks around what is no letter or digit."""
    return re.sub(r"\s+", " ", re.sub(r"([^\w'’-])", r" \1 ", text.lower().replace("’", "'"))).strip()


@cache
def _phrases() -> tuple[dict[str, Tag], int]:
    """Phrase → tag, and the most words a phrase has. Later entries do not replace earlier ones."""
    found: dict[str, Tag] = {}

    def add(sort: str, value: str, *phrases: str, plural: bool = False) -> None:
        for phrase in phrases:
            found.setdefault(normal(phrase), Tag(sort, value, normal(phrase), plural))

    for kind, entry in KINDS.items():
        for word in (*entry.en, *entry.de):
            add("kind", kind, word.one, plural=False)
            add("kind", kind, word.many, plural=word.one != word.many)
            add("kind", kind, f"{word.many}n", plural=True)
            if word.gender in ("der", "das"):
                add("kind", kind, f"{word.one}s", f"{word.one}es")
    for place, phrases in _PLACES.items():
        add("place", place, *phrases.split("|"))
    for opening, phrases in _OPENINGS.items():
        add("opening", opening, *phrases.split("|"))
    for colour in COLOURS.values():
        add("colour", colour.name, *colour.en)
        for name in colour.de:
            add("colour", colour.name, name, *(name + ending for ending in _ENDINGS))
    for material in MATERIALS.values():
        add("material", material.name, *material.en)
        for name in material.de:
            add("material", material.name, f"aus {name}",
                *(name + ending for ending in ("", *_ENDINGS) if name[0].islower() or not ending))
    add("bigger", "-", "smaller")  # before "small" takes German endings
    for size, phrases in _SIZES.items():
        add("size", size, *phrases.split("|"), *(phrase + ending for phrase in phrases.split("|") for ending in _ENDINGS))
    add("size", "large", "großes", "großer", "großen")
    for side, phrases in _SIDES.items():
        add("side", side, *phrases.split("|"))
    for number, phrases in _NUMBERS.items():
        add("number", number, *phrases.split("|"))
    for relation, phrases in _RELATIONS.items():
        add("relation", relation, *phrases.split("|"))
    for (sort, value), phrases in _OTHERS.items():
        add(sort, value, *phrases.split("|"))
    return found, max(phrase.count(" ") + 1 for phrase in found)


def tags(text: str) -> list[Tag]:
    """The text as tags, the longest phrase first; punctuation is a `stop`, the rest `unknown`, small words are left out."""
    return list(_tags(normal(text).split()))


def _tags(words: Sequence[str]) -> Iterator[Tag]:
    phrases, longest = _phrases()
    at = 0
    while at < len(words):
        for size in range(min(longest, len(words) - at), 0, -1):
            phrase = " ".join(words[at : at + size])
            if (tag := phrases.get(phrase)) is not None:
                yield tag
                break
        else:
            size, word = 1, words[at]
            if word.isdigit():
                yield Tag("number", str(int(word[:9])), word)
            elif re.fullmatch(r"\d{1,4}", word.strip("-")):
                yield Tag("number", word.strip("-"), word)
            elif (kind := _named(word)) is not None:
                yield Tag("kind", kind, word)
            elif not any(letter.isalnum() for letter in word):
                yield Tag("stop", word, word)
            elif word not in _PLAIN:
                yield Tag("unknown", word, word)
        at += size


def _named(word: str) -> str | None:
    """The kind of the thing whose id the word is: "sofa1", "coffee_table2"."""
    match = re.fullmatch(r"([^\W\d]+?)\d{1,4}", word)
    tag = _phrases()[0].get(match[1].replace("_", " ")) if match else None
    return tag.value if tag is not None and tag.sort == "kind" else None


def mentions_thing(said: Sequence[Tag]) -> bool:
    """Whether anything is named that can be built or changed."""
    return any(tag.sort in ("kind", "place", "opening", "undo", "redo", "night") for tag in said)
