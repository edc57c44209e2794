"""The HTTP face: OpenAI's chat completions and models, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, Literal, TypeVar

import uvicorn
from fastapi import FastAPI
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ownship.engine.engine import Engine, serving
from ownship.engine.request import Event, Request, Sampling
from ownship.errors import UserError
from ownship.model import zoo
from ownship.model.chat import Chat
from ownship.model.chat import Message as ChatTurn
from ownship.serve.worker import Busy, Failed, Worker

_MAX_BODY = 4 << 20
_SHORT = 20_000  # characters of messages that are made into tokens at once, in a few milliseconds
_MAX_TOKENS = 1024  # of a reply whose request names no bound

T = TypeVar("T")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")  # an unknown parameter is refused, never silently ignored

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """As in OpenAI's schema; clients send `"stop": null`, and hand back replies whose unused fields are null."""
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def _whole_characters(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("half of a surrogate pair is not text")
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


class TextPart(_Strict):
    type: Literal["text"]
    text: Text


class ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: str | None = None

    def plain(self) -> ChatTurn:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(_Strict):
    include_usage: bool = False


class ChatRequest(_Strict):
    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    seed: int | None = None
    stop: str | list[str] = []
    n: int = Field(1, ge=1, le=16)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def create(engine: Engine, name: str, max_waiting: int = 256) -> FastAPI:
    """The application around one engine; `app.state.worker` has to be closed at the end."""
    chat = Chat(engine.tokenizer)
    limit = engine.model.config.max_position_embeddings
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "ownship"}
    app = FastAPI(title="Ownship")
    app.add_middleware(_Bounded)
    app.state.worker = worker = Worker(engine, max_waiting)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: HTTPRequest, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _error(400, f"the body is not valid JSON: {first['ctx']['error']}")
        parts = [str(part) for part in first["loc"][1:]]  # the first one is "body"
        if not parts:
            return _error(400, "the body must be a JSON object, sent with Content-Type: application/json")
        if first["type"] == "extra_forbidden":
            return _error(400, f"unknown parameter: {'.'.join(parts)}", param=".".join(parts), code="unknown_parameter")
        place = ".".join(part for part in parts if part != "str" and "[" not in part)  # less the names of a union's branches
        return _error(400, f"{place}: {first['msg']}", param=place)

    @app.exception_handler(HTTPException)
    async def refused(request: HTTPRequest, error: HTTPException) -> Response:
        detail = f"no such path: {request.url.path}" if error.status_code == 404 else str(error.detail)
        return _error(error.status_code, detail, headers=error.headers)

    @app.exception_handler(Exception)
    async def broken(request: HTTPRequest, error: Exception) -> Response:
        return _error(500, "the server failed on this request; its log says why")

    @app.exception_handler(UserError)
    async def mistaken(request: HTTPRequest, error: UserError) -> Response:
        return _error(400, str(error))

    @app.exception_handler(Busy)
    async def busy(request: HTTPRequest, error: Busy) -> Response:
        return _error(429, "too many requests are waiting", code="queue_full", headers={"Retry-After": "1"})

    @app.exception_handler(Failed)
    async def failed(request: HTTPRequest, error: Failed) -> Response:
        return _error(503, str(error))

    @app.exception_handler(ClientDisconnect)
    async def left(request: HTTPRequest, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{wanted:path}")
    async def model(wanted: str) -> Response:
        return JSONResponse(card) if wanted == name else _unknown_model(wanted, name)

    @app.post("/v1/chat/completions")
    async def completions(body: ChatRequest, http: HTTPRequest) -> Response:
        if body.model != name:
            return _unknown_model(body.model, name)
        if body.stream_options is not None and not body.stream:
            return _error(400, "stream_options needs stream: true", param="stream_options")
        if len(body.stops()) > 4 or "" in body.stops():
            return _error(400, "stop: at most 4 strings, none of them empty", param="stop")
        messages = [message.plain() for message in body.messages]
        if sum(len(message["content"]) + 100 for message in messages) < _SHORT:
            prompt = chat.prompt(messages)
        else:  # megabytes take seconds, and others want their tokens meanwhile
            prompt = await asyncio.to_thread(chat.prompt, messages)
        max_tokens = body.max_completion_tokens or body.max_tokens or max(1, min(limit - len(prompt), _MAX_TOKENS))
        if len(prompt) + max_tokens > limit:
            return _error(400, f"the messages have {len(prompt)} tokens and the reply may have {max_tokens}: together more"
                          f" than the model's {limit}", param="messages", code="context_length_exceeded")
        requests = [
            Request(prompt, Sampling(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k, stop=body.stops(),
                                     max_tokens=max_tokens, seed=None if body.seed is None else body.seed + index))
            for index in range(body.n)
        ]
        reply = _Reply(worker, requests, name)
        if body.stream:
            await _while_there(http, reply.start())
            return _Streaming(reply, body.stream_options is not None and body.stream_options.include_usage)
        return JSONResponse(await _while_there(http, reply.whole()))

    return app


class _Reply:
    """The choices of one request as they come."""

    def __init__(self, worker: Worker, requests: list[Request], model: str) -> None:
        self.count, self.prompt_tokens, self.completion_tokens = len(requests), len(requests[0].prompt), 0
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self.events = worker.stream(requests)
        self.first: list[tuple[int, Event]] = []

    async def start(self) -> None:
        """Waits for the first token, so that a refusal is still a status code."""
        self.first.append(await anext(self.events))

    async def whole(self) -> dict[str, Any]:
        async with contextlib.aclosing(self.events):
            ended = {index: event.completion async for index, event in self.events if event.completion is not None}
        choices = []
        for index, completion in sorted(ended.items()):
            self.completion_tokens += len(completion.tokens)
            choices.append({"index": index, "message": {"role": "assistant", "content": completion.text}, "logprobs": None,
                            "finish_reason": completion.finish})
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": self._usage()}

    async def chunks(self, usage: bool) -> AsyncIterator[str]:
        """Server-sent events, after `start`."""

        def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
            body = {**self.head, "object": "chat.completion.chunk", "choices": choices, **more}
            return f"data: {json.dumps({'usage': None, **body} if usage else body)}\n\n"

        def choice(index: int, delta: dict[str, str], finish: str | None = None) -> list[dict[str, Any]]:
            return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]

        def told(index: int, event: Event) -> str:
            text = chunk(choice(index, {"content": event.text})) if event.text else ""
            if event.completion is None:
                return text
            self.completion_tokens += len(event.completion.tokens)
            return text + chunk(choice(index, {}, event.completion.finish))

        for index in range(self.count):
            yield chunk(choice(index, {"role": "assistant", "content": ""}))
        for index, event in self.first:
            yield told(index, event)
        try:
            async for index, event in self.events:
                yield told(index, event)
        except Failed as error:  # the status has been sent: all that is left is to say so in the stream
            yield f"data: {json.dumps(_error_body(503, str(error)))}\n\n"
            return
        if usage:
            yield chunk([], usage=self._usage())
        yield "data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens}


