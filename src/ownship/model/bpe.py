"""A tokenizer of one's own: byte-level BPE (arXiv:1508.07909) learnt from text, on the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from ownship.errors import UserError
from ownship.model.tokenizer import WORDS, Tokenizer

END_OF_TEXT = "<|endoftext|>"  # before and after every document of pretraining
SPECIAL = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SMALLEST = 256 + len(SPECIAL)


def train(texts: Iterable[str], vocab: int) -> Tokenizer:
    """A tokenizer of at most `vocab` tokens: the special ones, the 256 bytes and the merges that the texts give.

    Words are cut as Qwen2 does (runs of line ends and of signs stay together, which suits code) with every digit on its own.
    It ends a turn with <|im_end|> and writes conversations as ChatML. The same texts give the same file. Raises UserError if
    `vocab` is below 259, which is what bytes and special tokens take.
    """
    if vocab < SMALLEST:
        raise UserError(f"a vocabulary of {vocab} is too small: the bytes and the special tokens alone take {SMALLEST}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in WORDS["qwen2"]),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True, normalized=False) for name in SPECIAL]
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    backend.train_from_iterator((text.encode("utf-8", "replace").decode() for text in texts), trainer)
    return Tokenizer(backend, SPECIAL[2], CHATML)
