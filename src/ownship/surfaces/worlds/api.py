"""Worlds over HTTP: a request becomes a job, the job tells its ops as they are decided, and leaves a model, a picture and a scene.

    POST   /v1/worlds              {"words": "a room with …", "scene": {…}, "language": "de"}  → 202, the job
    GET    /v1/worlds/{id}         how far it is, its ops so far, and where its results are
    GET    /v1/worlds/{id}/events  the same as server-sent events, until it is over
    GET    /v1/worlds/{id}/world.glb, .json, .png
    DELETE /v1/worlds/{id}         cancels it

The studio and the server mount the same router.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ownship.errors import UserError
from ownship.surfaces.jobs import Full, Job
from ownship.surfaces.product import Studio
from ownship.surfaces.worlds import build
from ownship.surfaces.worlds.build import World
from ownship.surfaces.worlds.types import History, Language, Scene

_TYPES = {"glb": "model/gltf-binary", "json": "application/json", "png": "image/png"}
_MAX_BODY = 4 << 20


class Ask(BaseModel):
    """What is posted. Without `scene` the world begins empty."""

    model_config = ConfigDict(extra="forbid")
    words: str = Field(min_length=1, max_length=100_000)
    scene: Scene = Scene()
    language: Language | None = None
    seed: int = Field(0, ge=0, lt=1 << 31, strict=True)


def file(scene: Scene, ending: str) -> Response:
    """The scene as a file to download."""
    if ending not in _TYPES:
        return _error(404, f"a world comes as {', '.join(_TYPES)}, not as {ending[:20]!r}")
    content = {"glb": build.glb, "json": build.written, "png": build.png}[ending](scene)
    return Response(content, media_type=_TYPES[ending], headers={"Content-Disposition": f'attachment; filename="world.{ending}"'})


def routes(studio: Studio) -> APIRouter:
    router = APIRouter(prefix="/v1/worlds")
    jobs = studio.jobs

    def found(id: str, request: Request) -> Job | None:
        return jobs.get(id, _owner(request))

    @router.post("")
    async def begin(request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MAX_BODY:
                return _error(413, f"the body is larger than {_MAX_BODY >> 20} MB")
        try:
            ask = Ask.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            return _error(400, f"{'.'.join(str(part) for part in first['loc']) or 'the body'}: {first['msg']}")
        try:
            build.check(ask.scene)
        except UserError as error:
            return _error(400, f"scene: {error}")
        history = History(scenes=(ask.scene,))
        try:
            job = jobs.put(lambda job: build.build(ask.words, history, model=studio.model, gateway=studio.gateway,
                                                   language=ask.language, seed=ask.seed, note=job.note), _owner(request))
        except Full:
            return _error(429, "too many worlds are being built", {"Retry-After": "2"})
        return JSONResponse(_told(job, jobs.place(job)), 202, {"Location": f"/v1/worlds/{job.id}"})

    @router.get("/{id}")
    async def look(id: str, request: Request) -> Response:
        job = found(id, request)
        return _missing() if job is None else JSONResponse(_told(job, jobs.place(job)))

    @router.get("/{id}/events")
    async def events(id: str, request: Request) -> Response:
        job = found(id, request)
        if job is None:
            return _missing()

        async def lines() -> AsyncIterator[str]:
            async for event in job.follow():
                yield ": still there\n\n" if event is None else f"event: op\ndata: {json.dumps(event)}\n\n"
            yield f"event: end\ndata: {json.dumps(_told(job, 0))}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream",
                                 headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    @router.get("/{id}/world.{ending}")
    def result(id: str, ending: str, request: Request) -> Response:
        job = found(id, request)
        if job is None:
            return _missing()
        if job.state != "done":
            return _error(409, f"this world is {job.state}")
        return file(job.result.scene, ending)

    @router.delete("/{id}")
    async def cancel(id: str, request: Request) -> Response:
        job = found(id, request)
        if job is None:
            return _missing()
        jobs.cancel(job)
        return JSONResponse(_told(job, 0))

    return router


def _owner(request: Request) -> str:
    session = getattr(request.state, "session", None)
    return session.who if session is not None else ""


def _told(job: Job, place: int) -> dict[str, Any]:
    path = f"/v1/worlds/{job.id}"
    said: dict[str, Any] = {
        "id": job.id, "object": "world", "status": job.state, "waiting_before": place, "error": job.error or None,
        "ops": [event["line"] for event in job.events if "line" in event], "links": {"self": path, "events": f"{path}/events"}}
    if job.state == "done":
        world: World = job.result
        said |= {"changed": world.changed, "said": world.said, "language": world.language, "seconds": round(world.seconds, 3),
                 "description": build.description(world.scene, world.language)}
        said["links"] |= {ending: f"{path}/world.{ending}" for ending in _TYPES}
    return said


def _missing() -> Response:
    return _error(404, "there is no such world: it was never begun, or is long over")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind}}, status, headers)
