"""Pretraining: a language model of one's own from a folder of text. One dial, the depth, sets everything else."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ownship.errors import UserError
from ownship.recipes.plan import batch_tokens
from ownship.recipes.settings import at_least

if TYPE_CHECKING:
    from ownship.learn.corpus import Corpus
    from ownship.model.llama import Llama
    from ownship.model.tokenizer import Tokenizer

_TOKENIZER_TEXT = 64 << 20  # characters that a tokenizer is learnt from: more of them change few of its merges


@dataclass(frozen=True)
class Pretrain:
    """Train a model from scratch on a folder of text."""

    depth: int = 4
    """The dial: layers. What is not given below follows from it and is printed."""
    data: Path | None = None
    """A folder or file of text, JSON lines or Parquet ("text"). By default the Python standard library's sources."""
    tokenizer: Path | None = None
    """A folder with tokenizer.json. By default one is learnt from the data."""
    out: Path = Path("runs/pretrain")
    """Where the run is kept. The same command continues an interrupted run."""
    minutes: float | None = None
    """Also end within about this time: the learning rate then decays in time for it."""
    steps: int | None = None
    """Updates."""
    tokens: int | None = None
    """Token budget."""
    width: int | None = None
    """Hidden size."""
    heads: int | None = None
    """Attention heads."""
    mlp: int | None = None
    """Hidden size of the feed-forward part."""
    vocab: int | None = None
    """Tokens of the tokenizer that is learnt."""
    context: int | None = None
    """Longest stretch of tokens that see each other."""
    lr: float | None = None
    """Peak learning rate."""
    batch: int | None = None
    """Tokens predicted per update."""
    warmup: int | None = None
    """Updates until the full learning rate."""
    decay: float = 0.2
    """Share of the updates, at the end, in which the learning rate falls to 0."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: the matrices inside the layers by Muon, the rest by AdamW."""
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    dtype: str = "bfloat16"
    """float32 or bfloat16 (with float32 masters)."""
    micro_tokens: int = 4096
    """Tokens per forward and backward pass: less is less memory and the same result."""
    activation_checkpointing: bool = False
    """Keep only what goes into each layer, and compute the rest again in the backward pass: less memory, up to a third slower."""
    eval_every: int = 50
    """Steps between measurements on the held-out documents."""
    save_every: int = 50
    """Steps between checkpoints."""
    seed: int = 0


@dataclass(frozen=True)
class Sizes:
    """Everything that the dial sets."""

    width: int
    heads: int
    mlp: int
    vocab: int
    context: int
    parameters: int
    tokens: int
    batch: int
    steps: int
    lr: float
    warmup: int


