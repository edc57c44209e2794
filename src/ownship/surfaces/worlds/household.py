"""How the things of a household are built, as in furniture.py: lamps, screens, what hangs and what lies about."""

from __future__ import annotations

import math

from ownship.surfaces.worlds.furniture import BRASS, DARK, DARK_WOOD, DEEP, LIGHT, LINEN, SHADE, Pieces
from ownship.surfaces.worlds.shapes import MAIN, Paint, ball, blob, box, cushion, cylinder, lathe, prism, quads, tube

SHINING = Paint(tone=1.05, glow=0.55)
BULB = Paint((255, 236, 190), "glass", glow=1.0)
FLAME = Paint((250, 150, 50), "paper", glow=1.0)
SPARK = Paint((255, 214, 110), "paper", glow=1.0)
SCREEN = Paint((34, 42, 56), "glass_black")
PAGES = Paint((236, 230, 214), "paper")
LEAF = Paint((82, 138, 70), "leaves")
TERRACOTTA = Paint((188, 104, 72), "ceramic")
SOOT = Paint((44, 38, 36), "brick")
WHITE = Paint((242, 241, 237), "ceramic")
WATER = Paint((110, 176, 200), "water")


def lamp(w: float, h: float, d: float) -> Pieces:
    foot = lathe(
        [
            (0, 0),
            (0.3, 0),
            (0.3, 0.02),
            (0.12, 0.05),
            (0.07, 0.12),
            (0.15, 0.24),
            (0.17, 0.33),
            (0.09, 0.46),
            (0.04, 0.52),
            (0.04, 0.62),
            (0, 0.62),
        ],
        BRASS,
        16,
    )
    shade = lathe([(0, 0.53), (0.5, 0.53), (0.3, 1.0), (0, 1.0)], SHINING, 20, crease=20)
    return [piece.scaled(w, h, d) for piece in (foot, shade)]


def floor_lamp(w: float, h: float, d: float) -> Pieces:
    foot = lathe([(0, 0), (0.4, 0), (0.38, 0.012), (0, 0.02)], DARK, 20).scaled(w, h, d)
    shade = lathe([(0, 0.76), (0.5, 0.76), (0.34, 1.0), (0, 1.0)], SHINING, 20, crease=20).scaled(w, h, d)
    return [foot, cylinder(min(w, d) * 0.03, h * 0.01, h * 0.8, DARK, 8), shade]


def ceiling_lamp(w: float, h: float, d: float) -> Pieces:
    shade = lathe([(0.5, 0.02), (0.49, 0.12), (0.42, 0.27), (0.28, 0.38), (0.1, 0.44), (0, 0.45)], SHINING, 20)
    inside = lathe([(0, 0.4), (0.26, 0.36), (0.4, 0.26), (0.47, 0.12), (0.5, 0.02)], Paint((255, 244, 220), "paper", glow=0.8), 20)
    return [
        shade.scaled(w, h, d),
        inside.scaled(w, h, d),
        cylinder(min(w, d) * 0.016, h * 0.44, h, DARK, 6),
        cylinder(0.13, 0.95, 1.0, DARK, 12).scaled(w, h, d),
        ball(0.11, BULB, 10, 6).at(y=0.11).scaled(w, h, d),
    ]


def rug(w: float, h: float, d: float) -> Pieces:
    a = min(w, d)

    def inset(share: float, top: float, paint: Paint) -> Pieces:
        x, z = w / 2 - a * share, d / 2 - a * share
        return [box(-x, 0, -z, x, h * top, z, paint)]

    return [
        *inset(0, 0.6, SHADE),
        *inset(0.07, 0.75, LINEN),
        *inset(0.085, 0.88, MAIN),
        *inset(0.2, 0.94, LIGHT),
        *inset(0.215, 1.0, MAIN),
    ]


def tv(w: float, h: float, d: float) -> Pieces:
    thick = min(5.0, d * 0.3)
    back = -d / 2
    return [
        cushion(-w / 2, h * 0.1, back, w / 2, h, back + thick, thick * 0.3, MAIN),
        quads(
            [
                [
                    (-w / 2 + 2, h * 0.1 + 2.5, back + thick + 0.1),
                    (w / 2 - 2, h * 0.1 + 2.5, back + thick + 0.1),
                    (w / 2 - 2, h - 2, back + thick + 0.1),
                    (-w / 2 + 2, h - 2, back + thick + 0.1),
                ]
            ],
            SCREEN,
        ),
        box(-w * 0.04, h * 0.02, back + thick * 0.2, w * 0.04, h * 0.12, back + thick * 0.8, DARK),
        cushion(-w * 0.22, 0, -d / 2, w * 0.22, h * 0.025, d / 2, 0.6, DARK),
    ]


