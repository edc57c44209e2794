"""Runs `ownship ARGUMENTS…` again and again, killed each time at another moment, and at last to its end.

    python killed.py SEED OUT ARGUMENTS…

The process only imports and forks: each attempt begins as a fresh process does, without its seconds of imports. Prints how each
attempt was killed; fails if one leaves a checkpoint that is not whole.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch._dynamo  # noqa: F401 (an optimizer's first step imports it: a second)
from safetensors import safe_open

from ownship import cli
from ownship.engine import engine  # noqa: F401 (with what it imports)
from ownship.evals import accuracy, bits  # noqa: F401
from ownship.learn import run
from ownship.model import checkpoint


def main(seed: str, out: Path, arguments: list[str]) -> None:
    draw = random.Random(seed)
    kinds = ["step", "save", "time", "step", "save", "time", "model", "end"]
    while kinds:
        kind = kinds.pop(0)
        before = len(lines(out))
        child = os.fork()
        if child == 0:
            code = 70
            try:
                if kind == "save":
                    run.save_file = halfway(run.save_file, draw.randint(1, 2))
                if kind == "model":
                    checkpoint.save_file = halfway(checkpoint.save_file, 1)
                code = cli.main(arguments)
            finally:
                sys.stderr.flush()
                os._exit(code)
        if kind == "step":
            wanted = before + draw.randint(1, 3)
            while len(lines(out)) < wanted and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                time.sleep(0.001)
        if kind in ("step", "time"):
            time.sleep(draw.random() * (0.02 if kind == "step" else 0.3))
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(kind, code, len(lines(out)), flush=True)
        ended = {"end": (0,), **dict.fromkeys(("time", "step"), (-signal.SIGKILL, 0))}  # a run may be done before the signal comes
        assert code in ended.get(kind, (-signal.SIGKILL,)), (kind, code)
        for saved in (out / "checkpoints").glob("[0-9]*"):
            assert json.loads((saved / "state.json").read_text())["step"] == int(saved.name)
            with safe_open(saved / "learner.safetensors", framework="pt") as file:
                assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118
        if code == 0:
            assert (out / "model").exists()
            break
        if (out / "model").exists():  # the signal came when the model was whole and the process had not ended yet
            assert kind in ("step", "time")
            kinds = ["end"]


def lines(out: Path) -> list[str]:
    path = out / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def halfway(save: Callable[..., None], number: int) -> Callable[..., None]:
    """`save`, but the process is killed when it has written half of the file for the `number`th time."""
    calls = 0

    def saving(tensors: object, path: Path, **more: object) -> None:
        nonlocal calls
        save(tensors, path, **more)
        calls += 1
        if calls == number:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    return saving


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
