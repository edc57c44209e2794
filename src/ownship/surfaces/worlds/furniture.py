"""How furniture is built: each function takes (w, h, d) in centimetres and gives its pieces, standing on y = 0, front to +z."""

from __future__ import annotations

from ownship.surfaces.worlds.catalogue import BOARDS
from ownship.surfaces.worlds.shapes import MAIN, Paint, Piece, box, cushion, cylinder, lathe, tube

Pieces = list[Piece]

WOOD = Paint((150, 108, 72), "wood")
DARK_WOOD = Paint((92, 64, 46), "wood")
DARK = Paint((58, 60, 64), "metal")
STEEL = Paint((190, 194, 199), "metal")
BRASS = Paint((196, 156, 84), "metal")
LINEN = Paint((240, 236, 226), "fabric")
SHADE = Paint(tone=0.88)
DEEP = Paint(tone=0.72)
LIGHT = Paint(tone=1.07)


def legs(w: float, d: float, height: float, thick: float, inset: float = 0.0, paint: Paint = MAIN, taper: float = 1.0) -> Pieces:
    """Four round (tapered) or square (taper 1) legs under a rectangle."""
    x, z = w / 2 - inset - thick / 2, d / 2 - inset - thick / 2
    spots = [(sx * x, sz * z) for sx in (-1, 1) for sz in (-1, 1)]
    if taper == 1.0:
        return [box(a - thick / 2, 0, b - thick / 2, a + thick / 2, height, b + thick / 2, paint) for a, b in spots]
    return [cylinder(thick / 2 * taper, 0, height, paint, 8, thick / 2).at(a, 0, b) for a, b in spots]


def fronts(
    x0: float, x1: float, y0: float, y1: float, z: float, columns: int, rows: int, handle: str, paint: Paint = LIGHT
) -> Pieces:
    """Doors or drawers: panels on a body's front at z, 1.2 cm thick, with handles before them (at most 3 cm in all)."""
    found: Pieces = []
    gap = min(1.2, (x1 - x0) * 0.02, (y1 - y0) * 0.04)
    wide, high = (x1 - x0) / columns, (y1 - y0) / rows
    for i in range(columns):
        for j in range(rows):
            a, b = x0 + i * wide + gap / 2, y0 + j * high + gap / 2
            c, e = a + wide - gap, b + high - gap
            x, y = (a + c) / 2, (b + e) / 2
            found.append(box(a, b, z, c, e, z + 1.2, paint))
            if handle == "knob":
                found.append(cylinder(min(1.4, high * 0.12), 0, 1.8, BRASS, 8).turned("x", 90).at(x, y, z + 1.2))
            elif handle == "bar":
                reach = min(9.0, wide * 0.2)
                found.append(box(x - reach, y - 0.6, z + 1.2, x + reach, y + 0.6, z + 3, DARK))
            elif handle == "side":  # doors open from the middle
                x = c - 3.5 if i % 2 == 0 else a + 3.5
                reach = min(14.0, high * 0.15)
                found.append(box(x - 0.7, y - reach, z + 1.2, x + 0.7, y + reach, z + 3, DARK))
    return found


def table(w: float, h: float, d: float) -> Pieces:
    thick = min(6.0, w * 0.055, d * 0.055)
    return [
        cushion(-w / 2, h * 0.95, -d / 2, w / 2, h, d / 2, 1.0),
        box(-w / 2 + thick, h * 0.9, -d / 2 + thick, w / 2 - thick, h * 0.95, d / 2 - thick, SHADE),
        *legs(w, d, h * 0.95, thick, min(1.0, thick * 0.1), SHADE),
    ]


def coffee_table(w: float, h: float, d: float) -> Pieces:
    thick = min(5.0, w * 0.055, d * 0.055)
    return [
        cushion(-w / 2, h * 0.9, -d / 2, w / 2, h, d / 2, h * 0.04),
        box(-w / 2 + thick, h * 0.86, -d / 2 + thick, w / 2 - thick, h * 0.9, d / 2 - thick, DEEP),
        *legs(w, d, h * 0.9, thick, min(0.6, thick * 0.1), DARK_WOOD, 0.55),
    ]


