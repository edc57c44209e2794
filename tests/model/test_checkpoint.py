"""Model folders: what is wrong with one is said in one line, and a save is whole or does not happen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ownship.errors import UserError
from ownship.model import checkpoint
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer


@pytest.fixture
def folder(tiny_model: Llama, tiny_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    checkpoint.save(tiny_model, tiny_tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(tiny_model: Llama, tiny_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    checkpoint.save(tiny_model, tiny_tokenizer, tmp_path / "sharded", shard_bytes=30_000)
    return tmp_path / "sharded"


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        checkpoint.load(folder, torch.float32)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    return message


def edit(path: Path, **changes: Any) -> None:
    """Replaces fields of a JSON file; `...` removes one."""
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not ...}))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


# ---- config.json


def test_config_missing(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json: no such file" in refused(folder)


def test_config_is_a_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "config.json: cannot be read" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"{'a': 1}"], ids=range(5))
def test_config_invalid(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert "config.json: not valid JSON" in refused(folder)


@pytest.mark.parametrize("content", ["[]", "3", '"x"', "null"])
def test_config_no_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json: a JSON object is expected" in refused(folder)


@pytest.mark.parametrize("kind", ["qwen2", "gpt2", None, 3, ["llama"], ...])
def test_unsupported_model_type(folder: Path, kind: Any) -> None:
    edit(folder / "config.json", model_type=kind)
    assert "model_type" in refused(folder)


@pytest.mark.parametrize(("field", "value"), [("hidden_act", "gelu"), ("attention_bias", True), ("mlp_bias", True)])
def test_unsupported_network(folder: Path, field: str, value: Any) -> None:
    edit(folder / "config.json", **{field: value})
    assert f"{field} {value!r} is not supported" in refused(folder)


REQUIRED = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]


@pytest.mark.parametrize("field", REQUIRED)
def test_missing_field(folder: Path, field: str) -> None:
    edit(folder / "config.json", **{field: ...})
    assert f"the field '{field}' is missing" in refused(folder)


@pytest.mark.parametrize("field", [*REQUIRED, "num_key_value_heads", "head_dim", "max_position_embeddings"])
@pytest.mark.parametrize("value", ["48", 48.0, True, -1, [48], {"a": 1}, 10**12])
def test_wrong_size(folder: Path, field: str, value: Any) -> None:
    edit(folder / "config.json", **{field: value})
    assert field in refused(folder)


@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("value", [0, None, "48"])
def test_wrong_size_without_head_dim(folder: Path, field: str, value: Any) -> None:
    edit(folder / "config.json", head_dim=..., **{field: value})
    assert field in refused(folder)


@pytest.mark.parametrize(("field", "value"), [
    ("rms_norm_eps", "1e-5"), ("rms_norm_eps", -1), ("rms_norm_eps", None), ("rope_theta", "x"), ("rope_theta", -1.0),
    ("rope_theta", 10**400), ("tie_word_embeddings", "no"), ("rope_scaling", "linear"), ("rope_scaling", [1]), ("rope_parameters",
                                                                                                                7),
    ("rope_scaling", {"rope_type": "yarn", "factor": 2.0}), ("rope_scaling", {"type": ["x"]}), ("rope_scaling",
                                                                                                {"rope_type": "linear"}),
    ("rope_scaling", {"rope_type": "linear", "factor": "2"}), ("rope_scaling", {"rope_type": "linear", "factor": 0}),
    ("rope_scaling", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
    ("rope_scaling", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192}),
])
def test_wrong_field(folder: Path, field: str, value: Any) -> None:
    edit(folder / "config.json", **{field: value})
    assert field in refused(folder)


@pytest.mark.parametrize("value", ["x", 2.5, [1, "x"], {"a": 1}])
def test_wrong_stop_tokens(folder: Path, value: Any) -> None:
    edit(folder / "generation_config.json", eos_token_id=value)
    assert "eos_token_id" in refused(folder)


def test_impossible_heads(folder: Path) -> None:
    edit(folder / "config.json", num_key_value_heads=4)
    assert "num_key_value_heads" in refused(folder)
    edit(folder / "config.json", num_key_value_heads=2, head_dim=7)
    assert "head_dim" in refused(folder)


def test_generation_config_overrides_the_stop_tokens(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=[5, 6])
    assert checkpoint.load(folder)[0].config.eos_token_ids == (5, 6)
    (folder / "generation_config.json").unlink()
    edit(folder / "config.json", eos_token_id=7)
    assert checkpoint.load(folder)[0].config.eos_token_ids == (7,)


# ---- weights


def test_weights_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "model.safetensors: no such weights file" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"\x10\0\0\0\0\0\0\0not JSON at all!", b"<html>" * 100],
                         ids=range(5))
def test_weights_are_something_else(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors: damaged" in refused(folder)


def test_weights_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for size in (8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "model.safetensors: damaged or cut short" in refused(folder)


def test_missing_tensor(folder: Path) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert "'layers.1.mlp.up_proj.weight' is missing" in refused(folder)
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.pop("lm_head.weight"))
    assert "and 1 more" in refused(folder)


def test_wrong_shape(folder: Path) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.update({"model.norm.weight": torch.ones(47)}))
    message = refused(folder)
    assert "'norm.weight'" in message and "[47]" in message and "[48]" in message


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias", "score.weight", "x"])
def test_unexpected_tensor(folder: Path, name: str) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.update({name: torch.ones(48)}))
    assert repr(name.removeprefix("model.")) in refused(folder)


def test_tensors_that_do_not_count(folder: Path) -> None:
    """Old files hold the rotary frequencies; tied files may hold the head a second time."""
    edit_tensors(folder / "model.safetensors",
                 lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    checkpoint.load(folder)
    edit(folder / "config.json", tie_word_embeddings=True)
    model, _ = checkpoint.load(folder)
    assert model.lm_head.weight is model.embed_tokens.weight


def test_dtype(folder: Path) -> None:
    assert {parameter.dtype for parameter in checkpoint.load(folder)[0].parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in checkpoint.load(folder, torch.float32)[0].parameters()} == {torch.float32}


# ---- shards


@pytest.mark.parametrize("shard", ["../model/model.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "\0"])
def test_shards_stay_in_the_folder(folder: Path, sharded: Path, shard: str) -> None:
    index = sharded / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=names | {"model.norm.weight": shard})
    message = refused(sharded)
    assert "does not lie in the model's folder" in message or "no such weights file" in message


@pytest.mark.parametrize("names", [None, [], "x", {"model.norm.weight": 3}, {"model.norm.weight": None}, ...])
def test_bad_index(sharded: Path, names: Any) -> None:
    edit(sharded / "model.safetensors.index.json", weight_map=names)
    assert "weight_map" in refused(sharded)


def test_shard_missing(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    assert f"{shard.name}: no such weights file" in refused(sharded)


def test_shard_left_out_of_the_index(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    last = max(names.values())
    edit(index, weight_map={key: name for key, name in names.items() if name != last})
    assert "is missing" in refused(sharded)


# ---- tokenizer files


def test_tokenizer_missing(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xff", b'{"version": "1.0", "model": {"type": "BPE"}}'], ids=range(5))
def test_tokenizer_damaged(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json: not a readable tokenizer" in refused(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff\xff", b"[]", b"3", b'{"eos_token": {"id": 3}}', b'{"eos_token": 7}',
                                     b'{"chat_template": 3}',
                                     b'{"chat_template": ["x"]}', b'{"chat_template": [{"name": "default"}]}'], ids=range(9))
def test_tokenizer_config_damaged(folder: Path, content: bytes) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_bytes(content)
    assert "tokenizer_config.json" in refused(folder)


def test_tokenizer_config_forms(folder: Path) -> None:
    """The template lies in its own file, or in the config as text or as a list of named ones."""
    config = folder / "tokenizer_config.json"
    edit(config, chat_template="from the config", eos_token={"content": "<|im_start|>", "lstrip": False})
    _, tokenizer = checkpoint.load(folder)
    assert tokenizer.eos_id == 256 and tokenizer.chat_template is not None and "<|im_end|>" in tokenizer.chat_template
    (folder / "chat_template.jinja").unlink()
    assert checkpoint.load(folder)[1].chat_template == "from the config"
    edit(config, chat_template=[{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}])
    assert checkpoint.load(folder)[1].chat_template == "yes"
    config.unlink()
    _, tokenizer = checkpoint.load(folder)
    assert tokenizer.chat_template is None and tokenizer.eos is None


# ---- saving


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("step", ["save_file", "fsync", "tokenizer", "rename"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_save_leaves_nothing(step: str, existing: bool, folder: Path, tiny_model: Llama, tiny_tokenizer: Tokenizer,
                                      tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    if existing:
        shutil.copytree(folder, target)
    before = inside(tmp_path)
    weights = (target / "model.safetensors").read_bytes() if existing else None

    def full(*_: Any, **__: Any) -> None:  # as Python says it, and as safetensors and tokenizers do
        text = "No space left on device"
        raise {"save_file": SafetensorError(f"Error while serializing: I/O error: {text} (os error 28)"),
               "tokenizer": Exception(f"{text} (os error 28)")}.get(step, OSError(28, text))

    def rename(source: Path, target: Path) -> None:
        if ".part-" in source.name:
            full()
        source.rename(target)

    owner, name, broken = {"save_file": (checkpoint, "save_file", full), "fsync": (os, "fsync", full),
                           "tokenizer": (Tokenizer, "save", full), "rename": (os, "replace", rename)}[step]
    monkeypatch.setattr(owner, name, broken)
    tiny_model.init_weights(99)
    with pytest.raises(OSError, match="No space left") as raised:
        checkpoint.save(tiny_model, tiny_tokenizer, target)
    assert (raised.value.errno, raised.value.filename) == (28, str(target))
    assert inside(tmp_path) == before
    if weights is not None:
        assert (target / "model.safetensors").read_bytes() == weights
        checkpoint.load(target)


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with checkpoint.whole_folder(tmp_path / "out") as part:
            (part / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert inside(tmp_path) == []


def test_a_save_replaces_what_was_there(folder: Path, tiny_model: Llama, tiny_tokenizer: Tokenizer) -> None:
    (folder / "stale.txt").write_text("from the earlier save")
    tiny_model.init_weights(5)
    checkpoint.save(tiny_model, tiny_tokenizer, folder)
    assert inside(folder.parent) == ["model"] and "stale.txt" not in inside(folder)
    assert torch.equal(checkpoint.load(folder, torch.float32)[0].norm.weight, tiny_model.norm.weight)
    assert torch.equal(checkpoint.load(folder, torch.float32)[0].lm_head.weight, tiny_model.lm_head.weight)


def test_what_a_save_holds(folder: Path) -> None:
    assert inside(folder) == ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                              "tokenizer_config.json"]


def test_other_weights_under_our_names(tiny_model: Llama, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A learner saves its float32 masters in place of the bf16 network's own tensors."""
    masters = {name: parameter.detach().clone() for name, parameter in tiny_model.named_parameters()}
    checkpoint.save(tiny_model.bfloat16(), tiny_tokenizer, tmp_path / "out", weights=masters)
    saved, _ = checkpoint.load(tmp_path / "out", torch.float32)
    assert all(torch.equal(parameter, masters[name]) for name, parameter in saved.named_parameters())


def test_no_such_model(tmp_path: Path) -> None:
    assert "no such model" in refused(tmp_path / "nowhere")
    assert "config.json" in refused(tmp_path)
