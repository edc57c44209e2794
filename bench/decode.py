"""How fast does the engine draw tokens, beside its peers, on the same weights in one run?

    make bench-peers         sets the peers up under .bench/ (or $OWNSHIP_BENCH_DIR); takes minutes
    make bench-decode        or: python bench/decode.py [--peers ownship vllm …] [--workloads "8 streams" …] [--rounds 3]

The whole takes about an hour on two cores, most of it the groups in llama.cpp and transformers; `--peers ownship vllm` minutes.

Each engine is a child process in its own environment; in every round each of them does the workload once, on prompts that
are new in each round and the same token ids for all. The figures are medians of the rounds: new tokens per second, prompt
tokens per second for `prefill`; for `schema` the tokens of the text that came out, as our tokenizer counts them. `start` is
the time from the start of a process to its first token. Writes runs/bench/decode.json:

    {"machine", "versions", "workloads": {name: {engine: tokens per second}}, "seconds": {"start": {engine: seconds}},
     "ratios": {name: {our engine: {peer: ours / theirs}}}, "goals": […], "roofline": {"rates", "fractions"},
     "rounds": {name: {engine: [tokens per second of each round]}}, "texts": {name: {engine: how the first stream begins}},
     "idle": {engine: share of a core that it burned while another was measured}, "failed": {name: {engine: why}}}
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from ownship import machine

machine.prepare()

import engines as engines_  # noqa: E402
import torch  # noqa: E402
import workloads as workloads_  # noqa: E402
from engines import BENCH, PRECISIONS, Broken, Child, Spec  # noqa: E402
from workloads import Workload  # noqa: E402

from ownship.evals import roofline  # noqa: E402
from ownship.model import checkpoint, gguf, zoo  # noqa: E402
from ownship.model.chat import Chat  # noqa: E402
from ownship.model.llama import LlamaConfig  # noqa: E402
from ownship.model.tokenizer import Tokenizer, from_gguf  # noqa: E402

START = "start"
_IDLE = 0.02  # share of a core that a sleeping engine may burn
_SETTLE = 5.0  # seconds after loading, for what an engine still does in the background
# workload, whom we are compared with (how its engines' names begin; of several the fastest), ours / theirs
GOALS = [("1 stream", "llamacpp", 1.25), ("1 stream", "transformers", 5.0), ("8 streams", "vllm", 3.0),
         ("64 streams", "vllm", 2.0), ("64 streams", "llamacpp", 8.0), ("groups", "vllm", 4.0)]
SCHEMA_GOAL, START_GOAL = 2.0, 3.0  # × our own rate without the schema; seconds


class Bench:
    """One run of the benchmark and what it has found so far."""

    def __init__(self, specs: list[Spec], chosen: dict[str, Workload], options: argparse.Namespace, model: Path) -> None:
        self.specs, self.chosen, self.options = specs, chosen, options
        file = gguf.GGUF(model)
        self.sizes: LlamaConfig = gguf.config(file)
        self.tokenizer: Tokenizer = from_gguf(file.meta, model)
        self.chat = Chat(self.tokenizer)
        self.rates: dict[str, float] = {}
        self.took: dict[tuple[str, str], tuple[list[int], int, int, float]] = {}  # → prompts, n, new tokens, seconds
        self.result: dict[str, Any] = {
            "machine": _machine(), "versions": {}, "workloads": {}, "seconds": {}, "ratios": {}, "goals": [],
            "roofline": {"rates": {}, "fractions": {}}, "rounds": {}, "texts": {}, "idle": {}, "failed": {}}

    def run(self) -> None:
        self._measure_machine()
        if START in self.options.workloads:
            self._start()
        children: dict[str, Child] = {}
        try:
            for spec in self.specs if self.chosen else []:
                self._load(spec, children)
            for name, workload in self.chosen.items():
                self._workload(name, workload, children)
                self._write()
        finally:
            for child in children.values():
                child.close()
        self._measure_machine()
        self._write()

    def _measure_machine(self) -> None:
        found = roofline.measure()
        self.rates = {key: max(rate, self.rates.get(key, 0)) for key, rate in found.items()}
        self.result["roofline"]["rates"] = self.rates

    def _start(self) -> None:
        """Seconds from the start of a process to its first token, engines in turn."""
        ids = json.dumps(workloads_.first_prompt(self.chat))
        found: dict[str, list[float]] = {}
        for round in range(self.options.rounds):
            for spec in self.specs:
                if round >= spec.starts or spec.name in self.result["failed"].get(START, {}):
                    continue
                child = Child(spec, ids)
                try:
                    child.answer()
                    found.setdefault(spec.name, []).append(round_(time.perf_counter() - child.began))
                except Broken as error:
                    self._fail(START, spec.name, error)
                finally:
                    child.close()
        self.result["rounds"][START] = found
        self.result["seconds"][START] = {name: statistics.median(seconds) for name, seconds in found.items()}
        _row(START, {name: f"{seconds:.2f} s" for name, seconds in self.result["seconds"][START].items()})

    def _load(self, spec: Spec, children: dict[str, Child]) -> None:
        print(f"loading {spec.name} ...", flush=True)
        child = Child(spec)
        try:
            self.result["versions"][spec.name] = child.answer()["version"]
            children[spec.name] = child
            time.sleep(_SETTLE)
        except Broken as error:
            self._fail("load", spec.name, error)
            child.close()

    def _workload(self, name: str, workload: Workload, children: dict[str, Child]) -> None:
        names = [engine for engine in children if not engine.startswith(workload.skip or ("none",))]
        rates: dict[str, list[float]] = {engine: [] for engine in names}
        seconds: dict[str, list[float]] = {engine: [] for engine in names}
        counts: dict[str, list[int]] = {engine: [] for engine in names}
        for round in range(self.options.rounds + 1):  # round 0 warms up
            prompts = workload.prompts(self.chat, round)
            tokens = workload.tokens if round or workload.schema else min(workload.tokens, 4)
            work = {"prompts": prompts, "tokens": tokens, "n": workload.n, "temperature": workload.temperature, "seed": round,
                    "schema": workload.schema}
            for engine in names[round % max(1, len(names)):] + names[: round % max(1, len(names))]:
                if engine in self.result["failed"].get(name, {}):
                    continue
                try:
                    answer = self._alone(engine, work, children)
                    text, count = self._check(answer, prompts, tokens, workload)
                except (Broken, ValueError) as error:
                    self._fail(name, engine, error)
                    continue
                if round:
                    seconds[engine].append(answer["seconds"])
                    counts[engine].append(count)
                    rates[engine].append(round_((answer["prompt_tokens"] if workload.prefill else count) / answer["seconds"]))
                if round == 1:
                    self.result["texts"].setdefault(name, {})[engine] = text if workload.schema else text[:120]
        whole = [engine for engine in names if engine not in self.result["failed"].get(name, {})]
        self.result["rounds"][name] = {engine: rates[engine] for engine in whole}
        self.result["workloads"][name] = {engine: statistics.median(rates[engine]) for engine in whole}
        for engine in whole:
            if engine in PRECISIONS:
                each = int(statistics.median(counts[engine])) if workload.schema is not None else workload.tokens
                self.took[name, engine] = [len(prompt) for prompt in prompts], workload.n, each, statistics.median(seconds[engine])
        _row(name, {engine: f"{rate:.1f}" for engine, rate in self.result["workloads"][name].items()})

    def _alone(self, engine: str, work: dict[str, Any], children: dict[str, Child]) -> dict[str, Any]:
        """One engine's run; notes what the others burned meanwhile."""
        others = {name: child.cpu_seconds() for name, child in children.items() if name != engine}
        start = time.perf_counter()
        answer = children[engine].run(work)
        took = time.perf_counter() - start
        for name, before in others.items():
            if took > 1:  # the clock of processor time ticks in hundredths
                share = round_((children[name].cpu_seconds() - before) / took)
                self.result["idle"][name] = max(share, self.result["idle"].get(name, 0.0))
        return answer

    def _check(self, answer: dict[str, Any], prompts: list[list[int]], tokens: int, workload: Workload) -> tuple[str, int]:
        """The first stream's text and the number of tokens, if everything was done that was asked for."""
        if answer["prompt_tokens"] != sum(map(len, prompts)):
            raise ValueError(f"{answer['prompt_tokens']} prompt tokens were read instead of {sum(map(len, prompts))}")
        text = answer["text"] or self.tokenizer.decode(answer["first"])
        if workload.schema is not None:
            record = json.loads(text)
            if set(record) != set(workload.schema["required"]):
                raise ValueError(f"the text does not follow the schema: {text[:200]}")
            return text, len(self.tokenizer.encode(text.strip()))
        if answer["tokens"] != len(prompts) * workload.n * tokens:
            raise ValueError(f"{answer['tokens']} tokens were drawn instead of {len(prompts) * workload.n * tokens}")
        return text, answer["tokens"]

    def _fail(self, name: str, engine: str, error: Exception) -> None:
        self.result["failed"].setdefault(name, {})[engine] = str(error)
        print(f"{name}: {engine} is left out: {error}", flush=True)

    def _write(self) -> None:
        found = self.result["workloads"]
        self.result["ratios"] = {
            name: {ours: {peer: round_(rates[ours] / rates[peer]) for peer in rates if peer not in PRECISIONS}
                   for ours in rates if ours in PRECISIONS} for name, rates in found.items()}
        self.result["goals"] = _goals(found, self.result["seconds"].get(START, {}))
        fractions: dict[str, dict[str, float]] = {}
        for (name, engine), (prompts, n, tokens, seconds) in self.took.items():
            least = roofline.least_seconds(self.rates, _network(self.sizes), PRECISIONS[engine], prompts, n, tokens)
            fractions.setdefault(name, {})[engine] = round_(least / seconds)
        self.result["roofline"]["fractions"] = fractions
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        self.options.out.write_text(json.dumps(self.result, indent=2) + "\n")


