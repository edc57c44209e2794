"""Where a picture of a scene is taken from: all of it, a plan of it, or what one sees who stands in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ownship.surfaces.worlds.types import WALL, Plot, Room, Scene


@dataclass(frozen=True)
class Camera:
    """Where the eye is and what it looks at, in centimetres. `fov` is the vertical angle of view in degrees; `height`, if
    given, makes the view orthographic and is how much of the world is seen from top to bottom. `cutaway` leaves out ceilings
    and the walls between the eye and the room."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    fov: float = 45.0
    height: float | None = None
    cutaway: bool = False

    def axes(self) -> NDArray[np.float64]:
        """[3, 3]: right, up and forward of the view, as rows."""
        forward = np.subtract(self.target, self.eye).astype(float)
        forward /= np.linalg.norm(forward)
        up = np.array([0.0, 1.0, 0.0]) if abs(forward[1]) < 0.999 else np.array([0.0, 0.0, -1.0])
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(right, forward), forward])


def _corners(scene: Scene) -> NDArray[np.float64]:
    """Points [N, 3] that a view of everything must hold."""
    found = []
    areas: tuple[Room | Plot, ...] = (*scene.rooms, *scene.plots)
    for area in areas:
        height = float(area.h) if isinstance(area, Room) else 0.0
        edge = WALL if isinstance(area, Room) else 0
        x, z = area.w / 2 + edge, area.d / 2 + edge
        found += [(area.x + i * x, y, area.z + j * z) for i in (-1, 1) for j in (-1, 1) for y in (0.0, height)]
    for o in scene.objects:
        r = math.hypot(o.w, o.d) / 2
        found += [(o.x + i * r, o.y + y, o.z + j * r) for i in (-1, 1) for j in (-1, 1) for y in (0.0, float(o.h))]
    return np.array(found or [(i * 300.0, y, j * 300.0) for i in (-1, 1) for j in (-1, 1) for y in (0.0, 100.0)])


def overview(scene: Scene, aspect: float = 4 / 3, turn: float = 25.0, pitch: float = 38.0) -> Camera:
    """Everything from outside and above, from the south-east: `turn` degrees east of south, `pitch` degrees down."""
    points = _corners(scene)
    a, b, fov = math.radians(turn), math.radians(pitch), math.radians(30.0)
    away = np.array([math.sin(a) * math.cos(b), math.sin(b), math.cos(a) * math.cos(b)])
    axes = Camera(tuple(away), (0.0, 0.0, 0.0)).axes()
    right, up, forward = (points @ axes.T).T
    # the nearest eye that has every point between the left and right, and the lower and upper edge of the picture
    place = np.zeros(3)
    distances = []
    for across, slope, axis in ((right, math.tan(fov / 2) * aspect, 0), (up, math.tan(fov / 2), 1)):
        low, high = (across + slope * forward).min(), (across - slope * forward).max()
        place[axis] = (low + high) / 2
        distances.append((low - high) / (2 * slope))
    place[2] = min(distances) - 0.04 * float(np.ptp(forward) + np.ptp(right))
    eye = place @ axes
    return Camera(tuple(eye), tuple(eye + axes[2] * 1000.0), fov=30.0, cutaway=True)


def above(scene: Scene, aspect: float = 4 / 3) -> Camera:
    """A plan: orthographic, from straight above, north at the top."""
    (x0, _, z0), (x1, top, z1) = (p.tolist() for p in (_corners(scene).min(axis=0), _corners(scene).max(axis=0)))
    x, z = (x0 + x1) / 2, (z0 + z1) / 2
    return Camera((x, top + 500.0, z), (x, 0.0, z), height=max(z1 - z0, (x1 - x0) / aspect) * 1.08, cutaway=True)


def walker(scene: Scene, fov: float = 60.0) -> Camera:
    """What one sees who stands at the spawn point, eyes 160 cm above the ground."""
    a = math.radians(scene.spawn.turn)
    x, z = float(scene.spawn.x), float(scene.spawn.z)
    return Camera((x, 160.0, z), (x + 100 * math.sin(a), 145.0, z + 100 * math.cos(a)), fov=fov)
