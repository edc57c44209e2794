"""The evaluation harnesses that people use: lm-eval over HTTP against lm-eval with `transformers` in its own process, on the same
weights, item by item; and inspect-ai."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, Server, serving, venv

from ownship.model import checkpoint, zoo

TASKS = ("choice", "words", "rolling", "questions")
TOLERANCE = 1e-3  # nats of an item, in float32
Samples = dict[tuple[str, int], list[list[Any]]]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model as a folder that both read."""
    venv("lm-eval")
    folder = tmp_path_factory.mktemp("weights") / "model"
    checkpoint.save(*checkpoint.load(zoo.resolve(zoo.DEFAULT), torch.float32), folder)
    return folder


@pytest.fixture(scope="session")
def exact(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("exact"), str(weights), "--precision", "float32", "--name", "own") as one:
        yield one


def clean(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return kept | QUIET | {"HF_HOME": str(folder / "hf"), "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none",
                           "TOKENIZERS_PARALLELISM": "false"}


def evaluated(folder: Path, model: str, arguments: str, *more: str, tasks: tuple[str, ...] = TASKS) -> Samples:
    """(task, document) → what the model answered for it."""
    (folder / "tasks").mkdir(exist_ok=True)
    for file in (Path(__file__).parent / "tasks").iterdir():
        (folder / "tasks" / file.name).write_text(file.read_text().replace("FOLDER", "tasks"))
    out = folder / model
    names = ",".join(f"ownship_{task}" for task in tasks)
    done = subprocess.run(
        [venv("lm-eval"), "-m", "lm_eval", "run", "--model", model, "--model_args", arguments, "--tasks", names, "--include_path",
         "tasks", "--output_path", str(out), "--log_samples", *more],
        cwd=folder, capture_output=True, text=True, timeout=1500, env=clean(folder))
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    found: Samples = {}
    for task in tasks:
        (file,) = out.rglob(f"samples_ownship_{task}_*.jsonl")
        for line in file.read_text().splitlines():
            sample = json.loads(line)
            found[task, sample["doc_id"]] = [one if isinstance(one, list) else [one] for one in sample["resps"]]
    return found


def flat(answers: list[Any]) -> list[str]:
    """Log-likelihoods and greedy flags, however deeply a task nests them."""
    return [leaf for one in answers for leaf in (flat(one) if isinstance(one, list) else [str(one)])]


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def test_local_completions_equals_the_model_in_process(exact: Server, weights: Path, tmp_path: Path) -> None:
    """torch's float32 log-softmax over 49,152 entries is 1.3e-5 too large a token, 1.9e-3 over the longest document; with that in
    float64 the rest of their float32 is as near to the truth as ours (the test below)."""
    theirs = evaluated(tmp_path, "hf", f"pretrained={weights},dtype=float32,softmax_dtype=float64",
                       "--device", "cpu", "--batch_size", "1")
    ours = evaluated(tmp_path, "local-completions", f"model=own,base_url={exact.url}/v1/completions,tokenizer_backend=huggingface,"
                     f"tokenizer={weights},max_retries=1", "--batch_size", "8")
    assert theirs.keys() == ours.keys() and {task for task, _ in ours} == set(TASKS)
    for item, answers in theirs.items():
        for their, our in zip(flat(answers), flat(ours[item]), strict=True):
            value = None if item[0] == "questions" else number(their)
            if value is None:
                assert our == their, item  # greedy flags, and greedy replies
            else:
                assert float(our) == pytest.approx(value, abs=TOLERANCE), item


def test_local_completions_is_near_the_model_in_float64(exact: Server, weights: Path, tmp_path: Path) -> None:
    tasks = ("choice", "words", "rolling")
    truth = evaluated(tmp_path, "hf", f"pretrained={weights},dtype=float64", "--device", "cpu", "--batch_size", "1", tasks=tasks)
    ours = evaluated(tmp_path, "local-completions", f"model=own,base_url={exact.url}/v1/completions,tokenizer_backend=huggingface,"
                     f"tokenizer={weights},max_retries=1", "--batch_size", "8", tasks=tasks)
    assert truth.keys() == ours.keys()
    worst = 0.0
    for item, answers in truth.items():
        for true, our in zip(flat(answers), flat(ours[item]), strict=True):
            if (value := number(true)) is None:
                assert our == true, item
            else:
                worst = max(worst, abs(float(our) - value))
    assert worst <= TOLERANCE / 5, worst


def test_the_tokenizer_of_the_server(exact: Server, tmp_path: Path) -> None:
    arguments = f"model=own,base_url={exact.url}/v1/completions,max_retries=1"
    remote = evaluated(tmp_path, "local-completions", f"{arguments},tokenizer_backend=remote,num_concurrent=4", tasks=("words",))
    assert len(remote) == len((Path(__file__).parent / "tasks" / "words.jsonl").read_text().splitlines())


def test_local_chat_completions(exact: Server, tmp_path: Path) -> None:
    found = evaluated(tmp_path, "local-chat-completions", f"model=own,base_url={exact.url}/v1/chat/completions,max_retries=1",
                      "--apply_chat_template", tasks=("questions",))
    assert len(found) == 4 and all(flat(answers)[0] for answers in found.values())


INSPECT = """
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

task = Task(dataset=[Sample(input="What is the capital of France?", target="Paris"), Sample(input="Say ship.", target="ship")],
            solver=generate(), scorer=includes(), config=GenerateConfig(temperature=0, max_tokens=16, seed=1))
(log,) = eval(task, model="openai-api/own/MODEL", model_base_url="URL/v1", display="none", log_dir="logs")
assert log.status == "success", log.error
assert all(sample.output.completion and sample.output.usage.output_tokens <= 16 for sample in log.samples)
print(log.results.scores[0].metrics["accuracy"].value)
"""


def test_inspect(server: Server, tmp_path: Path) -> None:
    python = venv("clients")
    (tmp_path / "task.py").write_text(INSPECT.replace("URL", server.url).replace("MODEL", zoo.DEFAULT))
    done = subprocess.run([python, "task.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600,
                          env=clean(tmp_path) | {"OWN_API_KEY": "none"})
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    assert 0 <= float(done.stdout.split()[-1]) <= 1
