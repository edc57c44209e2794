"""The main job, end to end: measure a small open model, give it a cold start, improve it by reinforcement learning on a
verifiable reward, measure it again, and leave the model, a report, a picture and a page.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ownship.errors import UserError

if TYPE_CHECKING:
    from ownship.evals.accuracy import Accuracy

TASK = "sums:low=4,high=7"  # measured and improved on
# The cold start shows shorter sums, and only some of them worked out: to find out that working pays, and to reach the longer
# ones, is left to reinforcement learning.
COLD = "sums:low=3,high=5,worked=0.4"
COLD_STEPS = 16
HELD_OUT = 256
MAX_TOKENS = 72  # seven numbers worked out take 55
MODEL = "smollm2-135m-instruct"
LEARNING_RATE = 3e-5
REFILL = 0.0  # the curriculum keeps most groups useful: the time is better spent on more updates


@dataclass(frozen=True)
class Demo:
    """Teach the default model to reason, measured before and after (about 15 minutes on two cores)."""

    minutes: float = 15.0
    """The whole takes at most this long. A finished demo run again with more minutes goes on learning."""
    out: Path = Path("runs/demo")
    """Where everything is kept. The same command continues an interrupted run."""
    seed: int = 0


class Diary:
    """What has been done and measured so far, in demo.json; time that other starts spent counts."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.path = folder / "demo.json"
        self.data: dict[str, Any] = {"seed": seed, "seconds": {}, "peak_memory_mb": 0}
        started = float(os.environ.get("OWNSHIP_STARTED") or time.time())
        before = max(0.0, time.time() - started)  # setting up, which `make` did before this process began
        if self.path.exists():
            self.data = json.loads(self.path.read_text())
            if self.data["seed"] != seed:
                raise UserError(f"{folder} holds a demo with seed {self.data['seed']}; choose another --out, or remove it")
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: not empty and not a demo run; choose another --out")
        else:
            self.data["seconds"]["setup"] = before
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, name: str) -> bool:
        return name in self.data

    @property
    def spent(self) -> float:
        return float(sum(self.data["seconds"].values()))

    def phase(self, name: str, work: Callable[[], Any]) -> Any:
        """Does the work and books its time, even if it is interrupted."""
        from ownship import machine

        start = time.monotonic()
        try:
            return work()
        finally:
            gc.collect()  # the phase's network and optimizer go before the next one's come
            seconds = self.data["seconds"]
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start
            self.data["peak_memory_mb"] = max(self.data["peak_memory_mb"], machine.peak_memory_mb())
            self.save()

    def save(self) -> None:
        from ownship.learn.run import write_whole

        write_whole(self.path, json.dumps(self.data, indent=2) + "\n")


def run(config: Demo) -> dict[str, Any]:
    """Runs, continues or, if all is done, reports; returns the report. Raises Interrupted after Ctrl-C."""
    from ownship.model import zoo
    from ownship.recipes import rl, sft
    from ownship.recipes.settings import OptimSettings

    if config.minutes <= 0:
        raise UserError(f"--minutes must be positive, not {config.minutes}")
    diary = Diary(config.out, config.seed)
    say = _Teller(config, diary)

    diary.phase("setup", lambda: zoo.resolve(MODEL))
    _measure(config, diary, say, "base", MODEL, "base_eval")

    if "cold_start" not in diary:
        say.section("cold start: imitating solutions of short sums, some of them worked out")
        cold = sft.SFT(model=MODEL, env=COLD, out=config.out / "cold_start", steps=COLD_STEPS, seed=config.seed, save_every=1000)
        diary.phase("cold_start", lambda: sft.run(cold))
    _measure(config, diary, say, "cold_start", str(config.out / "cold_start" / "model"), "cold_eval")

    ends = time.monotonic() + config.minutes * 60 - diary.spent - diary.data["seconds"]["cold_eval"] * 1.3 - 20
    if "rl" not in diary or ends - time.monotonic() > 60:
        diary.data.pop("rl", None)
        say.section("reinforcement learning on longer sums: right or wrong is the only hint")
        learning = rl.RL(model=str(config.out / "cold_start" / "model"), env=TASK, out=config.out / "rl", steps=100_000,
                         max_tokens=MAX_TOKENS, refill=REFILL, optim=OptimSettings(lr=LEARNING_RATE, warmup=3), seed=config.seed)
        diary.phase("rl", lambda: rl.run(learning, deadline=ends))
        diary.data["seconds"].pop("rl_eval", None)
    _measure(config, diary, say, "rl", str(config.out / "rl" / "model"), "rl_eval")
    return _finish(config, diary, say)


