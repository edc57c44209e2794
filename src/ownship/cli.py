"""`ownship <verb>`: the command line. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ownship.engine.request import Precision
from ownship.errors import UserError
from ownship.recipes.demo import Demo
from ownship.recipes.dpo import DPO
from ownship.recipes.live import Live
from ownship.recipes.plan import Plan
from ownship.recipes.pretrain import Pretrain
from ownship.recipes.report import Report
from ownship.recipes.rl import RL
from ownship.recipes.sft import SFT
from ownship.recipes.tokenizer import TrainTokenizer
from ownship.serve.command import Serve
from ownship.store.command import Keys, Usage
from ownship.studio.command import Studio
from ownship.surfaces.worlds.command import World
from ownship.surfaces.worlds.recipe import WorldTrain

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


@dataclass(frozen=True)
class Eval:
    """Measure a model on held-out tasks of an environment."""

    model: Model
    """A zoo name, a folder in Hugging Face layout, an adapter's folder, a .gguf file or a hub name."""
    env: str = "sort"
    """The environment: name or name:option=value,…"""
    n: int = 200
    """Held-out tasks."""
    max_tokens: int = 64
    """Longest reply."""
    precision: Precision = "bfloat16"
    """Of the weights."""
    out: Path | None = None
    """Also write the result as JSON, and every reply as JSON lines beside it."""


@dataclass(frozen=True)
class Chat:
    """Talk to a model in the terminal."""

    model: Model = "smollm2-135m-instruct"
    """A zoo name, a folder in Hugging Face layout, an adapter's folder, a .gguf file or a hub name."""
    system: str | None = None
    """System message."""
    temperature: float = 0.7
    """0 is greedy."""
    max_tokens: int = 512
    """Longest reply."""
    precision: Precision = "bfloat16"
    """Of the weights: int8 answers twice as fast, a little less exactly; int4, for .gguf files with 4 bits only, faster still."""


@dataclass(frozen=True)
class Merge:
    """Merge an adapter (LoRA, in PEFT's format) into its base model."""

    adapter: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """The adapter's folder, or a hub name."""
    out: Path
    """Where the merged model is written, in Hugging Face layout."""
    base: str | None = None
    """The model it was trained on, if that is not where the adapter says."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the merged weights."""


@dataclass(frozen=True)
class Bench:
    """Measure what this machine can do."""

    what: Annotated[Literal["roofline"], tyro.conf.Positional] = "roofline"
    """roofline: how fast it multiplies matrices and reads memory, the limits of training and generating."""


@dataclass(frozen=True)
class Models:
    """List the models that are known by name, and whether they are on this machine."""


@dataclass(frozen=True)
class Envs:
    """List the environments."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0 done, 2 the user can mend it, 130 interrupted. One of several processes ends here."""
    from ownship.learn import distributed

    code = _verb(arguments)
    if distributed.joined():  # torch's threads for the other processes would sometimes turn an ordinary end into SIGABRT
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _verb(arguments: list[str] | None) -> int:
    verbs: dict[str, Callable[..., Any]] = {
        "demo": Demo, "tokenizer": TrainTokenizer, "pretrain": Pretrain, "sft": SFT, "dpo": DPO, "rl": RL, "eval": Eval,
        "chat": Chat, "serve": Serve, "studio": Studio, "world": World, "world-train": WorldTrain, "keys": Keys, "usage": Usage,
        "merge": Merge, "models": Models, "envs": Envs, "watch": Live, "report": Report, "plan": Plan, "bench": Bench}
    try:
        try:
            config = tyro.extras.subcommand_cli_from_dict(
                verbs, prog="ownship", description="Build, teach, rank and ship your own flagship language model.", args=arguments)
        finally:
            sys.stdout.flush()  # the help, which ends the process: a reader that has stopped is noticed here, not when Python ends
        with _ranks(config):
            code = _run(config)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _say(str(error), 2)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "; what was saved before is whole: make space, and the same command goes on" if full else ""
        return _say(f"{error.filename or 'system'}: {error.strerror or error}{mend}", 2)


@contextmanager
def _ranks(config: object) -> Iterator[None]:
    """Where torchrun started several processes: makes them one training, if that is what was asked for."""
    from ownship.learn import distributed

    with distributed.session():
        if distributed.several() and not isinstance(config, Pretrain | SFT | DPO | RL):
            raise UserError("torchrun is for pretrain, sft, dpo and rl; start this one without it")
        yield


def _say(text: str, code: int) -> int:
    print(f"ownship: {text}", file=sys.stderr)
    return code


