"""`ownship studio`: its flags alone, so that the command line's help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ownship.store.command import Store


@dataclass(frozen=True)
class Studio:
    """Open the studio: the products' pages in the browser."""

    port: int = 8080
    """0 takes a free one."""
    host: str = "127.0.0.1"
    """The address to listen at. Beyond loopback everybody signs in with a key (ownship keys create NAME)."""
    model: str = "scripted"
    """Who decides: "scripted" is the parser without a model; else a model that has learnt worlds (a folder, a .gguf file, a zoo or
    hub name). One that has not says valid things, but hardly what was meant."""
    gateway: Path | None = None
    """A gateway.toml: --model is then one of its models."""
    sign_in: bool = False
    """Ask for keys on loopback too."""
    tls_cert: str = ""
    """PEM file of the certificate; with --tls-key the studio speaks HTTPS."""
    tls_key: str = ""
    """PEM file of its key."""
    store: Store = ""
