"""gateway.toml: which upstreams there are, which models they have, by which rules one is chosen. docs/gateway.toml shows all of it.

What is not known is refused with the name of its line, never ignored: a misspelt privacy label must not become no label.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ownship.errors import UserError
from ownship.gateway import prices
from ownship.gateway.prices import Price
from ownship.gateway.types import Wire

# How far from here data may go, and how far from here a place is: this machine, the organisation, anyone.
Privacy = Literal["local", "company", "public"]
Ability = Literal["images", "tools", "schema", "logprobs", "completions", "choices"]
REACH: dict[Privacy, int] = {"local": 0, "company": 1, "public": 2}
REPLY = 1024  # tokens that a reply of the local engine may have, if there is room, where a request names no bound
POLICY = "ownship/"  # `ownship/auto` asks the policy `auto` for a model

# What an upstream of each kind is taken to be capable of where its models do not say.
_ABILITIES: dict[str, tuple[Ability, ...]] = {
    "chat": ("tools", "schema", "logprobs", "choices"), "responses": ("tools", "schema"), "messages": ("tools",),
    "completions": ("completions", "logprobs", "choices"), "engine": ("tools", "schema", "logprobs", "completions", "choices")}

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,99}$")]  # goes into headers and logs as it stands
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Dollars = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Table(BaseModel):
    """A table of the file. A wrong type is an error, not a conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Remote(Table):
    """A place reached by URL, and the key it wants: from the environment, from a file, or written here if only the owner of
    gateway.toml can read it."""

    url: str | None = None
    key_env: str | None = None
    key_file: str | None = None
    key: str | None = Field(default=None, repr=False)
    privacy: Privacy = "public"  # what nobody has vouched for is anyone

    def secret(self) -> str | None:
        """The key. UserError (which never holds the key, or what stands in its place) if it cannot be had."""
        given = [name for name in ("key_env", "key_file", "key") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"{given[0]} and {given[1]} are both set; one is enough")
        if self.key_env is not None and not os.environ.get(self.key_env):
            raise UserError("key_env names an environment variable that is not set")
        if self.key_file is not None:
            try:
                key = Path(self.key_file).expanduser().read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"key_file cannot be read: {type(error).__name__}") from None
        else:
            key = os.environ[self.key_env] if self.key_env is not None else self.key or ""
        if not given:
            return None
        if not re.fullmatch(r"[!-~]+", key):
            raise UserError(f"the key of {given[0]} is empty or holds blanks or characters that no HTTP header can carry")
        return key


class UpstreamTable(Remote):
    """A server that answers by `url` in the `wire` format, or a model that the local `engine` loads."""

    engine: str | None = None
    wire: Wire = "chat"
    concurrency: Count = 64  # requests under way at once; more wait their turn
    queue: Annotated[int, Field(ge=0)] = 256  # of these at most; more are told to come back (429)
    first_token: Seconds = 120.0  # longest wait for the first token of a reply

    @model_validator(mode="after")
    def _one_kind(self) -> UpstreamTable:
        if (self.url is None) == (self.engine is None):
            raise ValueError("has either a url or an engine")
        if self.engine is not None and self.model_fields_set & {"wire", "key", "key_env", "key_file", "privacy"}:
            raise ValueError("with an engine has no wire, no key and no privacy: what it reads stays on this machine")
        _check_url(self.url)
        return self

    @property
    def reach(self) -> Privacy:
        """How far away it is."""
        return "local" if self.engine is not None else self.privacy


class LongTable(Table):
    above: Count
    input: Dollars
    output: Dollars
    cached: Dollars | None = None
    written: Dollars | None = None


class PriceTable(Table):
    """USD per million tokens, as in prices.toml; `long` holds for requests whose prompt has more than `above` tokens."""

    input: Dollars
    output: Dollars
    cached: Dollars | None = None
    written: Dollars | None = None
    long: LongTable | None = None


class ModelTable(Table):
    upstream: str
    model: str | None = None  # what the upstream calls it; its own name by default
    price: PriceTable | None = None
    context: Count | None = None  # tokens of prompt and reply together
    max_output: Count = 4096  # tokens that a reply may have where the request says nothing: what a budget reserves
    can: list[Ability] | None = None
    quality: dict[Name, Share] = {}  # by task label: the share of comparisons won; "general" holds for the other labels


