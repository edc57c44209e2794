"""The adapter to reasoning-gym: strict where its verifiers are not, cheap where its data sets are not."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ownship.envs import gym
from ownship.envs.env import Task
from ownship.envs.gym import Gym
from ownship.errors import UserError

FAST = ["chain_sum", "number_sorting", "spell_backward", "leg_counting", "gcd", "letter_counting"]


def reward(env: Gym, task: Task, text: str) -> float:
    return env.rubric.score(task, [*task.messages, {"role": "assistant", "content": text}]).reward


@pytest.mark.parametrize("name", FAST)
def test_strict(name: str) -> None:
    env = Gym(name)
    for seed in (*range(12), 1 << 32, (1 << 40) + 5):
        task = env.task(seed)
        assert task.messages[0]["content"].endswith("\n\nEnd with one line: Answer: <your answer>")
        assert env.solution(task) == f"Answer: {task.answer}"
        for right in (env.solution(task), f"Let me think.\n2 + 2 = 4\nAnswer: {task.answer}\n", f"Answer:{task.answer}"):
            assert reward(env, task, right) == 1
        for buried in (task.answer, f"Answer: It is {task.answer}.", f"Answer: {task.answer} or 7",
                       f"Answer: {task.answer} {task.answer}",
                       f"Answer: {task.answer}\nI am sure.", f"Answer: 1\nAnswer: {task.answer}", f"The answer: {task.answer}"):
            assert reward(env, task, buried) == 0
        for wrong in ("", "Answer:", "Answer: banana", f"Answer: {task.answer}1", f"Answer: -{task.answer}", "Answer: nan",
                      "Answer: []"):
            assert reward(env, task, wrong) == 0


@pytest.mark.parametrize("name", FAST)
def test_the_reward_belongs_to_the_task(name: str) -> None:
    """Scored out of order, after many others, each task still has its own answer."""
    env = Gym(name)
    tasks = [env.task(seed) for seed in range(15)]
    for task in reversed(tasks):
        for other in tasks:
            assert reward(env, task, env.solution(other)) == (other.answer == task.answer)


# Answers that the sets' own verifiers give full marks.
FOOLED = {
    "number_sorting": lambda answer: answer.replace("'", '"').replace(".", ".9", 1) if "." in answer else "x",
    "game_of_life_halting": lambda answer: "banana",
    "complex_arithmetic": lambda answer: "nan + nani",
    "fraction_simplification": lambda answer: f"{answer} or 7",
    "gsm_symbolic": lambda answer: f"{answer} or 7",
    "knights_knaves": lambda answer: f"I guess {answer}, or not",
    "letter_jumble": lambda answer: f"{answer} or 7",
    "time_intervals": lambda answer: f"{answer} or 7",
}


@pytest.mark.parametrize("name", sorted(FOOLED))
def test_verifiers_that_are_fooled_are_not_asked(name: str) -> None:
    import reasoning_gym

    env, fooled = Gym(name), 0
    for seed in range(12):
        task = env.task(seed)
        wrong = FOOLED[name](task.answer)
        item = reasoning_gym.create_dataset(name, seed=seed, size=1)
        fooled += item.score_answer(wrong, item[0]) >= 1
        assert reward(env, task, f"Answer: {wrong}") == 0
        assert reward(env, task, env.solution(task)) == 1
    assert fooled  # if this fails, reasoning-gym has mended it and the name can leave the list


@pytest.mark.parametrize("name", ["string_insertion", "spiral_matrix", "binary_matrix", "n_queens", "simple_integration",
                                  "intermediate_integration", "polynomial_multiplication", "puzzle24", "countdown"])
def test_what_a_model_says_is_never_run(name: str, tmp_path: Path) -> None:
    """These verifiers call eval, or sympy's parser, which does, on the answer."""
    env, mark = Gym(name), tmp_path / "mark"
    task = env.task(0)
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    for text in (code, f"[{code}]", f"(lambda: {code})()", f"x + {code}", f"sin({code})", f"f'{{{code}}}'"):
        assert reward(env, task, f"Answer: {text}") == 0
    assert not mark.exists()


