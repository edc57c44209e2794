"""The default model and tiny random ones: our network, engine and files against `transformers` on the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ownship.engine.engine import Engine
from ownship.engine.request import Request, Sampling
from ownship.model import checkpoint
from ownship.model.attention import sequences
from ownship.model.chat import Chat
from ownship.model.head import logits
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer

PROMPTS = [
    "a",
    " ",
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "2 + 2 = 4, 3 + 3 = 6, 4 + 4 =",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "#include <stdio.h>\n\nint main(void) {\n\tprintf(\"%d\\n\", 42);\n",
    "SELECT name, count(*) FROM users WHERE age >= 18 GROUP BY name ORDER BY",
    '{"name": "Ada", "born": 1815, "tags": ["maths", "machines"], "friends": [',
    "Größe, naïve, façade, coöperate, Ærøskøbing, Łódź",
    "日本の首都は東京です。中国的首都是",
    "Привет, как дела? Сегодня",
    "مرحبا بالعالم، كيف حالك",
    "नमस्ते दुनिया",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 and e\u0301 and \u200b\ufeff",
    "\n\n\n\t\t   \r\n   x",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",  # here with the special tokens' ids
    "0123456789 " * 20,
    "The ship sailed on through the night, and the stars turned slowly above her masts. " * 27,
    "\n".join(f"    case {number}: return values[{number * 7 % 13}];  // branch {number}" for number in range(30)),
]
QUESTIONS = [
    "What is the capital of France?",
    "Write a Python function that reverses a string.",
    "Tell me a short story about a lighthouse keeper.",
    "Sort these numbers: 42 7 19 3 88",
    "Übersetze ins Französische: Guten Morgen 👋",
]


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return Chat(tokenizer)._encode(text, "\ue000")  # special tokens in the text are meant here


def our_logits(model: Llama, ids: list[int]) -> Tensor:
    positions, attention = sequences([len(ids)])
    with torch.no_grad():
        return logits(model, model(torch.tensor(ids), positions, attention))


def their_logits(model: Any, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def our_greedy(model: Llama, tokenizer: Tokenizer, prompts: list[list[int]], count: int) -> list[list[int]]:
    requests = [Request(ids, Sampling(temperature=0, max_tokens=count)) for ids in prompts]
    return [completion.tokens for completion in Engine(model, tokenizer).generate(requests)]


def their_greedy(model: Any, ids: list[int], count: int, pad: int) -> list[int]:
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                         max_new_tokens=count, pad_token_id=pad)
    return out[0, len(ids) :].tolist()


@pytest.fixture(scope="module")
def chat_prompts(smollm: tuple[Llama, Tokenizer]) -> list[list[int]]:
    return [Chat(smollm[1]).prompt([{"role": "user", "content": text}]) for text in QUESTIONS]


@pytest.fixture(scope="module")
def greedy(smollm: tuple[Llama, Tokenizer], chat_prompts: list[list[int]]) -> list[list[int]]:
    return our_greedy(*smollm, chat_prompts, 64)


def test_the_prompts_cover_short_and_long(smollm: tuple[Llama, Tokenizer]) -> None:
    lengths = [len(prompt_ids(smollm[1], text)) for text in PROMPTS]
    assert len(PROMPTS) == 20 and min(lengths) == 1 and sum(450 <= length <= 600 for length in lengths) == 2


@pytest.mark.parametrize("text", PROMPTS, ids=range(len(PROMPTS)))
def test_logits(smollm: tuple[Llama, Tokenizer], hf_smollm: Any, text: str) -> None:
    ids = prompt_ids(smollm[1], text)
    ours, theirs = our_logits(smollm[0], ids), their_logits(hf_smollm, ids)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-3


@pytest.mark.parametrize("which", range(len(QUESTIONS)))
def test_64_greedy_tokens(smollm: tuple[Llama, Tokenizer], hf_smollm: Any, chat_prompts: list[list[int]],
                          greedy: list[list[int]], which: int) -> None:
    """All five run as one batch on our side, one by one on the other."""
    assert greedy[which] == their_greedy(hf_smollm, chat_prompts[which], 64, smollm[1].eos_id)


def test_round_trip(smollm: tuple[Llama, Tokenizer], chat_prompts: list[list[int]], greedy: list[list[int]],
                    tmp_path: Path) -> None:
    """What we save, `transformers` loads without us: same tokens for the text, same template, same replies."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint.save(*smollm, tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert model.config.eos_token_id in (2, [2]) and tokenizer.eos_token_id == 2
    for which in (0, 4):
        messages = [{"role": "user", "content": QUESTIONS[which]}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == chat_prompts[which]
        assert their_greedy(model, ids, 32, 2) == greedy[which][:32]
        assert tokenizer.decode(greedy[which]) == smollm[1].decode(greedy[which], skip_special=False)


def test_our_own_round_trip_changes_no_bit(tiny_model: Llama, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    checkpoint.save(tiny_model, tiny_tokenizer, tmp_path / "saved")
    model, tokenizer = checkpoint.load(tmp_path / "saved", torch.float32)
    assert model.config == tiny_model.config
    for (name, one), (other, two) in zip(tiny_model.named_parameters(), model.named_parameters(), strict=True):
        assert name == other and torch.equal(one, two)
    assert tokenizer.chat_template == tiny_tokenizer.chat_template and tokenizer.special == tiny_tokenizer.special
    assert tokenizer.eos_id == tiny_tokenizer.eos_id


def test_shards(tiny_model: Llama, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "saved"
    checkpoint.save(tiny_model, tiny_tokenizer, folder, shard_bytes=30_000)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 3 and not (folder / "model.safetensors").exists()
    assert max(path.stat().st_size for path in shards) < 52_000  # a tensor larger than a shard (50,688 bytes) has its own
    model, _ = checkpoint.load(folder, torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = list(range(3, 90))
    expected = our_logits(tiny_model, ids)
    assert torch.equal(our_logits(model, ids), expected)
    assert (their_logits(theirs, ids) - expected).abs().max() <= 1e-4 * expected.abs().max()


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(("scaling", "tied", "kv_heads"), [(None, True, 6), (LLAMA3, False, 2), (LINEAR, False, 1)])
def test_their_files(scaling: dict[str, Any] | None, tied: bool, kv_heads: int, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A network that `transformers` made and saved (version 5 writes `rope_parameters`) computes the same in ours."""
    from transformers import LlamaConfig as HFConfig
    from transformers import LlamaForCausalLM

    torch.manual_seed(1)
    rope = (scaling or {"rope_type": "default"}) | {"rope_theta": 500.0}
    theirs = LlamaForCausalLM(HFConfig(
        vocab_size=264, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=kv_heads, head_dim=10, max_position_embeddings=256, rms_norm_eps=1e-6, rope_parameters=rope,
        tie_word_embeddings=tied, initializer_range=0.3, eos_token_id=[257, 258], bos_token_id=None, pad_token_id=None)).eval()
    theirs.save_pretrained(tmp_path)
    tiny_tokenizer.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["rope_parameters"]["rope_theta"] == 500.0
    ours, _ = checkpoint.load(tmp_path, torch.float32)
    assert ours.config.rope_theta == 500.0 and ours.config.rope_scaling == scaling
    assert ours.config.eos_token_ids == (257, 258) and ours.config.tie_word_embeddings is tied
    ids = torch.randint(264, (200,)).tolist()  # far beyond the original 32 positions
    expected = their_logits(theirs, ids)
    assert (our_logits(ours, ids) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("scaling", [LLAMA3, LINEAR])
def test_scaled_rope_in_our_files(scaling: dict[str, Any], tiny_model: Llama, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = Llama(replace(tiny_model.config, rope_scaling=scaling, rope_theta=500.0)).init_weights(2, std=0.3).eval()
    checkpoint.save(model, tiny_tokenizer, tmp_path / "saved")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    ids = torch.randint(264, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    expected = our_logits(model, ids)
    assert (their_logits(theirs, ids) - expected).abs().max() <= 1e-4 * expected.abs().max()
    plain = Llama(tiny_model.config)
    plain.load_state_dict(model.state_dict())
    assert (our_logits(plain, ids) - expected).abs().max() > 1e-2 * expected.abs().max()  # scaling does matter here