def dining_table(w: float, h: float, d: float) -> Pieces:
    thick = min(8.0, w * 0.055, d * 0.055)
    return [
        cushion(-w / 2, h * 0.945, -d / 2, w / 2, h, d / 2, 1.6),
        box(-w / 2 + thick, h * 0.9, -d / 2 + thick, w / 2 - thick, h * 0.945, d / 2 - thick, SHADE),
        *legs(w, d, h * 0.945, thick, min(0.5, thick * 0.05), SHADE, 0.6),
    ]


def desk(w: float, h: float, d: float) -> Pieces:
    left = w * 0.16  # where the drawers begin: 0.66 of the width
    return [
        cushion(-w / 2, h * 0.95, -d / 2, w / 2, h, d / 2, 1.0),
        box(-w / 2 + 1, 0, -d / 2 + 2, -w / 2 + w * 0.045, h * 0.95, d / 2 - 2, SHADE),
        box(-w / 2 + 3, h * 0.5, -d / 2 + 2, left, h * 0.95, -d / 2 + d * 0.06, SHADE),
        box(left, h * 0.06, -d / 2 + 2, w / 2 - 1, h * 0.95, d / 2 - 4, SHADE),
        box(left + 3, 0, -d / 2 + 5, w / 2 - 4, h * 0.06, d / 2 - 7, DEEP),
        *fronts(left, w / 2 - 1, h * 0.08, h * 0.93, d / 2 - 4, 1, 3, "bar"),
    ]


def chair(w: float, h: float, d: float) -> Pieces:
    thick = min(3.6, w * 0.09, d * 0.08)
    x, back = w / 2 - thick / 2, -d / 2 + thick / 2
    posts = [box(sx * x - thick / 2, 0, back - thick / 2, sx * x + thick / 2, h, back + thick / 2) for sx in (-1, 1)]
    front = [
        cylinder(thick * 0.36, 0, h * 0.45, MAIN, 8, thick * 0.5).at(sx * (x - 0.4), 0, d / 2 - thick / 2 - 1) for sx in (-1, 1)
    ]
    slats = [
        cushion(-x, y * h, back - thick * 0.32, x, (y + 0.075) * h, back + thick * 0.32, 0.8, LIGHT) for y in (0.63, 0.755, 0.895)
    ]
    return [
        *posts,
        *front,
        *slats,
        cushion(-w / 2 + 0.4, h * 0.45, -d / 2 + thick * 0.6, w / 2 - 0.4, h * 0.5, d / 2, h * 0.022, LIGHT),
        box(-x, h * 0.42, -d / 2 + thick, x, h * 0.455, d / 2 - thick, SHADE),
    ]


def stool(w: float, h: float, d: float) -> Pieces:
    pieces = [
        lathe([(0, h * 0.9), (0.44, h * 0.9), (0.5, h * 0.93), (0.5, h * 0.97), (0.46, h), (0, h)], LIGHT, 20).scaled(w, 1, d)
    ]
    for sx in (-1, 1):
        for sz in (-1, 1):
            top, foot = (sx * w * 0.25, h * 0.92, sz * d * 0.25), (sx * w * 0.33, 0.0, sz * d * 0.33)
            pieces.append(tube(foot, top, min(w, d) * 0.04))
    ring = h * 0.35
    for (ax, az), (bx, bz) in zip([(-1, -1), (1, -1), (1, 1), (-1, 1)], [(1, -1), (1, 1), (-1, 1), (-1, -1)], strict=True):
        pieces.append(tube((ax * w * 0.3, ring, az * d * 0.3), (bx * w * 0.3, ring, bz * d * 0.3), min(w, d) * 0.025, SHADE, 6))
    return pieces


def _upholstered(w: float, h: float, d: float, arm: float, seats: int) -> Pieces:
    low, soft = h * 0.1, min(w, h, d) * 0.05
    inner = w / 2 - arm
    pieces = [
        *legs(w, d, low, min(5, arm * 0.4), min(4, arm * 0.3), DARK_WOOD, 0.6),
        cushion(-w / 2 + 1, low, -d / 2 + 1, w / 2 - 1, h * 0.36, d / 2 - d * 0.03, soft * 0.6, SHADE),
        cushion(-w / 2, low, -d / 2, w / 2, h * 0.86, -d / 2 + d * 0.2, soft),
    ]
    for side in (-1, 1):
        a, b = sorted((side * inner, side * w / 2))
        pieces.append(cushion(a, low, -d / 2 + 1, b, h * 0.68, d / 2, min(soft * 1.4, arm * 0.45)))
    wide = 2 * inner / seats
    for i in range(seats):
        a = -inner + i * wide
        pieces.append(cushion(a + 0.3, h * 0.34, -d / 2 + d * 0.18, a + wide - 0.3, h * 0.52, d / 2 - d * 0.01, soft * 1.3, LIGHT))
        back = cushion(a + 0.6, h * 0.5, 0, a + wide - 0.6, h, d * 0.12, soft * 1.2, LIGHT)
        pieces.append(back.at(z=-d / 2 + d * 0.15))
    return pieces


