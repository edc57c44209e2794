"""The page of worlds: say what should be there, see it being decided, look around, walk, click a thing and say what about it."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from nicegui import ui
from nicegui.element import Element

from ownship.errors import UserError
from ownship.surfaces.markup import button, icon, tag
from ownship.surfaces.product import Session, Studio
from ownship.surfaces.worlds import api, build
from ownship.surfaces.worlds.desk import MAX_FILE, Desk, Note, Step
from ownship.surfaces.worlds.view import WorldView

ICON = '<path d="M12 3 4 7.2v9.6L12 21l8-4.2V7.2z"/><path d="m4 7.2 8 4.3 8-4.3M12 11.5V21"/>'
EXAMPLES = (
    ("en", "A small living room with two armchairs facing a fireplace and a rug between them"),
    ("en", "A bedroom with a bed against the north wall, a wardrobe in a corner and a lamp on a nightstand"),
    ("de", "Ein Garten mit einem Brunnen, drei Bäumen und einer Bank neben dem Brunnen"),
    ("de", "Ein Arbeitszimmer mit einem Schreibtisch am Fenster und einem Regal an der Wand"),
)
HINTS = {"orbit": (("drag", "turn"), ("wheel", "nearer"), ("click", "choose")),
         "walk": (("W A S D", "walk"), ("mouse", "look"), ("Shift", "faster"), ("Esc", "end the walk"))}
LONGEST = 4_000  # characters of a request
FILES = (("glb", "3-D model", "glTF (.glb), for any 3-D program"), ("png", "Picture", "as seen from outside"),
         ("json", "World file", "to share: others open it here"))
MOST_CHIPS = 300  # things that have a button of their own
# a form is sent by Enter (Shift+Enter is a new line); its words go to the server, and the field is empty again
_SEND = """(event) => { event.preventDefault(); const field = event.target.elements.words;
  if (field.value.trim()) { emit(field.value); field.value = ''; } }"""
_ENTER = """(event) => { if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault(); event.target.form.requestSubmit(); }"""
_OPEN = """async (event) => { const file = event.target.files[0]; if (!file) return;
  const reply = await fetch('/worlds/open', { method: 'POST', body: file }); event.target.value = '';
  if (!reply.ok) emit((await reply.json()).error.message); }"""
_CLOSE_MENU = "(event) => { event.currentTarget.closest('details').open = false; }"
_FILE = "(event) => { event.currentTarget.closest('details').open = false; document.getElementById('file').click(); }"
_KEYS = """(event) => { const key = event.key.toLowerCase(); if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
  if (['TEXTAREA', 'INPUT'].includes(event.target.tagName) && event.target.value) return;
  if (key === 'z' && !event.shiftKey) { event.preventDefault(); emit('undo'); }
  else if (key === 'y' || (key === 'z' && event.shiftKey)) { event.preventDefault(); emit('redo'); } }"""


def desk_of(studio: Studio, session: Session) -> Desk:
    return session.keep("worlds", lambda: Desk(studio.jobs, studio.model, studio.gateway))


def page(studio: Studio, session: Session) -> None:
    _Page(desk_of(studio, session))


def routes(studio: Studio) -> APIRouter:
    """The page's own files, each from the desk of the one who asks; and the product's API. Raises UserError if the model cannot be
    had."""
    build.ready(studio.model, studio.gateway)
    router = APIRouter()

    @router.get("/worlds/parts/{number}.glb")
    def parts(number: int, request: Request) -> Response:
        desk = desk_of(studio, request.state.session)
        if number not in desk.files:
            return JSONResponse({"error": {"message": "this change is gone"}}, 404)
        return Response(build.glb(*desk.files[number]), media_type="model/gltf-binary", headers={"Cache-Control": "no-store"})

    @router.get("/worlds/file/world.{ending}")
    def file(ending: str, request: Request) -> Response:
        desk = desk_of(studio, request.state.session)
        return api.file(desk.scene, ending)

    @router.post("/worlds/open")
    async def opened(request: Request) -> Response:
        text = b""
        async for piece in request.stream():
            text += piece
            if len(text) > MAX_FILE:
                return JSONResponse({"error": {"message": "this file is larger than a world may be"}}, 413)
        try:
            desk_of(studio, request.state.session).open(text)
        except UserError as error:
            return JSONResponse({"error": {"message": str(error)}}, 400)
        return JSONResponse({"ok": True})

    router.include_router(api.routes(studio))
    return router


class _Page:
    """One tab's view of a desk; all tabs of a user see the same desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.mode = "orbit"
        self.drawn: dict[Step, Element] = {}
        self.chips: dict[str, Element] = {}
        self.root = tag("div", "worlds").on(
            "keydown", lambda event: desk.undo() if event.args == "undo" else desk.redo(), js_handler=_KEYS)
        with self.root:
            with tag("section", "desk", aria_label="What you say"):
                self._head()
                self.feed = tag("div", "feed", id="feed")
                with self.feed:
                    self.empty = self._empty()
                    self.steps = tag("ol", "steps", aria_live="polite")
                    self.saying = tag("section", "saying")
                    self.things = tag("details", "things", open=True)
                self._prompt()
            with tag("section", "stage", aria_label="The world"):
                self.view = WorldView("The world in 3-D. Arrows turn, plus and minus come nearer."
                                      " In a walk: W A S D or arrows, Escape ends it.")
                self.view.on("ready", lambda: self.view.apply(desk.whole()))
                self.view.on("stale", lambda: self.view.apply(desk.whole()))
                self.view.on("pick", lambda event: desk.choose(event.args if isinstance(event.args, str) else None))
                self.view.on("mode", lambda event: self._walk(event.args == "walk"))
                self._tools()
                self.hint = tag("div", "stage-hint", aria_hidden="true")
                self.card = tag("div", "chosen", role="region", aria_label="The chosen thing")
        desk.watchers.append(self._told)
        ui.context.client.on_delete(partial(desk.watchers.remove, self._told))
        self._told("steps", None)
        self._told("scene", None)
        self._told("chosen", None)
        self._hint()

    # Parts that stay

    def _head(self) -> None:
        with tag("div", "desk-head"):
            tag("h1", text="Worlds")
            self.new = button("tool", "New", "new", aria_label="A new, empty world").on("click", lambda: self.desk.clear())

    def _empty(self) -> Element:
        with tag("div", "empty") as empty:
            tag("p", "lead", "Say what should be there. Then walk in it.")
            tag("h2", text="For example")
            with tag("div", "examples"):
                for language, words in EXAMPLES:
                    button("example", words, lang=language).on("click", partial(self._ask, words))
        return empty

    def _prompt(self) -> None:
        with tag("form", "prompt").on("submit", lambda event: self._ask(event.args), js_handler=_SEND), tag("div", "prompt-box"):
            tag("label", "unseen", "What should be there, or change?", for_="words")
            tag("textarea", id="words", name="words", rows="2", maxlength=str(LONGEST), enterkeyhint="send", autocomplete="off",
                placeholder="A kitchen with a table and four chairs …").on("keydown", js_handler=_ENTER)
            self.send = button("send", symbol="send", type="submit", aria_label="Build it")
            self.halt = button("send", symbol="stop", aria_label="Stop").on("click", lambda: self.desk.stop())

    def _tools(self) -> None:
        with tag("div", "stage-top"):
            with tag("div", "bar", role="group", aria_label="History"):
                self.undo = button("tool", symbol="undo", aria_label="Undo").on("click", lambda: self.desk.undo())
                self.redo = button("tool", symbol="redo", aria_label="Redo").on("click", lambda: self.desk.redo())
            with tag("div", "bar"):
                self.orbit = button("tool", "Orbit", "orbit", aria_label="Look at it from outside")
                self.orbit.on("click", lambda: self._walk(False))
                self.walk = button("tool", "Walk", "walk", aria_label="Walk in it").on("click", lambda: self._walk(True))
                button("tool", symbol="fit", aria_label="Show everything").on("click", lambda: self.view.fit())
                self._menu()

    def _menu(self) -> None:
        with tag("details", "menu"):
            with tag("summary", "tool", aria_label="Export and open"):
                icon("down")
                tag("span", text="Export")
            with tag("div", "menu-list"):
                for ending, name, about in FILES:
                    with tag("a", "menu-item", href=f"/worlds/file/world.{ending}", download=f"world.{ending}").on(
                            "click", js_handler=_CLOSE_MENU):
                        icon("down")
                        tag("span", text=name)
                        tag("small", text=about)
                tag("hr")
                with button("menu-item", "Open a world file", "open").on("click", js_handler=_FILE):
                    tag("small", text="a .json that somebody shared")
                tag("input", type="file", id="file", accept=".json,application/json", hidden=True, aria_label="A world file").on(
                    "change", lambda event: ui.notify(str(event.args), classes="said-bad"), js_handler=_OPEN)

    # What is done

    def _ask(self, words: Any) -> None:
        if isinstance(words, str):
            self.desk.ask(words[:LONGEST])

    def _about(self, words: Any) -> None:
        if isinstance(words, str):
            self.desk.ask(words[:LONGEST], self.desk.chosen)

    def _walk(self, on: bool) -> None:
        if on and not (self.desk.scene.rooms or self.desk.scene.plots):
            return
        self.mode = "walk" if on else "orbit"
        self.root.classes(add="walking" if on else "", remove="" if on else "walking")
        self.view.set_mode(self.mode)
        self._pressed()
        self._hint()

    # What is told

    def _told(self, note: Note, step: Step | None) -> None:
        with self.root:  # watchers are called from wherever something changed
            self._tell(note, step)

    def _tell(self, note: Note, step: Step | None) -> None:
        if note == "step" and step is not None:
            self._draw_step(step)
        elif note == "steps":
            self._draw_steps()
        elif note == "scene":
            if self.desk.change:
                self.view.apply(self.desk.change)
            self._draw_scene()
            self._draw_chosen()
        elif note == "chosen":
            self.view.choose(self.desk.chosen)
            self._draw_chosen()
        self._pressed()

    def _pressed(self) -> None:
        desk, there = self.desk, bool(self.desk.scene.rooms or self.desk.scene.plots)
        able = ((self.undo, desk.can_undo), (self.redo, desk.can_redo), (self.walk, there), (self.new, there and desk.busy is None))
        for element, on in able:
            _set(element, "disabled", not on)
        _set(self.orbit, "aria-pressed", "true" if self.mode == "orbit" else "false")
        _set(self.walk, "aria-pressed", "true" if self.mode == "walk" else "false")
        _set(self.send, "hidden", desk.busy is not None)
        _set(self.halt, "hidden", desk.busy is None)
        _set(self.empty, "hidden", bool(desk.steps))
        self.root.classes(add="" if there else "bare", remove="bare" if there else "")

    def _draw_steps(self) -> None:
        for step in [step for step in self.drawn if step not in self.desk.steps]:
            self.drawn.pop(step).delete()
        for step in self.desk.steps:
            self._draw_step(step)

    def _draw_step(self, step: Step) -> None:
        element = self.drawn.get(step)
        if element is None:
            with self.steps:
                element = self.drawn[step] = tag("li", "step")
        element.classes(add="undone" if self.desk.undone(step) else "", remove="" if self.desk.undone(step) else "undone")
        element.clear()
        with element:
            tag("p", "step-words", step.words)
            if step.lines:
                with tag("ul", "step-ops"):
                    for line in step.lines[:200]:
                        tag("li", text=line)
                    if len(step.lines) > 200:
                        tag("li", "more", f"and {len(step.lines) - 200} more")
            if step.busy:
                tag("p", "working", "Waiting for its turn" if step.state == "waiting" else "Deciding what goes where")
            elif step.said:
                bad = step.state in ("refused", "failed")
                tag("p", "step-end problem" if bad else "step-end quiet", step.said, role="alert" if bad else None)
            if step.state == "done" and step.at == self.desk.history.at and self.desk.can_undo:
                button("link", "Undo this").on("click", lambda: self.desk.undo())
        ui.run_javascript("(() => { const feed = document.getElementById('feed'); feed.scrollTop = feed.scrollHeight; })()")

    def _draw_scene(self) -> None:
        scene, desk = self.desk.scene, self.desk
        there = bool(scene.rooms or scene.plots or scene.objects)
        _set(self.saying, "hidden", not there)
        _set(self.things, "hidden", not scene.objects)
        self.saying.clear()
        self.things.clear()
        self.chips.clear()
        if there:
            with self.saying:
                tag("h2", text="In words" if desk.language == "en" else "In Worten")
                tag("p", text=build.description(scene, desk.language), lang=desk.language)
        with self.things:
            with tag("summary"):
                tag("h2", text=f"Things ({len(scene.objects)})")
            with tag("ul"):
                for thing in scene.objects[:MOST_CHIPS]:
                    with tag("li"):
                        self.chips[thing.id] = button("thing", build.called(thing.id, desk.language), aria_pressed="false").on(
                            "click", partial(desk.choose, thing.id))

    def _draw_chosen(self) -> None:
        for id, chip in self.chips.items():
            _set(chip, "aria-pressed", "true" if id == self.desk.chosen else "false")
        self.card.clear()
        thing = next((one for one in self.desk.scene.objects if one.id == self.desk.chosen), None)
        _set(self.card, "hidden", thing is None)
        if thing is not None:
            with self.card:
                with tag("div", "chosen-head"):
                    tag("strong", text=build.called(thing.id, self.desk.language))
                    tag("span", "about", f"{thing.colour} {thing.material}, {thing.w} × {thing.d} × {thing.h} cm")
                    button("tool", symbol="bin", aria_label="Remove it").on("click", partial(self._about, "remove it"))
                    button("tool", symbol="close", aria_label="Let go of it").on("click", partial(self.desk.choose, None))
                with tag("form").on("submit", lambda event: self._about(event.args), js_handler=_SEND):
                    tag("label", "unseen", "What about it?", for_="about-words")
                    tag("input", "field", id="about-words", name="words", maxlength=str(LONGEST), autocomplete="off",
                        placeholder="Move it left of the sofa, make it red …")
                    button("primary", "Do it", type="submit")

    def _hint(self) -> None:
        self.hint.clear()
        with self.hint:
            for names, what in HINTS[self.mode]:
                with tag("span"):
                    for name in names.split():
                        tag("kbd", text=name)
                    tag("span", text=f" {what}")


def _set(element: Element, name: str, value: Any) -> None:
    """Sets or takes away an attribute, and only if that changes something."""
    if value is False or value is None:
        if name in element.props:
            del element.props[name]
    elif element.props.get(name) != value:
        element.props[name] = value


