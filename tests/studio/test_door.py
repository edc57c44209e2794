"""Who comes in: without a browser, over ASGI."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

pytest.importorskip("nicegui")
from ownship.errors import UserError
from ownship.store import database, keys, periods
from ownship.store.store import Store
from ownship.studio import app as studio
from ownship.studio import door
from ownship.studio.command import Studio
from ownship.studio.door import COOKIE, Door

PAGE = {"accept": "text/html"}


def _inner() -> FastAPI:
    app = FastAPI()

    @app.get("/worlds")
    def page(request: Request) -> dict[str, Any]:
        session = request.state.session
        session.kept["visits"] = session.kept.get("visits", 0) + 1
        return {"visits": session.kept["visits"], "who": session.who}

    @app.post("/worlds")
    def change() -> dict[str, bool]:
        return {"ok": True}

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await socket.send_text(await socket.receive_text())

    return app


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "store.db"))
    yield opened
    opened.close()


def _key(store: Store, name: str, **settings: Any) -> str:
    with database.writing(store.engine) as connection:
        return keys.create(connection, name, periods.now(), **settings)[1]


def _client(store: Store | None, host: str = "127.0.0.1:8080") -> TestClient:
    return TestClient(Door(_inner(), store), base_url=f"http://{host}", follow_redirects=False)


def test_on_loopback_every_browser_has_a_session_of_its_own() -> None:
    door_ = Door(_inner(), None)
    one, other = (TestClient(door_, base_url="http://127.0.0.1:8080") for _ in range(2))
    assert [one.get("/worlds", headers=PAGE).json()["visits"] for _ in range(3)] == [1, 2, 3]
    assert other.get("/worlds", headers=PAGE).json()["visits"] == 1
    assert len(door_.sessions) == 2 and not any(cookie in door_.sessions for cookie in (one.cookies[COOKIE], other.cookies[COOKIE]))
    other.cookies.set(COOKIE, "0" * 43)
    other.get("/worlds")  # a program without a session leaves none
    assert len(door_.sessions) == 2


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1.example.com:8080", "192.168.1.4:8080"])
def test_on_loopback_other_names_of_this_machine_are_turned_away(host: str) -> None:
    assert _client(None, host).get("/worlds", headers=PAGE).status_code == 403


@pytest.mark.parametrize("origin", ["http://example.com", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8080.example.com"])
def test_pages_of_other_origins_change_nothing_and_open_no_socket(origin: str) -> None:
    client = _client(None)
    assert client.post("/worlds", headers={"origin": origin}).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://127.0.0.1:8080/socket", headers={"origin": origin}):
        pass
    assert client.post("/worlds", headers={"origin": "http://127.0.0.1:8080"}).status_code == 200


def test_beyond_loopback_nothing_is_shown_without_a_key(store: Store) -> None:
    _key(store, "anna")
    client = _client(store, "studio.example.com")
    page = client.get("/worlds", headers=PAGE)
    assert page.status_code == 303 and page.headers["location"] == "/sign-in?next=/worlds"
    assert client.get("/worlds").status_code == client.post("/worlds").status_code == 401
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://studio.example.com/socket"):
        pass
    form = client.get("/sign-in?next=/worlds")
    assert "script-src 'self'" in form.headers["content-security-policy"] and "<form" in form.text


def test_a_key_opens_a_session_and_its_end_ends_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = _key(store, "anna")
    client = _client(store, "studio.example.com")
    signed = client.post("/sign-in?next=/worlds", data={"key": f" {secret} "})
    assert signed.status_code == 303 and signed.headers["location"] == "/worlds"
    cookie = signed.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Lax"} <= set(cookie.split("; ")) and secret not in cookie
    assert client.get("/worlds").json()["who"] == "anna"
    monkeypatch.setattr(door, "_CHECK", 0.0)
    with client.websocket_connect("ws://studio.example.com/socket") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
        with database.writing(store.engine) as connection:
            found = keys.find(connection, "anna")
            assert found is not None
            keys.revoke(connection, found, periods.now())
        socket.send_text("still there?")
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    assert client.get("/worlds").status_code == 401


def test_signing_out_ends_the_session(store: Store) -> None:
    client = _client(store, "studio.example.com")
    client.post("/sign-in", data={"key": _key(store, "anna")})
    cookie = client.cookies[COOKIE]
    assert client.post("/sign-out").status_code == 303
    client.cookies.set(COOKIE, cookie)
    assert client.get("/worlds").status_code == 401


@pytest.mark.parametrize("key", ["", "own-" + "0" * 48, "own-", "x" * 5000, "own-' or 1=1 --", "ö\ud800"])
def test_wrong_keys_open_nothing(store: Store, key: str) -> None:
    _key(store, "anna")
    client = _client(store, "studio.example.com")
    refused = client.post("/sign-in", content=b"key=" + key.encode("utf-8", "surrogatepass"))
    assert refused.status_code == 401 and "set-cookie" not in refused.headers and "does not open" in refused.text


def test_a_key_for_other_endpoints_does_not_open_the_studio(store: Store) -> None:
    client = _client(store, "studio.example.com")
    assert client.post("/sign-in", data={"key": _key(store, "chat", endpoints=("chat",))}).status_code == 401
    assert client.post("/sign-in", data={"key": _key(store, "pages", endpoints=("studio",))}).status_code == 303


def test_guessing_is_slowed_down_even_for_who_then_guesses_right(store: Store) -> None:
    secret = _key(store, "anna")
    client = _client(store, "studio.example.com")
    for _ in range(8):
        client.post("/sign-in", data={"key": "own-" + "1" * 48})
    refused = client.post("/sign-in", data={"key": secret})
    assert refused.status_code == 401 and "Wait" in refused.text


def test_programs_send_their_key_every_time(store: Store) -> None:
    client = _client(store, "studio.example.com")
    bearer = {"authorization": f"Bearer {_key(store, 'robot')}"}
    assert [client.get("/worlds", headers=bearer).json() for _ in range(2)] == [{"visits": 1, "who": "robot"}] * 2
    assert client.get("/worlds", headers={"authorization": "Bearer own-1"}).status_code == 401


@pytest.mark.parametrize("following", ["//example.com", "https://example.com", "/\\example.com", "javascript:alert(1)", "/a\r\nb"])
def test_signing_in_leads_to_pages_of_ours_alone(store: Store, following: str) -> None:
    answer = _client(store, "studio.example.com").post("/sign-in", params={"next": following}, data={"key": _key(store, "anna")})
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0"}, {"host": "::"}, {"sign_in": True}])
def test_it_does_not_start_where_nobody_could_sign_in(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="keys create"):
        studio.run(Studio(port=0, store=str(tmp_path / "store.db"), model="scripted", **settings))


def test_hosts_that_are_none_and_half_a_certificate_are_refused() -> None:
    with pytest.raises(UserError, match="--host"):
        studio.run(Studio(host="everywhere"))
    with pytest.raises(UserError, match="--tls-key"):
        studio.run(Studio(tls_cert="cert.pem"))
