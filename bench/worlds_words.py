"""How long it takes from words to a glTF file when the embedded model decides: sentences with about 30 things each.

    python bench/worlds_words.py runs/worlds/model [--precision int8] [--sentences 20] [--in-groups] [--out words.json]

The sentences are the environment's own with many motifs (`worlds:low=6,high=12,edits=0`), those with 27 to 33 things; they are two
to four times as long as what the recipe trains on. With --in-groups they name exactly 30 things in eight
groups of three or four. Wall-clock seconds: run it on a quiet machine. Whether the words were met is measured beside it, as in
`ownship.surfaces.worlds.trial`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from ownship.engine.engine import serving
from ownship.engine.request import Precision
from ownship.envs.env import Task, tasks
from ownship.model import zoo
from ownship.surfaces.worlds import gltf, lines
from ownship.surfaces.worlds.env import Worlds, scored
from ownship.surfaces.worlds.model import decide
from ownship.surfaces.worlds.pipeline import apply
from ownship.surfaces.worlds.prompt import heard
from ownship.surfaces.worlds.spec import Group, Spec
from ownship.surfaces.worlds.templates import say
from ownship.surfaces.worlds.types import Scene

_KINDS = {"plot": ("tree", "bush", "rock", "bench", "street_lamp", "flower_bed", "fir", "statue"),
          "room": ("chair", "plant", "stool", "box", "basket", "armchair", "floor_lamp", "bookcase")}


def _large(task: Task) -> bool:
    return 27 <= sum(group.count for group in task.info["spec"].groups) <= 33


def grouped(seed: int) -> tuple[str, Spec]:
    """Words that ask for 30 things in eight groups, and the specification behind them."""
    draw = random.Random(f"thirty {seed}")
    place: Literal["room", "plot"] = "plot" if seed % 4 == 0 else "room"
    counts = [3, 3, 4, 4, 4, 4, 4, 4]
    draw.shuffle(counts)
    groups = map(Group, draw.sample(_KINDS[place], 8), counts)
    spec = Spec(place, "huge", tuple(groups), ())
    return say(spec, seed)[0], spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--precision", default="int8", choices=get_args(Precision))
    parser.add_argument("--sentences", type=int, default=20)
    parser.add_argument("--in-groups", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()

    engine = serving(zoo.resolve(asked.model), asked.precision)
    large = filter(_large, tasks(Worlds(low=6, high=12, edits=0), "held_out", start=1 << 32))
    chosen = [grouped(seed) for seed in range(asked.sentences)] if asked.in_groups else [
        (task.info["words"], task.info["spec"]) for task in islice(large, asked.sentences)]
    decide(engine, "a room", Scene())  # the first one waits for what is made only once
    rows = []
    for words, spec in chosen:
        start = time.perf_counter()
        said = decide(engine, heard(words, Scene()), Scene())
        decided = time.perf_counter()
        result = apply(Scene(), lines.read(said, Scene()))
        solved = time.perf_counter()
        file = gltf.glb(result.scene)
        end = time.perf_counter()
        found = scored(spec, said).measured
        rows.append({"decide": decided - start, "solve": solved - decided, "file": end - solved, "whole": end - start,
                     "things": len(result.scene.objects), "lines": said.count("\n") + 1, "bytes": len(file),
                     "built": result.conflict is None, "satisfaction": 0.0 if found is None else found.satisfaction})
    sizes = [sum(group.count for group in spec.groups) for _, spec in chosen]
    medians = {name: round(statistics.median(row[name] for row in rows), 3)
               for name in ("decide", "solve", "file", "whole", "lines")}
    summary = {"sentences": len(rows), "precision": asked.precision, "median": medians,
               "worst": round(max(row["whole"] for row in rows), 3), "built": sum(row["built"] for row in rows),
               "median_things_of_built": statistics.median([row["things"] for row in rows if row["built"]] or [0]),
               "all_things": sum(row["things"] == asked_for for row, asked_for in zip(rows, sizes, strict=True)),
               "satisfaction": round(statistics.mean(row["satisfaction"] for row in rows), 4)}
    print(json.dumps(summary, indent=2))
    if asked.out:
        asked.out.write_text(json.dumps({**summary, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
