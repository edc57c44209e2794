import codecs
import io
import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ownship.errors import UserError
from ownship.learn import corpus as module
from ownship.learn.corpus import Corpus, Reader, Scan
from ownship.recipes import pretrain
from ownship.recipes.pretrain import Pretrain

WORDS = ["the", "ship", "sailed", "on", "through", "the", "night", "and", "the", "stars", "turned", "slowly", "above", "her",
         "masts"]


def story(number: int, words: int = 40) -> str:
    return " ".join(WORDS[(number * 7 + index * (number + 1)) % len(WORDS)] for index in range(words)) + f" {number}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve good documents among every kind of bad ones."""
    root = tmp_path / "data"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "__pycache__").mkdir()
    for number in range(4):
        (root / "deep" / f"{number}.txt").write_text(story(number))
    (root / "deep" / "er" / "umlauts.md").write_text("Größe, naïve, 日本の首都は東京です 👍\n")
    (root / ".git" / "hidden").write_text("not to be seen")
    (root / "__pycache__" / "x.txt").write_text("not to be seen either")
    (root / "empty.txt").write_text("")
    (root / "blank.txt").write_text(" \n\t\n")
    (root / "picture.png").write_bytes(b"\x89PNG\r\n\0\0\0" + bytes(range(256)))
    (root / "late.bin").write_bytes(b"".join(b"text at first %d\n" % n for n in range(7_000)) + b"\0\0\n")
    (root / "latin.txt").write_bytes("Grüße aus Köln\n".encode("latin-1"))
    (root / "utf16.txt").write_bytes("Hello\n".encode("utf-16"))
    (root / "marked.txt").write_bytes(codecs.BOM_UTF8 + story(1).encode())  # a copy, but for the mark
    (root / "mark.txt").write_bytes(codecs.BOM_UTF8)
    os.mkfifo(root / "pipe.txt")
    (root / "huge.txt").write_text("x" * 300_000)
    (root / "huge_later.txt").write_text("short\n" + "y" * 200_000 + "\n")
    (root / "copy.txt").write_text(story(1))
    (root / "gone.txt").symlink_to(root / "nowhere")
    lines = [json.dumps({"text": story(number)}) for number in range(10, 14)]
    (root / "records.jsonl").write_text("\n".join([*lines, "", "{broken", json.dumps({"content": "x"}), json.dumps([1]),
                                                   json.dumps({"text": 3}), json.dumps({"text": ""}), lines[0]]) + "\n")
    parquet.write_table(pyarrow.table({"text": [story(20), None, story(21), story(2)], "n": [1, 2, 3, 4]}), root / "table.parquet")
    parquet.write_table(pyarrow.table({"body": ["x"]}), root / "other.parquet")
    (root / "damaged.parquet").write_bytes(b"PAR1 no")
    return root


def test_what_is_read_and_what_is_skipped(folder: Path) -> None:
    skipped = Counter[str]()
    texts = [text for text, _ in Corpus([folder]).documents(skipped=skipped)]
    late = [text for text in texts if text.startswith("text at first")]
    assert len(late) == 2  # of a file that turns out binary at its end, what came before is text
    assert sorted(set(texts) - set(late)) == sorted([*map(story, (0, 1, 2, 3, 10, 11, 12, 13, 20, 21)),
                                                     "Größe, naïve, 日本の首都は東京です 👍\n"])
    assert skipped == {"empty": 4, "binary": 2, "not UTF-8": 2, "with a huge line": 2, "duplicated": 4, 'without a "text"': 6,
                       "unreadable": 3}


def test_a_long_file_is_several_documents(tmp_path: Path) -> None:
    lines = [f"line {number}\n" for number in range(40_000)]
    (tmp_path / "book.txt").write_text("".join(lines))
    texts = [text for text, _ in Corpus([tmp_path / "book.txt"]).documents()]
    assert "".join(texts) == "".join(lines)
    assert len(texts) > 5 and all(len(text) < 70_000 and text.endswith("\n") for text in texts)


def test_scan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HELD_OUT", 500)
    corpus = Corpus([folder])
    scan = corpus.scan()
    texts = dict(corpus.documents())
    assert scan.documents == len(texts) == 13
    assert scan.size == sum(len(text.encode()) for text in texts)
    held_out = [text for text, mark in texts.items() if mark <= scan.threshold]
    assert sorted(held_out) == sorted(scan.held_out)
    assert 1 <= len(held_out) < 13
    assert scan == corpus.scan()  # the same each time
    (folder / "deep" / "1.txt").write_text("Changed.")
    assert corpus.scan().digest != scan.digest
    for word in ("13 documents", "4 duplicated", "2 with a huge line", "2 not UTF-8"):
        assert word in scan.report()


