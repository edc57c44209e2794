"""What does each precision cost, and what does it give? Quality beside speed, on the same weights.

    make bench-precision        or: python bench/precision.py [--model runs/demo/model --env sums:low=4,high=7]

Quality: mean KL(float32 ‖ precision) per token and the share of equal most likely tokens over 10,000 tokens of real text (prose
from the docstrings of Python's standard library, the same on every machine with this Python), and the accuracy on held-out
tasks if a model that can solve some is given. Speed: tokens per second of 1 and of 64 streams, alternating, medians of 3. Memory:
packed weights. Writes runs/bench/precision.json.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sysconfig
import time
from pathlib import Path
from typing import Any

from ownship import machine

machine.prepare()

import torch  # noqa: E402

from ownship.engine.engine import Engine  # noqa: E402
from ownship.engine.forward import SLOTS, Chunk, Forward  # noqa: E402
from ownship.engine.native.forward import FORMATS, NativeForward  # noqa: E402
from ownship.engine.request import Request, Sampling  # noqa: E402
from ownship.envs.registry import make  # noqa: E402
from ownship.evals.accuracy import accuracy  # noqa: E402
from ownship.model import checkpoint, zoo  # noqa: E402
from ownship.model.chat import Chat  # noqa: E402

_WINDOW = 500  # tokens of text that are read together


def prose(characters: int) -> str:
    """Docstrings of the standard library's modules, in the order of their names."""
    parts: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_bytes()))
        if text and len(text) > 400:
            parts.append(text)
    return "\n\n".join(parts)[:characters]


def logits(forward: Forward, tokens: list[int]) -> torch.Tensor:
    table = list(range(-(-len(tokens) // SLOTS)))
    return forward([Chunk(tokens, 0, table, len(tokens))])


def quality(forwards: dict[str, Forward], text: list[int]) -> dict[str, dict[str, float]]:
    sums = {name: [0.0, 0.0] for name in forwards}
    for start in range(0, len(text), _WINDOW):
        window = text[start : start + _WINDOW]
        exact = logits(forwards["float32"], window).double().log_softmax(-1)
        for name, forward in forwards.items():
            found = logits(forward, window).double().log_softmax(-1)
            sums[name][0] += float((exact.exp() * (exact - found)).sum())
            sums[name][1] += float((exact.argmax(-1) == found.argmax(-1)).sum())
    return {name: {"kl_nats": total / len(text), "same_best": same / len(text)} for name, (total, same) in sums.items()}


def speed(engines: dict[str, Engine], prompts: list[list[int]], tokens: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for round in range(4):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.generate([Request(prompt, Sampling(temperature=0, max_tokens=tokens, ignore_eos=True)) for prompt in prompts])
            if round:  # the first warms up
                rates[name].append(len(prompts) * tokens / (time.perf_counter() - start))
    return {name: round_(statistics.median(found)) for name, found in rates.items()}


def round_(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--env", default="sums:low=4,high=7")
    parser.add_argument("--tasks", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/precision.json"))
    options = parser.parse_args()

    model, tokenizer = checkpoint.load(zoo.resolve(zoo.DEFAULT))
    text = tokenizer.encode(prose(8 * options.tokens))[: options.tokens]
    forwards: dict[str, Forward] = {name: NativeForward(model, 64 << 20, name) for name in FORMATS}
    result: dict[str, dict[str, Any]] = {name: dict(found) for name, found in quality(forwards, text).items()}
    for name, forward in forwards.items():
        assert isinstance(forward, NativeForward)
        result[name]["weights_mb"] = sum(data.numel() + 4 * scales.numel() for data, scales in forward._packed) >> 20
    forwards.clear()
    chat = Chat(tokenizer)
    engines = {name: Engine(model, tokenizer, precision=name, guess=False) for name in FORMATS}
    for streams in (1, 64):
        prompts = [chat.prompt([{"role": "user", "content": f"{index}: tell a story about the sea."}]) for index in range(streams)]
        for name, rate in speed(engines, prompts, 64).items():
            result[name][f"tokens_per_second_{streams}"] = rate
    if options.model is not None:
        solver, pieces = checkpoint.load(zoo.resolve(options.model))
        env = make(options.env)
        for name in FORMATS:
            found = accuracy(Engine(solver, pieces, precision=name), env, options.tasks, 72).summary()
            result[name][options.env] = {"accuracy": found["accuracy"], "ci95": found["ci95"]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"text_tokens": len(text), **result}, indent=2) + "\n")
    for name, row in result.items():
        print(f"{name:9}", "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                                     for key, value in row.items()))


if __name__ == "__main__":
    main()
