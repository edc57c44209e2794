"""Scenes made by hand, to be drawn and written."""

from __future__ import annotations

from ownship.surfaces.worlds.catalogue import KINDS
from ownship.surfaces.worlds.types import Light, Object, Opening, Plot, Relation, Room, Scene, Sky, Spawn


def thing(id: str, x: int = 0, z: int = 0, turn: int = 0, y: int = 0, on: str = "room1", **more: object) -> Object:
    kind = KINDS[id.rstrip("0123456789")]
    w, h, d = kind.size
    known = {"w": w, "h": h, "d": d, "colour": kind.colour, "material": kind.material, **more}
    return Object(id=id, kind=kind.name, x=x, y=y, z=z, turn=turn, on=on, **known)  # type: ignore[arg-type]


def living_room() -> Scene:
    """30 objects in a room with a door and two windows, as a person would furnish it."""
    things = (
        thing("rug1"), thing("sofa1", 0, 120, 180), thing("fireplace1", 0, -177),
        thing("armchair1", -130, -10, 60, colour="orange"), thing("armchair2", 130, -10, 300, colour="orange"),
        thing("coffee_table1"), thing("vase1", -20, 0, y=42, on="coffee_table1"),
        thing("book1", 20, 5, 30, y=42, on="coffee_table1"), thing("bookcase1", -233, -60, 90), thing("plant1", -220, 165),
        thing("floor_lamp1", 215, 165), thing("picture1", 0, -198, y=140), thing("cupboard1", 227, 20, 270),
        thing("lamp1", 227, 30, y=90, on="cupboard1"), thing("clock1", -120, -197, y=170), thing("ceiling_lamp1", 0, 0, y=200),
        thing("tv_stand1", 170, -175, w=130), thing("tv1", 170, -180, y=48, on="tv_stand1"), thing("candle1", -40, -177, y=115),
        thing("candle2", 40, -177, y=115), thing("mirror1", -130, -198, y=80, w=50, h=80), thing("basket1", 96, -172),
        thing("stool1", -60, 62), thing("plant2", -180, -170, w=40, h=80, d=40), thing("book2", 227, -10, 20, y=90, on="cupboard1"),
        thing("box1", -215, 115, 15), thing("picture2", 248, -110, 270, y=130), thing("piano1", -217, 20, 90),
        thing("chair1", -150, 30, 270), thing("book3", 20, 5, 70, y=46, on="book1", colour="green"))
    return Scene(
        rooms=(Room(id="room1", x=0, z=0, w=500, d=400),), objects=things, spawn=Spawn(x=150, z=150, turn=205),
        openings=(Opening(id="door1", kind="door", room="room1", side="south", at=150),
                  Opening(id="window1", kind="window", room="room1", side="west", at=-110, w=120, h=120, sill=90),
                  Opening(id="window2", kind="window", room="room1", side="north", at=-190, w=80, h=120, sill=90)),
        lights=(Light(id="light1", x=0, y=240, z=0),), sky=Sky(time="dusk"),
        relations=(Relation(kind="facing", subjects=("armchair1", "armchair2"), of=("fireplace1",)),))


def two_rooms() -> Scene:
    """Two rooms of unlike depth with one wall between them and a door in it, on a plot."""
    return Scene(
        rooms=(Room(id="room1", x=0, z=0, w=400, d=400, wall="cream"),
               Room(id="room2", x=360, z=-50, w=300, d=300, wall="mint", floor="tiles")),
        plots=(Plot(id="plot1", x=100, z=200, w=1200, d=1200),), spawn=Spawn(x=-100, z=100, turn=120),
        openings=(Opening(id="door1", kind="door", room="room1", side="east", at=-40, to="room2"),
                  Opening(id="door2", kind="door", room="room1", side="south", at=-50, to="plot1"),
                  Opening(id="window1", kind="window", room="room2", side="north", at=0, w=160, h=110, sill=90),
                  Opening(id="window2", kind="window", room="room1", side="west", at=90, w=100, h=110, sill=90)),
        objects=(thing("bed1", -100, -90), thing("wardrobe1", 110, -168), thing("bathtub1", 360, -160, on="room2"),
                 thing("tree1", -350, 600, on="plot1"), thing("bench1", 100, 400, 30, on="plot1")))
