"""What every product gives the studio: a name, an icon, a page and its routes. The studio's list of them is studio/products.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter

from ownship.surfaces.jobs import Jobs

T = TypeVar("T")


@dataclass(eq=False)
class Session:
    """One user's stay, on the server. `kept` is what the products keep of it: nobody else sees it. `who` is the name of the key it
    was opened with, "" on loopback; `hashed` is that key's secret, hashed."""

    who: str = ""
    hashed: str = ""
    used: float = field(default_factory=time.monotonic)
    checked: float = field(default_factory=time.monotonic)
    over: bool = False
    kept: dict[str, Any] = field(default_factory=dict)

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """What is kept under this name; made when it is first asked for."""
        if name not in self.kept:
            self.kept[name] = make()
        found: T = self.kept[name]
        return found


@dataclass(frozen=True)
class Studio:
    """What the pages share: the model's name and the queue of work."""

    model: str
    jobs: Jobs
    gateway: Path | None = None  # a gateway.toml in which the model is


@dataclass(frozen=True)
class Product:
    """`icon` is the inside of an SVG of 24 × 24, drawn in strokes; `page` fills the frame; `routes` are the HTTP endpoints, which
    find the user in `request.state.session`."""

    name: str
    title: str
    icon: str
    page: Callable[[Studio, Session], None]
    routes: Callable[[Studio], APIRouter]
