"""`ownship keys` and `ownship usage`. No SQLAlchemy until a command runs: the command line's help must be quick."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from ownship.errors import UserError
from ownship.store import periods
from ownship.store.money import dollars, parse

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ownship.store.budgets import Unit
    from ownship.store.keys import Key

Name = Annotated[str, Positional, arg(metavar="NAME")]
Store = Annotated[str, arg(metavar="URL", help="The database: sqlite:///FILE, a file or postgresql://…. By default "
                                  "$OWNSHIP_STORE, else ~/.local/share/ownship/store.db ($XDG_DATA_HOME).")]
_SPAN = re.compile(r"(\d{1,6})([smhdw])")
_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": periods.DAY, "w": 7 * periods.DAY}


@dataclass(frozen=True)
class Create:
    """Make a key. Its secret is printed, this once."""

    name: Name
    """What the key is for: letters, digits, '.', '_' and '-'."""
    team: str = "default"
    """Whose it is; a team that is not there yet is made."""
    models: tuple[str, ...] = ("*",)
    """Models it may use; * and ? stand for any characters."""
    endpoints: tuple[str, ...] = ("*",)
    """Endpoints it may call (chat, completions, responses, messages, models, tokenize, metrics), patterns as above."""
    privacy: Literal["local", "company", "public"] = "public"
    """How far from home its requests may go."""
    admin: bool = False
    """It may manage keys and read everyone's usage."""
    cache: bool = False
    """Replies are kept, and given again when the team asks exactly the same."""
    expires: str = ""
    """When it ends: after a time (90d, 12h) or on a date (2027-01-31). By default it does not."""
    per_minute: int | None = None
    """Requests that it may make in a minute, at each gateway. By default as many as it likes."""
    store: Store = ""


@dataclass(frozen=True)
class List:
    """List the keys, who they belong to and when they were last used."""

    json: bool = False
    """As JSON."""
    store: Store = ""


@dataclass(frozen=True)
class Rotate:
    """Give a key a new secret, which is printed this once. The old one holds for a while yet."""

    name: Name
    overlap: str = "24h"
    """How long the old secret still holds (0s: it ends now)."""
    store: Store = ""


@dataclass(frozen=True)
class Revoke:
    """End a key now. What it has used stays in the ledger."""

    name: Name
    store: Store = ""


@dataclass(frozen=True)
class SetBudget:
    """Set a budget of a key (by its NAME) or of a team, or show what is left of those there are."""

    name: Annotated[str, Positional, arg(metavar="[NAME]")] = ""
    """The key; or give --team."""
    team: str = ""
    """The team."""
    money: str = ""
    """Dollars (12.50), or none to remove the budget."""
    tokens: str = ""
    """Tokens, of prompts and replies; or none to remove the budget."""
    per: periods.Period = "month"
    """Days and months begin at midnight UTC; total never renews."""
    json: bool = False
    """As JSON."""
    store: Store = ""


@dataclass(frozen=True)
class Keys:
    """Make, list, rotate and revoke the gateway's keys; set budgets."""

    action: OmitArgPrefixes[Annotated[Create, subcommand("create")] | Annotated[List, subcommand("list")]
                            | Annotated[Rotate, subcommand("rotate")] | Annotated[Revoke, subcommand("revoke")]
                            | Annotated[SetBudget, subcommand("budget")]]


@dataclass(frozen=True)
class Usage:
    """What was used and what it cost, from the ledger."""

    by: Literal["key", "team", "model", "day"] = "key"
    """How requests are grouped."""
    since: str = ""
    """From when on: a date (2026-11-01, UTC) or a time ago (7d)."""
    until: str = ""
    """Before when, likewise."""
    json: bool = False
    """As JSON; cost in micro-dollars."""
    store: Store = ""


