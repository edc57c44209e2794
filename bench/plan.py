"""Does `ownship plan --cluster here` tell what runs on this machine take? Plans first, then runs, and compares.

    make bench-plan        or: python bench/plan.py [--runs pretrain sft rl]

Three short runs, 2 minutes together on two cores: pretraining of 14M parameters, SFT and RL of the default model. Writes
runs/bench/plan.json: for each the memory (the process's largest resident size) and the seconds of a step (median without the
first), planned and measured, and their ratios. How many tokens a step has is known only afterwards; the plan is asked for as many.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ownship.recipes.plan import Plan, plan

MODEL, SUMS = "smollm2-135m-instruct", "sums:low=2,high=4,largest=30"
# verb → what is planned (model, method, length of a sequence, tokens per pass), and the flags of the run
RUNS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "pretrain": ({"model": "{0}/first/model", "sequence": 768, "micro_tokens": 4096},
                 ["--depth", "6", "--tokenizer", "{0}/first/tokenizer", "--batch", "8192", "--steps", "5"]),
    "sft": ({"model": MODEL, "sequence": 64, "micro_tokens": 1024}, ["--env", SUMS, "--batch", "32", "--steps", "8"]),
    "rl": ({"model": MODEL, "sequence": 64, "micro_tokens": 1024, "method": "rl"},
           ["--model", "{0}/sft/model", "--env", SUMS, "--tasks", "16", "--group", "8", "--max-tokens", "48", "--refill", "0",
            "--steps", "5"]),
}


# What the system says of an ended process begins with what its parent had; so it says itself what it had.
SCRIPT = """
import re, sys
from pathlib import Path
from ownship import cli
code = cli.main(sys.argv[2:])
Path(sys.argv[1]).write_text(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


def run(verb: str, out: Path, flags: list[str]) -> int:
    """Runs a recipe; gives its largest resident size in bytes."""
    peak = out.with_suffix(".kb")
    peak.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", SCRIPT, peak, verb, "--out", out, *flags], stdout=subprocess.DEVNULL, check=True)
    return int(peak.read_text()) << 10


def compare(verb: str, folder: Path) -> dict[str, Any]:
    asked, flags = RUNS[verb]
    if verb == "pretrain":  # a tokenizer, and a network to be planned for
        run(verb, folder / "first", ["--depth", "6", "--batch", "768", "--steps", "1"])
    if verb == "rl" and not (folder / "sft").exists():  # the model as it came solves nothing: there would be nothing to learn
        run("sft", folder / "sft", RUNS["sft"][1])
    asked = asked | {"model": asked["model"].format(folder)}
    plan(Plan(**asked, cluster="here", tokens="1M"))  # measures the machine while nothing else runs, and remembers
    peak = run(verb, folder / verb, [flag.format(folder) for flag in flags])
    lines, metrics = ([json.loads(line) for line in (folder / verb / name).read_text().splitlines()][1:]
                      for name in ("timings.jsonl", "metrics.jsonl"))
    measured = statistics.median(line.get("sample", 0.0) + line["learn"] for line in lines)
    tokens = statistics.median(line["tokens"] for line in lines)
    planned = plan(Plan(**asked, cluster="here", tokens=str(int(tokens)), batch=str(int(tokens))))
    seconds, memory = planned["hours"] * 3600, planned["layout"]["bytes_per_device"]
    learnt = statistics.median(line["trained_tokens"] for line in metrics)  # in RL flat groups are left out
    return {
        "tokens_per_step": tokens, "trained_tokens": learnt, "seconds_planned": round(seconds, 2),
        "seconds_measured": round(measured, 2), "seconds_ratio": round(measured / seconds, 2), "gb_planned": round(memory / 1e9, 2),
        "gb_measured": round(peak / 1e9, 2), "gb_ratio": round(peak / memory, 2), "efficiency": round(planned["efficiency"], 3),
        "sampling_share_planned": round(planned["sampling_hours"] / planned["hours"], 2),
        "sampling_share_measured": round(statistics.median(line.get("sample", 0.0) for line in lines) / measured, 2),
        "bf16_gflops": round(planned["cluster"]["flops"] / 1e9)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench/plan.json"))
    options = parser.parse_args()
    folder = options.out.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    found = {}
    for verb in options.runs:
        found[verb] = compare(verb, folder)
        print(json.dumps({verb: found[verb]}), flush=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
