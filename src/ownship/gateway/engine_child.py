"""The engine's own process: `python -m ownship.gateway.engine_child FD`, started by engine_process.py.

Frames on the socket are a length of 4 bytes (big-endian) and JSON. In: first the settings, then `submit`, `cancel` and `compile`.
Out: `ready` or `failed`, then an answer to each `compile` and, after every step, what it gave. The process ends when the socket
does, and with any exception: the parent needs to know but one way in which it fails.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ownship import machine
from ownship.engine.engine import Engine, serving
from ownship.engine.grammar import Grammar
from ownship.engine.request import Event, Request, Sampling
from ownship.engine.sampling import Scored
from ownship.errors import UserError
from ownship.model import zoo

Frame = dict[str, Any]


def main(descriptor: int) -> None:
    os.dup2(2, 1)  # what a library prints is not an answer
    machine.prepare()
    line = socket.socket(fileno=descriptor)
    frames = _frames(line)
    settings = next(frames)
    try:
        engine = serving(zoo.resolve(settings["model"]), settings["precision"], max_rows=settings["max_rows"],
                         cache_bytes=settings["cache_bytes"])
    except UserError as error:
        _send(line, {"failed": str(error)})
        return
    engine.compile(Grammar.json_object())  # the first one takes half a second
    engine.reserve()
    gc.collect()
    gc.freeze()  # what is there now stays: looking through it again takes 150 ms each time, with everybody waiting
    tokenizer = engine.tokenizer
    _send(line, {"ready": {
        "tokenizer": tokenizer.backend.to_str(), "eos": tokenizer.eos, "template": tokenizer.chat_template,
        "stop_ids": sorted(engine.stop_ids), "vocabulary": engine.model.config.vocab_size, "capacity": engine.capacity,
        "context": engine.model.config.max_position_embeddings, "fingerprint": engine.fingerprint}})
    _Loop(engine, line).run(frames)


class _Loop:
    """Steps in the main thread, reads in another, compiles grammars in a third: neither a large request nor an intricate grammar
    keeps the others waiting."""

    def __init__(self, engine: Engine, line: socket.socket) -> None:
        self.engine, self.line = engine, line
        self._changed = threading.Condition()
        self._incoming: deque[Frame] = deque()
        self._numbers: dict[int, int] = {}  # the engine's id → the parent's number, of requests not done
        self._ids: dict[int, int] = {}

    def run(self, frames: Iterator[Frame]) -> None:
        threading.Thread(target=self._read, args=(frames,), daemon=True).start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._incoming or self.engine.busy)
                incoming, self._incoming = self._incoming, deque()
            refused = [refusal for frame in incoming if (refusal := self._take(frame)) is not None]
            pieces = self._pieces(self.engine.step()) if self.engine.busy else []
            _send(self.line, {"pieces": refused + pieces, "load": self.engine.load})

    def _read(self, frames: Iterator[Frame]) -> None:
        with ThreadPoolExecutor(1) as compiler:
            for frame in frames:
                if "compile" in frame:
                    compiler.submit(self._compile, frame)
                    continue
                with self._changed:
                    self._incoming.append(frame)
                    self._changed.notify()
            os._exit(0)  # the parent is gone: at once, even in the midst of a step

    def _compile(self, frame: Frame) -> None:
        try:
            self.engine.compile(Grammar(*frame["grammar"]))
            reason = None
        except UserError as error:
            reason = str(error)
        with self._changed:  # answered by the main thread, the only one that writes
            self._incoming.append({"compiled": frame["compile"], "reason": reason})
            self._changed.notify()

    def _take(self, frame: Frame) -> Frame | None:
        """Does what a frame says; a piece that refuses a request which can never run, or tells what compiling gave."""
        if "compiled" in frame:
            return frame
        if "cancel" in frame:
            if (id := self._ids.pop(frame["cancel"], None)) is not None:
                del self._numbers[id]
                self.engine.cancel(id)
            return None
        number = frame["submit"]
        try:
            sampling = frame["sampling"]
            sampling = Sampling(**{**sampling, "stop": tuple(sampling["stop"]),
                                   "logit_bias": tuple((id, bias) for id, bias in sampling["logit_bias"])})
            grammar = None if frame["grammar"] is None else Grammar(*frame["grammar"])
            id = self.engine.submit(Request(frame["prompt"], sampling, grammar, frame["prompt_logprobs"]), frame["ahead"])
        except UserError as error:
            return {"number": number, "refused": str(error)}
        self._numbers[id], self._ids[number] = number, id
        return None

    def _pieces(self, events: list[Event]) -> list[Frame]:
        """What a step gave, a piece for each request however many tokens it got."""
        pieces: dict[int, Frame] = {}
        for event in events:
            if (number := self._numbers.get(event.id)) is None:
                continue
            piece = pieces.setdefault(number, {"number": number, "text": "", "tokens": []})
            piece["text"] += event.text
            if event.token is not None:
                piece["tokens"].append(_scored(event.token))
            if event.prompt_scores is not None:
                piece["prompt_scores"] = [*map(_scored, event.prompt_scores)]
            if (done := event.completion) is not None:
                piece |= {"finish": done.finish, "stop": done.stop, "found": done.found}
                del self._ids[self._numbers.pop(event.id)]
        return [*pieces.values()]


def _scored(token: Scored) -> list[Any]:
    return [token.id, token.logprob, token.top]


def _send(line: socket.socket, frame: Frame) -> None:
    body = json.dumps(frame, separators=(",", ":")).encode()
    try:
        line.sendall(struct.pack(">I", len(body)) + body)  # waits for a parent that does not keep up: that holds the engine back
    except OSError:
        os._exit(0)


def _frames(line: socket.socket) -> Iterator[Frame]:
    with line.makefile("rb") as file:
        while len(head := file.read(4)) == 4:
            yield json.loads(file.read(*struct.unpack(">I", head)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
