"""A folder of text as training data: read as a stream, cleaned, never all in memory.

A document is a record's "text" (JSON lines, Parquet) or a stretch of at most about 64 KiB of any other file, cut at a line's end.
Skipped, and counted by reason: what is empty, binary, not UTF-8, has a huge line, was there before, or cannot be read.
"""

from __future__ import annotations

import codecs
import heapq
import json
import os
import random
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypedDict

from ownship.errors import UserError

_STRETCH = 64 << 10  # bytes of a plain file that are one document: far more than a context, and a fair length to hold out
_LONGEST_LINE = 100_000  # characters; longer ones are data that somebody wrote into a text file
_LONGEST_RECORD = 64 << 20  # bytes of a line of JSON: a line is read at once
_HELD_OUT = 256 << 10  # bytes of held-out documents, but at most …
_HELD_OUT_SHARE = 0.1  # … of the corpus
_NOT_ENTERED = {"__pycache__", "site-packages", "dist-packages", "node_modules"}


Encode = Callable[[str], list[int]]


class Skipped(str):
    """Why a file or a document is left out."""


class Place(TypedDict):
    """Where a Reader stands, as JSON."""

    draws: int  # pieces handed out
    epoch: int
    document: int  # the next one to be opened
    open: list[list[int]]  # epoch, number and first token not yet predicted of every open document


@dataclass
class _Open:
    epoch: int
    number: int
    at: int
    tokens: list[int]


@dataclass(frozen=True)
class Scan:
    """What one pass over a corpus found. `digest` changes when any document changes."""

    documents: int
    size: int  # bytes of UTF-8
    digest: str
    held_out: list[str]
    threshold: bytes  # documents whose hash is not above it are held out
    skipped: dict[str, int] = field(default_factory=dict)  # reason → how many

    def report(self) -> str:
        """One line for people."""
        size = sum(len(_bytes(text)) for text in self.held_out)
        return (f"{self.documents:,} documents, {self.size:,} bytes; {len(self.held_out):,} of them ({size:,} bytes) held out;"
                f" skipped: {listed(self.skipped)}")


def listed(skipped: Mapping[str, int]) -> str:
    """How many were skipped and why, for people."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items())) or "none"


class Corpus:
    """The documents of files and folders (folders with everything below them, but for hidden and installed things).

    `suffix` takes only files whose names end so. Raises UserError if a path does not exist or holds no file.
    """

    def __init__(self, paths: Sequence[Path], suffix: str = "") -> None:
        self.files: list[Path] = []
        for path in paths:
            if not path.exists():
                raise UserError(f"{path}: no such file or folder")
            self.files += [path] if path.is_file() else (file for file in _walk(path) if file.name.endswith(suffix))
        if not self.files:
            raise UserError(f"{', '.join(map(str, paths))}: holds no file")

    def documents(self, seed: str | None = None, skipped: Counter[str] | None = None) -> Iterator[tuple[str, bytes]]:
        """Every document once and its hash; files in the order of their names, or shuffled by a seed."""
        files = list(self.files)
        if seed is not None:
            random.Random(seed).shuffle(files)
        seen: set[bytes] = set()
        for file in files:
            for text in _texts(file):
                mark = blake2b(_bytes(text), digest_size=12).digest()
                reason = text if isinstance(text, Skipped) else "duplicated" if mark in seen else _unfit(text)
                if reason is None:
                    seen.add(mark)
                    yield text, mark
                elif skipped is not None:
                    skipped[reason] += 1

    def scan(self) -> Scan:
        """One pass: counts, and the held-out documents. Those have the smallest hashes, so that they are a fair sample, the
        same whatever the order, and known when met again; there is always one. Raises UserError if nothing is left to train on."""
        count = size = 0
        whole, skipped = blake2b(digest_size=12), Counter[str]()
        lowest: list[tuple[int, str]] = []  # a heap with the largest hash first
        held = 0
        for text, mark in self.documents(skipped=skipped):
            length = len(_bytes(text))
            count, size = count + 1, size + length
            whole.update(mark)
            heapq.heappush(lowest, (-int.from_bytes(mark), text))
            held += length
            while held - len(_bytes(lowest[0][1])) >= _HELD_OUT:
                held -= len(_bytes(heapq.heappop(lowest)[1]))
        while len(lowest) > 1 and held > _HELD_OUT_SHARE * size:
            held -= len(_bytes(heapq.heappop(lowest)[1]))
        if count < 2:
            raise UserError(f"the data holds {count} usable document(s), and two are needed: one is held out"
                            f" (skipped: {listed(skipped)})")
        texts = [text for _, text in sorted(lowest, reverse=True)]
        return Scan(count, size, whole.hexdigest(), texts, (-lowest[0][0]).to_bytes(12), dict(skipped))


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NOT_ENTERED)
        yield from (Path(where, name) for name in sorted(files) if not name.startswith("."))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON can carry half a surrogate pair


def _unfit(text: str) -> str | None:
    if not text.strip():
        return "empty"
    if "\0" in text:
        return "binary"
    if len(text) > _LONGEST_LINE and max(map(len, text.splitlines())) > _LONGEST_LINE:
        return "with a huge line"
    return None


def _texts(file: Path) -> Iterator[str | Skipped]:
    """The documents of a file as they are, or why there is none."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe: nobody may ever write to it
            yield Skipped("unreadable")
        elif file.suffix == ".parquet":
            yield from _parquet(file)
        elif file.suffix in (".jsonl", ".ndjson"):
            yield from _json_lines(file)
        else:
            yield from _plain(file)
    except OSError:
        yield Skipped("unreadable")


