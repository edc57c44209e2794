"""The engine in a process of its own, as the gateway sees it: started, watched, started again, spoken to over a socket.

The gateway's event loop never waits for a step, and imports no torch. A process that ends, or says nothing for `stall` seconds
while it has work, is replaced; whoever waited for it is told 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tokenizers

import ownship
from ownship.engine.request import Sampling
from ownship.errors import UserError
from ownship.gateway.types import GatewayError, NotNow
from ownship.model.tokenizer import Tokenizer

State = Literal["loading", "ready", "failed"]
Spec = tuple[str, str]  # kind and text of an engine.grammar.Grammar, which this process does not import

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds before the next start, doubled each time
_STEADY = 60.0  # seconds after which the failures before are forgotten
_KNOWN = 1024  # grammars whose fate is remembered

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Info:
    """What the process serves. `context` is the model's bound in tokens, `capacity` that of its cache if it is less."""

    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    vocabulary: int
    context: int
    capacity: int
    fingerprint: str


@dataclass(frozen=True)
class Job:
    """One run of the engine; `ahead` of those that wait if it carries on what was running."""

    prompt: list[int]
    sampling: Sampling
    grammar: Spec | None = None
    prompt_logprobs: int | None = None
    ahead: bool = False


Scores = list[tuple[int, float, list[tuple[int, float]] | None]]  # token id, log-probability, the likeliest of each


@dataclass
class Piece:
    """What one step gave one job. `finish` is the engine's, with the last piece; `found` counts prompt tokens from the cache."""

    number: int
    text: str = ""
    tokens: Scores = field(default_factory=list)
    prompt_scores: Scores | None = None
    finish: Literal["stop", "length", "cancelled", "failed"] | None = None
    stop: str | None = None
    found: int = 0


class Jobs:
    """The jobs of one request, and what they give. Closing it cancels what still runs, before the next step."""

    def __init__(self, engine: EngineProcess, count: int) -> None:
        self.engine, self.count, self.began = engine, count, time.monotonic()
        self.queue: asyncio.Queue[Piece | GatewayError] = asyncio.Queue()  # bounded by the tokens that were asked for
        self.numbers: set[int] = set()

    def submit(self, job: Job) -> int:
        """Raises GatewayError 503 if the engine is not there (any more)."""
        number = self.engine._submit(self, job)
        self.numbers.add(number)
        return number

    async def next(self, deadline: float | None = None) -> Piece:
        """Raises GatewayError: 503 when the engine dies, 504 at the deadline (`time.monotonic`), 400 for a job it refuses."""
        item = await within(deadline, self.queue.get())
        if isinstance(item, GatewayError):
            raise item
        return item


