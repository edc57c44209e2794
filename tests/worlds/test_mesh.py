"""Objects look as the catalogue says they are: as large, level where they carry things, empty where things can be put."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.rays import hits, triangles

from ownship.surfaces.worlds.catalogue import COLOURS, GROUNDS, KINDS, MATERIALS, Size
from ownship.surfaces.worlds.mesh import SURFACES, Part, mesh_of
from ownship.surfaces.worlds.shell import Placed

ALL = sorted(KINDS)


def mesh(name: str, size: Size | None = None) -> tuple[Part, ...]:
    kind = KINDS[name]
    return mesh_of(name, size or kind.size, kind.colour, kind.material)


def corners(name: str, size: Size | None = None) -> np.ndarray:
    return triangles([Placed(name, name, "object", mesh(name, size))])[0]


def test_names_say_one_kind() -> None:
    for language in ("en", "de"):
        kinds = Counter(name for k in KINDS.values() for name in {form for w in getattr(k, language) for form in (w.one, w.many)})
        colours = Counter(name for c in COLOURS.values() for name in set(getattr(c, language)))
        assert max(kinds.values()) == max(colours.values()) == 1
    assert all(w.gender in ("der", "die", "das") for k in KINDS.values() for w in k.de)


@pytest.mark.parametrize("name", ALL)
def test_kind_is_consistent(name: str) -> None:
    kind = KINDS[name]
    assert all(low <= size <= high for low, size, high in zip(kind.low, kind.size, kind.high, strict=True))
    assert kind.colour in COLOURS and kind.material in MATERIALS and (kind.indoors or kind.outdoors)
    for v in (*kind.inside, *kind.solids, *([kind.under] if kind.under else [])):
        assert 0 <= v.x0 < v.x1 <= 1 and 0 <= v.y0 < v.y1 <= 1 and 0 <= v.z0 < v.z1 <= 1
    for s in kind.surfaces:
        assert 0 <= s.x0 < s.x1 <= 1 and 0 < s.y <= 1 and 0 <= s.z0 < s.z1 <= 1


def test_grounds_have_materials_that_can_be_drawn() -> None:
    assert all(g.material in SURFACES and (g.indoors or g.outdoors) for g in GROUNDS.values())


@pytest.mark.parametrize("name", ALL)
def test_bounds_are_the_size(name: str) -> None:
    kind = KINDS[name]
    (a, b, c), (e, f, g) = kind.low, kind.high
    for size in (kind.size, kind.low, kind.high, (a, f, c), (e, b, g)):
        parts = mesh(name, size)
        w, h, d = size
        assert np.min([p.vertices.min(axis=0) for p in parts], axis=0).tolist() == [-w / 2, 0, -d / 2]
        assert np.max([p.vertices.max(axis=0) for p in parts], axis=0).tolist() == [w / 2, h, d / 2]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_size_gives_a_sound_mesh(data: st.DataObject) -> None:
    kind = KINDS[data.draw(st.sampled_from(ALL))]
    size = tuple(data.draw(st.integers(max(1, low // 2), 2 * high)) for low, high in zip(kind.low, kind.high, strict=True))
    sound(mesh(kind.name, size))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "size"), [("well", (26, 43, 217)), ("well", (650, 43, 26))])
def test_a_shape_far_from_its_usual_one_is_a_sound_mesh(name: str, size: Size) -> None:
    sound(mesh(name, size))


def sound(parts: tuple[Part, ...]) -> None:
    assert sum(len(p.faces) for p in parts) <= 1500
    for p in parts:
        assert p.faces.min() >= 0 and p.faces.max() < len(p.vertices) and np.isfinite(p.vertices).all()
        assert np.abs(np.linalg.norm(p.normals, axis=1) - 1).max() < 1e-4
        a, b, c = (p.vertices[p.faces[:, i]].astype(float) for i in range(3))
        flat = np.cross(b - a, c - a)
        solid = np.linalg.norm(flat, axis=1) > 1e-3
        towards = (flat * p.normals[p.faces].mean(axis=1))[solid].sum(axis=1)
        assert (towards > 0).all()  # normals look where their face looks


@pytest.mark.parametrize("name", ALL)
def test_seen_from_outside_only_outsides_are_seen(name: str) -> None:
    """The first thing a ray meets is the front of a face: nothing is inside out."""
    shape = corners(name)
    rng = np.random.default_rng(0)
    middles = shape.mean(axis=1)
    wrong = met = 0
    for _ in range(40):
        away = rng.normal(size=3)
        away[1] = abs(away[1])  # nobody looks from below
        away /= np.linalg.norm(away)
        _, index, _, front = hits(shape, middles[rng.integers(len(middles))] + away * 3000, -away, two_sided=True)
        met += len(index) > 0
        wrong += len(index) > 0 and not front[0]
    assert met > 10 and wrong <= 1


@pytest.mark.parametrize("name", [n for n in ALL if KINDS[n].surfaces])
def test_surfaces_are_where_the_mesh_is_level(name: str) -> None:
    kind = KINDS[name]
    for size in (kind.size, tuple(s * 3 // 2 for s in kind.size)):
        shape = corners(name, size)  # type: ignore[arg-type]
        for surface in kind.surfaces:
            y, x0, z0, x1, z1 = surface.cm(size)  # type: ignore[arg-type]
            clear = surface.clear * size[1] if surface.clear is not None else 1e4
            off = []
            for u in (0.15, 0.38, 0.62, 0.85):
                for v in (0.17, 0.43, 0.66, 0.83):
                    start = np.array([x0 + u * (x1 - x0), y + clear * 0.98, z0 + v * (z1 - z0)])
                    distance, *_ = hits(shape, start, np.array([0.0, -1.0, 0.0]))
                    off.append(abs(start[1] - distance[0] - y) if len(distance) else np.inf)
            assert np.median(off) < 0.01 * size[1] + 0.3 and max(off) < 0.06 * size[1] + 2.0, (surface, off)


@pytest.mark.parametrize("name", [n for n in ALL if KINDS[n].inside or KINDS[n].under])
def test_spaces_are_empty(name: str) -> None:
    kind = KINDS[name]
    shape = corners(name)
    rng = np.random.default_rng(1)
    for volume in (*kind.inside, *([kind.under] if kind.under else [])):
        x0, y0, z0, x1, y1, z1 = volume.cm(kind.size)
        solids = [s.cm(kind.size) for s in kind.solids]
        for _ in range(25):  # segments between points of the space meet nothing
            a, b = (np.array([x0, y0, z0]) + (0.04 + 0.92 * rng.random(3)) * (x1 - x0, y1 - y0, z1 - z0) for _ in range(2))
            if any(_crosses(a, b, s) for s in solids):
                continue
            distance, *_ = hits(shape, a, b - a, two_sided=True)
            assert not len(distance) or distance[0] > 1, volume


def _crosses(a: np.ndarray, b: np.ndarray, solid: tuple[float, ...]) -> bool:
    points = a + (b - a) * np.linspace(0, 1, 60)[:, None]
    return bool(((points >= solid[:3]) & (points <= solid[3:])).all(axis=1).any())


@pytest.mark.parametrize("name", ALL)
def test_its_colour_is_what_one_sees_most_of(name: str) -> None:
    """Recolouring changes a fair share of the surface, and the geometry not at all."""
    kind = KINDS[name]
    one, two = mesh_of(name, kind.size, "red", kind.material), mesh_of(name, kind.size, "navy", kind.material)
    assert sum(len(p.faces) for p in one) == sum(len(p.faces) for p in two)

    def looks(parts: tuple[Part, ...]) -> dict[tuple[int, int, int], float]:
        found: Counter[tuple[int, int, int]] = Counter()
        for p in parts:
            a, b, c = (p.vertices[p.faces[:, i]] for i in range(3))
            found[p.rgb] += float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum())
        return found

    before, after = looks(one), looks(two)
    changed = sum(area for rgb, area in before.items() if rgb not in after)
    assert changed > 0.07 * sum(before.values())