def fireplace(w: float, h: float, d: float) -> Pieces:
    hole, top, face = w * 0.28, h * 0.66, d / 2 - d * 0.16
    pieces = [
        box(-w / 2 + w * 0.02, 0, -d / 2, -hole, h * 0.88, face),
        box(hole, 0, -d / 2, w / 2 - w * 0.02, h * 0.88, face),
        box(-hole, top, -d / 2, hole, h * 0.88, face, SHADE),
        box(-w / 2, h * 0.93, -d / 2, w / 2, h, d / 2, LIGHT),
        box(-w / 2 + w * 0.035, h * 0.87, -d / 2, w / 2 - w * 0.035, h * 0.94, d / 2 - d * 0.07, SHADE),
        box(-w / 2, 0, -d / 2, w / 2, h * 0.05, d / 2, SHADE),
        box(-hole, h * 0.05, -d / 2, hole, top, -d / 2 + d * 0.1, SOOT),
    ]
    for side in (-1, 1):
        a, b = sorted((side * (hole - 0.5), side * hole))
        pieces += [
            box(a, h * 0.05, -d / 2 + 1, b, top, face - 1, SOOT),
            box(side * w * 0.33, h * 0.05, face, side * w * 0.45, h * 0.87, face + d * 0.05, LIGHT),
        ]
    log = min(w, h, d) * 0.08
    pieces += [
        tube((-hole * 0.7, h * 0.05 + log, z), (hole * 0.7, h * 0.05 + log * up, z * 0.8), log, DARK_WOOD)
        for z, up in ((-d * 0.15, 1.0), (d * 0.08, 1.3))
    ]
    for x, tall, paint in ((-0.32, 0.26, FLAME), (0.02, 0.38, FLAME), (0.34, 0.24, FLAME), (-0.1, 0.2, SPARK), (0.16, 0.22, SPARK)):
        flame = lathe([(0, 0), (0.5, 0.1), (0.62, 0.28), (0.3, 0.66), (0, 1)], paint, 8)
        z = d * (-0.06 if paint is FLAME else 0.03)
        pieces.append(flame.scaled(hole * 0.36, h * tall, d * 0.16).at(x * hole * 1.3, h * 0.1, z))
    return pieces


def plant(w: float, h: float, d: float) -> Pieces:
    pot = lathe(
        [(0, 0), (0.24, 0), (0.3, 0.2), (0.34, 0.26), (0.34, 0.31), (0.28, 0.31), (0.28, 0.27), (0, 0.27)], TERRACOTTA, 16, 20
    )
    pieces = [pot.scaled(w, h, d), cylinder(0.28, 0.2, 0.285, Paint((74, 54, 42), "stone"), 12).scaled(w, h, d)]
    spots = [
        (0, 0.0, 1.0),
        (36, 0.5, 0.95),
        (108, 0.5, 0.92),
        (180, 0.5, 0.97),
        (252, 0.5, 0.9),
        (324, 0.5, 0.94),
        (0, 1.0, 0.7),
        (72, 1.0, 0.76),
        (144, 1.0, 0.68),
        (216, 1.0, 0.74),
        (288, 1.0, 0.7),
    ]
    for i, (angle, lean, up) in enumerate(spots):
        length = 0.4 if lean < 1 else 0.36
        leaf = blob(0.085, length / 2, 0.025, i, Paint(tone=0.9 + 0.05 * (i % 5)), 1, 0.02).at(y=length / 2)
        start = up - length * (0.98 if lean == 0 else 0.86 if lean < 1 else 0.62)
        x, z = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        reach = 0.03 + 0.1 * lean
        pieces.append(leaf.turned("x", 38 * lean).turned("y", angle).at(x * reach, start, z * reach).scaled(w, h, d))
        pieces.append(tube((0, h * 0.26, 0), (x * reach * w, h * (start + 0.02), z * reach * d), min(w, d) * 0.012, LEAF, 5))
    return pieces


