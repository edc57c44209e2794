"""The line language: how a model says ops in few tokens. `read(text, scene)` and `write(ops, scene)` are exact inverses.

A reply is lines of one of these forms; what stands in brackets may be left out, in the order given.

    2 armchair [red] [leather] [150%] [of room1] [x 100] [z -50] [turn 90]      two more armchairs
    1 room [small|large|huge] [white] [wood] [w 350] [h 250] [d 300] [west] [of room1]
    1 plot [small|large|huge] [grass] [w 900] [d 900] [north] [of room1]
    1 door south [of room1] [at 50] [w 90] [h 200] [sill 0]                     window likewise
    1 light [red] [of room1] [lumen 400]
    sky night [cloudy]
    remove lamp1
    lamp1 move 50 0 -20          lamp1 turn 90          lamp1 scale 150 [width]          lamp1 red [wood]
    armchair1 facing fireplace1      rug1 between armchair1 sofa1      shelf1 wall [room1] [north]      lamp1 left sofa1 [viewer]
    undo        redo        nothing

A thing is named by its id, written with blanks (`coffee table1`); by its kind alone, which means all there are of that kind now
(`armchair facing fireplace`); by a range (`chair1-3`); several names are joined by +. New things get the next free numbers; `2
chair7` fixes them. Each line sees what the lines before it made. The shortest form is the canonical one: it is what `write` gives.

Nothing here is ever run: a line that has none of these forms is a `Misread`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from ownship.surfaces.worlds.catalogue import COLOURS, GROUNDS, KINDS, MATERIALS
from ownship.surfaces.worlds.names import Names, kind_of, number_of, spoken
from ownship.surfaces.worlds.types import (
    OPS,
    Add,
    AddLight,
    AddOpening,
    AddPlot,
    AddRoom,
    Axis,
    Move,
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

# Each a single token of SmolLM2's tokenizer, as is every word of the language that is not the name of something.
WORDS: Mapping[str, RelationKind] = {
    "on": "on", "under": "under", "above": "above", "in": "inside", "by": "next_to", "near": "near", "far": "far",
    "left": "left_of", "right": "right_of", "front": "in_front_of", "behind": "behind", "between": "between", "facing": "facing",
    "wall": "against_wall", "corner": "in_corner", "around": "around", "row": "aligned", "middle": "centred"}
SAID: Mapping[RelationKind, str] = {kind: word for word, kind in WORDS.items()}
SIDED: tuple[RelationKind, ...] = ("left_of", "right_of", "in_front_of", "behind")  # to which `frame` matters
SIDES = get_args(Side)
AXES = get_args(Axis)[1:]
# What a size in words means, in centimetres: width and depth.
SIZES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "room": {"small": (300, 350), "large": (600, 500), "huge": (900, 800)},
    "plot": {"small": (700, 700), "large": (2000, 1500), "huge": (4000, 3000)}}
FIXTURES = ("room", "plot", "door", "window", "light")  # kinds that the catalogue does not have
NOTHING = "nothing"
MAX_LINE = 400  # characters
_NUMBER = re.compile(r"-?\d{1,5}")


class Misread(Exception):
    """A line that is none. `line` is its number from 1; the text says what is wrong, for people."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line


# Reading


