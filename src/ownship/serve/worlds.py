"""/v1/worlds: the router of surfaces/worlds behind the server's own keys. The first request loads it: it brings a web framework."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ownship.gateway.types import GatewayError
from ownship.serve.call import Call, Scope
from ownship.serve.openapi import EVENT, refusals

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ownship.surfaces.jobs import Jobs

PATH = "/v1/worlds"
_NEEDED = ("fastapi", "scipy", "ortools")
_ID = r"/v1/worlds/[\w-]{1,64}"
_ROUTES = [(re.compile(PATH), ("POST",)), (re.compile(_ID), ("GET", "DELETE")),
           (re.compile(rf"{_ID}/(events|world\.(glb|json|png))"), ("GET",))]


class Worlds:
    """`model` decides: "scripted", or one that has learnt worlds."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._jobs: Jobs | None = None
        self._app: FastAPI | None = None

    def check(self, call: Call) -> None:
        """Raises GatewayError for what the router does not know, in the server's words; and if it cannot be had."""
        methods = next((methods for path, methods in _ROUTES if path.fullmatch(call.path)), None)
        if methods is None:
            raise GatewayError(404, "not_found", f"no such path: {call.path[:200]}")
        if call.method not in methods:
            call.told["allow"] = ", ".join(methods)
            raise GatewayError(405, "invalid", f"{call.path} takes {', '.join(methods)}, not {call.method[:20]}")
        if missing := [name for name in _NEEDED if find_spec(name) is None]:
            raise GatewayError(404, "not_found", f"worlds need {missing[0]} on the server: pip install 'ownship[worlds]'")
        if call.method == "POST":
            call.json_expected()

    async def answer(self, call: Call, who: str) -> None:
        """`who` may see what is begun here, and nobody else."""
        if self._app is None:
            self._app = self._make()
        from ownship.surfaces.product import Session

        state = {**call.scope.get("state", {}), "session": Session(who)}

        async def send(message: Scope) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", call.id.encode())]
            await call.send(message)

        await self._app({**call.scope, "state": state}, call.receive, send)

    def _make(self) -> FastAPI:
        from fastapi import FastAPI

        from ownship.surfaces.jobs import Jobs
        from ownship.surfaces.product import Studio
        from ownship.surfaces.worlds import api

        self._jobs = Jobs()
        app = FastAPI(openapi_url=None)
        app.include_router(api.routes(Studio(self.model, self._jobs)))
        return app

    def close(self) -> None:
        """Cancels what is being built."""
        if self._jobs is not None:
            self._jobs.close()


def described() -> dict[str, Any]:
    """The paths, for /openapi.json."""
    world = {"description": "the job: its state, its ops so far, and where its results are",
             "content": {"application/json": {"schema": {"type": "object", "required": ["id", "status", "ops", "links"]}}}}
    id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,64}$"}}
    ask = {"type": "object", "required": ["words"], "additionalProperties": False, "properties": {
        "words": {"type": "string", "minLength": 1, "maxLength": 100_000, "description": "what is to be there, or to be changed"},
        "scene": {"type": "object", "description": "a world.json to begin from, by default an empty one"},
        "language": {"enum": ["en", "de", None]}, "seed": {"type": "integer", "minimum": 0, "exclusiveMaximum": 1 << 31}}}

    def told(about: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"get": {"summary": about, "parameters": [id], "responses": {
            "200": {"description": about, "content": {kind: {"schema": schema}}}, **refusals()}}}

    files = {"glb": ("The world as glTF", "model/gltf-binary"), "json": ("The world as its scene", "application/json"),
             "png": ("A picture of the world", "image/png")}
    return {
        PATH: {"post": {"summary": "Begin a world, or a change to one", "operationId": "Worlds", "requestBody": {
            "required": True, "content": {"application/json": {"schema": ask}}}, "responses": {"202": world, **refusals()}}},
        f"{PATH}/{{id}}": {
            "get": {"summary": "How far a world is", "parameters": [id], "responses": {"200": world, **refusals()}},
            "delete": {"summary": "Cancel it", "parameters": [id], "responses": {"200": world, **refusals()}}},
        f"{PATH}/{{id}}/events": told("Its ops as they are decided", "text/event-stream", EVENT),
        **{f"{PATH}/{{id}}/world.{ending}": told(about, kind, {}) for ending, (about, kind) in files.items()}}
