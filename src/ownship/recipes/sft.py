"""Supervised fine-tuning: a model imitates examples. The examples are an environment's worked solutions, or a chat file."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ownship.errors import UserError
from ownship.recipes.settings import LoraSettings, OptimSettings

if TYPE_CHECKING:
    from ownship.model.chat import Message


@dataclass(frozen=True)
class SFT:
    """Teach a model by example."""

    model: str = "smollm2-135m-instruct"
    """A zoo name, a folder in Hugging Face layout, an adapter's folder, a .gguf file or a hub name."""
    env: str | None = None
    """Learn this environment's worked solutions (training split only)."""
    data: Path | None = None
    """Or learn this chat file: JSON lines, each {"messages": [{"role", "content"}, …]}."""
    out: Path = Path("runs/sft")
    """Where the run is kept. The same command continues an interrupted run."""
    steps: int = 20
    """Updates."""
    batch: int = 32
    """Examples per update."""
    optim: OptimSettings = field(default_factory=lambda: OptimSettings(warmup=3))
    lora: LoraSettings = field(default_factory=LoraSettings)
    dtype: str = "bfloat16"
    """float32 or bfloat16 (with float32 masters)."""
    micro_tokens: int = 1024
    """Tokens per forward and backward pass: less is less memory and the same result."""
    save_every: int = 50
    """Steps between checkpoints."""
    seed: int = 0


def run(config: SFT) -> Path:
    """Runs or continues; returns the folder of the trained model. Raises Interrupted after Ctrl-C, with everything saved."""
    from ownship.learn.interrupt import Interrupted, Interruptible
    from ownship.learn.learner import Learner
    from ownship.learn.loss import imitation
    from ownship.learn.run import Run
    from ownship.learn.sample import supervised
    from ownship.model import checkpoint, zoo
    from ownship.model.chat import Chat
    from ownship.recipes.settings import lora, optim, save_adapter, torch_dtype
    from ownship.recipes.watch import Watch

    examples = conversations(config)
    now = Run(config.out, {"recipe": "sft", **asdict(config), "data": config.data and str(config.data), "out": str(config.out)},
              may_change=("steps", "out", "save_every"))
    model, tokenizer = checkpoint.load(zoo.resolve(config.model), torch_dtype(config.dtype))
    chat = Chat(tokenizer)
    adapters = lora(config.lora, model, config.seed)
    learner = Learner(model, optim(config.optim, 1e-4, config.lora), config.micro_tokens, adapters)
    now.restore(learner)
    for _ in range(now.step * config.batch):
        next(examples)

    with Interruptible() as stop, Watch("sft", config.steps, now.step) as watch:
        try:
            while now.step < config.steps:
                start = time.perf_counter()
                batch = [supervised(*chat.render(messages)) for messages in islice(examples, config.batch)]
                metrics = learner.update(batch, imitation, watch.learned(stop))
                metrics.pop("mismatch", None)  # there is no sampler here
                now.log("metrics", **metrics)
                now.log("timings", learn=time.perf_counter() - start, tokens=metrics["stream_tokens"])
                now.finish_step()
                watch.step(now.step, metrics)
                if now.step % config.save_every == 0:
                    now.save(learner)
        except Interrupted:
            now.save(learner)
            raise
    now.save(learner)
    save_adapter(adapters, config.model, config.out / "adapter")
    checkpoint.save(model, tokenizer, config.out / "model")
    return config.out / "model"


def conversations(config: SFT) -> Iterator[list[Message]]:
    """The examples in the order of training, without end. Raises UserError if there are none, or a line cannot be read."""
    if (config.env is None) == (config.data is None):
        raise UserError("give either --env (learn its worked solutions) or --data (a chat file)")
    if config.env is not None:
        return _worked(config.env, config.seed)
    assert config.data is not None
    return _shuffled(read_chats(config.data), config.seed)


def _worked(spec: str, seed: int) -> Iterator[list[Message]]:
    from ownship.envs.env import tasks
    from ownship.envs.registry import make

    env = make(spec)
    for task in tasks(env, "train", start=seed << 20):
        yield [*task.messages, {"role": "assistant", "content": env.solution(task)}]


def _shuffled(chats: list[list[Message]], seed: int) -> Iterator[list[Message]]:
    epoch = 0
    while True:
        order = list(range(len(chats)))
        random.Random(f"{seed} {epoch}").shuffle(order)
        yield from (chats[index] for index in order)
        epoch += 1


def read_chats(path: Path) -> list[list[Message]]:
    """Conversations from JSON lines. Raises UserError with the number of the first line that is not one."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    chats = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            messages = json.loads(line)["messages"]
            if not any(message["role"] == "assistant" for message in messages):
                raise ValueError("no assistant turn to learn")
            if not all(isinstance(message["content"], str) for message in messages):
                raise ValueError("a message's content is not text")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not a conversation ({error!r});"
                            ' expected {"messages": [{"role": …, "content": …}, …]}') from None
        chats.append(messages)
    if not chats:
        raise UserError(f"{path}: holds no conversation")
    return chats
