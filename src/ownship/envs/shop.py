"""A shop whose price list the model cannot see: it has to look things up and to calculate, over several turns."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ownship.envs.answer import asked, exact, stated
from ownship.envs.arithmetic import calculate
from ownship.envs.env import Task
from ownship.envs.rubric import Gate, Part, Rubric
from ownship.envs.toolbox import Tool, call, called, results
from ownship.errors import UserError
from ownship.model.chat import Message

_ITEMS = ("apron", "axe", "bag", "ball", "bell", "belt", "book", "bowl", "box", "brush", "bucket", "candle", "chair", "clock",
          "comb", "cup", "drum", "fan", "flag", "fork", "hammer", "hat", "kettle", "key", "kite", "knife", "lamp", "mirror", "mug",
          "net", "pan", "pen", "plate", "ring", "rope", "saw", "scarf", "shelf", "spoon", "stool", "table", "torch", "vase")
_LISTED = 12  # items on a task's price list
_MOST = 8  # in a question: all can be looked up in one turn


def _lookup(task: Task, item: str) -> str:
    found = task.info["list"].get(item.strip().lower())
    if found is None:
        raise ValueError("the shop has no such item; items are named in the singular")
    price, stock = found
    return f"{item.strip().lower()}: price {price}, stock {stock}"


_TOOLS = (
    Tool("lookup", "Price and stock of one item of the shop.", {"item": "the item's name"}, _lookup),
    Tool("calculate", "The value of an arithmetic expression.", {"expression": "such as 3*17+2*9"},
         lambda task, expression: calculate(expression)),
)
_SHOWN = tuple(tool.shown() for tool in _TOOLS)


def _looked_up(task: Task, messages: Sequence[Message]) -> float:
    """1 if the price list was asked for every item of the question: a lucky guess is no answer."""
    found = {message["content"] for message in messages if message["role"] == "tool" and message.get("name") == "lookup"}
    return float(all(_lookup(task, item) in found for item in task.info["items"]))


class Shop:
    """What `low` to `high` items cost together, some of each, or what all that the shop has of them is worth. Every task has a
    price list of its own, behind `lookup` and `calculate`, which may be called in at most `turns` turns."""

    rubric = Rubric(Gate("stated", stated), Gate("looked_up", _looked_up), Part("exact", exact), Part("called", called, weight=0))

    def __init__(self, low: int = 2, high: int = 4, turns: int = 8) -> None:
        if not 1 <= low <= high <= _MOST or turns < 2:
            raise UserError(f"shop: 1 <= low <= high <= {_MOST} and turns >= 2 are needed, not"
                            f" low={low}, high={high}, turns={turns}")
        self.name = "shop"
        self.low, self.high, self.turns = low, high, turns

    def task(self, seed: int) -> Task:
        draw = random.Random(f"shop {seed}")
        listed = {item: (draw.randint(2, 99), draw.randint(1, 40)) for item in draw.sample(_ITEMS, _LISTED)}
        items = draw.sample([*listed], draw.randint(self.low, self.high))
        ordered = draw.random() < 0.5
        counts = [draw.randint(2, 9) if ordered else listed[item][1] for item in items]
        if ordered:
            order = ", ".join(f"{count} x {item}" for count, item in zip(counts, items, strict=True))
            question = f"An order: {order}. What does it cost?"
        else:
            question = f"What are all the pieces that the shop has of these worth together: {', '.join(items)}?"
        terms = [f"{count}*{listed[item][0]}" for count, item in zip(counts, items, strict=True)]
        expression = "+".join(terms)
        # The same items, counts and prices in another order are the same task.
        key = " ".join(sorted(f"{item} {term}" for item, term in zip(items, terms, strict=True)))
        return Task(self.name, seed, asked(question), calculate(expression), f"{'order' if ordered else 'worth'} {key}",
                    level=len(items), info={"list": listed, "items": items, "expression": expression}, tools=_SHOWN)

    def reply(self, task: Task, messages: Sequence[Message]) -> list[Message]:
        return results(_TOOLS, task, messages, self.turns)

    def solution(self, task: Task) -> list[Message]:
        return [{"role": "assistant", "content": "", "tool_calls": [call("lookup", item=item) for item in task.info["items"]]},
                {"role": "assistant", "content": "", "tool_calls": [call("calculate", expression=task.info["expression"])]},
                {"role": "assistant", "content": f"Answer: {task.answer}"}]
