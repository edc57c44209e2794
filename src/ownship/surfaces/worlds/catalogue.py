"""What can stand in a world: kinds of objects with sizes, places and names in two languages; colours; materials.

Sizes are integer centimetres, (width, height, depth) along x, y, z of an object that is not turned: its front faces +z.
Places on and in an object are fractions of its size, so that they grow with it: x from its left (0) to its right (1), y from
its bottom to its top, z from its back to its front. The meshes are built from the same fractions (mesh.py), so what the
solver puts on a table stands on the table that is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Size = tuple[int, int, int]
Box = tuple[float, float, float, float, float, float]
Where = Literal["floor", "wall", "ceiling", "on"]


@dataclass(frozen=True)
class Word:
    """A name and its plural; `gender` of German nouns is "der", "die" or "das", of English ones ""."""

    one: str
    many: str
    gender: str = ""


@dataclass(frozen=True)
class Volume:
    """A box in fractions of an object's size: (x0, y0, z0) to (x1, y1, z1)."""

    x0: float
    y0: float
    z0: float
    x1: float
    y1: float
    z1: float

    def cm(self, size: Size) -> Box:
        """(x0, y0, z0, x1, y1, z1) in centimetres, from the centre of the object's footprint and its bottom."""
        w, h, d = size
        return ((self.x0 - 0.5) * w, self.y0 * h, (self.z0 - 0.5) * d, (self.x1 - 0.5) * w, self.y1 * h, (self.z1 - 0.5) * d)


@dataclass(frozen=True)
class Surface:
    """A level rectangle that carries things, in fractions; `clear` is the free height above it, None if nothing is above."""

    y: float = 1.0
    x0: float = 0.0
    z0: float = 0.0
    x1: float = 1.0
    z1: float = 1.0
    clear: float | None = None

    def cm(self, size: Size) -> tuple[float, float, float, float, float]:
        """(height, x0, z0, x1, z1) in centimetres, from the centre of the object's footprint and its bottom."""
        w, h, d = size
        return (self.y * h, (self.x0 - 0.5) * w, (self.z0 - 0.5) * d, (self.x1 - 0.5) * w, (self.z1 - 0.5) * d)


@dataclass(frozen=True)
class Kind:
    """One kind of object.

    `low` and `high` bound the size. `goes` says what it may be attached to, the usual one first: the floor (or the ground
    outdoors), a wall (`hang` is the usual height of its bottom), the ceiling, or a surface of another object. `back` means
    that it usually stands with its back to a wall. A `walkable` kind (rug, path) is walked over and lies under others; a `flat`
    one that is not walkable (pond) is neither. `inside` are spaces that other objects can be put into, `under` is the
    free space below it, `solids` what stops a walker (the whole box if empty: through an arch one can walk). `glow` is where
    its light sits (a fraction of the height) and how bright it is in candela.
    """

    name: str
    en: tuple[Word, ...]
    de: tuple[Word, ...]
    size: Size
    low: Size
    high: Size
    colour: str
    material: str
    goes: tuple[Where, ...] = ("floor",)
    indoors: bool = True
    outdoors: bool = False
    front: bool = True
    back: bool = False
    walkable: bool = False
    flat: bool = False
    hang: int = 0
    surfaces: tuple[Surface, ...] = ()
    inside: tuple[Volume, ...] = ()
    under: Volume | None = None
    solids: tuple[Volume, ...] = ()
    glow: tuple[float, float] | None = None


@dataclass(frozen=True)
class Colour:
    """sRGB, 0 to 255. Names: the first is the usual one. German ones take endings ("rot", "rote", "roter") unless `fixed`."""

    name: str
    rgb: tuple[int, int, int]
    en: tuple[str, ...]
    de: tuple[str, ...]
    fixed: bool = False


@dataclass(frozen=True)
class Material:
    """Factors of glTF's metallic-roughness model, 0 to 1; `alpha` below 1 is see-through."""

    name: str
    roughness: float
    metalness: float
    en: tuple[str, ...]
    de: tuple[str, ...]
    alpha: float = 1.0