class _Line:
    """The words of one line, taken one after the other."""

    def __init__(self, text: str, names: Names, number: int) -> None:
        self.words, self.names, self.number = text.split(), names, number

    def fail(self, reason: str) -> Misread:
        return Misread(self.number, reason)

    def take(self, *words: str) -> str | None:
        return self.words.pop(0) if self.words and self.words[0] in words else None

    def value(self, key: str) -> int | None:
        """The number behind a key word, if that word is next."""
        return self.whole() if self.take(key) else None

    def whole(self) -> int:
        if not self.words or not _NUMBER.fullmatch(self.words[0]):
            raise self.fail(f"a number is missing{self._before()}")
        return int(self.words.pop(0))

    def name(self, kinds: Mapping[str, Any]) -> tuple[str, str] | None:
        """A name of one or several words: the kind, and the rest of it ("", "3" or "3-5"). The longest counts."""
        for size in range(min(3, len(self.words)), 0, -1):
            match = re.fullmatch(r"([a-z_]+?)(\d{1,4}(?:-\d{1,4})?)?", "_".join(self.words[:size]))
            if match and match[1] in kinds:
                del self.words[:size]
                return match[1], match[2] or ""
        return None

    def things(self, one: bool = False) -> list[str]:
        """The ids that a name stands for. All must exist."""
        kinds = self.names.ids
        joined: list[str] = []
        if self.words:
            # a + may only stand between names: "chair1+coffee table+sofa"
            self.words = " ".join(self.words).replace("+", " + ").split()
        while True:
            found = self.name(kinds)
            if found is None:
                raise self.fail(f"there is no {self.words[0]!r}" if self.words else f"a name is missing{self._before()}")
            kind, numbers = found
            first, _, last = numbers.partition("-")
            ids = [f"{kind}{n}" for n in range(int(first), int(last or first) + 1)] if numbers else list(kinds[kind])
            if not ids or len(ids) > OPS:
                raise self.fail(f"there is no {spoken(kind)}{numbers}")
            if missing := [id for id in ids if id not in self.names]:
                raise self.fail(f"there is no {spoken(missing[0])}")
            joined += ids
            if not self.take("+"):
                break
        if len(set(joined)) < len(joined):
            raise self.fail("something is named twice")
        if one and len(joined) != 1:
            raise self.fail(f"one thing is meant, not {len(joined)}")
        return joined

    def end(self) -> None:
        if self.words:
            raise self.fail(f"{' '.join(self.words)!r} cannot be understood here")

    def _before(self) -> str:
        return f" before {self.words[0]!r}" if self.words else " at the end"


def read(text: str, scene: Scene | Names) -> tuple[Op, ...]:
    """The ops that the lines say in this scene. Raises Misread."""
    names = scene.copy() if isinstance(scene, Names) else Names(scene)
    return tuple(op for ops in stepwise(text, names) for op in ops)


def stepwise(text: str, names: Names) -> Iterator[list[Op]]:
    """Line by line, so that the lines before a bad one can be used; `names` follows. Raises Misread at that line."""
    count = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE:
            raise Misread(number, f"longer than {MAX_LINE} characters")
        try:
            ops = _read_line(_Line(line, names, number))
        except ValidationError as error:
            raise Misread(number, _first(error)) from None
        if (count := count + len(ops)) > OPS:
            raise Misread(number, f"more than {OPS} ops")
        for op in ops:
            names.follow(op)
        yield ops


def _read_line(line: _Line) -> list[Op]:
    if line.words == [NOTHING]:
        return []
    if line.words in (["undo"], ["redo"]):
        return [Undo() if line.words == ["undo"] else Redo()]
    if re.fullmatch(r"\d{1,3}", line.words[0]):
        return _read_add(line)
    if line.take("sky"):
        time, weather = line.take("day", "dusk", "night"), line.take("clear", "cloudy")
        line.end()
        return [SetSky(**_given(time=time, weather=weather))]
    if line.take("remove"):
        ids = line.things()
        line.end()
        return [Remove(id=id) for id in ids]
    ids = line.things()
    if not line.words:
        raise line.fail("what is to be done with it is missing")
    make: Callable[[str], Op]
    if line.take("move"):
        dx, dy, dz = line.whole(), line.whole(), line.whole()
        make = lambda id: Move(id=id, dx=dx, dy=dy, dz=dz)  # noqa: E731
    elif line.take("turn"):
        by = line.whole()
        make = lambda id: Rotate(id=id, by=by)  # noqa: E731
    elif line.take("scale"):
        percent, axis = line.whole(), line.take(*AXES)
        make = lambda id: Scale(id=id, percent=percent, **_given(axis=axis))  # noqa: E731
    elif line.words[0] in WORDS:
        return [Relate(relation=_read_relation(line, ids))]
    else:
        colour, material = line.take(*COLOURS), line.take(*MATERIALS, *GROUNDS)
        if colour is None and material is None:
            raise line.fail(f"{line.words[0]!r} is neither a relation nor a colour nor a material")
        make = lambda id: Recolour(id=id, colour=colour, material=material)  # noqa: E731
    line.end()
    return [make(id) for id in ids]