@pytest.mark.parametrize("text", [
    "9**9**9**9", "(9**9)**(9**9)", "9**(10**9)", "2**-(9**9)", "x**101", "10**1000000", "1e999", "9" * 400, "2**x**y",
    "x.__class__", "x.y", "exec('1')", "open(x)", "Symbol(x)", "sin(x, y)", "sin(*x)", "sin(a=x)", "__import__", "xx",
    "[x]", "()", "x,y", "'x'", "f'x'", "True", "1j", "x if y else z", "lambda: x", "(x:=2)", "x;y", "x\ny",
    "x@y", "x//y", "x%y", "x^y", "~x", "not x", "x<y", "x and y",
])
def test_what_is_no_formula(text: str) -> None:
    with contextlib.suppress(SyntaxError):  # scored as 0 as well
        assert not gym._formula(text)


@pytest.mark.parametrize("text", ["1", "-x", "+3.5", "2*x**2/3 - 4*x + C", "(1 + 2)*(3 - 4)/5", "exp(x)*sin(2*x) - log(x)",
                                  "x**(1/2)",
                                  "x**-2", "sqrt(x)", "(2*x + 3)**5/10", "sin(x)**2 + cos(x)**2", "X**100", "3**x"])
def test_what_is_a_formula(text: str) -> None:
    assert gym._formula(text)


@pytest.mark.parametrize(("name", "other"), [
    ("simple_integration", lambda answer: f"7 + {answer.replace(' + C', '')} + C"),
    ("polynomial_multiplication", lambda answer: f"0 + {answer}"),
    ("puzzle24", lambda answer: f"({answer})"),
    ("countdown", lambda answer: f"({answer})"),
])
def test_other_right_answers_count(name: str, other: Callable[[str], str]) -> None:
    """Where several answers are right the set's verifier decides."""
    env = Gym(name)
    for seed in range(6):
        task = env.task(seed)
        assert reward(env, task, f"Answer: {other(task.answer)}") == 1
        assert reward(env, task, f"Answer: {task.answer} + 1") == (name == "simple_integration")  # a constant more is right there


@pytest.mark.parametrize("name", ["rush_hour", "graph_color", "propositional_logic", "mini_sudoku", "n_queens"])
def test_no_one_line_solution(name: str) -> None:
    env = Gym(name)
    task = env.task(0)
    with pytest.raises(UserError, match="no one-line solution"):
        env.solution(task)
    assert reward(env, task, "Answer: None") == 0 and reward(env, task, "Answer: ") == 0


@pytest.mark.parametrize("name", ["arc_1d", "caesar_cipher", "zebra_puzzles", "word_sorting", "pool_matrix", "quantum_lock",
                                  "rubiks_cube"])
def test_nothing_is_computed_ahead(name: str) -> None:
    """A task of the far end costs what the first one costs (some sets precompute all their items, or refuse large seeds)."""
    start = time.perf_counter()
    env = Gym(name)
    for seed in (0, 10**6, (1 << 32) + 1, 1 << 62):
        assert env.task(seed).key
    assert time.perf_counter() - start < 5


def test_global_randomness_is_left_alone() -> None:
    """`list_functions` draws from Python's global generator."""
    one, two = Gym("list_functions"), Gym("list_functions")
    random.seed(1)
    first = [one.task(seed) for seed in range(15)]
    state = random.getstate()
    random.seed(2)
    second = [two.task(seed) for seed in range(15)]
    assert first == second
    random.seed(1)
    assert random.getstate() == state


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    env = Gym("bf")
    assert [env.task(seed).answer for seed in range(5)] and capsys.readouterr().out == ""


def test_a_scored_task_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import reasoning_gym

    env = Gym("gcd")
    tasks = [env.task(seed) for seed in range(100)]
    monkeypatch.setattr(reasoning_gym, "create_dataset", lambda *_, **__: pytest.fail("made again"))
    assert all(reward(env, task, f"Answer: 0{task.answer}0") == 0 for task in tasks)  # the verifier is asked, with its item


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install 'ownship\[gym\]'"):
        Gym("gcd")
