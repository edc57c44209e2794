"""llama.cpp as the `xllamacpp` wheel has it: its server inside the process, with as many slots as there are streams.

The file's own quantization (Q4_1), keys and values in float16, flash attention as llama.cpp chooses, prompts cached. A run
that needs other slots than the last one loads the model anew before the clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import protocol
import xllamacpp
from protocol import Result, Work

_SLOTS = 64  # streams at once; the others wait for a slot


def load(settings: dict[str, Any]) -> Callable[[Work], Result]:
    def start(slots: int, length: int) -> xllamacpp.Server:
        params = xllamacpp.CommonParams()
        params.model.path = settings["model"]
        params.n_parallel = slots
        params.n_ctx = slots * length
        params.fit_params = False
        params.cache_ram_mib = 0  # what a slot held before is not kept: no prompt comes again
        params.kv_unified = False  # a stream attends to its own slot only
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
        params.sampling.seed = 0
        params.verbosity = 0
        return xllamacpp.Server(params)

    servers: dict[tuple[int, int], xllamacpp.Server] = {}

    def run(work: Work) -> Result:
        slots = min(_SLOTS, len(work.prompts) * work.n)
        length = -(-(max(map(len, work.prompts)) + work.tokens + 8) // 256) * 256
        if (slots, length) not in servers:
            servers.clear()
            servers[slots, length] = start(slots, length)
        server = servers[slots, length]
        body: dict[str, Any] = {"prompt": work.prompts, "n": work.n, "max_tokens": work.tokens, "cache_prompt": True,
                                "temperature": work.temperature, "samplers": ["temperature"], "seed": work.seed}
        if work.schema is None:
            body["ignore_eos"] = True
        else:
            body["json_schema"] = {**work.schema, "x-guidance": {"whitespace_flexible": False}}

        begin = time.perf_counter()
        answer = server.handle_completions(body)
        seconds = time.perf_counter() - begin
        choices = answer.get("choices", [])
        if len(choices) != len(work.prompts) * work.n:
            raise RuntimeError(f"the server answers {str(answer)[:300]}")
        tokens = answer["usage"]["completion_tokens"]  # of the first stream: the others are not counted
        if work.schema is None and not (tokens == work.tokens and all(choice["finish_reason"] == "length" for choice in choices)):
            raise RuntimeError("a stream ended early")
        return Result(seconds, sum(map(len, work.prompts)), tokens * len(choices), [], choices[0]["text"])

    return run


protocol.main("xllamacpp", load)
