"""Adapters on disk: what is wrong with one is said in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from ownship import cli
from ownship.errors import UserError
from ownship.model import checkpoint, peft
from ownship.model.lora import Lora

KEY = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    checkpoint.save(*tiny_model(), tmp_path / "base")
    lora = Lora(tiny_model()[0], 4, 8.0)
    with torch.no_grad():
        for tensor in lora.tensors().values():
            tensor.normal_(std=0.1)
    peft.save(lora, tmp_path / "adapter", str(tmp_path / "base"))
    return tmp_path / "adapter"


def configure(folder: Path, **values: Any) -> None:
    path = folder / peft.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / peft.WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / peft.WEIGHTS)


@pytest.mark.parametrize(("field", "value", "words"), [
    ("peft_type", "IA3", "peft_type 'IA3'"), ("r", 5, "says rank 5"), ("r", "4", "r must be"), ("r", True, "r must be"),
    ("r", 0, "r must be"), ("lora_alpha", -1, "lora_alpha must be"), ("use_dora", True, "use_dora True"),
    ("bias", "all", "bias 'all'"),
    ("rank_pattern", {"q_proj": 2}, "rank_pattern"), ("alpha_pattern", {"q_proj": 2}, "alpha_pattern"),
    ("modules_to_save", ["lm_head"], "modules_to_save"), ("fan_in_fan_out", True, "fan_in_fan_out"),
    ("something_of_next_year", 3, "something_of_next_year"), ("init_lora_weights", "pissa", "changes the base model"),
    ("init_lora_weights", [], "changes the base model"), ("target_modules", ["q_proj", "w1"], "nothing for 'w1'"),
    ("base_model_name_or_path", None, "names no base model"), ("base_model_name_or_path", 7, "must be text"),
    ("base_model_name_or_path", "nowhere", "ownship merge")])
def test_settings_that_are_refused(adapter: Path, field: str, value: Any, words: str) -> None:
    configure(adapter, **{field: value})
    with pytest.raises(UserError) as error:
        checkpoint.load(adapter)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("edit", "words"), [
    (lambda t: t.pop(KEY), "only lora_B"),
    (lambda t: t.update({KEY: t[KEY][:3].contiguous()}), "[3, 64] and [128, 4]"),
    (lambda t: t.update({KEY: t[KEY][:, :60].contiguous()}), "of shape [128, 60]; the base model's has [128, 64]"),
    (lambda t: t.update({KEY: t[KEY][0].contiguous()}), "[64]"),
    (lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(1)}), "lora_embedding_A"),
    (lambda t: t.update({"base_model.model.lm_head.base_layer.weight": torch.zeros(258, 64)}), "another head"),
    (lambda t: [t.update({k.replace("layers.1", "layers.9"): t.pop(k)}) for k in list(t) if "layers.1" in k], "layers.9"),
    (lambda t: t.clear(), "holds no adapter")])
def test_weights_that_are_refused(adapter: Path, edit: Callable[[dict[str, torch.Tensor]], Any], words: str) -> None:
    change(adapter, edit)
    with pytest.raises(UserError) as error:
        checkpoint.load(adapter)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_damaged_files_are_named(adapter: Path) -> None:
    weights = adapter / peft.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError, match="damaged or cut short"):
        checkpoint.load(adapter)
    weights.unlink()
    with pytest.raises(UserError, match="no such weights file"):
        checkpoint.load(adapter)
    (adapter / peft.CONFIG).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        checkpoint.load(adapter)
    configure_path = adapter / peft.CONFIG
    configure_path.write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    with pytest.raises(UserError, match="no such weights file"):
        checkpoint.load(adapter)


def test_an_adapter_that_names_itself(adapter: Path) -> None:
    configure(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(UserError, match="names the adapter itself"):
        checkpoint.load(adapter)


def test_merge_verb(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the base given, wherever the adapter says that it is."""
    monkeypatch.setattr("ownship.machine.prepare", lambda: None)  # not for the test process
    expected, _ = checkpoint.load(adapter, torch.float32)
    configure(adapter, base_model_name_or_path="org-that-is/not-here")
    arguments = ["merge", str(adapter), "--out", str(tmp_path / "merged"), "--base", str(tmp_path / "base"),
                 "--precision", "float32"]
    assert cli.main(arguments) == 0
    found, _ = checkpoint.load(tmp_path / "merged", torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), found.parameters(), strict=True))
    assert cli.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["merge", str(tmp_path / "base"), "--out", str(tmp_path / "other")]) == 2
    assert "not an adapter" in capsys.readouterr().err
