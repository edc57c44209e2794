"""How the things outdoors are built, as in furniture.py."""

from __future__ import annotations

import math

from ownship.surfaces.worlds.furniture import DARK, LIGHT, SHADE, STEEL, WOOD, Pieces
from ownship.surfaces.worlds.household import BULB, LEAF, WATER
from ownship.surfaces.worlds.shapes import MAIN, Paint, ball, blob, box, cushion, cylinder, lathe, prism, tube

BARK = Paint((112, 82, 60), "wood")
SOIL = Paint((92, 68, 50), "stone")
STONE = Paint((158, 154, 146), "stone")
SPRAY = Paint((214, 236, 244), "water", glow=0.2)
ROOF = Paint((146, 70, 54), "brick")


def _noise(i: int, j: int = 0) -> float:
    """0 to 1, always the same for the same numbers."""
    return math.modf(abs(math.sin(i * 12.9898 + j * 78.233 + 1.7) * 43758.5453))[0]


def tree(w: float, h: float, d: float) -> Pieces:
    r = min(w, d)
    trunk = lathe([(0, 0), (0.075, 0), (0.05, 0.06), (0.04, 0.2), (0.032, 0.45), (0, 0.6)], BARK, 10).scaled(r, h, r)
    boughs = [
        tube((0, h * 0.3, 0), (x * w, h * 0.5, z * d), r * 0.016, BARK, 6) for x, z in ((0.18, 0.05), (-0.14, 0.12), (0.0, -0.18))
    ]
    crown = [
        (0.0, 0.66, 0.0, 0.4, 0.3),
        (0.2, 0.54, 0.1, 0.27, 0.16),
        (-0.22, 0.56, 0.06, 0.27, 0.17),
        (0.02, 0.52, -0.22, 0.27, 0.15),
        (-0.02, 0.55, 0.24, 0.25, 0.15),
        (0.12, 0.82, -0.06, 0.24, 0.17),
    ]
    leaves = [
        blob(a * w, b * h, a * d, i, Paint(tone=(1.0, 0.9, 0.95, 0.86, 0.92, 1.1)[i]), 2 if i == 0 else 1, 0.14).at(
            x * w, y * h, z * d
        )
        for i, (x, y, z, a, b) in enumerate(crown)
    ]
    return [trunk, *boughs, *leaves]


def fir(w: float, h: float, d: float) -> Pieces:
    pieces = [cylinder(0.07, 0, 0.3, BARK, 8, 0.05).scaled(min(w, d), h, min(w, d))]
    for i, (low, high, r) in enumerate(((0.12, 0.5, 0.5), (0.32, 0.68, 0.4), (0.52, 0.85, 0.3), (0.7, 1.0, 0.2))):
        skirt = lathe(
            [(0, low + 0.05), (r, low), (r * 0.92, low + 0.02), (r * 0.45, (low + high) / 2), (0, high)],
            Paint(tone=0.82 + 0.09 * i),
            12,
            0,
        )
        pieces.append(skirt.turned("y", 11.0 * i if i else 0).scaled(w, h, d))
    return pieces


def bush(w: float, h: float, d: float) -> Pieces:
    lumps = [
        (0, 0.5, 0, 0.38, 0.5),
        (0.24, 0.36, 0.1, 0.26, 0.36),
        (-0.25, 0.38, 0.08, 0.25, 0.38),
        (0.04, 0.34, -0.26, 0.24, 0.34),
        (-0.05, 0.32, 0.26, 0.24, 0.32),
    ]
    return [
        blob(a * w, b * h, a * d, i + 20, Paint(tone=0.9 + 0.06 * (i % 4)), 1 if i else 2, 0.14).at(x * w, y * h, z * d)
        for i, (x, y, z, a, b) in enumerate(lumps)
    ]


def hedge(w: float, h: float, d: float) -> Pieces:
    count = max(1, min(4, round(w / 150)))
    step, overlap = w / count, w / count * 0.2
    pieces = []
    for i in range(count):
        x0, x1 = max(-w / 2, -w / 2 + step * i - overlap), min(w / 2, -w / 2 + step * (i + 1) + overlap)
        lump = blob((x1 - x0) / 2, h * 0.55, d * 0.5, i + 40, Paint(tone=0.94 + 0.1 * (i % 2)), 2, 0.13, 0.5)
        lump = lump.at((x0 + x1) / 2, h * 0.45, 0)
        lump.vertices[:, 1] = lump.vertices[:, 1].clip(0.0)
        pieces.append(lump)
    return pieces