def _plain(file: Path) -> Iterator[str | Skipped]:
    with open(file, "rb") as stream:
        head = stream.read(_LONGEST_LINE)
        text = head.removeprefix(codecs.BOM_UTF8)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            yield Skipped("not UTF-8")
        elif not text or b"\0" in text:
            yield Skipped("binary" if text else "empty")
        elif len(head) == _LONGEST_LINE and b"\n" not in head:  # not to be read: a line can be as long as the file
            yield Skipped("with a huge line")
        else:
            stream.seek(len(head) - len(text))
            yield from _stretches(stream)


def _stretches(stream: BinaryIO) -> Iterator[str | Skipped]:
    stretch, most = bytearray(), 4 * _LONGEST_LINE  # bytes: more are too many characters
    huge = False
    for line in _lines(stream, most):
        stretch += line
        huge = huge or len(line) > most
        if len(stretch) > _STRETCH:
            yield Skipped("with a huge line") if huge else _decoded(stretch)
            stretch, huge = bytearray(), False
    if stretch:
        yield _decoded(stretch)


def _decoded(text: bytearray) -> str | Skipped:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return Skipped("not UTF-8")


def _lines(stream: BinaryIO, most: int) -> Iterator[bytes]:
    """Lines with their ends; of one that is longer than `most` bytes only `most` + 1, so that it need not be in memory."""
    while line := stream.readline(most + 1):
        yield line
        while len(line) > most and not line.endswith(b"\n"):
            line = stream.readline(most + 1) or b"\n"


def _json_lines(file: Path) -> Iterator[str | Skipped]:
    with open(file, "rb") as stream:
        for line in _lines(stream, _LONGEST_RECORD):
            if not line.strip():
                continue
            if len(line) > _LONGEST_RECORD:
                yield Skipped("with a huge line")
                continue
            try:
                text = json.loads(line.decode())["text"]
            except UnicodeDecodeError:
                yield Skipped("not UTF-8")
            except (ValueError, KeyError, TypeError, RecursionError):
                yield Skipped('without a "text"')
            else:
                yield text if isinstance(text, str) else Skipped('without a "text"')


def _parquet(file: Path) -> Iterator[str | Skipped]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{file}: reading Parquet needs pyarrow: pip install 'ownship[data]'") from None
    try:
        with parquet.ParquetFile(file) as table:
            if "text" not in table.schema_arrow.names:
                yield Skipped('without a "text"')
                return
            for batch in table.iter_batches(batch_size=256, columns=["text"]):
                yield from (text if isinstance(text, str) else Skipped('without a "text"') for text in batch[0].to_pylist())
    except pyarrow.ArrowException:
        yield Skipped("unreadable")


class Reader:
    """The documents of a corpus for training, in pieces: epoch after epoch, without end and without what is held out.

    The next piece comes from one of `open` documents, drawn at random, so that neither a long document nor a folder of like ones
    fills an update. `encode` makes a document's tokens and must open it with a token that is not predicted; pieces of a document
    overlap by one token, so that every other token is predicted once per epoch. `place` is where it stands, as JSON: a Reader
    made with it goes on with the very next piece.
    """

    def __init__(self, corpus: Corpus, scan: Scan, encode: Encode, context: int, seed: int, place: Place | None = None,
                 open: int = 64) -> None:
        self._corpus, self._scan, self._encode, self._context, self._seed = corpus, scan, encode, context, seed
        start = place or {"draws": 0, "epoch": 0, "document": 0, "open": []}
        self.draws = start["draws"]
        wanted = {(epoch, number): (slot, at) for slot, (epoch, number, at) in enumerate(start["open"])}
        first = min((epoch for epoch, _ in wanted), default=start["epoch"])
        texts = self._texts(first)
        found: dict[int, _Open] = {}
        # Documents that were open are read again; what lies before the place is passed over, not tokenised.
        for epoch, number, text in texts:
            if (epoch, number) in wanted:
                slot, at = wanted[epoch, number]
                found[slot] = _Open(epoch, number, at, encode(text))
            if (epoch, number) >= (start["epoch"], start["document"]):
                texts = chain([(epoch, number, text)], texts)
                break
        self._next = texts
        self._open = [found[slot] for slot in range(len(found))]
        self._ahead = (start["epoch"], start["document"])
        self._most = open

    @property
    def place(self) -> Place:
        return {"draws": self.draws, "epoch": self._ahead[0], "document": self._ahead[1],
                "open": [[item.epoch, item.number, item.at] for item in self._open]}

    def take(self, count: int) -> list[list[int]]:
        """Pieces of at most `context` tokens with `count` predictions in all; a document cut by the end goes on next time."""
        pieces = []
        while count > 0:
            while len(self._open) < self._most:
                self._open.append(self._read())
            chosen = random.Random(f"{self._seed} {self.draws}").randrange(len(self._open))
            self.draws += 1
            document = self._open[chosen]
            size = min(self._context - 1, len(document.tokens) - 1 - document.at, count)
            pieces.append(document.tokens[document.at : document.at + size + 1])
            document.at += size
            count -= size
            if document.at == len(document.tokens) - 1:
                self._open[chosen] = self._read()
        return pieces

    def _texts(self, epoch: int) -> Iterator[tuple[int, int, str]]:
        while True:
            number = 0
            for text, mark in self._corpus.documents(f"{self._seed} {epoch}"):
                if mark > self._scan.threshold:
                    yield epoch, number, text
                    number += 1
            if not number:
                raise UserError("the data has changed since the run began: no document is left")
            epoch += 1

    def _read(self) -> _Open:
        epoch, number, text = next(self._next)
        self._ahead = (epoch, number + 1)
        return _Open(epoch, number, 0, self._encode(text))
