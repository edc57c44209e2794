"""Reinforcement learning with a verifiable reward: the whole loop.

Tasks → a group of completions each → rewards → advantages within the group → one update → the engine goes on with the new
weights, because they are the same tensors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ownship.recipes.settings import OptimSettings

if TYPE_CHECKING:
    from ownship.learn.rollout import Rollout


@dataclass(frozen=True)
class RL:
    """Teach a model by reinforcement learning on an environment's tasks."""

    model: str = "smollm2-135m-instruct"
    """A zoo name, a folder in Hugging Face layout, a .gguf file or a hub name."""
    env: str = "sort"
    """The environment: name or name:option=value,… (`ownship envs` lists them)."""
    out: Path = Path("runs/rl")
    """Where the run is kept. The same command continues an interrupted run."""
    steps: int = 50
    """Updates."""
    tasks: int = 16
    """Tasks per update."""
    group: int = 8
    """Completions per task."""
    max_tokens: int = 64
    """Longest reply."""
    advantage: str = "centered"
    """How a group's rewards become advantages: centered, normalized, leave_one_out, max_rl."""
    refill: float = 1.0
    """Flat groups teach nothing: up to this many times `tasks` further tasks are drawn to replace them."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    dtype: str = "bfloat16"
    """float32 or bfloat16 (with float32 masters)."""
    micro_tokens: int = 4096
    """Tokens per forward and backward pass: less is less memory and the same result."""
    save_every: int = 10
    """Steps between checkpoints."""
    seed: int = 0


def run(config: RL, deadline: float | None = None, report: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Runs or continues; returns the folder of the trained model.

    `deadline` (on `time.monotonic`) ends the run after the step that reaches it; `report` is given each step's metrics.
    Raises Interrupted after Ctrl-C, with everything saved.
    """
    from ownship.engine.engine import Engine
    from ownship.envs.env import tasks
    from ownship.envs.registry import make
    from ownship.learn import rollout
    from ownship.learn.advantage import ADVANTAGES
    from ownship.learn.doctor import diagnose
    from ownship.learn.interrupt import Interrupted, Interruptible
    from ownship.learn.learner import Learner
    from ownship.learn.loss import PolicyGradient
    from ownship.learn.run import Run
    from ownship.model import checkpoint, zoo
    from ownship.recipes.settings import choose, optim, torch_dtype
    from ownship.recipes.watch import Watch

    advantage = choose(ADVANTAGES, config.advantage, "advantage")
    env = make(config.env)
    now = Run(config.out, {"recipe": "rl", **asdict(config), "out": str(config.out)}, may_change=("steps", "out", "save_every"))
    model, tokenizer = checkpoint.load(zoo.resolve(config.model), torch_dtype(config.dtype))
    learner = Learner(model, optim(config.optim), config.micro_tokens)
    now.restore(learner)
    engine = Engine(model, tokenizer, max_rows=config.tasks * config.group)

    with Interruptible() as stop, Watch("rl", config.steps, now.step) as watch:
        try:
            while now.step < config.steps and (deadline is None or time.monotonic() < deadline):
                clock = [time.perf_counter()]
                # Sample groups until enough of them teach something, within the bound.
                stream = tasks(env, "train", start=now.state.get("next_seed", config.seed << 20))
                rollouts: list[Rollout] = []
                samples = []
                drawn = useful = 0
                while useful < config.tasks and drawn < config.tasks * (1 + config.refill):
                    batch = [next(stream) for _ in range(min(config.tasks - useful, round(config.tasks * (1 + config.refill)) - drawn))]
                    drawn += len(batch)
                    played = rollout.play(engine, env, [task for task in batch for _ in range(config.group)],
                                          rollout.training_sampling(config.max_tokens),
                                          seed=f"{config.seed} {now.step} {drawn}", progress=watch.sampled(stop))
                    rollouts += played
                    for group in rollout.groups(played, config.group):
                        if taught := rollout.samples(group, advantage, learner.updates):
                            samples += taught
                            useful += 1
                clock.append(time.perf_counter())

                # Learn from them. The engine's weights are these weights; the fingerprint proves it.
                before = engine.fingerprint
                learned = learner.update(samples, PolicyGradient(), watch.learned(stop))
                after = engine.weights_changed()
                clock.append(time.perf_counter())

                metrics = {**rollout.measure(rollouts, config.group), **learned, "weights_changed": float(before != after)}
                warnings = diagnose(metrics, now.read("metrics")[:5])
                now.log("metrics", **metrics, fingerprint=after, doctor=warnings)
                now.log("rollouts", rollouts=[item.record() for item in rollouts[: 4 * config.group]])
                now.log("timings", sample=clock[1] - clock[0], learn=clock[2] - clock[1], tokens=sum(map(len, (r.tokens for r in rollouts))))
                now.state["next_seed"] = rollouts[-1].task.seed + 1
                now.finish_step()
                watch.step(now.step, metrics, warnings)
                if report is not None:
                    report({"step": now.step, **metrics})
                if now.step % config.save_every == 0:
                    now.save(learner)
        except Interrupted:
            now.save(learner)
            raise
    now.save(learner)
    checkpoint.save(model, tokenizer, config.out / "model")
    return config.out / "model"