def _words(text: str, gendered: bool) -> tuple[Word, ...]:
    words = []
    for entry in text.split(", "):
        gender, _, names = entry.partition(" ") if gendered else ("", "", entry)
        one, many = names.split("/")
        words.append(Word(one, many, gender))
    return tuple(words)


_COLOURS = [  # name, rgb, English, German
    ("white", (240, 238, 233), "white", "weiß, weiss"),
    ("black", (38, 37, 39), "black", "schwarz"),
    ("grey", (138, 140, 143), "grey, gray", "grau"),
    ("charcoal", (72, 74, 79), "charcoal, dark grey, dark gray, anthracite", "anthrazit, dunkelgrau"),
    ("silver", (196, 199, 203), "silver, light grey, light gray", "silbern, hellgrau, silber"),
    ("red", (196, 52, 48), "red", "rot"),
    ("burgundy", (116, 32, 48), "burgundy, dark red, maroon, wine red", "weinrot, dunkelrot, bordeauxrot"),
    ("orange", (226, 124, 46), "orange", "orange, orangefarben"),
    ("yellow", (237, 196, 66), "yellow", "gelb"),
    ("gold", (200, 158, 72), "gold, golden, brass", "golden, gold"),
    ("green", (88, 142, 76), "green", "grün"),
    ("olive", (112, 118, 66), "olive, olive green", "oliv, olivgrün"),
    ("mint", (160, 204, 178), "mint, light green, mint green", "mintgrün, hellgrün, mint"),
    ("turquoise", (62, 160, 158), "turquoise, teal, cyan", "türkis, türkisfarben"),
    ("blue", (62, 104, 176), "blue", "blau"),
    ("navy", (36, 52, 92), "navy, dark blue, navy blue", "dunkelblau, marineblau"),
    ("sky", (148, 190, 222), "light blue, sky blue, pale blue", "hellblau, himmelblau"),
    ("purple", (122, 82, 150), "purple, violet", "lila, violett"),
    ("pink", (222, 146, 168), "pink, rose", "rosa, pink"),
    ("brown", (116, 78, 54), "brown, dark brown", "braun, dunkelbraun"),
    ("tan", (184, 142, 98), "tan, light brown, oak", "hellbraun, eichenfarben"),
    ("beige", (212, 194, 166), "beige, sand", "beige, sandfarben"),
    ("cream", (238, 226, 200), "cream, ivory, off-white", "creme, cremefarben, elfenbeinfarben"),
]
_FIXED = {"orange", "oliv", "mint", "türkis", "lila", "rosa", "pink", "beige", "creme", "anthrazit", "gold", "silber"}
COLOURS = {name: Colour(name, rgb, tuple(en.split(", ")), tuple(de.split(", ")), de.split(", ")[0] in _FIXED)
           for name, rgb, en, de in _COLOURS}

_MATERIALS = [  # name, roughness, metalness, English (noun, adjective), German (noun: "aus Holz"; adjective), alpha
    ("wood", 0.65, 0.0, "wood, wooden", "Holz, hölzern", 1.0),
    ("metal", 0.35, 0.9, "metal, steel, iron", "Metall, metallisch, Stahl, Eisen, eisern", 1.0),
    ("fabric", 0.95, 0.0, "fabric, cloth, velvet, linen", "Stoff, Samt, Leinen", 1.0),
    ("leather", 0.5, 0.0, "leather", "Leder, ledern", 1.0),
    ("wool", 1.0, 0.0, "wool, woollen, woolen", "Wolle, wollen", 1.0),
    ("glass", 0.05, 0.0, "glass", "Glas, gläsern", 0.35),
    ("stone", 0.85, 0.0, "stone, granite, sandstone", "Stein, steinern, Granit, Sandstein", 1.0),
    ("marble", 0.25, 0.0, "marble", "Marmor, marmorn", 1.0),
    ("brick", 0.9, 0.0, "brick", "Ziegel, Backstein", 1.0),
    ("concrete", 0.9, 0.0, "concrete", "Beton", 1.0),
    ("ceramic", 0.2, 0.0, "ceramic, porcelain, clay", "Keramik, keramisch, Porzellan, Ton", 1.0),
    ("plastic", 0.45, 0.0, "plastic", "Kunststoff, Plastik", 1.0),
    ("paper", 0.9, 0.0, "paper, cardboard", "Papier, Pappe, Karton", 1.0),
    ("wicker", 0.85, 0.0, "wicker, rattan", "Korbgeflecht, Rattan", 1.0),
    ("leaves", 0.85, 0.0, "leaves", "Laub", 1.0),
    ("water", 0.08, 0.0, "water", "Wasser", 0.8),
]
MATERIALS = {name: Material(name, roughness, metalness, tuple(en.split(", ")), tuple(de.split(", ")), alpha)
             for name, roughness, metalness, en, de, alpha in _MATERIALS}

