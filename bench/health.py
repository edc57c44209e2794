"""Does the server stay awake while it works? /health and the first token of a newcomer, while 64 streams decode.

    make bench-health        or: python bench/health.py [--streams 64] [--tokens 256]

Starts `ownship serve` on the default model, opens the streams, and asks /health every 50 ms until they end. Writes
runs/bench/health.json: milliseconds (median, 99th percentile, worst) with the streams and without, tokens per second, and the
server's largest resident size in MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx


async def probe(client: httpx.AsyncClient, until: asyncio.Event) -> list[float]:
    """Milliseconds of each answer."""
    found: list[float] = []
    while not until.is_set():
        start = time.perf_counter()
        (await client.get("/health")).raise_for_status()
        found.append((time.perf_counter() - start) * 1e3)
        await asyncio.sleep(0.05)
    return found


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


async def measure(url: str, streams: int, tokens: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=streams + 8)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        quiet, done = asyncio.Event(), asyncio.Event()
        asyncio.get_running_loop().call_later(3, quiet.set)
        idle = await probe(client, quiet)
        start = time.perf_counter()
        probing = asyncio.create_task(probe(client, done))
        counts = await asyncio.gather(*(stream(client, index, tokens) for index in range(streams)))
        seconds = time.perf_counter() - start
        done.set()
        return {"streams": streams, "idle_ms": summary(idle), "busy_ms": summary(await probing),
                "chunks_per_second": round(sum(counts) / seconds, 1), "seconds": round(seconds, 1)}


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
            result = asyncio.run(measure(found[0], options.streams, options.tokens))
            status = Path(f"/proc/{server.pid}/status").read_text()
            result["peak_mb"] = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) >> 10  # type: ignore[index]
        finally:
            server.terminate()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
