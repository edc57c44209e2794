"""The workloads `sft` and `rl` of train.py: the default model, beside `transformers.Trainer` and TRL's `GRPOTrainer`.

Both in bf16; where the processor multiplies no bf16, they run in float32, which is then several times faster for them
(`theirs_bf16` says otherwise)."""

from __future__ import annotations

import ast
import random
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from ownship.engine.engine import Engine
from ownship.envs.env import tasks
from ownship.envs.registry import make
from ownship.envs.rubric import Score
from ownship.learn import rollout
from ownship.learn.advantage import centered
from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import PolicyGradient, imitation
from ownship.learn.sample import Sample
from ownship.model import checkpoint, zoo

LR = 1e-6
ENV = "sums:low=4,high=7"


class Turns(TrainerCallback):
    """Before each step of a trainer one of ours; the seconds of each, generation included. The first of both warms up."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        self._start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        start = time.perf_counter()
        self.work()
        self._start = time.perf_counter()
        self.seconds["ours"].append(self._start - start)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds["theirs"].append(time.perf_counter() - self._start)


def examples(count: int, longest: int, encode: Callable[[str], list[int]]) -> list[list[int]]:
    """Texts of 20 to `longest` tokens, cut from the docstrings of the standard library."""
    draw, texts = random.Random(0), list[list[int]]()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
        ids = encode(text)
        at = 0
        while at < len(ids):
            size = draw.randint(20, longest)
            if len(piece := ids[at : at + size]) >= 20:
                texts.append(piece)
            at += size
    draw.shuffle(texts)
    return texts[:count]


def exported(folder: str) -> tuple[Any, Any]:
    """The default model as `transformers` reads it."""
    checkpoint.save(*checkpoint.load(zoo.resolve(zoo.DEFAULT), torch.bfloat16), Path(folder) / "model")
    return (AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32),
            AutoTokenizer.from_pretrained(Path(folder) / "model"))


def measure_sft(rounds: int, theirs_bf16: bool, batch: int = 32, longest: int = 256) -> dict[str, Any]:
    """Trained tokens per second, padding not counted: there float32 weights and products in bf16, here bf16 and float32 masters."""
    model, tokenizer = checkpoint.load(zoo.resolve(zoo.DEFAULT), torch.bfloat16)
    texts = examples(batch * (rounds + 1), longest, tokenizer.encode)
    learner = Learner(model, Optim(lr=LR, warmup=1), 1024, exact=False)
    batches = iter([texts[at : at + batch] for at in range(0, len(texts), batch)])

    def step() -> None:
        samples = [Sample(ids, 1, [0.0] + [1.0] * (len(ids) - 1), *[[0.0] * len(ids)] * 2) for ids in next(batches)]
        learner.update(samples, imitation)

    with tempfile.TemporaryDirectory() as folder:
        peer, pieces = exported(folder)
        turns = Turns(step)

        def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
            width = max(len(row["input_ids"]) for row in rows)
            ids = [row["input_ids"] + [pieces.eos_token_id] * (width - len(row["input_ids"])) for row in rows]
            mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
            labels = [row["input_ids"] + [-100] * (width - len(row["input_ids"])) for row in rows]
            return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}

        arguments = TrainingArguments(
            output_dir=folder, use_cpu=True, bf16=theirs_bf16, per_device_train_batch_size=batch // 4,
            gradient_accumulation_steps=4, max_steps=rounds + 1, learning_rate=LR, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, train_sampling_strategy="sequential")
        Trainer(model=peer, args=arguments, data_collator=collate, callbacks=[turns],
                train_dataset=Dataset.from_dict({"input_ids": texts})).train()
    counts = [sum(len(ids) - 1 for ids in texts[at : at + batch]) for at in range(batch, len(texts), batch)]
    rates = {name: [count / second for count, second in zip(counts, turns.seconds[whose][1:], strict=True)]
             for name, whose in (("ownship", "ours"), ("transformers.Trainer", "theirs"))}
    return summary(rates, "tokens_per_second", {"batch": batch, "tokens": sum(counts)})


def measure_rl(rounds: int, theirs_bf16: bool, prompts: int = 8, group: int = 8, longest: int = 48) -> dict[str, Any]:
    """Completions per second of a whole step: sampled, scored at random (so that no group is flat), and learnt from."""
    model, tokenizer = checkpoint.load(zoo.resolve(zoo.DEFAULT), torch.bfloat16)
    env, draw = make(ENV), random.Random(0)
    chosen = list(islice(tasks(env, "train"), prompts * (rounds + 1)))
    learner, engine = Learner(model, Optim(lr=LR, warmup=1), 1024), Engine(model, tokenizer, max_rows=prompts * group)
    lengths: dict[str, list[float]] = {"ownship": [], "trl": []}
    step = iter(range(rounds + 1))

    def work() -> None:
        at = next(step)
        repeated = [task for task in chosen[at * prompts : (at + 1) * prompts] for _ in range(group)]
        played = rollout.play(engine, env, repeated, rollout.training_sampling(longest), seed=str(at))
        for item in played:
            item.score = Score(draw.random(), {})
        samples = [sample for part in rollout.groups(played, group) for sample in rollout.samples(part, centered, overlong="none")]
        learner.update(samples, PolicyGradient())
        engine.weights_changed()
        lengths["ownship"].append(statistics.mean(sum(item.drawn) for item in played))

    with tempfile.TemporaryDirectory() as folder:
        from trl import GRPOConfig, GRPOTrainer

        peer, pieces = exported(folder)
        turns = Turns(work)

        def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
            lengths["trl"].append(statistics.mean(map(len, completion_ids)))
            return [draw.random() for _ in completion_ids]

        arguments = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=theirs_bf16, per_device_train_batch_size=prompts * group, num_generations=group,
            max_completion_length=longest, temperature=1.0, beta=0.0, max_steps=rounds + 1, learning_rate=LR, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, gradient_checkpointing=False)
        GRPOTrainer(model=peer, reward_funcs=reward, args=arguments, callbacks=[turns], processing_class=pieces,
                    train_dataset=Dataset.from_dict({"prompt": [task.messages for task in chosen]})).train()
    count = prompts * group
    rates = {name: [count / second for second in turns.seconds[whose][1:]]
             for name, whose in (("ownship", "ours"), ("trl", "theirs"))}
    return summary(rates, "completions_per_second",
                   {"completions": count, "group": group, "longest": longest,
                    "mean_length": {name: round(statistics.mean(found), 1) for name, found in lengths.items()}})


def summary(rates: dict[str, list[float]], unit: str, more: dict[str, Any]) -> dict[str, Any]:
    medians = {name: statistics.median(found) for name, found in rates.items()}
    peer = next(name for name in rates if name != "ownship")
    return {**more, unit: {name: round(rate, 2) for name, rate in medians.items()},
            "ratio": round(medians["ownship"] / medians[peer], 2),
            "rounds": {name: [round(rate, 2) for rate in found] for name, found in rates.items()}}