def _measure(config: Demo, diary: Diary, say: _Teller, name: str, model: str, phase: str) -> None:
    """Held-out accuracy of a model, once; its replies are kept for the page."""
    if name not in diary:
        say.section(f"measuring {say.NAMES[name]} on {HELD_OUT} held-out tasks")
        result: Accuracy = diary.phase(phase, lambda: _accuracy(model))
        replies = [rollout.record() for rollout in result.rollouts]
        (config.out / f"{name}.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
        levels: dict[int, list[bool]] = {}
        for rollout in result.rollouts:
            levels.setdefault(rollout.task.level, []).append(rollout.score.reward == 1.0)
        diary.data[name] = result.summary() | {"by_length": {str(k): round(sum(v) / len(v), 4) for k, v in sorted(levels.items())}}
        diary.save()
    say.result(name)


def _accuracy(model: str) -> Accuracy:
    from ownship.engine.engine import Engine
    from ownship.envs.registry import make
    from ownship.evals.accuracy import accuracy
    from ownship.learn.interrupt import Interruptible
    from ownship.model import checkpoint, zoo
    from ownship.recipes.watch import Watch

    network, tokenizer = checkpoint.load(zoo.resolve(model))
    with Interruptible() as stop, Watch("eval", HELD_OUT) as watch:
        return accuracy(Engine(network, tokenizer), make(TASK), HELD_OUT, MAX_TOKENS, watch.sampled(stop), watch.answered)


def _finish(config: Demo, diary: Diary, say: _Teller) -> dict[str, Any]:
    from ownship.learn.run import write_whole
    from ownship.recipes import page

    link = config.out / "model"
    if not link.is_symlink():
        link.symlink_to(Path("rl") / "model")
    seconds = {name: round(value, 1) for name, value in diary.data["seconds"].items()}
    report = {
        "task": TASK, "held_out": HELD_OUT, **{name: diary.data[name] for name in ("base", "cold_start", "rl")},
        "seconds": {**seconds, "total": round(diary.spent, 1)},
        "rl_steps": json.loads(_last_line(config.out / "rl" / "metrics.jsonl"))["step"],
        "peak_memory_mb": diary.data["peak_memory_mb"], "seed": config.seed, "versions": _versions(),
    }
    write_whole(config.out / "report.json", json.dumps(report, indent=2) + "\n")
    page.curve(config.out, report)
    page.rollouts(config.out, report)
    say.end(report)
    return report


def _last_line(path: Path) -> str:
    return path.read_text().splitlines()[-1]


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("ownship", "torch", "numpy", "tokenizers")}}


class _Teller:
    """What the demo says on the screen."""

    NAMES = {"base": "the model as it came", "cold_start": "the model after the cold start", "rl": "the model after RL"}  # noqa: RUF012

    def __init__(self, config: Demo, diary: Diary) -> None:
        self.config, self.diary = config, diary

    def section(self, text: str) -> None:
        print(f"\n[{self.diary.spent / 60:4.1f} min] {text}", file=sys.stderr, flush=True)

    def result(self, name: str) -> None:
        found = self.diary.data[name]
        low, high = found["ci95"]
        print(f"  {self.NAMES[name]:32} {found['accuracy']:6.1%}   (95 % interval {low:.1%} to {high:.1%})", flush=True)

    def end(self, report: dict[str, Any]) -> None:
        out = self.config.out
        print(f"\n{report['seconds']['total'] / 60:.1f} minutes, {report['peak_memory_mb'] / 1024:.1f} GB at most."
              f" {report['rl_steps']} RL steps.\n"
              f"  report    {out / 'report.json'}\n  picture   {out / 'curve.png'}\n  page      {out / 'rollouts.html'}\n\n"
              f"Next:\n  .venv/bin/ownship chat {out / 'model'}\n  .venv/bin/ownship serve {out / 'model'}\n", flush=True)