class FallbackTable(Table):
    """Who steps in: after errors, when the prompt is too long, when the budget does not suffice."""

    error: list[str] = []
    context: list[str] = []
    budget: list[str] = []


class PolicyTable(Table):
    """How `ownship/NAME` chooses. The score is quality − cents · (US cents expected) − seconds · (seconds expected)."""

    among: list[str] | None = None
    task: str = "general"
    privacy: Privacy = "public"
    min_quality: Share = 0.0
    max_cents: Weight | None = None
    max_seconds: Weight | None = None
    quality: Weight = 1.0
    cents: Weight = 0.05
    seconds: Weight = 0.01


class RetryTable(Table):
    attempts: Count = 3  # at one upstream, the first included
    base: Seconds = 0.5
    cap: Seconds = 10.0
    share: Share = 0.2  # of the traffic that may be retries, beyond the first ten
    deadline: Seconds = 600.0  # of a whole request that brings none


class BreakerTable(Table):
    window: Seconds = 30.0
    minimum: Count = 10  # calls in the window before it judges
    rate: Annotated[float, Field(gt=0, le=1)] = 0.5  # share of them that failed
    open: Seconds = 20.0


class HedgeTable(Table):
    on: bool = False


class MCPTable(Remote):
    """A server of tools: a `command` that talks over its standard input and output, or a `url`. No tool is allowed that `allow`
    does not name; ["*"] allows all."""

    command: str | None = None
    args: list[str] = []
    pass_env: list[str] = []  # environment variables that the command is given beside the harmless ones
    allow: list[str]
    timeout: Seconds = 30.0  # of one call
    max_bytes: Annotated[int, Field(ge=100)] = 65_536  # of one result

    @model_validator(mode="after")
    def _one_kind(self) -> MCPTable:
        if (self.url is None) == (self.command is None):
            raise ValueError("has either a url or a command")
        if self.url is not None and self.model_fields_set & {"args", "pass_env"}:
            raise ValueError("with a url has no args and no pass_env")
        if self.command is not None and self.model_fields_set & {"key", "key_env", "key_file"}:
            raise ValueError("with a command has no key: pass_env hands it environment variables")
        _check_url(self.url)
        return self


class Config(Table):
    upstreams: dict[Name, UpstreamTable]
    models: dict[Name, ModelTable]
    aliases: dict[Name, str] = {}
    fallbacks: dict[str, FallbackTable] = {}
    policies: dict[Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")], PolicyTable] = {}
    quality_file: str | None = None
    retry: RetryTable = RetryTable()
    breaker: BreakerTable = BreakerTable()
    hedge: HedgeTable = HedgeTable()
    mcp: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,24}$")], MCPTable] = {}
    mcp_rounds: Annotated[int, Field(ge=1, le=100)] = 8  # times that the model may ask for tools before it must answer

    def price(self, name: str) -> Price:
        """What a model costs: as the file says, else the list price; a model of the local engine costs nothing."""
        model = self.models[name]
        if (own := model.price) is not None:
            if own.long is None:
                return prices.price(own.input, own.output, own.cached, own.written)
            long = prices.price(own.long.input, own.long.output, own.long.cached, own.long.written)
            return prices.price(own.input, own.output, own.cached, own.written, own.long.above, long)
        if self.upstreams[model.upstream].engine is not None:
            return prices.FREE
        found = prices.listed(model.model or name)
        if found is None:
            # a model without a price would cost nothing, and every budget would be a sieve
            raise UserError(f"models.{name} has no price and is not in the price table of {prices.table().date}: add "
                            "price = { input = …, output = … } in USD per million tokens, or zeros if it costs nothing")
        return found

    def abilities(self, name: str) -> frozenset[Ability]:
        model, upstream = self.models[name], self.upstreams[self.models[name].upstream]
        return frozenset(_ABILITIES["engine" if upstream.engine is not None else upstream.wire] if model.can is None else model.can)


