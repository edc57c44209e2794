"""The records of worlds: a scene, the ops that change it, the relations that hold in it, and what came of a request.

Everybody's conventions:

- Lengths are integer centimetres. x points to the right (east), y up, z towards the viewer (south). The floor is y = 0.
- A position (x, y, z) is the centre of a thing's footprint and its bottom.
- A turn is integer degrees, counter-clockwise seen from above. At 0 a thing's front faces +z; at 90 it faces +x.
- A size (w, h, d) is measured on the unturned thing: w along x, h along y, d along z.
- The viewer looks from the south to the north: left is -x, in front is +z.
- An id is a kind and a number: chair2, room1, door1, window1, plot1, light1. One name space; ids are never used twice in a scene.

Every record is frozen and refuses unknown fields. `dumps` is its canonical JSON (compact, fields in the order of definition):
`Scene.model_validate_json(dumps(scene))` equals the scene, and dumps to the same bytes.

A request is a list of ops that are solved together: all their requirements hold afterwards, or the scene stays as it was and a
`Conflict` says which requirements exclude each other. An op may only move the things it names (and what stands on or in them).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Language = Literal["en", "de"]
Side = Literal["north", "east", "south", "west"]  # of a room: -z, +x, +z, -x
Frame = Literal["object", "viewer"]
Axis = Literal["all", "width", "height", "depth"]

Id = Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,23}[1-9][0-9]{0,3}$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,23}$")]  # of a kind, a colour, a material
Place = Annotated[int, Field(ge=-20_000, le=20_000)]
Length = Annotated[int, Field(ge=1, le=10_000)]
Degrees = Annotated[int, Field(ge=0, le=359)]

OBJECTS = 2_000  # the most a scene may hold
OPS = 400  # the most a request may hold
WALL = 10  # how thick the walls of rooms are; they stand outside the room's w x d

RelationKind = Literal[
    "on", "under", "above", "inside", "next_to", "near", "far", "left_of", "right_of", "in_front_of", "behind", "between", "facing",
    "against_wall", "in_corner", "around", "aligned", "centred",
]  # fmt: skip


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def dumps(record: Record) -> str:
    return record.model_dump_json()


# What a scene holds


class Room(Record):
    """A rectangular room: w x d inside its walls, h high. (x, z) is the middle of its floor; w and d are even."""

    id: Id
    x: Place
    z: Place
    w: Annotated[int, Field(ge=100, le=5_000, multiple_of=2)]
    h: Annotated[int, Field(ge=200, le=1_000)] = 250
    d: Annotated[int, Field(ge=100, le=5_000, multiple_of=2)]
    floor: Name = "wood"
    wall: Name = "white"


class Opening(Record):
    """A door or a window in the wall on `side` of `room`, `w` wide, from `sill` to `sill + h` above the floor (doors: sill 0).

    `at` is how far its middle lies from the wall's middle: towards +x in north and south walls, towards +z in east and west
    walls. `to` is the room or plot on the other side of a door, None for outside; a room there has the same hole in its wall.
    """

    id: Id
    kind: Literal["door", "window"]
    room: Id
    side: Side
    at: Place
    w: Annotated[int, Field(ge=40, le=1_000)] = 90
    h: Annotated[int, Field(ge=40, le=1_000)] = 200
    sill: Annotated[int, Field(ge=0, le=900)] = 0
    to: Id | None = None


class Plot(Record):
    """A rectangular piece of land, w x d around (x, z), under the open sky. Rooms may stand on it."""

    id: Id
    x: Place
    z: Place
    w: Annotated[int, Field(ge=100, le=10_000, multiple_of=2)]
    d: Annotated[int, Field(ge=100, le=10_000, multiple_of=2)]
    ground: Name = "grass"


class Object(Record):
    """One thing of the catalogue, as it stands.

    `on` is what bears it: the room or plot whose floor it stands on (or whose wall or ceiling it hangs from), or the object on or
    in which it stands. What stands on an object goes where the object goes.
    """

    id: Id
    kind: Name
    x: Place
    y: Annotated[int, Field(ge=0, le=10_000)]
    z: Place
    turn: Degrees
    w: Length
    h: Length
    d: Length
    colour: Name
    material: Name
    on: Id


class Light(Record):
    """A light that no object gives: a point light at (x, y, z). Lamps shine by themselves."""

    id: Id
    x: Place
    y: Annotated[int, Field(ge=0, le=10_000)]
    z: Place
    colour: Name = "white"
    strength: Annotated[int, Field(ge=1, le=100_000)] = 800  # lumen


class Sky(Record):
    time: Literal["day", "dusk", "night"] = "day"
    weather: Literal["clear", "cloudy"] = "clear"


class Spawn(Record):
    """Where a walk begins, feet on the ground, and which way it looks: turn 180 looks north."""

    x: Place = 0
    z: Place = 0
    turn: Degrees = 180


class Relation(Record):
    """What is asked of where things are; relations.py measures it.

    `subjects` are the things of which it is said, `of` the things it is said with reference to: objects, openings, rooms, plots.

    - on, inside, under, above, next_to, near, far, facing, left_of, right_of, in_front_of, behind: one in `of`; each subject
      for itself ("both chairs face the fireplace" is one relation).
    - between: two in `of`; each subject for itself.
    - against_wall, in_corner: `of` is the room, or empty for the room in which the subject stands. `side` is the wall that is
      meant, None for any.
    - centred: `of` is a room or plot (in its middle), an object (over or on its middle) or empty (the room it stands in).
    - around: two or more subjects, one in `of`.
    - aligned: two or more subjects in a row; `of` is empty.

    `frame` says whose left or front: "object" is that of the thing in `of` (its front is where it looks), "viewer" that of one who
    looks north; things without a front of their own (openings, rooms, kinds with front=False) always take the viewer's. It
    matters to left_of, right_of, in_front_of and behind alone.
    """

    kind: RelationKind
    subjects: Annotated[tuple[Id, ...], Field(min_length=1, max_length=64)]
    of: Annotated[tuple[Id, ...], Field(max_length=2)] = ()
    frame: Frame = "object"
    side: Side | None = None


class Scene(Record):
    """A world. `relations` are those that were asked for and still hold; later requests keep them where they can."""

    rooms: tuple[Room, ...] = ()
    openings: tuple[Opening, ...] = ()
    plots: tuple[Plot, ...] = ()
    objects: Annotated[tuple[Object, ...], Field(max_length=OBJECTS)] = ()
    lights: tuple[Light, ...] = ()
    sky: Sky = Sky()
    spawn: Spawn = Spawn()
    relations: tuple[Relation, ...] = ()


# What a request may say


class AddRoom(Record):
    """A room. Where it stands follows from `beside`: wall to wall on that `side` of that room, or in the middle of that plot;
    without it, at (0, 0) or beside what is already there."""

    op: Literal["room"] = "room"
    id: Id
    w: Annotated[int, Field(ge=100, le=5_000)] = 400
    h: Annotated[int, Field(ge=200, le=1_000)] = 250
    d: Annotated[int, Field(ge=100, le=5_000)] = 400
    floor: Name = "wood"
    wall: Name = "white"
    beside: Id | None = None
    side: Side = "east"


class AddOpening(Record):
    """A door or window; `at` None is the free place nearest to the wall's middle, `w`, `h`, `sill` None the usual size. A door in
    a wall that two rooms share leads from one into the other."""

    op: Literal["opening"] = "opening"
    id: Id
    kind: Literal["door", "window"]
    room: Id
    side: Side
    at: Place | None = None
    w: Annotated[int, Field(ge=40, le=1_000)] | None = None
    h: Annotated[int, Field(ge=40, le=1_000)] | None = None
    sill: Annotated[int, Field(ge=0, le=900)] | None = None


class AddPlot(Record):
    """A plot. With `beside`, on that `side` of that room or plot; without, around everything if it is
    large enough, else in front."""

    op: Literal["plot"] = "plot"
    id: Id
    w: Annotated[int, Field(ge=100, le=10_000)] = 1_000
    d: Annotated[int, Field(ge=100, le=10_000)] = 1_000
    ground: Name = "grass"
    beside: Id | None = None
    side: Side = "south"


class AddLight(Record):
    """A light above the middle of a room, below its ceiling."""

    op: Literal["light"] = "light"
    id: Id
    room: Id
    colour: Name = "white"
    strength: Annotated[int, Field(ge=1, le=100_000)] = 800


class SetSky(Record):
    op: Literal["sky"] = "sky"
    time: Literal["day", "dusk", "night"] = "day"
    weather: Literal["clear", "cloudy"] = "clear"


class Add(Record):
    """One more object of `kind`; its id is the kind and a number that is free. `percent` scales the kind's size. What is None is
    the kind's own, or for the solver to choose: `area` (a room or plot), x, z, turn."""

    op: Literal["add"] = "add"
    id: Id
    kind: Name
    colour: Name | None = None
    material: Name | None = None
    percent: Annotated[int, Field(ge=10, le=1_000)] = 100
    area: Id | None = None
    x: Place | None = None
    z: Place | None = None
    turn: Degrees | None = None


