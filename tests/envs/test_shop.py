"""The shop: who uses its tools well gets everything, who guesses nothing, and no text that a model can write does harm."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownship.envs.arithmetic import calculate
from ownship.envs.env import Task, demonstration
from ownship.envs.registry import make
from ownship.envs.rubric import Score
from ownship.envs.shop import Shop
from ownship.errors import UserError
from ownship.model import toolcalls
from ownship.model.chat import Message
from ownship.model.toolcalls import message

Policy = Callable[[Sequence[Message]], str]  # a conversation → what is said next


def write(*calls: tuple[str, dict[str, Any]]) -> str:
    return toolcalls.write([{"function": {"name": name, "arguments": arguments}} for name, arguments in calls])


def perfect(messages: Sequence[Message]) -> str:
    """Knows no more than what it is told: the question, and what came back."""
    question = messages[0]["content"].split("\n\n")[0]
    ordered = re.findall(r"(\d) x (\w+)", question)
    items = [item for _, item in ordered] or question.split(": ")[1].removesuffix("?").split(", ")
    results = [message["content"] for message in messages if message["role"] == "tool"]
    if not results:
        return write(*(("lookup", {"item": item}) for item in items))
    if len(results) == len(items):
        found = [re.fullmatch(rf"{item}: price (\d+), stock (\d+)", result) for item, result in zip(items, results, strict=True)]
        counts = [count for count, _ in ordered] or [match[2] for match in found if match]
        return write(("calculate", {"expression": " + ".join(
            f"{count} * {match[1]}" for count, match in zip(counts, found, strict=True) if match)}))
    return f"Answer: {results[-1]}"


def play(env: Any, task: Task, policy: Policy) -> tuple[list[Message], Score]:
    """The episode as learn/rollout.py plays it, without tokens."""
    messages = list(task.messages)
    for _ in range(100):
        messages.append(message(policy(messages)))
        answer = env.reply(task, messages)
        if not answer:
            return messages, env.rubric.score(task, messages)
        messages += answer
    raise AssertionError("the episode does not end")


def test_a_perfect_policy_and_a_worked_solution_get_everything() -> None:
    env = Shop()
    kinds = set()
    for seed in range(60):
        task = env.task(seed)
        messages, score = play(env, task, perfect)
        assert score.reward == 1.0 and score.parts == {"stated": 1, "looked_up": 1, "exact": 1, "called": 1}
        shown = demonstration(env, task)
        assert [turn["role"] for turn in shown] == [turn["role"] for turn in messages] and shown[-1] == messages[-1]
        assert env.rubric.score(task, shown).reward == 1.0
        assert task.level == len(task.info["items"]) in (2, 3, 4)
        kinds.add(task.key.split()[0])
    assert kinds == {"order", "worth"}


@pytest.mark.parametrize("policy", [
    lambda task, _: f"Answer: {task.answer}",  # nobody may know it
    lambda task, _: "Answer: 500", lambda task, _: task.answer, lambda task, _: "",
    lambda task, _: write(("calculate", {"expression": task.answer})) + f"\nAnswer: {task.answer}",
    lambda task, _: f"Answer: {task.answer}\n" + write(("calculate", {"expression": task.answer})),  # calls and never answers
], ids=["right", "wrong", "bare", "empty", "call and answer at once", "calls for ever"])
def test_who_does_not_look_gets_nothing(policy: Callable[[Task, Sequence[Message]], str]) -> None:
    env = Shop()
    for seed in range(30):
        task = env.task(seed)
        assert play(env, task, lambda messages: policy(task, messages))[1].reward == 0.0  # noqa: B023 (called at once)


def test_who_looks_and_errs_gets_nothing() -> None:
    def off(messages: Sequence[Message]) -> str:
        return re.sub(r"^Answer: (\d+)", lambda said: f"Answer: {int(said[1]) + 1}", perfect(messages))

    def lazy(messages: Sequence[Message]) -> str:
        """Looks up the first item only, and is lucky."""
        return perfect(messages).split("\n")[0] if len(messages) == 1 else f"Answer: {task.answer}"

    env = Shop()
    for seed in range(20):
        task = env.task(seed)
        assert play(env, task, off)[1] == Score(0.0, {"stated": 1, "looked_up": 1, "exact": 0, "called": 1})
        assert play(env, task, lazy)[1] == Score(0.0, {"stated": 1, "looked_up": 0, "exact": 1, "called": 1})


MALFORMED = {
    "<tool_call>{": "not JSON", "<tool_call>lookup(lamp)</tool_call>": "not JSON",
    '<tool_call>{"name":"lookup"}</tool_call>': "is written",
    write(("lookup", {"item": "lamp"})) + " and so on": "nothing may follow",
    write(("lookup", {})): "lookup takes item", write(("lookup", {"item": 3})): "lookup takes item",
    write(("lookup", {"item": "lamp", "shop": "x"})): "lookup takes item",
    write(("buy", {"item": "lamp"})): "there are lookup, calculate",
    write(("lookup", {"item": "unicorn"})): "no such item",
    write(("calculate", {"expression": "2**9"})): "only numbers",
    write(("calculate", {"expression": "__import__('os').system('true')"})): "only numbers",
    write(*[("lookup", {"item": "lamp"})] * 9): "at most 8",
}


@pytest.mark.parametrize("text", MALFORMED, ids=[*MALFORMED.values()])
def test_a_call_that_cannot_be_carried_out_is_told_why_and_counts(text: str) -> None:
    env = Shop(turns=4)
    task = env.task(0)
    once = iter([text])
    messages, score = play(env, task, lambda messages: next(once, None) or perfect([messages[0], *messages[3:]]))
    told = messages[2]
    assert told["role"] == "tool" and told["content"].startswith("Error: ") and MALFORMED[text] in told["content"]
    assert score.reward == 1.0 and 0 < score.parts["called"] < 1  # who does better then is not punished
    messages, score = play(env, task, lambda messages: text)
    assert score.reward == score.parts["called"] == 0
    assert sum(said["role"] == "assistant" for said in messages) == 5  # each counts as a turn with calls: `turns`, and the last


def test_episodes_are_bounded() -> None:
    """In turns, and in what a turn can bring back, whatever is called."""
    env = Shop(turns=3)
    task = env.task(1)
    messages, _ = play(env, task, lambda messages: write(*[("lookup", {"item": task.info["items"][0]})] * 8))
    assert [said["role"] for said in messages] == ["user", *["assistant", *["tool"] * 8] * 3, "assistant"]
    huge = write(("lookup", {"item": "x" * 100_000}), ("calculate", {"expression": "9" * 100_000}), ("y" * 100_000, {}))
    messages, _ = play(env, task, lambda messages: huge)
    assert all(len(said["content"]) < 450 for said in messages if said["role"] == "tool")


def test_a_huge_result_is_cut_off() -> None:
    env = Shop(turns=2)
    task = env.task(1)
    item = task.info["items"][0]
    task.info["list"][item] = ("9" * 100_000, 1)
    messages, _ = play(env, task, lambda messages: write(("lookup", {"item": item})))
    assert messages[2]["content"].endswith("… (cut off)") and len(messages[2]["content"]) < 450


def test_options() -> None:
    env: Any = make("shop:low=3,high=3,turns=2")
    assert {env.task(seed).level for seed in range(20)} == {3}
    for wrong in ("low=0", "low=5", "high=9", "turns=1"):
        with pytest.raises(UserError, match="shop: 1 <= low"):
            make(f"shop:{wrong}")
    assert all(json.loads(json.dumps(tool)) == tool and tool["type"] == "function" for tool in env.task(0).tools)


# ---- the calculator


def expressions() -> st.SearchStrategy[str]:
    number = st.integers(0, 999).map(str) | st.decimals(0, 99, places=2).map(str)
    return st.recursive(number, lambda inner: st.builds(lambda a, op, b: f"({a} {op} {b})", inner, st.sampled_from("+-*/"), inner)
                        | inner.map(lambda a: f"-{a}"), max_leaves=8)


@given(expressions())
def test_the_calculator_is_exact(text: str) -> None:
    try:
        expected = eval(re.sub(r"[\d.]+", r'Fraction("\g<0>")', text), {"Fraction": Fraction})  # of numbers made here, in a test
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="division by zero"):
            calculate(text)
        return
    assert abs(Fraction(calculate(text)) - expected) <= Fraction(1, 2 * 10**6)
    assert "e" not in calculate(text).lower()


@settings(max_examples=300)
@given(st.text(st.sampled_from("0123456789.()+-*/ _e\n'a"), max_size=30) | st.text(max_size=20))
def test_the_calculator_says_no_to_anything_else(text: str) -> None:
    try:
        assert re.fullmatch(r"-?\d+(\.\d+)?", calculate(text))
    except ValueError as error:
        reason = str(error)
        assert reason and "\n" not in reason


@pytest.mark.parametrize(("text", "result"), [
    ("(" * 150 + "1", "no arithmetic"), ("(" * 99 + "1" + ")" * 99, "1"), ("-" * 199 + "1", "-1"), ("9" * 200, "too large"),
    ("9" * 190 + ".5", "too large"), ("1" + "*99999999" * 20, "too large"), ("1/3" + "/99999999" * 20, "too large"),
    ("9**9**9**9", "only numbers"), ("1 " * 150, "longer"), ("." + "0" * 150 + "1", "too large"), ("1" + "0" * 29 + "/3", "3" * 29),
])
def test_the_calculator_costs_little(text: str, result: str) -> None:
    if result.lstrip("-").isdigit():
        assert calculate(text).startswith(result)
    else:
        with pytest.raises(ValueError, match=result):
            calculate(text)
