"""A tiny network with a byte tokenizer, taught in seconds to add up two small numbers, not always rightly."""

import os
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from ownship.model import checkpoint
from ownship.model.llama import Llama, LlamaConfig
from ownship.model.tokenizer import Tokenizer
from ownship.recipes import sft
from ownship.recipes.settings import OptimSettings

TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={letter: id for id, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<|im_start|>", "<|im_end|>")])
    return Tokenizer(backend, "<|im_end|>", TEMPLATE)


def tiny_model(seed: int = 0) -> tuple[Llama, Tokenizer]:
    tokenizer = byte_tokenizer()
    sizes = LlamaConfig(vocab_size=tokenizer.size, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
                        tie_word_embeddings=True, eos_token_ids=(tokenizer.eos_id,))
    return Llama(sizes).init_weights(seed, std=0.1), tokenizer


@pytest.fixture(scope="session")
def pupil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: knows the form of an answer, and sometimes the answer."""
    folder = tmp_path_factory.mktemp("pupil")
    checkpoint.save(*tiny_model(), folder / "raw")
    sft.run(sft.SFT(model=str(folder / "raw"), env="sums:low=2,high=2,largest=3,worked=0", out=folder / "run", steps=40,
                    optim=OptimSettings(lr=1e-2, warmup=3), dtype="float32"))
    return folder / "run" / "model"


@pytest.fixture
def one_thread() -> dict[str, str]:
    """Environment of a child process whose arithmetic is the same each time."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _same_random() -> None:
    torch.manual_seed(0)
