"""Keys: who may ask for what. A key belongs to a team and is known by its id; its secret is shown once and never kept.

A secret is `own-` and 192 random bits in hex. At so many bits nothing is gained by a slow hash, so SHA-256 is kept, with the first
characters to recognise it by. Secrets are looked up by their hash, which tells whoever measures the time nothing about the secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets as random
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, cast, get_args

import sqlalchemy as sa

from ownship.errors import UserError
from ownship.store.schema import keys, secrets, teams

Privacy = Literal["local", "company", "public"]
Reason = Literal["unknown", "expired", "revoked"]
PREFIX = "own-"
_SHOWN = len(PREFIX) + 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Key:
    """What a key allows. `models` and `endpoints` are shell patterns; `privacy` is how far from home its requests may go;
    `admin` may manage keys; `cache` has its replies kept and given again; `per_minute` bounds its requests. Times in milliseconds
    since 1970."""

    id: int
    name: str
    team: int
    team_name: str
    models: tuple[str, ...]
    endpoints: tuple[str, ...]
    privacy: Privacy
    admin: bool
    cache: bool
    created: int
    expires: int | None
    revoked: int | None
    per_minute: int | None = None

    def may_use(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def may_call(self, endpoint: str) -> bool:
        return any(fnmatchcase(endpoint, pattern) for pattern in self.endpoints)


@dataclass(frozen=True)
class Secret:
    """What is kept of a secret."""

    id: int
    key: int
    hash: str
    prefix: str
    created: int
    expires: int | None
    used: int | None


class KeyRefused(Exception):
    """Why a secret opens nothing. To the outside all three are one answer; no part of the secret is in the message."""

    def __init__(self, reason: Reason) -> None:
        super().__init__("the key is not valid")
        self.reason = reason


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def check_name(name: str, what: str) -> str:
    """Raises UserError unless it is a plain word: names stand in tables, logs and metrics."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{what} must begin with a letter or digit and have only letters, digits, '.', '_' and '-', at most 100")
    return name


def team(connection: sa.Connection, name: str, moment: int) -> int:
    """The id of the team, which is made if there is none of that name."""
    check_name(name, "a team's name")
    if (found := find_team(connection, name)) is not None:
        return found
    return cast(int, connection.execute(sa.insert(teams).values(name=name, created=moment).returning(teams.c.id)).scalar_one())


def find_team(connection: sa.Connection, name: str) -> int | None:
    return connection.execute(sa.select(teams.c.id).where(teams.c.name == name)).scalar()


def create(connection: sa.Connection, name: str, moment: int, *, team_name: str = "default", models: tuple[str, ...] = ("*",),
           endpoints: tuple[str, ...] = ("*",), privacy: Privacy = "public", admin: bool = False, cache: bool = False,
           expires: int | None = None, per_minute: int | None = None) -> tuple[Key, str]:
    """A new key and its secret. Raises UserError if a living key has that name or a setting is out of range."""
    check_name(name, "a key's name")
    if find(connection, name) is not None:
        raise UserError(f"there is a key {name!r} already; rotate it, revoke it or choose another name")
    if privacy not in get_args(Privacy):
        raise UserError(f"privacy is one of {', '.join(get_args(Privacy))}, not {privacy!r}")
    if expires is not None and expires <= moment:
        raise UserError("a key cannot expire before it is made")
    if per_minute is not None and not 1 <= per_minute <= 1_000_000:
        raise UserError("requests per minute are between 1 and 1,000,000")
    owner = team(connection, team_name, moment)
    made = connection.execute(sa.insert(keys).values(
        team=owner, name=name, models=json.dumps(models), endpoints=json.dumps(endpoints), privacy=privacy, admin=admin,
        cache=cache, created=moment, expires=expires, per_minute=per_minute).returning(keys.c.id)).scalar_one()
    secret = _issue(connection, made, moment)
    found = find(connection, name)
    assert found is not None
    return found, secret


def rotate(connection: sa.Connection, key: Key, overlap: int, moment: int) -> str:
    """A new secret of the key; those there are end after `overlap` milliseconds, or when they would have anyway."""
    _end(connection, key, moment + overlap)
    return _issue(connection, key.id, moment)


def revoke(connection: sa.Connection, key: Key, moment: int) -> None:
    """From now on the key opens nothing. What it used stays in the ledger."""
    connection.execute(sa.update(keys).where(keys.c.id == key.id).values(revoked=moment))
    _end(connection, key, moment)


def _end(connection: sa.Connection, key: Key, moment: int) -> None:
    later = (secrets.c.expires.is_(None)) | (secrets.c.expires > moment)
    connection.execute(sa.update(secrets).where((secrets.c.key == key.id) & later).values(expires=moment))


def _issue(connection: sa.Connection, key: int, moment: int) -> str:
    secret = PREFIX + random.token_hex(24)
    connection.execute(sa.insert(secrets).values(key=key, hash=digest(secret), prefix=secret[:_SHOWN], created=moment))
    return secret


_KEYS = sa.select(keys.c.id, keys.c.name, keys.c.team, teams.c.name.label("team_name"), keys.c.models, keys.c.endpoints,
                  keys.c.privacy, keys.c.admin, keys.c.cache, keys.c.created, keys.c.expires, keys.c.revoked,
                  keys.c.per_minute).join(teams)


def _key(row: Any) -> Key:
    return Key(row.id, row.name, row.team, row.team_name, tuple(json.loads(row.models)), tuple(json.loads(row.endpoints)),
               row.privacy, row.admin, row.cache, row.created, row.expires, row.revoked, row.per_minute)


def find(connection: sa.Connection, name: str) -> Key | None:
    """The living key of that name."""
    row = connection.execute(_KEYS.where((keys.c.name == name) & keys.c.revoked.is_(None))).first()
    return None if row is None else _key(row)


def any_ever(connection: sa.Connection) -> bool:
    """Was ever a key made, revoked ones included?"""
    return connection.execute(sa.select(keys.c.id).limit(1)).first() is not None


def everyone(connection: sa.Connection) -> list[tuple[Key, list[Secret]]]:
    """All keys, in the order they were made, revoked ones too, each with what is kept of its secrets."""
    kept: dict[int, list[Secret]] = {}
    for row in connection.execute(sa.select(secrets).order_by(secrets.c.id)):
        kept.setdefault(row.key, []).append(Secret(*row))
    return [(_key(row), kept.get(row.id, [])) for row in connection.execute(_KEYS.order_by(keys.c.id))]


def look_up(connection: sa.Connection, hashed: str) -> tuple[Key, Secret] | None:
    """The key whose secret has this hash, whether or not it is still valid."""
    row = connection.execute(sa.select(secrets).where(secrets.c.hash == hashed)).first()
    if row is None:
        return None
    secret = Secret(*row)
    return _key(connection.execute(_KEYS.where(keys.c.id == secret.key)).one()), secret


def admit(found: tuple[Key, Secret] | None, hashed: str, moment: int) -> Key:
    """The key, if it holds at this moment. Raises KeyRefused."""
    if found is None or not hmac.compare_digest(found[1].hash, hashed):
        raise KeyRefused("unknown")
    key, secret = found
    if key.revoked is not None:
        raise KeyRefused("revoked")
    if any(end is not None and end <= moment for end in (key.expires, secret.expires)):
        raise KeyRefused("expired")
    return key


def touch(connection: sa.Connection, used: dict[int, int]) -> None:
    """Notes when secrets (by id) were last used."""
    for id, moment in sorted(used.items()):
        connection.execute(sa.update(secrets).where(secrets.c.id == id).values(used=moment))
