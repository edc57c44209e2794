"""Preference files, the reference's cache, and a whole DPO run on a tiny network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import byte_tokenizer, tiny_model

from ownship import cli
from ownship.errors import UserError
from ownship.learn import lines, pairs
from ownship.learn.chats import Example
from ownship.learn.evaluate import evaluate
from ownship.learn.interrupt import Interrupted
from ownship.learn.learner import Learner, Optim
from ownship.learn.lines import BadLine, Problems
from ownship.learn.pairs import Pair, Reference
from ownship.learn.preference import Preference
from ownship.model import checkpoint, zoo
from ownship.model.chat import Chat
from ownship.recipes import dpo
from ownship.recipes.settings import LoraSettings, OptimSettings

ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
GOOD, BAD = {"role": "assistant", "content": "Hello!"}, {"role": "assistant", "content": "Go."}


def parse(value: dict[str, Any]) -> Pair:
    return pairs.pair(value, Chat(byte_tokenizer()), 256)


def text(part: Example, begin: int = 0) -> str:
    return byte_tokenizer().decode(list(part.tokens)[begin:], skip_special=False)


@pytest.mark.parametrize("value", [
    {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    {"prompt": ASKED, "chosen": "Hello!", "rejected": "Go."},
    {"prompt": ASKED, "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
    {"messages": ASKED, "chosen": "Hello!", "rejected": "Go."},
    {"messages": ASKED, "chosen": [GOOD], "rejected": [BAD]},
    {"chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
    {"prompt": "Hi", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]}])
def test_every_form_of_a_conversation_is_the_same_pair(value: dict[str, Any]) -> None:
    found = parse(value)
    chat = Chat(byte_tokenizer())
    context = chat.prompt(ASKED)  # type: ignore[arg-type]
    assert list(found.chosen.tokens[: found.prompt]) == list(found.rejected.tokens[: found.prompt]) == context
    assert (text(found.chosen, found.prompt), text(found.rejected, found.prompt)) == ("Hello!<|im_end|>", "Go.<|im_end|>")
    for part in (found.chosen, found.rejected):
        assert part.mask == bytes(len(context)) + b"\1" * (len(part.tokens) - len(context))


def test_a_prompt_as_text_before_messages_is_the_users() -> None:
    assert parse({"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]}) == parse(
        {"prompt": ASKED[1:], "chosen": [GOOD], "rejected": [BAD]})


@pytest.mark.parametrize("value", [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    {"chosen": "The sky is blue.", "rejected": "The sky is green."}])
def test_plain_text_goes_on_without_a_template(value: dict[str, Any]) -> None:
    found = parse(value)
    assert text(found.chosen)[: found.prompt] == "The sky is"
    assert (text(found.chosen, found.prompt), text(found.rejected, found.prompt)) == (" blue.<|im_end|>", " green.<|im_end|>")


def test_replies_of_several_turns_are_learnt_but_for_what_the_user_says() -> None:
    more = [{"role": "user", "content": "And?"}, GOOD]
    found = parse({"prompt": ASKED, "chosen": [GOOD, *more], "rejected": [BAD]})
    learnt = [id for id, target in zip(found.chosen.tokens, found.chosen.mask, strict=True) if target]
    assert byte_tokenizer().decode(learnt, skip_special=False) == "Hello!<|im_end|>" * 2
    history = parse({"prompt": [*ASKED, GOOD, *more[:1]], "chosen": [GOOD], "rejected": [BAD]})
    assert sum(history.chosen.mask) == len("Hello!") + 1  # the assistant's turn in the prompt is context


@pytest.mark.parametrize(("value", "reason"), [
    ({"prompt": ASKED, "chosen": [GOOD]}, 'no "rejected"'),
    ({"prompt": ASKED, "chosen": "", "rejected": "x"}, 'no "chosen"'),
    ({"prompt": ASKED, "chosen": [GOOD], "rejected": [GOOD]}, "the same"),
    ({"prompt": ASKED, "chosen": "Hello!", "rejected": [GOOD]}, "the same"),
    ({"prompt": "", "chosen": "x", "rejected": "y"}, "prompt is empty"),
    ({"chosen": "x", "rejected": "y"}, "prompt is empty"),
    ({"chosen": [GOOD], "rejected": [BAD]}, "prompt is empty"),
    ({"prompt": [], "chosen": [GOOD], "rejected": [BAD]}, "no messages"),
    ({"prompt": 3, "chosen": "x", "rejected": "y"}, "prompt is not text"),
    ({"prompt": "Ho", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]}, "in common"),
    ({"prompt": ASKED, "chosen": [ASKED[1]], "rejected": [BAD]}, "no assistant turn"),
    ({"prompt": ASKED, "chosen": 3, "rejected": [BAD]}, "not a list"),
    ({"prompt": ASKED, "chosen": "x" * 300, "rejected": "y"}, "too long"),
    ({"prompt": "x" * 300, "chosen": "x", "rejected": "y"}, "too long"),
    ({"prompt": [{"role": "alien", "content": "x"}], "chosen": "x", "rejected": "y"}, "unknown role 'alien'")])
def test_bad_pairs_are_named(value: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadLine, match=reason):
        parse(value)
    path = tmp_path / "pairs.jsonl"
    good = {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]}
    path.write_text("\n".join(json.dumps(item) for item in (good, value, good)) + "\n")
    problems = Problems()
    assert len(lines.read(path, parse, problems, pairs.WANTED)) == 2
    assert problems.total == 1 and f"{path}, line 2: " in problems.first[0]
    with pytest.raises(UserError, match="line 2"):
        lines.read(path, parse, Problems(strict=True), pairs.WANTED)


def some_pairs(count: int = 12) -> list[Pair]:
    return [parse({"prompt": [{"role": "user", "content": f"{number}?"}], "chosen": "Yes.", "rejected": "No!"[: 2 + number % 2]})
            for number in range(count)]


def test_the_reference_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, (model, _) = some_pairs(), tiny_model()
    path = tmp_path / "reference.safetensors"
    assert Reference(path, "key", found).fill([3, 1, 3], model) == 2
    again = Reference(path, "key", found)
    assert again.fill([1, 3], model) == 0
    assert again.fill(range(5), model) == 3  # what is new is added
    whole = Reference(tmp_path / "other.safetensors", "key", found)
    assert whole.fill(range(len(found)), model) == 12
    assert torch.equal(again.logprobs[:5], whole.logprobs[:5])  # to the last bit, whatever was computed beside it
    assert again.logprobs[5:].isnan().all()
    assert Reference(path, "another key", found).fill([1], model) == 1  # other data or other weights
    path.write_bytes(b"damaged")
    assert Reference(path, "key", found).fill([1], model) == 1


def test_an_interrupted_reference_is_kept(tmp_path: Path) -> None:
    found, (model, _) = some_pairs(), tiny_model()
    ticks: list[int] = []

    def tick(tokens: int) -> None:
        ticks.append(tokens)
        if len(ticks) == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        Reference(tmp_path / "r", "key", found).fill(range(12), model, tick)
    assert Reference(tmp_path / "r", "key", found).fill(range(12), model) == 8


def test_other_pairs_have_another_fingerprint() -> None:
    found = some_pairs(3)
    moved = Pair(found[0].prompt - 1, found[0].chosen, found[0].rejected)
    swapped = Pair(found[0].prompt, found[0].rejected, found[0].chosen)
    prints = [pairs.fingerprint(items) for items in (found, found[:2], found[::-1], [moved, *found[1:]], [swapped, *found[1:]])]
    assert len(set(prints)) == 5
    assert prints[0] == pairs.fingerprint(some_pairs(3))


@pytest.mark.parametrize("loss", [Preference(), Preference("dpo", 0.5, 0.1), Preference("ipo", 0.5)], ids=str)
def test_measuring_is_what_learning_reports(loss: Preference, tmp_path: Path) -> None:
    found, (model, _) = some_pairs(), tiny_model()
    reference = Reference(tmp_path / "r", "key", found)
    reference.fill(range(12), tiny_model(seed=3)[0])
    samples = [sample for place, item in enumerate(found) for sample in item.samples(place, reference.logprobs[place].tolist())]
    measured = evaluate(model, samples, loss, micro_tokens=60)
    learned = Learner(model, Optim(lr=0.0), micro_tokens=200).update(samples, loss)
    assert measured == pytest.approx({name: learned[name] for name in measured}, rel=1e-5)
    assert set(measured) == {"loss", "margin", "accuracy", "chosen_reward", "rejected_reward", "chosen_logprob", "rejected_logprob"}
    assert measured["margin"] == pytest.approx(measured["chosen_reward"] - measured["rejected_reward"], rel=1e-4)


def test_a_policy_starts_out_equal_to_its_reference(tmp_path: Path) -> None:
    """Also in bf16 and on a network of 30 layers, where the rounding of another kernel shows."""
    model, tokenizer = checkpoint.load(zoo.resolve(zoo.DEFAULT), torch.bfloat16)
    found = [pairs.pair({"prompt": [{"role": "user", "content": f"Tell me about {topic}."}], "chosen": f"Yes: {topic} are old.",
                         "rejected": "No."}, Chat(tokenizer), 2048) for topic in ("ships", "maps and charts", "sails")]
    reference = Reference(tmp_path / "r", "key", found)
    reference.fill(range(3), model)
    samples = [sample for place, item in enumerate(found) for sample in item.samples(place, reference.logprobs[place].tolist())]
    measured = [Learner(model, Optim(lr=0.0), micro_tokens=200).update(samples, Preference("dpo", 1.0)),
                evaluate(model, samples, Preference("dpo", 1.0), micro_tokens=200)]
    for values in measured:
        assert values["chosen_reward"] == pytest.approx(0, abs=1e-2)
        assert values["rejected_reward"] == pytest.approx(0, abs=1e-2)


@pytest.fixture
def school(tmp_path: Path) -> Path:
    """A raw tiny model and a file of pairs that can be told apart: even answers are preferred. One line is bad."""
    checkpoint.save(*tiny_model(), tmp_path / "raw")
    with open(tmp_path / "pairs.jsonl", "w") as file:
        for number in range(40):
            asked, even = [{"role": "user", "content": f"{number}?"}], number % 5 * 2
            file.write(json.dumps({"prompt": asked, "chosen": f"even {even}", "rejected": f"odd {even + 1}"}) + "\n")
            file.write("{\n" if number == 7 else "")
    return tmp_path


@pytest.mark.parametrize("kind", ["dpo", "ipo"])
def test_dpo_tells_pairs_apart(kind: Any, school: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
                               ) -> None:
    config = dpo.DPO(data=school / "pairs.jsonl", model=str(school / "raw"), out=school / "run", steps=20, batch=8, held_out=0.2,
                     loss=kind, optim=OptimSettings(lr=3e-3, warmup=3), dtype="float32")
    dpo.run(config)
    assert "skipped 1 of 41 lines:" in capsys.readouterr().err
    metrics = [json.loads(line) for line in (school / "run" / "metrics.jsonl").read_text().splitlines()]
    # Before the first update the policy is its reference.
    assert metrics[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert metrics[0]["loss"] == pytest.approx(0.693147 if kind == "dpo" else 25.0, rel=1e-3)
    assert metrics[-1]["accuracy"] == pytest.approx(1.0)
    assert metrics[-1]["margin"] > 0.5 and metrics[-1]["loss"] < metrics[0]["loss"] * 0.8
    assert metrics[-1]["chosen_reward"] > metrics[-1]["rejected_reward"]
    assert [line["step"] for line in metrics if "held_out_accuracy" in line] == [1, 10, 20]
    assert metrics[-1]["held_out_accuracy"] == pytest.approx(1.0)
    assert (school / "run" / "model" / "model.safetensors").is_file()

    def computed(*_: object) -> None:
        raise AssertionError("the reference is known already")

    monkeypatch.setattr(pairs, "scored", computed)
    dpo.run(config)  # all is done
    (school / "run" / "metrics.jsonl").unlink()
    for path in sorted((school / "run" / "checkpoints").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    dpo.run(config)  # from the start again
    again = [json.loads(line) for line in (school / "run" / "metrics.jsonl").read_text().splitlines()]
    assert again == metrics


def test_adapters_learn_preferences_too(school: Path) -> None:
    """With LoRA the reference is the network under the adapters, which add nothing at first."""
    config = dpo.DPO(data=school / "pairs.jsonl", model=str(school / "raw"), out=school / "run", steps=12, batch=8,
                     optim=OptimSettings(lr=3e-2, warmup=3), lora=LoraSettings(rank=4), dtype="float32")
    dpo.run(config)
    metrics = [json.loads(line) for line in (school / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert metrics[-1]["accuracy"] == pytest.approx(1.0) and metrics[-1]["margin"] > 0.5
    assert (school / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_mistakes_are_one_line(school: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ownship.machine.prepare", lambda: None)
    data = ["dpo", "--data", str(school / "pairs.jsonl"), "--model", str(school / "raw"), "--out", str(school / "run")]
    for flags, word in ((["--strict"], "pairs.jsonl, line 9: not JSON"), (["--beta", "0"], "--beta"), (["--batch", "0"], "--batch"),
                        (["--label-smoothing", "0.5"], "--label-smoothing"), (["--held-out", "1"], "--held-out"),
                        (["--loss", "ipo", "--label-smoothing", "0.1"], "ipo"), (["--model", "none"], "none: no such model"),
                        (["--data", str(school / "none.jsonl")], "no such file")):
        assert cli.main([*data, *flags]) == 2
        said = capsys.readouterr()
        assert said.out == "" and word in said.err and said.err.splitlines()[-1].startswith("ownship: ")
        assert "Traceback" not in said.err
    assert not (school / "run").exists()


def test_tools_in_a_pair() -> None:
    """Both replies are read after the same description of the tools; a call is a reply like any other."""
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    asked = [{"role": "user", "content": "Oslo?"}]
    calls = [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]
    value = {"tools": tools, "prompt": asked, "chosen": [{"role": "assistant", "content": None, "tool_calls": calls}],
             "rejected": "How should I know?"}
    tokenizer = byte_tokenizer()
    found = pairs.pair(value, Chat(tokenizer), 2000)
    shown = tokenizer.decode([*found.chosen.tokens[: found.prompt]], skip_special=False)
    assert json.dumps(tools[0]) in shown and shown.endswith("Oslo?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode([*found.chosen.tokens[found.prompt :]], skip_special=False) == (
        '<tool_call>{"name":"weather","arguments":{"city":"Oslo"}}</tool_call><|im_end|>')
    assert sum(found.chosen.mask) == len(found.chosen.tokens) - found.prompt
    with pytest.raises(BadLine, match="tools are for conversations"):
        pairs.pair({"tools": tools, "prompt": "a", "chosen": "b", "rejected": "c"}, Chat(tokenizer), 2000)
