"""The report of runs: what it shows, what it escapes, and how it takes a folder that is no run."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny import byte_tokenizer

from ownship import cli
from ownship.envs.env import Task
from ownship.learn.rollout import Rollout
from ownship.recipes.chart import Curve, chart, log_suits, short

EVIL = '</p><script>alert("1")</script>&amp;'


class Whole(HTMLParser):
    """Checks that what is opened is closed, and gathers texts and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def write(folder: Path, metrics: Sequence[dict[str, Any]], rollouts: Sequence[dict[str, Any]] = (), **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"recipe": "rl", **config}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": at + 1, **line}) + "\n" for at, line in enumerate(metrics)))
    if rollouts:
        (folder / "rollouts.jsonl").write_text(json.dumps({"step": 1, "rollouts": rollouts}) + "\n")
    return folder


def said(text: str, reward: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"seed": 1, "messages": [{"role": "user", "content": f"Q{EVIL}"}, {"role": "assistant", "content": text}],
            "answer": EVIL, "reward": reward, "finish": "stop", **more}


def page(*arguments: object, out: Path) -> Whole:
    assert cli.main(["report", *map(str, arguments), "-o", str(out)]) == 0
    text = out.read_text()
    assert "http" not in text and "@import" not in text and "url(" not in text
    whole = Whole(text)
    assert whole.addresses == [] and not {"script", "link", "img", "iframe"} & set(whole.tags)
    return whole


def test_one_run(tmp_path: Path) -> None:
    ill = "75% of the groups are flat: most of the sampling teaches nothing"
    steps = [{"solve_rate": 0.1 * at, "loss": -0.1, "entropy": 1.0, "clipped": 0.0, "news": at, "rates": {"4": 0.5, "10": 0.1},
              "doctor": [ill] if at in (2, 3) else []} for at in range(6)]
    run = write(tmp_path / "run", steps, [said(EVIL), said("right", 1.0)], algorithm="grpo", optim={"lr": EVIL})
    (run / "timings.jsonl").write_text('{"step": 1, "sample": 3.0, "tokens": 5}\n')
    whole = page(run, out=tmp_path / "deep" / "report.html")
    text = " ".join(whole.texts)
    for expected in ("run", "grpo", "Solve rate", "Entropy", "News", "By level", "Seconds: sample", "optim.lr", "0 % → 50 %",
                     "2 steps with warnings", "… of the groups are flat", ill, "2 steps, 3 to 4", EVIL, "right"):
        assert expected in text, expected
    assert "Clipped" not in text  # 0 throughout
    assert not list(tmp_path.glob("deep/*.part*"))


def test_several_runs_show_what_differs(tmp_path: Path) -> None:
    runs = [write(tmp_path / name / "rl", [{"loss": 1.0}] * 3, kl=kl, seed=7) for name, kl in (("a", 0.0), ("b", 0.1))]
    text = " ".join(page(*runs, out=tmp_path / "report.html").texts)
    differing, same = text.split("that are the same")
    assert "a/rl" in text and "b/rl" in text
    assert " kl " in differing.split("Settings that differ")[1] and " seed " in same


def test_a_run_of_another_kind_and_one_under_way(tmp_path: Path) -> None:
    """No rollouts, one step, odd values, a line that is being written."""
    run = write(tmp_path / "sft", [{"loss": math.nan, "bits": 3, "grad_norm": math.inf, "lr": 0.0}])
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    text = " ".join(page(run, out=tmp_path / "report.html").texts)
    assert "Bits" in text and "1 step" in text and "1 steps" not in text


@pytest.mark.parametrize(("make", "word"), [
    (lambda folder: None, "not a run"),
    (lambda folder: write(folder, []), "not finished a step"),
    (lambda folder: write(folder, [{"loss": 1.0}]) / "x" and (folder / "config.json").write_text("{"), "config.json"),
    (lambda folder: write(folder, [{"loss": 1.0}]) / "x" and (folder / "metrics.jsonl").write_text("{\n"), "metrics.jsonl")])
