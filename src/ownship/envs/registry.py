"""Environments by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from ownship.envs.env import Env
from ownship.errors import UserError


def _sort(**options: Any) -> Env:
    from ownship.envs.sort import Sort

    return Sort(**options)


def _sums(**options: Any) -> Env:
    from ownship.envs.sums import Sums

    return Sums(**options)


def _shop(**options: Any) -> Env:
    from ownship.envs.shop import Shop

    return Shop(**options)


def _gym(dataset: str, options: dict[str, Any]) -> Env:
    from ownship.envs.gym import Gym

    return Gym(dataset, options)


def _product(name: str, kind: str, **options: Any) -> Env:
    # By name: every product is an environment, and products stand above this room, which imports nothing from there.
    return getattr(importlib.import_module(f"ownship.surfaces.{name}.env"), kind)(**options)


ENVS: dict[str, tuple[Callable[..., Env], str]] = {
    "sort": (_sort, "sort `low` to `high` numbers below `below`"),
    "sums": (_sums, "add up `low` to `high` numbers from 1 to `largest`; `worked`: share of solutions with steps"),
    "shop": (_shop, "what `low` to `high` items cost: tools to look up and calculate, in at most `turns` turns; --max-tokens 128"),
    "worlds": (partial(_product, "worlds", "Worlds"), "build a world of `low` to `high` motifs, or change it (`edits`: share), from"
               " English or German words (`german`: share)"),
}


def make(spec: str) -> Env:
    """`name` or `name:option=value,option=value` → the environment; `gym/NAME` is a task of reasoning-gym.

    Raises UserError for an unknown name or option.
    """
    name, _, tail = spec.partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, tail.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"env {spec!r}: options are written name=value,name=value, not {item!r}")
        options[key.strip()] = _value(value.strip())
    if name not in ENVS and not name.startswith("gym/"):
        raise UserError(f"no environment {name!r}; known: {', '.join(ENVS)} and gym/NAME for the tasks of reasoning-gym")
    try:
        env = ENVS[name][0](**options) if name in ENVS else _gym(name.removeprefix("gym/"), options)
        env.task(0)  # an option of a wrong kind may show only when a task is made
    except (TypeError, ValueError, LookupError, AssertionError) as error:
        raise UserError(f"env {spec!r}: {error}") from None
    return env


def _value(text: str) -> int | float | bool | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)