class Remove(Record):
    """Any id. A room or plot goes with what is in it; what stood on an object that goes finds another place nearby."""

    op: Literal["remove"] = "remove"
    id: Id


class Move(Record):
    """By centimetres, exactly. To a place in words ("left of the sofa"): Relate."""

    op: Literal["move"] = "move"
    id: Id
    dx: Annotated[int, Field(ge=-40_000, le=40_000)] = 0
    dy: Annotated[int, Field(ge=-10_000, le=10_000)] = 0
    dz: Annotated[int, Field(ge=-40_000, le=40_000)] = 0


class Rotate(Record):
    """By degrees, counter-clockwise seen from above, exactly."""

    op: Literal["rotate"] = "rotate"
    id: Id
    by: Annotated[int, Field(ge=-360, le=360)]


class Scale(Record):
    """To `percent` of the present size along `axis` (width, height, depth of the unturned object); the place stays if it can."""

    op: Literal["scale"] = "scale"
    id: Id
    percent: Annotated[int, Field(ge=10, le=1_000)]
    axis: Axis = "all"


class Recolour(Record):
    """Another colour or material or both; of a room: `colour` of its walls, `material` of its floor; of a plot:
    its ground."""

    op: Literal["recolour"] = "recolour"
    id: Id
    colour: Name | None = None
    material: Name | None = None


