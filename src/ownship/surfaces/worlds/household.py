"""How the things of a household are built, as in furniture.py: lamps, screens, kitchen, bath, what hangs and what lies about."""

from __future__ import annotations

import math

from ownship.surfaces.worlds.furniture import BRASS, DARK, DARK_WOOD, DEEP, LIGHT, LINEN, SHADE, STEEL, WOOD, Pieces, fronts
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
    foot = lathe([(0, 0), (0.3, 0), (0.3, 0.02), (0.12, 0.05), (0.07, 0.12), (0.15, 0.24), (0.17, 0.33), (0.09, 0.46), (0.04, 0.52),
                  (0.04, 0.62), (0, 0.62)], BRASS, 16)
    shade = lathe([(0, 0.53), (0.5, 0.53), (0.3, 1.0), (0, 1.0)], SHINING, 20, crease=20)
    return [piece.scaled(w, h, d) for piece in (foot, shade)]


def floor_lamp(w: float, h: float, d: float) -> Pieces:
    foot = lathe([(0, 0), (0.4, 0), (0.38, 0.012), (0, 0.02)], DARK, 20).scaled(w, h, d)
    shade = lathe([(0, 0.76), (0.5, 0.76), (0.34, 1.0), (0, 1.0)], SHINING, 20, crease=20).scaled(w, h, d)
    return [foot, cylinder(min(w, d) * 0.03, h * 0.01, h * 0.8, DARK, 8), shade]


def ceiling_lamp(w: float, h: float, d: float) -> Pieces:
    shade = lathe([(0.5, 0.02), (0.49, 0.12), (0.42, 0.27), (0.28, 0.38), (0.1, 0.44), (0, 0.45)], SHINING, 20)
    inside = lathe([(0, 0.4), (0.26, 0.36), (0.4, 0.26), (0.47, 0.12), (0.5, 0.02)], Paint((255, 244, 220), "paper", glow=0.8), 20)
    return [shade.scaled(w, h, d), inside.scaled(w, h, d), cylinder(min(w, d) * 0.016, h * 0.44, h, DARK, 6),
            cylinder(0.13, 0.95, 1.0, DARK, 12).scaled(w, h, d), ball(0.11, BULB, 10, 6).at(y=0.11).scaled(w, h, d)]


def rug(w: float, h: float, d: float) -> Pieces:
    a = min(w, d)

    def inset(share: float, top: float, paint: Paint) -> Pieces:
        x, z = w / 2 - a * share, d / 2 - a * share
        return [box(-x, 0, -z, x, h * top, z, paint)]

    return [*inset(0, 0.6, SHADE), *inset(0.07, 0.75, LINEN), *inset(0.085, 0.88, MAIN), *inset(0.2, 0.94, LIGHT), *inset(0.215,
    1.0, MAIN)]


def tv(w: float, h: float, d: float) -> Pieces:
    thick = min(5.0, d * 0.3)
    back = -d / 2
    return [cushion(-w / 2, h * 0.1, back, w / 2, h, back + thick, thick * 0.3, MAIN),
            quads([[(-w / 2 + 2, h * 0.1 + 2.5, back + thick + 0.1), (w / 2 - 2, h * 0.1 + 2.5, back + thick + 0.1),
                    (w / 2 - 2, h - 2, back + thick + 0.1), (-w / 2 + 2, h - 2, back + thick + 0.1)]], SCREEN),
            box(-w * 0.04, h * 0.02, back + thick * 0.2, w * 0.04, h * 0.12, back + thick * 0.8, DARK),
            cushion(-w * 0.22, 0, -d / 2, w * 0.22, h * 0.025, d / 2, 0.6, DARK)]


