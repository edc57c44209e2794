"""A scene in words, short enough to be spoken, and what cannot be in words; English and German."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ownship.surfaces.worlds.catalogue import COLOURS, KINDS, Word
from ownship.surfaces.worlds.geometry import area_of, bodies
from ownship.surfaces.worlds.types import Conflict, Language, Object, Plot, Relation, Requirement, Room, Scene

MOST = 12  # groups of things, and 6 relations: about a minute

_PLACES = {
    "room": (Word("room", "rooms"), Word("Raum", "Räume", "der")),
    "plot": (Word("garden", "gardens"), Word("Garten", "Gärten", "der")),
    "door": (Word("door", "doors"), Word("Tür", "Türen", "die")),
    "window": (Word("window", "windows"), Word("Fenster", "Fenster", "das")),
    "light": (Word("light", "lights"), Word("Licht", "Lichter", "das")),
}
_NUMBERS = {
    "en": ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    "de": ("kein", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"),
}
_SIDES = {"en": {"north": "north", "east": "east", "south": "south", "west": "west"},
          "de": {"north": "Nord", "east": "Ost", "south": "Süd", "west": "West"}}  # fmt: skip
_ARTICLES = {"nominative": ("der", "die", "das"), "dative": ("dem", "der", "dem"), "accusative": ("den", "die", "das")}
_SHORT = {"von dem": "vom", "in dem": "im", "bei dem": "beim", "zu dem": "zum", "zu der": "zur"}

# relation → English after "is" or "are" (or a verb of its own: singular/plural), German after "ist" or "sind"; {0}, {1} are named
_SAID: dict[str, tuple[str, str]] = {
    "on": ("on {0}", "auf {0}"),
    "under": ("under {0}", "unter {0}"),
    "above": ("above {0}", "über {0}"),
    "inside": ("in {0}", "in {0}"),
    "next_to": ("next to {0}", "neben {0}"),
    "near": ("near {0}", "in der Nähe von {0}"),
    "far": ("far from {0}", "weit weg von {0}"),
    "left_of": ("left of {0}", "links von {0}"),
    "right_of": ("right of {0}", "rechts von {0}"),
    "in_front_of": ("in front of {0}", "vor {0}"),
    "behind": ("behind {0}", "hinter {0}"),
    "between": ("between {0} and {1}", "zwischen {0} und {1}"),
    "facing": ("turned towards {0}", "{0} zugewandt"),
    "around": ("around {0}", "um {0} herum"),
    "aligned": ("in a row", "in einer Reihe"),
    "centred": ("in the middle of {0}", "in der Mitte von {0}"),
}
_OWN = {  # of the thing's own front
    "left_of": ("at the left hand of {0}", "zur Linken von {0}"),
    "right_of": ("at the right hand of {0}", "zur Rechten von {0}"),
}
_INVALID: dict[str, tuple[str, str]] = {
    "unknown colour": ("I do not know the colour {0}", "die Farbe {0} kenne ich nicht"),
    "unknown material": ("I do not know the material {0}", "das Material {0} kenne ich nicht"),
    "unknown ground": ("I do not know the ground {0}", "den Boden {0} kenne ich nicht"),
    "unknown kind": ("I do not know what {0} is", "ich weiß nicht, was {0} ist"),
    "undo and redo stand alone": ("undo and redo cannot be mixed with other changes",
                                  "Rückgängig und Wiederholen gehen nur für sich allein"),
    "nothing to undo": ("there is nothing to undo", "es gibt nichts rückgängig zu machen"),
    "nothing to redo": ("there is nothing to redo", "es gibt nichts zu wiederholen"),
    "has no place yet": ("{0} has no place yet", "{0} hat noch keinen Platz"),
    "number": ("that needs other things to relate: {1}", "dafür braucht es andere Dinge: {1}"),
    "rooms and plots stay where they are": ("rooms and gardens cannot be moved", "Räume und Gärten lassen sich nicht verschieben"),
    "doors and windows have no colour": ("doors and windows have no colour", "Türen und Fenster haben keine Farbe"),
    "x and z belong together": ("a place needs both coordinates", "ein Platz braucht beide Koordinaten"),
    "no room or plot": ("there is no room or garden yet", "es gibt noch keinen Raum und keinen Garten"),
}  # fmt: skip


@dataclass(frozen=True)
class _Voice:
    """Says the names of what is in a scene."""

    scene: Scene
    language: Language

    def word(self, name: str) -> Word:
        kind = name.rstrip("0123456789")
        if kind in KINDS:
            return (KINDS[kind].en if self.language == "en" else KINDS[kind].de)[0]
        if kind in _PLACES:
            return _PLACES[kind][self.language == "de"]
        return Word(kind, kind, "das" if self.language == "de" else "")

    def the(self, name: str, case: str = "nominative") -> str:
        """ "the chair", "chair 2" where there are several."""
        word, kind = self.word(name), name.rstrip("0123456789")
        scene = self.scene
        alike = [part.id for parts in (scene.rooms, scene.plots, scene.openings, scene.lights) for part in parts]
        alike = [other for other in (*alike, *(thing.id for thing in scene.objects)) if other.rstrip("0123456789") == kind]
        number = f" {name[len(kind):]}" if set(alike) - {name} or not name.endswith(f"{kind}1") else ""
        if self.language == "en":
            return f"{word.one}{number}" if number else f"the {word.one}"
        return f"{_article(word, case)} {word.one}{number}"

    def several(self, names: Sequence[str], case: str = "nominative") -> str:
        return _list([self.the(name, case) for name in names], self.language)


def _article(word: Word, case: str) -> str:
    return _ARTICLES[case][("der", "die", "das").index(word.gender or "das")]


def _list(parts: Sequence[str], language: Language) -> str:
    last = "and" if language == "en" else "und"
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _short(text: str) -> str:
    for long, short in _SHORT.items():
        text = text.replace(f" {long} ", f" {short} ")
    return text


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def relation(said: Relation, scene: Scene, language: Language) -> str:
    """ "the lamp is on the table", without a full stop."""
    voice = _Voice(scene, language)
    who = voice.several(said.subjects)
    is_are = ("is", "are") if language == "en" else ("ist", "sind")
    verb = is_are[len(said.subjects) > 1]
    if said.kind in ("against_wall", "in_corner"):
        return f"{who} {verb} {_at_wall(said, voice)}"
    case = "accusative" if said.kind == "around" else "dative"
    of = [voice.the(name, case) for name in said.of] or [voice.the(_around(said, scene), "dative")]
    own = said.frame == "object" and all(name.rstrip("0123456789") in KINDS for name in said.of)
    template = (_OWN.get(said.kind) if own else None) or _SAID[said.kind]
    return _short(f"{who} {verb} " + template[language == "de"].format(*of))


def _around(said: Relation, scene: Scene) -> str:
    """The id of the room or garden that the first subject stands in; of the first there is, if it has no place."""
    known = bodies(scene)
    there = area_of(known[said.subjects[0]], known) if said.subjects[0] in known else None
    return there or next((area.id for areas in (scene.rooms, scene.plots) for area in areas), "room1")


def _at_wall(said: Relation, voice: _Voice) -> str:
    english = voice.language == "en"
    side = _SIDES[voice.language][said.side] if said.side else ""
    if said.kind == "in_corner":
        if not side:
            return "in a corner" if english else "in einer Ecke"
        return f"in a corner of the {side} wall" if english else f"in einer Ecke der {side}wand"
    if not side:
        return "against a wall" if english else "an einer Wand"
    return f"against the {side} wall" if english else f"an der {side}wand"


def describe(scene: Scene, language: Language = "en") -> str:
    """What one would say of a scene, in a minute at most."""
    english, voice = language == "en", _Voice(scene, language)
    if not (scene.rooms or scene.plots):
        return "There is nothing here yet." if english else "Hier ist noch nichts."
    said = []
    areas: list[Room | Plot] = [*scene.rooms, *scene.plots]
    for area in areas:
        size = (f"{_metres(area.w, language)} by {_metres(area.d, language)} metres" if english
                else f"{_metres(area.w, language)} mal {_metres(area.d, language)} Meter")  # fmt: skip
        holes = [_hole(opening.kind, opening.side, language) for opening in scene.openings if opening.room == area.id]
        measures = f"{voice.the(area.id)} {'measures' if english else 'misst'} {size}"
        if holes:
            measures += f"; {'it has' if english else 'es gibt dort'} {_list(holes[:4], language)}"
        said.append(_sentence(measures))
    groups = _groups(scene.objects, language)
    if groups:
        more = len(groups) - MOST
        rest = f"{more} more kinds of things" if english else f"{more} weitere Arten von Dingen"
        listed = groups[:MOST] + ([rest] if more > 0 else [])
        said.append(_sentence(f"{'you see' if english else 'man sieht'} {_list(listed, language)}"))
    told = scene.relations[:6]
    said += [_sentence(relation(one, scene, language)) for one in told]
    spoken = {name for one in told if one.kind in ("on", "inside") for name in one.subjects}
    objects = {thing.id for thing in scene.objects}
    for thing in [thing for thing in scene.objects if thing.on in objects and thing.id not in spoken][: 6 - len(told)]:
        said.append(_sentence(relation(Relation(kind="on", subjects=(thing.id,), of=(thing.on,)), scene, language)))
    if scene.sky.time != "day":
        night = scene.sky.time == "night"
        said.append(("It is night." if night else "It is dusk.") if english else ("Es ist Nacht." if night else "Es dämmert."))
    return " ".join(said)


def _metres(length: int, language: Language) -> str:
    text = f"{length / 100:.1f}".rstrip("0").rstrip(".")
    return text if language == "en" else text.replace(".", ",")


def _hole(kind: str, side: str, language: Language) -> str:
    if language == "en":
        return f"a {kind} in the {side} wall"
    return f"{'eine Tür' if kind == 'door' else 'ein Fenster'} in der {_SIDES['de'][side]}wand"


def _groups(objects: Sequence[Object], language: Language) -> list[str]:
    """ "two red chairs", colours only where they are not the usual ones."""
    counts: dict[tuple[str, str], int] = {}
    for thing in objects:
        colour = "" if thing.kind not in KINDS or thing.colour == KINDS[thing.kind].colour else thing.colour
        counts[thing.kind, colour] = counts.get((thing.kind, colour), 0) + 1
    return [_group(kind, colour, count, language) for (kind, colour), count in counts.items() if kind in KINDS]


@lru_cache(maxsize=4096)
def _group(kind: str, colour: str, count: int, language: Language) -> str:
    word = (KINDS[kind].en if language == "en" else KINDS[kind].de)[0]
    number = _NUMBERS[language][count] if count < 13 else str(count)
    hue = COLOURS.get(colour)
    if language == "en":
        name = hue.en[0] if hue else ""
        rest = f"{name} {word.one if count == 1 else word.many}".strip()
        return f"{'an' if rest[0] in 'aeiou' else 'a'} {rest}" if count == 1 else f"{number} {rest}"
    feminine = word.gender == "die"  # what one sees stands in the accusative
    ending = "e" if count > 1 or feminine else "es" if word.gender == "das" else "en"
    name = "" if hue is None else hue.de[0] + ("" if hue.fixed else ending)
    if count > 1:
        return " ".join(filter(None, (number, name, word.many)))
    return " ".join(filter(None, ("eine" if feminine else "ein" if word.gender == "das" else "einen", name, word.one)))


def requirement(asked: Requirement, scene: Scene, language: Language) -> str:
    """One requirement as a clause: "the sofa needs room of its own"."""
    english, voice, ids = language == "en", _Voice(scene, language), asked.ids

    def either(in_english: str, in_german: str) -> str:
        return in_english if english else _short(in_german)

    match asked.kind:
        case "relation" if asked.relation is not None:
            return relation(asked.relation, scene, language)
        case "room_for" if asked.detail in _INVALID:
            return _INVALID[asked.detail][not english]
        case "room_for" if len(ids) > 1:
            return either(f"{voice.the(ids[0])} needs room in {voice.the(ids[1])}",
                          f"{voice.the(ids[0])} braucht Platz in {voice.the(ids[1], 'dative')}")  # fmt: skip
        case "room_for":
            return either(f"{voice.the(ids[0])} needs room of its own", f"{voice.the(ids[0])} braucht eigenen Platz")
        case "place":
            return either(f"{voice.the(ids[0])} is to go exactly there", f"{voice.the(ids[0])} soll genau dorthin")
        case "stays":
            return either("everything else stays where it is", "alles andere bleibt, wo es ist")
        case "opening" if asked.detail:
            side = _SIDES[language][asked.detail]
            return either(f"{voice.the(ids[0])} needs a free place in the {side} wall of {voice.the(ids[1])}",
                          f"{voice.the(ids[0])} braucht Platz in der {side}wand von {voice.the(ids[1], 'dative')}")  # fmt: skip
        case "opening":
            return either(f"{voice.the(ids[0])} is kept clear", f"{voice.the(ids[0])} bleibt frei")
        case "walk":
            return either(f"one can walk to everything in {voice.the(ids[0])}",
                          f"man kommt in {voice.the(ids[0], 'dative')} überall hin")  # fmt: skip
        case "known" if asked.detail == "taken":
            return either(f"there already is {ids[0]}", f"{ids[0]} gibt es schon")
        case "known":
            number = ids[0].lstrip("abcdefghijklmnopqrstuvwxyz_")
            name = f"{voice.word(ids[0]).one} {number}"
            return either(f"there is no {name}", f"{name} gibt es nicht")
        case "size":
            return either(f"{voice.the(ids[0])} would be too large or too small", f"{voice.the(ids[0])} wäre zu groß oder zu klein")
    named = voice.several(ids) if ids else ""
    plain = f"{', '.join(ids)}: {asked.detail}" if ids else asked.detail
    text = _INVALID.get(asked.detail, (plain, plain))[not english]
    return text.format(f"{ids[0]!r}" if asked.detail.startswith("unknown") and ids else named, named)


def conflict(found: Conflict, scene: Scene, language: Language = "en") -> str:
    """Why a request was not done, in a sentence or two."""
    english = language == "en"
    clauses = [requirement(asked, scene, language) for asked in found.requirements]
    only = found.requirements[0]
    nothing = "Nothing was changed." if english else "Es wurde nichts verändert."
    if len(clauses) == 1 and only.kind in ("room_for", "relation", "place") and only.detail not in _INVALID:
        return f"{'That is not possible here:' if english else 'Das geht hier nicht:'} {clauses[0]}. {nothing}"
    if len(clauses) == 1:
        return f"{_sentence(clauses[0])} {nothing}"
    listed = ("; and " if english else "; und ").join(["; ".join(clauses[:-1]), clauses[-1]])
    if found.proved:
        return f"{'This cannot all be at once:' if english else 'Das geht nicht alles zugleich:'} {listed}. {nothing}"
    return f"{'I found no way to have all of this:' if english else 'Ich fand keinen Weg zu alledem:'} {listed}. {nothing}"
