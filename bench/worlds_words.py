"""How long it takes from words to a glTF file when the embedded model decides: sentences with about 30 things each.

    python bench/worlds_words.py runs/worlds/model [--precision int8] [--sentences 20] [--out words.json]

The sentences are the environment's own with many motifs (`worlds:low=6,high=12,edits=0`), those with 27 to 33 things; they are two
to four times as long as what the recipe trains on. Wall-clock seconds: run it on a quiet machine. Whether the words were met is
measured beside it, as in `ownship.surfaces.worlds.trial`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import islice
from pathlib import Path

from ownship.engine.engine import serving
from ownship.envs.env import Task, tasks
from ownship.model import zoo
from ownship.surfaces.worlds import gltf, lines
from ownship.surfaces.worlds.env import Worlds, scored
from ownship.surfaces.worlds.model import decide
from ownship.surfaces.worlds.pipeline import apply
from ownship.surfaces.worlds.prompt import heard
from ownship.surfaces.worlds.types import Scene


def _large(task: Task) -> bool:
    return 27 <= sum(group.count for group in task.info["spec"].groups) <= 33


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--precision", default="int8", choices=("float32", "bfloat16", "int8"))
    parser.add_argument("--sentences", type=int, default=20)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()

    engine = serving(zoo.resolve(asked.model), asked.precision)
    chosen = list(islice(filter(_large, tasks(Worlds(low=6, high=12, edits=0), "held_out", start=1 << 32)), asked.sentences))
    decide(engine, "a room", Scene())  # the first one waits for what is made only once
    rows = []
    for task in chosen:
        start = time.perf_counter()
        said = decide(engine, heard(task.info["words"], Scene()), Scene())
        decided = time.perf_counter()
        result = apply(Scene(), lines.read(said, Scene()))
        solved = time.perf_counter()
        file = gltf.glb(result.scene)
        end = time.perf_counter()
        found = scored(task.info["spec"], said).measured
        rows.append({"decide": decided - start, "solve": solved - decided, "file": end - solved, "whole": end - start,
                     "things": len(result.scene.objects), "lines": said.count("\n") + 1, "bytes": len(file),
                     "built": result.conflict is None, "satisfaction": 0.0 if found is None else found.satisfaction})
    medians = {name: round(statistics.median(row[name] for row in rows), 3)
               for name in ("decide", "solve", "file", "whole", "lines")}
    summary = {"sentences": len(rows), "precision": asked.precision, "median": medians,
               "worst": round(max(row["whole"] for row in rows), 3), "built": sum(row["built"] for row in rows),
               "median_things_of_built": statistics.median([row["things"] for row in rows if row["built"]] or [0]),
               "satisfaction": round(statistics.mean(row["satisfaction"] for row in rows), 4)}
    print(json.dumps(summary, indent=2))
    if asked.out:
        asked.out.write_text(json.dumps({**summary, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
