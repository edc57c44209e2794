"""What a gateway costs: ours beside the LiteLLM proxy, before the same upstream, in turns.

    make bench-gateway        or: python bench/gateway.py [--rounds 3] [--seconds 5] [--peers ownship ownship-2 litellm]

The upstream (bench/stub.py) and the clients (bench/load.py) are processes of their own and go to 127.0.0.1 only; all share this
machine's cores, so what they take of the processor is told as well. Each gateway is one process; ownship-2 is ours with two
workers. Ours looks up a key, reserves, settles and writes the ledger for every request; LiteLLM runs without a database. Measured,
in each round: requests a second of 64 clients (not streamed, streamed); the time to the first token of one client, less what the
upstream takes without a gateway, alone and while 1,000 others stream 20 pieces in two seconds again and again; 1,000 clients who
begin to stream at once. At the end, for ours: resident memory over 20,000 requests. Writes runs/bench/gateway.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines import BENCH, THREADS

HERE = Path(__file__).resolve().parent
RUNS = Path("runs/bench")
STREAMS, SOAK, SLICES = 1000, 20_000, 10

GATEWAY = """[upstreams.stub]
url = "http://127.0.0.1:{port}/v1"
privacy = "local"
concurrency = 2000
[models.stub]
upstream = "stub"
price = {{ input = 1.0, output = 2.0 }}
[models.stub-paced]
upstream = "stub"
price = {{ input = 1.0, output = 2.0 }}
"""
LITELLM = """model_list:
  - model_name: stub
    litellm_params: {{model: openai/stub, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
  - model_name: stub-paced
    litellm_params: {{model: openai/stub-paced, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
general_settings: {{master_key: sk-bench}}
litellm_settings: {{telemetry: false, num_retries: 0}}
"""


@dataclass
class Door:
    """What clients go to."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    key: str = "none"
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def load(self, kind: str, **settings: Any) -> dict[str, Any]:
        """One run of the clients; kept under `kind`."""
        asked = {"port": self.port, "key": self.key, "model": "stub", "stream": False, **settings}
        began, clients = self.processor(), of_children()
        done = subprocess.run([sys.executable, str(HERE / "load.py"), json.dumps(asked)], stdout=subprocess.PIPE, check=True,
                              timeout=settings["seconds"] + 120)
        found: dict[str, Any] = json.loads(done.stdout)
        found["cpu_ms"] = round((self.processor() - began) * 1e3 / max(found["ok"], 1), 3)
        found["client_cpu_ms"] = round((of_children() - clients) * 1e3 / max(found["ok"], 1), 3)
        self.runs.setdefault(kind, []).append(found)
        first = found["first_ms"].get("p50", 0.0)
        print(f"  {self.name:8} {kind:8} {found['per_second']:8.1f} a second, {found['cpu_ms']:7.3f} ms of processor, first token "
              f"{first:8.2f} ms; {found['ok']} whole, {found['lost']} lost, {found['mixed']} mixed up", flush=True)
        return found

    def beside(self, kind: str, seconds: float = 6.0, **settings: Any) -> None:
        """A run of one client while STREAMS others stream."""
        asked = {"port": self.port, "key": self.key, "model": "stub-paced", "stream": True, "clients": STREAMS, "seconds": seconds,
                 "requests": 1_000_000}
        with subprocess.Popen([sys.executable, str(HERE / "load.py"), json.dumps(asked)], stdout=subprocess.PIPE) as others:
            time.sleep(2.5)  # they have all begun
            self.load(kind, clients=1, requests=300, seconds=seconds - 3.5, stream=True)
            found = json.loads(others.communicate(timeout=seconds + 120)[0])
        self.runs[kind][-1]["others"] = {name: found[name] for name in ("ok", "lost", "mixed", "per_second")}

    def processes(self) -> list[int]:
        """Of the gateway: the first one and its workers."""
        assert self.process is not None
        first = self.process.pid
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    def processor(self) -> float:
        """Seconds of processor time that the processes have had."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.processes()]
        return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB."""
        lines = [line for pid in self.processes() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def of_children() -> float:
    """Seconds of processor time that the clients have had so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], log: str, answers: Callable[[], bool], environment: dict[str, str],
            ) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has come to answer; ended at the end."""
    path = BENCH / "logs" / log
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{log.removesuffix('.log')} does not answer; see {path}")
            time.sleep(0.2)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def answering(port: int, path: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


@contextlib.contextmanager
def stub() -> Iterator[Door]:
    port = free_port()
    command = [sys.executable, str(HERE / "stub.py"), str(port)]
    with running(command, "stub.log", lambda: listening(port), dict(os.environ)) as process:
        yield Door("stub", port, process)


@contextlib.contextmanager
def ownship(behind: int, folder: Path, *more: str) -> Iterator[Door]:
    folder.mkdir(exist_ok=True)
    port, store = free_port(), str(folder / "store.db")
    (folder / "gateway.toml").write_text(GATEWAY.format(port=behind))
    module = [sys.executable, "-m", "ownship"]
    made = subprocess.run([*module, "keys", "create", "bench", "--store", store], capture_output=True, text=True, check=True)
    secret = next(word for word in made.stdout.split() if len(word) > 40)
    command = [*module, "serve", "--config", str(folder / "gateway.toml"), "--port", str(port), "--store", store, *more]
    with running(command, "gateway-ownship.log", lambda: answering(port, "/health"), dict(os.environ)) as process:
        yield Door(folder.name, port, process, secret)


@contextlib.contextmanager
def litellm(behind: int, folder: Path) -> Iterator[Door]:
    folder.mkdir(exist_ok=True)
    port, config = free_port(), folder / "litellm.yaml"
    config.write_text(LITELLM.format(port=behind))
    command = [str(BENCH / "litellm" / "bin" / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1",
               "--num_workers", "1"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with running(command, "gateway-litellm.log", lambda: answering(port, "/health/liveliness"), environment) as process:
        yield Door("litellm", port, process, "sk-bench")


def soak(door: Door) -> dict[str, Any]:
    """Resident memory while SOAK requests go through, half of them streamed, after the same number has warmed it up a tenth."""
    door.load("warm", clients=64, requests=SOAK // 10, seconds=120)
    door.load("warm", clients=64, requests=SOAK // 10, seconds=120, stream=True)
    sizes = [door.resident()]
    for at in range(SLICES):
        door.load("soak", clients=64, requests=SOAK // SLICES, seconds=120, stream=at % 2 == 1)
        sizes.append(door.resident())
    return {"requests": SOAK, "mib": [round(size, 1) for size in sizes], "change": round(sizes[-1] / sizes[0] - 1, 4),
            "lost": sum(run["lost"] for run in door.runs["soak"]), "mixed": sum(run["mixed"] for run in door.runs["soak"])}


def median(runs: list[dict[str, Any]], *path: str) -> float:
    values: list[Any] = list(runs)
    for key in path:
        values = [value[key] for value in values]
    return round(statistics.median(values), 3)


def report(doors: list[Door], behind: Door, memory: dict[str, Any] | None) -> dict[str, Any]:
    direct, busy = (median(behind.runs[kind], "first_ms", "p50") for kind in ("first", "beside"))
    found: dict[str, Any] = {"made": time.strftime("%Y-%m-%d"), "cores": THREADS, "upstream": {
        "per_second": median(behind.runs["whole"], "per_second"), "cpu_ms": median(behind.runs["whole"], "cpu_ms"),
        "first_ms": direct, "beside_first_ms": busy}}
    for door in doors:
        many = door.runs["many"]
        found[door.name] = {
            "per_second": median(door.runs["whole"], "per_second"), "streams_per_second": median(door.runs["stream"], "per_second"),
            "cpu_ms": median(door.runs["whole"], "cpu_ms"), "client_cpu_ms": median(door.runs["whole"], "client_cpu_ms"),
            "first_ms": median(door.runs["first"], "first_ms", "p50"),
            "added_first_ms": round(median(door.runs["first"], "first_ms", "p50") - direct, 3),
            "at_once": {"clients": STREAMS, "ok": sum(run["ok"] for run in many), "lost": sum(run["lost"] for run in many),
                        "mixed": sum(run["mixed"] for run in many), "first_ms": median(many, "first_ms", "p50")},
            "runs": {kind: [run["per_second"] for run in door.runs[kind]] for kind in ("whole", "stream")}}
        if beside := door.runs.get("beside"):
            found[door.name]["beside"] = {
                "streams": STREAMS, "first_ms": median(beside, "first_ms", "p50"),
                "added_first_ms": round(median(beside, "first_ms", "p50") - busy, 3),
                **{name: sum(run["others"][name] for run in beside) for name in ("ok", "lost", "mixed")}}
    if memory is not None:
        found["ownship"]["memory"] = memory
    if {"ownship", "litellm"} <= found.keys():
        found["times_litellm"] = round(found["ownship"]["per_second"] / found["litellm"]["per_second"], 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run that counts requests")
    parser.add_argument("--peers", nargs="+", choices=["ownship", "ownship-2", "litellm"],
                        default=["ownship", "ownship-2", "litellm"])
    parser.add_argument("--no-soak", action="store_true", help="leave the memory over 20,000 requests out")
    args = parser.parse_args()
    most = 1_000_000
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        behind = stack.enter_context(stub())
        starts = {"ownship": ownship, "ownship-2": lambda port, folder: ownship(port, folder, "--workers", "2"), "litellm": litellm}
        doors = [stack.enter_context(starts[name](behind.port, folder / name)) for name in args.peers]
        for door in doors:  # what is loaded or compiled at the first request
            door.load("warm", clients=8, requests=200, seconds=60)
            door.load("warm", clients=8, requests=200, seconds=60, stream=True)
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", flush=True)
            for door in [behind, *doors]:
                door.load("first", clients=1, requests=300, seconds=60, stream=True)
            for door in [behind, *(door for door in doors if door.name != "litellm")]:  # which needs a minute to begin so many
                door.beside("beside")
            for door in [behind, *doors]:
                door.load("whole", clients=64, requests=most, seconds=args.seconds)
            for door in doors:
                door.load("stream", clients=64, requests=most, seconds=args.seconds, stream=True)
            for door in doors:
                door.load("many", clients=STREAMS, requests=STREAMS, seconds=120, stream=True, model="stub-paced")
        ours = next((door for door in doors if door.name == "ownship"), None)
        memory = None if ours is None or args.no_soak else soak(ours)
        found = report(doors, behind, memory)
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / "gateway.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
