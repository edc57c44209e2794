"""The main job, end to end: measure a small open model, give it a cold start, improve it by reinforcement learning on a
verifiable reward, measure it again, and leave the model, a report, a picture and a page.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ownship.errors import UserError

TASK = "sums:low=4,high=7"  # measured and improved on
# The cold start shows shorter sums, and only some of them worked out: to find out that working pays, and to reach the longer
# ones, is left to reinforcement learning.
COLD = "sums:low=3,high=5,worked=0.4"
COLD_STEPS = 16
HELD_OUT = 256
MAX_TOKENS = 72  # seven numbers worked out take 55
MODEL = "smollm2-135m-instruct"
LEARNING_RATE = 3e-5
REFILL = 2.0  # sampling is cheap beside learning; flat groups are replaced, up to twice as many again

NAMES = {"base": "the model as it came", "cold_start": "the model after the cold start", "rl": "the model after RL"}


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
            seconds = self.data["seconds"]
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start
            self.data["peak_memory_mb"] = max(self.data["peak_memory_mb"], machine.peak_memory_mb())
            self.save()

    def tell(self, text: str) -> None:
        print(f"\n[{self.spent / 60:4.1f} min] {text}", file=sys.stderr, flush=True)

    def save(self) -> None:
        from ownship.learn.run import write_whole

        write_whole(self.path, json.dumps(self.data, indent=2) + "\n")


def run(config: Demo) -> dict[str, Any]:
    """Runs, continues or, if all is done, reports; returns the report. Raises Interrupted after Ctrl-C.

    Each phase is a command that a person could give, in a process of its own: its memory ends with it.
    """
    from ownship.model import zoo

    if config.minutes <= 0:
        raise UserError(f"--minutes must be positive, not {config.minutes}")
    diary = Diary(config.out, config.seed)
    cold, improved = config.out / "cold_start", config.out / "rl"

    diary.phase("setup", lambda: zoo.resolve(MODEL))
    _measure(config, diary, "base", MODEL, "base_eval")

    if "cold_start" not in diary:
        diary.tell("cold start: imitating solutions of short sums, some of them worked out")
        diary.phase("cold_start", lambda: _child("sft", "--model", MODEL, "--env", COLD, "--out", cold, "--steps", COLD_STEPS,
                                                 "--seed", config.seed))
    _measure(config, diary, "cold_start", cold / "model", "cold_eval")

    left = config.minutes * 60 - diary.spent - diary.data["seconds"]["cold_eval"] * 1.3 - 20
    if "rl" not in diary or left > 60:
        diary.data.pop("rl", None)
        diary.data["seconds"].pop("rl_eval", None)
        diary.tell("reinforcement learning on longer sums: right or wrong is the only hint")
        diary.phase("rl", lambda: _child(
            "rl", "--model", cold / "model", "--env", TASK, "--out", improved, "--minutes", max(left, 5) / 60, "--steps", 100_000,
            "--max-tokens", MAX_TOKENS, "--refill", REFILL, "--optim.lr", LEARNING_RATE, "--optim.warmup", 3,
            "--seed", config.seed))
    _measure(config, diary, "rl", improved / "model", "rl_eval")
    return _finish(config, diary)


def _measure(config: Demo, diary: Diary, name: str, model: str | Path, phase: str) -> None:
    """Held-out accuracy of a model, once; its replies are kept for the page."""
    if name not in diary:
        diary.tell(f"measuring {NAMES[name]} on {HELD_OUT} held-out tasks")
        result = config.out / f"{name}.json"
        diary.phase(phase, lambda: _child("eval", model, "--env", TASK, "--n", HELD_OUT, "--max-tokens", MAX_TOKENS,
                                          "--out", result))
        diary.data[name] = {key: value for key, value in json.loads(result.read_text()).items() if key not in ("model", "env")}
        diary.save()


def _child(*arguments: object) -> None:
    """Runs one verb and waits. Ctrl-C reaches it through us, once, so that it can save. Raises Interrupted or UserError."""
    from ownship.learn.interrupt import Interrupted

    command = [sys.executable, "-m", "ownship", *map(str, arguments)]
    with subprocess.Popen(command, start_new_session=True, env={**os.environ, "OWNSHIP_PHASE": "1"}) as child:
        asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, lambda number, _: child.send_signal(number)) for number in asked}
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if code in (130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP):
        raise Interrupted
    if code:
        raise UserError(f"`ownship {arguments[0]}` ended with code {code}; what it said stands above")


def _finish(config: Demo, diary: Diary) -> dict[str, Any]:
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
    lines = "".join(f"  {NAMES[name]:30} {report[name]['accuracy']:6.1%}   (95 % interval {report[name]['ci95'][0]:.1%}"
                    f" to {report[name]['ci95'][1]:.1%})\n" for name in NAMES)
    print(f"\nSolved of {HELD_OUT} held-out tasks:\n{lines}"
          f"{report['seconds']['total'] / 60:.1f} minutes, {report['peak_memory_mb'] / 1024:.1f} GB at most,"
          f" {report['rl_steps']} RL steps.\n\n"
          f"  report    {config.out / 'report.json'}\n  picture   {config.out / 'curve.png'}\n"
          f"  page      {config.out / 'rollouts.html'}\n\n"
          f"Next:\n  .venv/bin/ownship chat {config.out / 'model'}\n  .venv/bin/ownship serve {config.out / 'model'}\n", flush=True)
    return report


def _last_line(path: Path) -> str:
    return path.read_text().splitlines()[-1]


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("ownship", "torch", "numpy", "tokenizers")}}