def _read_relation(line: _Line, subjects: list[str]) -> Relation:
    kind = WORDS[line.words.pop(0)]
    of: list[str] = []
    while line.words and line.words[0] not in ("viewer", *SIDES) and len(of) < 3:
        of += line.things()
    fields = _given(frame=line.take("viewer"), side=line.take(*SIDES))
    line.end()
    return Relation(kind=kind, subjects=tuple(subjects), of=tuple(of), **fields)


def _read_add(line: _Line) -> list[Op]:
    count = int(line.words.pop(0))
    found = line.name({**dict.fromkeys(FIXTURES), **KINDS})
    if found is None:
        raise line.fail(f"{line.words[0]!r} is not a kind of thing" if line.words else "what is to be added is missing")
    kind, numbers = found
    if not 1 <= count <= OPS or "-" in numbers:
        raise line.fail(f"1 to {OPS} things can be added at once")
    first = int(numbers) if numbers else line.names.next(kind)
    ids = [f"{kind}{first + index}" for index in range(count)]
    if taken := [id for id in ids if id in line.names]:
        raise line.fail(f"there is a {spoken(taken[0])} already")
    make: Callable[..., Op]
    if kind in SIZES:
        size = SIZES[kind].get(line.take(*SIZES[kind]) or "", (None, None))
        look = (_given(wall=line.take(*COLOURS), floor=line.take(*GROUNDS)) if kind == "room"
                else _given(ground=line.take(*GROUNDS)))
        fields = look | _given(w=size[0], d=size[1]) | _given(w=line.value("w"))
        if kind == "room":
            fields |= _given(h=line.value("h"))
        fields |= _given(d=line.value("d"))
        fields |= _given(side=line.take(*SIDES)) | _given(beside=_of(line))
        make = AddRoom if kind == "room" else AddPlot
    elif kind in ("door", "window"):
        if (side := line.take(*SIDES)) is None:
            raise line.fail(f"the wall is missing: one of {', '.join(SIDES)}")
        room = _of(line) or (line.names.ids.get("room") or [""])[-1]
        if not room:
            raise line.fail(f"there is no room for the {kind}")
        fields = {"kind": kind, "side": side, "room": room} | _given(**{key: line.value(key) for key in ("at", "w", "h", "sill")})
        make = AddOpening
    elif kind == "light":
        fields = _given(colour=line.take(*COLOURS)) | _given(room=_of(line) or (line.names.ids.get("room") or [""])[-1])
        fields |= _given(strength=line.value("lumen"))
        make = AddLight
    else:
        fields = {"kind": kind} | _given(colour=line.take(*COLOURS), material=line.take(*MATERIALS))
        if line.words and re.fullmatch(r"\d{1,4}%", line.words[0]):
            fields["percent"] = int(line.words.pop(0)[:-1])
        fields |= _given(area=_of(line)) | _given(**{key: line.value(key) for key in ("x", "z", "turn")})
        make = Add
    line.end()
    return [make(id=id, **fields) for id in ids]


def _of(line: _Line) -> str | None:
    return line.things(one=True)[0] if line.take("of") else None


