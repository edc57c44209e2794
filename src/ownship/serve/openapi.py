"""/openapi.json, from the codecs' own models: what is said there is what is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

import ownship

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {
    "type": "object", "required": ["type", "message"], "properties": {
        "type": {"type": "string"}, "message": {"type": "string"}, "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]}}}}}
EVENT = {"type": "object", "required": ["data"], "description": "each event of the stream",
         "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}


def document(bodies: Mapping[str, tuple[str, type[BaseModel]]], reads: Mapping[str, str],
             streams: frozenset[str], models: list[str], more: Mapping[str, Any]) -> dict[str, Any]:
    """`bodies`: what each POST path does and takes; `reads`: what each GET path tells; `streams`: paths that may answer with
    server-sent events; `models`: what the reader may ask for; `more`: paths that are described already."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for path, (about, model) in bodies.items():
        prefix = "".join(word.capitalize() for word in path.removeprefix("/v1").replace("_", "/").split("/"))
        schema = model.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
        schemas |= {prefix + name: each for name, each in schema.pop("$defs", {}).items()}
        if models and "model" in schema["required"]:
            schema["properties"]["model"] |= {"examples": models}
        schemas[prefix] = schema
        content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
        if path in streams:
            content["text/event-stream"] = {"schema": EVENT}
        paths[path] = {"post": {
            "summary": about, "operationId": prefix, "requestBody": {"required": True, "content": {"application/json": {
                "schema": {"$ref": f"#/components/schemas/{prefix}"}}}},
            "responses": {"200": {"description": "the reply", "content": content}, **refusals()}}}
    for path, about in reads.items():
        model_name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        named = [model_name] if "{" in path else []
        kind = "text/plain" if path == "/metrics" else "application/json"
        paths[path] = {"get": {"summary": about, "parameters": named, "responses": {
            "200": {"description": about, "content": {kind: {"schema": {}}}}, **refusals(503 if path == "/ready" else None)}}}
    return {"openapi": "3.1.0", "info": {"title": "Ownship", "version": ownship.__version__},
            "security": [{}, {"bearer": []}, {"key": []}], "paths": {**paths, **more},
            "components": {"schemas": schemas, "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"}, "key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}}}


def refusals(other: int | None = None) -> dict[str, Any]:
    """What every path may answer instead."""
    body = {"application/json": {"schema": _ERROR}}
    told = {"4XX": {"description": "what is wrong with the request", "content": body},
            "5XX": {"description": "what is wrong here, or at the upstream", "content": body}}
    return told | ({str(other): {"description": "not ready", "content": {"application/json": {"schema": {}}}}} if other else {})
