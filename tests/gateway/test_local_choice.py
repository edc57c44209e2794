"""What a reply's text means, whatever tokens it comes in and however many at a time: reasoning, text, calls."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from engines import Reply, put_together
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import byte_tokenizer

from ownship.engine.request import Sampling
from ownship.engine.text import TextOut
from ownship.gateway.choice import Choice, Plan
from ownship.gateway.engine_process import Job, Piece
from ownship.gateway.types import Event, GatewayError, Started, TokenScore, Used

TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_id


def score(id: int, logprob: float | None, top: Any) -> TokenScore:
    return TokenScore(TOKENIZER.decode([id]), logprob, id)


PLAN = Plan(TOKENIZER, frozenset({END}), 4000, TOKENIZER.encode("prompt"), Sampling(), 1000, 500, score)
CALLS = replace(PLAN, calls=("calls", "{}"))


def play(plan: Plan, model: Callable[[str, Job], str], seed: int = 0) -> tuple[Reply, list[Job]]:
    """Runs a choice against a scripted model: the prompt's text → what it writes, then the stop token."""
    choice, draw = Choice(0, plan), random.Random(seed)
    events: list[Event] = [Started("m")]
    jobs = []
    while choice.job is not None:
        job = choice.job
        jobs.append(job)
        out = TextOut(TOKENIZER, job.sampling.stop)
        ids = [*TOKENIZER.encode(model(TOKENIZER.decode(job.prompt), job)), END]
        piece = Piece(0)
        for count, id in enumerate(ids, 1):
            piece.tokens.append((id, -1.0, None))
            piece.text += "" if id == END else out.push(id)
            if id == END or out.stopped or count == job.sampling.max_tokens:
                piece.finish, piece.stop = "stop" if id == END or out.stopped else "length", out.stop
                piece.text += out.finish()
            if piece.finish is not None or draw.random() < 0.4:
                events += choice.feed(piece)
                if piece.finish is not None:
                    break
                piece = Piece(0)
    return put_together([*events, Used(None)]), jobs  # type: ignore[arg-type]


CALL = '{"name":"a\\"b","arguments":{"x":["}","\\\\\\"{"],"y":{"z":1}}}</tool_call>'
ARGUMENTS = '{"x":["}","\\\\\\"{"],"y":{"z":1}}'
PLAIN = st.text("ab <\n/é日{}", max_size=20)


@settings(max_examples=200, deadline=None)
@given(PLAIN, st.integers(1, 3), st.booleans(), st.integers(0, 1 << 20))
def test_text_then_calls(text: str, count: int, lines: bool, seed: int) -> None:
    """The tag may lie across tokens; the free text before it keeps all but the white space at its end."""
    newline = "\n" if lines else ""
    inner = newline + CALL.replace("}}</", f"}}}}{newline}</")

    def model(prompt: str, job: Job) -> str:
        return (newline + "<tool_call>").join([inner] * count) if prompt.endswith("<tool_call>") else f"{text}\n<tool_call>{inner}"

    reply, jobs = play(CALLS, model, seed)
    choice = reply.choices[0]
    assert choice.text == text.rstrip() and choice.finish == "tool_calls"
    assert [(call.name, call.arguments) for call in choice.calls] == [('a"b', ARGUMENTS)] * count
    assert len({call.id for call in choice.calls}) == count and json.loads(ARGUMENTS)
    assert [job.grammar for job in jobs] == [None, ("calls", "{}")] and [job.ahead for job in jobs] == [False, True]
    assert TOKENIZER.decode(jobs[1].prompt) == f"prompt{text}\n<tool_call>"


@settings(max_examples=200, deadline=None)
@given(PLAIN, PLAIN, st.integers(0, 1 << 20))
def test_reasoning_then_text(thought: str, text: str, seed: int) -> None:
    plan = replace(PLAN, reasons=True, prompt=TOKENIZER.encode("prompt<think>\n"))
    reply, jobs = play(plan, lambda prompt, job: text if "</think>" in prompt else f"{thought}</think>\n\nnever", seed)
    choice = reply.choices[0]
    assert (choice.reasoning, choice.text, choice.finish) == (thought, text, "stop")
    assert TOKENIZER.decode(jobs[1].prompt).startswith(f"prompt<think>\n{thought}")
    assert TOKENIZER.decode(jobs[1].prompt).endswith("</think>\n\n")


