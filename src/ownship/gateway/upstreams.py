"""The upstreams of a gateway.toml, made and not yet started."""

from __future__ import annotations

from ownship.gateway.config import Config, UpstreamTable, parse
from ownship.gateway.engine_process import EngineProcess
from ownship.gateway.local import Local
from ownship.gateway.types import Upstream
from ownship.gateway.upstream import HTTPUpstream


def build(config: Config, precision: str = "bfloat16", cache_bytes: int = 2 << 30) -> dict[str, Upstream]:
    """By name, for `Router`. The engines of those that are `Local` are to be started on the event loop."""
    return {name: _build(name, table, precision, cache_bytes) for name, table in config.upstreams.items()}


def _build(name: str, table: UpstreamTable, precision: str, cache_bytes: int) -> Upstream:
    if table.engine is not None:
        return Local(EngineProcess(table.engine, precision, table.concurrency, table.queue, cache_bytes), name)
    assert table.url is not None, "an engine or a url"
    return HTTPUpstream(table.url, table.wire, table.secret(), silence=table.first_token)


def single(model: str, name: str, concurrency: int = 256, queue: int = 256) -> Config:
    """One model of the local engine and nothing else. Raises UserError for a name that cannot be one."""
    return parse({"upstreams": {"engine": {"engine": model, "concurrency": concurrency, "queue": queue}},
                  "models": {name: {"upstream": "engine"}}})