class EngineProcess:
    """Holds at most `max_rows + max_waiting` requests; `state` is loading, ready or failed, for the `reason` given."""

    def __init__(self, model: str, precision: str = "bfloat16", max_rows: int = 256, max_waiting: int = 256,
                 cache_bytes: int = 2 << 30, stall: float = 120.0) -> None:
        self.settings = {"model": model, "precision": precision, "max_rows": max_rows, "cache_bytes": cache_bytes}
        self.limit, self.rows, self.stall = max_rows + max_waiting, max_rows, stall
        self.state: State = "loading"
        self.reason = ""
        self.info: Info | None = None
        self.load: Mapping[str, float] = {}  # Engine.load after the last step
        self.pid: int | None = None
        self.starts = 0
        self._open = 0
        self._holding = 1.0  # seconds for which a request lately held its place
        self._number = 0
        self._jobs: dict[int, Jobs] = {}
        self._compiling: dict[int, asyncio.Future[str | None]] = {}
        self._known: dict[bytes, str | None] = {}  # SHA-256 of a grammar → why it cannot be used
        self._heard = 0.0
        self._writer: asyncio.StreamWriter | None = None
        self._told: dict[str, Any] = {}
        self._settled = asyncio.Event()  # ready, or failed for good
        self._next_start = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts the process and whoever watches it; returns at once."""
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._watch())]

    async def ready(self) -> Info:
        """Waits until the model is loaded, for the first time or again. Raises UserError if it cannot be."""
        await self._settled.wait()
        if self.state == "failed":
            raise UserError(self.reason)
        assert self.info is not None
        return self.info

    def available(self) -> Info:
        """What is served. Raises GatewayError 503 if it is not ready."""
        if self.state == "ready" and self.info is not None:
            return self.info
        wait = max(1.0, math.ceil(self._next_start - time.monotonic()))
        why = "the model is being loaded" if self.state == "loading" else f"the engine is not available: {self.reason}"
        raise NotNow(503, "overloaded", why, code="model_not_ready", retry_after=wait)

    @contextlib.contextmanager
    def open(self, count: int) -> Iterator[Jobs]:
        """A place for `count` replies. Raises GatewayError: 429 if all are taken, 503 if the engine is not ready."""
        self.available()
        if self._open + count > self.limit:
            wait = math.ceil(max(1.0, min(60.0, self._holding * max(1, self._open - self.rows) / self.rows)))
            raise NotNow(429, "rate_limit", "too many requests are waiting", code="queue_full", retry_after=wait)
        jobs = Jobs(self, count)
        self._open += count
        try:
            yield jobs
        finally:
            self._open -= count
            self._holding += 0.1 * (time.monotonic() - jobs.began - self._holding)
            for number in jobs.numbers:
                if self._jobs.pop(number, None) is not None:
                    self._send({"cancel": number})

    async def compile(self, grammar: Spec) -> str | None:
        """Makes a grammar ready; why it cannot be used, or None. Raises GatewayError 503 if the engine is not there."""
        known = hashlib.sha256("\0".join(grammar).encode(errors="surrogatepass")).digest()
        if known not in self._known:
            self.available()
            self._work()
            number = self._next()
            future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            self._compiling[number] = future
            self._send({"compile": number, "grammar": grammar})
            reason = await future
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[known] = reason
        return self._known[known]

    async def close(self) -> None:
        """Ends the process; who waits for it is told 503."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.state, self.reason = "failed", "the server is shutting down"

    # Speaking with the process

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _work(self) -> None:
        """To be called before there is something to do: from now on silence is suspicious."""
        if not self._jobs and not self._compiling:
            self._heard = time.monotonic()

    def _submit(self, jobs: Jobs, job: Job) -> int:
        self.available()
        self._work()
        number = self._next()
        self._jobs[number] = jobs
        sampling = asdict(job.sampling)
        self._send({"submit": number, "prompt": job.prompt, "sampling": sampling, "grammar": job.grammar,
                    "prompt_logprobs": job.prompt_logprobs, "ahead": job.ahead})
        return number

    def _send(self, frame: dict[str, Any]) -> None:
        if self._writer is not None:
            body = json.dumps(frame, separators=(",", ":")).encode()
            self._writer.write(struct.pack(">I", len(body)) + body)

    async def _take(self, frame: dict[str, Any]) -> None:
        self._heard = time.monotonic()
        if "ready" in frame:
            if frame["ready"] != self._told:
                self._told = frame["ready"]
                self.info = await asyncio.to_thread(_info, self._told)
                self._known.clear()
            self.state, self.reason = "ready", ""
            self._settled.set()
            return
        if "failed" in frame:
            raise UserError(frame["failed"])
        self.load = frame["load"]
        for told in frame["pieces"]:
            if "compiled" in told:
                future = self._compiling.pop(told["compiled"])
                if not future.done():  # who asked may have left
                    future.set_result(told["reason"])
            elif (jobs := self._jobs.get(told["number"])) is not None:
                if "refused" in told:
                    jobs.queue.put_nowait(GatewayError(400, "invalid", told["refused"]))
                else:
                    jobs.queue.put_nowait(Piece(**told))
                if "refused" in told or "finish" in told:
                    del self._jobs[told["number"]]

    # Its life

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self.state, self.reason, began = "loading", "", time.monotonic()
            self.starts += 1
            mistaken = False
            try:
                reason = await self._live()
            except UserError as error:
                reason, mistaken = str(error), True
            finally:
                self._settled.clear()
                self._fail("the engine ended while this was running")
            if mistaken and self.info is None:  # it never worked: nothing will change by itself
                self.state, self.reason = "failed", reason
                self._settled.set()
                return
            if time.monotonic() - began > _STEADY:
                pause = _FIRST_PAUSE
            log.error("%s; it starts again in %.1f s", reason, pause)
            self.state, self.reason, self._next_start = "failed", reason, time.monotonic() + pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _live(self) -> str:
        """From start to end of one process; why it ended. Raises UserError if the model cannot be loaded."""
        ours, theirs = socket.socketpair()
        paths = [str(Path(ownship.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "ownship.gateway.engine_child", str(theirs.fileno()), pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL, start_new_session=True,  # Ctrl-C is for the gateway, which ends this one
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))})
        theirs.close()
        self.pid = process.pid
        try:
            reader, self._writer = await asyncio.open_connection(sock=ours)
            self._send(self.settings)
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    size, = struct.unpack(">I", await reader.readexactly(4))
                    await self._take(json.loads(await reader.readexactly(size)))
            return f"the engine's process ended with code {await process.wait()}"
        finally:
            if self._writer is not None:
                self._writer.close()
            self._writer, self.pid = None, None
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.stall / 4)
            if (self._jobs or self._compiling) and time.monotonic() - self._heard > self.stall and self.pid is not None:
                log.error("the engine has said nothing for %.0f s: it is ended", self.stall)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, 9)

    def _fail(self, why: str) -> None:
        """Tells everyone who waits."""
        self.load = {}
        for jobs in {*self._jobs.values()}:
            jobs.queue.put_nowait(NotNow(503, "upstream", why, code="engine_died", retry_after=1.0))
        for future in self._compiling.values():
            if not future.done():
                future.set_exception(NotNow(503, "upstream", why, code="engine_died", retry_after=1.0))
        self._jobs.clear()
        self._compiling.clear()


async def within(deadline: float | None, work: Coroutine[Any, Any, T]) -> T:
    """Raises GatewayError 504 at the deadline (`time.monotonic`)."""
    try:
        async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):  # wait_for can lose a cancellation
            return await work
    except TimeoutError:
        raise GatewayError(504, "timeout", "the deadline passed before the reply was complete") from None


def _info(told: dict[str, Any]) -> Info:
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(told["tokenizer"]), told["eos"], told["template"])
    return Info(tokenizer, frozenset(told["stop_ids"]), told["vocabulary"], told["context"], told["capacity"], told["fingerprint"])
