"""The 3-D view: one component on the three.js that NiceGUI brings along."""

from __future__ import annotations

from typing import Any

from nicegui.element import Element
from nicegui.elements import scene  # registers the bundle with three.js in it under the name nicegui-scene

assert scene


class WorldView(Element, component="world_view.js", dependencies=["world_meshes.js", "world_walk.js"]):
    """Emits `ready` when it can be given a world, `pick` with an id or None, `mode` when the user leaves the walk by key, and
    `stale` when it could not load what it was told to."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.props["label"] = label

    def apply(self, change: dict[str, Any]) -> None:
        self.run_method("apply", change)

    def set_mode(self, mode: str) -> None:
        self.run_method("setMode", mode)

    def choose(self, id: str | None) -> None:
        self.run_method("choose", id)

    def fit(self) -> None:
        self.run_method("fit")
