"""Models on disk: the Hugging Face layout in and out, GGUF in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ownship.errors import UserError, writing
from ownship.model import gguf, zoo
from ownship.model.llama import Llama, LlamaConfig
from ownship.model.tokenizer import Tokenizer, from_folder, from_gguf

_INDEX = "model.safetensors.index.json"
_SHARD_BYTES = 4 << 30


def load(path: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[Llama, Tokenizer]:
    """The network (weights in `dtype`) and its tokenizer, from a Hugging Face folder, a .gguf file or an adapter's folder
    (adapter_config.json, PEFT's layout), which is merged into the base model that it names.

    Raises UserError that names the file, field or tensor which is missing, damaged or not supported.
    """
    if not path.exists():
        raise UserError(f"{path}: no such model")
    if path.is_file():
        file = gguf.GGUF(path)
        sizes = gguf.config(file)
        ready = _ready(path, dtype)
        if ready is not None and ready.is_file():
            with contextlib.suppress(UserError):  # damaged: made again
                return _fill(sizes, _file(ready, sizes), ready, dtype), from_gguf(file.meta, path)
        model = _fill(sizes, gguf.weights(file, sizes), path, dtype)
        if ready is not None:
            with contextlib.suppress(OSError, SafetensorError):  # it only saves time
                part = ready.with_suffix(f".{os.getpid()}.part")
                save_file({name: tensor.detach() for name, tensor in model.named_parameters()}, part)
                part.replace(ready)
        return model, from_gguf(file.meta, path)
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        from ownship.model import peft  # which needs this file, for the base

        return peft.load(path, dtype)
    sizes = read_config(path)
    return _fill(sizes, _safetensors(path, sizes), path, dtype), from_folder(path)


def sizes(path: Path) -> LlamaConfig:
    """What `load` would read the network's sizes as, without its weights. Raises UserError as it does."""
    if not path.exists():
        raise UserError(f"{path}: no such model")
    return gguf.config(gguf.GGUF(path)) if path.is_file() else read_config(path)


def _ready(path: Path, dtype: torch.dtype) -> Path | None:
    """Where a zoo model's dequantised weights are kept: dequantising takes seconds, and people wait for the first word."""
    if path.resolve().parent != (zoo.cache() / "models").resolve():
        return None
    state = path.stat()
    return path.with_suffix(f".{str(dtype).removeprefix('torch.')}-{state.st_size:x}-{state.st_mtime_ns:x}.safetensors")


def _fill(sizes: LlamaConfig, tensors: Iterable[tuple[str, Tensor]], path: Path, dtype: torch.dtype) -> Llama:
    with torch.device("meta"):
        model = Llama(sizes)
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if name not in expected:
            raise UserError(f"{path}: tensor {name!r} is not part of a Llama network of these sizes")
        if tensor.shape != expected[name]:
            raise UserError(f"{path}: tensor {name!r} has shape {list(tensor.shape)}; the config asks for {list(expected[name])}")
        found[name] = tensor.to(dtype)
    if missing := [name for name in expected if name not in found]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{path}: tensor {missing[0]!r} is missing{more}")
    model.load_state_dict(found, strict=False, assign=True)
    if sizes.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model.eval()


def read_config(folder: Path) -> LlamaConfig:
    """config.json (+ generation_config.json for the stop tokens) → LlamaConfig, or a UserError naming the field."""
    raw = read_json(folder / "config.json")
    if raw.get("model_type") != "llama":
        raise UserError(f"{folder}/config.json: model_type {raw.get('model_type')!r} is not supported (llama is)")
    for name, plain in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if raw.get(name, plain) != plain:
            raise UserError(f"{folder}/config.json: {name} {raw[name]!r} is not supported ({plain!r} is)")
    rope = _object(raw, "rope_parameters", folder)  # transformers 5 keeps theta and scaling together
    scaling = _object(raw, "rope_scaling", folder) or {key: value for key, value in rope.items() if key != "rope_theta"}
    if scaling.get("rope_type", scaling.get("type", "default")) == "default":
        scaling = {}
    eos = raw.get("eos_token_id")
    if (generation := folder / "generation_config.json").is_file():
        eos = read_json(generation).get("eos_token_id", eos)
    try:
        return LlamaConfig(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_hidden_layers=raw["num_hidden_layers"],
            num_attention_heads=raw["num_attention_heads"],
            num_key_value_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
            head_dim=raw.get("head_dim") or _ratio(raw["hidden_size"], raw["num_attention_heads"]),
            max_position_embeddings=raw.get("max_position_embeddings", 2048),
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=raw.get("rope_theta") or rope.get("rope_theta", 10000.0),
            rope_scaling=scaling or None,
            tie_word_embeddings=raw.get("tie_word_embeddings", False),
            eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        )
    except KeyError as missing:
        raise UserError(f"{folder}/config.json: the field {missing} is missing") from None
    except UserError as error:
        raise UserError(f"{folder}/config.json: {error}") from None


def _ratio(above: Any, below: Any) -> Any:
    """above // below; `above` itself when they are no numbers, which LlamaConfig refuses by name."""
    return above // below if type(above) is int and type(below) is int and below else above


def _object(raw: dict[str, Any], name: str, folder: Path) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise UserError(f"{folder}/config.json: {name} must be an object, not {value!r}")
    return value


def _config_json(model: Llama, tokenizer: Tokenizer) -> dict[str, Any]:
    sizes = model.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_attention_heads": sizes.num_attention_heads,
        "num_key_value_heads": sizes.num_key_value_heads,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": sizes.max_position_embeddings,
        "rms_norm_eps": sizes.rms_norm_eps,
        "rope_theta": sizes.rope_theta,
        "rope_scaling": sizes.rope_scaling,
        "tie_word_embeddings": sizes.tie_word_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "eos_token_id": list(sizes.eos_token_ids) or (tokenizer.eos_id if tokenizer.eos else None),
        "torch_dtype": str(model.dtype).removeprefix("torch."),
    }


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (a model folder holds config.json, *.safetensors and tokenizer.json)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is expected, not {type(value).__name__}")
    return value