class Relate(Record):
    """The relation holds afterwards. Its subjects may be moved and turned for that, nothing else may."""

    op: Literal["relate"] = "relate"
    relation: Relation


class Undo(Record):
    """The scene before the last request; alone in its request."""

    op: Literal["undo"] = "undo"


class Redo(Record):
    op: Literal["redo"] = "redo"


Op = Annotated[
    AddRoom | AddOpening | AddPlot | AddLight | SetSky | Add | Remove | Move | Rotate | Scale | Recolour | Relate | Undo | Redo,
    Field(discriminator="op"),
]


class Request(Record):
    ops: Annotated[tuple[Op, ...], Field(max_length=OPS)] = ()


# What came of it

RequirementKind = Literal[
    "relation",  # `relation` is to hold
    "room_for",  # ids[0] needs a place of its own in ids[1]: inside, not colliding, borne by something
    "place",  # ids[0] is to be exactly where an op put it
    "stays",  # ids are not to be moved by this request
    "opening",  # ids[0], a door or window, is to be kept clear
    "walk",  # one must be able to walk through ids[0], a room or plot, from door to door and to every object
    "known",  # ids[0] must exist (or must not exist yet)
    "valid",  # `detail`: an op that makes no sense by itself
    "size",  # ids[0] would be larger or smaller than anything may be
]


class Requirement(Record):
    """One thing that had to hold. describe.py says it in words."""

    kind: RequirementKind
    ids: tuple[str, ...] = ()
    relation: Relation | None = None
    detail: str = ""


class Conflict(Record):
    """Requirements that cannot hold together although any of them could be left out to make the others possible.

    `proved` is False if the solver ran out of time before it could be sure; then they are what it could not do.
    """

    requirements: Annotated[tuple[Requirement, ...], Field(min_length=1)]
    proved: bool = True


class Problem(Record):
    """Something that is wrong with a scene; a scene of the pipeline has none."""

    kind: Literal["collision", "outside", "unsupported", "blocked", "unreachable", "unknown", "relation"]
    ids: tuple[str, ...]


class Result(Record):
    """What a request came to: the scene after it, or the same scene and the conflict.

    `changed` are the ids that were added, moved or otherwise changed; `removed` those that are gone; `released` the relations of
    earlier requests that no longer hold.
    """

    scene: Scene
    changed: tuple[Id, ...] = ()
    removed: tuple[Id, ...] = ()
    released: tuple[Relation, ...] = ()
    conflict: Conflict | None = None


class History(Record):
    """All scenes up to `at` can be gone back to, those after it can be gone forward to."""

    scenes: Annotated[tuple[Scene, ...], Field(min_length=1)] = (Scene(),)
    at: Annotated[int, Field(ge=0)] = 0

    @property
    def scene(self) -> Scene:
        return self.scenes[self.at]
