"""An oracle for pictures and shapes that shares nothing with them: rays against triangles, one by one (Möller, Trumbore 1997)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ownship.surfaces.worlds.camera import Camera
from ownship.surfaces.worlds.shell import Placed

Array = NDArray[Any]


def triangles(things: list[Placed]) -> tuple[Array, Array]:
    """Corners [T, 3, 3] in the world and the number (from 1) of the thing each belongs to."""
    corners, owner = [], []
    for number, thing in enumerate(things, start=1):
        c, s = math.cos(math.radians(thing.turn)), math.sin(math.radians(thing.turn))
        for part in thing.parts:
            x, y, z = part.vertices.astype(float).T
            turned = np.stack([x * c + z * s + thing.x, y + thing.y, z * c - x * s + thing.z], 1)
            corners.append(turned[part.faces])
            owner.append(np.full(len(part.faces), number))
    return np.concatenate(corners), np.concatenate(owner)


def hits(corners: Array, start: Array, direction: Array, two_sided: bool = False) -> tuple[Array, Array, Array, Array]:
    """One ray against all triangles: of those it meets, distance (in lengths of `direction`), index, least barycentric coordinate
    (how far from an edge), and whether their front is met."""
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(direction, e2)
    determinant = (e1 * p).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = start - corners[:, 0]
        u = (t * p).sum(1) / determinant
        q = np.cross(t, e1)
        v = (q @ direction) / determinant
        distance = (e2 * q).sum(1) / determinant
        met = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0) & (np.abs(determinant) > 1e-12)
    if not two_sided:
        met &= determinant > 0
    index = np.flatnonzero(met)
    order = index[np.argsort(distance[index])]
    return distance[order], order, np.minimum(np.minimum(u[order], v[order]), 1 - u[order] - v[order]), determinant[order] > 0


def pixel_ray(camera: Camera, x: float, y: float, width: int, height: int) -> tuple[Array, Array]:
    """Start and direction of the ray through a point of the picture (pixels, y down); the direction is 1 cm long along the view."""
    forward = np.subtract(camera.target, camera.eye).astype(float)
    forward /= np.linalg.norm(forward)
    up = (0.0, 0.0, -1.0) if abs(forward[1]) > 0.999 else (0.0, 1.0, 0.0)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    if camera.height is not None:
        scale = camera.height / height
        return np.array(camera.eye) + right * (x - width / 2) * scale - up * (y - height / 2) * scale, forward
    scale = 2 * math.tan(math.radians(camera.fov) / 2) / height
    return np.array(camera.eye), forward + right * (x - width / 2) * scale - up * (y - height / 2) * scale
