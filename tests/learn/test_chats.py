"""Chat files: what is read, what is refused and how that is said; the held-out share; a run over such a file."""

import json
from array import array
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tiny import byte_tokenizer, tiny_model

from ownship import cli
from ownship.errors import UserError
from ownship.learn import chats, lines
from ownship.learn.chats import Example, conversation
from ownship.learn.lines import Problems
from ownship.model import checkpoint
from ownship.model.chat import Chat
from ownship.recipes import sft
from ownship.recipes.settings import OptimSettings

HELLO = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}


def read(path: Path, strict: bool = False, longest: int = 256) -> tuple[list[Example], Problems]:
    problems, chat = Problems(strict), Chat(byte_tokenizer())
    return lines.read(path, lambda value: chats.example(value, chat, longest), problems, chats.WANTED), problems


def spoken(value: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation(value)[0]]


def learnt(found: Example) -> str:
    return byte_tokenizer().decode([id for id, target in zip(found.tokens, found.mask, strict=True) if target], skip_special=False)


def test_both_shapes_are_the_same_conversation() -> None:
    expected = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho"), ("user", "How?"), ("assistant", "So.")]
    openai = {"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"},
                           {"role": "assistant", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "o"}]},
                           {"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]}
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}, {"from": "user", "value": "How?"},
             {"from": "assistant", "value": "So."}]
    assert spoken(openai) == expected
    assert spoken({"conversations": [{"from": "system", "value": "Be kind."}, *turns]}) == expected
    assert spoken({"conversations": turns, "system": "Be kind."}) == expected


