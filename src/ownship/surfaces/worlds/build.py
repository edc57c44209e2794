"""Words → decide → ops → solve → a world, and its files: what page, HTTP and command line have in common.

    world = build("a small living room with two armchairs facing a fireplace")
    Path("room.glb").write_bytes(glb(world.scene))
    world = build("move the fireplace to the north wall", world.history)
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ownship.errors import UserError
from ownship.surfaces.worlds import describe, lines, parser, picture, pipeline, prompt
from ownship.surfaces.worlds.catalogue import COLOURS, GROUNDS, KINDS, MATERIALS
from ownship.surfaces.worlds.gltf import glb
from ownship.surfaces.worlds.names import kind_of, number_of, spoken
from ownship.surfaces.worlds.space import problems
from ownship.surfaces.worlds.types import History, Language, Result, Scene, dumps

__all__ = ["World", "build", "called", "check", "description", "glb", "png", "readable", "written"]

Note = Callable[[dict[str, Any]], None]
Decide = Callable[[str, Scene, Callable[[str], None]], str]
SCRIPTED = "scripted"
_IT = {"en": re.compile(r"\b(it|this one|that one|this)\b", re.I), "de": re.compile(r"\b(es|ihn|sie|das|diese[nsr]?)\b", re.I)}
_ENGINE = threading.Lock()  # one reply at a time: an engine belongs to one thread


@dataclass(frozen=True)
class World:
    """What a request came to. `lines` are the ops as they were decided, `said` what came of them in words; `changed` is False when
    the scene is what it was: the words could not be satisfied, or ask for nothing."""

    history: History
    result: Result
    lines: tuple[str, ...]
    said: str
    language: Language
    changed: bool
    seconds: float

    @property
    def scene(self) -> Scene:
        return self.history.scene


def build(words: str, history: History | None = None, *, model: str = SCRIPTED, gateway: Path | None = None,
          about: str | None = None, language: Language | None = None, seed: int = 0, seconds: float = 2.0,
          note: Note | None = None) -> World:
    """The world after `words`. `model` decides: a zoo name, a folder or file, "scripted" for the parser, or with `gateway` (a
    gateway.toml) one of its models. `about` is the thing that "it" means. `note` is told {"line": …} for every op as it is decided;
    what it raises ends the work. `seconds` bound the solver. The same arguments give the same world.

    Raises UserError if the model cannot be had or does not answer.
    """
    begun = time.monotonic()
    history = history or History()
    said: list[str] = []

    def decided(line: str) -> None:
        said.append(line)
        if note is not None:
            note({"line": line})

    tongue = language or prompt.spoken_in(words)
    try:
        heard = prompt.heard(_named(words, about, tongue), history.scene)
        text = _decider(model, gateway)(heard, history.scene, decided)
        ops = lines.read(text, history.scene)
    except prompt.Refused as refused:
        return World(history, Result(scene=history.scene), tuple(said), str(refused), tongue, False, time.monotonic() - begun)
    except lines.Misread:
        answer = {"en": "What the model decided cannot be read, so nothing was changed. Try other words.",
                  "de": "Was das Modell entschied, ist nicht lesbar; darum wurde nichts verändert. Versuche andere Worte."}[tongue]
        return World(history, Result(scene=history.scene), tuple(said), answer, tongue, False, time.monotonic() - begun)
    if note is not None:
        note({"state": "placing"})
    after, result = pipeline.advance(history, ops, seed, seconds)
    changed = result.conflict is None and after is not history
    took = time.monotonic() - begun
    return World(after, result, tuple(said), _said(result, history.scene, changed, tongue, took), tongue, changed, took)


def _said(result: Result, before: Scene, changed: bool, language: Language, took: float) -> str:
    english = language == "en"
    if result.conflict is not None:
        return describe.conflict(result.conflict, before, language)
    if not changed:
        return ("Nothing in these words changes the world as it is." if english
                else "Nichts an diesen Worten ändert die Welt, wie sie ist.")
    old = {part.id for parts in (before.rooms, before.plots, before.openings, before.objects, before.lights) for part in parts}
    new = sum(id not in old for id in result.changed)
    counts = ((new, "new", "neu"), (len(result.changed) - new, "changed", "geändert"), (len(result.removed), "removed", "entfernt"))
    what = ", ".join(f"{count} {word if english else wort}" for count, word, wort in counts if count)
    seconds = f"{took:.1f}" if english else f"{took:.1f}".replace(".", ",")
    return f"{what or ('Done' if english else 'Fertig')} · {seconds} s"


def _named(words: str, about: str | None, language: Language) -> str:
    """The words with the name of the thing in place of "it"; before them, where they have no such word."""
    if about is None:
        return words
    name = ("the " if language == "en" else "") + called(about, language)
    found, count = _IT[language].subn(name, words, count=1)
    return found if count else f"{name} {words}"


# Who decides


@lru_cache(maxsize=4)
def _decider(model: str, gateway: Path | None) -> Decide:
    if gateway is not None:
        return _gateway(model, gateway)
    if model == SCRIPTED:
        return _scripted
    return _engine(model)


def _scripted(words: str, scene: Scene, note: Callable[[str], None]) -> str:
    text = parser.decide(words, scene)
    for line in text.splitlines():
        note(line)
    return text


def _engine(name: str) -> Decide:
    from ownship.engine.engine import serving
    from ownship.model import zoo
    from ownship.surfaces.worlds import model

    engine = serving(zoo.resolve(name), "float32")

    def decide(words: str, scene: Scene, note: Callable[[str], None]) -> str:
        with _ENGINE:
            return model.decide(engine, words, scene, note)

    return decide


def _gateway(name: str, path: Path) -> Decide:
    from ownship.gateway import config
    from ownship.gateway.types import GatewayError
    from ownship.gateway.upstream import HTTPUpstream
    from ownship.surfaces.worlds import model

    loaded = config.load(path)
    if name not in loaded.models:
        raise UserError(f"{path} has no model {name!r}; it has {', '.join(loaded.models) or 'none'}")
    table = loaded.models[name]
    upstream = loaded.upstreams[table.upstream]
    if upstream.engine is not None:
        return _engine(upstream.engine)
    assert upstream.url is not None
    server = HTTPUpstream(upstream.url, upstream.wire, upstream.secret(), table.model)

    def decide(words: str, scene: Scene, note: Callable[[str], None]) -> str:
        try:
            return asyncio.run(model.decide_by_gateway(server, name, words, scene, note))
        except GatewayError as error:
            raise UserError(f"{name} did not answer: {error}") from None

    return decide


def ready(model: str, gateway: Path | None = None) -> None:
    """Loads the model now rather than with the first request. Raises UserError if it cannot be had."""
    _decider(model, gateway)


# What comes in and goes out


def readable(text: bytes) -> Scene:
    """The scene in a file. Raises UserError if it is none, or none that could be."""
    try:
        scene = Scene.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"this is not a world: {place or 'the file'}: {first['msg']}") from None
    check(scene)
    return scene


def check(scene: Scene) -> None:
    """Raises UserError unless the scene is one that the pipeline could have made."""
    used = ((KINDS, {thing.kind for thing in scene.objects}), (MATERIALS, {thing.material for thing in scene.objects}),
            (COLOURS, {thing.colour for thing in scene.objects} | {light.colour for light in scene.lights}
             | {room.wall for room in scene.rooms}),
            (GROUNDS, {room.floor for room in scene.rooms} | {plot.ground for plot in scene.plots}))
    for known, names in used:
        if strange := sorted(names - known.keys()):
            raise UserError(f"this is not a world: {strange[0]!r} is not known here")
    try:
        wrong = problems(scene)
    except (KeyError, ValueError, StopIteration):
        raise UserError("this is not a world: it names things that are not in it") from None
    if wrong:
        raise UserError(f"this is not a world that could be: {wrong[0].kind} ({', '.join(wrong[0].ids)})")


def written(scene: Scene) -> bytes:
    return dumps(scene).encode()


def png(scene: Scene) -> bytes:
    """A picture from outside, 1280 × 960."""
    return picture.render(scene, width=1280, height=960).png()


def description(scene: Scene, language: Language) -> str:
    return describe.describe(scene, language)


def called(id: str, language: Language) -> str:
    """What a thing is called on the page and in words about it: "coffee table 1", "Couchtisch 1"."""
    kind = KINDS.get(kind_of(id))
    name = spoken(kind_of(id)) if kind is None else (kind.en if language == "en" else kind.de)[0].one
    return f"{name} {number_of(id)}"
