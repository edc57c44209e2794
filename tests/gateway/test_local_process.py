"""The engine's process under load, killed, stopped, full, left alone: what clients see, and that it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from engines import LOOP, Door, opened, user

from ownship.errors import UserError
from ownship.gateway.engine_process import EngineProcess
from ownship.gateway.local import Local
from ownship.gateway.types import Event, Finished, GatewayError, Request, Started, Used

LONG = Request("any", messages=user("go on"), max_tokens=3000, logit_bias={257: -100})  # never the stop token: it takes its time


async def eventually(condition: Callable[[], object]) -> None:
    """Waits until `condition` holds; a hang is the test's failure, not its speed."""
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be")


async def take(door: Local, request: Request, first: Callable[[], None] = lambda: None) -> list[Event]:
    events: list[Event] = []
    async for event in door.stream(request):
        events.append(event)
        if len(events) == 2:
            first()
    return events


async def failure(work: Awaitable[object]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await work
    return caught.value


def test_killed_under_load(tiny: Door) -> None:
    async def scene() -> None:
        begun: list[int] = []
        streams = [asyncio.create_task(take(tiny.local, LONG, lambda: begun.append(1))) for _ in range(32)]
        await eventually(lambda: len(begun) == 32)
        starts = tiny.engine.starts
        assert tiny.engine.pid is not None
        os.kill(tiny.engine.pid, signal.SIGKILL)
        for error in await asyncio.gather(*map(failure, streams)):
            assert (error.status, error.code) == (503, "engine_died")
        refused = await failure(take(tiny.local, LONG))  # until it is back
        assert refused.status == 503 and refused.retry_after is not None
        await tiny.engine.ready()
        assert (tiny.engine.starts, tiny.engine.state) == (starts + 1, "ready")
        events = await take(tiny.local, Request("any", messages=user("hello"), max_tokens=5))
        assert isinstance(events[-1], Used)

    LOOP.run(scene())


def test_all_leave(tiny: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 streams are closed; the engine takes at most the step that is under way, and one that began while it was told."""
    steps: list[float] = []
    heard = tiny.engine._take

    async def listen(frame: dict[str, object]) -> None:
        await heard(frame)
        steps.append(tiny.engine.load["running"])

    monkeypatch.setattr(tiny.engine, "_take", listen)

    async def scene() -> None:
        streams = [tiny.local.stream(LONG) for _ in range(64)]
        for stream in streams:
            assert isinstance(await anext(stream), Started)
        await eventually(lambda: tiny.engine.load["running"] == 64)
        steps.clear()
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        await eventually(lambda: steps and steps[-1] == 0)
        assert len([running for running in steps if running]) <= 2
        assert not tiny.engine._jobs and tiny.engine.load["waiting"] == 0

    LOOP.run(scene())


def test_a_task_that_is_cancelled_frees_its_place(tiny: Door) -> None:
    async def scene() -> None:
        task = asyncio.create_task(take(tiny.local, LONG))
        await eventually(lambda: tiny.engine.load.get("running") == 1)
        task.cancel()
        await eventually(lambda: tiny.engine.load.get("running") == 0)
        assert tiny.engine._open == 0

    LOOP.run(scene())


def test_full_loading_hung_and_back(tiny_folder: Path) -> None:
    async def scene(engine: EngineProcess) -> None:
        local = Local(engine, "tiny")
        running = [asyncio.create_task(take(local, LONG)) for _ in range(3)]  # one runs, two wait
        await eventually(lambda: engine.load.get("running") == 1 and engine.load.get("waiting") == 2)
        full = await failure(take(local, LONG))
        assert (full.status, full.code, full.kind) == (429, "queue_full", "rate_limit")
        assert full.retry_after is not None and full.retry_after >= 1
        running.pop().cancel()
        await eventually(lambda: engine._open == 2)
        short = asyncio.create_task(take(local, Request("any", messages=user("x"), max_tokens=2)))
        await eventually(lambda: engine.load.get("waiting") == 2)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)  # as if a step never ended
        for error in await asyncio.gather(*map(failure, [*running, short])):
            assert error.status == 503
        await eventually(lambda: engine.state == "loading")
        loading = await failure(take(local, LONG))
        assert (loading.status, loading.code) == (503, "model_not_ready") and "loaded" in loading.message
        await engine.ready()
        assert isinstance((await take(local, Request("any", messages=user("x"), max_tokens=2)))[-1], Used)

    with opened(str(tiny_folder), max_rows=1, max_waiting=2, stall=2.0) as door:
        LOOP.run(scene(door.engine))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    async def scene() -> EngineProcess:
        engine = EngineProcess(str(tmp_path / "nothing"))
        engine.start()
        with pytest.raises(UserError, match="no such model"):
            await engine.ready()
        await engine.close()
        return engine

    engine = LOOP.run(scene())
    assert engine.starts == 1  # nothing will change by itself


def test_what_is_refused_does_not_disturb_its_neighbour(tiny: Door) -> None:
    async def scene() -> None:
        beside = asyncio.create_task(take(tiny.local, Request("any", messages=user("a"), max_tokens=40)))
        await failure(take(tiny.local, Request("any", prompt=(1, 9999))))
        assert any(isinstance(event, Finished) for event in await beside)

    LOOP.run(scene())


PARENT = """
import asyncio, sys
from ownship.gateway.engine_process import EngineProcess
async def main():
    engine = EngineProcess(sys.argv[1])
    engine.start()
    await engine.ready()
    print(engine.pid, "torch" in sys.modules, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_it_ends_with_its_parent_which_needs_no_torch(tiny_folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tiny_folder)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, torch = parent.stdout.readline().split()
        assert torch == "False"
        parent.kill()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "the engine outlived its parent"
        time.sleep(0.02)