@dataclass(frozen=True)
class Ground:
    """What a floor or a piece of land is made of; `indoors`, `outdoors`: where it is usual (none is refused)."""

    name: str
    rgb: tuple[int, int, int]
    material: str
    en: tuple[str, ...]
    de: tuple[str, ...]
    indoors: bool
    outdoors: bool


_GROUNDS = [  # name, rgb, material, English, German, where
    ("wood", (178, 136, 92), "wood", "wood, wooden, parquet, planks", "Holz, Parkett, Dielen", "both"),
    ("oak", (206, 170, 122), "wood", "oak", "Eiche", "in"),
    ("dark_wood", (104, 70, 48), "wood", "dark wood, walnut", "dunkles Holz, Nussbaum", "in"),
    ("carpet", (188, 178, 164), "wool", "carpet, carpeted", "Teppichboden", "in"),
    ("tiles", (222, 220, 214), "ceramic", "tiles, tile, tiled", "Fliesen, Kacheln", "both"),
    ("marble", (230, 228, 224), "marble", "marble", "Marmor", "both"),
    ("stone", (158, 154, 146), "stone", "stone, flagstones, paving", "Stein, Pflaster, Steinplatten", "both"),
    ("concrete", (170, 170, 168), "concrete", "concrete", "Beton", "both"),
    ("grass", (120, 164, 84), "leaves", "grass, lawn, meadow", "Gras, Rasen, Wiese", "out"),
    ("sand", (222, 200, 152), "stone", "sand, beach", "Sand, Strand", "out"),
    ("gravel", (176, 170, 160), "stone", "gravel", "Kies, Schotter", "out"),
    ("earth", (120, 88, 62), "stone", "earth, soil, dirt", "Erde", "out"),
    ("snow", (240, 244, 248), "paper", "snow, snowy", "Schnee", "out"),
]
GROUNDS = {name: Ground(name, rgb, material, tuple(en.split(", ")), tuple(de.split(", ")), where != "out", where != "in")
           for name, rgb, material, en, de, where in _GROUNDS}

TOP = (Surface(),)
BOARDS = (0.03, 0.22, 0.41, 0.60, 0.79)  # the upper sides of a shelf's boards; the thickness of a board is 0.02 of the height


@dataclass(frozen=True)
class _Entry:
    """A kind as it is written below: names as text, limits as factors."""

    size: Size
    colour: str
    material: str
    en: str
    de: str
    more: dict[str, object] = field(default_factory=dict)


def _kind(size: Size, colour: str, material: str, en: str, de: str, **more: object) -> _Entry:
    return _Entry(size, colour, material, en, de, more)


_BOTH = {"outdoors": True}
_OUT = {"indoors": False, "outdoors": True}
_ON = {"goes": ("on", "floor")}
_WALL = {"goes": ("wall",), "back": True}
_ROUND = {"front": False}
_LEGS = Volume(0.06, 0.0, 0.06, 0.94, 0.9, 0.94)
_SHELVES = tuple(Volume(0.04, low, 0.08, 0.96, low + 0.17, 1.0) for low in BOARDS)

