"""The stated form of a final answer, shared by all environments whose answer is one line of text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ownship.envs.env import Task
from ownship.model.chat import Message

INSTRUCTION = "End with one line: Answer: <your answer>"
_FORM = re.compile(r"^Answer: ?(.+)\Z", re.MULTILINE)


def asked(question: str) -> tuple[Message, ...]:
    """The question as a conversation's opening, with the form of the answer stated."""
    return ({"role": "user", "content": f"{question}\n\n{INSTRUCTION}"},)


def final_answer(text: str) -> str | None:
    """What stands behind `Answer:` on the last line, or None if the text does not end in exactly one such line.

    Strict on purpose: a right answer buried in a longer text, or the second of two guesses, is no answer.
    """
    text = text.strip()
    if len(re.findall(r"^[ \t]*Answer:", text, re.MULTILINE)) != 1 or (match := _FORM.search(text)) is None:
        return None
    return match[1].strip()


def stated(task: Task, messages: Sequence[Message]) -> float:
    """1 if the last message ends in an answer in the stated form. Who calls a tool beside it has not answered yet."""
    return float(final_answer(messages[-1]["content"]) is not None and "tool_calls" not in messages[-1])


def exact(task: Task, messages: Sequence[Message]) -> float:
    """1 if the final answer is the task's, character by character."""
    return float(final_answer(messages[-1]["content"]) == task.answer)
