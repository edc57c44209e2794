"""`ownship serve`: what it is told, and what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ownship.engine.request import Precision
from ownship.errors import UserError

if TYPE_CHECKING:
    from ownship.gateway.config import Config
    from ownship.serve.app import App
    from ownship.serve.server import Server
    from ownship.serve.workers import Worker
    from ownship.store.store import Store


@dataclass(frozen=True)
class Serve:
    """Serve models over HTTP: OpenAI's chat completions, completions and responses, Anthropic's messages."""

    model: Annotated[str, Positional, arg(metavar="[MODEL]")] = ""
    """A zoo name (by default smollm2-135m-instruct), a folder in Hugging Face layout, an adapter, a .gguf file or a hub name."""
    config: Path | None = None
    """A gateway.toml instead of a MODEL: many models, own and bought, with prices, rules and tools."""
    host: str = "127.0.0.1"
    """Where to listen. Anything but this machine's own address needs keys: ownship keys create NAME."""
    port: int = 8000
    """0 takes a free one."""
    name: str = ""
    """What clients call MODEL; by default its own name."""
    max_waiting: int = 256
    """Requests that may queue for MODEL; more are told to come back (429)."""
    precision: Precision = "bfloat16"
    """Of the local engine's weights: int8 answers a single client twice as fast, a little less exactly; int4, for .gguf files
    with 4 bits only, faster still."""
    cache_mb: int = 2048
    """Bound of the local engine's key/value cache."""
    store: Annotated[str, arg(metavar="URL")] = ""
    """Keys, budgets and ledger: as for ownship keys. By default $OWNSHIP_STORE, else ~/.local/share/ownship/store.db."""
    max_body_mb: int = 32
    """Largest body of a request."""
    drain: float = 30.0
    """Seconds that replies under way get after SIGTERM."""
    tls_cert: Path | None = None
    """A certificate (chain) in PEM: serve https."""
    tls_key: Path | None = None
    """Its key in PEM."""
    worlds: Annotated[str, arg(metavar="MODEL|none")] = "scripted"
    """Who decides at /v1/worlds: "scripted" is the parser without a model; else a model that has learnt worlds; "none": nobody.
    With several workers it is nobody, for a world is known only to the process that builds it."""
    workers: int = 1
    """Processes that share the port, for a --config of upstreams behind URLs: about as many as there are cores to spare."""
    otel: Annotated[str, arg(metavar="URL")] = ""
    """Send OpenTelemetry spans (no text of prompts or replies) to this collector, over HTTP. By default
    $OTEL_EXPORTER_OTLP_ENDPOINT; without either there are none."""
    log_prompts: bool = False
    """Log the requests' bodies too. By default no text of a prompt or a reply is logged."""


def run(config: Serve) -> None:
    """Serves until SIGINT or SIGTERM. Raises UserError if something of what it was told cannot be."""
    from ownship.gateway import mcp
    from ownship.serve import logs
    from ownship.serve.admission import loopback
    from ownship.store import database
    from ownship.store.store import Store

    gateway, first = _gateway(config)
    tls = _tls(config)
    if gateway.mcp:
        mcp.require()
    shared = _shared(config, gateway) if config.workers != 1 else None
    url = config.store or database.default()
    store = Store(url)
    try:
        keyed = asyncio.run(store.keyed())
        if not keyed and not loopback(config.host):
            raise UserError(f"--host {config.host} can be reached by others, and there are no keys: whoever finds it could use it."
                            " Make one (ownship keys create NAME), or serve this machine only (--host 127.0.0.1)")
        _many_files()
        if shared is None:
            listener = _listen(config.host, config.port)
            logs.start()
            return _serve(config, gateway, store, listener, tls, lambda: _say(_url(config, listener, tls), first, keyed), None)
    finally:
        store.close()
        logs.flush()
    from ownship.serve import workers

    listeners = _listeners(config)
    logs.start()

    def work(listener: socket.socket, worker: Worker) -> int:
        store = Store(url)
        try:
            _serve(config, shared, store, listener, tls, worker.ready, worker)
        finally:
            store.close()
            logs.flush()
        return 0

    if code := workers.run(listeners, work, lambda: _say(_url(config, listeners[0], tls), first, keyed)):
        raise UserError(f"a worker ended before it was ready ({code}); its log above says why")


def _serve(config: Serve, gateway: Config, store: Store, listener: socket.socket, tls: dict[str, str], say: Callable[[], None],
           worker: Worker | None) -> None:
    """Serves until a signal; `say` is called when the engines are ready. Raises UserError if the only one cannot be had."""
    from ownship.gateway import mcp
    from ownship.gateway.routing import Router
    from ownship.gateway.upstreams import build
    from ownship.serve import app, tracing
    from ownship.serve.server import Server
    from ownship.serve.worlds import Worlds

    spans = tracing.start(config.otel)
    worlds = Worlds(config.worlds) if worker is None and config.worlds != "none" else None
    router = Router(gateway, build(gateway, config.precision, config.cache_mb << 20))
    face = app.create(router, store, mcp.Toolbox(gateway.mcp) if gateway.mcp else None, app.Limits(config.max_body_mb << 20),
                      config.log_prompts, worker, spans, worlds)
    server = Server(face, config.drain, **tls)
    failed: list[str] = []

    async def start() -> None:
        living = None if worker is None else asyncio.create_task(worker.live(face.metrics.text, server.end))
        await _when_ready(face, say, failed, server)
        if living is not None:
            await living

    face.on_start = start
    gc.collect()
    gc.freeze()  # what is there now stays, and need not be looked through again
    try:
        server.run(sockets=[listener])
    finally:
        if spans is not None:
            spans.close()
    if failed:
        raise UserError(failed[0])


