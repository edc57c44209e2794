"""GGUF files: every quantisation read right, every damaged file refused by name."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import BYTES, CHATML, SPECIAL

from ownship.errors import UserError
from ownship.model import checkpoint
from ownship.model.attention import sequences
from ownship.model.gguf import _NAMES, _TOP, GGUF
from ownship.model.head import logits
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer

WIDTH, HEADS, KV_HEADS, VOCAB = 256, 4, 2, 260  # K-quants come in blocks of 256
HEAD = WIDTH // HEADS
TOKENS = [*BYTES, *SPECIAL, "th", "the"]
Edit = Callable[[GGUFWriter], None]


def network() -> dict[str, np.ndarray]:
    """One block, by GGUF's names."""
    draw = np.random.default_rng(0)

    def matrix(rows: int) -> np.ndarray:
        return draw.normal(0, 0.05, (rows, WIDTH)).astype(np.float32)

    return {
        "token_embd.weight": matrix(VOCAB), "output_norm.weight": np.ones(WIDTH, np.float32), "output.weight": matrix(VOCAB),
        "blk.0.attn_norm.weight": np.ones(WIDTH, np.float32), "blk.0.ffn_norm.weight": np.ones(WIDTH, np.float32),
        "blk.0.attn_q.weight": matrix(WIDTH), "blk.0.attn_k.weight": matrix(KV_HEADS * HEAD),
        "blk.0.attn_v.weight": matrix(KV_HEADS * HEAD), "blk.0.attn_output.weight": matrix(WIDTH),
        "blk.0.ffn_gate.weight": matrix(WIDTH), "blk.0.ffn_up.weight": matrix(WIDTH), "blk.0.ffn_down.weight": matrix(WIDTH),
    }


SIZES = {"llama.block_count": 1, "llama.context_length": 128, "llama.embedding_length": WIDTH, "llama.feed_forward_length": WIDTH,
         "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS, "llama.rope.dimension_count": HEAD}
WORDS = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": TOKENS,
         "tokenizer.ggml.merges": ["t h", "th e"], "tokenizer.ggml.token_type": [1] * 256 + [3, 3, 1, 1],
         "tokenizer.ggml.eos_token_id": 257, "tokenizer.chat_template": CHATML}
EPS = "llama.attention.layer_norm_rms_epsilon"


def write(path: Path, *, meta: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None, arch: str = "llama",
          kind: GGMLQuantizationType = GGMLQuantizationType.F32) -> Path:
    """A tiny Llama. `meta` and `tensors` replace entries; None leaves one out. Matrices are quantised as `kind`."""
    writer = GGUFWriter(path, arch)
    entries: dict[str, Any] = {**SIZES, EPS: 1e-5, "llama.rope.freq_base": 500.0, **WORDS, **(meta or {})}
    for key, value in entries.items():
        match value:
            case None:
                pass
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)
    for name, data in (network() | (tensors or {})).items():
        if data is None:
            continue
        if data.dtype == np.uint8:  # ready-made blocks
            writer.add_tensor(name, data, raw_dtype=kind)
        elif data.ndim == 2 and kind != GGMLQuantizationType.F32:
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def run(model: Llama) -> torch.Tensor:
    positions, attention = sequences([20])
    with torch.no_grad():
        return logits(model, model(torch.arange(20) * 7, positions, attention))


def load(path: Path) -> tuple[Llama, Tokenizer]:
    return checkpoint.load(path, torch.float32)


# ---- what is read


def can_quantise(kind: GGMLQuantizationType) -> bool:
    try:
        gguf.quants.quantize(np.ones((1, GGML_QUANT_SIZES[kind][0]), np.float32), kind)
    except (NotImplementedError, KeyError):
        return False
    return True


def can_dequantise(kind: GGMLQuantizationType) -> bool:
    try:
        gguf.quants.dequantize(np.full((1, GGML_QUANT_SIZES[kind][1]), 3, np.uint8), kind)
    except (NotImplementedError, KeyError):
        return False
    return True