def picture(w: float, h: float, d: float) -> Pieces:
    edge, face = min(w, h) * 0.07, d / 2 - d * 0.3
    x, low, high = w / 2 - edge, edge, h - edge
    bars = [(-w / 2, 0, w / 2, edge), (-w / 2, h - edge, w / 2, h), (-w / 2, edge, -x, high), (x, edge, w / 2, high)]

    def up(share: float) -> float:
        return low + (high - low) * share

    r = min(w, h) * 0.1
    sun = [(w * 0.16 + r * math.cos(a), up(0.66) + r * math.sin(a)) for a in (i * math.pi / 10 for i in range(20))]
    far = [(-x, low), (x, low), (x, up(0.22)), (w * 0.1, up(0.34)), (-x, up(0.4))]
    near = [(-x, low), (x, low), (x, up(0.3)), (-x, up(0.1))]
    return [
        *[box(a, b, -d / 2, c, e, d / 2, DARK_WOOD) for a, b, c, e in bars],
        box(-x, low, -d / 2, x, high, face),
        prism(sun, face - 0.1, face + d * 0.05, Paint((248, 226, 170), "paper")),
        prism(far, face, face + d * 0.08, DEEP),
        prism(near, face, face + d * 0.12, Paint(tone=0.5)),
    ]


def mirror(w: float, h: float, d: float) -> Pieces:
    edge = min(w, h) * 0.06
    x = w / 2 - edge
    bars = [(-w / 2, 0, w / 2, edge), (-w / 2, h - edge, w / 2, h), (-w / 2, edge, -x, h - edge), (x, edge, w / 2, h - edge)]
    silver, shine = Paint((198, 214, 222), "mirror"), Paint((226, 236, 240), "mirror")
    y0, y1, z = edge, h - edge, d * 0.12
    middle = y0 + (y1 - y0) * 0.55
    streak = quads([[(-x * 0.6, middle, z), (-x * 0.1, middle, z), (x * 0.62, y1 - 1, z), (x * 0.12, y1 - 1, z)]], shine)
    return [
        *[cushion(a, b, -d / 2, c, e, d / 2, d * 0.25) for a, b, c, e in bars],
        box(-x, y0, -d / 2, x, y1, d * 0.1, silver),
        streak,
    ]


def clock(w: float, h: float, d: float) -> Pieces:
    r = 0.5
    rim = lathe([(0, 0), (r, 0), (r, 0.8), (r * 0.94, 1.0), (r * 0.88, 1.0), (r * 0.88, 0.6), (0, 0.6)], DARK, 24, 20)
    face = lathe([(0, 0), (r * 0.88, 0), (r * 0.88, 0.65), (0, 0.65)], MAIN, 24, 20)
    pieces = [p.turned("x", 90).scaled(w, h, d).at(0, h / 2, -d / 2) for p in (rim, face)]
    z, ink = d * 0.2, Paint((40, 40, 44), "plastic")
    for i in range(12):
        tick = box(-0.012, 0.36, 0, 0.012, 0.42 if i % 3 else 0.34, 0.1, ink)
        pieces.append(tick.turned("z", -30 * i).scaled(w, h, d * 0.3).at(0, h / 2, z - d * 0.02))
    for angle, length, wide in ((-60, 0.22, 0.018), (50, 0.33, 0.012)):
        hand = box(-wide, -0.04, 0, wide, length, 0.1, ink)
        pieces.append(hand.turned("z", angle).scaled(w, h, d * 0.5).at(0, h / 2, z))
    return pieces


def vase(w: float, h: float, d: float) -> Pieces:
    body = lathe(
        [
            (0, 0),
            (0.26, 0),
            (0.42, 0.16),
            (0.5, 0.36),
            (0.42, 0.58),
            (0.22, 0.8),
            (0.2, 0.88),
            (0.3, 1.0),
            (0.25, 1.0),
            (0.15, 0.88),
            (0.15, 0.8),
            (0, 0.7),
        ],
        MAIN,
        20,
        75,
    )
    return [body.scaled(w, h, d)]


def bowl(w: float, h: float, d: float) -> Pieces:
    body = lathe(
        [(0, 0), (0.22, 0), (0.24, 0.08), (0.38, 0.35), (0.47, 0.7), (0.5, 1.0), (0.47, 1.0), (0.43, 0.72), (0.33, 0.45), (0, 0.3)],
        MAIN,
        20,
    )
    return [body.scaled(w, h, d)]


