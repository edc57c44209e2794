"""The command line: what it prints, what it exits with, and how it takes a mistake."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ownship import cli
from ownship.engine.engine import Engine
from ownship.engine.request import Event
from ownship.learn.interrupt import Interrupted
from ownship.model import checkpoint, gguf, zoo
from ownship.model.llama import Llama, LlamaConfig
from ownship.model.tokenizer import from_gguf

VERBS = ("demo", "tokenizer", "pretrain", "sft", "dpo", "rl", "eval", "chat", "serve", "merge", "models", "envs", "watch",
         "report", "plan", "keys", "usage")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `ownship` in this process. An exception that would be a traceback fails the test."""
    monkeypatch.setattr("ownship.machine.prepare", lambda: None)  # not for the test process

    def call(*arguments: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # how tyro ends: for --help and for flags it does not know
            code = ended.code if isinstance(ended.code, int) else 1
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as a folder."""
    source = zoo.resolve(zoo.DEFAULT)
    sizes = LlamaConfig(vocab_size=49152, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                        num_key_value_heads=1, head_dim=8, max_position_embeddings=256)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.save(Llama(sizes).init_weights(0, std=0.3), from_gguf(gguf.GGUF(source).meta, source), folder)
    return folder


def mistake(ran: Ran, *words: str) -> None:
    """One line that says what was wrong, and exit code 2."""
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("ownship: ") and ran.err.count("\n") == 1, ran.err
    for word in words:
        assert word in ran.err


# Help


def test_help_needs_no_torch() -> None:
    """Every help page, in a fresh process: whatever is heavy must not have been imported by then."""
    script = f"""
import contextlib, io, json, sys
from ownship import cli
pages = {{}}
for verb in {("", *VERBS)!r}:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            cli.main([verb, "--help"] if verb else ["--help"])
        except SystemExit as end:
            pages[verb] = [end.code, text.getvalue()]
heavy = [name for name in ("torch", "numpy", "fastapi", "jinja2", "tokenizers", "huggingface_hub", "matplotlib",
                            "sqlalchemy")
         if name in sys.modules]
print(json.dumps([pages, heavy]))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pages, heavy = json.loads(ended.stdout)
    assert heavy == []
    assert set(pages) == {"", *VERBS}
    for verb, (code, text) in pages.items():
        assert code == 0
        assert 5 < len(text.splitlines()) < 90
        assert f"usage: ownship {verb}".strip() in text
    for verb in VERBS:
        assert verb in pages[""][1]
    assert "MODEL" in pages["chat"][1]  # not a nameless STR


def test_as_a_module() -> None:
    ended = subprocess.run([sys.executable, "-m", "ownship", "--help"], capture_output=True, text=True)
    assert ended.returncode == 0
    assert "usage: ownship" in ended.stdout
    ended = subprocess.run([sys.executable, "-m", "ownship", "eval", "x", "--n", "0"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "ownship: --n must be at least 1, not 0\n"


# Lists


def test_models(run: Run) -> None:
    ran = run("models")
    assert ran.code == 0 and ran.err == ""
    assert all(name in ran.out for name in zoo.ZOO)
    assert str(zoo.local(zoo.DEFAULT)) in ran.out


def test_models_that_are_not_here(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OWNSHIP_CACHE", str(tmp_path))
    assert "not fetched yet" in run("models").out
    assert list(tmp_path.iterdir()) == []  # to list is not to fetch


def test_envs(run: Run) -> None:
    ran = run("envs")
    assert ran.code == 0 and ran.err == ""
    assert "sort" in ran.out and "gym/" in ran.out


# Mistakes


@pytest.mark.parametrize(("arguments", "word"), [
    ([], "Missing subcommand"), (["nope"], "nope"), (["chat", "--nope"], "--nope"), (["serve", "--port", "x"], "--port"),
    (["eval"], "Required"), (["chat", "--temperature"], "--temperature"), (["models", "more"], "more"),
    (["eval", "x", "--precision", "int3"], "int3")])
def test_wrong_flags(run: Run, arguments: list[str], word: str) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert word in ran.err and "--help" in ran.err
    assert ran.out == ""


def test_an_interrupted_evaluation_promises_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps no answers: the same command begins again, unlike a training's."""
    def interrupted(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr("ownship.engine.engine.serving", lambda *_: None)
    monkeypatch.setattr("ownship.evals.accuracy.accuracy", interrupted)
    ran = run("eval", zoo.DEFAULT)
    assert (ran.code, ran.err) == (130, "ownship: interrupted\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["models"]])
def test_a_reader_that_stops_is_no_error(arguments: list[str], unbuffered: str) -> None:
    """As in `ownship --help | head -1`."""
    with subprocess.Popen([sys.executable, "-m", "ownship", *arguments], env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("verb", ["chat", "serve", "eval"])
def test_missing_model(run: Run, verb: str) -> None:
    mistake(run(verb, "/no/such/model"), "/no/such/model", "no such model", zoo.DEFAULT)
    mistake(run(verb, "nosuch"), "nosuch", zoo.DEFAULT)


def test_hub_name_without_the_hub(run: Run) -> None:
    """HF_HUB_OFFLINE is set for all tests."""
    mistake(run("chat", "org/model"), "org/model", "hub")


def test_damaged_models(run: Run, saved: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    mistake(run("chat", text), "notes.txt", "GGUF")
    empty = tmp_path / "empty"
    empty.mkdir()
    mistake(run("chat", empty), "config.json")
    for name, content, word in (("config.json", b"{", "JSON"), ("model.safetensors", b"\x10\0\0\0", "damaged"),
                                ("tokenizer.json", b"[]", "tokenizer")):
        copy = tmp_path / f"broken {name}"
        copy.mkdir()
        for file in saved.iterdir():
            (copy / file.name).write_bytes(content if file.name == name else file.read_bytes())
        mistake(run("chat", copy), name, word)


@pytest.mark.parametrize(("env", "word"), [
    ("nosuch", "sort"), ("sort:low=9,high=4", "low=9"), ("sort:size=3", "size"), ("sort:low", "low"), ("sort:low=x", "low"),
    ("gym/nosuch", "nosuch"), ("", "sort")])
def test_bad_env(run: Run, saved: Path, env: str, word: str) -> None:
    mistake(run("eval", saved, "--env", env), word)


def test_bad_settings(run: Run, saved: Path, tmp_path: Path) -> None:
    mistake(run("eval", saved, "--n", "0"), "--n")
    mistake(run("eval", saved, "--max-tokens", "0"), "max_tokens")
    mistake(run("chat", saved, "--temperature", "-1"), "temperature")
    for flags in (["sft", "--batch", "0"], ["sft", "--save-every", "0"], ["sft", "--steps", "-1"], ["rl", "--tasks", "0"],
                  ["rl", "--group", "0"], ["rl", "--save-every", "0"], ["rl", "--max-tokens", "0"], ["rl", "--kl", "-1"]):
        mistake(run(*flags, "--model", saved, "--env", "sums", "--out", tmp_path / "run"), flags[1], "at least")
    assert not (tmp_path / "run").exists()
    mistake(run("sft", "--out", tmp_path / "run"), "--env", "--data")
    mistake(run("sft", "--data", tmp_path / "none.jsonl", "--out", tmp_path / "run"), "none.jsonl")


def test_a_place_that_cannot_be_written(run: Run, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = run("eval", saved, "--n", "1", "--max-tokens", "1", "--out", tmp_path / "file" / "result.json")
    assert ran.code == 2
    assert "Traceback" not in ran.err and str(tmp_path / "file") in ran.err


# Eval


def test_eval(run: Run, saved: Path, tmp_path: Path) -> None:
    ran = run("eval", saved, "--n", "3", "--max-tokens", "4", "--out", tmp_path / "a" / "result.json")
    assert ran.code == 0
    assert ran.out.startswith("sort: 0.0% of 3 held-out tasks (95 % interval 0.0% to ")
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert (result["model"], result["env"], result["right"], result["total"]) == (str(saved), "sort", 0, 3)
    assert len((tmp_path / "a" / "result.rollouts.jsonl").read_text().splitlines()) == 3


# Chat


def test_chat_from_a_pipe(saved: Path) -> None:
    ended = subprocess.run([sys.executable, "-m", "ownship", "chat", str(saved), "--max-tokens", "5"], input="Hello!\n",
                           capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip()


def test_chat(run: Run, saved: Path) -> None:
    def said(text: str, *options: str) -> str:
        ran = run("chat", saved, "--temperature", "0", "--max-tokens", "6", *options, stdin=text.encode())
        assert (ran.code, ran.err) == (0, "")
        return ran.out

    hello = said("Hello!\n")
    assert hello.strip()
    assert said("Hello!") == hello  # without a line end
    assert said("\n  \nHello!\n\n") == hello  # empty lines are nothing
    assert said("Hello!\n/new\nHello!\n") == hello * 2
    assert said("Hello!\nHello!\n") != hello * 2  # the second reply follows the first
    assert said("Hello!\nHello!\n").startswith(hello)
    assert said("Hello!\n/exit\nHello!\n") == hello
    assert said("Hello!\n /quit \nHello!\n") == hello
    assert said("") == ""
    assert said("Hello!\n", "--system", "Be brief.") != hello
    assert said("Hello!\n/new\nHello!\n", "--system", "Be brief.") == said("Hello!\n", "--system", "Be brief.") * 2


def test_chat_takes_any_bytes(run: Run, saved: Path) -> None:
    ran = run("chat", saved, "--max-tokens", "3", stdin=b"\xff\xfe \xe2\x82 caf\xc3\xa9 \x00\n")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.strip()


def test_chat_that_grows_too_long(run: Run, saved: Path) -> None:
    """A reply gets the room there is; a line that leaves none is refused, and the conversation goes on without it."""
    ran = run("chat", saved, "--max-tokens", "100000", "--temperature", "0", stdin=b"Hello!\n")
    assert (ran.code, ran.err) == (0, "") and ran.out.strip()
    ran = run("chat", saved, "--max-tokens", "5", "--temperature", "0", stdin=b"word " * 300 + b"\nHello!\n")
    assert ran.code == 0
    assert ran.err.count("\n") == 1 and "256" in ran.err and "/new" in ran.err
    assert ran.out == run("chat", saved, "--max-tokens", "5", "--temperature", "0", stdin=b"Hello!\n").out


def test_interrupted_reply(run: Run, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the reply, and the conversation goes on; between replies it ends the program."""
    calls, step = [], Engine.step

    def interrupted(self: Engine) -> list[Event]:
        calls.append(len(self._scheduler.running))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupted)
    ran = run("chat", saved, "--max-tokens", "4", stdin=b"Hello!\nAgain!\n")
    assert (ran.code, ran.err) == (0, " [cut]")
    assert calls == [0, 1, 1, 0, 1, 1, 1]  # three steps of the first reply, all four of the second
    monkeypatch.setattr("builtins.input", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    ran = run("chat", saved)
    assert (ran.code, ran.err) == (130, "ownship: interrupted\n")
