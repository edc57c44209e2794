"""A scene as a binary glTF 2.0 file (.glb), and what such a file holds.

Source: Khronos, glTF 2.0 specification (ISO/IEC 12113), and its extension KHR_lights_punctual. Metres, y up; a node per thing,
named by
its id ("sofa1"; parts of rooms "room1.floor", "room1.north"), with what it is in `extras`. Things that are alike share a mesh, and
meshes that differ in colour alone share their vertices. Equal scenes give equal bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ownship.errors import UserError
from ownship.surfaces.worlds.mesh import SURFACES, Part
from ownship.surfaces.worlds.picture import linear
from ownship.surfaces.worlds.shell import Placed, lamps, placed
from ownship.surfaces.worlds.types import Scene

LIGHTS = 16  # at most so many lamps shine, the strongest: viewers pay for each of them at every pixel
EXPOSURE = 30.0  # viewers show lux and candela as they are, without a camera's exposure: a lamp of 60 candela gets 2
SUN = {"day": ((1.0, 0.96, 0.9), 2.5), "dusk": ((1.0, 0.62, 0.36), 1.4), "night": ((0.62, 0.72, 1.0), 0.25)}  # colour, "lux"
_ARRAY, _ELEMENTS, _FLOAT, _SHORT, _INT = 34962, 34963, 5126, 5123, 5125


@dataclass
class _File:
    """The growing parts of a file. Equal content is stored once."""

    binary: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)
    materials: list[dict[str, Any]] = field(default_factory=list)
    meshes: list[dict[str, Any]] = field(default_factory=list)
    known: dict[Any, int] = field(default_factory=dict)

    def accessor(self, array: NDArray[Any], target: int, bounds: bool) -> int:
        data = array.tobytes()
        key = ("accessor", array.dtype.str, target, array.shape, data)
        if key not in self.known:
            self.binary += bytes(-len(self.binary) % 4)
            self.views.append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), "target": target})
            self.binary += data
            kind = {"f": _FLOAT, "u": _SHORT if array.itemsize == 2 else _INT}[array.dtype.kind]
            found: dict[str, Any] = {"bufferView": len(self.views) - 1, "componentType": kind, "count": len(array),
                                     "type": "VEC3" if array.ndim == 2 else "SCALAR"}
            if bounds:
                found |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
            self.accessors.append(found)
            self.known[key] = len(self.accessors) - 1
        return self.known[key]

    def material(self, part: Part) -> int:
        key = ("material", part.rgb, part.material, part.glow)
        if key not in self.known:
            roughness, metalness, alpha = SURFACES[part.material]
            colour = [round(c, 5) for c in linear(part.rgb)]
            found: dict[str, Any] = {"name": f"{part.material} #{part.rgb[0]:02x}{part.rgb[1]:02x}{part.rgb[2]:02x}",
            "pbrMetallicRoughness": {
                "baseColorFactor": [*colour, alpha], "metallicFactor": metalness, "roughnessFactor": roughness}}
            if part.glow:
                found["emissiveFactor"] = [round(c * part.glow, 5) for c in colour]
            if alpha < 1:
                found["alphaMode"] = "BLEND"
            self.materials.append(found)
            self.known[key] = len(self.materials) - 1
        return self.known[key]

    def mesh(self, name: str, parts: tuple[Part, ...]) -> int:
        primitives = []
        for part in parts:
            faces = part.faces.reshape(-1).astype(np.uint16 if len(part.vertices) < 65535 else np.uint32)
            primitives.append({"attributes": {"POSITION": self.accessor(part.vertices / np.float32(100), _ARRAY, True),
                                              "NORMAL": self.accessor(part.normals, _ARRAY, False)},
                               "indices": self.accessor(faces, _ELEMENTS, False), "material": self.material(part)})
        key = ("mesh", json.dumps(primitives))
        if key not in self.known:
            self.meshes.append({"name": name, "primitives": primitives})
            self.known[key] = len(self.meshes) - 1
        return self.known[key]


def _turn(degrees: float) -> list[float]:
    """The quaternion (x, y, z, w) of a turn about y."""
    half = math.radians(degrees % 360) / 2
    return [0.0, round(math.sin(half), 9), 0.0, round(math.cos(half), 9)]


def _node(thing: Placed, mesh: int, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": thing.name, "mesh": mesh}
    if thing.x or thing.y or thing.z:
        found["translation"] = [thing.x / 100, thing.y / 100, thing.z / 100]
    if thing.turn % 360:
        found["rotation"] = _turn(thing.turn)
    found["extras"] = {"id": thing.id, "role": thing.role, **known.get(thing.id, {})}
    if thing.outward is not None:
        found["extras"]["outward"] = list(thing.outward)
    return found


def _about(scene: Scene) -> dict[str, dict[str, Any]]:
    """What the file says of each thing besides its shape."""
    found: dict[str, dict[str, Any]] = {
        o.id: {"kind": o.kind, "colour": o.colour, "material": o.material, "size": [o.w, o.h, o.d],
        "on": o.on} for o in scene.objects}
    found |= {r.id: {"kind": "room"} for r in scene.rooms} | {p.id: {"kind": "plot"} for p in scene.plots}
    found |= {o.id: {"kind": o.kind, "room": o.room, "side": o.side} for o in scene.openings}
    for relation in scene.relations:
        for subject in relation.subjects:
            if subject in found:
                found[subject].setdefault("relations", []).append({"kind": relation.kind, "of": list(relation.of)})
    return found


def glb(scene: Scene, objects: Collection[str] | None = None, shell: bool = True) -> bytes:
    """The file of a scene: all of it with lights, the sun and a camera at the spawn point; or, for a viewer that loads what has
    changed, only the `objects` named, and rooms and land only with `shell`."""
    whole = objects is None and shell
    file, about = _File(), _about(scene)
    nodes: list[dict[str, Any]] = []
    seen: dict[int, int] = {}  # parts of equal objects are the same tuple, which `things` keeps alive
    things = [t for t in placed(scene) if (shell if t.role != "object" else objects is None or t.id in objects)]
    for thing in things:
        if id(thing.parts) not in seen:
            name = about[thing.id]["kind"] if thing.role == "object" else thing.name
            seen[id(thing.parts)] = file.mesh(name, thing.parts)
        nodes.append(_node(thing, seen[id(thing.parts)], about))
    root: dict[str, Any] = {"asset": {"version": "2.0", "generator": "ownship worlds"}, "scene": 0}
    if whole:
        lights = _lights(scene, nodes)
        root |= {"extensionsUsed": ["KHR_lights_punctual"], "extensions": {"KHR_lights_punctual": {"lights": lights}}}
        spawn = scene.spawn
        nodes.append({"name": "spawn", "camera": 0, "translation": [spawn.x / 100, 1.6, spawn.z / 100],
        "rotation": _turn(spawn.turn - 180)})
        root["cameras"] = [{"type": "perspective", "perspective": {"yfov": round(math.radians(60), 6), "znear": 0.05}}]
    root["scenes"] = [{"name": "world", **({"nodes": list(range(len(nodes)))} if nodes else {}),
    "extras": {"sky": scene.sky.model_dump()}}]
    if nodes:
        root["nodes"] = nodes
    if file.meshes:
        root |= {"meshes": file.meshes, "materials": file.materials, "accessors": file.accessors, "bufferViews": file.views,
                 "buffers": [{"byteLength": len(file.binary)}]}
    text = json.dumps(root, separators=(",", ":")).encode()
    chunks = [(b"JSON", text + b" " * (-len(text) % 4))]
    if file.binary:
        chunks.append((b"BIN\0", bytes(file.binary) + bytes(-len(file.binary) % 4)))
    body = b"".join(struct.pack("<I", len(data)) + name + data for name, data in chunks)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def _lights(scene: Scene, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sun, which shines along its node's -z, and the strongest lamps; their nodes are added."""
    colour, strength = SUN[scene.sky.time]
    lights: list[dict[str, Any]] = [{"name": "sun", "type": "directional", "color": list(colour),
                                     "intensity": strength * (0.4 if scene.sky.weather == "cloudy" else 1.0)}]
    # from the south-east, 53 degrees high: a turn about y, then one about x
    yaw, pitch = math.radians(50) / 2, math.radians(-53) / 2
    nodes.append({"name": "sun", "extensions": {"KHR_lights_punctual": {"light": 0}},
                  "rotation": [round(c, 9) for c in (math.cos(yaw) * math.sin(pitch), math.sin(yaw) * math.cos(pitch),
                                                     -math.sin(yaw) * math.sin(pitch), math.cos(yaw) * math.cos(pitch))]})
    for name, (x, y, z), rgb, candela in sorted(lamps(scene), key=lambda lamp: (-lamp[3], lamp[0]))[:LIGHTS]:
        nodes.append({"name": name, "translation": [round(c / 100, 4) for c in (x, y, z)],
                      "extensions": {"KHR_lights_punctual": {"light": len(lights)}}})
        lights.append({"name": name, "type": "point", "color": [round(c, 5) for c in linear(rgb)],
        "intensity": round(candela / EXPOSURE, 4)})
    return lights


@dataclass(frozen=True)
class Node:
    """A node as a file has it: metres, and the turn about y in degrees."""

    name: str
    place: tuple[float, float, float]
    turn: float
    extras: dict[str, Any]


def read(data: bytes) -> list[Node]:
    """The nodes of a .glb file that `glb` wrote. UserError for anything else."""
    try:
        magic, version, length = struct.unpack_from("<4sII", data, 0)
        size, kind = struct.unpack_from("<I4s", data, 12)
        if magic != b"glTF" or version != 2 or length != len(data) or kind != b"JSON" or 20 + size > length:
            raise ValueError
        root = json.loads(data[20:20 + size])
        found = []
        for node in root.get("nodes", []):
            x, y, z = (float(c) for c in node.get("translation", (0, 0, 0)))
            _, sine, _, cosine = (float(c) for c in node.get("rotation", (0, 0, 0, 1)))
            found.append(Node(str(node["name"]), (x, y, z), round(math.degrees(2 * math.atan2(sine, cosine)) % 360, 4),
                              dict(node.get("extras", {}))))
        return found
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise UserError("this is not a binary glTF 2.0 file (.glb) of a world") from error
