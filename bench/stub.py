"""A model that costs nothing: an OpenAI chat server which repeats the prompt's nonce, so that a gateway before it can be measured.

    python bench/stub.py PORT

`model` in the body says how it answers: `stub` at once, `stub-paced` with PACED pieces, one every PAUSE seconds. A streamed reply
carries the nonce in its first piece and in its last one. Written on asyncio's protocols: whatever a framework would take here would
be missing from the two cores that the gateway is measured on.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import Any

PIECES = 8  # of a streamed reply that comes at once
PACED, PAUSE = 20, 0.1
_NONCE = re.compile(rb"nonce-[0-9a-f]{16}")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: "
_USAGE = b'"usage":{"prompt_tokens":12,"completion_tokens":8,"total_tokens":20}'


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _piece(delta: bytes, finish: bytes = b"null") -> bytes:
    return _chunk(b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"stub","choices":[{"index":0,'
                  b'"delta":{%s},"finish_reason":%s}]}\n\n' % (delta, finish))


def _text(text: bytes) -> bytes:
    return _piece(b'"content":"%s"' % text)


_BEGIN = _HEAD + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + _piece(b'"role":"assistant","content":""')
_MIDDLE = _text(b" token")
_END = (_piece(b"", b'"stop"') + _chunk(b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"stub",'
                                        b'"choices":[],' + _USAGE + b"}\n\n") + _chunk(b"data: [DONE]\n\n") + _chunk(b""))


def whole(nonce: bytes) -> bytes:
    body = (b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"stub","choices":[{"index":0,"message":{"role":'
            b'"assistant","content":"%s"},"finish_reason":"stop"}],%s}' % (nonce, _USAGE))
    return _HEAD + b"application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


class Stub(asyncio.Protocol):
    """One connection; one request at a time on it."""

    def connection_made(self, transport: Any) -> None:  # uvloop's are no subclass of asyncio.Transport
        self.transport, self.waiting, self.paced = transport, b"", None

    def connection_lost(self, error: Exception | None) -> None:
        if self.paced is not None:
            self.paced.cancel()

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        head = self.waiting.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self.waiting, 0, head)
        end = head + 4 + (int(length[1]) if length else 0)
        if len(self.waiting) < end:
            return
        request, self.waiting = self.waiting[:end], self.waiting[end:]
        self.answer(request)

    def answer(self, request: bytes) -> None:
        found = _NONCE.search(request)
        nonce = found[0] if found else b"none"
        if b'"stream":true' not in request and b'"stream": true' not in request:
            self.transport.write(whole(nonce))
        elif b"stub-paced" in request:
            self.paced: asyncio.Task[None] | None = asyncio.create_task(self.drip(nonce))
        else:
            self.transport.write(_BEGIN + _text(nonce) + _MIDDLE * (PIECES - 2) + _text(nonce) + _END)

    async def drip(self, nonce: bytes) -> None:
        self.transport.write(_BEGIN + _text(nonce))
        for _ in range(PACED - 2):
            await asyncio.sleep(PAUSE)
            self.transport.write(_MIDDLE)
        self.transport.write(_text(nonce) + _END)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1])))