def fireplace(w: float, h: float, d: float) -> Pieces:
    hole, top, face = w * 0.28, h * 0.66, d / 2 - d * 0.16
    pieces = [box(-w / 2 + w * 0.02, 0, -d / 2, -hole, h * 0.88, face), box(hole, 0, -d / 2, w / 2 - w * 0.02, h * 0.88, face),
              box(-hole, top, -d / 2, hole, h * 0.88, face, SHADE), box(-w / 2, h * 0.93, -d / 2, w / 2, h, d / 2, LIGHT),
              box(-w / 2 + w * 0.035, h * 0.87, -d / 2, w / 2 - w * 0.035, h * 0.94, d / 2 - d * 0.07, SHADE),
              box(-w / 2, 0, -d / 2, w / 2, h * 0.05, d / 2, SHADE), box(-hole, h * 0.05, -d / 2, hole, top, -d / 2 + d * 0.1,
              SOOT)]
    for side in (-1, 1):
        a, b = sorted((side * (hole - 0.5), side * hole))
        pieces += [box(a, h * 0.05, -d / 2 + 1, b, top, face - 1, SOOT),
                   box(side * w * 0.33, h * 0.05, face, side * w * 0.45, h * 0.87, face + d * 0.05, LIGHT)]
    log = min(w, h, d) * 0.08
    pieces += [tube((-hole * 0.7, h * 0.05 + log, z), (hole * 0.7, h * 0.05 + log * up, z * 0.8), log, DARK_WOOD)
               for z, up in ((-d * 0.15, 1.0), (d * 0.08, 1.3))]
    for x, tall, paint in ((-0.32, 0.26, FLAME), (0.02, 0.38, FLAME), (0.34, 0.24, FLAME), (-0.1, 0.2, SPARK), (0.16, 0.22, SPARK)):
        flame = lathe([(0, 0), (0.5, 0.1), (0.62, 0.28), (0.3, 0.66), (0, 1)], paint, 8)
        pieces.append(flame.scaled(hole * 0.36, h * tall, d * 0.16).at(x * hole * 1.3, h * 0.1, d * (-0.06 if paint is FLAME else 0.03)))
    return pieces


def plant(w: float, h: float, d: float) -> Pieces:
    pot = lathe([(0, 0), (0.24, 0), (0.3, 0.2), (0.34, 0.26), (0.34, 0.31), (0.28, 0.31), (0.28, 0.27), (0, 0.27)], TERRACOTTA, 16,
    20)
    pieces = [pot.scaled(w, h, d), cylinder(0.28, 0.2, 0.285, Paint((74, 54, 42), "stone"), 12).scaled(w, h, d)]
    spots = [(0, 0.0, 1.0), (36, 0.5, 0.95), (108, 0.5, 0.92), (180, 0.5, 0.97), (252, 0.5, 0.9), (324, 0.5, 0.94),
             (0, 1.0, 0.7), (72, 1.0, 0.76), (144, 1.0, 0.68), (216, 1.0, 0.74), (288, 1.0, 0.7)]
    for i, (angle, lean, up) in enumerate(spots):
        length = 0.4 if lean < 1 else 0.36
        leaf = blob(0.085, length / 2, 0.025, i, Paint(tone=0.9 + 0.05 * (i % 5)), 1, 0.02).at(y=length / 2)
        start = up - length * (0.98 if lean == 0 else 0.86 if lean < 1 else 0.62)
        x, z = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        reach = 0.03 + 0.1 * lean
        pieces.append(leaf.turned("x", 38 * lean).turned("y", angle).at(x * reach, start, z * reach).scaled(w, h, d))
        pieces.append(tube((0, h * 0.26, 0), (x * reach * w, h * (start + 0.02), z * reach * d), min(w, d) * 0.012, LEAF, 5))
    return pieces


def _disc(x: float, y: float, r: float, z: float, paint: Paint, flatten: float = 1.0) -> Pieces:
    ring = [(x + r * math.cos(a), y + r * flatten * math.sin(a)) for a in (i * math.pi / 10 for i in range(20))]
    return [prism(ring, z - 0.1, z, paint)]


def picture(w: float, h: float, d: float) -> Pieces:
    edge, face = min(w, h) * 0.07, d / 2 - d * 0.3
    x, y0, y1 = w / 2 - edge, edge, h - edge
    bars = [(-w / 2, 0, w / 2, edge), (-w / 2, h - edge, w / 2, h), (-w / 2, edge, -x, y1), (x, edge, w / 2, y1)]
    hills = [[(-x, y0), (x, y0), (x, y0 + (y1 - y0) * 0.22), (w * 0.1, y0 + (y1 - y0) * 0.34), (-x, y0 + (y1 - y0) * 0.4)]]
    near = [[(-x, y0), (x, y0), (x, y0 + (y1 - y0) * 0.3), (w * 0.18, y0 + (y1 - y0) * 0.18), (-x, y0 + (y1 - y0) * 0.1)]]
    return [*[box(a, b, -d / 2, c, e, d / 2, DARK_WOOD) for a, b, c, e in bars], box(-x, y0, -d / 2, x, y1, face, MAIN),
            *_disc(w * 0.16, y0 + (y1 - y0) * 0.66, min(w, h) * 0.1, face + d * 0.05, Paint((248, 226, 170), "paper")),
            *[prism(o, face, face + d * 0.08, Paint(tone=0.7)) for o in hills],
            *[prism([near[0][0], near[0][1], near[0][2], near[0][4]], face, face + d * 0.12, Paint(tone=0.5))]]


def mirror(w: float, h: float, d: float) -> Pieces:
    edge = min(w, h) * 0.06
    x = w / 2 - edge
    bars = [(-w / 2, 0, w / 2, edge), (-w / 2, h - edge, w / 2, h), (-w / 2, edge, -x, h - edge), (x, edge, w / 2, h - edge)]
    silver, shine = Paint((198, 214, 222), "mirror"), Paint((226, 236, 240), "mirror")
    y0, y1, z = edge, h - edge, d * 0.12
    streak = quads([[(-x * 0.6, y0 + (y1 - y0) * 0.55, z), (-x * 0.1, y0 + (y1 - y0) * 0.55, z), (x * 0.62, y1 - 1, z),
    (x * 0.12, y1 - 1, z)]], shine)
    return [*[cushion(a, b, -d / 2, c, e, d / 2, d * 0.25) for a, b, c, e in bars], box(-x, y0, -d / 2, x, y1, d * 0.1, silver),
    streak]


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
    body = lathe([(0, 0), (0.26, 0), (0.42, 0.16), (0.5, 0.36), (0.42, 0.58), (0.22, 0.8), (0.2, 0.88), (0.3, 1.0), (0.25, 1.0),
                  (0.15, 0.88), (0.15, 0.8), (0, 0.7)], MAIN, 20, 75)
    return [body.scaled(w, h, d)]


def bowl(w: float, h: float, d: float) -> Pieces:
    body = lathe([(0, 0), (0.22, 0), (0.24, 0.08), (0.38, 0.35), (0.47, 0.7), (0.5, 1.0), (0.47, 1.0), (0.43, 0.72), (0.33, 0.45),
                  (0, 0.3)], MAIN, 20)
    return [body.scaled(w, h, d)]


def candle(w: float, h: float, d: float) -> Pieces:
    wax = lathe([(0, 0.02), (0.36, 0.02), (0.36, 0.78), (0.3, 0.8), (0, 0.77)], MAIN, 14, 20)
    dish = lathe([(0, 0), (0.5, 0), (0.5, 0.05), (0, 0.05)], BRASS, 16, 20)
    flame = lathe([(0, 0.84), (0.08, 0.87), (0.1, 0.91), (0.05, 0.96), (0, 1)], SPARK, 8)
    wick = cylinder(0.02, 0.76, 0.86, DARK, 5)
    return [p.scaled(w, h, d) for p in (wax, dish, flame, wick)]


def book(w: float, h: float, d: float) -> Pieces:
    skin = h * 0.12
    return [box(-w / 2, 0, -d / 2, w / 2, skin, d / 2), box(-w / 2, h - skin, -d / 2, w / 2, h, d / 2),
            box(-w / 2, skin, -d / 2, -w / 2 + w * 0.05, h - skin, d / 2, SHADE),
            box(-w / 2 + w * 0.05, skin, -d / 2 + d * 0.03, w / 2 - w * 0.04, h - skin, d / 2 - d * 0.03, PAGES)]


