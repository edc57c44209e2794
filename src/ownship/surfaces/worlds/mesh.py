"""An object's triangles: its kind's pieces at its size, in its colour and material, exactly within its size box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ownship.surfaces.worlds import catalogue, fixtures, furniture, garden, household
from ownship.surfaces.worlds.catalogue import Size
from ownship.surfaces.worlds.shapes import F, Piece

_MODULES = (furniture, household, fixtures, garden)
_BUILDERS: dict[str, Callable[[float, float, float], list[Piece]]] = {
    **{name: getattr(module, name) for module in _MODULES for name in catalogue.KINDS if hasattr(module, name)},
    "box": household.crate}  # `box` is the solid


@dataclass(frozen=True, eq=False)
class Part:
    """Triangles with one look: vertices [V, 3] and unit normals [V, 3] in float32 centimetres, faces [T, 3]; sRGB of 0 to 255,
    the name of a material of `SURFACES`, and how much of the colour shines by itself."""

    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int32]
    rgb: tuple[int, int, int]
    material: str
    glow: float = 0.0


# what materials look like: roughness, metalness, alpha; three more than the catalogue has names for
SURFACES: dict[str, tuple[float, float, float]] = {
    **{m.name: (m.roughness, m.metalness, m.alpha) for m in catalogue.MATERIALS.values()},
    "glass_black": (0.12, 0.0, 1.0), "mirror": (0.04, 1.0, 1.0), "pane": (0.05, 0.0, 0.25)}


@lru_cache(maxsize=4096)
def mesh_of(kind: str, size: Size, colour: str, material: str) -> tuple[Part, ...]:
    """The parts of one object, standing at the origin with its front to +z; their bounds are exactly `size`.

    Pieces with the same paint are one part. Parts are shared between calls and not to be changed. KeyError for a kind, colour
    or material that the catalogue does not have.
    """
    return parts_of(_pieces(kind, size), catalogue.COLOURS[colour].rgb, catalogue.MATERIALS[material].name)


@lru_cache(maxsize=1024)
def _pieces(kind: str, size: Size) -> list[Piece]:
    return fitted(_BUILDERS[kind](*map(float, size)), size)


def parts_of(pieces: list[Piece], rgb: tuple[int, int, int] = (255, 255, 255), material: str = "stone") -> tuple[Part, ...]:
    """Pieces as parts, one for each look; `rgb` and `material` are for pieces that have none of their own."""
    looks: dict[tuple[tuple[int, int, int], str, float], list[Piece]] = {}
    for piece in pieces:
        paint = piece.paint
        r, g, b = (min(255, round(c * paint.tone)) for c in (paint.rgb or rgb))
        looks.setdefault(((r, g, b), paint.material or material, paint.glow), []).append(piece)
    return tuple(_part(group, *look) for look, group in looks.items())


def fitted(pieces: list[Piece], size: Size) -> list[Piece]:
    """The pieces stretched so that their bounds are the size box to the last bit: builders come within a few per cent of it, and
    faceted lumps cannot do better."""
    low = np.min([p.vertices.min(axis=0) for p in pieces], axis=0)
    high = np.max([p.vertices.max(axis=0) for p in pieces], axis=0)
    w, h, d = size
    factor = np.array([w, h, d]) / (high - low)
    target = np.array([-w / 2, 0.0, -d / 2])
    found = []
    for piece in pieces:
        vertices = np.clip((piece.vertices - low) * factor + target, target, target + np.array([w, h, d]))
        normals = piece.normals / factor
        found.append(Piece(vertices, normals / np.linalg.norm(normals, axis=1, keepdims=True), piece.faces, piece.paint))
    return found


def _part(pieces: list[Piece], rgb: tuple[int, int, int], material: str, glow: float) -> Part:
    offsets = np.cumsum([0, *(len(p.vertices) for p in pieces[:-1])])
    vertices: F = np.concatenate([p.vertices for p in pieces])
    faces = np.concatenate([p.faces + offset for p, offset in zip(pieces, offsets, strict=True)])
    return Part(vertices.astype(np.float32), np.concatenate([p.normals for p in pieces]).astype(np.float32), faces.astype(np.int32),
                rgb, material, glow)
