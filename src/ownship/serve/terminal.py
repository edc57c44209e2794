"""A conversation in the terminal."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

from ownship.engine.engine import Engine, serving
from ownship.engine.request import Request, Sampling
from ownship.errors import UserError
from ownship.model import zoo
from ownship.model.chat import Chat, Message


def chat(model: str, system: str | None, temperature: float, max_tokens: int, precision: str = "bfloat16") -> None:
    """Reads lines until /exit or end of input; /new forgets the conversation. Ctrl-C ends a reply, then the program."""
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    engine = serving(zoo.resolve(model), precision, max_rows=1)
    renderer = Chat(engine.tokenizer)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a pipe may hold anything
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    people = sys.stdin.isatty()
    if people:
        print("Write a line; /new starts afresh, /exit ends.", file=sys.stderr)
    while True:
        try:
            line = input("> " if people else "")
        except EOFError:
            return
        if line.strip() in ("/exit", "/quit"):
            return
        if line.strip() == "/new":
            messages = list(start)
            continue
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line})
        try:
            messages.append({"role": "assistant", "content": _reply(engine, renderer.prompt(messages), sampling)})
        except UserError as error:
            messages.pop()
            print(f"ownship: {error}; /new starts afresh", file=sys.stderr)


def _reply(engine: Engine, prompt: list[int], sampling: Sampling) -> str:
    """Prints the reply as it comes; Ctrl-C ends it there. Raises UserError if the conversation leaves no room for one."""
    room = engine.model.config.max_position_embeddings - len(prompt)
    id = engine.submit(Request(prompt, replace(sampling, max_tokens=max(1, min(room, sampling.max_tokens)))))
    text = ""
    try:
        while engine.busy:
            for event in engine.step():
                text += event.text
                print(event.text, end="", flush=True)
    except KeyboardInterrupt:
        engine.cancel(id)
        print(" [cut]", end="", file=sys.stderr)
    print()
    return text
