"""Pictures of a scene without a GPU, and with every picture the map of which thing is at which pixel.

Light is looked up after the z-buffer (raster.py), for what is seen alone: sun with the shadows of things (a second z-buffer, seen
from the sun), light from everywhere that is less in corners, lamps, and what shines by itself.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ownship.surfaces.worlds.camera import Camera, overview
from ownship.surfaces.worlds.raster import NEAR, Array, clip, interpolate, rasterise
from ownship.surfaces.worlds.shell import Placed, lamps, placed
from ownship.surfaces.worlds.types import Scene, Sky


@dataclass(frozen=True, eq=False)
class Picture:
    """`rgb` uint8 [H, W, 3]; `ids` int32 [H, W]: the number of the thing that covers most of the pixel, an index into `names`
    (0, "", is the sky). Names are those of shell.placed: "sofa1", "room1.floor", "room1.north", "window1"."""

    rgb: NDArray[np.uint8]
    ids: NDArray[np.int32]
    names: tuple[str, ...]

    def png(self) -> bytes:
        return png(self.rgb)


# Triangles


@dataclass(frozen=True, eq=False)
class Triangles:
    """What is drawn: corners float64 [T, 3, 3], normals float32 [T, 3, 3], linear rgb float32 [T, 3], glow [T], owner [T]
    (number of a Placed, from 1), whether it casts a shadow [T]."""

    corners: Array
    normals: Array
    rgb: Array
    glow: Array
    owner: Array
    casts: Array


def linear(rgb: tuple[int, int, int]) -> list[float]:
    """sRGB of 0 to 255 → linear, 0 to 1."""
    return [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]


def gather(things: list[Placed]) -> Triangles:
    """All triangles of what is placed, in the world's coordinates."""
    corners, normals, rgb, glow, owner, casts = [], [], [], [], [], []
    for number, thing in enumerate(things, start=1):
        a = math.radians(thing.turn)
        c, s = math.cos(a), math.sin(a)
        turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])  # for rows: [x, y, z] @ turn
        for part in thing.parts:
            corners.append((part.vertices.astype(float) @ turn + (thing.x, thing.y, thing.z))[part.faces])
            normals.append((part.normals @ turn.astype(np.float32))[part.faces])
            count = len(part.faces)
            rgb.append(np.broadcast_to(np.array(linear(part.rgb), np.float32), (count, 3)))
            glow.append(np.full(count, part.glow, np.float32))
            owner.append(np.full(count, number, np.int32))
            casts.append(np.full(count, thing.role == "object"))
    if not corners:  # one triangle that nobody sees
        corners, normals, rgb = [np.zeros((1, 3, 3))], [np.zeros((1, 3, 3), np.float32)], [np.zeros((1, 3), np.float32)]
        glow, owner, casts = [np.zeros(1, np.float32)], [np.zeros(1, np.int32)], [np.zeros(1, bool)]
    return Triangles(*(np.concatenate(x) for x in (corners, normals, rgb, glow, owner, casts)))


# Light


@dataclass(frozen=True)
class _Mood:
    """Linear colours of the sun, the light from everywhere and the sky (below, above), where the sun is, how much lamps count."""

    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    sky: tuple[tuple[float, float, float], tuple[float, float, float]]
    towards: tuple[float, float, float]
    lamps: float


_MOODS = {
    "day": _Mood((0.78, 0.72, 0.62), (0.42, 0.44, 0.48), ((0.90, 0.92, 0.93), (0.47, 0.65, 0.84)), (0.5, 0.9, 0.42), 0.0015),
    "dusk": _Mood((0.62, 0.34, 0.18), (0.26, 0.23, 0.31), ((0.86, 0.46, 0.28), (0.16, 0.17, 0.36)), (0.75, 0.5, 0.35), 0.008),
    "night": _Mood((0.07, 0.09, 0.15), (0.05, 0.06, 0.11), ((0.05, 0.06, 0.12), (0.008, 0.012, 0.035)), (0.4, 0.9, 0.5), 0.024),
}


