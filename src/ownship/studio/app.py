"""`ownship studio`: the pages of all products behind one door."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator
from typing import Any

from ownship.errors import UserError

try:
    os.environ.setdefault("NICEGUI_STORAGE_PATH", tempfile.gettempdir())  # nothing is stored there: sessions are our own
    import nicegui  # noqa: F401
except ModuleNotFoundError as error:
    raise UserError("the studio needs NiceGUI: pip install 'ownship[studio]'") from error

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from nicegui import app as nicegui_app
from nicegui import ui

from ownship.store import database, keys, periods
from ownship.store.store import Store
from ownship.studio import shell
from ownship.studio.command import Studio as Command
from ownship.studio.door import Door
from ownship.studio.products import PRODUCTS
from ownship.surfaces.jobs import Jobs
from ownship.surfaces.product import Product, Studio


def create(studio: Studio) -> FastAPI:
    """The application without its door. NiceGUI keeps its pages in the process: one a process."""

    @contextlib.asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        yield
        studio.jobs.close()

    app = FastAPI(title="Ownship studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=living)
    nicegui_app.on_exception(lambda error: logging.getLogger(__name__).error("a page failed", exc_info=error))

    @app.get("/")
    async def first() -> Response:
        return RedirectResponse(f"/{PRODUCTS[0].name}", 307)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/studio/{name}.css")
    async def style(name: str) -> Response:
        return Response(shell.style(), media_type="text/css", headers={"Cache-Control": "public, max-age=31536000, immutable"})

    for product in PRODUCTS:
        app.include_router(product.routes(studio))
        _page(studio, product)
    ui.run_with(app, title="Ownship", favicon=shell.favicon(), dark=None, tailwind=False, show_welcome_message=False,
                storage_secret=secrets.token_hex(32), reconnect_timeout=20.0, binding_refresh_interval=None)
    return app


def _page(studio: Studio, product: Product) -> None:
    @ui.page(f"/{product.name}", title=f"{product.title} · Ownship")
    def show(request: Request) -> None:
        session = request.state.session
        shell.frame(PRODUCTS, product, session, lambda: product.page(studio, session))


def run(command: Command) -> None:
    """Serves until Ctrl-C. Raises UserError if it may not, or the port cannot be taken."""
    loopback = _loopback(command.host)
    if bool(command.tls_cert) != bool(command.tls_key):
        raise UserError("--tls-cert and --tls-key go together")
    store = None if loopback and not command.sign_in else _store(command.store)
    family = socket.AF_INET6 if ":" in command.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((command.host, command.port))
        listener.listen()
    except (OSError, OverflowError) as error:
        raise UserError(f"{command.host}:{command.port} cannot be taken ({error}); choose another --port (0: a free one)") from None
    studio = Studio(command.model, Jobs(), command.gateway)
    app = Door(create(studio), store)  # before the address is told: a model that cannot be had is told instead
    scheme = "https" if command.tls_cert else "http"
    host = f"[{command.host}]" if ":" in command.host else command.host
    print(f"the studio is at {scheme}://{host}:{listener.getsockname()[1]}   (Ctrl-C ends it)", flush=True)
    if store is not None and scheme == "http" and not loopback:
        print("keys and worlds go over the network in the clear: give --tls-cert and --tls-key, or put a TLS proxy in front",
              flush=True)
    tls: dict[str, Any] = {"ssl_certfile": command.tls_cert, "ssl_keyfile": command.tls_key} if command.tls_cert else {}
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3, ws_max_size=1 << 20, **tls))
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        if store is not None:
            store.close()


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UserError(f"--host is an IP address of this machine (127.0.0.1, 0.0.0.0, ::), not {host!r}") from None


def _store(said: str) -> Store:
    """The open store, in which some key opens the studio."""
    url = said or database.default()
    store = Store(url)
    now = periods.now()
    with store.engine.connect() as connection:
        living = [key for key, kept in keys.everyone(connection) if key.revoked is None and key.may_call("studio")
                  and (key.expires is None or key.expires > now) and any(one.expires is None or one.expires > now for one in kept)]
    if not living:
        store.close()
        raise UserError("nobody could sign in: beyond loopback the studio opens only with a key, and there is none that holds. "
                        "Make one: ownship keys create NAME")
    return store