def laptop(w: float, h: float, d: float) -> Pieces:
    base = h * 0.07
    lid = [(-d / 2 + d * 0.1, base), (-d / 2, h)]  # z and y of the hinge and of the upper edge: it leans back
    (z0, y0), (z1, y1) = lid
    slab = [(-w / 2, w / 2, 0.0, MAIN), (-w / 2 + w * 0.04, w / 2 - w * 0.04, d * 0.006, SCREEN)]
    pieces = [cushion(-w / 2, 0, -d / 2 + d * 0.08, w / 2, base, d / 2, base * 0.4),
              box(-w / 2 + w * 0.06, base, -d * 0.3, w / 2 - w * 0.06, base + h * 0.006, d * 0.12, DARK),
              box(-w * 0.13, base, d * 0.2, w * 0.13, base + h * 0.006, d * 0.42, SHADE)]
    x0, x1, _, paint = slab[0]
    thick = d * 0.04
    outline = [[(x0, y0, z0 + thick), (x1, y0, z0 + thick), (x1, y1, z1 + thick), (x0, y1, z1 + thick)],
               [(x1, y0, z0), (x0, y0, z0), (x0, y1, z1), (x1, y1, z1)], [(x0, y1, z1 + thick), (x1, y1, z1 + thick), (x1, y1, z1),
               (x0, y1, z1)],
               [(x0, y0, z0), (x0, y0, z0 + thick), (x0, y1, z1 + thick), (x0, y1, z1)],
               [(x1, y0, z0 + thick), (x1, y0, z0), (x1, y1, z1), (x1, y1, z1 + thick)]]
    pieces.append(quads(outline, paint))
    x0, x1, lift, paint = slab[1]
    ya, yb = y0 + (y1 - y0) * 0.06, y0 + (y1 - y0) * 0.94
    za, zb = (z0 + (z1 - z0) * t + thick + lift for t in (0.06, 0.94))
    return [*pieces, quads([[(x0, ya, za), (x1, ya, za), (x1, yb, zb), (x0, yb, zb)]], paint)]


def crate(w: float, h: float, d: float) -> Pieces:
    t = min(w, d) * 0.05
    x, z, post = w / 2, d / 2, t * 1.6
    pieces = [box(-x + t * 0.4, 0, -z + t * 0.4, x - t * 0.4, h * 0.06, z - t * 0.4, SHADE)]
    for i in range(3):
        y0, y1 = h * (0.02 + 0.335 * i), h * (0.33 + 0.335 * i)
        pieces += [box(-x, y0, side * z, x, y1, side * (z - t * 0.6), LIGHT if i == 1 else MAIN) for side in (-1, 1)]
        pieces += [box(side * x, y0, -z + t * 0.6, side * (x - t * 0.6), y1, z - t * 0.6, LIGHT if i == 1 else MAIN) for side in (-1, 1)]
    pieces += [box(a * (x - t * 0.5), 0, b * (z - t * 0.5), a * (x - post), h * 0.98, b * (z - post), DEEP) for a in (-1, 1) for b in (-1, 1)]
    return pieces


def basket(w: float, h: float, d: float) -> Pieces:
    pieces = [lathe([(0, 0), (0.36, 0), (0.39, 0.1), (0.46, 0.9), (0.42, 0.9), (0.36, 0.12), (0, 0.1)], SHADE, 20, 20).scaled(w, h,
    d)]
    for i in range(5):
        y, r = 0.08 + 0.18 * i, 0.4 + 0.022 * i
        band = lathe([(r - 0.02, y), (r + 0.012, y + 0.02), (r + 0.016, y + 0.09), (r - 0.01, y + 0.11)], MAIN if i % 2 else LIGHT,
        20, 60)
        pieces.append(band.scaled(w, h, d))
    rim = lathe([(0.42, 0.9), (0.48, 0.9), (0.5, 0.95), (0.48, 1.0), (0.43, 1.0), (0.42, 0.9)], LIGHT, 20, 60)
    return [*pieces, rim.scaled(w, h, d)]