def mood(sky: Sky) -> _Mood:
    found = _MOODS[sky.time]
    if sky.weather == "clear":
        return found
    grey = tuple((sum(c) / 3 * 0.8 + 0.1 * found.ambient[0],) * 3 for c in found.sky)
    dim = tuple(c * 0.35 for c in found.sun)
    return _Mood(dim, tuple(c * 1.25 for c in found.ambient), grey, found.towards, found.lamps)  # type: ignore[arg-type]


_STEPS = np.linspace(0, 1, 4096)  # linear; _ENCODE is their sRGB
_ENCODE = np.rint(255 * np.where(_STEPS <= 0.0031308, 12.92 * _STEPS, 1.055 * _STEPS ** (1 / 2.4) - 0.055)).astype(np.uint8)


class _Shadow:
    """What the sun sees of the things that cast shadows: nearness on a square map."""

    def __init__(self, shapes: Triangles, towards: Array, size: int) -> None:
        corners = shapes.corners[shapes.casts]
        self.axes = Camera(tuple(towards), (0.0, 0.0, 0.0)).axes()
        self.size = size
        self.map = np.zeros(size * size, np.float32)
        points = corners @ self.axes.T
        low, high = points.reshape(-1, 3).min(axis=0), points.reshape(-1, 3).max(axis=0)
        extent = float((high - low)[:2].max())
        self.scale = (size - 8) / extent
        self.low, self.far = [float(x) - 4 / self.scale for x in low[:2]], float(high[2]) + 1.0
        self.depth = float(high[2] - low[2]) + 2.0
        xy = (points[:, :, :2] - self.low) * self.scale
        xy[:, :, 1] = size - xy[:, :, 1]
        self.map = rasterise(xy, (self.far - points[:, :, 2]) / self.depth, size, size)[1]

    def reached(self, along: Callable[[Array], Array], facing: Array) -> Array:
        """The share of the sun that reaches points [N], given their coordinates along any direction and how much they face the sun:
        the mean of four looks at the map around each point, so that shadows have soft edges."""
        right, up, forward = self.axes
        x, y = (along(right) - self.low[0]) * self.scale, self.size - (along(up) - self.low[1]) * self.scale
        # a surface that the sun grazes changes its depth quickly from one point of the map to the next: the steeper, the more slack
        slope = np.sqrt(np.maximum(1 - facing * facing, 0)) / np.maximum(facing, np.float32(0.15))
        z = np.maximum((self.far + 0.8) + slope * (2.0 / self.scale) - along(forward), 0)
        found = np.zeros_like(z)
        for dx, dy in ((-0.4, -0.9), (0.9, -0.4), (0.4, 0.9), (-0.9, 0.4)):
            column = np.clip(x + dx, 0, self.size - 1).astype(np.int32)  # the edge of the map is empty
            row = np.clip(y + dy, 0, self.size - 1).astype(np.int32)
            found += self.map[row * self.size + column] * self.depth <= z
        return found * np.float32(0.25)


