"""Ownship's own engine, at one precision (`precision` in the settings)."""

from __future__ import annotations

import importlib
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import protocol
from protocol import Result, Work

from ownship import machine

machine.prepare()

import torch  # noqa: E402

from ownship.engine.engine import Engine  # noqa: E402
from ownship.engine.request import Request, Sampling  # noqa: E402
from ownship.model import checkpoint  # noqa: E402


def load(settings: dict[str, Any]) -> Callable[[Work], Result]:
    torch.set_num_threads(settings["threads"])
    precision = settings["precision"]
    engine_takes, sampling_takes = inspect.signature(Engine).parameters, inspect.signature(Sampling).parameters
    if precision == "int8" and "precision" not in engine_takes:
        raise SystemExit("this engine knows no int8")
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    more: dict[str, Any] = {"precision": precision} if "precision" in engine_takes else {}
    engine = Engine(*checkpoint.load(Path(settings["model"]), dtype), **more)

    stop_ids = engine.stop_ids

    def run(work: Work) -> Result:
        engine.stop_ids = stop_ids
        options: dict[str, Any] = {"max_tokens": work.tokens, "temperature": work.temperature}
        start = time.perf_counter()
        if work.schema is not None:
            if "grammar" not in sampling_takes:
                raise NotImplementedError("Sampling has no grammar")
            options["grammar"] = _grammar(work.schema)
        elif "ignore_eos" in sampling_takes:
            options["ignore_eos"] = True
        else:
            engine.stop_ids = frozenset()
        requests = [Request(prompt, Sampling(**options, seed=work.seed + index * work.n + copy))
                    for index, prompt in enumerate(work.prompts) for copy in range(work.n)]
        done = engine.generate(requests)
        seconds = time.perf_counter() - start
        return Result(seconds, sum(map(len, work.prompts)), sum(len(one.tokens) for one in done), done[0].tokens, done[0].text)

    return run


def _grammar(schema: dict[str, Any]) -> Any:
    """What Sampling takes as its grammar: `ownship.engine.grammar.json_schema(schema)` if there is that, or the schema's text."""
    try:
        module = importlib.import_module("ownship.engine.grammar")
    except ImportError:
        return json.dumps(schema)
    return module.json_schema(schema)


protocol.main("ownship", load)