def _goals(found: dict[str, dict[str, float]], starts: dict[str, float]) -> list[dict[str, Any]]:
    """What was to be reached, what was, and by which of our precisions: the fastest."""
    goals: list[dict[str, Any]] = []

    def add(name: str, against: str, goal: float, reached: float, by: str, holds: bool) -> None:
        goals.append({"workload": name, "against": against, "goal": goal, "reached": round_(reached), "by": by, "holds": holds})

    for name, peer, goal in GOALS:
        ours = {engine: rate for engine, rate in found.get(name, {}).items() if engine in PRECISIONS}
        theirs = {engine: rate for engine, rate in found.get(name, {}).items() if engine.startswith(peer)}
        if ours and theirs:
            best, rival = max(ours, key=ours.__getitem__), max(theirs, key=theirs.__getitem__)
            ratio = ours[best] / theirs[rival]
            add(name, rival, goal, ratio, best, ratio >= goal)
    ratios = {engine: rate / found["schema off"][engine] for engine, rate in found.get("schema", {}).items()
              if engine in found.get("schema off", {})}
    if ratios:
        best = max(ratios, key=ratios.__getitem__)
        add("schema", f"{best} without a schema", SCHEMA_GOAL, ratios[best], best, ratios[best] >= SCHEMA_GOAL)
    ours = {engine: seconds for engine, seconds in starts.items() if engine in PRECISIONS}
    if ours:
        best = min(ours, key=ours.__getitem__)
        add(START, "seconds", START_GOAL, ours[best], best, ours[best] <= START_GOAL)
    return goals


