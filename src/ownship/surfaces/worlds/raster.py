"""Pictures of a scene without a GPU: a z-buffer in numpy, and with every picture the map of which thing is at which pixel.

All triangles are drawn at once. A triangle becomes one span per row it touches (where its three edges cut the row), spans become
fragments, and the nearest fragment of a pixel is a maximum over (nearness, number of the triangle) packed in one integer. An
edge that two triangles share has exactly opposite coefficients in both, so no pixel of it is drawn twice or left out. Lighting
is looked up afterwards, for what is seen alone.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ownship.surfaces.worlds.shell import Placed, placed
from ownship.surfaces.worlds.types import Scene, Sky

Array = NDArray[Any]
NEAR = 5.0  # cm: what is nearer to the eye is cut off


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


@dataclass(frozen=True, eq=False)
class Picture:
    """`rgb` uint8 [H, W, 3]; `ids` int32 [H, W]: the number of the thing that covers most of the pixel, an index into `names`
    (0, "", is the sky). Names are those of shell.placed: "sofa1", "room1.floor", "room1.north", "window1"."""

    rgb: NDArray[np.uint8]
    ids: NDArray[np.int32]
    names: tuple[str, ...]

    def png(self) -> bytes:
        return png(self.rgb)


def _bounds(scene: Scene) -> tuple[float, float, float, float, float]:
    """(x0, z0, x1, z1, height) of everything."""
    boxes = [(a.x - a.w / 2, a.z - a.d / 2, a.x + a.w / 2, a.z + a.d / 2) for a in (*scene.rooms, *scene.plots)]
    reach = [max(o.w, o.d) / 2 for o in scene.objects]
    boxes += [(o.x - r, o.z - r, o.x + r, o.z + r) for o, r in zip(scene.objects, reach, strict=True)]
    if not boxes:
        return (-300.0, -300.0, 300.0, 300.0, 100.0)
    x0, z0 = (min(b[i] for b in boxes) for i in (0, 1))
    x1, z1 = (max(b[i] for b in boxes) for i in (2, 3))
    return x0, z0, x1, z1, max([100.0, *(r.h for r in scene.rooms), *(o.y + o.h for o in scene.objects)])


def overview(scene: Scene, aspect: float = 4 / 3, turn: float = 25.0, pitch: float = 38.0) -> Camera:
    """Everything from outside and above, from the south-east: `turn` degrees east of south, `pitch` degrees down."""
    x0, z0, x1, z1, top = _bounds(scene)
    target = np.array([(x0 + x1) / 2, min(top, 250.0) * 0.3, (z0 + z1) / 2])
    a, b, fov = math.radians(turn), math.radians(pitch), math.radians(30.0)
    away = np.array([math.sin(a) * math.cos(b), math.sin(b), math.cos(a) * math.cos(b)])
    view = Camera(tuple(target + away), tuple(target)).axes()
    corners = np.array([(x, y, z) for x in (x0, x1) for y in (0.0, top) for z in (z0, z1)]) - target
    right, up, forward = (corners @ view.T).T
    distance = max(float((np.abs(right) / (math.tan(fov / 2) * aspect) - forward).max()), float((np.abs(up) / math.tan(fov / 2) - forward).max()))
    return Camera(tuple(target + away * distance * 1.04), tuple(target), fov=30.0, cutaway=True)


def above(scene: Scene, aspect: float = 4 / 3) -> Camera:
    """A plan: orthographic, from straight above, north at the top."""
    x0, z0, x1, z1, top = _bounds(scene)
    x, z = (x0 + x1) / 2, (z0 + z1) / 2
    return Camera((x, top + 500.0, z), (x, 0.0, z), height=max(z1 - z0, (x1 - x0) / aspect) * 1.08, cutaway=True)


def walker(scene: Scene, fov: float = 60.0) -> Camera:
    """What one sees who stands at the spawn point, eyes 160 cm above the ground."""
    a = math.radians(scene.spawn.turn)
    x, z = float(scene.spawn.x), float(scene.spawn.z)
    return Camera((x, 160.0, z), (x + 100 * math.sin(a), 145.0, z + 100 * math.cos(a)), fov=fov)


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


def _linear(rgb: tuple[int, int, int]) -> list[float]:
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
            rgb.append(np.broadcast_to(np.array(_linear(part.rgb), np.float32), (count, 3)))
            glow.append(np.full(count, part.glow, np.float32))
            owner.append(np.full(count, number, np.int32))
            casts.append(np.full(count, thing.role == "object"))
    if not corners:
        return Triangles(np.zeros((0, 3, 3)), np.zeros((0, 3, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros(0, np.float32),
                         np.zeros(0, np.int32), np.zeros(0, bool))
    return Triangles(*(np.concatenate(x) for x in (corners, normals, rgb, glow, owner, casts)))


def _clip(points: Array, values: Array) -> tuple[Array, Array, Array]:
    """Triangles [T, 3, 3] in view space with what hangs on their corners [T, 3, K], cut at the near plane. Gives points, values
    and which triangle each piece comes from."""
    behind = points[:, :, 2] < NEAR
    count = behind.sum(axis=1)
    whole = np.flatnonzero(count == 0)
    found = [(points[whole], values[whole], whole)]
    for some in (1, 2):
        index = np.flatnonzero(count == some)
        if not len(index):
            continue
        # turn the odd corner to the front
        odd = np.argmax(behind[index] if some == 1 else ~behind[index], axis=1)
        order = (odd[:, None] + np.arange(3)) % 3
        p = np.take_along_axis(points[index], order[:, :, None], axis=1)
        v = np.take_along_axis(values[index], order[:, :, None], axis=1)
        t1 = ((NEAR - p[:, 0, 2]) / (p[:, 1, 2] - p[:, 0, 2]))[:, None]
        t2 = ((NEAR - p[:, 0, 2]) / (p[:, 2, 2] - p[:, 0, 2]))[:, None]
        p1, p2 = p[:, 0] + t1 * (p[:, 1] - p[:, 0]), p[:, 0] + t2 * (p[:, 2] - p[:, 0])
        v1, v2 = v[:, 0] + t1 * (v[:, 1] - v[:, 0]), v[:, 0] + t2 * (v[:, 2] - v[:, 0])
        if some == 2:  # one corner before the eye: a smaller triangle
            found.append((np.stack([p[:, 0], p1, p2], 1), np.stack([v[:, 0], v1, v2], 1), index))
        else:  # two corners: a quadrangle
            found.append((np.stack([p1, p[:, 1], p[:, 2]], 1), np.stack([v1, v[:, 1], v[:, 2]], 1), index))
            found.append((np.stack([p1, p[:, 2], p2], 1), np.stack([v1, v[:, 2], v2], 1), index))
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found]), np.concatenate([f[2] for f in found])


def rasterise(xy: Array, nearness: Array, width: int, height: int) -> tuple[Array, Array]:
    """Which triangle is seen at which pixel.

    xy [T, 3, 2] in pixels (x to the right, y down; pixel centres at half numbers), nearness [T, 3] at the corners, above 0, greater
    is nearer, linear on the screen. Triangles that wind clockwise on the screen face away and are left out. Gives the
    number of the triangle (-1 for none) and its nearness (0 for none), both [H * W].
    """
    x0, y0, x1, y1, x2, y2 = (xy[:, i, j] for i in range(3) for j in range(2))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)  # y points down: what faces the eye is negative
    top = np.clip(np.ceil(xy[:, :, 1].min(axis=1) - 0.5), 0, height).astype(np.int64)
    end = np.clip(np.ceil(xy[:, :, 1].max(axis=1) - 0.5), 0, height).astype(np.int64)
    seen = np.flatnonzero((area < -1e-12) & (end > top) & (xy[:, :, 0].max(axis=1) > 0) & (xy[:, :, 0].min(axis=1) < width))
    keys = np.zeros(width * height, np.int64)
    if not len(seen):
        return np.full(width * height, -1, np.int64), np.zeros(width * height, np.float32)
    rows = end[seen] - top[seen]
    span = np.repeat(seen, rows)  # the triangle of each span
    y = np.arange(len(span)) - np.repeat(np.cumsum(rows) - rows, rows) + top[span]
    left, right = np.full(len(span), -np.inf), np.full(len(span), np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        xi, yi, xj, yj = xy[:, i, 0], xy[:, i, 1], xy[:, j, 0], xy[:, j, 1]
        dy, dx, cross = yi - yj, xj - xi, xi * yj - xj * yi  # inside: dy x + dx y + cross < 0 (all signs turn with the edge)
        with np.errstate(divide="ignore", invalid="ignore"):
            cut = -(dx[span] * (y + 0.5) + cross[span]) / dy[span]
        slope = dy[span]
        left = np.where(slope < 0, np.maximum(left, cut), left)
        right = np.where(slope > 0, np.minimum(right, cut), right)
    first = np.clip(np.ceil(left - 0.5), 0, width).astype(np.int64)  # a centre on the left edge belongs to it, on the right one not
    last = np.clip(np.ceil(right - 0.5), 0, width).astype(np.int64)
    keep = np.flatnonzero(last > first)
    span, y, first, last = span[keep], y[keep], first[keep], last[keep]
    # the plane of the nearness over the screen
    n0, n1, n2 = nearness[:, 0], nearness[:, 1], nearness[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        nx = ((n1 - n0) * (y2 - y0) - (n2 - n0) * (y1 - y0)) / area
        ny = ((x1 - x0) * (n2 - n0) - (x2 - x0) * (n1 - n0)) / area
    n_low, n_high = nearness.min(axis=1), nearness.max(axis=1)
    start = n0[span] + nx[span] * (first + 0.5 - x0[span]) + ny[span] * (y + 0.5 - y0[span])
    count = last - first
    offset = np.cumsum(count) - count
    # in slices, so that the memory stays in the cache and small
    slice_ends = np.searchsorted(offset, np.arange(0, int(count.sum()), 400_000))
    for a, b in zip(slice_ends, [*slice_ends[1:], len(count)], strict=True):
        if a == b:
            continue
        c = count[a:b]
        owner = np.repeat(np.arange(a, b), c)
        along = (np.arange(len(owner)) - np.repeat(offset[a:b] - offset[a], c)).astype(np.float32)
        triangle = span[owner]
        n = start[owner].astype(np.float32) + nx[triangle].astype(np.float32) * along
        np.clip(n, n_low[triangle], n_high[triangle], out=n)
        key = (n.view(np.int32).astype(np.int64) << 32) | triangle
        np.maximum.at(keys, (y[a:b] * width + first[a:b])[owner - a] + along.astype(np.int64), key)
    hit = keys > 0
    return np.where(hit, keys & 0xFFFFFFFF, -1), (keys >> 32).astype(np.int32).view(np.float32)


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


_ENCODE = np.array([round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055)) for c in np.linspace(0, 1, 4096)],
                   dtype=np.uint8)  # linear to sRGB


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
        self.low, self.far = low[:2] - 2.0, float(high[2]) + 1.0
        self.scale = float(size / ((high - low)[:2].max() + 4.0))
        self.depth = float(high[2] - low[2]) + 2.0
        xy = (points[:, :, :2] - self.low) * self.scale
        xy[:, :, 1] = size - xy[:, :, 1]
        self.map = rasterise(xy, (self.far - points[:, :, 2]) / self.depth, size, size)[1]

    def lit(self, x: Array, y: Array, z: Array) -> Array:
        """Light space [..] each → 1 where the sun reaches, 0 in shadow."""
        u, v = (x - self.low[0]) * self.scale, self.size - (y - self.low[1]) * self.scale
        inside = (u >= 0) & (u < self.size) & (v >= 0) & (v < self.size)
        index = np.where(inside, v.astype(np.int32) * self.size + u.astype(np.int32), 0)
        return (~inside | (self.map[index] <= np.maximum(self.far - z, 0.0) / self.depth)).astype(np.float32)


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
    ambient = 0.78 + 0.22 * shapes.normals[:, :, 1] + 0.16 * fill
    points = _project(shapes.corners, camera, axes)
    values = np.stack([sun, ambient], axis=2).astype(float)
    if camera.height is None:
        points, values, origin = _clip(points, values)
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
    sun_lit, ambient_lit = _interpolate(xy, [corner_s, corner_a], safe, w, h) if len(xy) else (np.zeros((h, w), np.float32),) * 2
    if shapes.casts.any():
        shadow = _Shadow(shapes, towards, 1024)
        right, up, forward = shadow.axes
        texel = np.float32(0.7 / shadow.scale)
        jitter_u = np.tile(np.array([[-1, 1], [1, -1]], np.float32), (-(-h // 2), -(-w // 2)))[:h, :w] * texel
        lx, ly, lz = along(right), along(up), along(forward) - np.float32(1.2 + 1.5 / shadow.scale)
        lit = np.float32(0.5) * (shadow.lit(lx + jitter_u, ly + texel, lz) + shadow.lit(lx - texel, ly - jitter_u, lz))
        sun_lit *= np.float32(0.12) + np.float32(0.88) * lit
    ambient_lit *= _occlusion(near[::samples, ::samples], focal / samples, camera.height is None).repeat(samples, 0).repeat(samples, 1)[:h, :w]

    colours, glow = shapes.rgb[origin], shapes.glow[origin]
    image = np.empty((h, w, 3), np.float32)
    blend = np.clip(b / max(float(b[0, 0]), 1e-6) * 0.5 + 0.5, 0, 1)
    shine = glow[safe]
    glows = light.lamps and _lamps(scene, along, samples, light.lamps)
    for channel in range(3):
        lamp = glows[channel] if glows else 0.0
        tone = ambient_lit * np.float32(light.ambient[channel]) + sun_lit * np.float32(light.sun[channel]) + lamp
        plain = colours[:, channel][safe]
        image[:, :, channel] = plain * (tone * (1 - shine) + shine * np.float32(1.05))
        below, above_ = light.sky[0][channel], light.sky[1][channel]
        image[:, :, channel][sky] = np.broadcast_to((below + (above_ - below) * blend), (h, w))[sky]
    mean = image.reshape(height, samples, width, samples, 3).mean(axis=(1, 3))
    rgb = _ENCODE[(np.clip(mean, 0, 1) * 4095 + 0.5).astype(np.int32)]
    owner = np.where(sky, 0, numbers[shapes.owner[origin][safe]] if len(origin) else 0).astype(np.int32)
    return Picture(rgb, _vote(owner, near, samples), ("", *(t.name for t in things)))


def _hides(thing: Placed, axes: Array) -> bool:
    """Whether a cutaway view leaves it out: ceilings, and walls (with their openings) that turn their outside to the eye."""
    if thing.role == "ceiling":
        return True
    if thing.outward is None:
        return False
    return float(axes[2][0] * thing.outward[0] + axes[2][2] * thing.outward[1]) < -0.05


def _interpolate(xy: Array, corners: list[Array], safe: Array, w: int, h: int) -> list[Array]:
    """Values at the corners of triangles [T, 3] → at the pixels that see them [h, w], linear on the screen."""
    x0, y0 = xy[:, 0, 0], xy[:, 0, 1]
    ax, ay, bx, by = xy[:, 1, 0] - x0, xy[:, 1, 1] - y0, xy[:, 2, 0] - x0, xy[:, 2, 1] - y0
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / (ax * by - bx * ay)
    px, py = (np.arange(w) + 0.5).astype(np.float32)[None, :], (np.arange(h) + 0.5).astype(np.float32)[:, None]
    found = []
    for value in corners:
        d1, d2 = value[:, 1] - value[:, 0], value[:, 2] - value[:, 0]
        gx, gy = (d1 * by - d2 * ay) * inverse, (d2 * ax - d1 * bx) * inverse
        base = value[:, 0] - gx * x0 - gy * y0
        gx, gy, base = (np.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32) for g in (gx, gy, base))
        at = base[safe] + gx[safe] * px + gy[safe] * py
        found.append(np.clip(at, 0.0, 1.2))
    return found


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
    """The light of lamps at every point, for each channel: candela over squared metres, without shadows."""
    from ownship.surfaces.worlds.shell import lamps

    found = sorted(lamps(scene), key=lambda lamp: -lamp[3])[:12]
    if not found:
        return None
    x, y, z = (along(np.array(v)) for v in ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)))
    out = [np.zeros_like(x) for _ in range(3)]
    for _, (lx, ly, lz), rgb, candela in found:
        square = ((x - lx) ** 2 + (y - ly) ** 2 + (z - lz) ** 2) * np.float32(1e-4)
        strength = np.float32(weight * candela) / (square + np.float32(0.35))
        for channel, c in enumerate(_linear(rgb)):
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