def candle(w: float, h: float, d: float) -> Pieces:
    wax = lathe([(0, 0.02), (0.36, 0.02), (0.36, 0.78), (0.3, 0.8), (0, 0.77)], MAIN, 14, 20)
    dish = lathe([(0, 0), (0.5, 0), (0.5, 0.05), (0, 0.05)], BRASS, 16, 20)
    flame = lathe([(0, 0.84), (0.08, 0.87), (0.1, 0.91), (0.05, 0.96), (0, 1)], SPARK, 8)
    wick = cylinder(0.02, 0.76, 0.86, DARK, 5)
    return [p.scaled(w, h, d) for p in (wax, dish, flame, wick)]


def book(w: float, h: float, d: float) -> Pieces:
    skin = h * 0.12
    return [
        box(-w / 2, 0, -d / 2, w / 2, skin, d / 2),
        box(-w / 2, h - skin, -d / 2, w / 2, h, d / 2),
        box(-w / 2, skin, -d / 2, -w / 2 + w * 0.05, h - skin, d / 2, SHADE),
        box(-w / 2 + w * 0.05, skin, -d / 2 + d * 0.03, w / 2 - w * 0.04, h - skin, d / 2 - d * 0.03, PAGES),
    ]


def laptop(w: float, h: float, d: float) -> Pieces:
    base, thick = h * 0.07, d * 0.04
    lid = prism([(-thick, 0), (0, 0), (0, 1), (-thick, 1)], -w / 2, w / 2)  # its side; leant back below
    glass = quads([[(-w * 0.46, 0.06, 0.2), (w * 0.46, 0.06, 0.2), (w * 0.46, 0.94, 0.2), (-w * 0.46, 0.94, 0.2)]], SCREEN)
    back, lean = -d / 2 + d * 0.14, d * 0.1
    leant = []
    for piece in (lid.turned("y", -90), glass):
        y = piece.vertices[:, 1].copy()
        piece.vertices[:, 1] = base * 0.9 + y * (h - base * 0.9)
        piece.vertices[:, 2] += back - lean * y
        leant.append(piece)
    return [
        *leant,
        cushion(-w / 2, 0, -d / 2 + d * 0.08, w / 2, base, d / 2, base * 0.4),
        box(-w * 0.44, base, -d * 0.3, w * 0.44, base + h * 0.006, d * 0.12, DARK),
        box(-w * 0.13, base, d * 0.2, w * 0.13, base + h * 0.006, d * 0.42, SHADE),
    ]


def crate(w: float, h: float, d: float) -> Pieces:
    t = min(w, d) * 0.05
    x, z, post = w / 2, d / 2, t * 1.6
    pieces = [box(-x + t * 0.4, 0, -z + t * 0.4, x - t * 0.4, h * 0.06, z - t * 0.4, SHADE)]
    for i in range(3):
        y0, y1 = h * (0.02 + 0.335 * i), h * (0.33 + 0.335 * i)
        paint = LIGHT if i == 1 else MAIN
        pieces += [box(-x, y0, side * z, x, y1, side * (z - t * 0.6), paint) for side in (-1, 1)]
        pieces += [box(side * x, y0, -z + t * 0.6, side * (x - t * 0.6), y1, z - t * 0.6, paint) for side in (-1, 1)]
    corners = [(a, b) for a in (-1, 1) for b in (-1, 1)]
    return pieces + [
        box(a * (x - t * 0.5), 0, b * (z - t * 0.5), a * (x - post), h * 0.98, b * (z - post), DEEP) for a, b in corners
    ]


def basket(w: float, h: float, d: float) -> Pieces:
    pieces = [
        lathe([(0, 0), (0.36, 0), (0.39, 0.1), (0.46, 0.9), (0.42, 0.9), (0.36, 0.12), (0, 0.1)], SHADE, 20, 20).scaled(w, h, d)
    ]
    for i in range(5):
        y, r = 0.08 + 0.18 * i, 0.4 + 0.022 * i
        band = lathe(
            [(r - 0.02, y), (r + 0.012, y + 0.02), (r + 0.016, y + 0.09), (r - 0.01, y + 0.11)], MAIN if i % 2 else LIGHT, 20, 60
        )
        pieces.append(band.scaled(w, h, d))
    rim = lathe([(0.42, 0.9), (0.48, 0.9), (0.5, 0.95), (0.48, 1.0), (0.43, 1.0), (0.42, 0.9)], LIGHT, 20, 60)
    return [*pieces, rim.scaled(w, h, d)]
