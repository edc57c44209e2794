"""What tokens cost. Money is an integer of micro-dollars throughout, so sums are exact and a budget holds to the cent.

A price in USD per million tokens is the same number in micro-dollars per token; kept per million tokens it is an integer, too
(0.025 USD per million tokens is 25,000 micro-dollars per million).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib import resources

from ownship.gateway.types import Message, Request, Text, ToolCall, ToolResult, Usage

MILLION = 1_000_000
_IMAGE = 1600  # tokens that one picture is taken for: what providers count for a large one


@dataclass(frozen=True)
class Price:
    """Micro-dollars per million tokens; `written` and `cached` are the prompt's tokens that the provider kept, and had kept. `long`
    holds for the whole of a request whose prompt has more than `above` tokens."""

    input: int
    output: int
    cached: int
    written: int
    above: int = 0
    long: Price | None = None


FREE = Price(0, 0, 0, 0)


@dataclass(frozen=True)
class Table:
    """The pinned list prices, and when and where they were read."""

    date: date
    sources: Mapping[str, str]
    models: Mapping[str, Price]


def micro(dollars: float) -> int:
    """USD as a person writes them in a file → micro-dollars, exactly: 0.1 is a tenth, not the nearest binary fraction."""
    return int((Decimal(str(dollars)) * MILLION).to_integral_value())


def price(input: float, output: float, cached: float | None = None, written: float | None = None, above: int = 0,
          long: Price | None = None) -> Price:
    """From USD per million tokens. Where no price for kept tokens is known they cost as much as others."""
    return Price(micro(input), micro(output), micro(input if cached is None else cached),
                 micro(input if written is None else written), above, long)


@cache
def table() -> Table:
    """The price table of this release, prices.toml."""
    data = tomllib.loads(resources.files(__package__).joinpath("prices.toml").read_text())
    models = {}
    for name, row in data["models"].items():
        long = dict(data["long"].get(name, {}))
        above = long.pop("above", 0)
        models[name] = price(**row, above=above, long=price(**long) if long else None)
    return Table(data["date"], data["sources"], models)


def listed(model: str) -> Price | None:
    """The list price of a bought model, found by its name with or without the date of a snapshot; None if it is not listed."""
    models = table().models
    return models.get(model) or models.get(re.sub(r"-(\d{8}|\d{4}-\d{2}-\d{2})$", "", model))


def cost(price: Price, usage: Usage) -> int:
    """Micro-dollars for one request, rounded up."""
    rate = price.long if price.long is not None and usage.prompt > price.above else price
    cached = min(usage.cached, usage.prompt)
    written = min(usage.written, usage.prompt - cached)
    fresh = usage.prompt - cached - written
    total = fresh * rate.input + cached * rate.cached + written * rate.written + usage.completion * rate.output
    return -(-total // MILLION)


def worst_case(price: Price, prompt: int, max_tokens: int, n: int = 1) -> int:
    """Micro-dollars that a request costs at most: all tokens of the prompt are of the dearest kind, and each of `n` replies is as
    long as it may be. The replies share one prompt, which providers charge once."""
    rate = price.long if price.long is not None and prompt > price.above else price
    total = prompt * max(rate.input, rate.cached, rate.written) + n * max_tokens * rate.output
    return -(-total // MILLION)


def estimate(request: Request) -> int:
    """Tokens of the prompt for who cannot ask the tokenizer: a third of its bytes in UTF-8, and a little for each message.

    English has four to five bytes per token, code and other languages about three, so this is rather too large than too small.
    """
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    if request.prompt is not None:
        return _tokens(request.prompt)
    tools = sum(_tokens(tool.name + tool.description + str(tool.schema)) + 16 for tool in request.tools)
    return tools + sum(_of_message(message) for message in request.messages)


def most(request: Request) -> int:
    """Tokens of the prompt at most, which is what a budget reserves: a token stands for a byte at least, and templates add some.
    (A picture is taken for what a large one costs: no provider says more beforehand.)"""
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    if request.prompt is not None:
        return len(request.prompt.encode(errors="surrogatepass")) + 1
    total = 200 + sum(len((tool.name + tool.description + str(tool.schema)).encode(errors="surrogatepass")) + 32
                      for tool in request.tools)
    if request.format is not None and request.format.schema is not None:
        total += len(str(request.format.schema).encode(errors="surrogatepass"))
    for message in request.messages:
        total += 32 + len((message.name or "").encode(errors="surrogatepass"))
        for part in message.parts:
            for one in part.content if isinstance(part, ToolResult) else (part,):
                if isinstance(one, ToolCall):
                    total += 32 + len((one.name + one.arguments).encode(errors="surrogatepass"))
                else:
                    total += len(one.text.encode(errors="surrogatepass")) + 8 if hasattr(one, "text") else _IMAGE
    return total


def _of_message(message: Message) -> int:
    total = 8
    for part in message.parts:
        if isinstance(part, ToolResult):
            total += 8 + sum(_tokens(item.text) if isinstance(item, Text) else _IMAGE for item in part.content)
        elif isinstance(part, ToolCall):
            total += 8 + _tokens(part.name + part.arguments)
        else:
            total += _tokens(part.text) if hasattr(part, "text") else _IMAGE
    return total


def _tokens(text: str) -> int:
    return -(-len(text.encode(errors="surrogatepass")) // 3)