def _shared(config: Serve, gateway: Config) -> Config:
    """The tables for each of several workers."""
    if not hasattr(os, "fork"):
        raise UserError("--workers needs a system with fork")
    if not 1 <= config.workers <= 256:
        raise UserError(f"--workers is between 1 and 256, not {config.workers}")
    if engines := [name for name, table in gateway.upstreams.items() if table.engine is not None]:
        raise UserError(f"--workers is for upstreams behind URLs, and {engines[0]} is an engine, which is one process: serve it"
                        " by itself (ownship serve MODEL --port 8001), and name its URL in the --config")
    parts = {name: table.model_copy(update={"concurrency": max(1, table.concurrency // config.workers),
                                            "queue": table.queue // config.workers}) for name, table in gateway.upstreams.items()}
    return gateway.model_copy(update={"upstreams": parts})


def _listeners(config: Serve) -> list[socket.socket]:
    from ownship.serve import workers

    port = config.port

    def listen(share: bool) -> socket.socket:
        nonlocal port
        made = _listen(config.host, port, share)
        port = made.getsockname()[1]
        return made

    return workers.sockets(listen, config.workers)


def _gateway(config: Serve) -> tuple[Config, str]:
    """The tables, and the model that the snippets ask."""
    from ownship.gateway import config as tables
    from ownship.gateway.upstreams import single

    if config.config is not None:
        if config.model or config.name:
            raise UserError("give a MODEL or a --config, which names the models, not both")
        loaded = tables.load(config.config)
        if not loaded.models:
            raise UserError(f"{config.config}: there are no [models]")
        return loaded, next(iter(loaded.models))
    from ownship.model import zoo

    model = config.model or zoo.DEFAULT
    path = zoo.resolve(model)
    own = path.resolve().stem if path.is_file() else path.resolve().name
    name = config.name or (model if not Path(model).expanduser().exists() else re.sub(r"[^A-Za-z0-9._@-]+", "-", own).strip("-._"))
    return single(model, name or "model", queue=config.max_waiting), name or "model"


def _tls(config: Serve) -> dict[str, str]:
    import ssl

    if config.tls_cert is None and config.tls_key is None:
        return {}
    if config.tls_cert is None or config.tls_key is None:
        raise UserError("TLS needs both --tls-cert and --tls-key")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(config.tls_cert, config.tls_key, password="")
    except (OSError, ValueError) as error:
        raise UserError(f"the certificate or its key cannot be used: {error}") from None
    return {"ssl_certfile": str(config.tls_cert), "ssl_keyfile": str(config.tls_key)}


def _listen(host: str, port: int, share: bool = False) -> socket.socket:
    try:
        if not 0 <= port <= 65535:  # getaddrinfo would take the rest of a division
            raise OverflowError("a port is between 0 and 65535")
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if share else socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)  # now: a second server on this port is told at once
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} of {host} cannot be taken ({error}); choose another with --port, or 0 for a free"
                        " one") from None
    return listener


def _many_files() -> None:
    """A connection is an open file, and many systems begin with a bound of 1024."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 1 << 20 if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _url(config: Serve, listener: socket.socket, tls: dict[str, str]) -> str:
    host, port = config.host, listener.getsockname()[1]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    return f"http{'s' if tls else ''}://{shown}:{port}"


async def _when_ready(face: App, say: Callable[[], None], failed: list[str], server: Server) -> None:
    """Says how to use the server when its engines are loaded. Where nothing but an engine is served and that cannot be, it ends."""
    for name, local in face.locals.items():
        try:
            await local.engine.ready()
        except UserError as error:
            if len(face.router.config.upstreams) == 1:
                failed.append(str(error))
                server.end()
                return
            logging.getLogger(__name__).error("upstream %s: %s", name, error)
    say()


def _say(url: str, model: str, key: bool) -> None:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
    header = " -H \"Authorization: Bearer $OWNSHIP_KEY\"" if key else ""
    secret = "os.environ['OWNSHIP_KEY']" if key else "'none'"
    print(f"serving {model} at {url}/v1   (Ctrl-C ends it)\n\n"
          f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{header} -d '{body}'\n\n"
          f"  {'import os; ' if key else ''}from openai import OpenAI\n"
          f"  client = OpenAI(base_url={url + '/v1'!r}, api_key={secret})\n"
          f"  client.chat.completions.create(model={model!r}, messages=[{{'role': 'user', 'content': 'Hello!'}}])\n", flush=True)
