"""Reads GGUF files (llama.cpp's format, version 2 and 3): metadata and tensors, nothing executed, everything bounded.

The header is parsed here (the `gguf` package needs seconds for a 49k vocabulary); quantised blocks are unpacked by that
package's own dequantiser, so the weights are those of every other reader.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import reprlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ownship.errors import UserError
from ownship.model.llama import LlamaConfig

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_NAME = 256  # bytes of a key or a tensor's name; those in use have less than 64
_MAX_ITEMS = 4_000_000  # entries of one array; the largest vocabularies in use have 0.3 million
_NAMES = {  # GGUF name of a layer's tensor → ours
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight", "output.weight": "lm_head.weight"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file: its shape (slowest dimension first), ggml type number and place."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class GGUF:
    """An open GGUF file: `meta` (key → value), `tensors` (name → TensorInfo) and `load(name)`.

    Raises UserError if the file is not GGUF, is cut short or claims sizes that it cannot hold.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                if file.read(4) != b"GGUF":
                    raise UserError(f"{path}: not a GGUF file (it does not begin with 'GGUF')")
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        self._at = 4
        version = self._scalar("<I", "version")
        if version not in (2, 3):
            raise UserError(f"{path}: GGUF version {version} is not supported (2 and 3 are)")
        tensors, pairs = self._scalar("<Q", "tensor count"), self._scalar("<Q", "metadata count")
        if max(tensors, pairs) > 1_000_000:
            raise UserError(f"{path}: the header claims {tensors} tensors and {pairs} metadata entries; the file is damaged")
        self.meta: dict[str, Any] = {}
        for index in range(pairs):
            key = self._string(f"metadata key {index}", _MAX_NAME)
            self.meta[key] = self._value(self._scalar("<I", key), key)
        infos = [self._tensor_info(index) for index in range(tensors)]
        alignment = self.meta.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise UserError(f"{path}: general.alignment must be a positive whole number, not {reprlib.repr(alignment)}")
        self._data = -(-self._at // alignment) * alignment
        self.tensors = {info.name: info for info in infos}

    def _take(self, size: int, what: str) -> int:
        """Start of the next `size` bytes, which are then consumed."""
        start = self._at
        if start + size > len(self._bytes):
            raise UserError(f"{self.path}: the file ends inside {what} (truncated download?)")
        self._at = start + size
        return start

    def _scalar(self, code: str, what: str) -> Any:
        return struct.unpack_from(code, self._bytes, self._take(struct.calcsize(code), what))[0]

    def _string(self, what: str, most: int | None = None) -> str:
        size = self._scalar("<Q", what)
        if most is not None and size > most:
            raise UserError(f"{self.path}: {what} claims {size} bytes; the file is damaged")
        start = self._take(size, what)
        return self._bytes[start : start + size].decode("utf-8", errors="replace")

    def _value(self, kind: int, key: str, nested: bool = False) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind], key)
        if kind != _ARRAY or nested:
            raise UserError(f"{self.path}: metadata {key!r} has the type {kind}, which is not known here")
        inner, count = self._scalar("<I", key), self._scalar("<Q", key)
        if count > _MAX_ITEMS:
            raise UserError(f"{self.path}: metadata {key!r} claims {count} entries; at most {_MAX_ITEMS} are read")
        if inner in _SCALARS:
            code = f"<{count}{_SCALARS[inner][1]}"
            return list(struct.unpack_from(code, self._bytes, self._take(struct.calcsize(code), key)))
        return [self._value(inner, key, nested=True) for _ in range(count)]

    def _tensor_info(self, index: int) -> TensorInfo:
        name = self._string(f"the name of tensor {index}", _MAX_NAME)
        dims = self._scalar("<I", name)
        if dims > 4:
            raise UserError(f"{self.path}: tensor {name!r} claims {dims} dimensions; the file is damaged")
        shape = tuple(self._scalar("<Q", name) for _ in range(dims))[::-1]
        if not shape or 0 in shape:
            raise UserError(f"{self.path}: tensor {name!r} claims the shape {list(shape)}; the file is damaged")
        return TensorInfo(name, shape, self._scalar("<I", name), self._scalar("<Q", name))

    def load(self, name: str) -> Tensor:
        """The tensor, dequantised: float32, or the file's own F16/BF16. Raises UserError if it is missing or cut off."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        if name not in self.tensors:
            raise UserError(f"{self.path}: tensor {name!r} is missing")
        info = self.tensors[name]
        try:
            kind = GGMLQuantizationType(info.kind)
            block, size = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise UserError(f"{self.path}: tensor {name!r} has the unknown quantisation type {info.kind}") from None
        items = math.prod(info.shape)
        if info.shape[-1] % block:
            raise UserError(f"{self.path}: tensor {name!r} of shape {list(info.shape)} is not made of {kind.name} blocks"
                            f" of {block}")
        start, length = self._data + info.offset, items // block * size
        if start + length > len(self._bytes):
            raise UserError(f"{self.path}: the file ends inside tensor {name!r} (truncated download?)")
        raw = np.frombuffer(self._bytes, np.uint8, length, start).reshape(*info.shape[:-1], -1)
        if kind.name == "F16":
            return torch.from_numpy(raw.view(np.float16).copy())
        if kind.name == "BF16":
            return torch.from_numpy(raw.view(np.int16).copy()).view(torch.bfloat16)
        try:
            return torch.from_numpy(np.ascontiguousarray(dequantize(raw, kind), dtype=np.float32).copy())
        except NotImplementedError:
            raise UserError(f"{self.path}: tensor {name!r} is quantised as {kind.name}, which cannot be read yet") from None


def config(file: GGUF) -> LlamaConfig:
    """The network's sizes from the file's metadata. Raises UserError naming the field that is missing or unsupported."""
    meta = file.meta
    architecture = meta.get("general.architecture")
    if architecture != "llama":
        raise UserError(f"{file.path}: architecture {reprlib.repr(architecture)} is not supported (llama is)")

    def need(key: str, kind: type = int) -> Any:
        if f"llama.{key}" not in meta:
            raise UserError(f"{file.path}: the metadata lacks llama.{key}")
        return _typed(file, f"llama.{key}", None, kind)

    if "token_embd.weight" not in file.tensors:
        raise UserError(f"{file.path}: tensor 'token_embd.weight' is missing")
    layers, hidden, inner = need("block_count"), need("embedding_length"), need("feed_forward_length")
    heads, positions = need("attention.head_count"), need("context_length")
    kv_heads = _typed(file, "llama.attention.head_count_kv", heads, int)
    head_dim = _typed(file, "llama.rope.dimension_count", None, int) or _typed(file, "llama.attention.key_length", None, int)
    # The file has float32: 1e-5 is what 9.999999747378752e-06 was.
    eps = float(str(np.float32(need("attention.layer_norm_rms_epsilon", float))))
    theta = _typed(file, "llama.rope.freq_base", 10000.0, float)
    eos = _typed(file, "tokenizer.ggml.eos_token_id", None, int)
    scaling = _rope_scaling(file)
    if (last := f"blk.{layers - 1}.attn_norm.weight") not in file.tensors:
        raise UserError(f"{file.path}: llama.block_count is {layers}, but tensor {last!r} is missing")
    try:
        return LlamaConfig(
            vocab_size=file.tensors["token_embd.weight"].shape[0], hidden_size=hidden, intermediate_size=inner,
            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
            head_dim=head_dim or hidden // max(heads, 1), max_position_embeddings=positions, rms_norm_eps=eps, rope_theta=theta,
            rope_scaling=scaling, tie_word_embeddings="output.weight" not in file.tensors,
            eos_token_ids=() if eos is None else (eos,),
        )
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from None


def _typed(file: GGUF, key: str, default: Any, kind: type) -> Any:
    """A metadata value; raises UserError if it is there but not of this kind."""
    value = file.meta.get(key, default)
    if value is not default and type(value) is not kind:
        raise UserError(f"{file.path}: metadata {key!r} must be of type {kind.__name__}, not {type(value).__name__}")
    return value


def _rope_scaling(file: GGUF) -> dict[str, Any] | None:
    kind = file.meta.get("llama.rope.scaling.type", "none")
    if kind == "linear":
        return {"rope_type": "linear", "factor": _typed(file, "llama.rope.scaling.factor", 1.0, float)}
    if kind != "none":
        raise UserError(f"{file.path}: llama.rope.scaling.type {reprlib.repr(kind)} is not supported (none and linear are)")
    if "rope_freqs.weight" not in file.tensors:
        return None
    # Llama 3.1+ files carry the divisor of each frequency instead of the rule; the largest one is the rule's factor.
    return {"rope_type": "llama3", "factor": round(float(file.load("rope_freqs.weight").max()), 4),
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def weights(file: GGUF, sizes: LlamaConfig) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under our parameter names. Raises UserError for a tensor that this network has no place for."""
    for name in file.tensors:
        if name == "rope_freqs.weight":
            continue
        if name in _TOP:
            yield _TOP[name], file.load(name)
            continue
        part = name.split(".")
        if len(part) != 4 or part[0] != "blk" or part[2] not in _NAMES or part[3] != "weight":
            raise UserError(f"{file.path}: tensor {name!r} is not part of a Llama network")
        tensor = file.load(name)
        if part[2] in ("attn_q", "attn_k") and tensor.dim() == 2 and tensor.shape[0] % sizes.head_dim == 0:
            tensor = _half_split(tensor, sizes.head_dim)
        yield f"layers.{part[1]}.{_NAMES[part[2]]}.weight", tensor


def _half_split(weight: Tensor, head_dim: int) -> Tensor:
    """GGUF keeps the two members of a rotary pair side by side, Hugging Face half a head apart: [heads·E, D] reordered."""
    return weight.view(-1, head_dim // 2, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