def fence(w: float, h: float, d: float) -> Pieces:
    posts = max(2, min(15, round(w / 160) + 1))
    pieces = []
    for i in range(posts):
        x = -w / 2 + d * 0.35 + (w - d * 0.7) * i / (posts - 1)
        pieces.append(box(x - d * 0.35, 0, -d / 2, x + d * 0.35, h * 0.92, d * 0.1, SHADE))
    pieces += [box(-w / 2, y * h, -d * 0.25, w / 2, (y + 0.08) * h, d * 0.1, SHADE) for y in (0.2, 0.68)]
    count = max(3, min(52, round(w / 15)))
    step = w / count
    for i in range(count):
        x, wide = -w / 2 + step * (i + 0.5), step * 0.34
        outline = [(x - wide, h * 0.04), (x + wide, h * 0.04), (x + wide, h * 0.92), (x, h), (x - wide, h * 0.92)]
        pieces.append(prism(outline, d * 0.1, d / 2))
    return pieces


def bench(w: float, h: float, d: float) -> Pieces:
    pieces = [
        cushion(-w / 2, h * 0.5, -d / 2 + d * (0.24 + 0.19 * i), w / 2, h * 0.54, -d / 2 + d * (0.41 + 0.19 * i), h * 0.012)
        for i in range(4)
    ]
    for i in range(3):  # the back leans a little
        y, z = h * (0.63 + 0.135 * i), -d / 2 + d * (0.13 - 0.045 * i)
        pieces.append(cushion(-w / 2, y, z, w / 2, y + h * 0.1, z + d * 0.05, h * 0.012, LIGHT if i == 2 else MAIN))
    for side in (-1, 1):
        x, r = side * (w / 2 - w * 0.08), min(w, d) * 0.03
        pieces += [
            tube((x, h * 0.49, d * 0.4), (x, 0, d * 0.46), r, DARK, 8),
            tube((x, h * 0.49, -d * 0.3), (x, 0, -d * 0.42), r, DARK, 8),
            tube((x, h * 0.48, -d * 0.34), (x, h * 0.97, -d * 0.445), r, DARK, 8),
            tube((x, h * 0.485, -d * 0.36), (x, h * 0.485, d * 0.44), r, DARK, 8),
            tube((x, h * 0.49, d * 0.38), (x, h * 0.74, d * 0.32), r * 0.8, DARK, 8),
            tube((x, h * 0.74, d * 0.36), (x, h * 0.74, -d * 0.38), r, DARK, 8),
        ]
    return pieces


def fountain(w: float, h: float, d: float) -> Pieces:
    basin = lathe(
        [(0, 0), (0.5, 0), (0.5, 0.06), (0.47, 0.08), (0.47, 0.22), (0.5, 0.25), (0.5, 0.29), (0.42, 0.29), (0.42, 0.1), (0, 0.1)],
        MAIN,
        20,
        20,
    )
    pool = lathe([(0, 0.2), (0.42, 0.2), (0.42, 0.235), (0, 0.235)], WATER, 20, 20)
    column = lathe(
        [
            (0, 0.1),
            (0.11, 0.1),
            (0.11, 0.2),
            (0.07, 0.26),
            (0.055, 0.45),
            (0.09, 0.54),
            (0.24, 0.62),
            (0.27, 0.66),
            (0.25, 0.67),
            (0.2, 0.645),
            (0, 0.64),
        ],
        LIGHT,
        16,
    )
    upper = lathe([(0, 0.645), (0.21, 0.645), (0.21, 0.66), (0, 0.66)], WATER, 16, 20)
    jet = lathe([(0.05, 0.66), (0.02, 0.78), (0.025, 0.88), (0.045, 0.95), (0.03, 0.99), (0, 1.0)], SPRAY, 10)
    pieces = [p.scaled(w, h, d) for p in (basin, pool, column, upper, jet)]
    for i in range(8):  # water that falls from the upper bowl
        a = i * math.pi / 4 + 0.2
        x, z = math.cos(a), math.sin(a)
        lip, foot = (x * w * 0.265, h * 0.66, z * d * 0.265), (x * w * 0.33, h * 0.22, z * d * 0.33)
        pieces.append(tube(lip, foot, min(w, d) * 0.012, SPRAY, 5))
    return pieces


