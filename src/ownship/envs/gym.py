"""The tasks of reasoning-gym (github.com/open-thought/reasoning-gym), scored strictly."""

from __future__ import annotations

import ast
import io
import random
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from typing import Any

from ownship.envs.answer import asked, final_answer, stated
from ownship.envs.env import Task
from ownship.envs.rubric import Gate, Part, Rubric
from ownship.errors import UserError
from ownship.model.chat import Message

# Verifiers that gave full marks to a wrong answer or to text around the right one (`game_of_life_halting` to any text,
# `complex_arithmetic` to "nan"), and verifiers that run the answer as Python. There only the set's own answer counts.
_VERBATIM = frozenset((
    "binary_matrix", "coin_flip", "complex_arithmetic", "fraction_simplification", "game_of_life_halting", "gsm_symbolic",
    "knights_knaves", "letter_jumble", "n_queens", "number_sorting", "spell_backward", "spiral_matrix", "string_insertion",
    "time_intervals",
))
# Verifiers that hand the answer to sympy, which runs it as Python; many answers are right, so only formulas may pass.
_FORMULA = frozenset(("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"))
_FUNCTIONS = frozenset(("sin", "cos", "tan", "exp", "log", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh"))


class Gym:
    """One reasoning-gym data set. Options are those of the set, for example `min_numbers=3`.

    The reward is 1 only for an answer in the stated form that the set's own verifier gives full marks. Its default
    verifier gives part marks to any text that contains the answer; those count as 0 here.

    A few sets draw from Python's unordered sets of strings, so their tasks change from process to process unless
    PYTHONHASHSEED is fixed: codeio, isomorphic_strings, polynomial_multiplication, ransom_note.
    """

    def __init__(self, dataset: str, options: dict[str, Any] | None = None) -> None:
        try:
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
        except ImportError:
            raise UserError("gym/ environments need reasoning-gym: pip install 'ownship[gym]'") from None
        if dataset not in DATASETS:
            near = [name for name in sorted(DATASETS) if dataset.split("_")[0] in name][:5]
            raise UserError(f"reasoning-gym has no data set {dataset!r}" + (f"; near it: {', '.join(near)}" if near else ""))
        self.name = f"gym/{dataset}"
        self._dataset = dataset

        def create(seed: int) -> Any:
            # One set of one item per seed: many sets precompute all their items, or cannot count beyond a few thousand.
            return reasoning_gym.create_dataset(dataset, seed=seed, size=1, **(options or {}))

        def item(seed: int) -> dict[str, Any]:
            seed %= 1 << 32  # numpy, from which some sets draw, knows no larger seeds
            state = random.getstate()
            random.seed(seed)  # list_functions draws from the global generator
            try:
                with redirect_stdout(io.StringIO()):  # bf and codeio print
                    return create(seed)[0]
            finally:
                random.setstate(state)

        try:
            self._data = create(0)
        except (TypeError, ValueError, AssertionError) as error:
            given = ", ".join(f"{key}={value}" for key, value in (options or {}).items()) or "no options"
            raise UserError(f"{self.name} refuses {given}: {error}") from None
        self._item = lru_cache(1024)(item)  # the tasks of a batch are scored without being made again
        self.rubric = Rubric(Gate("stated", stated), Part("exact", self._exact))

    def task(self, seed: int) -> Task:
        item = self._item(seed)
        question = item["question"]
        answer = "" if item["answer"] is None else str(item["answer"]).strip()  # None: any that the verifier accepts
        return Task(self.name, seed, asked(question), answer, key=question)

    def reply(self, task: Task, messages: Sequence[Message]) -> list[Message]:
        return []

    def solution(self, task: Task) -> str:
        """Raises UserError if the set gives no answer of one line: such a task cannot be solved in the stated form."""
        text = f"Answer: {task.answer}"
        if final_answer(text) is None:
            raise UserError(f"{self.name} gives no one-line solution (seed {task.seed}), so it cannot serve as worked examples")
        return text

    def _exact(self, task: Task, messages: Sequence[Message]) -> float:
        answer = final_answer(messages[-1]["content"])
        if answer is None:
            return 0.0
        if answer == task.answer or self._dataset in _VERBATIM:
            return float(answer == task.answer)
        try:
            if self._dataset in _FORMULA and not _formula(answer):
                return 0.0
            return float(self._data.score_answer(answer, self._item(task.seed)) >= 1.0)
        except Exception:  # a verifier that chokes on a strange answer has not accepted it
            return 0.0


def _formula(text: str) -> bool:
    """Whether `text` is plain arithmetic over numbers, symbols and known functions, which is safe to hand to sympy.

    Exponents are at most 100 and no power holds another: `9**9**9` would never end.
    """
    if len(text) > 300:
        return False
    inside: set[ast.AST] = set()  # nodes below a power
    for node in ast.walk(ast.parse(text, mode="eval")):  # parents come before their children
        match node:
            case ast.BinOp(op=ast.Pow(), right=exponent):
                if node in inside or not _exponent(exponent):
                    return False
                inside.update(ast.walk(node))
            case ast.Constant(value=value):
                if isinstance(value, bool) or not isinstance(value, int | float) or not value < 1e15:
                    return False
            case ast.Call(func=ast.Name(id=name), args=[_], keywords=[]):
                if name not in _FUNCTIONS:
                    return False
            case ast.Name(id=name):
                if len(name) > 1 and name not in _FUNCTIONS:
                    return False
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()) | ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                pass
            case ast.Expression() | ast.Load() | ast.operator() | ast.unaryop():
                pass
            case _:
                return False
    return True


def _exponent(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=int(value)):
            return value <= 100
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _exponent(inner)
        case ast.BinOp(op=ast.Div(), left=above, right=below):
            return _exponent(above) and _exponent(below)
        case _:
            return isinstance(node, ast.Name)