def armchair(w: float, h: float, d: float) -> Pieces:
    return _upholstered(w, h, d, w * 0.19, 1)


def sofa(w: float, h: float, d: float) -> Pieces:
    return _upholstered(w, h, d, min(w * 0.1, 22.0), max(1, min(4, round(w * 0.8 / 75))))


def bed(w: float, h: float, d: float) -> Pieces:
    head, low = d * 0.045, h * 0.19
    pieces = [
        *legs(w, d, low, min(7, w * 0.05), 1, DARK_WOOD),
        cushion(-w / 2, low * 0.4, -d / 2, w / 2, h, -d / 2 + head, 2.5, WOOD),
        box(-w / 2 + 0.5, low, -d / 2 + head * 0.5, w / 2 - 0.5, h * 0.36, d / 2, WOOD),
        cushion(-w / 2 + w * 0.03, h * 0.3, -d / 2 + head, w / 2 - w * 0.03, h * 0.52, d / 2 - d * 0.02, h * 0.06, LINEN),
        cushion(-w / 2 + w * 0.012, h * 0.38, -d * 0.18, w / 2 - w * 0.012, h * 0.55, d / 2 - d * 0.008, h * 0.045),
        cushion(-w / 2 + w * 0.011, h * 0.5, -d * 0.24, w / 2 - w * 0.011, h * 0.552, -d * 0.14, h * 0.025, LIGHT),
    ]
    sleepers = 2 if w > 115 else 1
    wide = w * 0.9 / sleepers
    for i in range(sleepers):
        a = -w * 0.45 + i * wide
        pillow = cushion(a + 3, 0, 0, a + wide - 3, h * 0.13, d * 0.17, h * 0.06, LINEN)
        pieces.append(pillow.turned("x", 14).at(y=h * 0.53, z=-d / 2 + head + d * 0.02))
    return pieces


def nightstand(w: float, h: float, d: float) -> Pieces:
    low = h * 0.22
    return [
        *legs(w, d - 4, low, min(4, w * 0.1), 1, DARK_WOOD, 0.6),
        box(-w / 2, low, -d / 2, w / 2, h - 2, d / 2 - 3),
        cushion(-w / 2, h - 2.2, -d / 2, w / 2, h, d / 2, 0.8, LIGHT),
        *fronts(-w / 2 + 1.5, w / 2 - 1.5, low + 1.5, h - 3, d / 2 - 3, 1, 2, "knob"),
    ]


def wardrobe(w: float, h: float, d: float) -> Pieces:
    doors = max(2, min(8, 2 * round(w / 100)))
    return [
        box(-w / 2 + 2, 0, -d / 2 + 2, w / 2 - 2, h * 0.05, d / 2 - 6, DEEP),
        box(-w / 2, h * 0.04, -d / 2, w / 2, h - 3, d / 2 - 3),
        box(-w / 2, h - 3, -d / 2, w / 2, h, d / 2, LIGHT),
        *fronts(-w / 2 + 1, w / 2 - 1, h * 0.05, h - 4, d / 2 - 3, doors, 1, "side"),
    ]


def _boards(w: float, h: float, d: float) -> Pieces:
    side, board = min(3.0, w * 0.035), h * 0.02
    pieces = [box(sx * w / 2, 0, -d / 2, sx * (w / 2 - side), h, d / 2) for sx in (-1, 1)]
    pieces += [box(-w / 2 + side, y * h - board, -d / 2, w / 2 - side, y * h, d / 2 - 0.4, LIGHT) for y in (*BOARDS, 1.0)]
    return [*pieces, box(-w / 2 + side, 0, -d / 2, w / 2 - side, h, -d / 2 + min(1.5, d * 0.06), DEEP)]