def test_reasoning_that_does_not_end() -> None:
    """It is cut at its bound, or where the model stops, and closed; then comes what was asked for, under its grammar."""
    plan = replace(PLAN, reasons=True, thinking=50, format=("json_schema", "{}"))
    for thought in ("hm " * 100, "hm"):
        reply, jobs = play(plan, lambda prompt, job, thought=thought: thought if job.grammar is None else "{}")  # type: ignore[misc]
        assert reply.choices[0].reasoning == thought[:50] and reply.choices[0].text == "{}"
        assert [job.grammar for job in jobs] == [None, ("json_schema", "{}")]
        assert jobs[0].sampling.max_tokens == 50 and jobs[0].sampling.stop == ("</think>",)
        assert TOKENIZER.decode(jobs[1].prompt) == f"prompt{thought[:50]}\n</think>\n\n"


def test_a_model_that_thinks_unasked() -> None:
    def model(prompt: str, job: Job) -> str:
        return "so" if "</think>" in prompt else "because</think>" if "<think>" in prompt else "\n<think>because</think>so"

    reply, _ = play(CALLS, model)
    assert (reply.choices[0].reasoning, reply.choices[0].text) == ("because", "so")


def test_a_model_that_speaks_of_the_tag() -> None:
    reply, _ = play(PLAN, lambda prompt, job: " is a tag" if prompt.endswith("<think>") else "What <think> is")
    assert (reply.choices[0].reasoning, reply.choices[0].text) == ("", "What <think> is a tag")


def test_tags_mean_nothing_where_there_is_nothing_to_call() -> None:
    reply, jobs = play(replace(PLAN, stop=("END",)), lambda prompt, job: "<tool_call>{}</tool_call>END more")
    assert (reply.choices[0].text, reply.choices[0].finish, reply.choices[0].stop) == ("<tool_call>{}</tool_call>", "stop", "END")
    bare, _ = play(replace(PLAN, bare=True), lambda prompt, job: "<think>x</think>")
    assert bare.choices[0].text == "<think>x</think>" and len(jobs) == 1


def test_all_bounds_hold() -> None:
    """Of every length the reply may have: the runs together never draw more, nor reach beyond the context."""
    text = f"hm</think>yes\n<tool_call>{CALL}"

    def model(prompt: str, job: Job) -> str:
        return CALL if prompt.endswith("<tool_call>") else text[10:] if "</think>" in prompt else text

    whole, jobs = play(replace(CALLS, reasons=True), model)
    needed = len(text.encode()) + len(jobs)
    assert whole.choices[0].finish == "tool_calls" and whole.choices[0].text == "yes"
    for bound in range(1, needed):
        cut, jobs = play(replace(CALLS, reasons=True, max_tokens=bound, thinking=max(1, bound - 1)), model, bound)
        choice = cut.choices[0]
        assert "yes\n<tool_call>".startswith(choice.text) and choice.finish in ("length", "tool_calls")
        assert all(ARGUMENTS.startswith(call.arguments) for call in choice.calls)
    for room in range(1, 60):
        choice = Choice(0, replace(CALLS, capacity=6 + room))
        assert choice.job is not None and len(choice.job.prompt) + choice.job.sampling.max_tokens <= 6 + room


def test_seeds_differ_between_choices_and_runs() -> None:
    plan = replace(PLAN, sampling=Sampling(seed=5), reasons=True)
    seeds = set()
    for index in range(3):
        choice = Choice(index, plan)
        assert choice.job is not None
        seeds.add(choice.job.sampling.seed)
        choice.feed(Piece(0, tokens=[(END, -1.0, None)], finish="stop"))
        assert choice.job is not None
        seeds.add(choice.job.sampling.seed)
    assert len(seeds) == 6


@pytest.mark.parametrize("seed", range(5))
def test_a_format_or_a_call(seed: int) -> None:
    plan = replace(PLAN, first="either", calls=("calls", "{}"), format=("json_schema", "{}"))
    called, jobs = play(plan, lambda prompt, job: f"<tool_call>{CALL}", seed)
    assert called.choices[0].calls[0].arguments == ARGUMENTS and called.choices[0].finish == "tool_calls"
    assert jobs[0].grammar == ("calls", "{}")
    answered, _ = play(plan, lambda prompt, job: '{"a":"<tool_call>"}', seed)
    assert (answered.choices[0].text, answered.choices[0].finish) == ('{"a":"<tool_call>"}', "stop")


def test_a_grammar_that_gives_up_is_an_error() -> None:
    """Never a reply that looks as if it had kept to its schema."""
    choice = Choice(0, replace(PLAN, format=("json_schema", "{}")))
    with pytest.raises(GatewayError) as caught:
        choice.feed(Piece(0, finish="failed"))
    assert caught.value.status == 500