def well(w: float, h: float, d: float) -> Pieces:
    wall = lathe(
        [(0, 0), (0.44, 0), (0.44, 0.3), (0.47, 0.3), (0.47, 0.35), (0.33, 0.35), (0.33, 0.05), (0, 0.05)], MAIN, 16, 20
    ).scaled(w, h, d)
    pool = lathe([(0, 0.2), (0.33, 0.2), (0.33, 0.23), (0, 0.23)], WATER, 16, 20).scaled(w, h, d)
    stones = []
    for row, step in ((0, 0.2), (0, 2.56), (0, 4.92), (1, 1.78), (1, 4.13), (2, 0.98), (2, 3.34), (2, 5.7)):
        # turned as the wall is there, not stretched with it: that would make their edges sharp
        x, z, thick = math.cos(step), math.sin(step), min(w, d)
        half, out = 0.11 * math.hypot(w * z, d * x), math.degrees(math.atan2(z / d, x / w))
        lump = cushion(-half, h * 0.01, -0.02 * thick, half, h * 0.085, 0.03 * thick, min(w, h, d) * 0.02,
                       SHADE if row == 1 else LIGHT).turned("y", 90 - out)
        stones.append(lump.at(0.435 * w * x, 0.1 * h * row, 0.435 * d * z))
    posts = [
        box(sx * w * 0.4 - w * 0.035, h * 0.3, -d * 0.04, sx * w * 0.4 + w * 0.035, h * 0.82, d * 0.04, WOOD) for sx in (-1, 1)
    ]
    gable = prism([(-d * 0.42, h * 0.76), (d * 0.42, h * 0.76), (0, h * 0.96)], -w * 0.44, w * 0.44, WOOD).turned("y", 90)
    slopes = []
    for side in (-1, 1):
        low, ridge = (side * d / 2, h * 0.74), (0.0, h)
        inner = [(x, y - h * 0.035) for x, y in (low, ridge)]
        ring = [low, ridge, inner[1], inner[0]] if side < 0 else [ridge, low, inner[0], inner[1]]
        slopes.append(prism(ring[::-1], -w / 2, w / 2, ROOF).turned("y", 90))
    return [
        wall,
        pool,
        *stones,
        *posts,
        gable,
        *slopes,
        tube((-w * 0.4, h * 0.62, 0), (w * 0.4, h * 0.62, 0), d * 0.035, WOOD),
        tube((0, h * 0.62, 0), (0, h * 0.47, 0), d * 0.01, DARK, 5),
        cylinder(0.075, 0.38, 0.47, WOOD, 12, 0.095).scaled(w, h, d),
    ]


def arch(w: float, h: float, d: float) -> Pieces:
    inner, spring = w * 0.3, h * 0.6  # the opening: 0.2 to 0.8 of the width, straight up to 0.6 of the height
    pieces = []
    for side in (-1, 1):
        a, b = sorted((side * inner, side * w / 2))
        pieces += [
            box(a + (b - a) * 0.04, h * 0.06, -d * 0.46, b - (b - a) * 0.04, spring, d * 0.46),
            box(a, 0, -d / 2, b, h * 0.07, d / 2, SHADE),
            box(a, spring - h * 0.04, -d / 2, b, spring, d / 2, LIGHT),
        ]
    count = 11
    for i in range(count):  # voussoirs: wedges of a half ring, the keystone a little prouder
        a0, a1, key = math.pi * i / count, math.pi * (i + 1) / count, i == count // 2
        ring = [
            (r * math.cos(a), spring + t * math.sin(a))
            for r, t, a in ((inner, h * 0.27, a0), (w / 2, h * 0.4, a0), (w / 2, h * 0.4, a1), (inner, h * 0.27, a1))
        ]
        z = d / 2 if key else d * 0.46
        pieces.append(prism(ring, -z, z, LIGHT if key else (MAIN, SHADE)[i % 2]))
    return pieces


def stairs(w: float, h: float, d: float) -> Pieces:
    count = max(2, min(40, round(h / 17)))
    rise, going = h / count, d / count
    lip = min(2.0, rise * 0.15)
    pieces = []
    for i in range(count):  # from the front upwards to the back
        front = d / 2 - i * going
        pieces += [
            box(-w / 2 + 1, i * rise, -d / 2, w / 2 - 1, (i + 1) * rise - lip, front - lip / 2),
            box(-w / 2, (i + 1) * rise - lip, -d / 2, w / 2, (i + 1) * rise, front, LIGHT),
        ]
    return pieces


