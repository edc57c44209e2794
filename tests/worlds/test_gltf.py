"""Scenes as glTF files: by the specification, as `trimesh` reads them, and as the official validator does where it is installed."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.scenes import living_room, thing, two_rooms

from ownship.errors import UserError
from ownship.surfaces.worlds import gltf, mesh, shell
from ownship.surfaces.worlds.catalogue import KINDS, MATERIALS
from ownship.surfaces.worlds.types import Plot, Scene

SCENES = {"living": living_room(), "two": two_rooms(), "empty": Scene(),
          "kinds": Scene(plots=(Plot(id="plot1", x=0, z=0, w=10_000, d=800),), objects=tuple(
              thing(f"{kind}1", 300 * i - 8500, 0, 6 * i, on="plot1", material=list(MATERIALS)[i % len(MATERIALS)])
              for i, kind in enumerate(KINDS)))}


def parse(data: bytes) -> tuple[dict[str, Any], bytes]:
    assert data[:4] == b"glTF" and struct.unpack("<II", data[4:12]) == (2, len(data)) and len(data) % 4 == 0
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    root = json.loads(data[20:20 + size])
    rest = data[20 + size:]
    if not rest:
        return root, b""
    length, kind = struct.unpack("<I4s", rest[:8])
    assert kind == b"BIN\0" and length % 4 == 0 and length == len(rest) - 8
    return root, rest[8:]


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_file_keeps_the_rules(scene: Scene) -> None:
    root, binary = parse(gltf.glb(scene))
    assert not binary or 0 <= len(binary) - root["buffers"][0]["byteLength"] < 4
    arrays = []
    for accessor in root.get("accessors", []):
        view = root["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(binary)
        dtype = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[accessor["componentType"]]
        array = np.frombuffer(binary, dtype, view["byteLength"] // int(dtype[2]), view["byteOffset"])
        array = array.reshape(-1, 3) if accessor["type"] == "VEC3" else array
        assert len(array) == accessor["count"]
        if "min" in accessor:
            assert array.min(axis=0).tolist() == accessor["min"] and array.max(axis=0).tolist() == accessor["max"]
        arrays.append(array)
    for shape in root.get("meshes", []):
        for primitive in shape["primitives"]:
            positions, normals = (arrays[primitive["attributes"][name]] for name in ("POSITION", "NORMAL"))
            assert len(positions) == len(normals) and arrays[primitive["indices"]].max() < len(positions)
            assert "min" in root["accessors"][primitive["attributes"]["POSITION"]]
            assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 1e-3
            assert 0 <= primitive["material"] < len(root["materials"])
    names = [node["name"] for node in root["nodes"]]
    assert len(set(names)) == len(names) and {o.id for o in (*scene.objects, *scene.openings)} <= set(names)
    assert root["nodes"][root["scenes"][0]["nodes"][-1]]["camera"] == 0
    lights = root["extensions"]["KHR_lights_punctual"]["lights"]
    assert lights[0]["type"] == "directional" and len(lights) <= 1 + gltf.LIGHTS


@pytest.mark.parametrize("name", ["living", "two", "kinds"])
def test_trimesh_reads_the_same_world(name: str) -> None:
    scene = SCENES[name]
    loaded = trimesh.load(io.BytesIO(gltf.glb(scene)), file_type="glb")
    where = {thing.name: thing for thing in shell.placed(scene)}
    for node in where:
        matrix = loaded.graph.get(node)[0]
        a = np.radians(where[node].turn)
        expected = trimesh.transformations.rotation_matrix(a, (0, 1, 0))
        expected[:3, 3] = np.array([where[node].x, where[node].y, where[node].z]) / 100
        assert np.allclose(matrix, expected, atol=1e-6)
    # the triangles that another implementation sees are those that were made
    ours = [(p.vertices[p.faces] / 100) @ trimesh.transformations.rotation_matrix(np.radians(t.turn), (0, 1, 0))[:3, :3].T
            + np.array([t.x, t.y, t.z]) / 100 for t in where.values() for p in t.parts]
    flat = np.concatenate(ours).reshape(-1, 9)
    theirs = loaded.to_geometry().triangles.reshape(-1, 9)
    assert len(theirs) == len(flat)
    assert np.allclose(np.sort(theirs.sum(axis=1)), np.sort(flat.sum(axis=1)), atol=1e-3)
    assert np.allclose(loaded.bounds, [flat.reshape(-1, 3).min(axis=0), flat.reshape(-1, 3).max(axis=0)], atol=1e-5)


def test_bytes_depend_on_the_scene_alone() -> None:
    scene = living_room()
    first = gltf.glb(scene)
    mesh.mesh_of.cache_clear()
    mesh._pieces.cache_clear()
    assert gltf.glb(Scene.model_validate_json(scene.model_dump_json())) == first


def test_what_is_alike_is_stored_once() -> None:
    things = (thing("chair1", 0), thing("chair2", 100, 0, 90), thing("chair3", 200, colour="red"))
    root, _ = parse(gltf.glb(Scene(objects=things)))
    nodes = {node["name"]: node for node in root["nodes"]}
    assert nodes["chair1"]["mesh"] == nodes["chair2"]["mesh"] != nodes["chair3"]["mesh"]
    one, three = (root["meshes"][nodes[n]["mesh"]]["primitives"] for n in ("chair1", "chair3"))
    assert [p["attributes"] for p in one] == [p["attributes"] for p in three]
    assert [p["material"] for p in one] != [p["material"] for p in three]


def test_extras_say_what_things_are() -> None:
    nodes = {node.name: node for node in gltf.read(gltf.glb(living_room()))}
    assert nodes["armchair1"].extras["relations"] == [{"kind": "facing", "of": ["fireplace1"]}]
    assert nodes["armchair1"].extras["colour"] == "orange" and nodes["armchair1"].extras["kind"] == "armchair"
    assert nodes["room1.north"].extras == {"id": "room1", "role": "wall", "kind": "room", "outward": [0, -1]}


def test_read_gives_back_where_things_are() -> None:
    scene = two_rooms()
    nodes = {node.name: node for node in gltf.read(gltf.glb(scene))}
    for o in scene.objects:
        assert nodes[o.id].place == pytest.approx((o.x / 100, o.y / 100, o.z / 100))
        assert nodes[o.id].turn == pytest.approx(o.turn, abs=1e-3)
    assert nodes["spawn"].turn == pytest.approx((scene.spawn.turn - 180) % 360, abs=1e-3)


def test_parts_for_a_viewer() -> None:
    scene = living_room()
    assert [n.name for n in gltf.read(gltf.glb(scene, {"sofa1", "rug1"}, shell=False))] == ["rug1", "sofa1"]
    rooms = {n.extras["role"] for n in gltf.read(gltf.glb(scene, ()))}
    assert rooms == {"floor", "wall", "ceiling", "opening"}
    assert gltf.read(gltf.glb(scene, (), shell=False)) == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_broken_files_are_refused_or_read(data: st.DataObject) -> None:
    good = bytearray(gltf.glb(Scene(objects=(thing("book1"),))))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, min(len(good), 900) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(good[:data.draw(st.integers(0, len(good)))])
    for candidate in (broken, bytes(good)):
        try:
            gltf.read(candidate)
        except UserError:
            continue


@pytest.mark.parametrize("junk", [b"", b"glTF", b"{}", b"glTF" + bytes(60), b"\x89PNG" * 9])
def test_other_files_are_refused(junk: bytes) -> None:
    with pytest.raises(UserError, match="not a binary glTF"):
        gltf.read(junk)


_SCRIPT = """
const validator = require('gltf-validator'); const fs = require('fs');
Promise.all(process.argv.slice(1).map(f => validator.validateBytes(new Uint8Array(fs.readFileSync(f)))))
  .then(reports => console.log(JSON.stringify(reports.map(r => r.issues))));
"""


def _validator() -> bool:
    """Whether node finds the npm package gltf-validator (NODE_PATH says where)."""
    return shutil.which("node") is not None and subprocess.run(
        ["node", "-e", "require('gltf-validator')"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif("NODE_PATH" not in os.environ or not _validator(), reason="needs NODE_PATH with the npm package gltf-validator")
def test_khronos_validator_has_nothing_to_say(tmp_path: Path) -> None:
    files = []
    for name, scene in SCENES.items():
        files.append(tmp_path / f"{name}.glb")
        files[-1].write_bytes(gltf.glb(scene))
    files.append(tmp_path / "part.glb")
    files[-1].write_bytes(gltf.glb(living_room(), {"sofa1"}, shell=False))
    said = subprocess.run(["node", "-e", _SCRIPT, *map(str, files)], capture_output=True, check=True, text=True).stdout
    for name, issues in zip(files, json.loads(said), strict=True):
        assert (issues["numErrors"], issues["numWarnings"], issues["numInfos"], issues["numHints"]) == (0, 0, 0, 0), (name, issues)
