"""The ways to say things in English and German, as tables. The last quarter of each is never trained on: `known`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from ownship.surfaces.worlds.types import Language, RelationKind

Case = Literal["nom", "acc", "dat"]
T = TypeVar("T")

NUMBERS: dict[Language, tuple[str, ...]] = {
    "en": ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    "de": ("kein", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf")}

# The relation between a subject and what it is said with reference to; German ones with the case they take of it.
EN: dict[RelationKind, tuple[str, ...]] = {
    "on": ("on", "on", "on top of", "resting on"), "under": ("under", "underneath", "below", "beneath"),
    "above": ("above", "over", "hanging over"), "inside": ("in", "inside", "within"),
    "next_to": ("next to", "beside", "right next to", "alongside"), "near": ("near", "close to", "not far from", "in reach of"),
    "far": ("far from", "far away from", "a long way from"),
    "left_of": ("left of", "to the left of", "on the left side of"),
    "right_of": ("right of", "to the right of", "on the right side of"),
    "in_front_of": ("in front of", "right in front of"), "behind": ("behind", "right behind"),
    "between": ("between", "in between"), "facing": ("facing", "turned towards", "looking at", "pointing at"),
    "around": ("around", "all around", "surrounding"),
    "against_wall": ("against the wall", "against a wall", "along the wall", "at a wall"),
    "in_corner": ("in a corner", "in the corner", "tucked into a corner"), "aligned": ("in a row", "in a line", "lined up"),
    "centred": ("in the middle", "in the centre", "right in the middle")}
DE: dict[RelationKind, tuple[tuple[str, Case], ...]] = {
    "on": (("auf", "dat"), ("oben auf", "dat")), "under": (("unter", "dat"), ("unterhalb von", "dat")),
    "above": (("über", "dat"), ("oberhalb von", "dat")), "inside": (("in", "dat"),),
    "next_to": (("neben", "dat"), ("direkt neben", "dat"), ("dicht neben", "dat")),
    "near": (("nahe bei", "dat"), ("in der Nähe von", "dat"), ("unweit von", "dat")),
    "far": (("weit weg von", "dat"), ("weit entfernt von", "dat"), ("fern von", "dat")),
    "left_of": (("links von", "dat"), ("links neben", "dat"), ("auf der linken Seite von", "dat")),
    "right_of": (("rechts von", "dat"), ("rechts neben", "dat"), ("auf der rechten Seite von", "dat")),
    "in_front_of": (("vor", "dat"), ("direkt vor", "dat")), "behind": (("hinter", "dat"), ("direkt hinter", "dat")),
    "between": (("zwischen", "dat"),), "facing": (("mit Blick auf", "acc"), ("gerichtet auf", "acc"), ("ausgerichtet auf", "acc")),
    "around": (("rund um", "acc"), ("rings um", "acc"), ("rundherum um", "acc")),
    "against_wall": (("an der Wand", "dat"), ("an einer Wand", "dat"), ("entlang der Wand", "dat")),
    "in_corner": (("in einer Ecke", "dat"), ("in der Ecke", "dat"), ("in irgendeiner Ecke", "dat")),
    "aligned": (("in einer Reihe", "dat"), ("in Reihe", "dat"), ("nebeneinander aufgereiht", "dat")),
    "centred": (("in der Mitte", "dat"), ("mittendrin", "dat"), ("genau in der Mitte", "dat"))}
SIDES_DE = {"north": "Nordwand", "east": "Ostwand", "south": "Südwand", "west": "Westwand"}
# "neben dem Sofa" is where it stands, "neben das Sofa" where it is put
PUT = ("unter", "auf", "oben auf", "über", "in", "neben", "direkt neben", "dicht neben", "vor", "direkt vor", "hinter",
        "direkt hinter", "zwischen", "links neben", "rechts neben")

PLACES = {
    ("en", "room"): ("room", "living room", "room", "bedroom", "study"), ("en", "plot"): ("garden", "yard", "park", "backyard"),
    ("de", "room"): ("der Raum", "das Zimmer", "das Wohnzimmer", "das Schlafzimmer"),
    ("de", "plot"): ("der Garten", "der Park", "der Hof", "der Innenhof")}
SIZES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {"small": ("small", "tiny", "little"), "large": ("large", "big", "spacious"), "huge": ("huge", "enormous", "gigantic")},
    "de": {"small": ("klein", "winzig", "kompakt"),
           "large": ("groß", "geräumig", "weitläufig"), "huge": ("riesig", "gewaltig", "gigantisch")}}
CHATTER = {
    "en": ("My aunt would love it.", "Thanks in advance!", "Please hurry.", "I have been dreaming of this for years.",
           "It is for a film.",
           "Nothing fancy.", "We are moving in on Monday.", "Take your time."),
    "de": ("Meine Tante kommt am Montag.", "Vielen Dank im Voraus!", "Bitte beeil dich.", "Davon träume ich schon lange.",
           "Es ist für einen Film.", "Lass dir Zeit.", "Nichts Besonderes.")}
BIGGER: dict[Language, dict[int, tuple[str, ...]]] = {
    "en": {50: ("make {} half as big", "halve the size of {}", "shrink {} to half its size"),
           80: ("make {} 20% smaller", "make {} 20 percent smaller", "shrink {} by 20%"),
           120: ("make {} 20% bigger", "make {} 20 percent larger", "enlarge {} by 20%"),
           150: ("make {} 50% bigger", "make {} one and a half times as big", "enlarge {} by half")},
    "de": {50: ("mach {} halb so groß", "halbiere {}", "verkleinere {} auf die Hälfte"),
           80: ("mach {} 20 % kleiner", "mach {} um 20 Prozent kleiner", "verkleinere {} um 20 %"),
           120: ("mach {} 20 % größer", "mach {} um 20 Prozent größer", "vergrößere {} um 20 %"),
           150: ("mach {} 50 % größer", "mach {} anderthalbmal so groß", "vergrößere {} um die Hälfte")}}


def known(forms: Sequence[T], new: bool = False) -> Sequence[T]:
    """Of several ways to say the same, those that models are trained on; `new`: the others, the last quarter of the table (one at
    least), with which only tests are worded. A single way is both."""
    cut = len(forms) - max(1, len(forms) // 4)
    return forms if len(forms) < 2 else forms[cut:] if new else forms[:cut]
