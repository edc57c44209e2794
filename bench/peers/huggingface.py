"""`transformers`: generate, the GGUF file's weights dequantized."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import protocol
import torch
from protocol import Result, Work
from transformers import AutoModelForCausalLM, GgufConfig

_ROWS = 64  # at once: the cache is copied at each token, so that more rows only cost memory


def load(settings: dict[str, Any]) -> Callable[[Work], Result]:
    torch.set_num_threads(settings["threads"])
    path = Path(settings["model"])
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, settings["dtype"]))
    model.generation_config.eos_token_id = None  # nothing ends a stream but its length
    pad = 0

    def run(work: Work) -> Result:
        drawing = {"do_sample": True, "temperature": work.temperature, "top_k": 0, "top_p": 1.0} if work.temperature else {
            "do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        torch.manual_seed(work.seed)
        count = 0
        first: list[int] = []
        start = time.perf_counter()
        group = max(1, _ROWS // work.n)
        for begin in range(0, len(work.prompts), group):
            prompts = work.prompts[begin : begin + group]
            width = max(map(len, prompts))
            ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
            with torch.inference_mode():
                made = model.generate(ids, attention_mask=mask, max_new_tokens=work.tokens, num_return_sequences=work.n,
                                      pad_token_id=pad, **drawing)
            count += made[:, width:].numel()
            first = first or made[0, width:].tolist()
        return Result(time.perf_counter() - start, sum(map(len, work.prompts)), count, first)

    return run


protocol.main("transformers", load)
