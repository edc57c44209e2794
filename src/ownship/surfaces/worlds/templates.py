"""A hidden specification → words, in English or German: many ways to say the same.

What varies: synonyms of kinds and relations, numbers as words or digits, the order and form of the sentences, whether a relation is
folded into the list ("a lamp on a table") or said apart ("The lamp stands on the table."), sentences that mean nothing, and things
that are expressly not wanted. German nouns and adjectives are declined.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ownship.surfaces.worlds.catalogue import COLOURS, KINDS, MATERIALS, Word
from ownship.surfaces.worlds.spec import Edit, Group, Holes, Link, Spec
from ownship.surfaces.worlds.types import Language
from ownship.surfaces.worlds.wordings import (
    BIGGER,
    CHATTER,
    DE,
    EN,
    NUMBERS,
    PLACES,
    PUT,
    SIDES_DE,
    SIZES,
    Case,
    T,
    known,
)

_INDEFINITE = {"nom": {"der": "ein", "die": "eine", "das": "ein"}, "acc": {"der": "einen", "die": "eine", "das": "ein"},
               "dat": {"der": "einem", "die": "einer", "das": "einem"}}
_DEFINITE = {"nom": {"der": "der", "die": "die", "das": "das", "": "die"},
             "acc": {"der": "den", "die": "die", "das": "das", "": "die"},
             "dat": {"der": "dem", "die": "der", "das": "dem", "": "den"}}
# Endings of adjectives: without an article that shows the case (ein …), with one (der …), and in the plural behind a number.
_MIXED = {"nom": {"der": "er", "die": "e", "das": "es"}, "acc": {"der": "en", "die": "e", "das": "es"},
          "dat": {"der": "en", "die": "en", "das": "en"}}
_WEAK = {"nom": {"der": "e", "die": "e", "das": "e"}, "acc": {"der": "en", "die": "e", "das": "e"},
         "dat": {"der": "en", "die": "en", "das": "en"}}
_NOT_DECLINED = {"gold", "silber", "pink", "rosa", "lila", "orange", "beige", "creme", "mint", "oliv", "türkis", "anthrazit"}

def say(spec: Spec, seed: object, language: Language | None = None, german: float = 0.25,
        new: bool = False) -> tuple[str, Language]:
    """Words for the specification, the same for the same seed, and their language (drawn, if it is not given).

    `new`: in the forms that are otherwise never used, see `known`. The language is the same as without.
    """
    draw = random.Random(f"worlds words {seed}")
    language = language or ("de" if draw.random() < german else "en")
    speaker = _Speaker(spec, draw, language, new)
    sentences = speaker.edits() if spec.edits else speaker.scene()
    if draw.random() < 0.2:
        sentences.insert(draw.choice((0, len(sentences))), speaker.form(CHATTER[language]))
    text = " ".join(sentences)
    if draw.random() < 0.15:
        text = text.lower() if language == "en" else text.rstrip(".")
    return text, language


class _Speaker:
    """Chooses how to say one specification."""

    def __init__(self, spec: Spec, draw: random.Random, language: Language, new: bool) -> None:
        self.spec, self.draw, self.language, self.new = spec, draw, language, new
        self.groups = [*spec.groups, *(edit.new for edit in spec.edits if edit.new is not None)]
        self.words: dict[str, Word] = {}  # a thing keeps its name throughout
        self.said: set[int] = set()  # groups that have been spoken of: "the table" from then on

    def form(self, forms: Sequence[T]) -> T:
        """One of several ways to say the same."""
        return self.draw.choice(known(forms, self.new))

    def called(self, names: Sequence[T], usual: float) -> T:
        """One of several names, the first of which is the usual one; of new ones only every second, as nobody uses no other."""
        return names[0] if self.draw.random() < (0.5 if self.new else usual) else self.form(names)

    # Things

    def word(self, kind: str) -> Word:
        names = KINDS[kind].en if self.language == "en" else KINDS[kind].de
        if kind not in self.words:
            self.words[kind] = self.called(names, 0.75)
        return self.words[kind]

    def thing(self, index: int, case: Case = "nom", definite: bool = False) -> str:
        """A group as a noun phrase."""
        group = self.groups[index]
        alone = sum(other.kind == group.kind for other in self.groups) == 1
        colour, material = (group.colour, group.material) if not definite or not alone else (None, None)
        if definite and self.spec.edits and not alone:
            colour = colour or KINDS[group.kind].colour
        say = self._english if self.language == "en" else self._german
        return say(group, case, definite, colour, material)

    def _english(self, group: Group, case: Case, definite: bool, colour: str | None, material: str | None) -> str:
        word = self.word(group.kind)
        # "wooden", not "wood", where there is an adjective
        names = MATERIALS[material].en[:2] if material else ()
        noun = [self.name(colour)] if colour else []
        if names:
            noun.append(names[-1] if material in ("wood", "wool") else names[0])
        text = " ".join([*noun, word.one if group.count == 1 else word.many])
        if not definite:
            article = "an" if text[0] in "aeiou" else "a"
            return f"{article if group.count == 1 and self.draw.random() < 0.85 else self.number(group.count)} {text}"
        if group.count == 1:
            return f"the {text}"
        every = "both" if group.count == 2 else "all"
        return f"{self.draw.choice(('the', 'the', every))} {text}"

    def _german(self, group: Group, case: Case, definite: bool, colour: str | None, material: str | None) -> str:
        word = self.word(group.kind)
        gender = word.gender if group.count == 1 else ""
        noun = word.one if group.count == 1 else _dative(word.many) if case == "dat" else word.many
        plural = "en" if definite or case == "dat" else "e"
        endings = (_WEAK if definite else _MIXED)[case][gender] if gender else plural
        text = " ".join([*([_declined(self.name(colour), endings)] if colour else []), noun])
        if material:
            text += f" aus {MATERIALS[material].de[0]}"
        if definite:
            if group.count > 1 and self.draw.random() < 0.2:
                return f"{'allen' if case == 'dat' else 'alle'} {text}"
            return f"{_DEFINITE[case][gender]} {text}"
        if group.count == 1:
            return f"{_INDEFINITE[case][gender]} {text}"
        return f"{self.number(group.count)} {text}"

    def name(self, colour: str) -> str:
        names = COLOURS[colour].en if self.language == "en" else COLOURS[colour].de
        return self.called(names, 0.85)

    def number(self, count: int) -> str:
        return str(count) if self.draw.random() < 0.25 else NUMBERS[self.language][count]

    # Relations

    def where(self, link: Link, definite: bool = False, put: bool = False) -> str:
        """The relation and what it refers to: "on a table". `put`: it is being put there (German accusative)."""
        draw = self.draw
        german = self.language == "de"
        phrase: str
        case: Case = "nom"
        if german:
            phrase, case = self.form(DE[link.kind])
            if put and phrase in PUT:
                case = "acc"
        else:
            phrase = self.form(EN[link.kind])
        if link.side is not None:
            return f"an der {SIDES_DE[link.side]}" if german else f"against the {link.side} wall"
        if put and german and link.kind in ("against_wall", "in_corner"):
            return self.form(("an die Wand", "an eine Wand", "an irgendeine Wand") if link.kind == "against_wall" else (
                "in eine Ecke", "in die Ecke", "in irgendeine Ecke"))
        if link.of:
            things = []
            for index in link.of:
                things.append(self.thing(index, case, definite or index in self.said))
                self.said.add(index)
            phrase += " " + (" und " if german else " and ").join(things)
        elif link.kind == "centred" and not put:
            place = ("des Raums" if self.spec.place == "room" else "des Gartens") if german else (
                "of the room" if self.spec.place == "room" else "of the garden")
            phrase += f" {place}" if draw.random() < 0.5 and phrase != "mittendrin" else ""
        if link.frame == "viewer":
            phrase += (" vom Betrachter aus" if german else " as seen by the viewer")
        return phrase

    # A scene

    def scene(self) -> list[str]:
        """The sentences that ask for a scene."""
        draw, german = self.draw, self.language == "de"
        pending = list(self.spec.links)
        opening = draw.random() < 0.6
        parts = []
        for index in range(len(self.groups)):
            if index in self.said:
                continue
            self.said.add(index)
            part = self.thing(index, "dat" if opening else "nom")
            for link in [link for link in pending if link.subject == index and draw.random() < 0.65]:
                pending.remove(link)
                part += " " + self.where(link)
            parts.append(part)
        for holes in self.spec.holes:
            if opening:
                parts.insert(draw.choice((0, len(parts))), self._holes(holes, "dat"))
        listed = _list(parts, " und " if german else " and ", draw)
        sentences = [self._opened(listed)] if opening else self._unopened(listed, len(self.groups))
        if not opening:
            forms = ("es gibt {}.", "dazu {}.", "es hat {}.") if german else (
                "there should be {}.", "it has {}.", "add {}.", "give it {}.")
            sentences += [_upper(self.form(forms).format(self._holes(holes, "acc"))) for holes in self.spec.holes]
        if self.spec.night:
            forms = ("Es ist Nacht.", "Es soll Nacht sein.", "Das Ganze bei Nacht.") if german else (
                "It is night.", "It should be night.", "All of it at night.")
            sentences.append(self.form(forms))
        return [*sentences, *map(self._apart, pending), *map(self._unwanted, self.spec.unwanted)]

    def _holes(self, holes: Holes, case: Case) -> str:
        many = holes.count > 1
        if self.language == "en":
            noun = ("doors" if many else "door") if holes.kind == "door" else ("windows" if many else "window")
            where = f" in the {holes.side} wall" if holes.side else ""
            return f"{self.number(holes.count) if many else 'a'} {noun}{where}"
        noun, gender = ("Tür", "die") if holes.kind == "door" else ("Fenster", "das")
        noun = ("Türen" if holes.kind == "door" else "Fenstern" if case == "dat" else "Fenster") if many else noun
        where = f" in der {SIDES_DE[holes.side]}" if holes.side else ""
        return f"{self.number(holes.count) if many else _INDEFINITE[case][gender]} {noun}{where}"

    def _place(self, case: Case) -> str:
        spec, language = self.spec, self.language
        name = self.form(PLACES[language, spec.place])
        size = self.form(SIZES[language][spec.size]) if spec.size else ""
        if language == "en":
            text = f"{size} {name}".strip()
            return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
        gender, noun = name.split()
        return " ".join(filter(None, [_INDEFINITE[case][gender], size and _declined(size, _MIXED[case][gender]), noun]))

    def _opened(self, listed: str) -> str:
        """The place and what is in it, in one sentence."""
        if self.language == "en":
            form = self.form(("{} with {}.", "{} with {}", "I would like {} with {}.", "Please build {} with {}.",
                              "Make me {} with {}!", "Can you create {} with {}?", "What about {} that has {}?",
                              "Show me {} containing {}."))
            return _upper(form.format(self._place("nom"), listed))
        form, case = self.form((("{} mit {}.", "nom"), ("{} mit {}", "nom"), ("Ich möchte {} mit {}.", "acc"),
                                ("Bitte baue {} mit {}.", "acc"), ("Mach mir {} mit {}!", "acc"),
                                ("Kannst du {} mit {} bauen?", "acc"), ("Wie wäre {} mit {}?", "nom"),
                                ("Zeig mir {} mitsamt {}.", "acc")))
        return _upper(form.format(self._place(case), listed))  # type: ignore[arg-type]

    def _unopened(self, listed: str, count: int) -> list[str]:
        """The place first, then what is in it."""
        if self.language == "en":
            first = self.form(("Build {}.", "I want {}.", "{}.", "Imagine {}.", "We need {}.")).format(self._place("nom"))
            second = self.form(("Put {} there.", "In it I want {}.", "It should have {}.", "There should be {}.", "I need {}.",
                                "It contains {}."))
            return [_upper(first), second.format(listed)]
        form, case = self.form((("Baue {}.", "acc"), ("Ich will {}.", "acc"), ("{}.", "nom"), ("Stell dir {} vor.", "acc"),
                                ("Wir brauchen {}.", "acc")))
        second = self.form(("Darin gibt es: {}.", "Hinein gehören {}.", "Darin sollen {} stehen.", "Dort sind {}.",
                            "Man sieht dort: {}."))
        return [_upper(form.format(self._place(case))), second.format(listed)]  # type: ignore[arg-type]

    def _apart(self, link: Link) -> str:
        """A relation in a sentence of its own."""
        draw, many = self.draw, self.groups[link.subject].count > 1
        if self.language == "en":
            form = self.form(("{} should be {}.", "Put {} {}.", "{} {are} {}.", "I want {} {}.", "{} must stand {}."))
            form = form.replace("{are}", "are" if many else "is")
            return _upper(form.format(self.thing(link.subject, definite=True), self.where(link, definite=True)))
        if draw.random() < 0.4 and link.kind != "facing":
            verb = self.form(("Stell", "Stelle", "Platziere"))
            return f"{verb} {self.thing(link.subject, 'acc', True)} {self.where(link, True, put=True)}."
        form = self.form(("{} soll {} stehen.", "{} steht {}.", "{} kommt {} hin.", "{} gehört {} hin."))
        if many:
            form = form.replace("soll", "sollen").replace("steht", "stehen").replace("kommt", "kommen").replace("gehört", "gehören")
        return _upper(form.format(self.thing(link.subject, "nom", True), self.where(link, True)))

    def _unwanted(self, kind: str) -> str:
        word = self.word(kind)
        if self.language == "en":
            return self.form(("No {} please.", "I do not want any {}.", "But no {}!", "Leave out {}.")).format(word.many)
        form = self.form(("Bitte k{} {}.", "Ich will k{} {}.", "Aber k{} {}!", "Es soll dort k{} {} geben."))
        return form.format(_INDEFINITE["acc"][word.gender], word.one)

    # Edits

    def edits(self) -> list[str]:
        """The sentences that ask for changes."""
        self.said = set(range(len(self.spec.groups)))
        say = self._edit_english if self.language == "en" else self._edit_german
        clauses = [say(edit) for edit in self.spec.edits]
        if len(clauses) > 1 and self.draw.random() < 0.5:
            return [_upper((" und " if self.language == "de" else " and ").join(clauses) + ".")]
        end = self.draw.choice((".", ".", "", "!"))
        return [_upper(clause + (end or ("." if len(clauses) > 1 else ""))) for clause in clauses]

    def _edit_english(self, edit: Edit) -> str:
        pick = self.form
        thing = self.thing(edit.group, definite=edit.change != "add")
        where = " " + self.where(edit.link, definite=True) if edit.link is not None else ""
        match edit.change:
            case "add":
                if self.groups[edit.group].count == 1 and self.draw.random() < 0.2:
                    thing = "another " + thing.partition(" ")[2]
                return pick(("add {}{}", "put {}{}", "I also want {}{}", "please add {}{}", "bring in {}{}") if where else (
                    "add {}{}", "I also want {}{}", "please add {}{}", "bring in {}{}")).format(thing, where)
            case "remove":
                return pick(("remove {}", "take {} away", "delete {}", "get rid of {}", "I do not need {} any more",
                             "throw {} out")).format(thing)
            case "recolour":
                return pick(("make {} {}", "paint {} {}", "{} should be {}", "colour {} {}", "I want {} to be {}",
                             "turn {} {}")).format(
                    thing, self.name(edit.colour or ""))
            case "relate":
                return pick(("move {}{}", "put {}{}", "place {}{}", "{} should be{}", "I want {}{}",
                             "shift {}{}")).format(thing, where)
            case "scale":
                return pick(BIGGER["en"][edit.amount]).format(thing)
            case "rotate":
                return pick(("turn {} by {} degrees", "rotate {} {} degrees", "rotate {} by {}°",
                             "spin {} by {} degrees")).format(thing, edit.amount)

    def _edit_german(self, edit: Edit) -> str:
        pick, many = self.form, self.groups[edit.group].count > 1
        where = " " + self.where(edit.link, definite=True, put=True) if edit.link is not None else ""
        form = {
            "add": ("stell {}{where} dazu", "ich möchte noch {}{where}", "füge {}{where} hinzu", "bring {}{where} herein"),
            "remove": ("entferne {}", "nimm {} weg", "lösche {}", "ich brauche {} nicht mehr", "wirf {} raus"),
            "recolour": ("mach {} {colour}", "färbe {} {colour}", "streich {} {colour}", "male {} {colour} an"),
            "relate": ("stell {}{where}", "rück {}{where}", "schieb {}{where}", "ich will {}{where} haben", "verschieb {}{where}"),
            "scale": BIGGER["de"].get(edit.amount, ()),
            "rotate": ("dreh {} um {amount} Grad", "drehe {} um {amount}°", "rotiere {} um {amount} Grad")}[edit.change]
        chosen = pick(form)
        if edit.change == "recolour" and self.draw.random() < 0.2:
            thing = self.thing(edit.group, "nom", True)
            return f"{thing} {'sollen' if many else 'soll'} {self.name(edit.colour or '')} sein"
        thing = self.thing(edit.group, "acc", edit.change != "add")
        return chosen.format(thing, where=where, colour=self.name(edit.colour) if edit.colour else "", amount=edit.amount)


def _declined(adjective: str, ending: str) -> str:
    """A German adjective with its ending, if it takes one."""
    return adjective if adjective in _NOT_DECLINED else adjective + ending


def _dative(plural: str) -> str:
    return plural if plural.endswith(("n", "s")) else plural + "n"


def _list(parts: Sequence[str], last: str, draw: random.Random) -> str:
    """a, b and c; now and then everything joined alike."""
    if len(parts) > 1 and draw.random() < 0.85:
        return ", ".join(parts[:-1]) + last + parts[-1]
    return last.join(parts) if draw.random() < 0.5 else ", ".join(parts)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