def _given(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


# Writing


def write(ops: Sequence[Op], scene: Scene | Names) -> str:
    """The ops as lines, to be read in this scene. `nothing` if there are none."""
    names = scene.copy() if isinstance(scene, Names) else Names(scene)
    lines: list[str] = []
    rest = list(ops)
    while rest:
        same = _alike(rest)
        line = _write(rest[:same], names)
        while line is None:  # these ids have no common name
            same -= 1
            line = _write(rest[:same], names)
        lines.append(line)
        for op in rest[:same]:
            names.follow(op)
        del rest[:same]
    return "\n".join(lines) or NOTHING


def _alike(ops: Sequence[Op]) -> int:
    """How many ops, from the first on, differ in nothing but the id."""
    first = ops[0]
    if not hasattr(first, "id"):
        return 1
    count = 1
    while count < len(ops) and ops[count] == first.model_copy(update={"id": getattr(ops[count], "id", "")}):
        count += 1
    return count


def _write(ops: Sequence[Op], names: Names) -> str | None:
    """One line for ops that are alike, or None if one name does not say all their ids."""
    op = ops[0]
    match op:
        case Undo() | Redo():
            return op.op
        case SetSky():
            return _joined("sky", op.time, "cloudy" if op.weather == "cloudy" else "")
        case AddRoom() | AddPlot() | AddOpening() | AddLight() | Add():
            return _write_add(ops, names)
        case Relate():
            return _write_relation(op.relation, names)
    ids = [other.id for other in ops]  # type: ignore[union-attr]
    short = names.short(ids)
    if len(short) != 1:
        return None
    match op:
        case Remove():
            return f"remove {short[0]}"
        case Move():
            return f"{short[0]} move {op.dx} {op.dy} {op.dz}"
        case Rotate():
            return f"{short[0]} turn {op.by}"
        case Scale():
            return _joined(short[0], "scale", op.percent, "" if op.axis == "all" else op.axis)
        case Recolour():
            return _joined(short[0], op.colour or "", op.material or "")
    raise ValueError(f"no line says {op}")


def _write_relation(relation: Relation, names: Names) -> str:
    # "between chair" says the same as "between chair1 chair2"; a + would make one name of two
    return _joined("+".join(names.short(relation.subjects)), SAID[relation.kind], *names.short(relation.of),
                   "viewer" if relation.frame == "viewer" else "", relation.side or "")


def _write_add(ops: Sequence[Op], names: Names) -> str | None:
    op = ops[0]
    assert isinstance(op, AddRoom | AddPlot | AddOpening | AddLight | Add)
    kind, first = kind_of(op.id), number_of(op.id)
    if [other.id for other in ops] != [f"{kind}{first + index}" for index in range(len(ops))]:  # type: ignore[union-attr]
        return None
    head = [str(len(ops)), spoken(kind) + ("" if first == names.next(kind) else str(first))]
    rooms = names.ids.get("room") or [""]

    def of(id: str | None, default: str | None = None) -> str:
        return "" if id is None or id == default else f"of {names.short([id])[0]}"

    match op:
        case AddRoom() | AddPlot():
            default = type(op).model_fields
            size = next((word for word, (w, d) in SIZES[kind].items() if (w, d) == (op.w, op.d)), "")

            def length(key: str) -> str:
                value = getattr(op, key)
                return "" if value == default[key].default or (size and key != "h") else f"{key} {value}"

            look = [_unless(op.ground, "grass"), length("w")] if isinstance(op, AddPlot) else [
                _unless(op.wall, "white"), _unless(op.floor, "wood"), length("w"), length("h")]
            return _joined(*head, size, *look, length("d"), _unless(op.side, default["side"].default), of(op.beside))
        case AddOpening():
            return _joined(*head, op.side, of(op.room, rooms[-1]), *_keys(op, "at", "w", "h", "sill"))
        case AddLight():
            return _joined(*head, _unless(op.colour, "white"), of(op.room, rooms[-1]), *(
                [] if op.strength == 800 else [f"lumen {op.strength}"]))
        case Add():
            return _joined(*head, op.colour or "", op.material or "", "" if op.percent == 100 else f"{op.percent}%", of(op.area),
                           *_keys(op, "x", "z", "turn"))


def _unless(value: str, default: str) -> str:
    return "" if value == default else value


def _keys(op: Op, *keys: str) -> list[str]:
    return [f"{key} {getattr(op, key)}" for key in keys if getattr(op, key) is not None]


def _joined(*words: object) -> str:
    return " ".join(str(word) for word in words if word != "")
