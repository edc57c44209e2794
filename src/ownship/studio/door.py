"""Who comes in. On loopback everybody on this machine; elsewhere only with a key of the store (`ownship keys create`).

A browser gets a session: 256 random bits in a cookie, of which only the hash is kept here. Programs send their key with every
request. The door also turns away pages of other origins (their forms and sockets would come with the user's cookie), other names
for this machine (DNS rebinding), and tells browsers to load nothing from anywhere else.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict, deque
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ownship.store import keys, periods
from ownship.store.store import Store
from ownship.store.writer import StoreFailed
from ownship.studio import shell
from ownship.surfaces.product import Session

COOKIE = "ownship_session"
_SESSIONS = 2_000  # at once; the one used longest ago goes first
_IDLE = 12 * 3600.0  # seconds after which a session is over
_CHECK = 5.0  # seconds that a key is believed to be still valid
_TRIES = 8  # wrong keys of one address a minute
_BODY = 4096  # bytes of a sign-in
_OPEN = ("/sign-in", "/studio/", shell.STATIC)  # paths that need nobody signed in
_POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
           "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob:; worker-src 'self' blob:; "
           "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin"}


class Door:
    """ASGI middleware. Puts the Session into `request.state.session`; `store` None opens to everybody, for loopback alone."""

    def __init__(self, app: ASGIApp, store: Store | None) -> None:
        self.app, self.store = app, store
        self.sessions: OrderedDict[str, Session] = OrderedDict()  # hash of the cookie →
        self.wrong: dict[str, deque[float]] = {}  # address → when it came with a wrong key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        refused = self._foreign(scope, headers)
        if refused is not None:
            return await _answer(scope, receive, send, Response(refused, 403, media_type="text/plain"))
        if scope["path"] == "/sign-in" and scope["type"] == "http" and self.store is not None:
            return await self._sign_in(scope, receive, send)
        if scope["path"] == "/sign-out" and scope["method"] == "POST":
            return await _answer(scope, receive, send, self._sign_out(headers))
        session = self._known(headers)
        if session is not None and not await self._holds(session):
            session = None
        fresh = ""
        bearer = headers.get("authorization", "")
        if session is None and self.store is not None and bearer.lower().startswith("bearer "):
            session = await self._program(_address(scope), bearer[7:].strip())
        if session is None and self.store is None:
            session = Session()
            if scope["type"] == "http" and "text/html" in headers.get("accept", ""):  # programs that keep no cookies leave nothing
                fresh = self._begin(session)
        if session is None and not scope["path"].startswith(_OPEN):
            html = scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", "")
            answer = (RedirectResponse(f"/sign-in?next={quote(scope['path'])}", 303) if html
                      else JSONResponse({"error": {"message": "sign in, or send a key: Authorization: Bearer own-…",
                                                   "type": "authentication_error"}}, 401, {"WWW-Authenticate": "Bearer"}))
            return await _answer(scope, receive, send, answer)
        scope.setdefault("state", {})["session"] = session or Session()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out[name] = value
                if fresh:
                    out.append("set-cookie", _cookie(scope, fresh))
            await send(message)

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive" and session is not None and not await self._holds(session):
                await send({"type": "websocket.close", "code": 1008})  # the key was revoked, or the user has signed out
                return {"type": "websocket.disconnect", "code": 1008}
            return message

        await self.app(scope, receiving if scope["type"] == "websocket" else receive, sending)

    def _foreign(self, scope: Scope, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if self.store is None and urlsplit(f"//{host}").hostname not in ("127.0.0.1", "localhost", "::1"):
            return "this studio answers on loopback only"
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        origin = headers.get("origin")
        if changes and origin is not None and urlsplit(origin).netloc != host:
            return "a page of another origin may not do this"
        return None

    # Sessions

    def _begin(self, session: Session) -> str:
        token = secrets.token_urlsafe(32)
        self.sessions[_digest(token)] = session
        while len(self.sessions) > _SESSIONS:
            self.sessions.popitem(last=False)[1].over = True
        return token

    def _known(self, headers: Headers) -> Session | None:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return None
        hashed = _digest(cookie.value) if cookie is not None else ""
        session = self.sessions.get(hashed)  # looked up by hash: the time it takes says nothing about the cookie
        if session is None:
            return None
        if time.monotonic() - session.used > _IDLE:
            session.over = True
            del self.sessions[hashed]
            return None
        session.used = time.monotonic()
        self.sessions.move_to_end(hashed)
        return session

    async def _holds(self, session: Session) -> bool:
        """Whether the key that opened the session still opens."""
        if session.over or self.store is None:
            return not session.over
        if time.monotonic() - session.checked > _CHECK:
            try:
                found = await self.store.read(lambda connection: keys.look_up(connection, session.hashed))
                keys.admit(found, session.hashed, periods.now())
            except keys.KeyRefused:
                session.over = True
            except StoreFailed:
                return False  # nobody, until the database is back
            session.checked = time.monotonic()
        return not session.over

    # Keys

    async def _admit(self, address: str, secret: str) -> keys.Key | str:
        """The key, or why not, in words."""
        assert self.store is not None
        times = self.wrong.setdefault(address, deque(maxlen=_TRIES))
        if len(times) == _TRIES and time.monotonic() - times[0] < 60:
            return "Too many wrong keys from your address. Wait a minute."
        try:
            key = await self.store.admit(secret)
        except keys.KeyRefused:
            times.append(time.monotonic())
            if len(self.wrong) > 10_000:
                self.wrong = {one: when for one, when in self.wrong.items() if when and time.monotonic() - when[-1] < 60}
            return "That key does not open anything here."
        except StoreFailed:
            return "The database of keys does not answer."
        if not key.may_call("studio"):
            return "That key is not for the studio."
        return key

    async def _program(self, address: str, secret: str) -> Session | None:
        key = await self._admit(address, secret)
        return None if isinstance(key, str) else Session(key.name, keys.digest(secret))

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        following = _path(query.get("next", ["/"])[0])
        if scope["method"] != "POST":
            return await _answer(scope, receive, send, HTMLResponse(shell.sign_in_page("", following)))
        body, more = b"", True
        while more and len(body) <= _BODY:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        secret = parse_qs(body[:_BODY].decode("utf-8", "replace")).get("key", [""])[0].strip()
        key = await self._admit(_address(scope), secret)
        if isinstance(key, str):
            return await _answer(scope, receive, send, HTMLResponse(shell.sign_in_page(key, following), 401))
        token = self._begin(Session(key.name, keys.digest(secret)))
        answer = RedirectResponse(following, 303)
        answer.headers.append("set-cookie", _cookie(scope, token))
        await _answer(scope, receive, send, answer)

    def _sign_out(self, headers: Headers) -> Response:
        session = self._known(headers)
        if session is not None:
            session.over = True
            self.sessions = OrderedDict((name, one) for name, one in self.sessions.items() if one is not session)
        answer = RedirectResponse("/sign-in" if self.store is not None else "/", 303)
        answer.delete_cookie(COOKIE)
        return answer


async def _answer(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    response.headers.update(_HEADERS)
    await response(scope, receive, send)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _address(scope: Scope) -> str:
    client: Any = scope.get("client")
    return str(client[0]) if client else ""


def _cookie(scope: Scope, token: str) -> str:
    secure = "; Secure" if scope["scheme"] in ("https", "wss") else ""
    return f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax{secure}"


def _path(said: str) -> str:
    """Where to after signing in: a path of ours, whatever was asked for."""
    return said if said.startswith("/") and not said.startswith(("//", "/\\")) and said.isprintable() else "/"
