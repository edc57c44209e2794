"""Tasks, splits and names of environments."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownship.envs.env import Task, held_out, split_of, tasks
from ownship.envs.registry import ENVS, make
from ownship.envs.sort import Sort
from ownship.envs.sums import Sums
from ownship.errors import UserError

SPECS = ["sort", "sums", "sums:worked=0", "gym/chain_sum", "gym/leg_counting", "gym/gcd", "shop"]


def reward(env: Any, task: Task, text: str) -> float:
    return env.rubric.score(task, [*task.messages, {"role": "assistant", "content": text}]).reward


@given(seed=st.integers(0, 2**63))
def test_sort(seed: int) -> None:
    env = Sort()
    task = env.task(seed)
    question, _, form = task.messages[0]["content"].partition("\n\n")
    numbers = [int(word) for word in question.removeprefix("Sort in ascending order: ").split()]
    assert "Answer:" in form
    assert 4 <= len(numbers) <= 9 and len(set(numbers)) == len(numbers) and all(0 <= number < 100 for number in numbers)
    assert task.answer == " ".join(map(str, sorted(numbers)))
    assert task == Sort().task(seed) and env.reply(task, []) == []
    assert reward(env, task, env.solution(task)) == 1
    assert reward(env, task, f"Let me see.\nAnswer: {task.answer}") == 1
    for wrong in (task.answer, f"Answer: {task.answer} ", f"Answer: {task.answer},", f"Answer: {task.answer.replace(' ', ', ')}",
                  f"Answer: {' '.join(reversed(task.answer.split()))}", f"Answer: {task.answer}\nDone."):
        assert reward(env, task, wrong) == (wrong.rstrip() == f"Answer: {task.answer}")


def test_sort_in_another_order_is_the_same_task() -> None:
    env = Sort(low=2, high=2, below=3)
    by_key: dict[str, set[str]] = {}
    for seed in range(200):
        task = env.task(seed)
        by_key.setdefault(task.key, set()).add(task.messages[0]["content"])
    assert len(by_key) == 3 and all(len(questions) == 2 for questions in by_key.values())


@given(seed=st.integers(0, 2**63))
def test_sums(seed: int) -> None:
    for env in (Sums(), Sums(worked=0.0)):
        task = env.task(seed)
        question, _, form = task.messages[0]["content"].partition("\n\n")
        terms = [int(word) for word in question.removeprefix("What is ").removesuffix("?").split(" + ")]
        assert "Answer:" in form
        assert int(task.answer) == sum(terms) and reward(env, task, env.solution(task)) == 1
        assert reward(env, task, f"Answer: {sum(terms) + 1}") == 0


@pytest.mark.parametrize("spec", SPECS)
def test_a_task_is_a_function_of_its_seed(spec: str) -> None:
    one, two = make(spec), make(spec)
    forward = [one.task(seed) for seed in range(20)]
    assert forward == [two.task(seed) for seed in reversed(range(20))][::-1]  # not of what was asked before
    assert [task.seed for task in forward] == list(range(20)) and len({task.key for task in forward}) > 10


def test_and_not_of_the_process() -> None:
    script = f"from ownship.envs.registry import make\nfor s in {SPECS}:\n print(repr([make(s).task(i) for i in (0, 7, 1 << 40)]))"
    outputs = {subprocess.run([sys.executable, "-c", script], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                              capture_output=True, text=True, check=True).stdout for seed in ("1", "2")}
    assert len(outputs) == 1 and "sort" in outputs.pop()


# ---- splits


@pytest.mark.parametrize("spec", SPECS)
def test_splits_share_no_task(spec: str) -> None:
    env = make(spec)
    trained = {task.key for task in itertools.islice(tasks(env, "train"), 800)}
    kept = held_out(env, 60)
    keys = {task.key for task in kept}
    assert len(kept) == len(keys) == 60 and not keys & trained
    assert all(split_of(task) == "held_out" for task in kept)
    assert kept == held_out(env, 60)


@given(key=st.text(max_size=20), seed=st.integers(0, 2**40), answer=st.text(max_size=3))
def test_a_split_is_a_function_of_the_content(key: str, seed: int, answer: str) -> None:
    task = Task("e", 0, (), "", key=key)
    assert split_of(task) == split_of(replace(task, seed=seed, answer=answer, level=3, info={"a": 1}))


def test_one_in_eight_is_held_out() -> None:
    share = sum(split_of(Task("e", 0, (), "", key=str(number))) == "held_out" for number in range(4000)) / 4000
    assert 0.11 < share < 0.14


def test_a_stream_goes_on_where_it_stopped() -> None:
    env = Sort()
    whole = list(itertools.islice(tasks(env, "train"), 30))
    again = list(itertools.islice(tasks(env, "train", start=whole[9].seed + 1), 20))
    assert whole[10:] == again


def test_environments_with_few_tasks() -> None:
    """They give what they have, and never search for ever."""
    few = Sort(low=1, high=2, below=7)  # 28 different tasks
    kept = held_out(few, 100)
    assert 0 < len(kept) < 28 and len({task.key for task in kept}) == len(kept)
    single = Sort(low=1, high=1, below=1)
    split = split_of(single.task(0))
    other: Any = "train" if split == "held_out" else "held_out"
    assert next(tasks(single, split)).key == "0"
    with pytest.raises(UserError, match=f"no {other} tasks"):
        next(tasks(single, other))


# ---- names


def test_make_parses_values() -> None:
    env: Any = make("sort:low=2, high = 3,below=50,")
    assert (env.low, env.high, env.below) == (2, 3, 50)
    assert make("sums:worked=0.25").worked == 0.25  # type: ignore[attr-defined]
    assert {"sort", "sums"} <= set(ENVS)
    numbers = make("gym/number_sorting:min_numbers=12,max_numbers=12,max_decimals=0")
    assert numbers.task(0).answer.count(",") == 11


@pytest.mark.parametrize(("spec", "complaint"), [
    ("", "no environment ''"), ("sorting", "known: sort"), ("Sort", "known: sort"), ("gym", "gym/NAME"),
    ("gym/", "no data set ''"), ("gym/chain", "chain_sum"), ("gym/nonsense", "'nonsense'"),
    ("sort:low", "not 'low'"), ("sort:=3", "not '=3'"), ("sort:low=1,3", "not '3'"), ("sort:size=3", "size"),
    ("sort:low=abc", "low=abc"), ("sort:low=2.5", "low=2.5"), ("sort:low=0", "low=0"), ("sort:low=5,high=4", "low=5, high=4"),
    ("sort:below=true", "below"), ("sums:low=1", "low=1"), ("sums:largest=x", "largest=x"), ("sums:worked=2", "worked=2"),
    ("gym/chain_sum:nonsense=1", "nonsense"), ("gym/chain_sum:min_terms=0", "min_terms"), ("gym/chain_sum:min_terms=abc",
                                                                                           "min_terms=abc"),
    ("gym/chain_sum:min_terms=2.5", "min_terms=2.5"), ("gym/chain_sum:seed=3", "seed"), ("gym/chain_sum:size=3", "size"),
    ("gym/composite", "gym/composite"),
])
def test_make_refuses(spec: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        make(spec)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