def test_the_assistants_turns_and_stop_tokens_are_learnt() -> None:
    chat = Chat(byte_tokenizer())
    value = {"messages": [*HELLO["messages"], {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"},
                          {"role": "user", "content": "Thanks"}]}
    found = chats.example(value, chat, 256)
    assert learnt(found) == "Ho<|im_end|>!<|im_end|>"
    assert found.tokens[-1] == byte_tokenizer().eos_id  # what follows would be computed for nothing
    value["messages"][1] = {**value["messages"][1], "weight": 0}
    assert learnt(chats.example(value, chat, 256)) == "!<|im_end|>"
    sample = found.sample()
    assert (list(sample.tokens), [bool(weight) for weight in sample.weights]) == (list(found.tokens), [bool(m) for m in found.mask])


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}}]
ASKED = [{"role": "user", "content": "Oslo?"},
         {"role": "assistant", "content": None, "tool_calls": [
             {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{ "city": "Oslo" }'}}]},
         {"role": "tool", "tool_call_id": "1", "content": "cold"}, {"role": "assistant", "content": "Cold."}]


def test_calls_are_learnt_and_results_only_read() -> None:
    """With a template that knows nothing of tools; in tests/parity/test_tools.py with one that does."""
    found = chats.example({"tools": TOOLS, "messages": ASKED}, Chat(byte_tokenizer()), 2000)
    call = '<tool_call>{"name":"weather","arguments":{"city":"Oslo"}}</tool_call>'
    assert learnt(found) == f"{call}<|im_end|>Cold.<|im_end|>"
    whole = byte_tokenizer().decode([*found.tokens], skip_special=False)
    assert whole.startswith("<|im_start|>system\n# Tools") and json.dumps(TOOLS[0]) in whole
    assert "<|im_start|>user\n<tool_response>\ncold\n</tool_response><|im_end|>\n" in whole
    weightless = [{**ASKED[1], "weight": 0} if message is ASKED[1] else message for message in ASKED]
    assert learnt(chats.example({"tools": TOOLS, "messages": weightless}, Chat(byte_tokenizer()), 2000)) == "Cold.<|im_end|>"


def test_calls_in_sharegpt() -> None:
    """Data sets in this shape write calls and results in their tags."""
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    turns = [{"from": "human", "value": "Oslo?"}, {"from": "gpt", "value": call},
             {"from": "tool", "value": "<tool_response>\ncold\n</tool_response>\n<tool_response>\nwet\n</tool_response>\n"},
             {"from": "gpt", "value": "Cold."}]
    found = chats.example({"tools": TOOLS, "conversations": turns}, Chat(byte_tokenizer()), 2000)
    assert learnt(found) == f"{call}<|im_end|>Cold.<|im_end|>"
    whole = byte_tokenizer().decode([*found.tokens], skip_special=False)
    assert "user\n<tool_response>\ncold\n</tool_response>\n<tool_response>\nwet\n</tool_response><|im_end|>" in whole


BAD = {
    b'{"messages": ': "not JSON",
    b"": "empty",
    b"   \t": "empty",
    b'["a"]': "not an object but a list",
    b'{"text": "x"}': 'neither "messages" nor "conversations"',
    b'{"messages": []}': "no messages",
    b'{"messages": {"role": "user"}}': "not a list",
    b'{"messages": ["x"]}': "message 1 is not an object",
    b'{"messages": [{"role": "user", "content": "x"}]}': "no assistant turn",
    b'{"messages": [{"role": "narrator", "content": "x"}, {"role": "assistant", "content": "y"}]}': "unknown role 'narrator'",
    b'{"messages": [{"content": "x"}, {"role": "assistant", "content": "y"}]}': "unknown role None",
    b'{"conversations": [{"from": "alien", "value": "x"}, {"from": "gpt", "value": "y"}]}': "unknown role 'alien'",
    b'{"messages": [{"role": ["user"], "content": "x"}, {"role": "assistant", "content": "y"}]}': "unknown role",
    b'{"messages": [{"role": "assistant", "content": ""}]}': "is empty",
    b'{"messages": [{"role": "assistant", "content": null}]}': "message 1 has no content",
    b'{"messages": [{"role": "assistant", "content": 3}]}': "not text but int",
    b'{"conversations": [{"from": "gpt"}]}': "not text but NoneType",
    b'{"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]}': "not text but 'image_url'",
    b'{"messages": [{"role": "assistant", "content": "a \\ud83d b"}]}': "surrogate",
    b'{"messages": [{"role": "assistant", "content": "\xff"}]}': "not UTF-8 (byte 49)",
    b'{"messages": [{"role": "assistant", "content": "x", "weight": 2}]}': "weight",
    b'{"messages": [{"role": "assistant", "content": "x", "weight": 0}]}': "nothing to learn",
    b'{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]}': "message 1: call 1 is not",
    b'{"messages": [{"role": "assistant", "tool_calls": "f"}]}': "message 1: call 1 is not",
    b'{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}': "no JSON object",
    b'{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}]}': "no JSON object",
    b'{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": ' + b"[" * 80 + b"]" * 80
    + b"}}}]}]}": "no JSON object",
    b'{"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}': "calls tools and is not the assistant's",
    b'{"tools": [{"type": "function"}], "messages": [{"role": "assistant", "content": "x"}]}': "tool 1 is not",
    b'{"tools": "[]", "messages": [{"role": "assistant", "content": "x"}]}': "the tools are not a list but a str",
    b'{"functions": [{"name": "f"}], "messages": [{"role": "assistant", "content": "x"}]}': "OpenAI's former shape",
    b"[" * 100_000: "nested too deeply",
    b'{"messages": ' + b"1" * 5000 + b"}": "too many digits",
    json.dumps({"messages": [{"role": "assistant", "content": "x" * 300}]}).encode(): "too long",
    b'{"messages": [{"role": "assistant", "content": "' + b"x" * lines.MAX_LINE + b'"}]}': "longer than 16 MB",
}


@pytest.mark.parametrize("bad", BAD, ids=list(BAD.values()))
def test_a_bad_line_is_named_and_left_out(bad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    good = json.dumps(HELLO).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n" + bad + b"\n" + good)
    found, problems = read(path)
    assert len(found) == 2
    assert (problems.lines, problems.total) == (3, 1)
    assert f"{path}, line 2: " in problems.first[0] and BAD[bad] in problems.first[0]
    assert len(problems.text()) < 400  # what a person wrote is not repeated at length
    with pytest.raises(UserError, match="line 2: "):
        read(path, strict=True)


def test_whole_emoji_and_odd_line_ends_are_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    said = "\U0001f600 \\ud83d two\u2028lines"
    value = {"messages": [{"role": "assistant", "content": said}]}
    path.write_text(json.dumps(value) + "\n" + json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
    found, problems = read(path)
    assert problems.total == 0 and problems.text() == ""
    assert [learnt(item) for item in found] == [said + "<|im_end|>"] * 2


def test_the_report_shows_the_first_twenty_and_the_total(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.jsonl").write_text(json.dumps(HELLO) + "\n" + "{\n" * 15)
    (tmp_path / "b" / "c.jsonl").write_text("{\n" * 15)
    (tmp_path / "notes.txt").write_text("{\n")
    found, problems = read(tmp_path)
    assert len(found) == 1
    shown = problems.text().splitlines()
    assert shown[0] == "skipped 30 of 31 lines:"
    assert shown[1].startswith(f"  {tmp_path / 'a.jsonl'}, line 2: not JSON")
    assert shown[16].startswith(f"  {tmp_path / 'b' / 'c.jsonl'}, line 1: ")
    assert shown[21:] == ["  and 10 more"]


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        lines.files(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"no \.jsonl file"):
        lines.files(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(UserError, match=r"none of 1 lines.*expected; the first of them: .*line 1: neither"):
        read(tmp_path)


def test_held_out_examples_are_never_trained_on() -> None:
    training, apart = lines.split(100, 0.05, seed=1)
    assert len(apart) == 5 and sorted(training + apart) == list(range(100))
    assert lines.split(100, 0.05, seed=1) == (training, apart) != lines.split(100, 0.05, seed=2)
    assert lines.split(3, 0.0, seed=1) == ([0, 1, 2], [])
    assert len(lines.split(3, 0.01, seed=1)[1]) == 1
    drawn = list(islice(lines.shuffled(training, 1), 190))
    assert sorted(drawn[:95]) == sorted(drawn[95:]) == training  # each epoch is everything once
    assert drawn[:95] != drawn[95:]
    for share in (1.0, -0.1):
        with pytest.raises(UserError, match="--held-out"):
            lines.split(10, share, 0)
    with pytest.raises(UserError, match="leaves none"):
        lines.split(1, 0.5, 0)


def test_the_digest_tells_examples_apart() -> None:
    one, two = Example(array("i", [1, 2]), b"\0\1"), Example(array("i", [1]), b"\0")
    assert len({chats.digest(items) for items in ([one], [two], [one, two], [two, one], [])}) == 5


@pytest.fixture
def school(tmp_path: Path) -> Path:
    """A raw tiny model and a file of chats, some of them bad."""
    checkpoint.save(*tiny_model(), tmp_path / "raw")
    with open(tmp_path / "chats.jsonl", "w") as file:
        for number in range(40):
            question = {"role": "user", "content": f"After {number % 9}?"}
            file.write(json.dumps({"messages": [question, {"role": "assistant", "content": str(number % 9 + 1)}]}) + "\n")
            file.write("{\n" if number == 7 else "")
    return tmp_path


def test_sft_on_a_file(school: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = sft.SFT(model=str(school / "raw"), data=school / "chats.jsonl", out=school / "run", steps=30, batch=16, held_out=0.1,
                     optim=OptimSettings(lr=1e-2, warmup=3), dtype="float32", measure_every=10)
    sft.run(config)
    said = capsys.readouterr().err
    assert "skipped 1 of 41 lines:" in said and "chats.jsonl, line 9: not JSON" in said
    metrics = [json.loads(line) for line in (school / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "held_out_loss" in line] == [1, 10, 20, 30]
    assert metrics[-1]["held_out_loss"] < metrics[0]["held_out_loss"] / 2
    assert metrics[-1]["loss"] < metrics[0]["loss"] / 2
    (school / "chats.jsonl").write_text(json.dumps(HELLO) + "\n" + json.dumps(HELLO) + "\n")
    with pytest.raises(UserError, match=r"has changed since the run"):
        sft.run(config)


def test_strict_ends_with_code_2(school: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ownship.machine.prepare", lambda: None)
    command = ["sft", "--model", str(school / "raw"), "--data", str(school / "chats.jsonl"),
               "--out", str(school / "run"), "--strict"]
    assert cli.main(command) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "chats.jsonl, line 9: not JSON" in said.err
    assert not (school / "run").exists()  # mend the file and give the same command again
    assert cli.main(["sft", "--env", "sums", "--held-out", "0.1"]) == 2
    assert "--held-out needs --data" in capsys.readouterr().err