def _safetensors(folder: Path, sizes: LlamaConfig) -> Iterator[tuple[str, Tensor]]:
    if (folder / _INDEX).is_file():
        named = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
            raise UserError(f"{folder / _INDEX}: weight_map must be an object: tensor name → file name")
        shards = sorted(set(named.values()))
    else:
        shards = ["model.safetensors"]
    for shard in shards:
        path = folder / shard
        if Path(shard).name != shard:
            raise UserError(f"{folder / _INDEX}: {shard!r} does not lie in the model's folder; not read")
        if not path.is_file():
            raise UserError(f"{path}: no such weights file")
        yield from _file(path, sizes)


def _file(path: Path, sizes: LlamaConfig) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (the handle is no mapping)
                if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and sizes.tie_word_embeddings):
                    continue
                yield name.removeprefix("model."), file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or cut short ({error})") from None


def save(model: Llama, tokenizer: Tokenizer, folder: Path, weights: dict[str, Tensor] | None = None,
         shard_bytes: int = _SHARD_BYTES) -> None:
    """Writes the Hugging Face layout; `folder` appears at once and whole, or not at all.

    `weights` replaces the network's own tensors (for example by float32 masters), under our parameter names.
    """
    with whole_folder(folder) as part:
        tensors = {
            name if name.startswith("lm_head.") else f"model.{name}": tensor.detach().contiguous()
            for name, tensor in (weights or dict(model.named_parameters())).items()
        }
        shards: list[dict[str, Tensor]] = [{}]
        room = shard_bytes
        for name, tensor in tensors.items():
            if tensor.nbytes > room and shards[-1]:
                shards.append({})
                room = shard_bytes
            shards[-1][name] = tensor
            room -= tensor.nbytes
        if len(shards) == 1:
            save_file(shards[0], part / "model.safetensors", metadata={"format": "pt"})
        else:
            names = [f"model-{index + 1:05}-of-{len(shards):05}.safetensors" for index in range(len(shards))]
            for name, shard in zip(names, shards, strict=True):
                save_file(shard, part / name, metadata={"format": "pt"})
            index = {
                "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
                "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
            }
            (part / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
        config = _config_json(model, tokenizer)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (part / "generation_config.json").write_text(json.dumps({"eos_token_id": config["eos_token_id"]}, indent=2) + "\n")
        tokenizer.save(part)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """`with whole_folder(target) as part`: what is written into `part` becomes `target` at the end, or is thrown away.

    Raises OSError that names `target` if the disk is full; what was there before is there still.
    """
    part, old = (target.with_name(f".{target.name}.{what}-{os.getpid()}") for what in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        with writing(target):
            part.mkdir(parents=True)
            yield part
            for file in part.iterdir():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            if target.exists():
                os.replace(target, old)
            os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(old, ignore_errors=True)
