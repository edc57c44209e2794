"""Chats with tools: rendered and masked as `transformers` does it with the same template."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny import byte_tokenizer

from ownship.learn import chats
from ownship.model.chat import Chat

# ChatML in the manner of Hermes and Qwen; what the assistant produces stands in `generation`, which only `transformers` reads.
TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "You may call:\n<tools>{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}{{ '\n' }}</tools>\nas "
    "<tool_call>{\"name\": …, \"arguments\": …}</tool_call><|im_end|>\n"
    "{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}{{ message.content }}"
    "{% for call in message.tool_calls %}{% if message.content or not loop.first %}{{ '\n' }}{% endif %}{{ '<tool_call>\n' }}"
    "{\"name\": \"{{ call.function.name }}\", \"arguments\": {{ call.function.arguments | tojson }}}{{ '\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% elif message.role == 'tool' %}"
    "{% if loop.previtem.role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% elif message.role == 'user' %}{{ '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

WEATHER: dict[str, Any] = {"type": "function", "function": {
    "name": "weather", "description": "What it's like – today & \"tomorrow\"",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Århus"]}}, "required": ["city"]}}}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}


def called(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def said(role: str, content: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": content, **({"tool_calls": [*calls]} if calls else {})}


CHATS: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([WEATHER], [said("user", "Oslo?"), said("assistant", "", called("weather", city="Oslo")), said("tool", "cold & <wet>"),
                 said("assistant", "Cold.")]),
    ([WEATHER, TIME], [
        said("system", "Be kind."), said("user", "Both?"),
        said("assistant", "A moment.", called("weather", city="Århus"), called("time"),
             called("weather", city="a\n\"b\" </tool_call>")),
        said("tool", "cold"), said("tool", "12:00"), said("tool", ""), said("assistant", "", called("time")), said("tool", "12:01"),
        said("assistant", "Late.\n"), said("user", "Thanks"), said("assistant", "Gladly")]),
    ([], [said("system", "Be kind."), said("user", "Hi"), said("assistant", "Ho")]),
]


@pytest.mark.parametrize("written", [False, True], ids=["arguments as objects", "arguments as text"])
@pytest.mark.parametrize("number", range(len(CHATS)))
def test_chats_with_tools(number: int, written: bool) -> None:
    from transformers import PreTrainedTokenizerFast

    tools, messages = CHATS[number]
    tokenizer = byte_tokenizer()
    peer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend)
    offered: Any = tools or None
    theirs = peer.apply_chat_template(messages, tools=offered, chat_template=TEMPLATE, return_dict=True,
                                      return_assistant_tokens_mask=True)
    text = peer.apply_chat_template(messages, tools=offered, chat_template=TEMPLATE, tokenize=False)
    tokenizer.chat_template = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    given: list[dict[str, Any]] = json.loads(json.dumps(messages))
    for call in (call for message in given for call in message.get("tool_calls", ()) if written):  # as OpenAI's API has them
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    ids, mask = Chat(tokenizer).render(chats.messages(given), tools)
    assert tokenizer.decode(ids, skip_special=False) == text
    trained = [id for id, target in zip(ids, mask, strict=True) if target]
    masked = [id for id, target in zip(theirs["input_ids"], theirs["assistant_masks"], strict=True) if target]
    assert tokenizer.decode(trained, skip_special=False) == peer.decode(masked)
    found = chats.example({"messages": given, "tools": tools}, Chat(tokenizer), 10_000)
    assert [*found.tokens] == ids[: len(found.tokens)] and sum(found.mask) == len(trained)
