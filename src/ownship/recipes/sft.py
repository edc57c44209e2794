"""Supervised fine-tuning: a model imitates examples. The examples are an environment's worked solutions, or a chat file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ownship.errors import UserError
from ownship.recipes.settings import LoraSettings, OptimSettings, at_least

if TYPE_CHECKING:
    from ownship.learn.sample import Sample
    from ownship.model.chat import Chat


@dataclass(frozen=True)
class SFT:
    """Teach a model by example."""

    model: str = "smollm2-135m-instruct"
    """A zoo name, a folder in Hugging Face layout, an adapter's folder, a .gguf file or a hub name."""
    env: str | None = None
    """Learn this environment's worked solutions (training split only)."""
    data: Path | None = None
    """Or learn chats: JSON lines in OpenAI's or ShareGPT's shape, or a folder of such *.jsonl files. Bad lines are named."""
    strict: bool = False
    """Stop at the first bad line instead."""
    held_out: float = 0.0
    """Share of the chats that is not trained on but measured."""
    measure_every: int = 10
    """Steps between two measurements of what is held out."""
    out: Path = Path("runs/sft")
    """Where the run is kept. The same command continues an interrupted run."""
    steps: int = 20
    """Updates."""
    end: int = 0
    """Updates over which the learning rate falls linearly to 0; 0: it stays. A run made in parts by --steps may change it."""
    batch: int = 32
    """Examples per update."""
    optim: OptimSettings = field(default_factory=lambda: OptimSettings(warmup=3))
    lora: LoraSettings = field(default_factory=LoraSettings)
    dtype: str = "bfloat16"
    """float32 or bfloat16 (with float32 masters)."""
    micro_tokens: int = 1024
    """Tokens per forward and backward pass: less is less memory and the same result."""
    activation_checkpointing: bool = False
    """Keep only what goes into each layer, and compute the rest again in the backward pass: less memory, up to a third slower."""
    save_every: int = 50
    """Steps between checkpoints."""
    seed: int = 0


def run(config: SFT) -> Path:
    """Runs or continues; returns the folder of the trained model. Raises Interrupted after Ctrl-C, with everything saved."""
    from ownship.learn import chats, distributed, lines
    from ownship.learn.evaluate import evaluate
    from ownship.learn.interrupt import Interruptible
    from ownship.learn.learner import Learner
    from ownship.learn.loss import imitation
    from ownship.learn.run import Run
    from ownship.model import checkpoint, zoo
    from ownship.model.chat import Chat
    from ownship.recipes import data
    from ownship.recipes.settings import lora, optim, save_adapter, torch_dtype
    from ownship.recipes.watch import Watch

    _check(config)
    if config.data is not None:
        lines.files(config.data)  # missing? better said before a model is loaded
    model, tokenizer = checkpoint.load(zoo.resolve(config.model), torch_dtype(config.dtype))
    chat = Chat(tokenizer)
    longest = model.config.max_position_embeddings
    found = [] if config.data is None else data.read(
        config.data, lambda value: chats.example(value, chat, longest), chats.WANTED, config.strict)
    now = Run(config.out, {"recipe": "sft", **asdict(config), "data": config.data and str(config.data), "out": str(config.out)},
              may_change=("steps", "end", "out", "save_every", "strict", "measure_every", "activation_checkpointing"))
    held_out: list[Sample] = []
    examples: Iterator[Sample]
    if config.data is not None:
        data.same(now, chats.digest(found), config.data)
        training, apart = lines.split(len(found), config.held_out, config.seed)
        held_out = [found[number].sample() for number in apart]
        order = islice(lines.shuffled(training, config.seed), now.step * config.batch, None)
        examples = (found[number].sample() for number in order)
    else:
        assert config.env is not None
        examples = _worked(config.env, config.seed, chat, now.step * config.batch)
    adapters = lora(config.lora, model, config.seed)
    # Straight to zero from the first update: better than any other course where the number of updates is known (arXiv:2502.15938).
    settings = replace(optim(config.optim, 1e-4, config.lora), end=config.end or None, decay=1.0)
    learner = Learner(model, settings, config.micro_tokens, adapters, exact=False, recompute=config.activation_checkpointing)
    now.restore(learner)

    with Interruptible() as stop, Watch("sft", config.steps, now.step) as watch, now.saved(learner):
        while now.step < config.steps:
            start = time.perf_counter()
            batch = list(islice(examples, config.batch))
            metrics = learner.update(batch, imitation, watch.learned(stop))
            metrics.pop("mismatch", None)  # there is no sampler here
            if held_out and data.due(now.step, config.measure_every, config.steps):
                # Not to be interrupted: the weights are those of the next step already.
                metrics["held_out_loss"] = evaluate(model, held_out, imitation, config.micro_tokens, watch.measured())["loss"]
            now.log("metrics", **metrics)
            now.log("timings", learn=time.perf_counter() - start, tokens=metrics["stream_tokens"])
            now.finish_step(learner, config.save_every)
            watch.step(now.step, metrics)
    if distributed.first():
        save_adapter(adapters, config.model, config.out / "adapter")
        checkpoint.save(model, tokenizer, config.out / "model")
    return config.out / "model"


def _check(config: SFT) -> None:
    if (config.env is None) == (config.data is None):
        raise UserError("give either --env (learn its worked solutions) or --data (a chat file)")
    if config.held_out and config.data is None:
        raise UserError("--held-out needs --data: an environment's tasks are held out already (`ownship eval`)")
    if 0 < config.end < config.steps:
        raise UserError(f"--end {config.end} would leave the last of --steps {config.steps} without a learning rate")
    at_least(config, end=0, steps=0, batch=1, micro_tokens=1, measure_every=1, save_every=1)


def _worked(spec: str, seed: int, chat: Chat, start: int) -> Iterator[Sample]:
    """An environment's worked solutions without end, from number `start` on."""
    from ownship.envs.env import demonstration, tasks
    from ownship.envs.registry import make
    from ownship.learn.sample import supervised

    env = make(spec)
    for task in islice(tasks(env, "train", start=seed << 20), start, None):
        yield supervised(*chat.render(demonstration(env, task), task.tools))
