"""/v1/worlds at the server's own door: its keys, its words for what is wrong, its document."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from scripted import Scripted
from stage import HTTP, Stage, over

from ownship.gateway.types import Finished, Started, TextDelta, Usage, Used
from ownship.serve.worlds import Worlds
from ownship.store.store import Store

pytest.importorskip("fastapi")
ASK = {"words": "a small room with a table and two chairs"}


def begin(stage: Stage, key: str | None, **more: object) -> httpx.Response:
    return stage.post("/v1/worlds", {**ASK, **more}, key=key)


def test_worlds_are_whose_key_began_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store.db"))

    async def keys() -> list[str]:
        return [(await store.create(name, **settings))[1] for name, settings in (
            ("mine", {}), ("other", {}), ("chats", {"endpoints": ("chat",)}), ("slow", {"per_minute": 2}))]

    mine, other, chats, slow = asyncio.run(keys())
    words = [Started("theirs", 5), TextDelta(0, "Hello"), Finished(0, "stop"), Used(Usage(5, 2))]
    with over({"a": Scripted(words)}, store=store, worlds=Worlds("scripted")) as stage:
        begun = begin(stage, mine)
        assert begun.status_code == 202 and begun.headers["x-request-id"].startswith("req_")
        links = begun.json()["links"]
        with HTTP.stream("GET", stage.url + links["events"], headers={"x-api-key": mine}) as events:
            end = json.loads([line for line in events.iter_lines() if line.startswith("data: ")][-1].removeprefix("data: "))
        assert end["status"] == "done" and end["changed"]
        scene = HTTP.get(stage.url + end["links"]["json"], headers={"x-api-key": mine}).json()
        assert {thing["id"] for thing in scene["objects"]} == {"table1", "chair1", "chair2"}
        for path in (links["self"], links["events"], end["links"]["glb"]):
            assert HTTP.get(stage.url + path).status_code == 401
            assert HTTP.get(stage.url + path, headers={"x-api-key": chats}).status_code == 403
            assert HTTP.get(stage.url + path, headers={"x-api-key": other}).status_code == 404
        assert HTTP.delete(stage.url + links["self"], headers={"x-api-key": other}).status_code == 404
        assert begin(stage, None).status_code == 401
        assert [begin(stage, slow, seed=seed).status_code for seed in range(3)] == [202, 202, 429]
        # what is wrong, in the words of every other path
        for said, answer in ((400, begin(stage, other, seed=-1)), (400, begin(stage, other, seed=True)),
                             (400, begin(stage, other, x=1)),
                             (400, stage.post("/v1/worlds", key=other, content=b"{}", headers={"content-type": "text/plain"})),
                             (405, HTTP.put(f"{stage.url}/v1/worlds", headers={"x-api-key": other})),
                             (404, HTTP.get(f"{stage.url}/v1/worlds/x/world.exe", headers={"x-api-key": other})),
                             (404, HTTP.get(f"{stage.url}/v1/worldsx", headers={"x-api-key": other}))):
            assert answer.status_code == said and answer.json()["error"]["message"], answer.text
        # and the rest of the server is as it was
        assert stage.post("/v1/chat/completions", {"model": "a", "messages": [{"role": "user", "content": "Hi"}]}, key=other).json()
        paths = HTTP.get(f"{stage.url}/openapi.json").json()["paths"]
        assert {"/v1/worlds", "/v1/worlds/{id}", "/v1/worlds/{id}/events", "/v1/worlds/{id}/world.glb"} <= paths.keys()
    store.close()


def test_without_worlds_there_are_none() -> None:
    with over({"a": Scripted([])}) as stage:
        assert begin(stage, None).status_code == 404
        assert not any("worlds" in path for path in HTTP.get(f"{stage.url}/openapi.json").json()["paths"])