_KINDS: dict[str, _Entry] = {
    "table": _kind((120, 75, 80), "tan", "wood", "table/tables", "der Tisch/Tische",
                   surfaces=TOP, under=_LEGS, **_BOTH, **_ROUND),
    "coffee_table": _kind((100, 42, 60), "tan", "wood", "coffee table/coffee tables, side table/side tables",
                          "der Couchtisch/Couchtische, der Beistelltisch/Beistelltische",
                          surfaces=TOP, under=Volume(0.06, 0.0, 0.06, 0.94, 0.85, 0.94), **_ROUND),
    "dining_table": _kind((180, 75, 90), "brown", "wood", "dining table/dining tables, dinner table/dinner tables",
                          "der Esstisch/Esstische", surfaces=TOP, under=_LEGS, **_BOTH, **_ROUND),
    "desk": _kind((140, 75, 70), "tan", "wood", "desk/desks, writing desk/writing desks", "der Schreibtisch/Schreibtische",
                  surfaces=TOP, under=Volume(0.06, 0.0, 0.1, 0.64, 0.88, 1.0), back=True),
    "chair": _kind((45, 90, 50), "tan", "wood", "chair/chairs", "der Stuhl/Stühle",
                   surfaces=(Surface(0.5, 0.05, 0.15, 0.95, 1.0),), under=Volume(0.1, 0.0, 0.1, 0.9, 0.42, 0.9), **_BOTH),
    "armchair": _kind((85, 85, 85), "turquoise", "fabric", "armchair/armchairs, easy chair/easy chairs",
                      "der Sessel/Sessel, der Lehnstuhl/Lehnstühle", surfaces=(Surface(0.52, 0.2, 0.28, 0.8, 1.0),)),
    "stool": _kind((38, 46, 38), "tan", "wood", "stool/stools", "der Hocker/Hocker",
                   surfaces=(Surface(1.0, 0.15, 0.15, 0.85, 0.85),),
                   under=Volume(0.3, 0.0, 0.3, 0.7, 0.85, 0.7), **_BOTH, **_ROUND),
    "sofa": _kind((200, 82, 90), "blue", "fabric", "sofa/sofas, couch/couches, settee/settees",
                  "das Sofa/Sofas, die Couch/Couches", surfaces=(Surface(0.52, 0.1, 0.28, 0.9, 1.0),), back=True),
    "bed": _kind((160, 95, 205), "white", "fabric", "bed/beds, double bed/double beds",
                 "das Bett/Betten, das Doppelbett/Doppelbetten",
                 surfaces=(Surface(0.55, 0.04, 0.32, 0.96, 0.98),), under=Volume(0.06, 0.0, 0.06, 0.94, 0.18, 0.94), back=True),
    "nightstand": _kind((45, 50, 40), "tan", "wood", "nightstand/nightstands, bedside table/bedside tables",
                        "der Nachttisch/Nachttische, das Nachtkästchen/Nachtkästchen", surfaces=TOP, back=True),
    "wardrobe": _kind((150, 200, 60), "white", "wood", "wardrobe/wardrobes, closet/closets",
                      "der Kleiderschrank/Kleiderschränke, der Schrank/Schränke", surfaces=TOP, back=True),
    "shelf": _kind((90, 180, 32), "tan", "wood", "shelf/shelves, rack/racks", "das Regal/Regale", back=True, inside=_SHELVES,
                   surfaces=(*TOP, *(Surface(v.y0, v.x0, v.z0, v.x1, v.z1, v.y1 - v.y0) for v in _SHELVES))),
    "bookcase": _kind((100, 200, 32), "brown", "wood", "bookcase/bookcases, bookshelf/bookshelves",
                      "das Bücherregal/Bücherregale, der Bücherschrank/Bücherschränke", surfaces=TOP, back=True),
    "cupboard": _kind((100, 90, 45), "white", "wood", "cupboard/cupboards, cabinet/cabinets, sideboard/sideboards",
                      "die Kommode/Kommoden, das Sideboard/Sideboards, die Anrichte/Anrichten", surfaces=TOP, back=True),
    "dresser": _kind((100, 85, 48), "tan", "wood", "dresser/dressers, chest of drawers/chests of drawers",
                     "der Schubladenschrank/Schubladenschränke", surfaces=TOP, back=True),
    "lamp": _kind((28, 46, 28), "cream", "fabric", "lamp/lamps, table lamp/table lamps, desk lamp/desk lamps",
                  "die Lampe/Lampen, die Tischlampe/Tischlampen, die Schreibtischlampe/Schreibtischlampen",
                  glow=(0.72, 60.0), **_ON, **_ROUND),
    "floor_lamp": _kind((42, 160, 42), "cream", "fabric", "floor lamp/floor lamps, standing lamp/standing lamps",
                        "die Stehlampe/Stehlampen", glow=(0.86, 100.0), **_ROUND),
    "ceiling_lamp": _kind((50, 50, 50), "white", "fabric",
                          "ceiling lamp/ceiling lamps, pendant lamp/pendant lamps, chandelier/chandeliers",
                          "die Deckenlampe/Deckenlampen, die Hängelampe/Hängelampen", goes=("ceiling",), glow=(0.2, 140.0),
                          **_ROUND),
    "rug": _kind((200, 2, 140), "burgundy", "wool", "rug/rugs, carpet/carpets", "der Teppich/Teppiche", low=(50, 1, 40),
                 high=(600, 4, 600), surfaces=TOP, walkable=True, flat=True, **_ROUND),
    "tv": _kind((110, 70, 22), "black", "plastic", "tv/tvs, television/televisions, telly/tellies, screen/screens",
                "der Fernseher/Fernseher, der Bildschirm/Bildschirme", goes=("on", "wall", "floor"), hang=100, back=True),
    "tv_stand": _kind((150, 48, 42), "tan", "wood", "tv stand/tv stands, tv bench/tv benches, tv table/tv tables",
                      "der Fernsehtisch/Fernsehtische, die Fernsehbank/Fernsehbänke", surfaces=TOP, back=True,
                      inside=(Volume(0.04, 0.2, 0.1, 0.49, 0.9, 1.0), Volume(0.51, 0.2, 0.1, 0.96, 0.9, 1.0))),
    "fireplace": _kind((140, 115, 45), "beige", "stone", "fireplace/fireplaces, hearth/hearths", "der Kamin/Kamine",
                       surfaces=TOP, back=True, glow=(0.3, 90.0)),
    "plant": _kind((45, 100, 45), "green", "leaves", "plant/plants, potted plant/potted plants, houseplant/houseplants",
                   "die Pflanze/Pflanzen, die Topfpflanze/Topfpflanzen, die Zimmerpflanze/Zimmerpflanzen",
                   goes=("floor", "on"), low=(12, 20, 12), high=(120, 240, 120), **_BOTH, **_ROUND),
    "picture": _kind((70, 50, 4), "sky", "paper", "picture/pictures, painting/paintings, poster/posters",
                     "das Bild/Bilder, das Gemälde/Gemälde, das Poster/Poster", hang=135, **_WALL),
    "mirror": _kind((60, 110, 4), "gold", "metal", "mirror/mirrors", "der Spiegel/Spiegel", hang=80, **_WALL),
    "clock": _kind((34, 34, 5), "white", "plastic", "clock/clocks, wall clock/wall clocks", "die Uhr/Uhren, die Wanduhr/Wanduhren",
                   hang=170, **_WALL),
    "wall_shelf": _kind((90, 22, 22), "tan", "wood", "wall shelf/wall shelves",
                        "das Wandregal/Wandregale, das Wandboard/Wandboards",
                        hang=130, surfaces=TOP, **_WALL),
    "vase": _kind((18, 32, 18), "sky", "ceramic", "vase/vases", "die Vase/Vasen", low=(6, 8, 6), high=(60, 110, 60), **_ON,
                  **_ROUND),
    "bowl": _kind((26, 10, 26), "orange", "ceramic", "bowl/bowls", "die Schüssel/Schüsseln, die Schale/Schalen",
                  inside=(Volume(0.25, 0.45, 0.25, 0.75, 1.0, 0.75),), **_ON, **_ROUND),
    "candle": _kind((8, 18, 8), "cream", "paper", "candle/candles", "die Kerze/Kerzen", glow=(0.95, 8.0), **_BOTH, **_ON, **_ROUND),
    "book": _kind((16, 4, 23), "red", "paper", "book/books", "das Buch/Bücher", surfaces=TOP, **_ON),
    "laptop": _kind((34, 23, 26), "silver", "metal", "laptop/laptops, computer/computers",
                    "der Laptop/Laptops, der Computer/Computer",
                    **_ON),
    "box": _kind((45, 35, 35), "tan", "paper", "box/boxes, crate/crates, chest/chests",
                 "die Kiste/Kisten, die Box/Boxen, die Schachtel/Schachteln",
                 goes=("floor", "on"), inside=(Volume(0.05, 0.06, 0.05, 0.95, 1.0, 0.95),), **_BOTH, **_ROUND),
    "basket": _kind((42, 36, 42), "tan", "wicker", "basket/baskets", "der Korb/Körbe", goes=("floor", "on"),
                    inside=(Volume(0.2, 0.08, 0.2, 0.8, 1.0, 0.8),), **_BOTH, **_ROUND),
    "stove": _kind((60, 90, 60), "silver", "metal", "stove/stoves, cooker/cookers, oven/ovens", "der Herd/Herde, der Ofen/Öfen",
                   surfaces=TOP, back=True),
    "sink": _kind((80, 105, 55), "white", "ceramic", "sink/sinks, washbasin/washbasins",
                  "das Waschbecken/Waschbecken, die Spüle/Spülen", back=True),
    "fridge": _kind((65, 180, 65), "white", "metal", "fridge/fridges, refrigerator/refrigerators, freezer/freezers",
                    "der Kühlschrank/Kühlschränke", surfaces=TOP, back=True),
    "bathtub": _kind((170, 60, 76), "white", "ceramic", "bathtub/bathtubs, bath/baths, tub/tubs",
                     "die Badewanne/Badewannen, die Wanne/Wannen",
                     back=True, inside=(Volume(0.2, 0.62, 0.25, 0.8, 1.0, 0.75),)),
    "toilet": _kind((38, 80, 66), "white", "ceramic", "toilet/toilets", "die Toilette/Toiletten, das Klo/Klos", back=True),
    "piano": _kind((148, 122, 62), "black", "wood", "piano/pianos", "das Klavier/Klaviere, das Piano/Pianos",
                   surfaces=(Surface(1.0, 0.0, 0.0, 1.0, 0.6),), back=True),
    "tree": _kind((320, 480, 320), "green", "leaves", "tree/trees", "der Baum/Bäume", low=(80, 160, 80), high=(900, 1400, 900),
                  under=Volume(0.0, 0.0, 0.0, 1.0, 0.36, 1.0), solids=(Volume(0.43, 0.0, 0.43, 0.57, 1.0, 0.57),), **_OUT,
                  **_ROUND),
    "fir": _kind((220, 480, 220), "green", "leaves", "fir/firs, fir tree/fir trees, pine/pines",
                 "die Tanne/Tannen, die Fichte/Fichten",
                 low=(60, 120, 60), high=(700, 1600, 700), **_OUT, **_ROUND),
    "bush": _kind((110, 90, 110), "green", "leaves", "bush/bushes, shrub/shrubs", "der Busch/Büsche, der Strauch/Sträucher",
                  **_OUT, **_ROUND),
    "hedge": _kind((200, 110, 60), "green", "leaves", "hedge/hedges", "die Hecke/Hecken", high=(2000, 300, 150), **_OUT, **_ROUND),
    "fence": _kind((200, 100, 8), "white", "wood", "fence/fences", "der Zaun/Zäune", high=(2000, 250, 20), **_OUT, **_ROUND),
    "bench": _kind((150, 82, 58), "tan", "wood", "bench/benches, garden bench/garden benches",
                   "die Bank/Bänke, die Gartenbank/Gartenbänke",
                   surfaces=(Surface(0.54, 0.06, 0.2, 0.94, 1.0),), under=Volume(0.1, 0.0, 0.1, 0.9, 0.46, 0.9), **_BOTH),
    "fountain": _kind((220, 180, 220), "silver", "stone", "fountain/fountains", "der Springbrunnen/Springbrunnen", **_OUT,
                      **_ROUND),
    "well": _kind((130, 215, 130), "grey", "stone", "well/wells", "der Brunnen/Brunnen, der Ziehbrunnen/Ziehbrunnen", **_OUT,
                  **_ROUND),
    "arch": _kind((190, 250, 50), "beige", "stone", "arch/arches, archway/archways", "der Bogen/Bögen, der Torbogen/Torbögen",
                  **_BOTH,
                  under=Volume(0.2, 0.0, 0.0, 0.8, 0.6, 1.0),
                  solids=(Volume(0.0, 0.0, 0.0, 0.2, 1.0, 1.0), Volume(0.8, 0.0, 0.0, 1.0, 1.0, 1.0))),
    "stairs": _kind((120, 100, 160), "grey", "concrete", "stairs/stairs, staircase/staircases, steps/steps", "die Treppe/Treppen",
                    **_BOTH),
    "statue": _kind((70, 210, 70), "white", "marble", "statue/statues, sculpture/sculptures",
                    "die Statue/Statuen, die Skulptur/Skulpturen", **_BOTH),
    "pond": _kind((300, 8, 220), "turquoise", "water", "pond/ponds, pool/pools", "der Teich/Teiche, das Wasserbecken/Wasserbecken",
                  low=(80, 2, 60), high=(2000, 40, 2000), flat=True, **_OUT, **_ROUND),
    "path": _kind((120, 3, 300), "grey", "stone", "path/paths, walkway/walkways", "der Weg/Wege, der Pfad/Pfade", low=(40, 1, 40),
                  high=(2000, 6, 2000), surfaces=TOP, walkable=True, flat=True, **_OUT, **_ROUND),
    "flower_bed": _kind((160, 45, 90), "pink", "leaves", "flower bed/flower beds, flowerbed/flowerbeds, flowers/flowers",
                        "das Blumenbeet/Blumenbeete, das Beet/Beete", **_OUT, **_ROUND),
    "street_lamp": _kind((45, 340, 45), "black", "metal",
                         "street lamp/street lamps, street light/street lights, lamp post/lamp posts",
                         "die Straßenlaterne/Straßenlaternen, die Laterne/Laternen, die Straßenlampe/Straßenlampen",
                         glow=(0.92, 220.0), **_OUT, **_ROUND),
    "swing": _kind((220, 215, 140), "red", "metal", "swing/swings", "die Schaukel/Schaukeln", **_OUT),
    "rock": _kind((90, 60, 75), "grey", "stone", "rock/rocks, boulder/boulders", "der Felsen/Felsen, der Fels/Felsen",
                  low=(10, 6, 10), high=(500, 400, 500), **_OUT, **_ROUND),
}


def _build(name: str, entry: _Entry) -> Kind:
    low = tuple(max(1, edge * 2 // 5) for edge in entry.size)
    high = tuple(edge * 5 // 2 for edge in entry.size)
    known = {"low": low, "high": high, **entry.more}
    return Kind(name=name, en=_words(entry.en, False), de=_words(entry.de, True), size=entry.size, colour=entry.colour,
                material=entry.material, **known)  # type: ignore[arg-type]


KINDS: dict[str, Kind] = {name: _build(name, entry) for name, entry in _KINDS.items()}
