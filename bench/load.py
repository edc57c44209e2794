"""Clients for the measurement of gateways: chat completions on this machine, bounded in number and time, each held to its nonce.

    python bench/load.py '{"port": …, "key": …, "model": "stub", "stream": true, "clients": 64, "requests": 2000, "seconds": 30}'

Prints one line of JSON: what came back, what was lost, what was mixed up, and how long it took. It goes to 127.0.0.1 and nowhere
else. A connection is kept per client, as the official clients do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import sys
import time
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NONCE = re.compile(rb"nonce-[0-9a-f]{16}")


class Client(asyncio.Protocol):
    """One connection. `begun` is when the first piece of the reply's text was there."""

    def connection_made(self, transport: Any) -> None:  # uvloop's are no subclass of asyncio.Transport
        self.transport, self.received, self.done = transport, bytearray(), asyncio.get_running_loop().create_future()
        self.begun: float | None = None
        self.open, self.streamed = True, False

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if not self.done.done():
            self.done.set_exception(ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.begun is None and _NONCE.search(self.received):
            self.begun = time.perf_counter()
        if self.streamed:
            if self.received.endswith(b"0\r\n\r\n"):
                self.end()
            return
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self.received, 0, head + 2)
        if length is None:
            self.streamed = True
            if self.received.endswith(b"\r\n0\r\n\r\n"):
                self.end()
        elif len(self.received) >= head + 4 + int(length[1]):
            self.end()

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(bytes(self.received))

    async def ask(self, head: bytes, body: bytes) -> bytes:
        self.received.clear()
        self.begun, self.streamed, self.done = None, False, asyncio.get_running_loop().create_future()
        self.transport.write(head % len(body) + body)
        reply: bytes = await self.done
        return reply


def right(reply: bytes, nonce: bytes, stream: bool) -> str:
    """ok, lost (no whole reply), or mixed (another's)."""
    found = _NONCE.findall(reply)
    if any(one != nonce for one in found):
        return "mixed"
    whole = reply.startswith(b"HTTP/1.1 200") and len(found) == (2 if stream else 1) and (not stream or b"[DONE]" in reply)
    return "ok" if whole else "lost"


async def run(settings: dict[str, Any]) -> dict[str, Any]:
    port, stream = settings["port"], settings["stream"]
    deadline = time.perf_counter() + settings["seconds"]
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {settings['key']}\r\ncontent-length: %d\r\n\r\n").encode()
    prompt = "You are a helpful assistant on board of a ship. " * settings.get("sentences", 4)
    left = settings["requests"]
    counts = {"ok": 0, "lost": 0, "mixed": 0}
    firsts: list[float] = []
    totals: list[float] = []
    said: str | None = None

    async def one() -> None:
        nonlocal left, said
        client: Client | None = None
        while left > 0 and time.perf_counter() < deadline:
            left -= 1
            nonce = f"nonce-{secrets.token_hex(8)}"
            body = json.dumps({"model": settings["model"], "max_tokens": 32, "messages": [
                {"role": "system", "content": prompt}, {"role": "user", "content": f"Say {nonce}"}],
                **({"stream": True} if stream else {})}).encode()
            start = time.perf_counter()
            verdict = "lost"
            try:
                if client is None or not client.open:
                    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
                async with asyncio.timeout(max(1.0, deadline + 30 - start)):
                    reply = await client.ask(head, body)
                verdict = right(reply, nonce.encode(), stream)
                if verdict == "ok":
                    totals.append(time.perf_counter() - start)
                    firsts.append((client.begun or start) - start)
                else:
                    said = said or reply[:400].decode(errors="replace")
            except (OSError, TimeoutError) as error:
                said = said or f"{type(error).__name__}: {error}"
                if client is not None:
                    client.transport.abort()
                client = None
            counts[verdict] += 1
        if client is not None:
            client.transport.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(settings["clients"])))
    seconds = time.perf_counter() - began
    return {**counts, "seconds": round(seconds, 3), "per_second": round(counts["ok"] / seconds, 1), "first_ms": spread(firsts),
            "total_ms": spread(totals), "said": said}


def spread(times: list[float]) -> dict[str, float]:
    """Milliseconds at the median, the 95th and the 99th percentile."""
    ordered = sorted(times)
    return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3, 3)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))} if ordered else {}


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    print(json.dumps(asyncio.run(run(json.loads(sys.argv[1])))))
