"""What a frame of the studio's 3-D view costs the browser: draw calls, triangles, and milliseconds of JavaScript, by the number of
things in the world.

    python bench/studio_view.py [--things 200]

A headless Chromium without a graphics card: what the card does is not in these figures, what the page does is. At 60 pictures a
second a frame has 16.7 ms.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from ownship.surfaces.worlds import build
from ownship.surfaces.worlds.catalogue import KINDS
from ownship.surfaces.worlds.types import Object, Plot, Scene

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
MEASURE = """async (id) => {
  const view = getElement(id), times = [];
  view.camera.position.set(14, 10, 18);
  for (let frame = 0; frame < 60; frame++) {
    view.camera.position.applyAxisAngle(view.camera.up, 0.02);
    view.camera.lookAt(0, 0, 0);
    const begun = performance.now();
    view.paint();
    times.push(performance.now() - begun);
    await new Promise((next) => setTimeout(next, 0));
  }
  times.sort((a, b) => a - b);
  const { calls, triangles } = view.renderer.info.render;
  return { calls, triangles, batches: view.meshes.batches.size, median_ms: times[30], p95_ms: times[57] };
}"""


def world(count: int) -> Scene:
    """A field of things of all kinds that stand on the ground, 2.5 m apart."""
    kinds = [kind for kind in KINDS.values() if "floor" in kind.goes and max(kind.size[0], kind.size[2]) <= 210]
    side = max(2, round(count**0.5 + 0.5))
    objects = []
    for index in range(count):
        kind = kinds[index % len(kinds)]
        (w, h, d), number = kind.size, index // len(kinds) + 1
        x, z = (index % side - side // 2) * 250, (index // side - side // 2) * 250
        objects.append(Object(id=f"{kind.name}{number}", kind=kind.name, x=x, y=0, z=z, turn=index * 30 % 360, w=w, h=h, d=d,
                              colour=kind.colour, material=kind.material, on="plot1"))
    return Scene(plots=(Plot(id="plot1", x=0, z=0, w=side * 250 + 600, d=side * 250 + 600),), objects=tuple(objects))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--things", type=int, nargs="+", default=[20, 200, 500])
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("there is no Chromium on this machine")
    command = [sys.executable, "-m", "ownship", "studio", "--port", "0", "--model", "scripted"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().split()[4]
    try:
        with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            for count in parser.parse_args().things:
                scene = world(count)
                file = Path(folder) / "world.json"
                file.write_bytes(build.written(scene))
                page = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce").new_page()
                page.goto(f"{url}/worlds")
                page.wait_for_selector(".world-view[data-version]", timeout=60_000)
                page.set_input_files("#file", file)
                page.wait_for_selector(f'.world-view[data-objects="{count}"]', timeout=60_000)
                said = page.evaluate(MEASURE, int(page.get_attribute(".world-view", "id")[1:]))
                print(json.dumps({"things": count, **{name: round(value, 2) for name, value in said.items()}}), flush=True)
                page.context.close()
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
