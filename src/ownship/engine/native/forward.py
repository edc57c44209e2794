"""The compiled forward pass: packs the weights for the kernels, hands over the step, and gets logits back."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ownship import machine
from ownship.engine.forward import SLOTS, Chunk, Pool, wanted_places
from ownship.engine.request import Precision
from ownship.engine.sampling import Draw
from ownship.model.llama import Llama
from ownship.model.native import build
from ownship.model.native.build import Unavailable

SOURCE = Path(__file__).with_name("forward.cpp")
FORMATS = {name: number for number, name in enumerate(get_args(Precision))}  # as in vectors.h
_GROUP = 64  # as in vectors.h
_APART = 112  # numbers between rows of logits: a power of two apart they would all fall on the same lines of the processor's cache

_pointer, _int = ctypes.c_void_p, ctypes.c_int32


class _Matrix(ctypes.Structure):
    _fields_ = (("data", _pointer), ("scales", _pointer), ("n", _int), ("k", _int))


class _Net(ctypes.Structure):
    _fields_ = (*((name, _int) for name in ("layers", "hidden", "heads", "kv_heads", "size", "wide", "vocabulary", "format",
                                            "table_bf16", "threads")), ("eps", ctypes.c_float),
                *((name, _pointer) for name in ("embeddings", "norms", "cos", "sin", "matrices", "keys", "values")),
                ("blocks", ctypes.c_int64), ("cache_bf16", _int))


class _Step(ctypes.Structure):
    _fields_ = (*((name, _int) for name in ("tokens", "wanted", "width", "ld")),
                *((name, _pointer) for name in ("ids", "positions", "row", "tables", "ends", "logits", "memory")))


def library() -> ctypes.CDLL:
    """The compiled kernels. Raises Unavailable if they cannot be had."""
    found = build.library(SOURCE)
    for function in (found.ownship_memory, found.ownship_packed_bytes, found.ownship_packed_scales):
        function.restype = ctypes.c_int64
    return found


def draw(logits: Tensor, scales: NDArray[np.float32], uniforms: NDArray[np.float64]) -> tuple[list[int], list[float]]:
    """A token for each row of logits [B, V] at 1 / temperature (0: greedy), and its log-probability at temperature 1."""
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    rows = len(logits)
    ids, logprobs = np.empty(rows, np.int32), np.empty(rows)
    library().ownship_draw(_pointer(logits.data_ptr()), rows, logits.shape[1], logits.stride(0),
                           _pointer(scales.ctypes.data), _pointer(uniforms.ctypes.data), _pointer(ids.ctypes.data),
                           _pointer(logprobs.ctypes.data), torch.get_num_threads())
    return ids.tolist(), logprobs.tolist()


class NativeForward:
    """`Forward` by compiled kernels, in `precision` float32, bfloat16, int8 (weights of 8 bits, one scale for 64) or int4 (of 4
    bits, with a scale and a least one for 32, as in GGUF's Q4_1, and inputs of 8 bits; the head in int8).

    A token's results depend on its own sequence alone, bit for bit: not on the batch, nor on how its prompt was cut into chunks.
    Raises Unavailable where it cannot run.
    """

    def __init__(self, model: Llama, cache_bytes: int, precision: str) -> None:
        self.library = library()
        config = model.config
        if config.head_dim % SLOTS:
            raise Unavailable(f"the kernels need heads of a multiple of {SLOTS}, not {config.head_dim}")
        self.draw: Draw | None = draw
        self.model, self.format, self.frozen = model, FORMATS[precision], False
        cache = torch.bfloat16 if self.library.ownship_cache_bf16(self.format, config.head_dim) else torch.float32
        self.pool = Pool(config, cache_bytes, cache)
        self.threads = torch.get_num_threads()
        self.wide = -(-config.intermediate_size // _GROUP) * _GROUP  # padded with zeros
        self._cos, self._sin = model.rope(torch.arange(config.max_position_embeddings))  # [P, E/2]
        self._matrices = (_Matrix * (4 * config.num_hidden_layers + 1))()
        self._packed: list[tuple[Tensor, Tensor]] = []
        self._memory = torch.zeros(0, dtype=torch.uint8)
        self._logits = torch.empty(0, config.vocab_size)
        self._net = _Net(
            layers=config.num_hidden_layers, hidden=config.hidden_size, heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads, size=config.head_dim, wide=self.wide, vocabulary=config.vocab_size,
            format=self.format, threads=self.threads, eps=config.rms_norm_eps, cos=self._cos.data_ptr(), sin=self._sin.data_ptr(),
            matrices=ctypes.addressof(self._matrices), keys=self.pool.keys.data_ptr(), values=self.pool.values.data_ptr(),
            blocks=self.pool.blocks, cache_bf16=cache == torch.bfloat16)
        self.reload()

    def freeze(self) -> None:
        """Gives up the network's own copy of what is packed: half of the memory. It can neither be trained nor reloaded then."""
        table = self.model.embed_tokens.weight
        for parameter in self.model.parameters():
            if parameter.dim() > 1 and parameter is not table:
                parameter.data = torch.empty(0, dtype=parameter.dtype)
            else:
                parameter.data = parameter.detach().clone()  # or it would hold on to the whole file
        self._embeddings = table.detach()
        self._net.embeddings = self._embeddings.data_ptr()
        self.frozen = True
        machine.trim()

    @torch.no_grad()
    def reload(self) -> None:
        if self.frozen:
            raise RuntimeError("this engine has given up the network that it would reload")
        model, config = self.model, self.model.config
        layers: list[Any] = list(model.layers)
        for index, block in enumerate(layers):  # packed one by one: all side by side would be one more copy of the network
            attention, mlp = block.self_attn, block.mlp
            pad = (0, 0, 0, self.wide - config.intermediate_size)
            gate, up = (torch.nn.functional.pad(part.weight, pad).view(-1, 16, config.hidden_size)
                        for part in (mlp.gate_proj, mlp.up_proj))
            self._pack(4 * index, torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]))
            self._pack(4 * index + 1, attention.o_proj.weight)
            self._pack(4 * index + 2, torch.stack((gate, up), 1).view(-1, config.hidden_size))
            self._pack(4 * index + 3, torch.nn.functional.pad(mlp.down_proj.weight, (0, self.wide - config.intermediate_size)))
        self._pack(4 * len(layers), model.lm_head.weight, min(self.format, FORMATS["int8"]))
        self._embeddings = model.embed_tokens.weight.detach()  # the very tensor
        norms = [norm.weight for block in layers for norm in (block.input_layernorm, block.post_attention_layernorm)]
        wide = -(-max(config.hidden_size, config.num_attention_heads * config.head_dim) // _GROUP) * _GROUP
        self._norms = torch.nn.functional.pad(torch.stack([*norms, model.norm.weight]).float(), (0, wide - config.hidden_size))
        self._net.embeddings, self._net.norms = self._embeddings.data_ptr(), self._norms.data_ptr()
        self._net.table_bf16 = self._embeddings.dtype == torch.bfloat16

    def _pack(self, index: int, weight: Tensor, format: int | None = None) -> None:
        format = self.format if format is None else format
        weight = weight.detach().contiguous()
        n, k = weight.shape
        if index == len(self._packed):  # the first time: afterwards the same memory is written again
            size = self.library.ownship_packed_bytes(format, n, k)
            data = torch.empty(size + 64, dtype=torch.uint8)
            scales = torch.empty(self.library.ownship_packed_scales(format, n, k))
            self._packed.append((data[-data.data_ptr() % 64 :][:size], scales))
        data, scales = self._packed[index]
        self.library.ownship_pack(format, int(weight.dtype == torch.bfloat16), _pointer(weight.data_ptr()), n, k,
                                  _pointer(data.data_ptr()), _pointer(scales.data_ptr()), self.threads)
        self._matrices[index] = _Matrix(data.data_ptr(), scales.data_ptr(), n, k)

    def __call__(self, chunks: Sequence[Chunk]) -> Tensor:
        lengths = [len(chunk.tokens) for chunk in chunks]
        count = sum(lengths)
        needs = [-(-(chunk.start + length) // SLOTS) for chunk, length in zip(chunks, lengths, strict=True)]
        tables = np.zeros((len(chunks), max(needs)), np.int32)
        for index, (chunk, need) in enumerate(zip(chunks, needs, strict=True)):
            tables[index, :need] = chunk.table[:need]
        ids = np.fromiter((token for chunk in chunks for token in chunk.tokens), np.int32, count)
        positions = np.concatenate([np.arange(chunk.start, chunk.start + length, dtype=np.int32)
                                    for chunk, length in zip(chunks, lengths, strict=True)])
        row = np.repeat(np.arange(len(chunks), dtype=np.int32), lengths)
        ends = np.array(wanted_places(chunks), np.int32)
        if len(self._logits) < len(ends):  # kept: large blocks come from the system anew each time, page by page
            self._logits = torch.empty(len(ends), self._net.vocabulary + _APART)
        logits = self._logits[: len(ends), : self._net.vocabulary]
        width = tables.shape[1]
        size = self.library.ownship_memory(ctypes.byref(self._net), max(count, len(ends))) + 64
        if len(self._memory) < size:
            self._memory = torch.zeros(size * 5 // 4, dtype=torch.uint8)
        memory = self._memory.data_ptr()
        step = _Step(count, len(ends), width, self._logits.stride(0), ids.ctypes.data, positions.ctypes.data, row.ctypes.data,
                     tables.ctypes.data, ends.ctypes.data, logits.data_ptr(), memory + -memory % 64)
        self.library.ownship_forward(ctypes.byref(self._net), ctypes.byref(step))  # without Python's lock
        return logits
