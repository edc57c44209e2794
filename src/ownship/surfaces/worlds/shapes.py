"""Solids that objects are made of: boxes, cushions, lathed bodies, tubes, prisms, blobs. Centimetres, y up.

Triangles wind counter-clockwise seen from outside. A vertex has one normal, so a sharp edge has its vertices twice; rounded
ones share them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

F = NDArray[np.float64]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Paint:
    """What a piece is painted with: None means the object's own colour or material; `tone` lightens or darkens it, `glow` is
    the share of the colour that shines by itself."""

    rgb: tuple[int, int, int] | None = None
    material: str | None = None
    tone: float = 1.0
    glow: float = 0.0


MAIN = Paint()


@dataclass(frozen=True)
class Piece:
    """Triangles with one paint: vertices [V, 3], normals [V, 3] (unit), faces [T, 3]."""

    vertices: F
    normals: F
    faces: NDArray[np.int64]
    paint: Paint = MAIN

    def at(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Piece:
        """Moved."""
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def turned(self, axis: str, degrees: float) -> Piece:
        """Turned about an axis through the origin, counter-clockwise seen from its positive end."""
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        rows = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
                "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}
        matrix = np.array(rows[axis])
        return replace(self, vertices=self.vertices @ matrix.T, normals=self.normals @ matrix.T)

    def scaled(self, x: float, y: float, z: float) -> Piece:
        """Stretched along the axes by positive factors."""
        normals = self.normals / np.array([x, y, z])
        return replace(self, vertices=self.vertices * np.array([x, y, z]),
                       normals=normals / np.linalg.norm(normals, axis=1, keepdims=True))


def _flat(corners: F, paint: Paint) -> Piece:
    """Triangles [T, 3, 3] with sharp edges."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1)
    keep = length > 1e-9
    corners, normals = corners[keep], normals[keep] / length[keep, None]
    return Piece(corners.reshape(-1, 3), np.repeat(normals, 3, axis=0), np.arange(len(corners) * 3).reshape(-1, 3), paint)


def quads(corners: Sequence[Sequence[Point]] | F, paint: Paint = MAIN) -> Piece:
    """Flat four-sided faces [Q, 4, 3], counter-clockwise."""
    q = np.asarray(corners, dtype=float)
    normals = np.cross(q[:, 2] - q[:, 0], q[:, 3] - q[:, 1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    first = np.arange(len(q))[:, None] * 4
    faces = np.concatenate([first + np.array([0, 1, 2]), first + np.array([0, 2, 3])], axis=1).reshape(-1, 3)
    return Piece(q.reshape(-1, 3), np.repeat(normals, 4, axis=0), faces, paint)


_CUBE = np.array([  # faces of the unit cube, counter-clockwise from outside: -x +x -y +y -z +z
    [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0]], [[1, 0, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]],
    [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]], [[0, 1, 1], [1, 1, 1], [1, 1, 0], [0, 1, 0]],
    [[1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0]], [[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]], dtype=float)


def box(x0: float, y0: float, z0: float, x1: float, y1: float, z1: float, paint: Paint = MAIN) -> Piece:
    """A box from corner to corner."""
    low, high = np.minimum((x0, y0, z0), (x1, y1, z1)), np.maximum((x0, y0, z0), (x1, y1, z1))
    return quads(low + _CUBE * (high - low), paint)


def cushion(x0: float, y0: float, z0: float, x1: float, y1: float, z1: float, radius: float, paint: Paint = MAIN) -> Piece:
    """A box with rounded edges of `radius` (at most half of its shortest edge)."""
    low, high = np.array([x0, y0, z0]), np.array([x1, y1, z1])
    r = min(radius, float((high - low).min()) / 2 * 0.999)
    inner_low, inner_high = low + r, high - r
    steps = [np.array([low[a], inner_low[a], inner_high[a], high[a]]) for a in range(3)]
    vertices: list[F] = []
    normals: list[F] = []
    faces = []
    grid = np.arange(16).reshape(4, 4)
    cell = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], axis=-1).reshape(-1, 4)
    triangles = np.concatenate([cell[:, [0, 1, 2]], cell[:, [0, 2, 3]]])
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for side, edge in ((0, low), (1, high)):
            p = np.empty((4, 4, 3))
            p[..., axis] = edge[axis]
            p[..., u], p[..., v] = np.meshgrid(steps[u], steps[v], indexing="ij")
            core = np.clip(p, inner_low, inner_high)
            n = p - core
            n /= np.linalg.norm(n, axis=-1, keepdims=True)
            faces.append((triangles if side else triangles[:, ::-1]) + 16 * len(vertices))
            vertices.append((core + r * n).reshape(-1, 3))
            normals.append(n.reshape(-1, 3))
    return Piece(np.concatenate(vertices), np.concatenate(normals), np.concatenate(faces), paint)