WRITABLE = [kind for kind in GGMLQuantizationType if can_quantise(kind)]
READABLE = [kind for kind in GGMLQuantizationType if can_dequantise(kind)]


def test_the_usual_kinds_are_among_them() -> None:
    assert {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"} <= {kind.name for kind in WRITABLE}
    assert {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL"} <= {kind.name for kind in READABLE}


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_quantised_networks(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", kind=kind)
    model, tokenizer = load(path)
    out = run(model)
    assert out.isfinite().all() and tokenizer.eos_id == 257
    original = network()
    for name, ours in (("blk.0.attn_v.weight", model.layers[0].self_attn.v_proj.weight), ("output.weight", model.lm_head.weight)):
        expected = gguf.quants.dequantize(gguf.quants.quantize(original[name], kind), kind)
        assert np.array_equal(ours.detach().numpy(), expected)
    if kind.name in ("F16", "BF16", "Q8_0"):
        plain = run(load(write(tmp_path / "plain.gguf"))[0])
        assert (out - plain).abs().max() < 0.05 * plain.abs().max()


@pytest.mark.parametrize("kind", [kind for kind in READABLE if kind not in WRITABLE], ids=lambda kind: kind.name)
def test_quantisations_that_only_llama_cpp_writes(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    """Random blocks; bytes below 0x38 keep every half-precision scale below 0.5 and finite."""
    size = GGML_QUANT_SIZES[kind][1] * (WIDTH // GGML_QUANT_SIZES[kind][0])
    blocks = np.random.default_rng(1).integers(0, 0x38, (VOCAB, size), np.uint8)
    path = write(tmp_path / "m.gguf", kind=kind, tensors={
        name: blocks[: len(data)] for name, data in network().items() if data.ndim == 2})
    model, _ = load(path)
    expected = gguf.quants.dequantize(blocks, kind)
    assert np.isfinite(expected).all() and np.ptp(expected) > 0
    assert np.array_equal(model.embed_tokens.weight.detach().numpy(), expected)
    assert np.array_equal(model.layers[0].mlp.up_proj.weight.detach().numpy(), expected[:WIDTH])
    assert run(model).isfinite().all()


def test_rotary_pairs_are_put_half_a_head_apart(tmp_path: Path) -> None:
    """llama.cpp's converter takes [head, half, pair] to [head, pair, half] for q and k and leaves v alone; undone here."""
    straight = np.arange(WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH) / WIDTH**2

    def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
        return weight.reshape(heads, 2, weight.shape[0] // heads // 2, WIDTH).swapaxes(1, 2).reshape(weight.shape)

    small = straight[: KV_HEADS * HEAD]
    model, _ = load(write(tmp_path / "m.gguf", tensors={
        "blk.0.attn_q.weight": permuted(straight, HEADS), "blk.0.attn_k.weight": permuted(small, KV_HEADS),
        "blk.0.attn_v.weight": small}))
    attention = model.layers[0].self_attn
    assert np.array_equal(attention.q_proj.weight.detach().numpy(), straight)
    assert np.array_equal(attention.k_proj.weight.detach().numpy(), small)
    assert np.array_equal(attention.v_proj.weight.detach().numpy(), small)


def test_config(tmp_path: Path) -> None:
    sizes = load(write(tmp_path / "m.gguf"))[0].config
    assert (sizes.vocab_size, sizes.hidden_size, sizes.intermediate_size, sizes.num_hidden_layers) == (VOCAB, WIDTH, WIDTH, 1)
    assert (sizes.num_attention_heads, sizes.num_key_value_heads, sizes.head_dim) == (HEADS, KV_HEADS, HEAD)
    assert (sizes.max_position_embeddings, sizes.rms_norm_eps, sizes.rope_theta) == (128, 1e-5, 500.0)
    assert sizes.eos_token_ids == (257,) and not sizes.tie_word_embeddings and sizes.rope_scaling is None


def test_optional_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", tensors={"output.weight": None}, meta={
        "llama.rope.dimension_count": None, "llama.rope.freq_base": None, "tokenizer.ggml.pre": None,
        "tokenizer.ggml.eos_token_id": None, "tokenizer.chat_template": None})
    model, tokenizer = load(path)
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.embed_tokens.weight
    assert model.config.rope_theta == 10000.0 and model.config.head_dim == HEAD and model.config.eos_token_ids == ()
    assert tokenizer.eos is None and tokenizer.chat_template is None
    with pytest.raises(UserError, match="eos_token"):
        _ = tokenizer.eos_id


def test_rope_scaling(tmp_path: Path) -> None:
    linear = load(write(tmp_path / "a.gguf", meta={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}))[0]
    assert linear.config.rope_scaling == {"rope_type": "linear", "factor": 4.0}
    divisors = np.linspace(1, 8, HEAD // 2, dtype=np.float32)
    llama3 = load(write(tmp_path / "b.gguf", tensors={"rope_freqs.weight": divisors}))[0]
    assert llama3.config.rope_scaling is not None and llama3.config.rope_scaling["factor"] == 8.0


def test_user_defined_tokens_are_never_split_but_are_no_specials(tmp_path: Path) -> None:
    tokens = [*TOKENS[:259], "<think>"]
    _, tokenizer = load(write(tmp_path / "m.gguf", meta={
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [1] * 256 + [3, 3, 1, 4], "tokenizer.ggml.merges": ["t h"]}))
    assert 259 in tokenizer.encode("a<think>b") and "<think>" not in tokenizer.special
    assert tokenizer.decode(tokenizer.encode("a<think>b")) == "a<think>b"


# ---- what is refused


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("gguf") / "whole.gguf").read_bytes()


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


@pytest.mark.parametrize("content", [b"", b"GG", b"GGML" + b"\0" * 50, b"PK\3\4", "Größe".encode(), b"\0" * 100])
def test_not_gguf(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    assert "not a GGUF file" in refused(tmp_path / "m.gguf")


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "no such model" in refused(tmp_path / "nothing.gguf")
    with pytest.raises(UserError, match="cannot be read"):
        GGUF(tmp_path)


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24])
def test_unknown_version(version: int, whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(whole[:4] + struct.pack("<I", version) + whole[8:])
    assert f"version {version}" in refused(tmp_path / "m.gguf")


@pytest.mark.parametrize(("place", "what"), [(8, "tensors"), (16, "metadata")])
@pytest.mark.parametrize("count", [2**20, 2**40, 2**64 - 1])
def test_absurd_counts(place: int, what: str, count: int, whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(whole[:place] + struct.pack("<Q", count) + whole[place + 8 :])
    message = refused(tmp_path / "m.gguf")
    assert what in message and str(count) in message


def test_absurd_lengths(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    path = tmp_path / "m.gguf"
    for size in (257, 2**63):
        path.write_bytes(head + struct.pack("<Q", size) + b"k" * 300)
        assert f"metadata key 0 claims {size}" in refused(path)
    path.write_bytes(head + struct.pack("<Q", 200) + b"key")
    assert "metadata key 0" in refused(path)
    key = struct.pack("<Q", 3) + b"key"
    for inner in (0, 7, 8, 12):
        path.write_bytes(head + key + struct.pack("<IIQ", 9, inner, 2**62) + b"\0" * 64)
        assert "'key' claims" in refused(path)
        path.write_bytes(head + key + struct.pack("<IIQ", 9, inner, 3_999_999) + b"\0" * 64)
        assert "ends inside key" in refused(path)
    path.write_bytes(head + key + struct.pack("<I", 13) + b"\0" * 64)
    assert "'key' has the type 13" in refused(path)
    path.write_bytes(head + key + struct.pack("<IIQIQ", 9, 9, 1, 9, 1) + b"\0" * 64)  # an array of arrays
    assert "'key' has the type 9" in refused(path)


def test_every_truncation(whole: bytes, tmp_path: Path) -> None:
    info = GGUF(_file(tmp_path / "whole.gguf", whole))
    header, end = info._data, len(whole)
    draw = random.Random(0)
    cuts = {*range(0, 64), *draw.sample(range(header), 120), *draw.sample(range(header, end), 60), header, header - 1, end - 1}
    for cut in sorted(cuts):
        path = _file(tmp_path / "cut.gguf", whole[:cut])
        message = refused(path)
        assert "ends inside" in message or "not a GGUF" in message, (cut, message)


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", sorted({*SIZES, EPS} - {"llama.rope.dimension_count", "llama.attention.head_count_kv"}))
def test_missing_size(name: str, tmp_path: Path) -> None:
    assert name in refused(write(tmp_path / "m.gguf", meta={name: None}))


@pytest.mark.parametrize(("name", "value"), [
    *((name, value) for name in sorted({*SIZES, EPS}) for value in ("many", [1, 2], True)),
    ("llama.rope.freq_base", "x"), ("llama.rope.freq_base", 0.0), ("llama.rope.freq_base", float("nan")),
    (EPS, -1.0), (EPS, float("inf")), ("llama.rope.scaling.type", "yarn"), ("llama.rope.scaling.type", 3),
    ("general.alignment", 0), ("general.alignment", "x"), ("tokenizer.ggml.eos_token_id", 260), ("tokenizer.ggml.eos_token_id",
                                                                                                 "x"),
])
def test_wrong_field(name: str, value: Any, tmp_path: Path) -> None:
    message = refused(write(tmp_path / "m.gguf", meta={name: value}))
    ours = {EPS: "rms_norm_eps", "llama.rope.freq_base": "rope_theta"}
    assert name in message or ours.get(name, name) in message


@pytest.mark.parametrize(("name", "value", "ours"), [
    ("llama.block_count", 2, "blk.1.attn_norm.weight"), ("llama.block_count", 2**32 - 1, "block_count"), ("llama.block_count", 0,
                                                                                                          "block_count"),
    ("llama.embedding_length", 0, "hidden_size"), ("llama.embedding_length", 2**31, "hidden_size"),
    ("llama.embedding_length", 255, "token_embd.weight|embed_tokens.weight"), ("llama.feed_forward_length", 7, "blk.0.ffn|mlp"),
    ("llama.attention.head_count", 0, "num_attention_heads"), ("llama.attention.head_count", 3, "num_key_value_heads"),
    ("llama.attention.head_count", 2**20, "num_attention_heads"), ("llama.attention.head_count_kv", 0, "num_key_value_heads"),
    ("llama.rope.dimension_count", 63, "head_dim"), ("llama.rope.dimension_count", 10, "self_attn"),
    ("llama.context_length", 0, "max_position_embeddings"), ("llama.context_length", 2**32 - 1, "max_position_embeddings"),
])
def test_impossible_size(name: str, value: int, ours: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path / "m.gguf", meta={name: value}))
    assert any(part in message for part in ours.split("|")), message


@pytest.mark.parametrize("name", sorted(network().keys() - {"output.weight"}))
def test_missing_tensor(name: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path / "m.gguf", tensors={name: None}))
    ours = _TOP.get(name) or _NAMES[name.split(".")[2]]
    assert "missing" in message and (name in message or ours in message)


@pytest.mark.parametrize("name", sorted(network()))
def test_wrong_shape(name: str, tmp_path: Path) -> None:
    data = network()[name]
    for wrong in (np.ones((*data.shape[:-1], WIDTH + 32), np.float32), np.ones(32, np.float32), np.ones((2, 2, WIDTH), np.float32)):
        message = refused(write(tmp_path / "m.gguf", tensors={name: wrong}))
        ours = _TOP.get(name) or _NAMES[name.split(".")[2]]
        assert "shape" in message and (name in message or ours in message), message


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.1.attn_q.weight", "blk.0.ffn_gate_exps.weight", "cls.weight",
                                  "blk.x.attn_q.weight", ""])
def test_foreign_tensor(name: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path / "m.gguf", tensors={name: np.ones((WIDTH, WIDTH), np.float32)}))
    assert "not part of a Llama network" in message and (name in message or "layers." in message)


@pytest.mark.parametrize("arch", ["qwen2", "gpt2", "Llama", ""])
def test_other_architectures(arch: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path / "m.gguf", arch=arch))
    assert "architecture" in message and repr(arch or None) in message


