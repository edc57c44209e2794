"""The stated form of an answer, and the arithmetic of rewards."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownship.envs.answer import exact, final_answer, stated
from ownship.envs.env import Task
from ownship.envs.rubric import Gate, Measure, Part, Rubric
from ownship.errors import UserError
from ownship.model.chat import Message

TASK = Task("test", 0, ({"role": "user", "content": "?"},), "42", key="?")


def said(text: str) -> list[Message]:
    return [{"role": "user", "content": "Answer: 42"}, {"role": "assistant", "content": text}]


@pytest.mark.parametrize(("text", "answer"), [
    ("Answer: 42", "42"),
    ("Answer:42", "42"),
    ("Answer:   42", "42"),
    ("Answer:\t42", "42"),
    ("  Answer: 42  \n\n", "42"),
    ("6 times 7.\nAnswer: 42", "42"),
    ("6 times 7.\r\nAnswer: 42\r\n", "42"),
    ("The Answer: is not this one.\nAnswer: 42", "42"),
    ("Answers: none\nanswer: no\nAnswer: 42", "42"),
    ("Answer: 1 2 3", "1 2 3"),
    ("Answer: a: b", "a: b"),
    ("Answer: Answer: 42", "Answer: 42"),
    ("Answer: 42 or 43", "42 or 43"),
    ("Answer: 4\u00a02", "4\u00a02"),
    # no answer
    ("", None),
    ("   \n ", None),
    ("42", None),
    ("Answer", None),
    ("Answer:", None),
    ("Answer:  \n", None),
    ("Answer:\n42", None),
    ("answer: 42", None),
    ("ANSWER: 42", None),
    ("**Answer: 42**", None),
    ("The answer is Answer: 42", None),
    ("> Answer: 42", None),
    ("6 times 7\n  Answer: 42", None),
    ("Answer: 42\nThat is all.", None),
    ("Answer: 42\n.", None),
    ("Answer: 41\nAnswer: 42", None),
    ("Answer: 42\nAnswer: 42", None),
    ("Answer: 41\n\nNo.\n\nAnswer: 42", None),
    ("Answer:\nAnswer: 42", None),
    ("Well.\n  Answer: 41\nAnswer: 42", None),
    ("Answer: 42\n  Answer: 41", None),
    ("Answer :42", None),
])
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer
    assert stated(TASK, said(text)) == (answer is not None)
    assert exact(TASK, said(text)) == (answer == "42")


@given(before=st.text(), answer=st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1))
def test_what_is_stated_is_found(before: str, answer: str) -> None:
    """Whatever was said before, unless it looks like an answer too."""
    found = final_answer(f"{before.replace('Answer:', '')}\nAnswer: {answer}")
    assert found == (answer.strip() or None)


def constant(value: float) -> Measure:
    return lambda task, messages: value


@pytest.mark.parametrize(("gates", "parts", "reward"), [
    ([], [(1.0, 1.0)], 1.0),
    ([], [(0.5, 1.0), (1.0, 3.0)], 0.875),
    ([], [(0.5, 7.0)], 0.5),
    ([1.0, 1.0], [(0.5, 1.0)], 0.5),
    ([1.0, 0.0], [(1.0, 1.0)], 0.0),
    ([0.5, 0.5], [(1.0, 1.0), (0.0, 1.0)], 0.125),
    ([], [(1.0, 0.0), (0.25, 2.0)], 0.25),
])
def test_reward(gates: list[float], parts: list[tuple[float, float]], reward: float) -> None:
    rubric = Rubric(*(Gate(f"gate {i}", constant(value)) for i, value in enumerate(gates)),
                    *(Part(f"part {i}", constant(value), weight) for i, (value, weight) in enumerate(parts)))
    score = rubric.score(TASK, said(""))
    assert score.reward == pytest.approx(reward)
    assert score.parts == {f"gate {i}": value for i, value in enumerate(gates)} | {f"part {i}": v for i, (v, _) in enumerate(parts)}


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e6)), min_size=1, max_size=5), st.lists(st.floats(0, 1), max_size=3))
def test_reward_stays_between_0_and_1(parts: list[tuple[float, float]], gates: list[float]) -> None:
    if not sum(weight for _, weight in parts) > 1e-300:
        return
    rubric = Rubric(*(Part(str(i), constant(value), weight) for i, (value, weight) in enumerate(parts)),
                    *(Gate(f"gate {i}", constant(value)) for i, value in enumerate(gates)))
    assert 0 <= rubric.score(TASK, said("")).reward <= 1 + 1e-9


@pytest.mark.parametrize("items", [
    [], [Gate("a", constant(1))], [Part("a", constant(1), 0.0)], [Part("a", constant(1), -1.0), Part("b", constant(1), 2.0)],
    [Part("a", constant(1)), Part("a", constant(1))], [Gate("a", constant(1)), Part("a", constant(1))],
])
def test_rubrics_that_make_no_sense(items: list[Gate | Part]) -> None:
    with pytest.raises(UserError, match="a rubric"):
        Rubric(*items)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
@pytest.mark.parametrize("kind", [Gate, Part])
def test_measures_that_leave_the_unit_interval(value: float, kind: type) -> None:
    with pytest.raises(ValueError, match="left"):
        Rubric(Part("fine", constant(1.0)), kind("odd", constant(value))).score(TASK, said(""))
