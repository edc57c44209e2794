"""The HTTP face: OpenAI's chat completions and models, on loopback."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ownship.engine.engine import Engine
from ownship.engine.request import Event, Request, Sampling
from ownship.errors import UserError
from ownship.model import checkpoint, zoo
from ownship.model.chat import Chat, Message
from ownship.serve.worker import Busy, Worker

_MAX_BODY = 4 << 20


class _Forbid(BaseModel):
    model_config = ConfigDict(extra="forbid")  # an unknown parameter is refused, never silently ignored


class TextPart(_Forbid):
    type: Literal["text"]
    text: str


class ChatMessage(_Forbid):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> Message:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(_Forbid):
    include_usage: bool = False


class ChatRequest(_Forbid):
    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int = Field(1, ge=1, le=16)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None


def create(engine: Engine, name: str, max_waiting: int = 256) -> FastAPI:
    """The application around one engine."""
    chat = Chat(engine.tokenizer)
    worker = Worker(engine, max_waiting)
    born = int(time.time())

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(title="Ownship", lifespan=life)

    @app.middleware("http")
    async def bounded(request: HTTPRequest, call_next: Any) -> Response:
        if not request.headers.get("content-length", "0").isdigit() or "transfer-encoding" in request.headers:
            return _error(411, "send a Content-Length", "invalid_request_error")
        if int(request.headers.get("content-length", "0")) > _MAX_BODY:
            return _error(413, f"the body is larger than {_MAX_BODY >> 20} MB", "invalid_request_error")
        response: Response = await call_next(request)
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: HTTPRequest, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return _error(400, f"{place}: {first['msg']}" if place else first["msg"], "invalid_request_error", place or None)

    @app.exception_handler(HTTPException)
    async def refused(request: HTTPRequest, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail), "invalid_request_error")

    @app.exception_handler(404)
    async def nowhere(request: HTTPRequest, error: Exception) -> Response:
        return _error(404, f"no such path: {request.url.path}", "invalid_request_error")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": born, "owned_by": "ownship"}]}

    @app.post("/v1/chat/completions")
    async def completions(body: ChatRequest, http: HTTPRequest) -> Response:
        if body.model != name:
            return _error(404, f"the model {body.model!r} does not exist; this server has {name!r}",
                          "invalid_request_error", "model", "model_not_found")
        if body.stream_options is not None and not body.stream:
            return _error(400, "stream_options needs stream: true", "invalid_request_error", "stream_options")
        try:
            prompt = chat.prompt([message.plain() for message in body.messages])
            requests = [Request(prompt, _sampling(body, engine, len(prompt), index)) for index in range(body.n)]
            reply = _Reply(worker, requests, name)
            await reply.start()
        except UserError as error:
            return _error(400, str(error), "invalid_request_error")
        except Busy:
            busy = _error(429, "too many requests are waiting", "rate_limit_error", code="queue_full")
            busy.headers["Retry-After"] = "1"
            return busy
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            return StreamingResponse(reply.chunks(usage), media_type="text/event-stream")
        return JSONResponse(await reply.whole())

    return app


def _sampling(body: ChatRequest, engine: Engine, prompt: int, index: int) -> Sampling:
    room = engine.model.config.max_position_embeddings - prompt
    if room < 1:
        raise UserError(f"the prompt has {prompt} tokens; the model takes {engine.model.config.max_position_embeddings}")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stop) > 4:
        raise UserError("stop: at most 4 strings")
    return Sampling(
        temperature=body.temperature, top_p=body.top_p, top_k=body.top_k, stop=stop,
        max_tokens=body.max_completion_tokens or body.max_tokens or min(room, 1024),
        seed=None if body.seed is None else body.seed + index)


class _Reply:
    """The choices of one request as they come."""

    def __init__(self, worker: Worker, requests: list[Request], model: str) -> None:
        self.requests = requests
        self.streams = [worker.stream(request) for request in requests]
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self.first: list[Event] = []

    async def start(self) -> None:
        """Waits for the first token of each choice, so that a refusal is still a status code."""
        try:
            for stream in self.streams:
                self.first.append(await anext(stream))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        for stream in self.streams:
            await stream.aclose()  # type: ignore[attr-defined]

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        # Each choice is followed to its end; the engine advances all of them meanwhile.
        try:
            for index, stream in enumerate(self.streams):
                yield index, self.first[index]
                async for event in stream:
                    yield index, event
        finally:
            await self.close()

    async def whole(self) -> dict[str, Any]:
        choices, completion_tokens = [], 0
        async with aclosing(self.events()) as events:  # type: ignore[type-var]
            async for index, event in events:
                if event.completion is not None:
                    completion_tokens += len(event.completion.tokens)
                    choices.append({"index": index, "message": {"role": "assistant", "content": event.completion.text},
                                    "logprobs": None, "finish_reason": event.completion.finish})
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": self._usage(completion_tokens)}

    async def chunks(self, usage: bool) -> AsyncIterator[str]:
        completion_tokens = 0

        def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
            body = {**self.head, "object": "chat.completion.chunk", "choices": choices, **more}
            return f"data: {json.dumps({'usage': None, **body} if usage else body)}\n\n"

        def choice(index: int, delta: dict[str, str], finish: str | None = None) -> list[dict[str, Any]]:
            return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]

        for index in range(len(self.streams)):
            yield chunk(choice(index, {"role": "assistant", "content": ""}))
        async with aclosing(self.events()) as events:  # type: ignore[type-var]
            async for index, event in events:
                if event.text:
                    yield chunk(choice(index, {"content": event.text}))
                if event.completion is not None:
                    completion_tokens += len(event.completion.tokens)
                    yield chunk(choice(index, {}, event.completion.finish))
        if usage:
            yield chunk([], usage=self._usage(completion_tokens))
        yield "data: [DONE]\n\n"

    def _usage(self, completion_tokens: int) -> dict[str, int]:
        prompt = len(self.requests[0].prompt)
        return {"prompt_tokens": prompt, "completion_tokens": completion_tokens, "total_tokens": prompt + completion_tokens}


def _error(status: int, message: str, kind: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def serve(model: str, port: int, name: str | None, max_waiting: int) -> None:
    """Serves until Ctrl-C. Raises UserError if the model or the port cannot be had."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be taken ({error}); choose another with --port, or 0 for a free one") from None
    path = zoo.resolve(model)
    engine = Engine(*checkpoint.load(path))
    name = name or (model if model in zoo.ZOO else path.resolve().stem if path.is_file() else str(model).rstrip("/"))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello!"}]})
    print(f"serving {name} at {url}/v1   (Ctrl-C ends it)\n\n"
          f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n\n"
          f"  from openai import OpenAI\n"
          f"  client = OpenAI(base_url={url + '/v1'!r}, api_key='none')\n"
          f"  client.chat.completions.create(model={name!r}, messages=[{{'role': 'user', 'content': 'Hello!'}}])\n", flush=True)
    config = uvicorn.Config(create(engine, name, max_waiting), log_level="warning", timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listener])
