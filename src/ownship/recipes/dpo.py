"""Direct preference optimisation: from pairs of replies, one preferred to the other, without a reward model and without sampling.

The model that the run starts from is the reference: its log-probabilities are computed once and kept in the run's folder.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ownship.errors import UserError
from ownship.recipes.settings import LoraSettings, OptimSettings, at_least

if TYPE_CHECKING:
    from ownship.learn.sample import Sample


@dataclass(frozen=True)
class DPO:
    """Teach a model which of two replies is better."""

    data: Path
    """Preference pairs: JSON lines of {"prompt", "chosen", "rejected"}, or a folder of such *.jsonl files. Bad lines are named."""
    model: str = "smollm2-135m-instruct"
    """A zoo name, a folder in Hugging Face layout, a .gguf file or a hub name."""
    out: Path = Path("runs/dpo")
    """Where the run is kept. The same command continues an interrupted run."""
    strict: bool = False
    """Stop at the first bad line."""
    held_out: float = 0.0
    """Share of the pairs that is not trained on but measured."""
    measure_every: int = 10
    """Steps between two measurements of what is held out."""
    steps: int = 50
    """Updates."""
    batch: int = 16
    """Pairs per update."""
    loss: Literal["dpo", "ipo"] = "dpo"
    """dpo: logistic in the margin. ipo: squared distance of the margin per token to 1/(2 beta)."""
    beta: float = 0.1
    """How strongly the model is held to its reference."""
    label_smoothing: float = 0.0
    """Share of the pairs taken to be labelled the wrong way round (dpo)."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    dtype: str = "bfloat16"
    """float32 or bfloat16 (with float32 masters)."""
    micro_tokens: int = 1024
    """Tokens per forward and backward pass: less is less memory and the same result. A pair is never split."""
    activation_checkpointing: bool = False
    """Keep only what goes into each layer, and compute the rest again in the backward pass: less memory, up to a third slower."""
    save_every: int = 20
    """Steps between checkpoints."""
    seed: int = 0


def run(config: DPO) -> Path:
    """Runs or continues; returns the folder of the trained model. Raises Interrupted after Ctrl-C, with everything saved."""
    from ownship.learn import distributed, lines, pairs
    from ownship.learn.evaluate import evaluate
    from ownship.learn.interrupt import Interruptible
    from ownship.learn.learner import Learner
    from ownship.learn.preference import Preference
    from ownship.learn.run import Run
    from ownship.model import checkpoint, zoo
    from ownship.model.chat import Chat
    from ownship.recipes import data
    from ownship.recipes.settings import lora, optim, save_adapter, torch_dtype
    from ownship.recipes.watch import Watch

    _check(config)
    lines.files(config.data)  # missing? better said before a model is loaded
    loss = Preference(config.loss, config.beta, config.label_smoothing)
    model, tokenizer = checkpoint.load(zoo.resolve(config.model), torch_dtype(config.dtype))
    chat = Chat(tokenizer)
    longest = model.config.max_position_embeddings
    found = data.read(config.data, lambda value: pairs.pair(value, chat, longest), pairs.WANTED, config.strict)
    digest = pairs.fingerprint(found)
    training, apart = lines.split(len(found), config.held_out, config.seed)
    now = Run(config.out, {"recipe": "dpo", **asdict(config), "data": str(config.data), "out": str(config.out)},
              may_change=("steps", "out", "save_every", "strict", "measure_every", "activation_checkpointing"))
    data.same(now, digest, config.data)
    adapters = lora(config.lora, model, config.seed)  # which add nothing yet
    learner = Learner(model, optim(config.optim, 1e-6, config.lora), config.micro_tokens, adapters,
                      recompute=config.activation_checkpointing)
    reference = pairs.Reference(config.out / "reference.safetensors", f"{digest} {learner.fingerprint}", found)

    def drawn(numbers: list[int]) -> list[Sample]:
        return [sample for place, number in enumerate(numbers)
                for sample in found[number].samples(place, reference.logprobs[number].tolist())]

    with Interruptible() as stop, Watch("dpo", config.steps, now.step) as watch:
        # The network is still the reference: what the run has learnt so far is put into it only afterwards.
        planned = islice(lines.shuffled(training, config.seed), min(config.steps * config.batch, len(training)))
        reference.fill([*apart, *planned], model, watch.measured("reference", stop))
        now.restore(learner)
        order = islice(lines.shuffled(training, config.seed), now.step * config.batch, None)
        held_out = drawn(apart)
        with now.saved(learner):
            while now.step < config.steps:
                start = time.perf_counter()
                batch = drawn(list(islice(order, config.batch)))
                metrics = learner.update(batch, loss, watch.learned(stop))
                metrics.pop("mismatch", None)  # there is no sampler here
                if held_out and data.due(now.step, config.measure_every, config.steps):
                    # Not to be interrupted: the weights are those of the next step already.
                    measured = evaluate(model, held_out, loss, config.micro_tokens, watch.measured())
                    metrics |= {f"held_out_{name}": measured[name] for name in ("loss", "margin", "accuracy")}
                now.log("metrics", **metrics)
                now.log("timings", learn=time.perf_counter() - start, tokens=metrics["stream_tokens"])
                now.finish_step(learner, config.save_every)
                watch.step(now.step, metrics)
    if distributed.first():
        save_adapter(adapters, config.model, config.out / "adapter")
        checkpoint.save(model, tokenizer, config.out / "model")
    return config.out / "model"


def _check(config: DPO) -> None:
    if config.beta <= 0:
        raise UserError(f"--beta must be positive, not {config.beta}")
    if not 0 <= config.label_smoothing < 0.5:
        raise UserError(f"--label-smoothing is a share from 0 to below 0.5, not {config.label_smoothing}")
    if config.label_smoothing and config.loss == "ipo":
        raise UserError("--label-smoothing belongs to --loss dpo; ipo has none")
    at_least(config, steps=0, batch=1, micro_tokens=1, measure_every=1, save_every=1)