def test_unreadable_quantisations(whole: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", tensors={"blk.0.attn_v.weight": np.ones((KV_HEADS * HEAD, WIDTH), np.float64)})
    assert "blk.0.attn_v.weight" in (message := refused(path)) and "F64" in message
    name = b"blk.0.attn_v.weight"
    at = whole.index(name) + len(name) + 4 + 2 * 8  # after the name: dimension count, two dimensions
    for kind in (4, 999, 2**32 - 1):
        message = refused(_file(tmp_path / "m.gguf", whole[:at] + struct.pack("<I", kind) + whole[at + 4 :]))
        assert "blk.0.attn_v.weight" in message and str(kind) in message
    for dims in ((0, 5), (WIDTH, 0), (2**63, 2**63), (WIDTH + 1, 8)):  # fastest first
        changed = whole[: at - 16] + struct.pack("<QQI", *dims, GGMLQuantizationType.Q8_0) + whole[at + 4 :]
        assert "blk.0.attn_v.weight" in refused(_file(tmp_path / "m.gguf", changed))
    assert "dimensions" in refused(_file(tmp_path / "m.gguf", whole[: at - 20] + struct.pack("<I", 5) + whole[at - 16 :]))


@pytest.mark.parametrize(("meta", "complaint"), [
    ({"tokenizer.ggml.model": "llama"}, "'llama'"), ({"tokenizer.ggml.model": None}, "tokenizer kind None"),
    ({"tokenizer.ggml.model": ["gpt2"]}, "tokenizer kind"), ({"tokenizer.ggml.pre": "deepseek"}, "tokenizer.ggml.pre"),
    ({"tokenizer.ggml.pre": ["gpt-2"]}, "tokenizer.ggml.pre"), ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens"),
    ({"tokenizer.ggml.tokens": [1, 2, 3]}, "tokenizer.ggml.tokens"), ({"tokenizer.ggml.tokens": "abc"}, "tokenizer.ggml.tokens"),
    ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges"), ({"tokenizer.ggml.merges": ["th"]}, "tokenizer.ggml.merges"),
    ({"tokenizer.ggml.merges": ["q z"]}, "tokenizer.ggml.merges"), ({"tokenizer.ggml.token_type": [1, 2]},
                                                                    "tokenizer.ggml.token_type"),
    ({"tokenizer.ggml.token_type": None}, "tokenizer.ggml.token_type"), ({"tokenizer.chat_template": 7}, "tokenizer.chat_template"),
])
def test_bad_tokenizers(meta: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    assert complaint in refused(write(tmp_path / "m.gguf", meta=meta))


@settings(deadline=None, max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_headers_are_refused_or_read(data: st.DataObject, whole: bytes, tmp_path: Path) -> None:
    """Flipped bytes lead to a UserError or to a model, never to anything else (and never take long or much memory)."""
    content = bytearray(whole)
    header = len(whole) - sum(array.nbytes for array in network().values())
    at = st.integers(4, 31) | st.integers(0, header) | st.integers(header - 900, header)  # counts, metadata, tensor table
    for place, value in data.draw(st.lists(st.tuples(at, st.integers(0, 255)), min_size=1, max_size=4)):
        content[place] = value
    path = _file(tmp_path / "flipped.gguf", bytes(content))
    with contextlib.suppress(UserError):
        load(path)
