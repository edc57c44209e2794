"""A tiny network and a tokenizer of single bytes, for tests of several rooms."""

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from ownship.engine.native.forward import library
from ownship.model.llama import Llama, LlamaConfig
from ownship.model.native import build
from ownship.model.tokenizer import Tokenizer

CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())  # the 256 characters that stand for bytes
SPECIAL = ["<|im_start|>", "<|im_end|>"]


def byte_tokenizer() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE(vocab={letter: id for id, letter in enumerate(BYTES)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return Tokenizer(backend, SPECIAL[1], CHATML)


def tiny_model(seed: int = 0) -> tuple[Llama, Tokenizer]:
    tokenizer = byte_tokenizer()
    sizes = LlamaConfig(vocab_size=tokenizer.size, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
                        tie_word_embeddings=True, eos_token_ids=(tokenizer.eos_id,))
    return Llama(sizes).init_weights(seed, std=0.1), tokenizer


def need_kernels() -> None:
    """Skips the test, with the reason, where the kernels cannot be compiled."""
    try:
        library()
    except build.Unavailable as reason:
        pytest.skip(str(reason))
