"""A model decides: whatever it is, what it says can be read. The untrained default model is as good as noise here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ownship.engine.engine import Engine
from ownship.envs.env import held_out
from ownship.gateway.types import Event, Finished, Request, Started, TextDelta
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer
from ownship.surfaces.worlds.env import Worlds, scene_of
from ownship.surfaces.worlds.lines import read
from ownship.surfaces.worlds.model import decide_all, decide_by_gateway
from ownship.surfaces.worlds.names import Names
from ownship.surfaces.worlds.prompt import Refused, messages
from ownship.surfaces.worlds.trial import bootstrap, measured
from ownship.surfaces.worlds.types import Scene


@pytest.fixture(scope="module")
def engine(smollm: tuple[Llama, Tokenizer]) -> Engine:
    return Engine(*smollm, cache_bytes=64 << 20)


def test_the_untrained_model_says_only_what_can_be_read(engine: Engine) -> None:
    tasks = held_out(Worlds(), 3)
    prompts = [(task.messages, Names(scene_of(task.info["spec"]))) for task in tasks]
    replies = decide_all(engine, prompts, temperature=1.0, most=2)
    for (_, names), reply in zip(prompts, replies, strict=True):
        read(reply, names)
        assert len(reply.split("\n")) <= 2
    assert len(set(replies)) > 1


def test_lines_are_told_as_they_are_decided_and_a_seed_says_the_same_again(engine: Engine) -> None:
    task = messages("a garden with a bench", Scene())
    told: list[str] = []
    reply = decide_all(engine, [(task, Names(Scene()))], told.append, temperature=1.0, seed=5, most=2)[0]
    assert told == reply.split("\n")
    assert decide_all(engine, [(task, Names(Scene()))], temperature=1.0, seed=5, most=2) == [reply]


class _Says:
    """A model behind the gateway that says what it is given, a few letters at a time."""

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, list[Request]()

    async def stream(self, request: Request, deadline: float | None = None) -> AsyncIterator[Event]:
        self.asked.append(request)
        yield Started("model")
        for at in range(0, len(self.text), 3):
            yield TextDelta(0, self.text[at : at + 3])
        yield Finished(0, "stop")

    async def count(self, request: Request) -> int:
        return 0

    async def close(self) -> None: ...


@pytest.mark.parametrize(("text", "said"), [
    ("1 room\n2 chair red\nchair wall north", "1 room\n2 chair red\nchair wall north"),
    ("```\n1 room\n\n1 chair\n```", "1 room\n1 chair"), ("nothing", "nothing"), ("", "nothing")])
def test_a_model_behind_the_gateway_is_told_the_language_and_read_line_by_line(text: str, said: str) -> None:
    upstream, told = _Says(text), list[str]()
    assert asyncio.run(decide_by_gateway(upstream, "any", "a room", Scene(), told.append)) == said
    assert "armchair facing fireplace" in upstream.asked[0].messages[0].parts[0].text  # type: ignore[union-attr]
    assert "\n".join(told) in (said, "")


def test_what_such_a_model_says_beside_the_language_ends_it_with_an_answer() -> None:
    for text in ("Sure! Here is your room:\n1 room", "1 room\nimport os", "1 chair\nchair2 red"):
        with pytest.raises(Refused, match="so nothing was changed"):
            asyncio.run(decide_by_gateway(_Says(text), "any", "a room", Scene()))


def test_deciders_are_measured_with_intervals() -> None:
    import numpy as np

    tasks = held_out(Worlds(low=1, high=1), 8)
    own = measured(tasks, lambda batch: [task.answer for task in batch]).summary()
    none = measured(tasks, lambda batch: ["nothing"] * len(batch)).summary()
    assert own["satisfaction"] >= 0.85 and own["tasks"] == 8
    assert none["satisfaction"] == 0 == none["met_in_full"]
    new = held_out(Worlds(low=1, high=1, wording="new"), 2)
    assert measured(new, lambda batch: [task.answer for task in batch]).summary()["satisfaction"] == 1
    low, high = bootstrap(np.array([0.0, 1.0] * 50))
    assert 0.38 < low < 0.44 and 0.56 < high < 0.62