def lathe(profile: Sequence[tuple[float, float]], paint: Paint = MAIN, sides: int = 16, crease: float = 40.0) -> Piece:
    """A body of revolution about y: (radius, height) pairs from its bottom to its top, along the outside. Edges of the profile
    that bend by more than `crease` degrees are sharp."""
    points = np.array(profile, dtype=float)
    steps = np.diff(points, axis=0)
    keep = np.linalg.norm(steps, axis=1) > 1e-9
    points, steps = np.concatenate([points[:1], points[1:][keep]]), steps[keep]
    flat = np.stack([steps[:, 1], -steps[:, 0]], axis=1) / np.linalg.norm(steps, axis=1, keepdims=True)  # outward, per segment
    angles = np.arange(sides + 1) * (2 * math.pi / sides)
    cos, sin = np.cos(angles), np.sin(angles)
    cos[np.abs(cos) < 1e-12], sin[np.abs(sin) < 1e-12] = 0.0, 0.0
    limit = math.cos(math.radians(crease))
    vertices, normals, faces = [], [], []
    for i in range(len(steps)):
        for end, other in ((i, i - 1), (i + 1, i + 1)):
            n = flat[i]
            if 0 <= other < len(steps) and flat[i] @ flat[other] > limit:
                n = flat[i] + flat[other]
                n = n / np.linalg.norm(n)
            r, y = points[end]
            vertices.append(np.stack([r * cos, np.full(sides + 1, y), r * sin], axis=1))
            normals.append(np.stack([n[0] * cos, np.full(sides + 1, n[1]), n[0] * sin], axis=1))
        low = 2 * i * (sides + 1) + np.arange(sides)
        high = low + sides + 1
        if points[i][0] > 1e-9:
            faces.append(np.stack([low, high, low + 1], axis=1))
        if points[i + 1][0] > 1e-9:
            faces.append(np.stack([low + 1, high, high + 1], axis=1))
    return Piece(np.concatenate(vertices), np.concatenate(normals), np.concatenate(faces), paint)


def cylinder(radius: float, y0: float, y1: float, paint: Paint = MAIN, sides: int = 16, top: float | None = None) -> Piece:
    """A closed cylinder about y, or a cone stump with the radius `top` above."""
    upper = radius if top is None else top
    return lathe([(0, y0), (radius, y0), (upper, y1), (0, y1)], paint, sides, crease=20)


def ball(radius: float, paint: Paint = MAIN, sides: int = 12, rings: int = 8) -> Piece:
    """A smooth sphere about the origin."""
    angles = np.linspace(-math.pi / 2, math.pi / 2, rings + 1)
    return lathe([(radius * max(0.0, math.cos(a)) if 0 < i < rings else 0.0, radius * math.sin(a)) for i, a in enumerate(angles)],
                 paint, sides, crease=60)


def tube(start: Point, end: Point, radius: float, paint: Paint = MAIN, sides: int = 8) -> Piece:
    """A closed round bar from point to point."""
    a, b = np.array(start, dtype=float), np.array(end, dtype=float)
    along = b - a
    length = float(np.linalg.norm(along))
    along /= length
    side = np.cross(along, [0, 0, 1] if abs(along[2]) < 0.9 else [1, 0, 0])
    side /= np.linalg.norm(side)
    basis = np.stack([side, along, np.cross(side, along)], axis=1)
    bar = cylinder(radius, 0, length, paint, sides)
    return replace(bar, vertices=bar.vertices @ basis.T + a, normals=bar.normals @ basis.T)


def prism(outline: Sequence[tuple[float, float]], z0: float, z1: float, paint: Paint = MAIN) -> Piece:
    """A convex outline in x and y, counter-clockwise seen from +z, drawn out from z0 to z1."""
    p = np.array(outline, dtype=float)
    n = len(p)
    front, back = np.column_stack([p, np.full(n, z1)]), np.column_stack([p, np.full(n, z0)])
    fan = np.array([[0, i, i + 1] for i in range(1, n - 1)])
    after = (np.arange(n) + 1) % n
    sides = np.stack([back, back[after], front[after], front], axis=1)
    return join([_flat(front[fan], paint), _flat(back[fan[:, ::-1]], paint), quads(sides, paint)], paint)


@cache
def _icosphere(level: int) -> tuple[F, NDArray[np.int64]]:
    g = (1 + math.sqrt(5)) / 2
    v = [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g), (0, -1, -g), (0, 1, -g), (g, 0, -1), (g, 0, 1),
         (-g, 0, -1), (-g, 0, 1)]
    f = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6), (7, 1, 8),
         (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1)]
    points = [np.array(p) / math.sqrt(1 + g * g) for p in v]
    for _ in range(level):
        middle: dict[tuple[int, int], int] = {}

        def half(a: int, b: int, middle: dict[tuple[int, int], int] = middle) -> int:
            key = (min(a, b), max(a, b))
            if key not in middle:
                m = points[a] + points[b]
                points.append(m / np.linalg.norm(m))
                middle[key] = len(points) - 1
            return middle[key]

        f = [t for a, b, c in f for ab, bc, ca in [(half(a, b), half(b, c), half(c, a))]
             for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))]
    return np.array(points), np.array(f)


def blob(rx: float, ry: float, rz: float, seed: int, paint: Paint = MAIN, level: int = 2, rough: float = 0.12,
         square: float = 1.0) -> Piece:
    """A faceted lump about the origin (leaves, stone): a sphere whose points are pushed in by up to `rough`, by a hash of
    `seed`. The smaller `square`, the nearer it is to a box."""
    points, faces = _icosphere(level)
    points = np.sign(points) * np.abs(points) ** square
    noise = np.sin(points @ np.array([12.9898, 78.233, 37.719]) * 3.1 + seed * 7.77) * 43758.5453
    points = points * (1 - rough * (noise - np.floor(noise)))[:, None] * np.array([rx, ry, rz])
    return _flat(points[faces], paint)


def join(pieces: Sequence[Piece], paint: Paint) -> Piece:
    """Several pieces as one, in one paint."""
    offsets = np.cumsum([0, *(len(p.vertices) for p in pieces[:-1])])
    return Piece(np.concatenate([p.vertices for p in pieces]), np.concatenate([p.normals for p in pieces]),
                 np.concatenate([p.faces + offset for p, offset in zip(pieces, offsets, strict=True)]), paint)
