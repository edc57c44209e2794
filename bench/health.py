"""Does the server stay awake while it works? /health and the first token of a newcomer, while 64 streams decode.

    make bench-health        or: python bench/health.py [--streams 64] [--tokens 256]

Starts `ownship serve` on the default model, opens the streams, and asks /health every 50 ms until they end. Writes
runs/bench/health.json: milliseconds (median, 99th percentile, worst) with the streams and without, tokens per second, and the
server's largest resident size in MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

PROCESSES = multiprocessing.get_context("spawn")


def probe(url: str, answer: Connection) -> None:
    """Milliseconds of each answer until told to stop. A process of its own: 64 streams keep their reader busy."""
    found: list[float] = []
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/health").raise_for_status()
        answer.send(None)
        while not answer.poll():
            start = time.perf_counter()
            client.get("/health").raise_for_status()
            found.append((time.perf_counter() - start) * 1e3)
            time.sleep(0.05)
    answer.send(found)


@contextlib.contextmanager
def probed(url: str) -> Iterator[list[float]]:
    """What `probe` finds meanwhile; filled at the end."""
    found: list[float] = []
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=probe, args=(url, theirs))
    process.start()
    try:
        ours.recv()
        yield found
        ours.send(None)
        found += ours.recv()
        process.join()
    finally:
        process.kill()


async def stream(client: httpx.AsyncClient, index: int, tokens: int) -> int:
    """Chunks of one reply; the slow reader is not us."""
    body = {"model": "smollm2-135m-instruct", "stream": True, "max_tokens": tokens, "temperature": 1, "seed": index,
            "messages": [{"role": "user", "content": f"Write a long story, number {index}, about a ship and the sea."}]}
    count = 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            count += line.startswith("data: {")
    return count


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"median": round(statistics.median(ordered), 2), "p99": round(ordered[int(len(ordered) * 0.99)], 2),
            "worst": round(ordered[-1], 2), "asked": len(ordered)}


async def read(url: str, streams: int, tokens: int) -> int:
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=streams)) as client:
        return sum(await asyncio.gather(*(stream(client, index, tokens) for index in range(streams))))


def measure(url: str, streams: int, tokens: int) -> dict[str, Any]:
    with probed(url) as idle:
        time.sleep(3)
    with probed(url) as busy:
        start = time.perf_counter()
        chunks = asyncio.run(read(url, streams, tokens))
        seconds = time.perf_counter() - start
    return {"streams": streams, "idle_ms": summary(idle), "busy_ms": summary(busy), "chunks_per_second": round(chunks / seconds, 1),
            "seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/health.json"))
    options = parser.parse_args()
    with subprocess.Popen([sys.executable, "-m", "ownship", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+?:\d+", server.stdout.readline())
            assert found is not None, "the server did not start"
            result = measure(found[0], options.streams, options.tokens)
            status = Path(f"/proc/{server.pid}/status").read_text()
            result["peak_mb"] = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) >> 10  # type: ignore[index]
        finally:
            server.terminate()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
