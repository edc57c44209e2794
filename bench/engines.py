"""The engines of the benchmark: which there are, what each is started with, and one as a child process.

Peers that follow a dtype run in bfloat16 and, where the processor multiplies no bf16, in float32 beside it: goals are held against
whichever is faster.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ownship.model.ops import widens

_HERE = Path(__file__).resolve().parent
BENCH = Path(os.environ.get("OWNSHIP_BENCH_DIR") or _HERE.parent / ".bench").resolve()
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PRECISIONS = {"ownship-bf16": "bfloat16", "ownship-int8": "int8", "ownship-int4": "int4", "ownship-f32": "float32"}


@dataclass(frozen=True)
class Spec:
    """How one engine is started."""

    name: str
    peer: str  # the name that --peers knows it by
    script: str
    python: str = sys.executable
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    starts: int = 3  # how often the time to the first token is taken


def engines(model: Path, folder: Path) -> list[Spec]:
    """All engines that there are; `model` is the GGUF file, `folder` the same weights in Hugging Face layout."""
    common = {"model": str(model), "threads": THREADS}
    found = [Spec(name, "ownship", "own.py", settings={**common, "precision": precision})
             for name, precision in PRECISIONS.items()]
    dtypes = {"": "bfloat16", "-f32": "float32"} if widens() else {"": "bfloat16"}
    found += [Spec("transformers" + suffix, "transformers", "huggingface.py", settings={**common, "dtype": dtype},
                   environment={"HF_HUB_OFFLINE": "1"}) for suffix, dtype in dtypes.items()]
    found.append(Spec("llamacpp-built", "llamacpp", "llamacpp_built.py", _python("llamacpp"), common))
    found.append(Spec("llamacpp-wheel", "llamacpp", "llamacpp_wheel.py", _python("xllamacpp"), common))
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else ""
    found += [Spec("vllm" + suffix, "vllm", "vllm_cpu.py", _python("vllm"), {**common, "folder": str(folder), "dtype": dtype}, {
        "LD_PRELOAD": str(BENCH / "vllm" / "lib" / "libiomp5.so"),
        "OMP_NUM_THREADS": str(THREADS),
        "KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{cores}]",
        "KMP_BLOCKTIME": "5",  # as vLLM sets it itself
        "KMP_TPAUSE": "0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the lines above bind
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CACHE_ROOT": str(BENCH / "cache" / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(BENCH / "cache" / "inductor"),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }, starts=1) for suffix, dtype in dtypes.items()]
    return found


def _python(venv: str) -> str:
    return str(BENCH / venv / "bin" / "python")


def missing(spec: Spec) -> str | None:
    """What to do for an engine that is not on this machine."""
    if spec.peer == "transformers":
        return None if find_spec("transformers") else "pip install transformers"
    return None if spec.peer == "ownship" or (Path(spec.python).parent.parent / "ready").exists() else "make bench-peers"


class Broken(Exception):
    """An engine failed; the message says how."""


class Child:
    """An engine that runs; between two runs it sleeps."""

    def __init__(self, spec: Spec, *arguments: str) -> None:
        self.spec = spec
        self.log = BENCH / "logs" / f"{spec.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" or spec.python == sys.executable}
        self.began = time.perf_counter()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [spec.python, str(_HERE / "peers" / spec.script), json.dumps(spec.settings), *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                env=environment | spec.environment)

    def answer(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            last = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            raise Broken(f"{self.spec.name} ended: {''.join(last)[:300]} (see {self.log})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Broken(f"{self.spec.name}: {answer['error'][:300]} (see {self.log})")
        return answer

    def run(self, work: dict[str, Any]) -> dict[str, Any]:
        """One run, timed by the engine's side."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answer` says why
            self.process.stdin.write(json.dumps(work) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def cpu_seconds(self) -> float:
        """Processor time of the engine so far, of its own children too; 0 where the system does not tell."""
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid:  # the session
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Ends it and what it has started."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