def sizes(config: Pretrain, vocab: int | None = None) -> Sizes:
    """What the depth and the flags give; `vocab` is that of a tokenizer that exists. Raises UserError for impossible flags.

    - width 64 · depth, heads of 64, a feed-forward part of 8/3 · width (arXiv:2002.05202, section 2), to the next 64;
    - a vocabulary, a power of two, whose table is about a third as large as the layers: it grows with the network;
    - 20 tokens per parameter (Chinchilla, arXiv:2203.15556, table 3);
    - learning rate 0.3118 · C^−0.125 and batch (plan.batch_tokens) for C = 6 · parameters · tokens floating-point operations
      (DeepSeek LLM, arXiv:2401.02954, equation 1; fitted from 1e17 on, and extrapolated below).
    """
    _check(config)
    width = config.width or 64 * config.depth
    heads = config.heads or max(1, width // 64)
    if width % (2 * heads):
        raise UserError(f"--width {width} cannot be shared out among --heads {heads} of an even size")
    mlp = config.mlp or math.ceil(width * 8 / 3 / 64) * 64
    layers = config.depth * (4 * width * width + 3 * width * mlp + 2 * width) + width
    vocab = vocab or config.vocab or min(65536, max(512, 1 << round(math.log2(layers / 3 / width))))
    context = config.context or max(256, min(2048, 128 * config.depth))
    parameters = layers + vocab * width
    tokens = config.tokens or 20 * parameters
    compute = 6.0 * parameters * tokens
    batch = config.batch or batch_tokens(compute, context)
    steps = config.steps or math.ceil(tokens / batch)
    return Sizes(width, heads, mlp, vocab, context, parameters, config.tokens or steps * batch, batch, steps,
                 config.lr or float(f"{0.3118 * compute**-0.125:.2g}"), config.warmup or min(30, 1 + steps // 20))


def _check(config: Pretrain) -> None:
    at_least(config, depth=1, steps=1, tokens=1, width=2, heads=1, mlp=1, vocab=259, context=2, batch=1, warmup=1, micro_tokens=1,
             eval_every=1, save_every=1)
    for name, value in (("minutes", config.minutes), ("lr", config.lr), ("max-grad-norm", config.max_grad_norm)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} must be positive, not {value}")
    if config.tokenizer is not None and config.vocab is not None:
        raise UserError("give either --tokenizer (it has its own vocabulary) or --vocab (of the one to be learnt)")
    if config.steps is not None and config.tokens is not None:
        raise UserError("give either --steps or --tokens: one follows from the other")
    if not 0 <= config.decay <= 1 or not config.weight_decay >= 0:
        raise UserError("--decay must lie between 0 and 1, and --weight-decay must not be negative")


def run(config: Pretrain) -> Path:
    """Runs or continues; returns the folder of the trained model. Raises Interrupted after Ctrl-C, with everything saved."""
    from ownship.evals.bits import bits_per_byte, predicted
    from ownship.learn import distributed
    from ownship.learn.corpus import Corpus, Reader
    from ownship.learn.interrupt import Interruptible
    from ownship.learn.learner import Learner
    from ownship.learn.loss import imitation
    from ownship.learn.optim import Optim
    from ownship.learn.run import Run
    from ownship.model import checkpoint
    from ownship.model.tokenizer import from_folder
    from ownship.recipes.settings import torch_dtype
    from ownship.recipes.watch import Watch

    deadline = None if config.minutes is None else time.monotonic() + config.minutes * 60
    dtype = torch_dtype(config.dtype)
    sizes(config)  # what is wrong is told before the data is read and the run begun
    given = None if config.tokenizer is None else from_folder(config.tokenizer)
    corpus = Corpus([config.data]) if config.data else Corpus([standard_library()], suffix=".py")
    scan = corpus.scan()
    print(f"data       {scan.report()}", flush=True)
    paths = {name: value and str(value) for name, value in (("data", config.data), ("tokenizer", config.tokenizer))}
    asked = {"recipe": "pretrain", **asdict(config), **paths, "out": str(config.out), "digest of the data": scan.digest}
    now = Run(config.out, asked, may_change=("minutes", "out", "save_every", "data", "activation_checkpointing"))
    tokenizer = given or distributed.first_then_all(lambda: _learnt(config, corpus, scan.threshold))
    dial = sizes(config, tokenizer.size)
    _tell(config, dial, tokenizer, scan.size, scan.held_out)
    model = network(config, dial, tokenizer).to(dtype)
    optim = Optim(dial.lr, weight_decay=config.weight_decay, warmup=dial.warmup, max_grad_norm=config.max_grad_norm,
                  kind=config.optimizer, end=now.state.get("end", dial.steps), decay=config.decay)
    learner = Learner(model, optim, config.micro_tokens, exact=False, recompute=config.activation_checkpointing)
    now.restore(learner)
    separator = _separator(tokenizer)

    def encode(text: str) -> list[int]:
        return [separator, *tokenizer.encode(text), separator]

    reader = Reader(corpus, scan, encode, dial.context, config.seed, now.state.get("place"))
    end, first, began = now.state.get("end", dial.steps), now.step, time.monotonic()
    with Interruptible() as stop, Watch("pretrain", end, now.step, deadline) as watch, now.saved(learner):
        while now.step < end:
            start = time.perf_counter()
            if deadline is not None and "end" not in now.state and now.step > first:
                pace = (time.monotonic() - began) / (now.step - first)
                needed = in_time(now.step, pace, deadline - time.monotonic(), config.decay)
                end = distributed.from_first(min(end, needed or end))
                if end < dial.steps:
                    now.state["end"] = end
                    learner.optim = replace(optim, end=end)
            pieces = reader.take(dial.batch)
            metrics = learner.update([predicted(piece) for piece in pieces], imitation, watch.learned(stop))
            metrics.pop("mismatch", None)  # there is no sampler here
            learned = time.perf_counter()
            # Not to be interrupted: the weights are a step ahead of what is written.
            if (now.step + 1) % config.eval_every == 0 or now.step + 1 == end or now.step == 0:
                metrics["bits_per_byte"] = bits_per_byte(model, scan.held_out, encode, dial.context, config.micro_tokens)
            now.log("metrics", **metrics)
            now.log("timings", learn=learned - start, measure=time.perf_counter() - learned, tokens=metrics["trained_tokens"],
                    end=end)
            now.state["place"] = reader.place
            now.finish_step(learner, config.save_every)
            watch.step(now.step, metrics)
    if distributed.first():
        checkpoint.save(model, tokenizer, config.out / "model")
    return config.out / "model"


def in_time(step: int, pace: float, left: float, decay: float) -> int | None:
    """Where a run has to end that has `left` seconds, if its decay has to begin now, at `step`; else None. `pace` is seconds per
    update; the decay takes its share of all updates."""
    rest = max(1, math.ceil(step * decay / (1 - decay))) if decay < 1 else 1
    return step + rest if rest * pace >= left else None


def standard_library() -> Path:
    """Real text that is on every machine: the folder of Python's own sources."""
    import sysconfig

    return Path(sysconfig.get_path("stdlib"))


def network(config: Pretrain, dial: Sizes, tokenizer: Tokenizer) -> Llama:
    """A fresh network in float32: Normal(0, 0.02), what is added to the residual stream smaller by √(2 · layers) (GPT-2)."""
    import torch

    from ownship.model.llama import Llama, LlamaConfig

    stops = tuple(dict.fromkeys((tokenizer.eos_id, _separator(tokenizer))))
    model = Llama(LlamaConfig(
        vocab_size=dial.vocab, hidden_size=dial.width, intermediate_size=dial.mlp, num_hidden_layers=config.depth,
        num_attention_heads=dial.heads, num_key_value_heads=dial.heads, head_dim=dial.width // dial.heads,
        max_position_embeddings=dial.context, tie_word_embeddings=True, eos_token_ids=stops)).init_weights(config.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.div_(math.sqrt(2 * config.depth))
    return model


def _separator(tokenizer: Tokenizer) -> int:
    """The token before and after every document."""
    from ownship.model.bpe import END_OF_TEXT

    known = tokenizer.special.get(END_OF_TEXT)
    return tokenizer.eos_id if known is None else known


def _learnt(config: Pretrain, corpus: Corpus, held_out: bytes) -> Tokenizer:
    """A tokenizer learnt from the training documents, kept in the run's folder."""
    from ownship.model import bpe
    from ownship.model.checkpoint import whole_folder
    from ownship.model.tokenizer import from_folder

    def texts() -> Iterator[str]:
        room = _TOKENIZER_TEXT
        for text, mark in corpus.documents(f"{config.seed} tokenizer"):
            if mark > held_out:
                yield text
                room -= len(text)
            if room <= 0:
                return

    folder = config.out / "tokenizer"
    if not folder.is_dir():
        with whole_folder(folder) as part:
            bpe.train(texts(), sizes(config).vocab).save(part)
    return from_folder(folder)


def _tell(config: Pretrain, dial: Sizes, tokenizer: Tokenizer, size: int, held_out: list[str]) -> None:
    """Prints what the dial set, and how often the data will be read."""
    sample = "".join(held_out)
    tokens = size * len(tokenizer.encode(sample)) / len(sample.encode("utf-8", "replace"))
    for name, value in asdict(dial).items():
        given = getattr(config, name, None) is not None
        source = "as given" if given else "steps · batch" if name == "tokens" and config.steps else f"from --depth {config.depth}"
        print(f"{name:<10} {value:>14,}   {'' if name == 'parameters' else f'--{name}':<10} {source}")
    epochs = dial.steps * dial.batch / tokens
    print(f"the data has about {tokens:,.0f} tokens: {dial.steps:,} updates read it {epochs:.2g} times"
          + ("; after the fourth time it teaches little (arXiv:2305.16264)" if epochs > 4 else ""), flush=True)
