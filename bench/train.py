"""How fast does it train? Beside what people use, in one process and one run, alternating; ratios are of medians.

    make bench-train            or: python bench/train.py [--workloads pretrain sft rl memory] [--depth 8 …]
                                [--rounds 3]

pretrain: tokens per second and model FLOPs (as a share of the matrix-product rate that this machine reaches in the same run)
of one update of a fresh network, against a plain loop around `transformers`' network of the same sizes: equal documents, equal
update sizes, AdamW on float32 weights. Theirs runs the products in bf16 (`torch.autocast`), or in float32 where the processor
multiplies no bf16 (unless `--theirs bfloat16`), on rows of `context` tokens cut from the documents laid end to end, which is what
such loops do: no borders in attention, nothing padded.
sft, rl: finetune.py. memory: the most that `ownship rl` takes, all weights trained and with LoRA, in processes of their own.
Writes runs/bench/train.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from ownship import machine

machine.prepare()

import torch  # noqa: E402

from ownship.evals import roofline  # noqa: E402
from ownship.evals.bits import predicted  # noqa: E402
from ownship.learn.corpus import Corpus, Reader  # noqa: E402
from ownship.learn.learner import Learner  # noqa: E402
from ownship.learn.loss import imitation  # noqa: E402
from ownship.learn.optim import Optim  # noqa: E402
from ownship.model import bpe  # noqa: E402
from ownship.model.llama import Llama  # noqa: E402
from ownship.model.ops import widens  # noqa: E402
from ownship.recipes import pretrain  # noqa: E402

Update = Callable[[], float]  # one optimizer step; returns its loss


def flops(model: Llama, pieces: list[list[int]]) -> float:
    """Model FLOPs of one update: 6 per weight that is multiplied with and token, and 12 · width per (query, key) pair and layer.
    Pairs are those that have to be met (causal); what an implementation computes besides does not count."""
    sizes = model.config
    weights = sizes.parameters - (0 if sizes.tie_word_embeddings else sizes.vocab_size * sizes.hidden_size)
    tokens = sum(len(piece) - 1 for piece in pieces)
    pairs = sum(len(piece) * (len(piece) - 1) / 2 for piece in pieces)
    return 6.0 * weights * tokens + 12.0 * sizes.num_hidden_layers * sizes.num_attention_heads * sizes.head_dim * pairs


def ours(model: Llama, pieces: list[list[int]], kind: str, micro_tokens: int) -> Update:
    learner = Learner(model, Optim(lr=1e-3, weight_decay=0.1, warmup=1, kind=kind), micro_tokens, exact=False)  # type: ignore[arg-type]
    return lambda: learner.update([predicted(piece) for piece in pieces], imitation)["loss"]


def theirs(model: Llama, rows: torch.Tensor, micro_tokens: int, bf16: bool) -> Update:
    """The plain loop: rows [B, context] in micro-batches, `transformers`' network and loss, torch's AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = model.config
    peer = LlamaForCausalLM(LlamaConfig(
        vocab_size=sizes.vocab_size, hidden_size=sizes.hidden_size, intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_hidden_layers, num_attention_heads=sizes.num_attention_heads,
        num_key_value_heads=sizes.num_key_value_heads, max_position_embeddings=sizes.max_position_embeddings,
        tie_word_embeddings=sizes.tie_word_embeddings, attn_implementation="sdpa", use_cache=False))
    peer.train()
    adam = torch.optim.AdamW(peer.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    parts = rows.split(max(1, micro_tokens // rows.shape[1]))

    def update() -> float:
        total = 0.0
        adam.zero_grad()
        for part in parts:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = peer(input_ids=part, labels=part).loss * len(part) / len(rows)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        adam.step()
        return total

    return update


def measure_pretrain(depth: int, rounds: int, tokens: int, micro_tokens: int, peak: float, bf16: bool) -> dict[str, Any]:
    config = pretrain.Pretrain(depth=depth, batch=tokens)
    dial = pretrain.sizes(config)
    corpus = Corpus([pretrain.standard_library()], suffix=".py")
    scan = corpus.scan()
    tokenizer = bpe.train((text for text, _ in islice(corpus.documents("bench"), 400)), dial.vocab)
    reader = Reader(corpus, scan, lambda text: [0, *tokenizer.encode(text), 0], dial.context, seed=0)
    pieces = reader.take(tokens)
    stream = [token for piece in pieces for token in piece[:-1]]
    rows = torch.tensor(stream[: len(stream) // dial.context * dial.context]).view(-1, dial.context)
    model = pretrain.network(config, dial, tokenizer)
    updates: dict[str, tuple[Update, int]] = {
        "transformers, AdamW": (theirs(model, rows, micro_tokens, bf16), rows.numel())}
    for kind in ("adamw", "muon"):
        own = pretrain.network(config, dial, tokenizer).bfloat16()
        updates[f"ownship, {kind}"] = (ours(own, pieces, kind, micro_tokens), tokens)
    for update, _ in updates.values():
        update()  # to warm up
    rates: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(rounds):
        for name, (update, count) in updates.items():
            start = time.perf_counter()
            update()
            rates[name].append(count / (time.perf_counter() - start))
    needed = flops(model, pieces) / tokens
    result: dict[str, Any] = {
        "depth": depth, "parameters": dial.parameters, "context": dial.context, "tokens": tokens, "micro_tokens": micro_tokens,
        "documents": len(pieces), "model_mflops_per_token": round(needed / 1e6, 1)}
    plain = statistics.median(rates["transformers, AdamW"])
    for name, found in rates.items():
        rate = statistics.median(found)
        result[name] = {"tokens_per_second": round(rate, 1), "all": [round(one, 1) for one in found],
                        "ratio": round(rate / plain, 2), "share_of_peak": round(rate * needed / peak / 1e9, 3)}
    return result


# the command, its rewards drawn at random: of what the untrained model says all is wrong, and a flat group is not learnt from
_BY_CHANCE = """
import random, sys
from ownship.cli import main
from ownship.envs.rubric import Rubric, Score
Rubric.score = lambda self, *_: Score(random.random(), {})
status = main(sys.argv[2:])
with open("/proc/self/status") as lines, open(sys.argv[1], "w") as out:
    out.write(next(line for line in lines if line.startswith("VmHWM")).split()[1])
sys.exit(status)
"""


def measure_memory(steps: int = 3) -> dict[str, float]:
    """GiB at the highest point of a run of 128 completions a step, of at most 48 tokens.

    The process says it itself: what its parent is told (ru_maxrss) is never less than the parent's own highest point.
    """
    found = {}
    for name, more in (("rl", []), ("rl, LoRA of rank 16", ["--lora-rank", "16"])):
        with tempfile.TemporaryDirectory() as folder:
            peak = Path(folder) / "peak"
            command = [sys.executable, "-c", _BY_CHANCE, str(peak), "rl", "--env", "sums:low=4,high=7", "--steps", str(steps),
                       "--max-tokens", "48", "--out", f"{folder}/run", *more]
            if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
                sys.exit(f"{' '.join(command)} failed")
            found[name] = round(int(peak.read_text()) / (1 << 20), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workloads", nargs="+", choices=(known := ["pretrain", "sft", "rl", "memory"]), default=known)
    parser.add_argument("--depth", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--micro-tokens", type=int, default=4096)
    parser.add_argument("--theirs", choices=["bfloat16", "float32"], default="float32" if widens() else "bfloat16",
                        help="what the others multiply in; by default what is faster for them on this processor")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/train.json"))
    options = parser.parse_args()
    rates = roofline.measure()
    print(json.dumps(rates), flush=True)
    found: dict[str, Any] = {"roofline": rates, "threads": torch.get_num_threads()}
    bf16 = options.theirs == "bfloat16"
    for name in options.workloads:
        if name == "pretrain":
            peak = max(rates["bfloat16_gflops"], rates["float32_gflops"])
            found[name] = [measure_pretrain(depth, options.rounds, options.tokens, options.micro_tokens, peak, bf16)
                           for depth in options.depth]
        elif name == "memory":
            found[name] = measure_memory()
        else:
            import finetune  # takes seconds

            found[name] = {"sft": finetune.measure_sft, "rl": finetune.measure_rl}[name](options.rounds, bf16)
        print(json.dumps({name: found[name]}, indent=2), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