def render(scene: Scene, camera: Camera | None = None, width: int = 640, height: int = 480, samples: int = 2,
           things: list[Placed] | None = None) -> Picture:
    """A picture of the scene (from `overview` if no camera is given) and the map of what is where in it.

    Every pixel is `samples` x `samples` points on a regular grid; its colour is their mean, its id what most of them
    hit (of several, the nearest). `things` draws other things than the scene's own.
    """
    camera = camera or overview(scene, width / height)
    things = placed(scene) if things is None else things
    axes = camera.axes()
    shown = [(i, t) for i, t in enumerate(things, start=1) if not (camera.cutaway and _hides(t, axes))]
    shapes = gather([t for _, t in shown])
    light = mood(scene.sky)
    towards = np.array(light.towards) / np.linalg.norm(light.towards)
    sun = np.maximum(shapes.normals @ towards.astype(np.float32), 0.0)  # [T, 3]
    fill = np.maximum(shapes.normals @ (-towards * (1, -0.2, 1)).astype(np.float32), 0.0)
    around = 0.82 + 0.18 * shapes.normals[:, :, 1] + 0.16 * fill

    w, h = width * samples, height * samples
    points = (shapes.corners - np.array(camera.eye)) @ axes.T  # right, up, forward
    values = np.stack([sun, around], axis=2).astype(float)
    far = reach = 0.0
    if camera.height is None:
        points, values, origin = clip(points, values)
        focal = h / 2 / math.tan(math.radians(camera.fov) / 2)
        xy, nearness = points[:, :, :2] / points[:, :, 2:] * focal, NEAR / points[:, :, 2]
    else:
        origin, focal = np.arange(len(points)), h / camera.height
        far = float(points[:, :, 2].max()) + 1.0
        reach = far - float(points[:, :, 2].min()) + 1.0
        xy, nearness = points[:, :, :2] * focal, (far - points[:, :, 2]) / reach
    xy = xy * (1, -1) + (w / 2, h / 2)
    hit, near = rasterise(xy, nearness, w, h)

    # from here on [N]: the points that are shaded
    at, pixel, mixed = _points(hit.reshape(h, w), samples)
    triangle, depth = hit[at], near[at]
    sky = triangle < 0
    triangle = np.where(sky, 0, triangle)
    x, y = (at % w).astype(np.float32) + np.float32(0.5), (at // w).astype(np.float32) + np.float32(0.5)
    a, b = (x - np.float32(w / 2)) / np.float32(focal), (np.float32(h / 2) - y) / np.float32(focal)
    with np.errstate(divide="ignore"):
        z = np.where(sky, np.float32(1e6), np.float32(NEAR) / depth if camera.height is None else far - depth * np.float32(reach))

    def along(vector: Array) -> Array:
        """The coordinate of every point along a direction; a point is eye + z (forward + a right + b up)."""
        r, u, f = (float(c) for c in axes @ vector)
        base = float(np.dot(camera.eye, vector))
        return base + z * (f + a * r + b * u) if camera.height is None else base + z * f + (a * r + b * u)

    sun_lit, ambient_lit = interpolate(xy, [values[:, :, i] for i in (0, 1)], triangle, x, y)
    if shapes.casts.any():
        sun_lit *= 0.12 + 0.88 * _Shadow(shapes, towards, 1024).reached(along, sun_lit)
    every = near.reshape(h, w)[::samples, ::samples]
    ambient_lit *= _occlusion(every, focal / samples, camera.height is None).ravel()[pixel]
    lamp = _lamps(scene, along, width * height, light.lamps)
    table = shapes.rgb[origin]
    shine = shapes.glow[origin][triangle]
    height_of = np.clip(b / np.float32(h / 2 / focal) * 0.5 + 0.5, 0, 1)
    channels = []
    for i in range(3):
        tone = ambient_lit * np.float32(light.ambient[i]) + sun_lit * np.float32(light.sun[i])
        if lamp is not None:
            tone += (lamp[i] / (1 + 0.45 * lamp[i]))[pixel]  # many lamps do not blind
        colour = table[:, i][triangle] * (tone * (1 - shine) + shine * np.float32(1.05))
        below, above = light.sky[0][i], light.sky[1][i]
        channels.append(np.where(sky, below + (above - below) * height_of, colour))
    image = np.clip(np.stack(channels, axis=1), 0, 1)
    mean, more = image[:width * height], samples * samples - 1
    if more:
        mean[mixed] = (mean[mixed] + image[width * height:].reshape(-1, more, 3).sum(axis=1)) / (more + 1)
    rgb = _ENCODE[(mean * 4095 + 0.5).astype(np.int32)].reshape(height, width, 3)
    numbers = np.array([0, *(i for i, _ in shown)], np.int32)[shapes.owner[origin]]
    owner = np.append(numbers, np.int32(0))[hit].reshape(h, w)  # -1, nothing, is the last
    return Picture(rgb, _vote(owner, near.reshape(h, w), samples), ("", *(t.name for t in things)))


def _points(hit: Array, samples: int) -> tuple[Array, Array, Array]:
    """Which points of the screen are shaded: the first of every pixel, then the others of those pixels that see several
    triangles. Gives the index of each point on the screen, the pixel of each point, and the pixels that have several."""
    h, w = hit.shape
    height, width = h // samples, w // samples
    cells = hit.reshape(height, samples, width, samples).transpose(0, 2, 1, 3).reshape(height * width, -1)
    mixed = np.flatnonzero((cells != cells[:, :1]).any(axis=1))
    first = (np.arange(height)[:, None] * samples * w + np.arange(width) * samples).ravel()
    others = (np.arange(samples)[:, None] * w + np.arange(samples)).ravel()[1:]
    at = np.concatenate([first, (first[mixed][:, None] + others).ravel()])
    return at, np.concatenate([np.arange(height * width), np.repeat(mixed, len(others))]), mixed


def _hides(thing: Placed, axes: Array) -> bool:
    """Whether a cutaway view leaves it out: ceilings, and walls that turn their outside to the eye, with all that is on them."""
    if thing.role == "ceiling":
        return True
    if thing.outward is None:
        return False
    return float(axes[2][0] * thing.outward[0] + axes[2][2] * thing.outward[1]) < -0.05


def _occlusion(near: Array, focal: float, perspective: bool) -> Array:
    """How much of the light from everywhere reaches a point, 0 to 1: less in corners and under things.

    The nearness of a plane is linear on the screen, so where the mean of two opposite neighbours is nearer than a
    point, the surface is hollow there.
    """
    dark = np.zeros_like(near)
    pad = 16
    wide = np.pad(near, pad, mode="edge")
    h, w = near.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / np.maximum(near, 1e-9) if perspective else np.ones_like(near)
    for r in (3, 8, 15):
        for dx, dy in ((r, 0), (0, r), (r * 7 // 10, r * 7 // 10), (r * 7 // 10, -r * 7 // 10)):
            one = wide[pad + dy:pad + dy + h, pad + dx:pad + dx + w]
            two = wide[pad - dy:pad - dy + h, pad - dx:pad - dx + w]
            hollow = ((one + two) * np.float32(0.5) - near) * scale * np.float32(focal / r)  # about the tangent of the bend
            dark += np.where(hollow > 0, np.minimum(hollow, 1.0) * np.exp(-np.maximum(hollow - 1.0, 0) * 0.8), 0)
    return np.clip(1 - dark * np.float32(0.055), 0.45, 1.0).astype(np.float32)


def _lamps(scene: Scene, along: Callable[[Array], Array], count: int, weight: float) -> list[Array] | None:
    """The light of lamps at the first `count` points, for each channel: candela over squared metres, without shadows. It changes
    slowly, so that one point of each pixel is enough."""
    found = sorted(lamps(scene), key=lambda lamp: -lamp[3])[:12]
    if not found:
        return None
    x, y, z = (along(axis)[:count] for axis in np.eye(3))
    out = [np.zeros_like(x) for _ in range(3)]
    for _, (lx, ly, lz), rgb, candela in found:
        square = ((x - lx) ** 2 + (y - ly) ** 2 + (z - lz) ** 2) * np.float32(1e-4)
        strength = np.float32(weight * candela) / (square + np.float32(0.35))
        for channel, c in enumerate(linear(rgb)):
            out[channel] += strength * np.float32(c)
    return out


def _vote(owner: Array, near: Array, samples: int) -> NDArray[np.int32]:
    """[H s, W s] → [H, W]: the commonest of the s x s points of a pixel; of several, the nearest."""
    if samples == 1:
        return owner
    h, w = owner.shape[0] // samples, owner.shape[1] // samples
    def cells(array: Array) -> Array:
        return array.reshape(h, samples, w, samples).transpose(0, 2, 1, 3).reshape(h * w, samples * samples)

    ids, depth = cells(owner), cells(near)
    best = ids[:, 0].copy()
    mixed = np.flatnonzero((ids != ids[:, :1]).any(axis=1))
    some, close = ids[mixed], depth[mixed]
    votes = (some[:, :, None] == some[:, None, :]).sum(axis=2) + close  # nearness is below 1: it decides ties alone
    best[mixed] = np.take_along_axis(some, votes.argmax(axis=1)[:, None], axis=1)[:, 0]
    return best.reshape(h, w).astype(np.int32)


def png(rgb: NDArray[np.uint8]) -> bytes:
    """A PNG file of [H, W, 3], the same bytes for the same pixels."""
    h, w, _ = rgb.shape
    lines = rgb.reshape(h, w * 3)
    filtered = np.empty((h, w * 3 + 1), np.uint8)
    filtered[:, 0] = 2  # each line as its difference from the one above
    filtered[0, 1:], filtered[1:, 1:] = lines[0], lines[1:] - lines[:-1]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6)) + chunk(b"IEND", b""))