def shelf(w: float, h: float, d: float) -> Pieces:
    return _boards(w, h, d)


_SPINES = [
    (166, 62, 54),
    (52, 84, 122),
    (222, 198, 140),
    (84, 112, 84),
    (196, 132, 62),
    (110, 78, 110),
    (232, 226, 212),
    (58, 62, 70),
]


def bookcase(w: float, h: float, d: float) -> Pieces:
    pieces = _boards(w, h, d)
    left, right = -w / 2 + w * 0.045, w / 2 - w * 0.045
    for row, y in enumerate(BOARDS):
        x, i = left, 0
        step = max(w * 0.036, 2.6)
        end = right - (0.0, 0.2, 0.08, 0.3, 0.12)[row] * (right - left)
        while x < end - step * 1.3:
            noise = (row * 37 + i * 53) % 11 / 10  # no two neighbours alike, and always the same books
            thick, tall = step * (0.9 + 0.5 * noise), h * (0.105 + 0.05 * ((row * 29 + i * 17) % 7) / 6)
            paint = Paint(_SPINES[(row * 3 + i * 5 + i // 3) % len(_SPINES)], "paper")
            pieces.append(box(x, y * h, -d / 2 + d * 0.2, x + thick * 0.94, y * h + tall, d / 2 - d * (0.08 + 0.1 * noise), paint))
            x, i = x + thick, i + 1
    return pieces


def cupboard(w: float, h: float, d: float) -> Pieces:
    low, doors = h * 0.14, max(2, min(8, 2 * round(w / 90)))
    return [
        *legs(w, d - 4, low, min(5, w * 0.06), 2, DARK_WOOD, 0.6),
        box(-w / 2 + 0.5, low, -d / 2, w / 2 - 0.5, h - 3, d / 2 - 3),
        cushion(-w / 2, h - 3.2, -d / 2, w / 2, h, d / 2, 0.8, WOOD),
        *fronts(-w / 2 + 1.5, w / 2 - 1.5, low + 1.5, h - 4, d / 2 - 3, doors, 1, "side"),
    ]


def dresser(w: float, h: float, d: float) -> Pieces:
    low = h * 0.1
    return [
        *legs(w, d - 4, low, min(5, w * 0.06), 1, DARK_WOOD, 0.7),
        box(-w / 2 + 0.5, low, -d / 2, w / 2 - 0.5, h - 2.6, d / 2 - 3),
        cushion(-w / 2, h - 2.8, -d / 2, w / 2, h, d / 2, 0.8, LIGHT),
        *fronts(-w / 2 + 1.5, w / 2 - 1.5, low + 1.5, h - 3.5, d / 2 - 3, 1 if w < 80 else 2, 4, "knob"),
    ]


def tv_stand(w: float, h: float, d: float) -> Pieces:
    side = w * 0.035
    return [
        *legs(w, d, h * 0.14, min(5, w * 0.04), 3, DARK_WOOD, 0.6),
        box(-w / 2, h * 0.14, -d / 2, w / 2, h * 0.2, d / 2),
        cushion(-w / 2, h * 0.9, -d / 2, w / 2, h, d / 2, 0.8, LIGHT),
        *[box(x - side / 2, h * 0.2, -d / 2, x + side / 2, h * 0.9, d / 2 - 0.5) for x in (-w / 2 + side / 2, w / 2 - side / 2)],
        box(-w * 0.008, h * 0.2, -d / 2, w * 0.008, h * 0.9, d / 2 - 1),
        box(-w / 2, h * 0.2, -d / 2, w / 2, h * 0.9, -d / 2 + 1.5, DEEP),
    ]


def wall_shelf(w: float, h: float, d: float) -> Pieces:
    pieces = [cushion(-w / 2, h * 0.85, -d / 2, w / 2, h, d / 2, 0.6)]
    for x in (-w * 0.34, w * 0.34):
        pieces += [
            box(x - 1, 0, -d / 2, x + 1, h * 0.86, -d / 2 + 1.5, DARK),
            tube((x, h * 0.08, -d / 2 + 1), (x, h * 0.84, d / 2 - d * 0.2), min(0.9, w * 0.02), DARK, 6),
        ]
    return pieces
