"""Pictures of a scene without a GPU, and with every picture the map of which thing is at which pixel.

Light is looked up after the z-buffer (raster.py), for what is seen alone: sun with the shadows of things (a second z-buffer, seen
from the sun), light from everywhere that is less in corners, lamps, and what shines by itself.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

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
    "night": _Mood((0.07, 0.09, 0.15), (0.05, 0.06, 0.11), ((0.05, 0.06, 0.12), (0.008, 0.012, 0.035)), (0.4, 0.9, 0.5), 0.016),
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


def _project(points: Array, camera: Camera, axes: Array) -> Array:
    """World to view space: x right, y up, z forward."""
    return (points - np.array(camera.eye)) @ axes.T


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

    def lit(self, x: Array, y: Array, z: Array) -> Array:
        """Light space [..] each → 1 where the sun reaches, 0 in shadow."""
        u = np.clip((x - self.low[0]) * self.scale, 0, self.size - 1).astype(np.int32)  # the edge of the map is empty
        v = np.clip(self.size - (y - self.low[1]) * self.scale, 0, self.size - 1).astype(np.int32)
        v *= self.size
        v += u
        return (self.map[v] * self.depth <= np.maximum(self.far - z, 0.0)).astype(np.float32)


def render(scene: Scene, camera: Camera | None = None, width: int = 640, height: int = 480, samples: int = 2,
           things: list[Placed] | None = None) -> Picture:
    """A picture of the scene (from `overview` if no camera is given) and the map of what is where in it.

    Every pixel is `samples` x `samples` points on a regular grid; its colour is their mean, its id what most of them
    hit (of several, the nearest). `things` draws other things than the scene's own.
    """
    camera = camera or overview(scene, width / height)
    things = placed(scene) if things is None else things
    axes = camera.axes()
    drawn = [t if not (camera.cutaway and _hides(t, axes)) else None for t in things]
    shapes = gather([t for t in drawn if t is not None])
    numbers = np.array([0, *(i for i, t in enumerate(drawn, start=1) if t is not None)], np.int32)
    w, h = width * samples, height * samples
    light = mood(scene.sky)
    towards = np.array(light.towards) / np.linalg.norm(light.towards)

    sun = np.maximum(shapes.normals @ towards.astype(np.float32), 0.0)  # [T, 3]
    fill = np.maximum(shapes.normals @ (-towards * (1, -0.2, 1)).astype(np.float32), 0.0)
    ambient = 0.82 + 0.18 * shapes.normals[:, :, 1] + 0.16 * fill
    points = _project(shapes.corners, camera, axes)
    values = np.stack([sun, ambient], axis=2).astype(float)
    if camera.height is None:
        points, values, origin = clip(points, values)
        focal = h / 2 / math.tan(math.radians(camera.fov) / 2)
        xy = points[:, :, :2] / points[:, :, 2:] * focal
        nearness = NEAR / points[:, :, 2]
    else:
        origin = np.arange(len(points))
        focal = h / camera.height
        xy = points[:, :, :2] * focal
        far = float(points[:, :, 2].max(initial=0.0)) + 1.0
        reach = far - float(points[:, :, 2].min(initial=0.0)) + 1.0
        nearness = (far - points[:, :, 2]) / reach
    xy = xy * (1, -1) + (w / 2, h / 2)
    hit, near = rasterise(xy, nearness, w, h)
    near = near.reshape(h, w)
    hit = hit.reshape(h, w)
    sky = hit < 0

    # where each point is: eye + z * (forward + a * right + b * up), or orthographic eye + z * forward + a * right + b * up
    a = ((np.arange(w) + 0.5 - w / 2) / focal).astype(np.float32)[None, :]
    b = ((h / 2 - np.arange(h) - 0.5) / focal).astype(np.float32)[:, None]
    with np.errstate(divide="ignore"):
        z = (np.float32(NEAR) / near if camera.height is None else far - near * reach).astype(np.float32)
    z[sky] = 1e6

    def along(vector: Array) -> Array:
        """The coordinate of every point along a direction, [h, w]."""
        r, u, f = (axes @ vector).astype(np.float32)
        base = np.float32(np.dot(camera.eye, vector))
        return base + z * (f + a * r + b * u) if camera.height is None else base + z * f + (a * r + b * u)

    corner_s, corner_a = (values[:, :, i].astype(np.float32) for i in (0, 1))
    safe = np.where(sky, 0, hit)
    sun_lit, ambient_lit = interpolate(xy, [corner_s, corner_a], safe, w, h)
    if shapes.casts.any():
        shadow = _Shadow(shapes, towards, 1024)
        right, up, forward = shadow.axes
        texel = np.float32(0.7 / shadow.scale)
        jitter_u = np.tile(np.array([[-1, 1], [1, -1]], np.float32), (-(-h // 2), -(-w // 2)))[:h, :w] * texel
        # a surface that the sun grazes changes its depth quickly from one point of the map to the next: the steeper, the more slack
        slope = np.sqrt(np.maximum(1 - sun_lit * sun_lit, 0)) / np.maximum(sun_lit, np.float32(0.15))
        lx, ly, lz = along(right), along(up), along(forward) - (np.float32(0.8) + slope * np.float32(1.8 / shadow.scale))
        lit = np.float32(0.5) * (shadow.lit(lx + jitter_u, ly + texel, lz) + shadow.lit(lx - texel, ly - jitter_u, lz))
        sun_lit *= np.float32(0.12) + np.float32(0.88) * lit
    ambient_lit *= _wide(_occlusion(near[::samples, ::samples], focal / samples, camera.height is None), samples)

    colours, glow = shapes.rgb[origin], shapes.glow[origin]
    image = np.empty((h, w, 3), np.float32)
    blend = np.clip(b / max(float(b[0, 0]), 1e-6) * 0.5 + 0.5, 0, 1)
    shine = glow[safe]
    glows = _lamps(scene, along, samples, light.lamps)
    for channel in range(3):
        lamp = glows[channel] if glows else 0.0
        tone = ambient_lit * np.float32(light.ambient[channel]) + sun_lit * np.float32(light.sun[channel]) + lamp
        plain = colours[:, channel][safe]
        image[:, :, channel] = plain * (tone * (1 - shine) + shine * np.float32(1.05))
        below, above_ = light.sky[0][channel], light.sky[1][channel]
        image[:, :, channel][sky] = np.broadcast_to((below + (above_ - below) * blend), (h, w))[sky]
    mean = image.reshape(height, samples, width, samples, 3).mean(axis=(1, 3))
    rgb = _ENCODE[(np.clip(mean, 0, 1) * 4095 + 0.5).astype(np.int32)]
    owner = np.where(sky, 0, numbers[shapes.owner[origin][safe]]).astype(np.int32)
    return Picture(rgb, _vote(owner, near, samples), ("", *(t.name for t in things)))


def _hides(thing: Placed, axes: Array) -> bool:
    """Whether a cutaway view leaves it out: ceilings, and walls (with their openings) that turn their outside to the eye."""
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


def _lamps(scene: Scene, along: Any, samples: int, weight: float) -> list[Array] | None:
    """The light of lamps at every point, for each channel: candela over squared metres, without shadows. It changes slowly, so that
    once for each pixel is enough."""
    found = sorted(lamps(scene), key=lambda lamp: -lamp[3])[:12]
    if not found:
        return None
    x, y, z = (along(np.array(v))[::samples, ::samples] for v in ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)))
    out = [np.zeros_like(x) for _ in range(3)]
    for _, (lx, ly, lz), rgb, candela in found:
        square = ((x - lx) ** 2 + (y - ly) ** 2 + (z - lz) ** 2) * np.float32(1e-4)
        strength = np.float32(weight * candela) / (square + np.float32(0.35))
        for channel, c in enumerate(linear(rgb)):
            out[channel] += strength * np.float32(c)
    return [_wide(channel, samples) for channel in out]


def _wide(array: Array, samples: int) -> Array:
    """[H, W] → [H s, W s]."""
    return array.repeat(samples, 0).repeat(samples, 1)


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
