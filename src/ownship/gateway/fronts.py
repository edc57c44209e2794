"""The formats that clients may speak, and how a stream of events becomes a reply in one of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from ownship.gateway import chat, completions, messages, responses
from ownship.gateway.codec import Front, Writer
from ownship.gateway.reply import close
from ownship.gateway.types import Event, GatewayError, Wire

FRONTS: Mapping[Wire, Front] = {"chat": chat, "completions": completions, "responses": responses, "messages": messages}


async def begun(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """Waits for the first event, so that a refusal can still be a status code; gives all the events, the first included."""
    try:
        first = await anext(events)
    except BaseException:
        await close(events)
        raise
    return _rest(first, events)


async def _rest(first: Event, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    try:
        yield first
        async for event in events:
            yield event
    finally:
        await close(events)


async def stream(writer: Writer, events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
    """The server-sent events of a reply. What goes wrong from here on is told in the stream; closing it ends the work behind it."""
    try:
        async for event in events:
            if data := writer.write(event):
                yield data
    except GatewayError as error:
        yield writer.fail(error)
    finally:
        await close(events)