def test_a_training_on_it_says_what_it_skipped(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = pretrain.run(Pretrain(depth=1, data=folder, out=tmp_path / "run", steps=3, width=32, heads=2, vocab=300, context=64,
                                  batch=512, dtype="float32"))
    assert ("skipped: 2 binary, 4 duplicated, 4 empty, 2 not UTF-8, 3 unreadable, 2 with a huge line, 6 without a \"text\"\n"
            in capsys.readouterr().out)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 3 and metrics[-1]["loss"] < metrics[0]["loss"] and (model / "model.safetensors").is_file()


def test_lines_that_would_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB in one line after a short one: in a text, in JSON lines, and at the end of a file that has no line end."""
    monkeypatch.setattr(module, "_LONGEST_RECORD", 1 << 20)
    huge = 64 << 20
    for name, before, after in (("a.txt", b"short\n", b"\nafter\n"), ("b.txt", b"short\n", b""),
                                ("c.jsonl", b'{"text": "one"}\n', b'\n{"text": "two"}\n'), ("d.jsonl", b"", b"")):
        with open(tmp_path / name, "wb") as file:
            file.write(before)
            for _ in range(huge >> 20):
                file.write(b"x" * (1 << 20))
            file.write(after)
    skipped = Counter[str]()
    tracemalloc.start()
    texts = [text for text, _ in Corpus([tmp_path]).documents(skipped=skipped)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == ["after\n", "one", "two"] and skipped == {"with a huge line": 4}
    assert peak < huge / 4


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 12, 21, 22, 23, 40])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nnext\n"])
def test_lines_are_cut_where_they_are_too_long(size: int, end: bytes) -> None:
    whole = b"first\n" + b"x" * size + end
    expected = [line if len(line) <= 10 else line[:11] for line in whole.splitlines(keepends=True)]
    assert list(module._lines(io.BytesIO(whole), 10)) == expected


@pytest.mark.parametrize("files", [{}, {"a.txt": ""}, {"a.txt": "one document alone"}])
def test_too_little_data(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"no file|two are needed"):
        Corpus([tmp_path]).scan()
    with pytest.raises(UserError, match="no such file"):
        Corpus([tmp_path / "none"])


def test_parquet_without_pyarrow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"table.parquet.*ownship\[data\]|other.parquet.*ownship\[data\]|damaged.*ownship\[data\]"):
        list(Corpus([folder]).documents())


def encode(text: str) -> list[int]:
    return [256, *text.encode(), 256]


@pytest.fixture
def stories(tmp_path: Path) -> tuple[Corpus, Scan]:
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(story(number, words=5 + 11 * (number % 7)))
    corpus = Corpus([tmp_path])
    return corpus, corpus.scan()


def test_an_epoch_predicts_every_token_once(stories: tuple[Corpus, Scan]) -> None:
    corpus, scan = stories
    training = [text for text, mark in corpus.documents() if mark > scan.threshold]
    total = sum(len(text.encode()) + 1 for text in training)
    # With one open document an epoch ends where the next begins; pieces come in order and can be put together again.
    reader = Reader(corpus, scan, encode, 32, seed=0, open=1)
    stream: list[list[int]] = []
    for count in (100, 1, 77, total - 178):
        pieces = reader.take(count)
        assert sum(len(piece) - 1 for piece in pieces) == count
        assert max(map(len, pieces)) <= 32
        stream += pieces
    found, tokens = [], []
    for piece in stream:
        tokens += piece[1:] if tokens else piece
        if piece[-1] == 256:
            found.append(bytes(tokens[1:-1]).decode())
            tokens = []
    assert sorted(found) == sorted(training)
    assert found != training  # shuffled
    assert not set(found) & set(scan.held_out)
    assert reader.place["epoch"] in (0, 1)


def test_pieces_come_from_many_documents(stories: tuple[Corpus, Scan]) -> None:
    reader = Reader(*stories, encode, 16, seed=0, open=8)
    pieces = reader.take(600)
    assert sum(piece[0] == 256 for piece in pieces[:12]) >= 5


@pytest.mark.parametrize("taken", [1, 50, 333, 4000, 9999])
def test_a_reader_goes_on_from_its_place(stories: tuple[Corpus, Scan], taken: int) -> None:
    whole = Reader(*stories, encode, 24, seed=5, open=4)
    whole.take(taken)
    place = json.loads(json.dumps(whole.place))
    again = Reader(*stories, encode, 24, seed=5, place=place, open=4)
    assert again.place == place
    for count in (7, 1000, 6000):
        assert again.take(count) == whole.take(count)
        assert again.place == whole.place
    assert Reader(*stories, encode, 24, seed=6, open=4).take(500) != Reader(*stories, encode, 24, seed=5, open=4).take(500)
