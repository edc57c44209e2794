"""Pictures and their id maps, held against rays cast one by one."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from worlds.rays import hits, pixel_ray, triangles
from worlds.scenes import living_room, thing, two_rooms

from ownship.surfaces.worlds import camera, shell
from ownship.surfaces.worlds.camera import Camera
from ownship.surfaces.worlds.picture import png, render
from ownship.surfaces.worlds.types import Plot, Room, Scene, Sky

VIEWS = {"overview": camera.overview, "above": camera.above, "walker": camera.walker}


def _seen(scene: Scene, view: Camera, x: float, y: float, size: tuple[int, int], shape: tuple[np.ndarray, np.ndarray]) -> set[int]:
    """The things that may be seen at a point of the picture: one, or several where the ray passes within a hair of an edge or two
    things lie within half a millimetre of each other."""
    corners, owner = shape
    start, direction = pixel_ray(view, x, y, *size)
    distance, index, margin, _ = hits(corners, start, direction)
    front = distance > 5.0
    distance, index, margin = distance[front], index[front], margin[front]
    if not len(index):
        return {0}
    close = index[(distance < distance[0] + 0.05)]
    return set(owner[close].tolist()) if margin[0] > 1e-6 else set()


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("scene", [living_room(), two_rooms()], ids=["living", "two"])
def test_id_map_is_what_rays_meet(name: str, scene: Scene) -> None:
    width, height = 200, 150
    view = VIEWS[name](scene)
    things = shell.placed(scene)
    shown = [t for t in things if not (view.cutaway and _cut_away(t, view))]
    numbers = {t.name: i for i, t in enumerate(shown, start=1)}
    picture = render(scene, view, width, height, samples=1)
    shape = triangles(shown)
    rng = np.random.default_rng(0)
    sure = 0
    for x, y in zip(rng.integers(0, width, 150), rng.integers(0, height, 150), strict=True):
        allowed = _seen(scene, view, x + 0.5, y + 0.5, (width, height), shape)
        sure += len(allowed) == 1
        label = picture.names[picture.ids[y, x]]
        assert not allowed or (numbers[label] if label else 0) in allowed, (x, y, label)
    assert sure > 130


def _cut_away(thing: shell.Placed, view: Camera) -> bool:
    """Ceilings, and what hangs together with a wall that shows its outside."""
    away = np.subtract(view.target, view.eye)
    away = away / np.linalg.norm(away)
    if thing.outward is None:
        return thing.role == "ceiling"
    return bool(away[0] * thing.outward[0] + away[2] * thing.outward[1] < -0.05)


def test_a_pixel_is_what_most_of_its_points_meet() -> None:
    scene = living_room()
    view = camera.overview(scene)
    fine, coarse = render(scene, view, 240, 180, samples=1), render(scene, view, 120, 90, samples=2)
    votes = fine.ids.reshape(90, 2, 120, 2).transpose(0, 2, 1, 3).reshape(90, 120, 4)
    for cell, found in zip(votes.reshape(-1, 4), coarse.ids.ravel(), strict=True):
        values, counts = np.unique(cell, return_counts=True)
        assert found in values[counts == counts.max()]


@pytest.mark.parametrize("turn", range(0, 360, 45))
def test_a_closed_room_has_no_cracks(turn: int) -> None:
    """Inside, no pixel sees the sky: not between walls, floor and ceiling, not around doors and windows."""
    scene = living_room().model_copy(update={"spawn": living_room().spawn.model_copy(update={"turn": turn, "x": 60, "z": 60})})
    assert (render(scene, camera.walker(scene, 100.0), 160, 120).ids > 0).all()


def test_every_thing_is_found_where_it_stands() -> None:
    """On the plan, a thing's pixels lie within its footprint."""
    scene = Scene(plots=(Plot(id="plot1", x=0, z=0, w=800, d=600),), objects=(
        thing("sofa1", -200, -100, on="plot1"), thing("chair1", 200, 100, 90, on="plot1"), thing("rug1", 0, 150, on="plot1")))
    view = camera.above(scene)
    picture = render(scene, view, 400, 300)
    scale = 300 / view.height  # pixels per centimetre
    for o in scene.objects:
        rows, columns = np.nonzero(picture.ids == picture.names.index(o.id))
        w, d = (o.w, o.d) if o.turn % 180 == 0 else (o.d, o.w)
        assert abs(columns.mean() + 0.5 - (200 + (o.x - view.eye[0]) * scale)) < 0.1 * w * scale
        assert abs(np.ptp(columns) + 1 - w * scale) <= 2 and abs(np.ptp(rows) + 1 - d * scale) <= 2


def test_nearer_things_hide_farther_ones_and_colours_are_theirs() -> None:
    things = (thing("box1", 0, 0, w=100, h=100, d=20, colour="red"), thing("box2", 0, 200, w=50, h=50, d=20, colour="blue"))
    scene = Scene(objects=things)
    picture = render(scene, Camera((0.0, 40.0, 800.0), (0.0, 40.0, 0.0)), 120, 90)
    assert picture.names[picture.ids[50, 60]] == "box2" and picture.names[picture.ids[40, 60]] == "box1" and picture.ids[2, 2] == 0
    red, blue = picture.rgb[40, 60].astype(int), picture.rgb[50, 60].astype(int)
    assert red[0] > 2 * red[2] and blue[2] > 1.5 * blue[0]


