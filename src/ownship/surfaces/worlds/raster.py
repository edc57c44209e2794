"""Triangles to pixels with a z-buffer in numpy.

All triangles are drawn at once. A triangle becomes one span per row it touches (where its three edges cut the row), spans become
fragments, and the nearest fragment of a pixel is a maximum over (nearness, number of the triangle) packed in one integer. An
edge that two triangles share has exactly opposite coefficients in both, so no pixel of it is drawn twice or left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NEAR = 5.0  # cm: what is nearer to the eye is cut off


def clip(points: Array, values: Array) -> tuple[Array, Array, Array]:
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


def interpolate(xy: Array, corners: list[Array], triangle: Array, x: Array, y: Array) -> list[Array]:
    """Values at the corners of triangles [T, 3] → at points of the screen [N] that see `triangle` [N], linear on the screen."""
    x0, y0 = xy[:, 0, 0], xy[:, 0, 1]
    ax, ay, bx, by = xy[:, 1, 0] - x0, xy[:, 1, 1] - y0, xy[:, 2, 0] - x0, xy[:, 2, 1] - y0
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / (ax * by - bx * ay)
    found = []
    for value in corners:
        d1, d2 = value[:, 1] - value[:, 0], value[:, 2] - value[:, 0]
        with np.errstate(invalid="ignore"):  # triangles without an area are seen by nobody
            gx, gy = (d1 * by - d2 * ay) * inverse, (d2 * ax - d1 * bx) * inverse
            base = value[:, 0] - gx * x0 - gy * y0
        gx, gy, base = (np.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32) for g in (gx, gy, base))
        found.append(np.clip(base[triangle] + gx[triangle] * x + gy[triangle] * y, 0.0, 1.2))
    return found
