import os
import subprocess
import sys
from pathlib import Path

import pytest

from ownship.errors import UserError
from ownship.model import bpe
from ownship.model.chat import Chat
from ownship.model.tokenizer import from_folder
from ownship.recipes import tokenizer as recipe

TEXTS = ["def add(left, right):\n    return left + right\n" * 3, "Größe 2024, naïve, 日本 👍\n\n", "the the then they them other"]
STRANGE = ["", " ", "\n\n\t x", "1234567 89", "ＦＵＬＬ", "e\u0301 \u200b\ufeff", "<|im_start|>user", "\x00\x7f\x80", "don't WE'LL"]


def test_any_text_comes_back() -> None:
    tokenizer = bpe.train(TEXTS, 330)
    assert 259 < tokenizer.size <= 330
    for text in [*TEXTS, *STRANGE]:
        assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text
    assert len(tokenizer.encode("the the")) == 2  # merges were learnt
    assert len(tokenizer.encode("2024")) == 4  # a digit is a token
    assert tokenizer.special == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert not {0, 1, 2} & set(tokenizer.encode("<|endoftext|><|im_start|>x<|im_end|>"))


def test_chat() -> None:
    chat = Chat(bpe.train(TEXTS, 300))
    ids, mask = chat.render([{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Ho"}])
    assert chat.tokenizer.decode([id for id, own in zip(ids, mask, strict=True) if own], skip_special=False) == "Ho<|im_end|>"
    assert ids.count(chat.tokenizer.eos_id) == 2  # what a person wrote does not end a turn


def test_too_small_a_vocabulary() -> None:
    assert bpe.train(["abc"], 259).size == 259
    with pytest.raises(UserError, match="259"):
        bpe.train(TEXTS, 258)


def test_the_same_text_gives_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also in other processes, with other hash seeds and numbers of threads."""
    (tmp_path / "data").mkdir()
    for number in range(20):
        (tmp_path / "data" / f"{number}.txt").write_text("".join(f"{word}{number} {word[::-1]}\n" for word in TEXTS[0].split()))
    command = [sys.executable, "-m", "ownship", "tokenizer", str(tmp_path / "data"), "--vocab", "400", "--out"]
    files = []
    for threads in ("1", "4"):
        out = tmp_path / threads
        ended = subprocess.run([*command, str(out)], capture_output=True, text=True,
                               env={**os.environ, "RAYON_NUM_THREADS": threads})
        assert ended.returncode == 0, ended.stderr
        assert "20 documents" in ended.stdout and str(out) in ended.stdout
        files.append((out / "tokenizer.json").read_bytes())
    recipe.run(recipe.TrainTokenizer((tmp_path / "data",), 400, tmp_path / "here"))
    files.append((tmp_path / "here" / "tokenizer.json").read_bytes())
    assert files[0] == files[1] == files[2]
    assert from_folder(tmp_path / "here").size <= 400


def test_mistakes(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n")
    out = tmp_path / "out"
    for data, vocab, where, word in ((tmp_path / "none", 300, out, "no such file"), (tmp_path, 100, out, "259"),
                                     (tmp_path, 300, out, "1 empty"), (tmp_path, 300, tmp_path, "not a tokenizer")):
        with pytest.raises(UserError, match=word):
            recipe.run(recipe.TrainTokenizer((data,), vocab, where))
    assert not out.exists()
