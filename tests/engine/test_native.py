"""The compiled forward pass against the network itself, and against itself in other company."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import gguf
import pytest
import torch
from tiny import need_kernels

from ownship.engine.forward import Chunk, Forward, TorchForward
from ownship.engine.native.forward import FORMATS, SOURCE, NativeForward
from ownship.model.attention import sequences
from ownship.model.head import logits
from ownship.model.llama import Llama, LlamaConfig
from ownship.model.native import build
from ownship.model.tokenizer import Tokenizer

BLOCKS = 200  # at least, of any of these networks
CACHE = 64 << 20

# hidden, MLP, layers, heads, key/value heads, head size, vocabulary: nothing a multiple of what the kernels work in
SHAPES = [(32, 48, 2, 4, 2, 16, 320), (48, 80, 1, 3, 1, 16, 264), (576, 1536, 1, 9, 3, 64, 1000), (100, 70, 2, 5, 5, 32, 257),
          (64, 64, 2, 14, 1, 16, 97), (40, 130, 1, 2, 2, 80, 65), (64, 64, 1, 4, 2, 96, 65)]


@pytest.fixture(autouse=True)
def compiled() -> None:
    need_kernels()


def network(shape: tuple[int, ...], tied: bool = False) -> Llama:
    hidden, wide, layers, heads, kv_heads, size, vocabulary = shape
    sizes = LlamaConfig(vocab_size=vocabulary, hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers,
                        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=size, max_position_embeddings=700,
                        tie_word_embeddings=tied)
    model = Llama(sizes).init_weights(0, std=0.15)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=draw))
    return model


def ids(model: Llama, length: int, seed: int = 0) -> list[int]:
    return random.Random(f"{length} {seed}").choices(range(model.config.vocab_size), k=length)


def blocks(seed: int) -> list[int]:
    """A table that jumps about in the pool."""
    return random.Random(seed).sample(range(BLOCKS), 45)


def whole(model: Llama, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        positions, attention = sequences([len(tokens)])
        return logits(model, model(torch.tensor(tokens), positions, attention))


def divergence(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean KL of rows of logits, in nats."""
    p, q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def four_bits(model: Llama) -> Llama:
    """Its layers' matrices as llama.cpp's Q4_1 has them."""
    kind = gguf.GGMLQuantizationType.Q4_1
    with torch.no_grad():
        for weight in model.layers.parameters():
            if weight.dim() == 2:
                padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % 32)).numpy()
                rounded = gguf.quants.dequantize(gguf.quants.quantize(padded, kind), kind)
                weight.copy_(torch.from_numpy(rounded)[:, : weight.shape[1]])
    return model


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", FORMATS)
def test_logits(shape: tuple[int, ...], precision: str) -> None:
    model = network(shape, tied=shape[0] == 576)
    tokens = ids(model, 150)
    expected = whole(four_bits(network(shape, tied=shape[0] == 576)) if precision == "int4" else model, tokens)
    found = NativeForward(model, CACHE, precision)([Chunk(tokens, 0, blocks(0), len(tokens))])
    if precision == "float32":
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    else:
        noise = divergence(expected, whole(model.bfloat16(), tokens))  # what bf16 in torch does
        assert 0 < divergence(expected, found) < (2 if precision == "bfloat16" else 8) * noise


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2], SHAPES[4]], ids=str)
def test_a_row_is_the_same_bit_for_bit_in_any_company(shape: tuple[int, ...], precision: str) -> None:
    """In one piece, in pieces, one by one, beside others, with a shared beginning, on one thread and on three."""
    model = network(shape)
    tokens = ids(model, 100)
    forward = NativeForward(model, CACHE, precision)
    expected = forward([Chunk(tokens, 0, blocks(0), len(tokens))]).clone()

    def pieces(forward: Forward, sizes: list[int], table: list[int], company: int) -> torch.Tensor:
        parts, at = [], 0
        for size in itertools.cycle(sizes):
            now = tokens[at : at + size]
            others = [Chunk(ids(model, 1 + 7 * index % 20, index), 0, [150 + 2 * index, 151 + 2 * index], index % 2)
                      for index in range(company)]
            result = forward([*others[::2], Chunk(now, at, table, len(now)), *others[1::2]])
            before = sum(chunk.wanted for chunk in others[::2])
            parts.append(result[before : before + len(now)].clone())
            at += len(now)
            if at == len(tokens):
                return torch.cat(parts)
        raise AssertionError

    low = [block % 150 for block in range(45)]
    for sizes, company in (([1], 0), ([3, 40, 1, 17], 0), ([16], 5), ([33, 1], 24), ([100], 20)):
        assert torch.equal(pieces(forward, sizes, low, company), expected), (sizes, company)
    torch.set_num_threads(3)
    try:
        assert torch.equal(NativeForward(model, CACHE, precision)([Chunk(tokens, 0, blocks(0), len(tokens))]), expected)
    finally:
        torch.set_num_threads(1)
    # four that share three blocks, and then differ
    tables = [[*low[:3], 60 + 5 * index, 61 + 5 * index, 62 + 5 * index, 63 + 5 * index] for index in range(4)]
    forward([Chunk(tokens[:48], 0, tables[0], 0)])
    ends = [[*tokens[48:60], 3 + index] for index in range(4)]
    together = forward([Chunk(end, 48, table, 1) for end, table in zip(ends, tables, strict=True)])
    for row, end in enumerate(ends):
        alone = NativeForward(model, CACHE, precision)([Chunk([*tokens[:48], *end], 0, blocks(1), 1)])
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_no_number_is_not_hidden(precision: str, value: float) -> None:
    model = network(SHAPES[0])
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight[3, 40] = value  # type: ignore[union-attr, index, operator]
    assert not NativeForward(model, CACHE, precision)([Chunk(ids(model, 5), 0, blocks(0), 5)]).isfinite().any()