def statue(w: float, h: float, d: float) -> Pieces:
    plinth = [
        box(-w / 2, 0, -d / 2, w / 2, h * 0.04, d / 2, STONE),
        box(-w * 0.42, h * 0.04, -d * 0.42, w * 0.42, h * 0.26, d * 0.42, STONE),
        box(-w * 0.47, h * 0.26, -d * 0.47, w * 0.47, h * 0.3, d * 0.47, STONE),
    ]
    r = min(w, d)
    robe = lathe(
        [
            (0, 0.3),
            (0.27, 0.3),
            (0.24, 0.36),
            (0.18, 0.5),
            (0.15, 0.6),
            (0.18, 0.68),
            (0.22, 0.76),
            (0.21, 0.8),
            (0.1, 0.83),
            (0.06, 0.85),
            (0.055, 0.88),
            (0, 0.88),
        ],
        MAIN,
        14,
    ).scaled(r, h, r * 0.8)
    head = ball(0.5, MAIN, 12, 8).scaled(r * 0.2, h * 0.11, r * 0.2).at(y=h * 0.925)
    hair = ball(0.5, SHADE, 10, 6).scaled(r * 0.21, h * 0.1, r * 0.18).at(y=h * 0.95, z=-r * 0.03)
    arm = r * 0.055
    return [
        *plinth,
        robe,
        head,
        hair,
        tube((r * 0.2, h * 0.77, 0), (r * 0.28, h * 0.64, r * 0.06), arm, SHADE),
        ball(arm, SHADE, 8, 6).at(r * 0.28, h * 0.64, r * 0.06),
        tube((r * 0.28, h * 0.64, r * 0.06), (r * 0.1, h * 0.66, r * 0.24), arm * 0.9),
        tube((-r * 0.2, h * 0.77, 0), (-r * 0.29, h * 0.65, 0.0), arm, SHADE),
        ball(arm, SHADE, 8, 6).at(-r * 0.29, h * 0.65, 0),
        tube((-r * 0.29, h * 0.65, 0), (-r * 0.24, h * 0.53, r * 0.1), arm * 0.9),
    ]


def pond(w: float, h: float, d: float) -> Pieces:
    water = lathe([(0, 0), (0.46, 0), (0.46, 0.55), (0, 0.55)], MAIN, 32, 20).scaled(w, h, d)
    deep = lathe([(0, 0.55), (0.33, 0.55), (0.33, 0.6), (0, 0.6)], SHADE, 28, 20).scaled(w, h, d)
    shore = lathe([(0.44, 0), (0.5, 0), (0.49, 0.5), (0.46, 0.6), (0.44, 0.5)], STONE, 32, 60).scaled(w, h, d)
    pieces = [water, deep, shore]
    for i in range(18):
        a = 2 * math.pi * i / 18
        size = 0.8 + 0.4 * _noise(i)
        paint = Paint((168, 164, 156), "stone", 0.85 + 0.25 * (i * 7 % 4) / 3)
        stone = blob(w * 0.042 * size, h * 0.5, d * 0.042 * size, i, paint, 0, 0.1)
        pieces.append(stone.at(math.cos(a) * w * 0.455, h * 0.5, math.sin(a) * d * 0.455))
    for i, (x, z) in enumerate(((0.2, 0.14), (-0.24, 0.06), (0.05, -0.2), (-0.1, 0.22), (0.27, -0.05))):
        pieces.append(cylinder(0.5, 0.6, 0.72, LEAF, 10).scaled(w * 0.06, h, w * 0.055).at(x * w, 0, z * d))
        if i % 2 == 0:
            bloom = blob(w * 0.012, h * 0.14, w * 0.012, i, Paint((232, 160, 186), "leaves"), 0, 0.1)
            pieces.append(bloom.at(x * w, h * 0.82, z * d))
    return pieces


def path(w: float, h: float, d: float) -> Pieces:
    rows, columns = max(1, min(24, round(d / 45))), max(1, min(6, round(w / 55)))
    while rows * columns > 100:
        rows -= 1
    pieces = [box(-w / 2, 0, -d / 2, w / 2, h * 0.5, d / 2, Paint((186, 178, 160), "stone"))]
    for j in range(rows):
        cuts = [0.0, *((i + 0.24 * (_noise(i, j) - 0.5) + 0.14 * (-1) ** j) / columns for i in range(1, columns)), 1.0]
        z0, z1 = -d / 2 + d * j / rows, -d / 2 + d * (j + 1) / rows
        for i in range(columns):
            gap = min(1.6, w * 0.02, d * 0.02)
            pieces.append(
                box(
                    -w / 2 + w * cuts[i] + gap,
                    h * 0.5,
                    z0 + gap,
                    -w / 2 + w * cuts[i + 1] - gap,
                    h,
                    z1 - gap,
                    Paint(tone=0.93 + 0.05 * round(3 * _noise(i + 7, j))),
                )
            )
    return pieces