class _Streaming(StreamingResponse):
    """Ends its requests however it ends: when the client leaves, their slots are free after the next token."""

    def __init__(self, reply: _Reply, usage: bool) -> None:
        super().__init__(reply.chunks(usage), media_type="text/event-stream")
        self.reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.reply.events.aclose()


class _Bounded:
    """Reads the body before the application does, and refuses more than `_MAX_BODY`.

    What is too much is still read, and dropped: a client that is cut off while it sends never sees the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body, size, more = bytearray(), 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has left
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size <= _MAX_BODY:
                body += part
        if size > _MAX_BODY:
            return await _error(413, f"the body is larger than {_MAX_BODY >> 20} MB")(scope, receive, send)
        read = False

        async def again() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, again, send)


async def _while_there(http: HTTPRequest, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves; then raises ClientDisconnect."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(http.receive())  # the body has been read: the next message says that the client has left
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _error(status: int, message: str, param: str | None = None, code: str | None = None,
           headers: Any = None) -> JSONResponse:
    return JSONResponse(_error_body(status, message, param, code), status, headers)


def _unknown_model(wanted: str, name: str) -> JSONResponse:
    return _error(404, f"the model {wanted!r} does not exist; this server has {name!r}", "model", "model_not_found")


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends running replies at once: uvicorn by itself would wait for them, then cancel them with a traceback each."""
        app: Any = self.config.app
        await asyncio.to_thread(app.state.worker.close)
        await super().shutdown(sockets)


def serve(model: str, port: int, name: str | None, max_waiting: int, precision: str = "bfloat16", cache_mb: int = 2048) -> None:
    """Serves until Ctrl-C. Raises UserError if the model or the port cannot be had."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()  # now: a second server on this port is told at once, and early clients wait for the model
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be taken ({error}); choose another with --port, or 0 for a free one") from None
    path = zoo.resolve(model)
    engine = serving(path, precision, cache_bytes=cache_mb << 20)
    engine.reserve()
    name = name or (model if model in zoo.ZOO else path.resolve().stem if path.is_file() else str(model).rstrip("/"))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello!"}]})
    print(f"serving {name} at {url}/v1   (Ctrl-C ends it)\n\n"
          f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n\n"
          f"  from openai import OpenAI\n"
          f"  client = OpenAI(base_url={url + '/v1'!r}, api_key='none')\n"
          f"  client.chat.completions.create(model={name!r}, messages=[{{'role': 'user', 'content': 'Hello!'}}])\n", flush=True)
    server = _Server(uvicorn.Config(create(engine, name, max_waiting), log_level="warning", timeout_graceful_shutdown=5))
    gc.collect()
    gc.freeze()  # what is there now stays: looking through it again took 150 ms each time, with everybody waiting
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when it is done: Ctrl-C is how a server ends
        server.run(sockets=[listener])