def moment(said: str, now: int, ahead: bool) -> int:
    """A date, or a span (90d) from now, → milliseconds since 1970. Raises UserError."""
    if (span := _SPAN.fullmatch(said)) is not None:
        return now + (1 if ahead else -1) * int(span[1]) * _MS[span[2]]
    try:
        day = datetime.fromisoformat(said)
    except ValueError:
        raise UserError(f"{said!r} is neither a date (2026-11-24) nor a time such as 12h, 7d or 4w") from None
    return int((day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp() * 1000)


def run(config: Keys | Usage) -> None:
    """Runs one command. Raises UserError for what the user can mend."""
    from sqlalchemy.exc import DBAPIError

    from ownship.store import database

    command = config.action if isinstance(config, Keys) else config
    now = periods.now()
    engine = database.connect(command.store or database.default())
    try:
        with engine.begin() if isinstance(command, List | Usage) else database.writing(engine) as connection:
            match command:
                case Create():
                    _create(connection, command, now)
                case List():
                    _list(connection, command, now)
                case Rotate():
                    _rotate(connection, command, now)
                case Revoke():
                    from ownship.store import keys

                    keys.revoke(connection, _key(connection, command.name), now)
                    print(f"revoked {command.name}; a running gateway refuses it within seconds")
                case SetBudget():
                    _budget(connection, command, now)
                case Usage():
                    _usage(connection, command, now)
    except DBAPIError as error:
        raise UserError(f"the database failed: {database.reason(error)}") from None
    finally:
        engine.dispose()


def _key(connection: sa.Connection, name: str) -> Key:
    from ownship.store import keys

    if (found := keys.find(connection, name)) is None:
        raise UserError(f"there is no key {name!r}; ownship keys list shows them")
    return found


def _create(connection: sa.Connection, command: Create, now: int) -> None:
    from ownship.store import keys

    expires = None if not command.expires else moment(command.expires, now, ahead=True)
    key, secret = keys.create(connection, command.name, now, team_name=command.team, models=command.models, privacy=command.privacy,
                              endpoints=command.endpoints, admin=command.admin, cache=command.cache, expires=expires,
                              per_minute=command.per_minute)
    connection.commit()  # before the secret is shown
    end = f", ends {periods.text(expires)}" if expires is not None else ""
    print(f"key {key.name} of team {key.team_name}{end}. This is its secret, shown only now:", file=sys.stderr)
    print(secret)


def _rotate(connection: sa.Connection, command: Rotate, now: int) -> None:
    from ownship.store import keys

    if (span := _SPAN.fullmatch(command.overlap)) is None:
        raise UserError(f"--overlap is a time such as 30m, 24h or 0s, not {command.overlap!r}")
    overlap = int(span[1]) * _MS[span[2]]
    secret = keys.rotate(connection, _key(connection, command.name), overlap, now)
    connection.commit()
    print(f"the old secret of {command.name} ends {periods.text(now + overlap)}. This is the new one, shown only now:",
          file=sys.stderr)
    print(secret)


def _list(connection: sa.Connection, command: List, now: int) -> None:
    from ownship.store import keys

    found = keys.everyone(connection)
    if command.json:
        print(json.dumps([{**asdict(key), "secrets": [
            {"prefix": secret.prefix, "created": secret.created, "expires": secret.expires, "used": secret.used}
            for secret in kept]} for key, kept in found], indent=2))
        return
    rows = []
    for key, kept in found:
        living = [secret.prefix + "…" for secret in kept if secret.expires is None or secret.expires > now]
        state = ("revoked" if key.revoked is not None else "expired" if key.expires is not None and key.expires <= now
                 else f"until {periods.text(key.expires)}" if key.expires is not None else "")
        scopes = [" ".join(key.models), key.privacy, *(["admin"] if key.admin else []), *(["cache"] if key.cache else []),
                  *([f"{key.per_minute:,} a minute"] if key.per_minute is not None else [])]
        used = max((secret.used for secret in kept if secret.used is not None), default=None)
        rows.append([key.name, key.team_name, " ".join(living), ", ".join(scopes), periods.text(used) or "never", state])
    _table(["key", "team", "secret", "may use", "last used", ""], rows, "no keys yet: ownship keys create NAME")


def _budget(connection: sa.Connection, command: SetBudget, now: int) -> None:
    from ownship.store import budgets, keys

    if bool(command.name) == bool(command.team):
        raise UserError("a budget is of a key (its NAME) or of a team (--team NAME): give one of them")
    if command.name:
        owner = f"key:{_key(connection, command.name).id}"
    elif (team := keys.find_team(connection, command.team)) is not None:
        owner = f"team:{team}"
    else:
        raise UserError(f"there is no team {command.team!r}; it is made with its first key: ownship keys create NAME --team …")
    given: list[tuple[Unit, str]] = [("money", command.money), ("tokens", command.tokens)]
    for unit, said in given:
        if said:
            amount = None if said.lower() == "none" else parse(said) if unit == "money" else _tokens(said)
            budgets.put(connection, owner, unit, command.per, amount)
    found = budgets.status(connection, [owner], now)
    if command.json:
        print(json.dumps([{**asdict(budget), **asdict(balance), "left": budget.amount - balance.taken(budget.unit)}
                          for budget, balance in found], indent=2))
        return
    rows = [[f"a {budget.period}" if budget.period != "total" else "total", budgets.amount(budget.unit, budget.amount),
             budgets.amount(budget.unit, max(budget.amount - balance.taken(budget.unit), 0)),
             periods.text(periods.renews(budget.period, now)) or "never"] for budget, balance in found]
    _table(["per", "budget", "left", "renews"], rows, "no budgets: nothing is limited")


def _tokens(said: str) -> int:
    if not re.fullmatch(r"\d{1,15}", plain := said.replace("_", "").replace(",", "")):
        raise UserError(f"--tokens is a whole number, or none, not {said!r}")
    return int(plain)


def _usage(connection: sa.Connection, command: Usage, now: int) -> None:
    from ownship.store.usage import usage

    since, until = (moment(said, now, ahead=False) if said else None for said in (command.since, command.until))
    lines = usage(connection, command.by, since, until)
    if command.json:
        print(json.dumps([{command.by if name == "group" else name: value for name, value in asdict(line).items()}
                          for line in lines], indent=2))
        return
    rows: list[list[Any]] = [[line.group, *(f"{value:,}" for value in (line.requests, line.failed, line.hits, line.prompt,
                                                                       line.completion)), dollars(line.cost)] for line in lines]
    if len(lines) > 1:
        rows.append(["together", *(f"{sum(column):,}" for column in zip(*(
            (line.requests, line.failed, line.hits, line.prompt, line.completion) for line in lines), strict=True)),
            dollars(sum(line.cost for line in lines))])
    _table([command.by, "requests", "failed", "from cache", "tokens in", "out", "cost"], rows, "nothing was used", numbers=1)


def _table(head: list[str], rows: list[list[str]], empty: str, numbers: int | None = None) -> None:
    """Columns wide enough; from column `numbers` on they are set to the right."""
    if not rows:
        print(empty)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.rjust(width) if numbers is not None and place >= numbers else cell.ljust(width)
                        for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip())