def stove(w: float, h: float, d: float) -> Pieces:
    face = d / 2 - d * 0.06
    pieces = [box(-w / 2, h * 0.06, -d / 2, w / 2, h * 0.97, face), box(-w / 2 + 2, 0, -d / 2, w / 2 - 2, h * 0.06, face - 4, DARK),
              box(-w / 2, h * 0.965, -d / 2, w / 2, h * 0.995, d / 2 - d * 0.03, SCREEN),
              box(-w / 2 + w * 0.05, h * 0.14, face, w / 2 - w * 0.05, h * 0.74, face + d * 0.03, SHADE),
              box(-w / 2 + w * 0.14, h * 0.26, face + d * 0.03, w / 2 - w * 0.14, h * 0.62, face + d * 0.035, SCREEN),
              tube((-w * 0.36, h * 0.69, face + d * 0.048), (w * 0.36, h * 0.69, face + d * 0.048), d * 0.012, STEEL)]
    for i in range(4):
        pieces.append(cylinder(w * 0.03, 0, d * 0.05, DARK, 10).turned("x", 90).at(w * (-0.33 + 0.22 * i), h * 0.855, face))
        ring = lathe([(0, 0.995), (0.17, 0.995), (0.17, 1.0), (0, 1.0)], Paint((92, 94, 98), "metal"), 16, 20).scaled(w, h, d)
        pieces.append(ring.at(w * (-0.23 + 0.46 * (i % 2)), 0, d * (-0.22 + 0.42 * (i // 2))))
    return [*pieces, box(-w * 0.2, h * 0.835, face, w * 0.2, h * 0.875, face + d * 0.004, SCREEN)][:-1]


def sink(w: float, h: float, d: float) -> Pieces:
    top, tap = h * 0.8, min(w, d) * 0.025
    pieces = [box(-w / 2 + 2, 0, -d / 2, w / 2 - 2, h * 0.06, d / 2 - 6, DARK_WOOD), box(-w / 2 + 1, h * 0.06, -d / 2, w / 2 - 1,
    top * 0.83, d / 2 - 3, WOOD),
              *fronts(-w / 2 + 2, w / 2 - 2, h * 0.07, top * 0.82, d / 2 - 3, 2, 1, "side", Paint((168, 124, 84), "wood"))]
    x, z0, z1, y = w * 0.34, -d * 0.24, d * 0.4, top * 0.83
    rim = [(-w / 2, -d / 2, w / 2, z0), (-w / 2, z1, w / 2, d / 2), (-w / 2, z0, -x, z1), (x, z0, w / 2, z1)]
    pieces += [box(a, y, b, c, top, e) for a, b, c, e in rim]
    pieces.append(quads([[(-x, y + 0.3, z1), (x, y + 0.3, z1), (x, y + 0.3, z0), (-x, y + 0.3, z0)]], SHADE))
    back = -d * 0.36
    return [*pieces, tube((0, top, back), (0, h - tap, back), tap, STEEL), tube((0, h - tap, back), (0, h - tap, d * 0.04), tap,
    STEEL),
            tube((0, h - tap, d * 0.04), (0, h - h * 0.06, d * 0.06), tap, STEEL),
            tube((w * 0.09, top, back), (w * 0.09, top + h * 0.05, back), tap * 1.3, STEEL),
            tube((-w * 0.09, top, back), (-w * 0.09, top + h * 0.05, back), tap * 1.3, STEEL)]


def fridge(w: float, h: float, d: float) -> Pieces:
    face, split = d / 2 - d * 0.1, h * 0.64
    x = -w / 2 + w * 0.1
    return [box(-w / 2, h * 0.03, -d / 2, w / 2, h, face, SHADE), box(-w / 2 + 2, 0, -d / 2 + 2, w / 2 - 2, h * 0.03, face - 3,
    DARK),
            cushion(-w / 2, h * 0.04, face, w / 2, split - 0.6, face + d * 0.07, 1.5), cushion(-w / 2, split + 0.6, face, w / 2, h,
            face + d * 0.07, 1.5),
            tube((x, split - h * 0.22, d / 2 - d * 0.018), (x, split - h * 0.03, d / 2 - d * 0.018), d * 0.018, STEEL),
            tube((x, split + h * 0.03, d / 2 - d * 0.018), (x, split + h * 0.16, d / 2 - d * 0.018), d * 0.018, STEEL)]


def bathtub(w: float, h: float, d: float) -> Pieces:
    top = 0.88
    body = lathe([(0, 0.08), (0.34, 0.08), (0.42, 0.3), (0.47, top - 0.08), (0.5, top - 0.03), (0.5, top), (0.46, top + 0.01),
    (0.43, top - 0.08),
                  (0.38, 0.36), (0.28, 0.24), (0, 0.22)], MAIN, 28).scaled(w, h, d)
    pool = lathe([(0, 0.58), (0.41, 0.58), (0.41, 0.6), (0, 0.6)], WATER, 28, 20).scaled(w, h, d)
    feet = [ball(0.05, BRASS, 8, 6).scaled(min(w, d), h * 1.6, min(w, d)).at(sx * w * 0.26, h * 0.08, sz * d * 0.2) for sx in (-1,
    1) for sz in (-1, 1)]
    tap = min(w, d) * 0.022
    return [body, pool, *feet, tube((-w * 0.44, h * 0.3, -d * 0.14), (-w * 0.44, h * 0.98, -d * 0.14), tap, BRASS),
            tube((-w * 0.44, h - tap, -d * 0.14), (-w * 0.32, h - tap, -d * 0.09), tap, BRASS)]


def toilet(w: float, h: float, d: float) -> Pieces:
    tank = -d / 2 + d * 0.28
    bowl_z = tank + (d / 2 - tank) / 2
    foot = lathe([(0, 0), (0.3, 0), (0.26, 0.15), (0.3, 0.28), (0.44, 0.44), (0.46, 0.49), (0, 0.49)], MAIN, 20).scaled(w, h,
    d / 2 - tank + d * 0.1)
    lid = lathe([(0, 0.49), (0.5, 0.49), (0.5, 0.53), (0.47, 0.55), (0, 0.55)], LIGHT, 20, 20).scaled(w * 0.98, h, d / 2 - tank)
    return [foot.at(z=bowl_z - d * 0.05), lid.at(z=bowl_z), cushion(-w / 2, h * 0.46, -d / 2, w / 2, h * 0.94, tank, 2.5),
            cushion(-w / 2, h * 0.94, -d / 2, w / 2, h * 0.99, tank + d * 0.01, 1.2, LIGHT), box(-w * 0.2, 0, -d / 2, w * 0.2,
            h * 0.48, bowl_z - d * 0.1),
            cylinder(w * 0.07, h * 0.985, h, STEEL, 12).at(z=-d * 0.36)]


def piano(w: float, h: float, d: float) -> Pieces:
    body, keys = d * 0.1, h * 0.56  # the body ends at z = 0.1 d, the keyboard reaches to the front
    pieces = [box(-w / 2, 0, -d / 2, w / 2, h * 0.97, body), cushion(-w / 2, h * 0.965, -d / 2, w / 2, h, body, 1.0, LIGHT),
              box(-w / 2, keys - h * 0.07, body, w / 2, keys, d / 2 - d * 0.02, SHADE),
              box(-w / 2 + w * 0.07, h * 0.66, body, w / 2 - w * 0.07, h * 0.92, body + 1.2, LIGHT),
              box(-w / 2 + w * 0.07, h * 0.1, body, w / 2 - w * 0.07, keys - h * 0.1, body + 1.2, LIGHT)]
    for side in (-1, 1):
        a, b = sorted((side * w / 2, side * (w / 2 - w * 0.045)))
        pieces += [cushion(a, keys - h * 0.07, body - 1, b, keys + h * 0.06, d / 2, 1.0, DEEP), box(a, 0, d / 2 - d * 0.12, b,
        keys - h * 0.06, d / 2 - d * 0.02, SHADE)]
        pieces.append(box(side * w * 0.05 - 1.5, h * 0.04, body, side * w * 0.05 + 1.5, h * 0.05, body + d * 0.12, BRASS))
    left, step = -w / 2 + w * 0.045, w * 0.91 / 35
    for i in range(35):  # five octaves
        x = left + i * step
        pieces.append(box(x + step * 0.05, keys, body + d * 0.08, x + step * 0.95, keys + h * 0.018, d / 2 - d * 0.04, WHITE))
        if i % 7 in (0, 1, 3, 4, 5):
            pieces.append(box(x + step * 0.7, keys + h * 0.01, body + d * 0.08, x + step * 1.3, keys + h * 0.032, body + d * 0.25, Paint((30, 30, 32), "plastic")))
    return pieces
