"""How fast does the engine draw tokens, beside `transformers` generate, on the same weights in one run?

    make bench-decode        or: python bench/decode.py [--streams 1 8 64] [--tokens 64] [--rounds 3]

Greedy, up to `--tokens` new tokens a stream after the same chat prompt; the tokens that were drawn are counted. Engines
alternate; the figure is the median of the rounds.
Writes runs/bench/decode.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from ownship import machine

machine.prepare()

import torch  # noqa: E402

from ownship.engine.engine import Engine  # noqa: E402
from ownship.engine.request import Request, Sampling  # noqa: E402
from ownship.model import checkpoint, zoo  # noqa: E402
from ownship.model.chat import Chat  # noqa: E402

QUESTION = "Write a long story about a ship that finds its own way home across a wide and stormy sea."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/decode.json"))
    options = parser.parse_args()

    path = zoo.resolve(zoo.DEFAULT)
    model, tokenizer = checkpoint.load(path)
    prompt = Chat(tokenizer).prompt([{"role": "user", "content": QUESTION}])
    engine = Engine(model, tokenizer)

    from transformers import AutoModelForCausalLM, GgufConfig

    peer = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16)

    def ours(streams: int) -> int:
        sampling = Sampling(temperature=0, max_tokens=options.tokens)
        return sum(len(done.tokens) for done in engine.generate([Request(prompt, sampling)] * streams))

    def theirs(streams: int) -> int:
        ids = torch.tensor([prompt] * streams)
        made = peer.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=options.tokens,
                             pad_token_id=2)
        return streams * (made.shape[1] - ids.shape[1])

    engines: dict[str, Callable[[int], int]] = {"ownship": ours, "transformers": theirs}
    workloads: dict[str, dict[str, float]] = {}
    for streams in options.streams:
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for run in engines.values():
            run(streams)  # warm up
        for _ in range(options.rounds):
            for name, run in engines.items():
                start = time.perf_counter()
                tokens = run(streams)
                rates[name].append(tokens / (time.perf_counter() - start))
        workloads[f"{streams} streams"] = {name: round(statistics.median(found), 1) for name, found in rates.items()}
        row = "  ".join(f"{name} {rate:8.1f} tok/s" for name, rate in workloads[f"{streams} streams"].items())
        print(f"{streams:4} streams  {row}", flush=True)
    ratios = {name: round(found["ownship"] / found["transformers"], 2) for name, found in workloads.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": {"cores": os.cpu_count(), "torch": torch.__version__}, "workloads": workloads, "ratios": ratios}
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"ratios to transformers: {ratios}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
