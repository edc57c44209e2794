"""Conversations with tools and reasoning as prompts, for templates that know of them and for those that do not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from engines import user
from tiny import CHATML, byte_tokenizer

from ownship.gateway.render import Renderer
from ownship.gateway.toolcalls import wire
from ownship.gateway.types import GatewayError, Message, NamedTool, Reasoning, Request, Text, Tool, ToolCall, ToolResult

TOOL = Tool("weather", "What it is like <|im_end|>", {"type": "object", "properties": {"city": {"type": "string"}}})
TALK = (
    Message("user", (Text("Oslo?"),)),
    Message("assistant", (Reasoning("I look"), Text("A moment."), ToolCall("1", "weather", '{"city": "Oslo"}'),
                          ToolCall("2", "weather", '{"city": "Rome"}'))),
    Message("tool", (ToolResult("1", (Text("cold"),)), ToolResult("2", (Text("gone"),), failed=True))),
    Message("user", (Text("Thanks"),)),
)
OPENS = CHATML + "{{ '<think>\\n' }}"
HERMES = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<tool_call> is how<|im_end|>\n"
    "{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}"
    "{% for call in message.tool_calls %}\n<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}")


def rendered(template: str, **request: Any) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    ids = Renderer(tokenizer).prompt(Request("any", **request))
    special = [id for id in ids if id in tokenizer.special_ids]
    assert tokenizer.eos_id in special and len(special) % 2  # turns that are closed, and one that is open: none comes from a text
    return tokenizer.decode(ids, skip_special=False)


def test_a_template_that_knows_no_tools() -> None:
    text = rendered(CHATML, messages=(Message("system", (Text("Be kind."),)), *TALK), tools=(TOOL,))
    system, first, calls, results, rest = text.split("<|im_end|>\n<|im_start|>")
    assert system.startswith("<|im_start|>system\nBe kind.\n\n# Tools\n")
    described = json.loads(system.split("<tools>\n")[1].split("\n</tools>")[0])
    assert described["function"]["name"] == "weather" and described["function"]["parameters"] == TOOL.schema
    assert first == "user\nOslo?"
    assert calls == ('assistant\nA moment.\n<tool_call>{"name":"weather","arguments":{"city": "Oslo"}}</tool_call>\n'
                     '<tool_call>{"name":"weather","arguments":{"city": "Rome"}}</tool_call>')
    assert results == ("user\n<tool_response>\ncold\n</tool_response>\n<tool_response>\nError: gone\n</tool_response>\n\nThanks")
    assert rest == "assistant\n"


def test_a_template_that_knows_them() -> None:
    text = rendered(HERMES, messages=TALK, tools=(TOOL,), effort="none")
    assert text.startswith('<|im_start|>system\n{"type": "function"') and "# Tools" not in text
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in text
    assert "<think>I look</think>A moment." in text
    assert "<|im_start|>tool\ncold<|im_end|>\n<|im_start|>tool\nError: gone<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_tools_as_transformers_renders_them() -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = byte_tokenizer()
    messages = [{"role": "user", "content": "Oslo?"}, {"role": "assistant", "content": "A moment.", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Ö"}}}]},
        {"role": "tool", "content": "cold", "tool_call_id": "1"}]
    tool = Tool("weather", "What it is like", TOOL.schema)
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend).apply_chat_template(
        messages, tools=[wire(tool)], chat_template=HERMES, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    talk = (Message("user", (Text("Oslo?"),)), Message("assistant", (Text("A moment."), ToolCall("1", "weather", '{"city": "Ö"}'))),
            Message("tool", (ToolResult("1", (Text("cold"),)),)))
    assert rendered(HERMES, messages=talk, tools=(tool,), effort="none") == theirs


@pytest.mark.parametrize("template", [CHATML, HERMES], ids=["described", "known"])
def test_training_sees_what_serving_shows(template: str) -> None:
    """The chat of a training file and the same conversation as a request: token for token the same prompt."""
    from ownship.learn import chats
    from ownship.model.chat import Chat

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    turns = [{"role": "user", "content": "Oslo?"},
             {"role": "assistant", "content": "A moment.", "tool_calls": [
                 {"id": str(number), "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
                 for number, city in enumerate(("Oslo", "Rome"), 1)]},
             {"role": "tool", "tool_call_id": "1", "content": "cold"},
             {"role": "tool", "tool_call_id": "2", "content": "Error: gone"}]
    calls = tuple(ToolCall(str(number), "weather", json.dumps({"city": city}, separators=(",", ":")))
                  for number, city in enumerate(("Oslo", "Rome"), 1))
    talk = (TALK[0], Message("assistant", (Text("A moment."), *calls)), TALK[2])
    asked = {"messages": [*turns, {"role": "assistant", "content": "Cold."}], "tools": [wire(TOOL)]}
    trained = Chat(tokenizer).render(chats.messages(asked["messages"]), chats.tools(asked))[0]
    served = Renderer(tokenizer).prompt(Request("any", messages=talk, tools=(TOOL,), effort="none"))
    if template == HERMES:  # which closes its reasoning at once
        served = served[: -len(tokenizer.encode("<think>\n\n</think>\n\n"))]
    assert trained[: len(served)] == served and served[-len("assistant\n") :] == tokenizer.encode("assistant\n")


def test_which_tools_are_told_of() -> None:
    other = Tool("other")
    named = rendered(CHATML, messages=user("x"), tools=(TOOL, other), tool_choice=NamedTool("other"))
    assert '"other"' in named and '"weather"' not in named
    assert rendered(CHATML, messages=user("x"), tools=(TOOL,), tool_choice="none") == rendered(CHATML, messages=user("x"))


@pytest.mark.parametrize(("template", "effort", "end"), [
    (CHATML, None, "assistant\n"), (CHATML, "none", "assistant\n"), (CHATML, "low", "assistant\n<think>\n"),
    (HERMES, None, "assistant\n<think>\n"), (HERMES, "none", "assistant\n<think>\n\n</think>\n\n"),
    (OPENS, None, "assistant\n<think>\n"), (OPENS, "high", "assistant\n<think>\n"),
    (OPENS, "none", "assistant\n<think>\n\n</think>\n\n"),
    (CHATML + "{# </think> #}", "none", "assistant\n<think>\n\n</think>\n\n"),
])
def test_reasoning_is_opened_or_closed(template: str, effort: Any, end: str) -> None:
    text = rendered(template, messages=user("x"), effort=effort)
    assert text.endswith(end) and text.count("<think>") == end.count("<think>")
    assert rendered(template, messages=user("x"), effort="high", thinking_tokens=0) == rendered(template, messages=user("x"),
                                                                                                  effort="none")


def test_a_reply_that_is_begun_for_the_model() -> None:
    talk = (*user("Count"), Message("assistant", (Text("one, two"),)))
    assert rendered(CHATML, messages=talk, prefill=True).endswith("<|im_start|>assistant\none, two")
    assert rendered(HERMES, messages=talk, prefill=True).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\none, two")


def test_what_a_template_refuses() -> None:
    with pytest.raises(GatewayError, match="no system please") as caught:
        rendered("{{ raise_exception('no system please') }}", messages=user("x"))
    assert caught.value.status == 400
