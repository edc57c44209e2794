"""llama.cpp built for this processor (`llama-cpp-python`'s low-level interface): batches of several sequences.

The file's own quantization (Q4_1), keys and values in float16, flash attention as llama.cpp chooses. Each run gets a context
of just the sequences and the length that it needs, made before the clock starts. A shared prompt is read once and copied to
its group's sequences. Greedy tokens are taken by numpy's argmax and a schema's grammar is asked about the best token first:
both are faster than handing all 49,152 candidates to llama.cpp's samplers. The converter of schemas knows no bounds of
integers, so that its text may break those.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from typing import Any

import llama_cpp
import numpy as np
import protocol
from llama_cpp import llama_grammar
from protocol import Result, Work

_SEQUENCES = 64  # at once; further groups wait
_BATCH = 2048


class _Context:
    """A context of so many sequences, with the batch that feeds it."""

    def __init__(self, model: Any, sequences: int, length: int, threads: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max = sequences
        params.n_ctx = sequences * length
        params.n_batch, params.n_ubatch = _BATCH, 512
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False  # a sequence attends to its own cells only
        params.no_perf = True
        self.pointer = llama_cpp.llama_init_from_model(model, params)
        if not self.pointer:
            raise RuntimeError("no context")
        self.memory = llama_cpp.llama_get_memory(self.pointer)
        self.batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.pointer)

    def feed(self, items: list[tuple[int, int, int, bool]]) -> None:
        """Items are (token, position, sequence, whether its logits are wanted)."""
        batch = self.batch
        for index, (token, position, sequence, wanted) in enumerate(items):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = wanted
        batch.n_tokens = len(items)
        if llama_cpp.llama_decode(self.pointer, batch):
            raise RuntimeError("llama_decode failed")


def load(settings: dict[str, Any]) -> Callable[[Work], Result]:
    llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(settings["model"].encode(), llama_cpp.llama_model_default_params())
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    size = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def run(work: Work) -> Result:
        sequences = min(_SEQUENCES, len(work.prompts) * work.n)
        length = -(-(max(map(len, work.prompts)) + work.tokens) // 256) * 256
        context = _Context(model, sequences, length, settings["threads"])
        if work.temperature:
            sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
            llama_cpp.llama_sampler_chain_add(sampler, llama_cpp.llama_sampler_init_temp(work.temperature))
            llama_cpp.llama_sampler_chain_add(sampler, llama_cpp.llama_sampler_init_dist(work.seed))
        grammar: _Grammar | None = None

        def draw(row: int) -> int:
            if work.temperature:
                return llama_cpp.llama_sampler_sample(sampler, context.pointer, row)
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context.pointer, row), (size,))
            return int(logits.argmax()) if grammar is None else grammar.draw(logits)

        done: list[list[int]] = []
        wave = sequences // work.n
        start = time.perf_counter()
        if work.schema is not None:
            grammar = _Grammar(vocabulary, size, work.schema)
        for begin in range(0, len(work.prompts), wave):
            prompts = work.prompts[begin : begin + wave]
            llama_cpp.llama_memory_clear(context.memory, False)
            streams: list[list[int]] = []
            waiting: list[tuple[int, int, int, bool]] = []
            ends: list[int] = []
            for index, prompt in enumerate(prompts):
                if waiting and len(waiting) + len(prompt) > _BATCH:
                    _first(context, waiting, ends, work.n, draw, streams)
                    waiting, ends = [], []
                waiting += [(id, at, index * work.n, at == len(prompt) - 1) for at, id in enumerate(prompt)]
                ends.append(len(waiting) - 1)
            _first(context, waiting, ends, work.n, draw, streams)
            for index in range(0, len(streams), work.n):
                for copy in range(1, work.n):
                    llama_cpp.llama_memory_seq_cp(context.memory, index, index + copy, -1, -1)
            ended = grammar is not None and grammar.ended(streams[0][-1])
            for drawn in range(1, work.tokens):
                if ended:
                    break
                context.feed([(stream[-1], len(prompts[index // work.n]) + drawn - 1, index, True)
                              for index, stream in enumerate(streams)])
                for index, stream in enumerate(streams):
                    stream.append(draw(index))
                ended = grammar is not None and grammar.ended(streams[0][-1])
            done += streams
        seconds = time.perf_counter() - start
        if work.temperature:
            llama_cpp.llama_sampler_free(sampler)
        context.close()
        text = "" if grammar is None else _text(vocabulary, done[0])
        return Result(seconds, sum(map(len, work.prompts)), sum(map(len, done)), done[0], text)

    return run


def _first(context: _Context, waiting: list[tuple[int, int, int, bool]], ends: list[int], n: int, draw: Callable[[int], int],
           streams: list[list[int]]) -> None:
    """Reads the waiting prompts and draws the first token of each stream of theirs."""
    context.feed(waiting)
    streams += [[draw(end)] for end in ends for _ in range(n)]


class _Grammar:
    """Draws the best token that the grammar of a JSON schema allows."""

    def __init__(self, vocabulary: Any, size: int, schema: dict[str, Any]) -> None:
        text = llama_grammar.json_schema_to_gbnf(json.dumps(schema)).replace('space ::= " "?', 'space ::= ""')  # compact
        self.vocabulary = vocabulary
        self.sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        if not self.sampler:
            raise RuntimeError("llama.cpp refuses the grammar")
        self.candidates = np.zeros(size, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])

    def draw(self, logits: Any) -> int:
        best = int(logits.argmax())
        if not self._allowed(np.array([best], np.int32), logits[[best]])[0]:
            found = self._allowed(np.arange(len(logits), dtype=np.int32), logits)
            best = int(np.where(found, logits, -np.inf).argmax())
        llama_cpp.llama_sampler_accept(self.sampler, best)
        return best

    def _allowed(self, ids: Any, logits: Any) -> Any:
        rows = self.candidates[: len(ids)]
        rows["id"], rows["logit"], rows["p"] = ids, logits, 0
        array = llama_cpp.llama_token_data_array(
            data=rows.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data)), size=len(rows), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self.sampler, ctypes.byref(array))
        return rows["logit"] > -np.inf

    def ended(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token))


def _text(vocabulary: Any, ids: list[int]) -> str:
    room = ctypes.create_string_buffer(256)
    pieces = []
    for id in ids:
        count = llama_cpp.llama_token_to_piece(vocabulary, id, room, len(room), 0, False)
        pieces.append(room.raw[: max(count, 0)])
    return b"".join(pieces).decode(errors="replace")


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: Any) -> None:
    pass


protocol.main("llama-cpp-python", load)