def test_shadows_fall_and_night_is_dark() -> None:
    scene = Scene(rooms=(Room(id="room1", x=0, z=0, w=600, d=600, floor="concrete"),), objects=(thing("wardrobe1"),))
    view = camera.above(scene)
    empty, full = (render(s, view, 120, 90) for s in (scene.model_copy(update={"objects": ()}), scene))
    view_ids = full.ids == full.names.index("room1.floor")
    darker = empty.rgb[view_ids].astype(int).sum(axis=1) - full.rgb[view_ids].astype(int).sum(axis=1)
    assert 0.05 < (darker > 60).mean() < 0.5
    night = render(scene.model_copy(update={"sky": Sky(time="night")}), view, 120, 90)
    assert night.rgb.mean() < 0.5 * full.rgb.mean()


BARE, FLAT = Scene(rooms=(Room(id="room1", x=0, z=0, w=200, d=200),)), Scene(objects=(thing("rug1", h=1),))


@pytest.mark.parametrize("scene", [Scene(), BARE, FLAT], ids=["nothing", "bare", "flat"])
@pytest.mark.parametrize("name", VIEWS)
def test_little_can_be_drawn_too(scene: Scene, name: str) -> None:
    picture = render(scene, VIEWS[name](scene), 32, 24)
    assert picture.rgb.shape == (24, 32, 3) and picture.ids.shape == (24, 32) and picture.ids.max() < len(picture.names)


def test_the_same_picture_twice_and_png_of_another_reader() -> None:
    scene = two_rooms()
    one, two = (render(scene, None, 96, 72) for _ in range(2))
    assert (one.rgb == two.rgb).all() and (one.ids == two.ids).all() and one.png() == two.png()
    assert (np.asarray(Image.open(io.BytesIO(one.png()))) == one.rgb).all()
    noise = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(png(noise)))) == noise).all()


def test_views_hold_everything() -> None:
    scene = two_rooms()
    for view in (camera.overview(scene), camera.above(scene)):
        ids = render(scene, view, 160, 120).ids
        border = np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]])
        assert (border == 0).all() and (ids > 0).mean() > 0.25


def test_a_cutaway_leaves_out_what_hangs_on_a_wall_that_is_left_out() -> None:
    scene = Scene(rooms=(Room(id="room1", x=0, z=0, w=400, d=400),), objects=(
        thing("picture1", 0, -198, 0, 140), thing("picture2", 0, 198, 180, 140)))
    picture = render(scene, camera.overview(scene, turn=0.0), 120, 90)
    seen = {picture.names[i] for i in np.unique(picture.ids)}
    assert "picture1" in seen and "room1.north" in seen and not {"picture2", "room1.south", "room1.ceiling"} & seen


def test_walls_are_whole_but_for_their_holes() -> None:
    """Panels cover the rectangle without its holes exactly once, whatever the holes."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = rng.integers((-20, -20, 1, 1), (120, 80, 60, 60), (rng.integers(0, 5), 4)).tolist()
        holes = [(x, y, x + w, y + h) for x, y, w, h in drawn]
        rects = shell.panel(0, 0, 100, 50, holes, [math.inf, 17.0][int(rng.integers(2))])
        for x, y in rng.random((40, 2)) * (100, 50):
            inside = sum(a < x < c and b < y < e for a, b, c, e in rects)
            assert inside == (not any(a <= x <= c and b <= y <= e for a, b, c, e in holes))


@pytest.mark.parametrize("scene", [living_room(), two_rooms()], ids=["living", "two"])
def test_rooms_are_not_inside_out(scene: Scene) -> None:
    """From where a person stands, every ray first meets the front of a face: walls, the thickness of walls in doors and windows,
    floors and ceilings."""
    corners, _ = triangles([t for t in shell.placed(scene) if t.role != "object"])
    rng = np.random.default_rng(0)
    for room in scene.rooms:
        for _ in range(120):
            start = np.array([room.x, 120.0, room.z]) + (rng.random(3) - 0.5) * (room.w * 0.9, 160, room.d * 0.9)
            opening = scene.openings[int(rng.integers(len(scene.openings)))]
            side = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}[opening.side]
            home = next(r for r in scene.rooms if r.id == opening.room)
            middle = np.array([home.x + side[0] * home.w / 2 + (opening.at if side[1] else 0), opening.sill + opening.h / 2,
                               home.z + side[1] * home.d / 2 + (opening.at if side[0] else 0)])
            across = (opening.w * 1.1 * abs(side[1]) + 20, opening.h * 1.1, opening.w * 1.1 * abs(side[0]) + 20)
            aim = middle + (rng.random(3) - 0.5) * across
            distance, _, margin, front = hits(corners, start, (aim - start) / np.linalg.norm(aim - start), two_sided=True)
            if len(distance) and margin[0] > 1e-6:
                assert front[0], (room.id, opening.id, start, aim)
