"""What the engines are made to do: the same token ids for all, new ones for every round.

A prompt's first sentence differs from every other prompt's, the system message included, so that no engine profits from
what it has read before, except within a group that shares its prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ownship.model.chat import Chat

QUESTION = "Write a long story about a ship that finds its own way home across a wide and stormy sea."

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "vessel_registration_number": {"type": "integer", "minimum": 1000, "maximum": 9999},
        "current_operational_status": {"enum": ["under_way_using_engine", "at_anchor", "moored", "aground"]},
        "last_reported_position": {
            "type": "object",
            "properties": {
                "latitude_in_degrees": {"type": "integer", "minimum": 10, "maximum": 89},
                "longitude_in_degrees": {"type": "integer", "minimum": 100, "maximum": 179},
                "position_accuracy_class": {"enum": ["high", "medium", "low"]},
            },
            "required": ["latitude_in_degrees", "longitude_in_degrees", "position_accuracy_class"],
            "additionalProperties": False,
        },
        "destination_port_name": {"type": "string", "minLength": 3, "maxLength": 24},
        "number_of_crew_members_on_board": {"type": "integer", "minimum": 1, "maximum": 99},
        "carries_dangerous_goods": {"type": "boolean"},
        "most_recent_maintenance_record": {
            "type": "object",
            "properties": {
                "maintenance_category": {"enum": ["engine_overhaul", "hull_inspection", "navigation_equipment"]},
                "responsible_engineer_name": {"type": "string", "minLength": 3, "maxLength": 24},
                "follow_up_required_within_days": {"type": "integer", "minimum": 1, "maximum": 365},
            },
            "required": ["maintenance_category", "responsible_engineer_name", "follow_up_required_within_days"],
            "additionalProperties": False,
        },
        "short_remark_for_the_harbour_master": {"type": "string", "minLength": 8, "maxLength": 60},
    },
    "required": [
        "vessel_registration_number", "current_operational_status", "last_reported_position", "destination_port_name",
        "number_of_crew_members_on_board", "carries_dangerous_goods", "most_recent_maintenance_record",
        "short_remark_for_the_harbour_master",
    ],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Workload:
    """`prompts(chat, round)` gives the token ids. The rate counts new tokens, for `prefill` the prompt's."""

    about: str
    prompts: Callable[[Chat, int], list[list[int]]]
    tokens: int
    n: int = 1
    temperature: float = 0.0
    schema: dict[str, Any] | None = None
    prefill: bool = False
    skip: tuple[str, ...] = ()  # engines that are left out: names or how they begin


def all_of_them(quick: bool = False) -> dict[str, Workload]:
    """Every workload by name; with `quick` each in a small size that only shows whether everything works."""
    tokens, streams, groups, shared, long = (8, 16, 4, 200, 300) if quick else (128, 64, 64, 200, 2000)
    return {
        "1 stream": Workload("1 stream", _stories(1), tokens),
        "8 streams": Workload("8 streams", _stories(8), tokens),
        "64 streams": Workload(f"{streams} streams", _stories(streams), tokens),
        "groups": Workload(f"{groups} groups of 8 that share a prompt of {shared} tokens, temperature 1",
                           lambda chat, round: [_long(chat, "group", round, group, shared) for group in range(groups)],
                           tokens // 2, n=8, temperature=1.0),
        "schema": Workload("1 stream, text of a JSON schema", _report("record"), 400, schema=SCHEMA,
                           skip=("transformers",)),
        "schema off": Workload("nearly the same prompt without the schema", _report("report"), tokens,
                               skip=("transformers", "llamacpp", "vllm")),
        "prefill": Workload(f"a prompt of {long} tokens, up to the first new token",
                            lambda chat, round: [_long(chat, "prefill", round, 0, long)], 1, prefill=True),
    }


def first_prompt(chat: Chat) -> list[int]:
    """The prompt for the time from process start to first token."""
    return chat.prompt([{"role": "user", "content": QUESTION}])


def _number(round: int, index: int) -> str:
    """Digits are tokens of their own here; those that differ most come first."""
    return f"{index % 10}{round % 10}{index // 10:02}"


def _stories(streams: int) -> Callable[[Chat, int], list[list[int]]]:
    def prompts(chat: Chat, round: int) -> list[list[int]]:
        return [chat.prompt([
            {"role": "system", "content": f"{_number(round, stream)} of {streams} is your number, storyteller."},
            {"role": "user", "content": QUESTION},
        ]) for stream in range(streams)]

    return prompts


def _report(noun: str) -> Callable[[Chat, int], list[list[int]]]:
    return lambda chat, round: [chat.prompt([
        {"role": "system", "content": f"{_number(round, 0)} is your number, {noun} clerk. You write records as JSON."},
        {"role": "user", "content": f"The ship with the registration 4711 sent a {noun} from sea on her way to Bergen. Write it."},
    ])]


_WORDS = ("the ship", "a gull", "the old captain", "a lantern", "the harbour", "a storm", "the crew", "an island")
_DEEDS = ("waited for", "turned towards", "lost sight of", "remembered", "circled", "called out to", "drifted past", "feared")
_WHEN = ("at dawn", "in the night", "after the rain", "before the tide", "in winter", "once more", "for an hour", "at last")


def _long(chat: Chat, name: str, round: int, index: int, tokens: int) -> list[int]:
    """A chat prompt of exactly so many tokens: the user's text is cut where it has to be."""
    draw = random.Random(f"{name} {round} {index}")
    sentences = [f"{draw.choice(_WORDS)} {draw.choice(_DEEDS)} {draw.choice(_WORDS)} {draw.choice(_WHEN)}."
                 for _ in range(tokens // 6)]
    ids = chat.prompt([
        {"role": "system", "content": f"{_number(round, index)} {name} is your number, storyteller."},
        {"role": "user", "content": "Continue this story. " + " ".join(sentences)},
    ])
    closing = ids[max(index for index, id in enumerate(ids) if id == chat.tokenizer.eos_id):]
    if len(ids) < tokens:
        raise ValueError(f"the text is too short: {len(ids)} tokens of {tokens}")
    return ids[: tokens - len(closing)] + closing