def test_long_context() -> None:
    model = network(SHAPES[0])
    tokens = ids(model, 690)
    found = NativeForward(model, CACHE, "float32")([Chunk(tokens, 0, blocks(0), len(tokens))])
    assert torch.allclose(found, whole(model, tokens), atol=1e-3)


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v2"])
def test_other_processors(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AMX and AVX-512, and without AVX, the portable code gives the same, but for how sums are rounded."""
    model = network(SHAPES[2])
    tokens = ids(model, 60)
    for precision in FORMATS:
        expected = NativeForward(model, CACHE, precision)([Chunk(tokens, 0, blocks(0), len(tokens))])
        with monkeypatch.context() as patch:
            patch.setattr(build, "library", lambda source: build.compiled(source, level))
            found = NativeForward(model, CACHE, precision)([Chunk(tokens, 0, blocks(0), len(tokens))])
        if precision == "float32":
            assert torch.allclose(found, expected, atol=1e-3)
        else:
            assert divergence(expected, found) < 2e-3, divergence(expected, found)


@pytest.mark.parametrize("precision", FORMATS)
def test_any_number_of_rows(precision: str) -> None:
    """There are kernels for few rows and for many, and blocks of 4, 6, 8, 16, 32 and 64."""
    model = network(SHAPES[3])
    tokens = ids(model, 150)
    forward = NativeForward(model, CACHE, precision)
    expected = forward([Chunk(tokens, 0, blocks(0), len(tokens))]).clone()
    for rows in (*range(1, 10), 12, 15, 16, 17, 24, 31, 32, 33, 47, 63, 64, 65, 71, 80, 81, 128, 129):
        found = forward([Chunk(tokens[:rows], 0, blocks(rows), rows)])
        assert torch.equal(found, expected[:rows]), rows


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("shape", [SHAPES[2]], ids=str)
def test_long_texts(shape: tuple[int, ...], precision: str) -> None:
    """Attention goes by stretches of 512 tokens: whole, in pieces over their border, a group that differs before it or after."""
    model = network(shape)
    tokens, table = ids(model, 640), blocks(0)
    forward = NativeForward(model, CACHE, precision)
    expected = forward([Chunk(tokens, 0, table, 40)]).clone()
    if precision == "float32":
        assert torch.allclose(expected, whole(model, tokens)[-40:], atol=1e-4 * float(expected.abs().max()))
    other = NativeForward(model, CACHE, precision)
    for begin, end in ((0, 500), (500, 505), (505, 600)):
        other([Chunk(tokens[begin:end], begin, table, 0)])
    found = [other([Chunk([tokens[at]], at, table, 1), Chunk(ids(model, 3), 0, [199], 1)])[0].clone() for at in range(600, 640)]
    assert torch.equal(torch.stack(found), expected)
    for same in (31, 33):  # blocks
        first, rest = tokens[: same * 16], tokens[same * 16 :]
        forward([Chunk(first, 0, table, 0)])
        spare = iter(block for block in range(BLOCKS) if block not in table)
        tables = [[*table[:same], *itertools.islice(spare, 40 - same)] for _ in range(5)]
        ends = [[*rest[:-1], 3 + index] for index in range(5)]
        for end, own in zip(ends, tables, strict=True):
            forward([Chunk(end[:-1], same * 16, own, 0)])
        together = forward([Chunk(end[-1:], 639, own, 1) for end, own in zip(ends, tables, strict=True)]).clone()
        for row, end in enumerate(ends):
            assert torch.equal(other([Chunk(end[-1:], 639, table, 1)])[0], together[row])


def test_new_weights_are_seen_after_reload() -> None:
    model = network(SHAPES[0])
    forward = NativeForward(model, CACHE, "float32")
    tokens = ids(model, 20)
    before = forward([Chunk(tokens, 0, blocks(0), 1)]).clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    forward.reload()
    after = forward([Chunk(tokens, 0, blocks(0), 1)])
    assert not torch.equal(before, after) and torch.allclose(after, whole(model, tokens)[-1:], atol=1e-3)


def test_frozen() -> None:
    model = network(SHAPES[0])
    forward = NativeForward(model, CACHE, "float32")
    tokens = ids(model, 20)
    before = forward([Chunk(tokens, 0, blocks(0), 1)]).clone()
    forward.freeze()
    assert sum(parameter.numel() for parameter in model.parameters()) < 1.2 * model.embed_tokens.weight.numel()
    assert torch.equal(forward([Chunk(tokens, 0, blocks(0), 1)]), before)
    with pytest.raises(RuntimeError, match="given up"):
        forward.reload()


def test_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(build.Unavailable, match="multiple of 16"):
        NativeForward(network((32, 48, 1, 4, 2, 8, 99)), CACHE, "float32")
    monkeypatch.setenv("OWNSHIP_CACHE", str(tmp_path))
    for compiler, reason in (("/nowhere/g++", "nowhere"), ("false", "false failed")):
        monkeypatch.setenv("CXX", compiler)
        with pytest.raises(build.Unavailable, match=reason):
            build.compiled.__wrapped__(SOURCE)
    monkeypatch.delenv("CXX")
    (tmp_path / "header.h").write_text("int f() { return nothing; }")
    (tmp_path / "wrong.cpp").write_text('#include "header.h"')
    with pytest.raises(build.Unavailable, match=r"header.h:1:18: error: .*nothing"):
        build.compiled.__wrapped__(tmp_path / "wrong.cpp")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.Unavailable, match="no C"):
        build.compiled.__wrapped__(SOURCE)


def test_torch_gives_the_same() -> None:
    model = network(SHAPES[0])
    chunks = [Chunk(ids(model, length, length), 0, list(range(10 * row, 10 * row + 8)), min(length, 3))
              for row, length in enumerate((1, 16, 17, 100))]
    native, plain = NativeForward(model, CACHE, "float32"), TorchForward(model, CACHE)
    with torch.no_grad():
        assert torch.allclose(native(chunks), plain(chunks), atol=1e-3)
        more = [Chunk([5, 6], len(chunk.tokens), chunk.table, 2) for chunk in chunks]
        assert torch.allclose(native(more), plain(more), atol=1e-3)


def test_the_default_model_decoding_from_the_cache(smollm: tuple[Llama, Tokenizer]) -> None:
    """Logits of cached decoding equal the full forward pass to 1e-4 in float32 (they lie between −20 and 30)."""
    model, tokenizer = smollm
    tokens = tokenizer.encode("Once upon a time there was a ship that found its own way home. 帆 ⛵ def sail(x): return x ** 2\n")
    forward = NativeForward(model, 256 << 20, "float32")
    table = blocks(0)
    assert forward.pool.blocks >= BLOCKS
    found = [forward([Chunk(tokens[:5], 0, table, 5)]).clone()]
    found += [forward([Chunk([token], 5 + index, table, 1)]).clone() for index, token in enumerate(tokens[5:])]
    assert torch.allclose(torch.cat(found), whole(model, tokens), rtol=0, atol=1e-4)