def _run(config: object) -> int:
    match config:
        case Models():
            return _models()
        case Envs():
            return _envs()
        case Plan():
            from ownship.recipes import plan

            plan.run(config)
            return 0
        case Live():
            from ownship.recipes import live

            live.run(config)
            return 0
        case Report():
            from ownship.recipes import report

            print(f"the report is in {report.run(config)}")
            return 0
        case Keys() | Usage():
            from ownship.store import command

            command.run(config)
            return 0
        case Serve():
            from ownship.serve import command as serving

            serving.run(config)
            return 0
    from ownship import machine
    from ownship.learn.interrupt import Interrupted

    machine.prepare()
    try:
        match config:
            case Bench():
                import json

                from ownship.evals import roofline

                print(json.dumps(roofline.measure(), indent=2))
            case Demo():
                from ownship.recipes import demo

                demo.run(config)
            case TrainTokenizer():
                from ownship.recipes import tokenizer

                print(f"the tokenizer is in {tokenizer.run(config)}")
            case Pretrain():
                from ownship.recipes import pretrain

                print(f"the model is in {pretrain.run(config)}")
            case SFT():
                from ownship.recipes import sft

                print(f"the model is in {sft.run(config)}")
            case DPO():
                from ownship.recipes import dpo

                print(f"the model is in {dpo.run(config)}")
            case RL():
                from ownship.recipes import rl

                print(f"the model is in {rl.run(config)}")
            case Eval():
                return _eval(config)
            case Chat():
                from ownship.serve import terminal

                terminal.chat(config.model, config.system, config.temperature, config.max_tokens, config.precision)
            case Studio():
                from ownship.studio import app as studio

                studio.run(config)
            case WorldTrain():
                from ownship.surfaces.worlds import recipe

                recipe.run(config)
            case World():
                from ownship.surfaces.worlds import command as world

                return world.run(config)
            case Merge():
                _merge(config)
    except Interrupted:
        if "OWNSHIP_PHASE" in os.environ:  # of the demo, which says so itself
            return 130
        if isinstance(config, Eval):  # which keeps nothing
            return _say("interrupted", 130)
        return _say("interrupted; nothing is lost: the same command goes on from here", 130)
    return 0


def _merge(config: Merge) -> None:
    from ownship.model import checkpoint, peft, zoo
    from ownship.recipes.settings import torch_dtype

    if config.out.exists():
        raise UserError(f"{config.out} exists already; choose another --out, or remove it")
    checkpoint.save(*peft.load(zoo.resolve(config.adapter), torch_dtype(config.precision), config.base), config.out)
    print(f"the model is in {config.out}")


def _models() -> int:
    from ownship.model import zoo

    for name, entry in zoo.ZOO.items():
        where = zoo.local(name)
        print(f"{name}  {entry.about}, {entry.license}\n    {where or 'not fetched yet: it will be on first use'}")
    print("\nAlso: a folder in Hugging Face layout, an adapter's folder, a .gguf file, or a hub name (org/model).")
    return 0


def _envs() -> int:
    from ownship.envs.registry import ENVS

    for name, (_, about) in ENVS.items():
        print(f"{name:12} {about}")
    print(f"{'gym/NAME':12} any task of reasoning-gym, strictly scored (pip install 'ownship[gym]')")
    print("\nOptions follow a colon: sort:low=4,high=9")
    return 0


def _eval(config: Eval) -> int:
    import json

    from ownship.engine.engine import serving
    from ownship.envs.registry import make
    from ownship.evals.accuracy import accuracy
    from ownship.learn.interrupt import Interruptible
    from ownship.model import zoo
    from ownship.recipes.watch import Watch

    if config.n < 1:
        raise UserError(f"--n must be at least 1, not {config.n}")
    env = make(config.env)
    engine = serving(zoo.resolve(config.model), config.precision)
    with Interruptible() as stop, Watch("eval", config.n) as watch:
        result = accuracy(engine, env, config.n, config.max_tokens, watch.sampled(stop), watch.answered)
    summary = {"model": config.model, "env": config.env, **result.summary()}
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(json.dumps(summary, indent=2) + "\n")
        lines = (json.dumps(rollout.record()) + "\n" for rollout in result.rollouts)
        config.out.with_suffix(".rollouts.jsonl").write_text("".join(lines))
    low, high = result.summary()["ci95"]
    print(f"{config.env}: {result.share:.1%} of {result.total} held-out tasks (95 % interval {low:.1%} to {high:.1%})")
    return 0