def test_what_is_not_a_run(make: Any, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "run")
    assert cli.main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "x.html")]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not (tmp_path / "x.html").exists()


def test_too_many_runs_or_the_same_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run", [{"loss": 1.0}])
    for arguments, word in (([run] * 2, "twice"), ([run] * 9, "at most")):
        assert cli.main(["report", *map(str, arguments), "-o", str(tmp_path / "x.html")]) == 2
        assert word in capsys.readouterr().err


# Replies


def test_tokens_are_coloured_by_their_probability(tmp_path: Path) -> None:
    """A sure token, an unlikely one, one that the environment wrote, half a character twice, and the end of the turn."""
    reply = said("ab", tokens=["a", "<b>", "tool", "", "é", ""], logprobs=[0.0, -2.0, None, -1.0, -1.0, -0.0])
    run = write(tmp_path / "run", [{"loss": 1.0}], [reply])
    page(run, out=tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    shown = re.findall(r'<span class="token" style="--s:([\d.]+)" title="([\d.]+)%, log p [-\d.]+">(.*?)</span>', html)
    assert shown == [("0.00", "100.0", "a"), ("0.50", "13.5", "&lt;b&gt;"), ("0.50", "13.5", "é"), ("0.00", "100.0", "■")]
    assert '<span class="given">tool</span>' in html


def test_a_record_holds_the_tokens_after_the_prompt() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("?") + tokenizer.encode("é!") + [tokenizer.eos_id]
    rollout = Rollout(Task("t", 3, (), "1", "1"), [], ids, 1, [False, True, True, False, True], [0.0, -0.12345, -1.0, 0.0, -2.0])
    record = rollout.record(tokenizer)
    assert record["tokens"] == ["", "é", "!", ""] and record["logprobs"] == [-0.123, -1.0, None, -2.0]
    assert "tokens" not in rollout.record()


# Charts


def test_charts_are_well_formed_svg() -> None:
    many = [(step, 10.0 ** -(step % 7)) for step in range(1, 3000)]
    for log in (False, True):
        figure = ET.fromstring(chart("A & B", "<i>", [Curve("x<y", "red", many, [5, 9000]), Curve("z", "blue", [(2, 1.0)])], log))
        svg = figure.find("svg")
        assert svg is not None
        width, height = map(float, svg.attrib["viewBox"].split()[2:])
        for circle in svg.iter("circle"):
            assert 0 <= float(circle.attrib["cx"]) <= width and 0 <= float(circle.attrib["cy"]) <= height
        assert len(list(svg.iter("circle"))) <= 400 + 1
        assert sum(path.attrib["class"] == "mark" for path in svg.iter("path")) == 1  # the other is not on the axis


@pytest.mark.parametrize("values", [[0.0], [5.0], [-3.0, -3.0], [1e-9, 1e9], [0.0, 1e-12], [-1.0, 1.0], [math.nan, 1.0, math.inf]])
def test_any_values_can_be_drawn(values: list[float]) -> None:
    points = list(enumerate(values, 1))
    for log in (False, True):
        drawn = chart("t", "", [Curve("c", "red", points)], log)
        assert "nan" not in drawn.lower() and "inf" not in drawn.lower().replace("info", "")
        assert bool(drawn) == any(math.isfinite(value) and (value > 0 or not log) for value in values)
        assert not drawn or drawn.count('class="tick"') >= 2


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0.0, 12.345, 1234.0, 56789.0, 1.5e6, 2e-5, -0.5)] == [
        "0", "12.3", "1234", "56.8k", "1.5M", "2e-5", "-0.5"]
    assert short(0.4567, share=True) == "45.7 %"
    assert log_suits([1.0, 40.0]) and not log_suits([1.0, 20.0]) and not log_suits([0.0, 40.0]) and not log_suits([])
