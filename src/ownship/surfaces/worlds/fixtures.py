"""How kitchens, baths and pianos are built, as in furniture.py."""

from __future__ import annotations

from ownship.surfaces.worlds.furniture import BRASS, DARK, DARK_WOOD, DEEP, LIGHT, SHADE, STEEL, WOOD, Pieces, fronts
from ownship.surfaces.worlds.household import SCREEN, WATER, WHITE
from ownship.surfaces.worlds.shapes import MAIN, Paint, ball, box, cushion, cylinder, lathe, quads, tube


def stove(w: float, h: float, d: float) -> Pieces:
    face = d / 2 - d * 0.06
    pieces = [
        box(-w / 2, h * 0.06, -d / 2, w / 2, h * 0.97, face),
        box(-w / 2 + 2, 0, -d / 2, w / 2 - 2, h * 0.06, face - 4, DARK),
        box(-w / 2, h * 0.965, -d / 2, w / 2, h * 0.995, d / 2 - d * 0.03, SCREEN),
        box(-w / 2 + w * 0.05, h * 0.14, face, w / 2 - w * 0.05, h * 0.74, face + d * 0.03, SHADE),
        box(-w / 2 + w * 0.14, h * 0.26, face + d * 0.03, w / 2 - w * 0.14, h * 0.62, face + d * 0.035, SCREEN),
        tube((-w * 0.36, h * 0.69, face + d * 0.048), (w * 0.36, h * 0.69, face + d * 0.048), d * 0.012, STEEL),
    ]
    for i in range(4):
        pieces.append(cylinder(w * 0.03, 0, d * 0.05, DARK, 10).turned("x", 90).at(w * (-0.33 + 0.22 * i), h * 0.855, face))
        ring = lathe([(0, 0.995), (0.17, 0.995), (0.17, 1.0), (0, 1.0)], Paint((92, 94, 98), "metal"), 16, 20).scaled(w, h, d)
        pieces.append(ring.at(w * (-0.23 + 0.46 * (i % 2)), 0, d * (-0.22 + 0.42 * (i // 2))))
    return pieces


def sink(w: float, h: float, d: float) -> Pieces:
    top, tap = h * 0.8, min(w, d) * 0.025
    pieces = [
        box(-w / 2 + 2, 0, -d / 2, w / 2 - 2, h * 0.06, d / 2 - 6, DARK_WOOD),
        box(-w / 2 + 1, h * 0.06, -d / 2, w / 2 - 1, top * 0.83, d / 2 - 3, WOOD),
        *fronts(-w / 2 + 2, w / 2 - 2, h * 0.07, top * 0.82, d / 2 - 3, 2, 1, "side", Paint((168, 124, 84), "wood")),
    ]
    x, z0, z1, y = w * 0.34, -d * 0.24, d * 0.4, top * 0.83
    rim = [(-w / 2, -d / 2, w / 2, z0), (-w / 2, z1, w / 2, d / 2), (-w / 2, z0, -x, z1), (x, z0, w / 2, z1)]
    pieces += [box(a, y, b, c, top, e) for a, b, c, e in rim]
    pieces.append(quads([[(-x, y + 0.3, z1), (x, y + 0.3, z1), (x, y + 0.3, z0), (-x, y + 0.3, z0)]], SHADE))
    back = -d * 0.36
    return [
        *pieces,
        tube((0, top, back), (0, h - tap, back), tap, STEEL),
        tube((0, h - tap, back), (0, h - tap, d * 0.04), tap, STEEL),
        tube((0, h - tap, d * 0.04), (0, h - h * 0.06, d * 0.06), tap, STEEL),
        tube((w * 0.09, top, back), (w * 0.09, top + h * 0.05, back), tap * 1.3, STEEL),
        tube((-w * 0.09, top, back), (-w * 0.09, top + h * 0.05, back), tap * 1.3, STEEL),
    ]


def fridge(w: float, h: float, d: float) -> Pieces:
    face, split = d / 2 - d * 0.1, h * 0.64
    x = -w / 2 + w * 0.1
    return [
        box(-w / 2, h * 0.03, -d / 2, w / 2, h, face, SHADE),
        box(-w / 2 + 2, 0, -d / 2 + 2, w / 2 - 2, h * 0.03, face - 3, DARK),
        cushion(-w / 2, h * 0.04, face, w / 2, split - 0.6, face + d * 0.07, 1.5),
        cushion(-w / 2, split + 0.6, face, w / 2, h, face + d * 0.07, 1.5),
        tube((x, split - h * 0.22, d / 2 - d * 0.018), (x, split - h * 0.03, d / 2 - d * 0.018), d * 0.018, STEEL),
        tube((x, split + h * 0.03, d / 2 - d * 0.018), (x, split + h * 0.16, d / 2 - d * 0.018), d * 0.018, STEEL),
    ]


def bathtub(w: float, h: float, d: float) -> Pieces:
    top = 0.88
    body = lathe(
        [
            (0, 0.08),
            (0.34, 0.08),
            (0.42, 0.3),
            (0.47, top - 0.08),
            (0.5, top - 0.03),
            (0.5, top),
            (0.46, top + 0.01),
            (0.43, top - 0.08),
            (0.38, 0.36),
            (0.28, 0.24),
            (0, 0.22),
        ],
        MAIN,
        28,
    ).scaled(w, h, d)
    pool = lathe([(0, 0.58), (0.41, 0.58), (0.41, 0.6), (0, 0.6)], WATER, 28, 20).scaled(w, h, d)
    feet = [
        ball(0.05, BRASS, 8, 6).scaled(min(w, d), h * 1.6, min(w, d)).at(sx * w * 0.26, h * 0.08, sz * d * 0.2)
        for sx in (-1, 1)
        for sz in (-1, 1)
    ]
    tap = min(w, d) * 0.022
    return [
        body,
        pool,
        *feet,
        tube((-w * 0.44, h * 0.3, -d * 0.14), (-w * 0.44, h * 0.98, -d * 0.14), tap, BRASS),
        tube((-w * 0.44, h - tap, -d * 0.14), (-w * 0.32, h - tap, -d * 0.09), tap, BRASS),
    ]


def toilet(w: float, h: float, d: float) -> Pieces:
    tank = -d / 2 + d * 0.28
    bowl_z = tank + (d / 2 - tank) / 2
    foot = lathe([(0, 0), (0.3, 0), (0.26, 0.15), (0.3, 0.28), (0.44, 0.44), (0.46, 0.49), (0, 0.49)], MAIN, 20).scaled(
        w, h, d / 2 - tank + d * 0.1
    )
    lid = lathe([(0, 0.49), (0.5, 0.49), (0.5, 0.53), (0.47, 0.55), (0, 0.55)], LIGHT, 20, 20).scaled(w * 0.98, h, d / 2 - tank)
    return [
        foot.at(z=bowl_z - d * 0.05),
        lid.at(z=bowl_z),
        cushion(-w / 2, h * 0.46, -d / 2, w / 2, h * 0.94, tank, 2.5),
        cushion(-w / 2, h * 0.94, -d / 2, w / 2, h * 0.99, tank + d * 0.01, 1.2, LIGHT),
        box(-w * 0.2, 0, -d / 2, w * 0.2, h * 0.48, bowl_z - d * 0.1),
        cylinder(w * 0.07, h * 0.985, h, STEEL, 12).at(z=-d * 0.36),
    ]


def piano(w: float, h: float, d: float) -> Pieces:
    body, keys = d * 0.1, h * 0.56  # the body ends at z = 0.1 d, the keyboard reaches to the front
    pieces = [
        box(-w / 2, 0, -d / 2, w / 2, h * 0.97, body),
        cushion(-w / 2, h * 0.965, -d / 2, w / 2, h, body, 1.0, LIGHT),
        box(-w / 2, keys - h * 0.07, body, w / 2, keys, d / 2 - d * 0.02, SHADE),
        box(-w / 2 + w * 0.07, h * 0.66, body, w / 2 - w * 0.07, h * 0.92, body + 1.2, LIGHT),
        box(-w / 2 + w * 0.07, h * 0.1, body, w / 2 - w * 0.07, keys - h * 0.1, body + 1.2, LIGHT),
    ]
    for side in (-1, 1):
        a, b = sorted((side * w / 2, side * (w / 2 - w * 0.045)))
        pieces += [
            cushion(a, keys - h * 0.07, body - 1, b, keys + h * 0.06, d / 2, 1.0, DEEP),
            box(a, 0, d / 2 - d * 0.12, b, keys - h * 0.06, d / 2 - d * 0.02, SHADE),
        ]
        pieces.append(box(side * w * 0.05 - 1.5, h * 0.04, body, side * w * 0.05 + 1.5, h * 0.05, body + d * 0.12, BRASS))
    left, step = -w / 2 + w * 0.045, w * 0.91 / 35
    for i in range(35):  # five octaves
        x = left + i * step
        pieces.append(box(x + step * 0.05, keys, body + d * 0.08, x + step * 0.95, keys + h * 0.018, d / 2 - d * 0.04, WHITE))
        if i % 7 in (0, 1, 3, 4, 5):
            a, b, z = x + step * 0.7, x + step * 1.3, body + d * 0.08
            pieces.append(box(a, keys + h * 0.01, z, b, keys + h * 0.032, z + d * 0.17, Paint((30, 30, 32), "plastic")))
    return pieces
