"""The replies to several requests as one, each with its own choices: completions with several prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import astuple, replace

from ownship.gateway.reply import close
from ownship.gateway.types import Event, Started, Usage, Used


def together(streams: Sequence[AsyncIterator[Event]], n: int) -> AsyncIterator[Event]:
    """The events of all `streams` as they come; choice i of stream k is choice k·n + i here, and the tokens used are summed.

    What one stream raises is raised, and the others are closed; so they are if this one is.
    """
    return streams[0] if len(streams) == 1 else _merged(streams, n)


async def _merged(streams: Sequence[AsyncIterator[Event]], n: int) -> AsyncIterator[Event]:
    queue: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue(64)  # bounded: a slow client slows the upstreams

    async def read(k: int, stream: AsyncIterator[Event]) -> None:
        end: Exception | None = None
        try:
            async for event in stream:
                await queue.put((k, event))
        except Exception as error:
            end = error
        finally:
            await close(stream)
        await queue.put((k, end))

    tasks = [asyncio.create_task(read(k, stream)) for k, stream in enumerate(streams)]
    usage, started, left = Usage(), False, len(tasks)
    try:
        while left:
            k, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            elif isinstance(item, Used):
                usage = Usage(*(mine + more for mine, more in zip(astuple(usage), astuple(item.usage), strict=True)))
            elif isinstance(item, Started):
                if not started:
                    started = True
                    yield item
            else:
                yield replace(item, index=k * n + item.index)
        yield Used(usage)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
