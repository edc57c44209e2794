"""One user's work on worlds: the history, what was asked and what came of it, and the changes that views of it are told."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ownship.errors import UserError
from ownship.surfaces.jobs import Event, Full, Job, Jobs
from ownship.surfaces.worlds import changes, pipeline
from ownship.surfaces.worlds.build import World, build, readable
from ownship.surfaces.worlds.types import History, Language, Scene

State = Literal["waiting", "deciding", "done", "refused", "failed", "cancelled"]
Note = Literal["scene", "step", "steps", "chosen"]
DEPTH = pipeline.PAST  # steps that are kept, as many as there are scenes in a history
_FILES = 60  # changes whose files can still be fetched
MAX_FILE = 4 << 20  # bytes of a scene that is opened


@dataclass(eq=False)
class Step:
    """One request. `lines` are the ops as they were decided; `said` what came of it, in words; `at` the place in the history."""

    words: str
    state: State = "waiting"
    lines: list[str] = field(default_factory=list)
    said: str = ""
    at: int = 0
    job: Job | None = None

    @property
    def busy(self) -> bool:
        return self.state in ("waiting", "deciding")


class Desk:
    """Lives on the event loop; the work is done in `jobs`. `watchers` are told what has changed: the scene, a step, all steps or
    what is chosen."""

    def __init__(self, jobs: Jobs, model: str, gateway: Path | None = None) -> None:
        self.jobs, self.model, self.gateway = jobs, model, gateway
        self.history = History()
        self.steps: list[Step] = []
        self.watchers: list[Callable[[Note, Step | None], None]] = []
        self.version = 0  # of the scene that is seen
        self.language: Language = "en"
        self.chosen: str | None = None
        self.change: dict[str, Any] = {}
        self.files: OrderedDict[int, tuple[Scene, tuple[str, ...] | None, bool]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def scene(self) -> Scene:
        return self.history.scene

    @property
    def busy(self) -> Step | None:
        return next((step for step in self.steps if step.busy), None)

    @property
    def can_undo(self) -> bool:
        return self.history.at > 0 and self.busy is None

    @property
    def can_redo(self) -> bool:
        return self.history.at + 1 < len(self.history.scenes) and self.busy is None

    def undone(self, step: Step) -> bool:
        return step.state == "done" and step.at > self.history.at

    def _tell(self, note: Note, step: Step | None = None) -> None:
        for watcher in list(self.watchers):
            watcher(note, step)

    # What is asked

    def ask(self, words: str, about: str | None = None) -> Step | None:
        """Begins a request; None if there is nothing to begin (no words, or another one is under way)."""
        words = words.strip()
        if not words or self.busy is not None:
            return None
        step = Step(words)
        self.steps.append(step)
        del self.steps[:-DEPTH]
        history = self.history
        try:
            step.job = self.jobs.put(lambda job: build(words, history, model=self.model, gateway=self.gateway, about=about,
                                                       note=job.note))
        except Full:
            step.state, step.said = "failed", "Too much is being built right now. Try again in a moment."
        self._tell("steps")
        if step.job is not None:
            task = asyncio.get_running_loop().create_task(self._follow(step, step.job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return step

    async def _follow(self, step: Step, job: Job) -> None:
        async for event in job.follow():
            if event is not None:
                self._heard(step, event)
        if job.state == "done":
            world: World = job.result
            self.language = world.language
            step.said = world.said
            step.state = "done" if world.changed else "refused"
            if world.changed:
                self._take(world.history)
            step.at = self.history.at
        elif job.state == "cancelled":
            step.state, step.said = "cancelled", "Stopped. Nothing was changed."
        else:
            step.state, step.said = "failed", job.error
        self._tell("steps")

    def _heard(self, step: Step, event: Event) -> None:
        step.state = "deciding"
        if "line" in event:
            step.lines.append(event["line"])
        self._tell("step", step)

    def stop(self) -> None:
        if (step := self.busy) is not None and step.job is not None:
            self.jobs.cancel(step.job)

    # The history

    def undo(self) -> None:
        if self.can_undo:
            self._go(self.history.at - 1)

    def redo(self) -> None:
        if self.can_redo:
            self._go(self.history.at + 1)

    def _go(self, at: int) -> None:
        self._show(History(scenes=self.history.scenes, at=at))
        self._tell("steps")

    def _take(self, history: History, framed: bool = False) -> None:
        """A history that has grown; or only moved, where the words were "undo"."""
        if len(history.scenes) != len(self.history.scenes) or history.scenes[-1] is not self.history.scenes[-1]:
            self.steps = [step for step in self.steps if not self.undone(step)]
        self._show(history, framed)

    def _show(self, history: History, framed: bool = False) -> None:
        before = self.scene
        if len(history.scenes) > DEPTH:
            cut = len(history.scenes) - DEPTH
            history = History(scenes=history.scenes[cut:], at=max(history.at - cut, 0))
            for step in self.steps:
                step.at -= cut
        self.history = history
        self.version += 1
        self.change = self._message(before, framed=framed or not (before.rooms or before.plots))
        if self.chosen not in {thing.id for thing in self.scene.objects}:
            self.choose(None)
        self._tell("scene")

    def whole(self) -> dict[str, Any]:
        """The change that shows everything to a view that has seen nothing."""
        return self._message(Scene(), first=True)

    def _message(self, before: Scene, **more: Any) -> dict[str, Any]:
        change = changes.change(before, self.scene)
        url = None
        if change.load or change.shell:
            number = next(reversed(self.files), 0) + 1
            self.files[number] = (self.scene, change.load, change.shell)
            while len(self.files) > _FILES:
                self.files.popitem(last=False)
            url = f"/worlds/parts/{number}.glb"
        return change.message(self.scene, url=url, version=self.version, **more)

    # Other things one does

    def choose(self, id: str | None) -> None:
        if id != self.chosen:
            self.chosen = id
            self._tell("chosen")

    def open(self, text: bytes) -> None:
        """Puts a scene from a file into the history. Raises UserError if it is none."""
        if self.busy is not None:
            raise UserError("something is being built: wait for it, or stop it")
        self._put(readable(text), "Opened a file")

    def clear(self) -> None:
        """A new, empty world; undo brings the old one back."""
        if self.busy is None and self.scene != Scene():
            self._put(Scene(), "Started anew")

    def _put(self, scene: Scene, words: str) -> None:
        history = History(scenes=(*self.history.scenes[: self.history.at + 1], scene), at=self.history.at + 1)
        self._take(history, framed=True)
        self.steps.append(Step(words, "done", at=self.history.at))
        self._tell("steps")
