"""Kept connections: when one serves again, and when it must not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from ownship.gateway.connections import Connections, Reply, head
from ownship.gateway.within import within

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"


def asked(*replies: bytes, read: Callable[[Reply], bool] = lambda reply: True) -> tuple[list[bytes], int]:
    """Asks as often as there are replies; what was read, and how many connections that took."""
    made = 0

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal made
        made += 1
        while await reader.readline():
            while await reader.readline() not in (b"\r\n", b""):
                pass
            await reader.readexactly(2)
            answer = left.pop(0)
            writer.write(answer.removesuffix(b"CLOSE"))
            if answer.endswith(b"CLOSE"):
                break
        writer.close()

    async def main() -> list[bytes]:
        listening = await asyncio.start_server(server, "127.0.0.1", 0)
        url = httpx.URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1")
        connections, bodies = Connections(url), []
        for _ in replies:
            reply = await connections.post(head(url, [("x", "y")]), b"{}", 10, 10)
            assert reply.status_code == 200
            bodies.append(b"".join([piece async for piece in reply]) if read(reply) else await anext(aiter(reply)))
            await reply.aclose()
            await asyncio.sleep(0.02)
        await connections.aclose()
        listening.close()
        return bodies

    left = [*replies]
    return asyncio.run(asyncio.wait_for(main(), 60)), made


@pytest.mark.parametrize(("replies", "connections"), [
    ((OK, OK, OK), 1),
    ((CHUNKED + b"0\r\n\r\n", OK), 1),
    ((CHUNKED + b"0\r\nX-Trailer: 1\r\n\r\n", OK), 1),
    ((b"HTTP/1.1 100 Continue\r\n\r\n" + OK, OK), 1),
    ((OK + b"HTTP/1.1 200 OK\r\n", OK), 2),  # more than was asked for: never the answer to the next one
    ((OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), OK), 2),
    ((b"HTTP/1.1 200 OK\r\n\r\nhiCLOSE", OK), 2),  # to the end of the connection
    ((OK + b"CLOSE", OK), 2),
])
def test_when_a_connection_serves_again(replies: tuple[bytes, ...], connections: int) -> None:
    assert asked(*replies) == ([b"hi"] * len(replies), connections)


def test_a_reply_that_is_not_read_to_its_end_ends_its_connection() -> None:
    assert asked(CHUNKED, OK, read=lambda reply: bool(reply.whole)) == ([b"hi", b"hi"], 2)


def test_a_reply_that_was_read_far_enough_spares_its_connection() -> None:
    async def later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(CHUNKED)
            await asyncio.sleep(0.05)
            writer.write(b"0\r\n\r\n")
            made.append(id(writer))

    made: list[int] = []

    async def main() -> None:
        listening = await asyncio.start_server(later, "127.0.0.1", 0)
        url = httpx.URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1")
        connections = Connections(url)
        for _ in range(2):
            reply = await connections.post(head(url, []), b"{}", 10, 10)
            assert await anext(aiter(reply)) == b"hi"
            reply.spare()
            await reply.aclose()
            await asyncio.sleep(0.2)
        await connections.aclose()
        listening.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert len(made) == 2 and len(set(made)) == 1


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhiCLOSE", CHUNKED + b"CLOSE", b"CLOSE",
                                    b"nonsense\r\n\r\n",
                                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"])
def test_a_reply_that_is_none(answer: bytes) -> None:
    with pytest.raises(httpx.HTTPError):
        asked(answer)


def test_a_header_cannot_end_its_line() -> None:
    with pytest.raises(ValueError, match="line"):
        head(httpx.URL("http://server/v1"), [("x", "y\r\nz: 1")])


def test_within() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await within(asyncio.sleep(0, "at once"), loop.time() + 60) == "at once"
        assert await within(asyncio.sleep(0.01, "later"), loop.time() + 60) == "later"
        with pytest.raises(TimeoutError):
            await within(asyncio.sleep(60), loop.time() + 0.01)
        with pytest.raises(ZeroDivisionError):
            await within(_fails(), loop.time() + 60)
        task = asyncio.create_task(within(asyncio.sleep(60), loop.time() + 60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


async def _fails() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError
