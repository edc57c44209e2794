"""A tokenizer learnt from one's own text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ownship.errors import UserError


@dataclass(frozen=True)
class TrainTokenizer:
    """Learn a byte-level BPE tokenizer from text."""

    data: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA…")]
    """Files and folders of text, JSON lines or Parquet (both with a "text" field)."""
    vocab: int = 16384
    """Tokens, the special ones included."""
    out: Path = Path("runs/tokenizer")
    """The folder that it is written to."""


def run(config: TrainTokenizer) -> Path:
    """Learns the tokenizer, writes it whole, says what was read, and returns its folder. Raises UserError for unfit data."""
    from collections import Counter

    from ownship.learn.corpus import Corpus, listed
    from ownship.model import bpe
    from ownship.model.checkpoint import whole_folder

    if config.vocab < bpe.SMALLEST:
        raise UserError(f"--vocab must be at least {bpe.SMALLEST} (the bytes and the special tokens), not {config.vocab}")
    own = (config.out / "tokenizer.json").is_file()
    if not own and config.out.exists() and (config.out.is_file() or any(config.out.iterdir())):
        raise UserError(f"{config.out}: not empty and not a tokenizer; choose another --out")
    skipped, read = Counter[str](), Counter[str]()

    def texts() -> Iterator[str]:
        for text, _ in Corpus(config.data).documents(skipped=skipped):
            read.update(documents=1, characters=len(text))
            yield text

    tokenizer = bpe.train(texts(), config.vocab)
    if not read:
        raise UserError(f"{', '.join(map(str, config.data))}: holds no usable text (skipped: {listed(skipped)})")
    with whole_folder(config.out) as part:
        tokenizer.save(part)
    print(f"{read['documents']:,} documents, {read['characters']:,} characters; skipped: {listed(skipped)}\n"
          f"{tokenizer.size:,} tokens" + (f": the text has no more than that, {config.vocab:,} were asked for"
                                          if tokenizer.size < config.vocab else ""))
    return config.out