def load(path: Path) -> Config:
    """Reads and checks a file. UserError names the file and the line at fault."""
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    try:
        config = parse(data)
        private = path.stat().st_mode & 0o077 == 0
        for kind, places in (("upstreams", config.upstreams), ("mcp", config.mcp)):
            for name, place in places.items():
                if place.key is not None and not private:
                    raise UserError(f"{kind}.{name}.key stands in a file that others can read: chmod 600 it, or use key_env")
                _blame(f"{kind}.{name}", place)
        if config.quality_file is not None:
            config = _with_quality(config, path.parent / Path(config.quality_file).expanduser())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return config


def parse(data: Mapping[str, Any]) -> Config:
    """The tables of a file → Config, with every name that one part uses of another looked up."""
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise UserError(_say(error)) from None
    for name, model in config.models.items():
        _known(f"models.{name}.upstream", model.upstream, config.upstreams)
        config.price(name)
    for name, target in config.aliases.items():
        if name in config.models or name.startswith(POLICY):
            raise UserError(f"aliases.{name} is the name of a model or policy already")
        policies = [POLICY + policy for policy in {"auto", *config.policies}]
        _known(f"aliases.{name}", target, [*config.models, *policies])
    for name, table in config.fallbacks.items():
        _known(f"fallbacks.{name}", name, config.models)
        for reason in ("error", "context", "budget"):
            for other in getattr(table, reason):
                _known(f"fallbacks.{name}.{reason}", other, config.models)
    for name, policy in config.policies.items():
        for other in policy.among or ():
            _known(f"policies.{name}.among", other, config.models)
    if reserved := next((name for name in config.models if name.startswith(POLICY)), None):
        raise UserError(f"models.{reserved}: names that begin with {POLICY} are policies")
    return config


def may_go(label: Privacy, place: Privacy) -> bool:
    """May data that may go as far as `label` be sent to a place as far away as `place`?"""
    return REACH[place] <= REACH[label]


def _with_quality(config: Config, path: Path) -> Config:
    """Measured quality from a file, {"quality": {model: {task: share of comparisons won}}}; what gateway.toml says goes first."""
    try:
        measured = json.loads(path.read_text())["quality"]
        models = dict(config.models)
        for name, by_task in measured.items():
            if name in models:  # an arena ranks models that are not served, too
                own = models[name].model_dump(exclude_unset=True)
                models[name] = ModelTable.model_validate({**own, "quality": {**by_task, **models[name].quality}})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = _say(error) if isinstance(error, ValidationError) else type(error).__name__
        raise UserError(f'quality_file must hold {{"quality": {{MODEL: {{TASK: share from 0 to 1}}}}}} as JSON: {why}') from None
    return config.model_copy(update={"models": models})


def _blame(where: str, place: Remote) -> None:
    try:
        place.secret()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_url(url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("has a url that is not http:// or https://")
    if parts.username or parts.password or parts.query:
        raise ValueError("has a url with a password or a query in it: a key belongs into key_env")


def _known(where: str, name: str, known: Iterable[str]) -> None:
    if name not in (names := list(known)):
        raise UserError(f"{where}: {name!r} is not known{_suggest(name, names)}")


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _say(error: ValidationError) -> str:
    """The first fault, a misspelt name before what is missing for it; without what stood there: it may be a key."""
    faults = error.errors(include_url=False, include_input=False)
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    path = [str(step) if str(step).isprintable() else repr(step) for step in fault["loc"] if step != "[key]"]
    where = ".".join(path) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"{where} is not known{_suggest(path[-1], _fields(path[:-1]))}"
    if fault["type"] == "value_error":
        return f"{where} {fault['ctx']['error']}"
    return f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _fields(path: list[str]) -> list[str]:
    """What a table at this place of the file may hold."""
    inner: dict[str, type[Table]] = {
        "upstreams": UpstreamTable, "models": ModelTable, "fallbacks": FallbackTable, "policies": PolicyTable, "mcp": MCPTable,
        "retry": RetryTable, "breaker": BreakerTable, "hedge": HedgeTable}
    table = inner.get(path[0], Config) if path else Config
    return list((LongTable if path[-1:] == ["long"] else PriceTable if path[-1:] == ["price"] else table).model_fields)
