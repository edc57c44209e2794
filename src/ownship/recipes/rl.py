"""Reinforcement learning with a verifiable reward: the whole loop.

Tasks → a group of completions each → rewards → advantages within the group → one update → the engine goes on with the new
weights, because they are the same tensors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ownship.errors import UserError
from ownship.recipes.settings import LoraSettings, OptimSettings, at_least

if TYPE_CHECKING:
    from ownship.learn.advantage import Floats, Weighting
    from ownship.learn.algorithm import Policy
    from ownship.learn.learner import Learner
    from ownship.learn.rollout import Rollout
    from ownship.learn.sample import Sample
    from ownship.model.llama import Llama

_PATIENCE = 5  # steps without anything to learn from, after which the run ends instead of going on for ever


@dataclass(frozen=True)
class RL:
    """Teach a model by reinforcement learning on an environment's tasks."""

    model: str = "smollm2-135m-instruct"
    """A zoo name, a folder in Hugging Face layout, an adapter's folder, a .gguf file or a hub name."""
    env: str = "sort"
    """The environment: name or name:option=value,… (`ownship envs` lists them)."""
    out: Path = Path("runs/rl")
    """Where the run is kept. The same command continues an interrupted run."""
    steps: int = 50
    """Updates."""
    minutes: float | None = None
    """Also end within about this time, at the end of a step."""
    tasks: int = 16
    """Tasks per update."""
    group: int = 8
    """Completions per task."""
    max_tokens: int = 64
    """Longest reply."""
    algorithm: str = "dual_clip"
    """Advantage, loss and mean in one: dual_clip, grpo, dr_grpo, dapo, rloo, reinforce, cispo, gspo."""
    advantage: str | None = None
    """Instead of the algorithm's: centered, normalized, leave_one_out, max_rl."""
    correction: str = "none"
    """For what the learner's probabilities differ from the sampler's: none, tis, icepop, geometric, dppo_tv."""
    epochs: int = 1
    """Updates on the same completions: more learnt from each, by a policy that is no longer the one that drew them."""
    kl: float = 0.0
    """Weight of the KL divergence from the model at the start. A frozen copy of it (0.4 GB for the default model) reads every batch
    once."""
    overlong: str = "mask"
    """Replies that hit max_tokens: mask (not trained on), penalty (DAPO's, from 80 % of max_tokens on) or none."""
    refill: float = 1.0
    """Flat groups teach nothing: up to this many times `tasks` further tasks are drawn to replace them."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    dtype: str = "bfloat16"
    """float32 or bfloat16 (with float32 masters)."""
    micro_tokens: int | None = None
    """Tokens per forward and backward pass: less is less memory, a little slower, and the same result. By default 1024, and 512
    with LoRA."""
    activation_checkpointing: bool = False
    """Keep only what goes into each layer, and compute the rest again in the backward pass: less memory, up to a third slower."""
    save_every: int = 10
    """Steps between checkpoints."""
    seed: int = 0


def run(config: RL) -> Path:
    """Runs or continues; returns the folder of the trained model. Raises Interrupted after Ctrl-C, with everything saved."""
    from ownship.engine.engine import Engine
    from ownship.envs.env import tasks
    from ownship.envs.registry import make
    from ownship.evals.accuracy import solved
    from ownship.learn import distributed, rollout
    from ownship.learn.curriculum import Curriculum
    from ownship.learn.doctor import diagnose
    from ownship.learn.interrupt import Interruptible
    from ownship.learn.learner import Learner
    from ownship.learn.run import Run
    from ownship.model import checkpoint, zoo
    from ownship.recipes.settings import lora, optim, save_adapter, torch_dtype
    from ownship.recipes.watch import Watch

    deadline = None if config.minutes is None else time.monotonic() + config.minutes * 60
    advantage, weighting, loss = _algorithm(config)
    env = make(config.env)
    asked = {"recipe": "rl", **asdict(config), "out": str(config.out)}
    now = Run(config.out, asked, may_change=("steps", "minutes", "out", "save_every", "activation_checkpointing"))
    model, tokenizer = checkpoint.load(zoo.resolve(config.model), torch_dtype(config.dtype))
    adapters = lora(config.lora, model, config.seed)
    micro_tokens = config.micro_tokens or (512 if adapters is not None else 1024)
    learner = Learner(model, optim(config.optim, 2e-5, config.lora), micro_tokens, adapters,
                      recompute=config.activation_checkpointing)
    now.restore(learner)
    # The reference is the model that training began with, also when a run is continued.
    reference = checkpoint.load(zoo.resolve(config.model), torch_dtype(config.dtype))[0] if config.kl else None
    engine = Engine(model, tokenizer, max_rows=config.tasks * config.group)

    with Interruptible() as stop, Watch("rl", config.steps, now.step, deadline) as watch, now.saved(learner):
        pace = 0.0  # seconds of the last step: one that would end too late is not begun
        while now.step < config.steps and distributed.from_first(deadline is None or time.monotonic() + pace < deadline):
            start = time.perf_counter()
            # Sample groups until enough of them teach something, within the bound.
            curriculum = Curriculum(now.state.get("rates"))
            stream = tasks(env, "train", now.state.get("next_seed", config.seed << 20))
            chosen = curriculum.choose(stream, f"{config.seed} {now.step}")
            rollouts: list[Rollout] = []
            samples: list[Sample] = []
            useful, most = 0, round(config.tasks * (1 + config.refill))
            while useful < config.tasks and len(rollouts) < most * config.group:
                missing = min(config.tasks - useful, most - len(rollouts) // config.group)
                repeated = [task for task in islice(chosen, missing) for _ in range(config.group)]
                play = partial(rollout.play, engine, env, sampling=rollout.training_sampling(config.max_tokens),
                               seed=f"{config.seed} {now.step} {len(rollouts)}", progress=watch.sampled(stop))
                played = distributed.shared(repeated, play)
                rollouts += played
                for group in rollout.groups(played, config.group):
                    curriculum.learn(group[0].task, [solved(item) for item in group])
                    lessons = rollout.samples(group, advantage, weighting, config.overlong, config.max_tokens)
                    samples += lessons
                    useful += bool(lessons)
            sampled = time.perf_counter()

            # Learn from them. The engine's weights are these weights; the fingerprint proves it. A step that few groups
            # speak for is a short one: at full length, steps by two groups of sixteen undid what had been learnt.
            before = engine.fingerprint
            share = min(1.0, useful / config.tasks)
            engine.rest()  # sampling and learning need much memory, but not at once
            learned = _learn(learner, reference, samples, loss, config, watch.learned(stop), share)
            after = engine.weights_changed()

            metrics = {**rollout.measure(rollouts, config.group), **learned, "weights_changed": float(before != after),
                       "same_weights": float(after == learner.fingerprint)}
            warnings = diagnose(metrics, now.read("metrics")[:5])
            now.log("metrics", **metrics, fingerprint=after, rates=curriculum.rates, doctor=warnings)
            now.log("rollouts", rollouts=[item.record(tokenizer) for item in rollouts[: 2 * config.group]])
            now.log("timings", sample=sampled - start, learn=time.perf_counter() - sampled,
                    tokens=sum(sum(item.drawn) for item in rollouts))
            idle = 0 if samples else now.state.get("idle", 0) + 1
            now.state.update(next_seed=rollouts[-1].task.seed + 1, rates=curriculum.rates, idle=idle)
            now.finish_step(learner, config.save_every)
            watch.step(now.step, metrics, warnings)
            pace = time.perf_counter() - start
            if idle >= _PATIENCE:
                raise UserError(f"{idle} steps in a row taught nothing: {warnings[0]}")
    if distributed.first():
        save_adapter(adapters, config.model, config.out / "adapter")
        checkpoint.save(model, tokenizer, config.out / "model")
    return config.out / "model"


def _algorithm(config: RL) -> tuple[Callable[[Floats], Floats], Weighting, Policy]:
    """What the settings name. Raises UserError for a name or a number that makes no sense."""
    from ownship.learn.advantage import ADVANTAGES
    from ownship.learn.algorithm import ALGORITHMS, Policy
    from ownship.learn.correction import CORRECTIONS
    from ownship.learn.rollout import OVERLONG
    from ownship.recipes.settings import choose

    at_least(config, steps=0, tasks=1, group=1, max_tokens=1, refill=0, epochs=1, kl=0, micro_tokens=1, save_every=1)
    choose(OVERLONG, config.overlong, "overlong")
    algorithm = choose(ALGORITHMS, config.algorithm, "algorithm")
    advantage = algorithm.advantage if config.advantage is None else choose(ADVANTAGES, config.advantage, "advantage")
    correction = choose(CORRECTIONS, config.correction, "correction")
    return advantage, algorithm.weighting, Policy(algorithm.surrogate, correction, algorithm.recomputed, config.kl)


def _learn(learner: Learner, reference: Llama | None, samples: list[Sample], loss: Policy, config: RL,
           tick: Callable[[int], None], share: float) -> dict[str, float]:
    """The updates of one step; measurements are those of the last, but entropy and mismatch those of the sampler's weights."""
    from ownship.learn.score import score

    if reference is not None:
        scores = score(reference, samples, learner.micro_tokens, tick)
        samples = [replace(sample, reference=found) for sample, found in zip(samples, scores, strict=True)]
    if loss.needs_old and config.epochs > 1:
        scores = score(learner.model, samples, learner.micro_tokens, tick)
        samples = [replace(sample, old=found) for sample, found in zip(samples, scores, strict=True)]
    drawn_from = learner.fingerprint
    first = learned = learner.update(samples, loss, tick, share)
    for _ in range(1, config.epochs):
        # Without a tick: once the weights have moved, Ctrl-C waits for the end of the step.
        learned = learner.update(samples, loss, None, share, drawn_from)
    learned |= {name: first[name] for name in ("entropy", "mismatch") if name in first}
    if "ratio" in learned:  # the samples' worth, as a share of their number: 1 if π is μ (Kong 1992)
        learned["effective_samples"] = learned["ratio"] ** 2 / learned.pop("ratio_squared")
    return learned
