"""Several processes behind one port: `ownship serve --workers N`.

Each has a listening socket of its own on the same port, and the system shares the connections out. What must be counted once is:
budgets in the database, as for any processes that share one; rates in a file that all have open; /metrics by asking the others.
What is learnt of upstreams (breakers, speeds) each learns for itself, and each takes an even share of an upstream's `concurrency`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

log = logging.getLogger(__name__)
_ANSWER = 2.0  # seconds that another worker may take to tell its metrics
_AGAIN = 1.0  # seconds until a worker that died is started again


class Rates:
    """When each key would have used up what it has asked for, on `time.monotonic`, which all processes of a machine share. In a
    file of eight bytes a key, under a lock of those bytes."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="ownship-rates-")  # noqa: SIM115

    def take(self, key: int, now: float, each: float, most: float) -> float:
        """Counts a request that takes `each` seconds of the key's time, if no more than `most` is used up then. Returns how long it
        has to wait for that; 0 if it was counted."""
        number, at = self._file.fileno(), 8 * key
        fcntl.lockf(number, fcntl.LOCK_EX, 8, at)
        try:
            kept = os.pread(number, 8, at)
            used_up = max(struct.unpack("d", kept)[0] if len(kept) == 8 else 0.0, now)
            if (wait := used_up + each - now - most) > 1e-6:
                return wait
            os.pwrite(number, struct.pack("d", used_up + each), at)
            return 0.0
        finally:
            fcntl.lockf(number, fcntl.LOCK_UN, 8, at)


class Worker:
    """What one of `count` processes knows of the others."""

    def __init__(self, folder: Path, number: int, count: int, rates: Rates, parent: int, ready: int) -> None:
        self.folder, self.number, self.count, self.rates = folder, number, count, rates
        self._parent, self._ready = parent, ready  # ends of pipes: one that closes with the parent, one that it listens to

    async def live(self, metrics: Callable[[], bytes], end: Callable[[], None]) -> None:
        """Tells the others the metrics of this one; calls `end` if the parent is gone."""
        path = self.folder / f"{self.number}.sock"
        path.unlink(missing_ok=True)

        async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(metrics())
            writer.close()

        server = await asyncio.start_unix_server(tell, path)
        loop = asyncio.get_running_loop()

        def orphaned() -> None:
            loop.remove_reader(self._parent)
            end()

        loop.add_reader(self._parent, orphaned)
        async with server:
            await server.serve_forever()

    def ready(self) -> None:
        os.write(self._ready, b"r")

    async def added(self, own: bytes) -> bytes:
        """The metrics of all workers, added up. One that does not answer (it is being started) is left out."""
        others = [self.folder / f"{number}.sock" for number in range(self.count) if number != self.number]
        return added([own, *await asyncio.gather(*(_told(path) for path in others))])


async def _told(path: Path) -> bytes:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWER):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read()
            finally:
                writer.close()
    return b""


def added(texts: Iterable[bytes]) -> bytes:
    """Several processes' metrics in Prometheus' text format as one. All are sums: what is no counter counts what is under way."""
    families: dict[str, tuple[list[str], dict[str, float]]] = {}
    for text in texts:
        head: list[str] = []
        values: dict[str, float] = {}
        for line in text.decode().splitlines():
            if line.startswith("# HELP "):
                head, values = families.setdefault(line.split(" ", 3)[2], ([], {}))
            if line.startswith("#"):
                if line not in head:
                    head.append(line)
            elif line:
                name, _, value = line.rpartition(" ")
                values[name] = values.get(name, 0.0) + float(value)
    return "".join(f"{line}\n" for head, values in families.values()
                   for line in (*head, *(f"{name} {value!r}" for name, value in values.items()))).encode()


def sockets(listen: Callable[[bool], socket.socket], count: int) -> list[socket.socket]:
    """`count` listening sockets on one port. `listen` makes one; told True, one that shares its port."""
    found: list[socket.socket] = []
    probe = listen(False)  # somebody else's port is told, and not shared
    probe.close()
    while len(found) < count:
        found.append(listen(True))
    return found


def run(listeners: list[socket.socket], work: Callable[[socket.socket, Worker], int], say: Callable[[], None]) -> int:
    """Runs `work` in a process for each listener, again in one that dies, until SIGINT or SIGTERM; they get the signal. `say` is
    called when all are ready. Returns the exit code: that of a worker which ended before it was ready, or 0."""
    with tempfile.TemporaryDirectory(prefix="ownship-") as name, contextlib.ExitStack() as pipes:
        rates = Rates()
        alive, parent = os.pipe()
        heard, ready = os.pipe()
        for end in (alive, parent, heard, ready):
            pipes.callback(os.close, end)
        os.set_blocking(heard, False)
        children: dict[int, int] = {}
        ended: list[int] = []

        def begin(number: int) -> None:
            child = os.fork()
            if child:
                children[child] = number
                return
            os.close(parent)
            for other, listener in enumerate(listeners):
                if other != number:
                    listener.close()
            _child(lambda: work(listeners[number], Worker(Path(name), number, len(listeners), rates, alive, ready)))

        def forward(got: int, frame: object) -> None:
            ended.append(got)
            for listener in listeners:
                listener.close()  # or the system would go on queueing connections that nobody takes
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, got)

        for number in range(len(listeners)):
            begin(number)
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, forward)
        said, count = False, 0
        while children:
            with contextlib.suppress(BlockingIOError):
                count += len(os.read(heard, 64))
            if not said and count >= len(listeners):
                said = True
                say()
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                time.sleep(0.02 if not said or ended else 0.2)
                continue
            number = children.pop(child)
            if ended:
                continue
            if not said:  # what ends before it begins would do so again
                forward(signal.SIGTERM, None)
                for left in children:
                    os.waitpid(left, 0)
                return os.waitstatus_to_exitcode(status) or 1
            log.error("worker %d died (%d): starting another", number, os.waitstatus_to_exitcode(status))
            time.sleep(_AGAIN)
            if not ended:
                begin(number)
    return 0


def _child(work: Callable[[], int]) -> NoReturn:
    """Never returns into what the parent was doing."""
    code = 1
    try:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
        code = work()
    except KeyboardInterrupt:
        code = 0
    except BaseException:
        log.exception("a worker failed")
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
