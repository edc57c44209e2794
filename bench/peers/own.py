"""Ownship's own engine, at one precision (`precision` in the settings)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import protocol
from protocol import Result, Work

from ownship import machine

machine.prepare()

import torch  # noqa: E402

from ownship.engine.engine import serving  # noqa: E402
from ownship.engine.grammar import Grammar  # noqa: E402
from ownship.engine.request import Request, Sampling  # noqa: E402


def load(settings: dict[str, Any]) -> Callable[[Work], Result]:
    torch.set_num_threads(settings["threads"])
    precision = settings["precision"]
    engine = serving(Path(settings["model"]), precision, guess=False)  # no prompt lookup: the peers' is off as well
    engine.reserve()  # as `ownship serve` does

    def run(work: Work) -> Result:
        start = time.perf_counter()
        grammar = None if work.schema is None else Grammar.json_schema(work.schema)
        requests = [Request(prompt, Sampling(max_tokens=work.tokens, temperature=work.temperature, ignore_eos=grammar is None,
                                             seed=work.seed + index * work.n + copy), grammar)
                    for index, prompt in enumerate(work.prompts) for copy in range(work.n)]
        done = engine.generate(requests)
        seconds = time.perf_counter() - start
        return Result(seconds, sum(map(len, work.prompts)), sum(len(one.tokens) for one in done), done[0].tokens, done[0].text)

    return run


protocol.main("ownship", load)