def round_(value: float) -> float:
    return float(f"{value:.4g}")


def _network(sizes: LlamaConfig) -> roofline.Network:
    attention = sizes.hidden_size * sizes.head_dim * 2 * (sizes.num_attention_heads + sizes.num_key_value_heads)
    return roofline.Network(
        body=sizes.num_hidden_layers * (attention + 3 * sizes.hidden_size * sizes.intermediate_size),
        head=sizes.vocab_size * sizes.hidden_size, layers=sizes.num_hidden_layers, query_heads=sizes.num_attention_heads,
        key_heads=sizes.num_key_value_heads, head_dim=sizes.head_dim)


def _machine() -> dict[str, Any]:
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), model)
    return {"processor": model, "threads": engines_.THREADS, "load_before": round_(os.getloadavg()[0]),
            "python": platform.python_version(), "torch": torch.__version__}


def _row(name: str, cells: dict[str, str]) -> None:
    print(f"{name:11}" + "".join(f"  {engine} {cell}" for engine, cell in cells.items()), flush=True)


def _table(result: dict[str, Any]) -> None:
    rows = {**{name: {engine: f"{rate:.1f}" for engine, rate in rates.items()} for name, rates in result["workloads"].items()},
            **{f"{name} (s)": {engine: f"{value:.2f}" for engine, value in found.items()}
               for name, found in result["seconds"].items()}}
    names = list(dict.fromkeys(engine for cells in rows.values() for engine in cells))
    print("\n" + f"{'tokens/s':14}" + "".join(f"{name:>16}" for name in names))
    for name, cells in rows.items():
        print(f"{name:14}" + "".join(f"{cells.get(engine, '–'):>16}" for engine in names))
    for name, fractions in result["roofline"]["fractions"].items():
        print(f"{name:14}" + "  ".join(f"{engine} reaches {fraction:.1%} of the limit" for engine, fraction in fractions.items()))
    for goal in result["goals"]:
        print(f"{'holds' if goal['holds'] else 'FAILS'}  {goal['workload']}: {goal['reached']} of {goal['goal']} against"
              f" {goal['against']}, by {goal['by']}")
    for name, share in result["idle"].items():
        if share > _IDLE:
            print(f"beware: {name} burned {share:.1%} of a core while others were measured")


def main() -> None:
    everything = workloads_.all_of_them()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=["ownship", "transformers", "llamacpp", "vllm"],
                        help="these, or single engines such as ownship-int8 or llamacpp-built")
    parser.add_argument("--workloads", nargs="+", default=[*everything, START], choices=[*everything, START])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see whether everything works; no figures")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/decode.json"))
    options = parser.parse_args()

    model, folder = zoo.resolve(zoo.DEFAULT), BENCH / "model"
    known = engines_.engines(model, folder)
    if unknown := set(options.peers) - {spec.peer for spec in known} - {spec.name for spec in known}:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(spec.name for spec in known)}")
    specs = []
    for spec in known:
        if spec.peer in options.peers or spec.name in options.peers:
            if how := engines_.missing(spec):
                print(f"{spec.name} is left out: it is not set up here; `{how}` does that")
            else:
                specs.append(spec)
    if any(spec.peer == "vllm" for spec in specs) and not (folder / "config.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        checkpoint.save(*checkpoint.load(model), folder)
    chosen = {name: workload for name, workload in workloads_.all_of_them(options.quick).items() if name in options.workloads}
    bench = Bench(specs, chosen, options, model)
    bench.run()
    _table(bench.result)
    if options.quick:
        print(json.dumps(bench.result["texts"], indent=2, ensure_ascii=False))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
