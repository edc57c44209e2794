"""What a model may say now: one line, compiled from the present state to a Lark grammar.

A line can name only kinds, colours, materials and relations that exist, and only things that exist at that line: those of the
scene and those that the lines before it have made. So a reply is said line by line (model.py), each line with the grammar of the
state before it, and whatever the model is, every reply can be read (lines.py) and names nothing that is not there.

It says less than lines.py can read: no coordinates and no freely joined names. The model decides, code does the arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from ownship.surfaces.worlds.catalogue import COLOURS, GROUNDS, KINDS, MATERIALS
from ownship.surfaces.worlds.lines import NOTHING, SAID, SIDED, SIDES, SIZES
from ownship.surfaces.worlds.names import Names, number_of, spoken
from ownship.surfaces.worlds.types import OBJECTS, RelationKind

MAX_COUNT = 12  # of things that one line may add
MAX_ROOMS = 8
_NAMED = 120  # ids of one kind that get names of their own; more are named all together or by the first ones
_RANGES = 12  # ids of one kind between which ranges are offered: their number grows with the square
_PERCENT = (50, 60, 70, 80, 90, 110, 120, 130, 150, 200, 300)
_DEGREES = (45, 90, 135, 180, 225, 270, 315)
_CENTIMETRES = "/[2-9][05]0|1[0-4][05]0/"


def line(names: Names, first: bool = True, last: bool = False) -> str:
    """The grammar of the next line, its line break included; without one it is the reply's last (`last`: it has to be).

    `first`: nothing has been said yet, so that the reply may still be `nothing`.
    """
    rules: dict[str, str] = {
        "COLOUR": _any(COLOURS), "MATERIAL": _any(MATERIALS), "GROUND": _any(GROUNDS), "SIDE": _any(SIDES),
        "SIZE": _any(SIZES["room"]), "CM": _CENTIMETRES, "PERCENT": _any(map(str, _PERCENT)), "DEGREES": _any(map(str, _DEGREES))}
    forms = _adds(names, rules) + _changes(names, rules) + _relations(names, rules)
    if first:
        forms.append(json.dumps(NOTHING))
    rules["FORM"] = "\n  | ".join(forms)
    return "\n".join(["start: LINE", 'LINE: FORM "\\n"?' if not last else "LINE: FORM", *(f"{name}: {text}" for name, text in
                                                                                          rules.items())])


def _adds(names: Names, rules: dict[str, str]) -> list[str]:
    present = sum(len(ids) for kind, ids in names.ids.items() if kind in KINDS)
    most = min(MAX_COUNT, OBJECTS - present)
    rooms = names.ids.get("room", [])
    lands = rooms + names.ids.get("plot", [])
    forms = []
    of = ""
    if lands:
        rules["LAND"] = _any(_single(names, ("room", "plot")))
        of = '(" of " LAND)?'
    if most > 0:
        rules["COUNT"] = _any(str(count) for count in range(1, most + 1))
        rules["KIND"] = _any(map(spoken, KINDS))
        forms.append(f'COUNT " " KIND (" " COLOUR)? (" " MATERIAL)? (" " PERCENT "%")? {of if len(lands) > 1 else ""}')
    beside = f'(" " SIDE)? {of}' if lands else ""
    if len(rooms) < MAX_ROOMS:
        forms.append(f'"1 room" (" " SIZE)? (" " COLOUR)? (" " GROUND)? (" w " CM)? (" d " CM)? {beside}')
    if len(lands) - len(rooms) < MAX_ROOMS:
        forms.append(f'"1 plot" (" " SIZE)? (" " GROUND)? {beside}')
    if rooms:
        rules["ROOM"] = _any(_single(names, ("room",)))
        which = '(" of " ROOM)?' if len(rooms) > 1 else ""
        forms += [f'/[1-4]/ (" door " | " window ") SIDE {which}', f'"1 light" (" " COLOUR)? {which}']
    forms.append('"sky " ("day" | "dusk" | "night") (" cloudy")?')
    return forms


def _changes(names: Names, rules: dict[str, str]) -> list[str]:
    objects = [kind for kind in names.ids if kind in KINDS]
    forms = []
    if every := [kind for kind, ids in names.ids.items() if ids]:
        rules["ANY"] = _any(_several(names, every))
        forms.append('"remove " ANY')
    if some := _several(names, objects):
        rules["THING"] = _any(some)
        forms += ['THING " turn " DEGREES', 'THING " scale " PERCENT (" width" | " height" | " depth")?']
        forms += ['THING " " COLOUR (" " MATERIAL)?', 'THING " " MATERIAL']
    if rooms := _single(names, ("room",)):
        forms += [f'({_any(rooms)}) " " COLOUR (" " GROUND)?', f'({_any(rooms)}) " " GROUND']
    if plots := _single(names, ("plot",)):
        forms.append(f'({_any(plots)}) " " GROUND')
    return forms


def _relations(names: Names, rules: dict[str, str]) -> list[str]:
    """Which relations fit which things: a vase stands on what has a surface, a tree does not face anything."""
    objects = [kind for kind in names.ids if kind in KINDS]
    subjects = _several(names, objects)
    if not subjects:
        return []
    rules["SUBJECT"] = _any(subjects)
    groups: dict[str, list[str]] = {
        "REFERENCE": _single(names, names.ids),
        "BEARER": _single(names, (kind for kind in objects if KINDS[kind].surfaces)),
        "HOLLOW": _single(names, (kind for kind in objects if KINDS[kind].inside)) + _single(names, ("room", "plot")),
        "FRONTED": _several(names, [kind for kind in objects if KINDS[kind].front]),
        "GROUP": _several(names, objects, least=2),
        "PAIR": _several(names, objects, least=2, most=2)}
    for name, texts in groups.items():
        if texts:
            rules[name] = _any(texts)

    def form(subject: str, kind: RelationKind, rest: str, *needed: str) -> list[str]:
        return [f'{subject} " {SAID[kind]}" {rest}'] if all(groups.get(name, True) for name in needed) else []

    forms = form("SUBJECT", "on", '" " BEARER', "BEARER") + form("SUBJECT", "inside", '" " HOLLOW', "HOLLOW")
    forms += form("FRONTED", "facing", '" " REFERENCE', "FRONTED")
    plain: tuple[RelationKind, ...] = ("under", "above", "next_to", "near", "far")
    for kind in plain:
        forms += form("SUBJECT", kind, '" " REFERENCE')
    for kind in SIDED:
        forms += form("SUBJECT", kind, '" " REFERENCE " viewer"?')
    room = '(" " ROOM)?' if len(names.ids.get("room", ())) > 1 else ""
    if "ROOM" in rules:
        forms += form("SUBJECT", "against_wall", f'{room} (" " SIDE)?') + form("SUBJECT", "in_corner", room)
    forms += form("SUBJECT", "centred", '(" " REFERENCE)?')
    forms += form("SUBJECT", "between", '" " REFERENCE " " REFERENCE') + form("SUBJECT", "between", '" " PAIR', "PAIR")
    return forms + form("GROUP", "around", '" " REFERENCE', "GROUP") + form("GROUP", "aligned", "", "GROUP")


def _single(names: Names, kinds: Iterable[str]) -> list[str]:
    """Names that mean one thing each."""
    found = []
    for kind in kinds:
        ids = names.ids.get(kind, [])
        found += [spoken(kind)] if len(ids) == 1 else []
        found += [spoken(id) for id in ids[:_NAMED]]
    return found


def _several(names: Names, kinds: Iterable[str], least: int = 1, most: int = 1 << 20) -> list[str]:
    """Names that mean `least` to `most` things of one kind."""
    found = []
    for kind in kinds:
        ids = names.ids[kind]
        if least <= len(ids) <= most:
            found.append(spoken(kind))
        if least == 1:
            found += [spoken(id) for id in ids[:_NAMED]]
        numbers = [number_of(id) for id in ids[:_RANGES]]
        for start in range(len(numbers)):
            for end in range(start + 1, len(numbers)):
                size = end - start + 1
                if numbers[end] - numbers[start] != end - start:
                    break
                if least <= size <= most:
                    found.append(f"{spoken(ids[start])}-{numbers[end]}")
    return found


def _any(texts: Iterable[str] | Mapping[str, object]) -> str:
    return " | ".join(json.dumps(text) for text in texts)
