"""What do the kinds of worlds look like, and how long do meshes, files and pictures take?

    python bench/worlds_kinds.py --sheet docs/results/worlds-kinds.png

draws every kind of the catalogue on one sheet and measures the hand-furnished living room of the tests (30 objects): CPU time of
this process, the median of several runs.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ownship.surfaces.worlds import camera, gltf, mesh, picture, shell
from ownship.surfaces.worlds.catalogue import KINDS
from ownship.surfaces.worlds.shapes import Paint, box
from ownship.surfaces.worlds.types import Object, Scene

sys.path[0] = str(Path(__file__).parents[1] / "tests")  # bench/worlds.py would hide the folder worlds


def portrait(name: str, pixels: int) -> np.ndarray:
    """One kind, as it is by default, on a light ground."""
    kind = KINDS[name]
    w, h, d = kind.size
    look = {"colour": kind.colour, "material": kind.material}
    thing = Object(id=f"{name}1", kind=name, x=0, y=0, z=0, turn=0, w=w, h=h, d=d, on="plot1", **look)
    scene = Scene(objects=(thing,))
    r = math.sqrt(w * w + h * h + d * d) / 2
    turn, pitch = math.radians(25), math.radians(22)
    away = np.array([math.sin(turn) * math.cos(pitch), math.sin(pitch), math.cos(turn) * math.cos(pitch)])
    middle = np.array([0, h / 2, 0])
    eye = camera.Camera(tuple(middle + away * r * 3.5), tuple(middle), fov=34)
    ground = shell.parts_of([box(-r * 90, -1, -r * 90, r * 90, -0.1, r * 90, Paint((236, 233, 227), "stone"))])
    things = [shell.Placed("ground", "ground", "ground", ground), *shell.placed(scene)]
    return picture.render(scene, eye, pixels, pixels, things=things).rgb


def sheet(path: Path, pixels: int = 104, columns: int = 10) -> int:
    """All kinds with their names; how many bytes the file has."""
    rows = -(-len(KINDS) // columns)
    image = Image.new("RGB", (columns * pixels, rows * (pixels + 14)), (250, 249, 246))
    draw = ImageDraw.Draw(image)
    for i, (name, kind) in enumerate(KINDS.items()):
        x, y = i % columns * pixels, i // columns * (pixels + 14)
        image.paste(Image.fromarray(portrait(name, pixels)), (x, y))
        draw.text((x + pixels / 2, y + pixels + 6), kind.en[0].one, fill=(70, 70, 74), anchor="mm")
    file = io.BytesIO()
    image.quantize(200, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    path.write_bytes(file.getvalue())
    return len(file.getvalue())


def median(work: Callable[[], object], runs: int = 7) -> float:
    """CPU seconds."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, help="where to draw all kinds")
    arguments = parser.parse_args()
    if arguments.sheet:
        print(f"{arguments.sheet}: {len(KINDS)} kinds, {sheet(arguments.sheet) / 1000:.0f} kB")

    from worlds.scenes import living_room

    scene = living_room()
    things = shell.placed(scene)
    triangles = sum(len(part.faces) for thing in things for part in thing.parts)
    print(f"living room: {len(scene.objects)} objects, {triangles} triangles")

    def cold() -> None:
        mesh.mesh_of.cache_clear()
        mesh._pieces.cache_clear()
        shell.placed(scene)

    data = gltf.glb(scene)
    print(f"meshes, nothing known       {median(cold) * 1000:7.1f} ms")
    print(f"meshes, known               {median(lambda: shell.placed(scene)) * 1000:7.1f} ms")
    print(f"glb, {len(data) / 1000:.0f} kB                {median(lambda: gltf.glb(scene)) * 1000:7.1f} ms")
    for name, view in (("overview", camera.overview(scene)), ("walker", camera.walker(scene)), ("plan", camera.above(scene))):
        found = picture.render(scene, view)
        print(f"picture {name:8s} 640x480    {median(lambda view=view: picture.render(scene, view)) * 1000:7.1f} ms, "
              f"png {median(found.png) * 1000:.1f} ms, {len(found.png()) / 1000:.0f} kB")
    view = camera.overview(scene)
    print(f"ids alone, 640x480, 1 point {median(lambda: picture.render(scene, view, samples=1)) * 1000:7.1f} ms")
    copies = [o.model_copy(update={"id": f"{o.kind}{k * 40 + i + 1}", "x": o.x + 600 * (k % 4), "z": o.z + 500 * (k // 4)})
              for k in range(17) for i, o in enumerate(scene.objects)]
    big = Scene(objects=tuple(copies[:500]))
    print(f"500 objects: glb {median(lambda: gltf.glb(big)) * 1000:.0f} ms, {len(gltf.glb(big)) / 1000:.0f} kB; "
          f"picture {median(lambda: picture.render(big), 3) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