def flower_bed(w: float, h: float, d: float) -> Pieces:
    t, low = min(w, d) * 0.05, h * 0.3
    x, z = w / 2, d / 2
    pieces = [
        box(-x, 0, -z, x, low, -z + t, WOOD),
        box(-x, 0, z - t, x, low, z, WOOD),
        box(-x, 0, -z + t, -x + t, low, z - t, WOOD),
        box(x - t, 0, -z + t, x, low, z - t, WOOD),
        box(-x + t, 0, -z + t, x - t, low * 0.85, z - t, SOIL),
    ]
    columns, rows = max(2, min(6, round(w / 26))), max(2, min(4, round(d / 26)))
    r = min(w / columns, d / rows)
    for i in range(columns):
        for j in range(rows):
            a = -x + w * (i + 0.5) / columns + (_noise(i, j) - 0.5) * r * 0.3
            b = -z + d * (j + 0.5) / rows + (_noise(j, i + 9) - 0.5) * r * 0.3
            top = h * (0.74 + 0.16 * _noise(i + 3, j))
            bloom = Paint(tone=0.85 + 0.1 * ((i + 2 * j) % 4))
            pieces += [
                tube((a, low * 0.8, b), (a, top, b), r * 0.03, LEAF, 4),
                blob(r * 0.36, h * 0.14, r * 0.36, i * 7 + j, LEAF, 0, 0.2).at(a, low + h * 0.08, b),
                blob(r * 0.24, h * 0.1, r * 0.24, i + j, bloom, 0, 0.1).at(a, top, b),
            ]
    return pieces


def street_lamp(w: float, h: float, d: float) -> Pieces:
    pole = lathe(
        [
            (0, 0),
            (0.38, 0),
            (0.38, 0.02),
            (0.26, 0.03),
            (0.22, 0.09),
            (0.13, 0.12),
            (0.1, 0.2),
            (0.07, 0.6),
            (0.06, 0.8),
            (0.14, 0.82),
            (0.16, 0.84),
            (0, 0.84),
        ],
        MAIN,
        12,
        30,
    ).scaled(w, h, d)
    glass = lathe([(0, 0.84), (0.26, 0.84), (0.42, 0.94), (0, 0.94)], BULB, 6, 0).scaled(w, h, d)
    cap = lathe([(0, 0.935), (0.5, 0.935), (0.48, 0.95), (0.2, 0.975), (0.06, 0.98), (0.05, 0.995), (0, 1.0)], MAIN, 12, 20).scaled(
        w, h, d
    )
    bars = [
        tube(
            (0.27 * math.cos(a) * w, h * 0.84, 0.27 * math.sin(a) * d),
            (0.43 * math.cos(a) * w, h * 0.94, 0.43 * math.sin(a) * d),
            min(w, d) * 0.02,
            MAIN,
            4,
        )
        for a in (i * math.pi / 3 for i in range(6))
    ]
    return [pole, glass, cap, *bars]


def swing(w: float, h: float, d: float) -> Pieces:
    r = min(w, d) * 0.022
    pieces = [tube((-w / 2 + r, h - r * 1.2, 0), (w / 2 - r, h - r * 1.2, 0), r * 1.2)]
    for side in (-1, 1):
        x = side * (w / 2 - r * 2)
        pieces += [tube((x, h - r, 0), (x, 0, z * (d / 2 - r)), r) for z in (-1, 1)]
        pieces.append(tube((x, h * 0.4, -d * 0.3), (x, h * 0.4, d * 0.3), r * 0.7))
    for side in (-1, 1):
        pieces.append(tube((side * w * 0.13, h - r, 0), (side * w * 0.13, h * 0.22, 0), r * 0.3, STEEL, 5))
    return [*pieces, cushion(-w * 0.15, h * 0.2, -d * 0.08, w * 0.15, h * 0.225, d * 0.08, 1.0, WOOD)]


def rock(w: float, h: float, d: float) -> Pieces:
    pieces = [
        blob(w * 0.5, h * 0.62, d * 0.5, 3, MAIN, 2, 0.18).at(y=h * 0.38),
        blob(w * 0.2, h * 0.3, d * 0.2, 8, SHADE, 1, 0.2).at(w * 0.34, h * 0.16, d * 0.3),
    ]
    for piece in pieces:  # what would be below the ground is pressed flat on it
        piece.vertices[:, 1] = piece.vertices[:, 1].clip(0.0)
    return pieces
