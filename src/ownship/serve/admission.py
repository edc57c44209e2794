"""Who may ask, for what, how often and how far their data may go: one path for every endpoint and every kind of header."""

from __future__ import annotations

import ipaddress
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, cast, get_args

from ownship.gateway.config import REACH, Privacy
from ownship.gateway.routing import Ask, Router
from ownship.gateway.types import GatewayError, invalid
from ownship.serve.call import Call
from ownship.store.keys import Key, KeyRefused
from ownship.store.store import KNOWN_FOR, Store
from ownship.store.writer import StoreFailed

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,99}")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d+)?")
_MINUTE = 60.0


@dataclass(frozen=True)
class Caller:
    """Somebody who was let in. Without a `key`: somebody on this machine, where there are no keys."""

    key: Key | None
    ask: Ask


class Rates(Protocol):
    def take(self, key: int, now: float, each: float, most: float) -> float:
        """Counts a request that takes `each` seconds of the key's time, if no more than `most` is used up then. Returns how long it
        has to wait for that; 0 if it was counted."""
        ...


class OwnRates:
    """The rates of one process."""

    def __init__(self) -> None:
        self._used_up: dict[int, float] = {}  # key → when it would have used up what it has asked for

    def take(self, key: int, now: float, each: float, most: float) -> float:
        used_up = max(self._used_up.get(key, 0.0), now)
        if (wait := used_up + each - now - most) > 1e-6:
            return wait
        self._used_up[key] = used_up + each
        return 0.0


class Admission:
    """Without a `store`, or while no key was ever made in it, whoever is on this machine may do everything."""

    def __init__(self, router: Router, store: Store | None, rates: Rates | None = None) -> None:
        self.router, self.store, self.rates = router, store, rates or OwnRates()
        self._keyed, self._asked = False, 0.0  # whether keys are needed, and until when "no" is believed
        self._models: dict[tuple[str, ...], frozenset[str] | None] = {}

    async def admit(self, call: Call, endpoint: str) -> Caller:
        """Raises GatewayError: 401 for a secret that opens nothing, 403 for what the key may not, 503 if the store is gone."""
        scheme, _, bearer = call.headers.get("authorization", "").partition(" ")
        secret = (bearer if scheme.lower() == "bearer" else "") or call.headers.get("x-api-key", "")
        try:
            if not await self._needs_keys():
                _from_here(call)
                return Caller(None, _narrowed(call, Ask()))
            assert self.store is not None
            key = await self.store.admit(secret.strip())
        except KeyRefused:
            call.told["www-authenticate"] = "Bearer"
            said = "the key is not valid" if secret else "a key is needed: Authorization: Bearer KEY, or x-api-key: KEY"
            raise GatewayError(401, "authentication", said, code="invalid_api_key") from None
        except StoreFailed:
            raise GatewayError(503, "internal", "the keys cannot be looked up at present", retry_after=1.0) from None
        if not key.may_call(endpoint):
            raise GatewayError(403, "permission", f"this key may not use {endpoint}", code="endpoint_not_allowed")
        return Caller(key, _narrowed(call, Ask(privacy=key.privacy, models=self._allowed(key))))

    def pace(self, caller: Caller) -> None:
        """Counts a request. A key may use up a minute's requests at once; then they come back one by one. Raises GatewayError 429
        with the time until the next one."""
        if caller.key is None or caller.key.per_minute is None:
            return
        if wait := self.rates.take(caller.key.id, time.monotonic(), _MINUTE / caller.key.per_minute, _MINUTE):
            raise GatewayError(429, "rate_limit", f"this key may make {caller.key.per_minute:,} requests a minute",
                               retry_after=wait)

    async def _needs_keys(self) -> bool:
        if self.store is None or self._keyed:
            return self._keyed
        now = time.monotonic()
        if now >= self._asked:
            self._keyed = await self.store.keyed()
            self._asked = now + KNOWN_FOR
        return self._keyed

    def _allowed(self, key: Key) -> frozenset[str] | None:
        if key.models == ("*",):
            return None
        if key.models not in self._models:
            self._models[key.models] = frozenset(name for name in self.router.routes if key.may_use(name))
        return self._models[key.models]


@lru_cache(64)
def loopback(host: str) -> bool:
    """Is this an address that only this machine reaches?"""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost"


def _from_here(call: Call) -> None:
    """Where no keys are asked for, a web page that a browser on this machine shows must not get in: it can have its own name
    resolved to this machine, but the browser says which name it was."""
    found = _HOST.fullmatch(call.headers.get("host", ""))
    if found is None or not loopback(found[1]):
        raise GatewayError(403, "permission", "without keys only localhost is answered; ownship keys create NAME makes one",
                           code="host_not_allowed")


def _narrowed(call: Call, ask: Ask) -> Ask:
    """With what the headers say: never wider than the key."""
    if (task := call.headers.get("x-ownship-task")) is not None:
        if not _TASK.fullmatch(task):
            raise invalid("x-ownship-task is a label of letters, digits and . _ : / @ -", "x-ownship-task")
        ask = replace(ask, task=task)
    if (label := call.headers.get("x-ownship-privacy")) is not None:
        if label not in get_args(Privacy):
            raise invalid(f"x-ownship-privacy is one of {', '.join(get_args(Privacy))}", "x-ownship-privacy")
        ask = replace(ask, privacy=min(ask.privacy, cast(Privacy, label), key=REACH.__getitem__))
    return ask
