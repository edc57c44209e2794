"""What a training takes before it is begun: memory, time, energy, money, and how to spread it over a cluster.

Arithmetic on published figures, each with its source; nothing is run. Floating-point work of a token, forward and backward:
6 N + 12 · layers · hidden · sequence (Chowdhery et al., arXiv:2204.02311, appendix B). Memory of weights, gradients and AdamW in
mixed precision: 16 bytes a parameter (Rajbhandari et al., arXiv:1910.02054, section 3.1). Activations of a layer: 34 bytes per
token and hidden unit with fused attention, 2 when they are computed again (Korthikanti et al., arXiv:2205.05198, section 4).
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro

from ownship.errors import UserError

_TFLOPS, _GB = 1e12, 1e9
_STATES = 16  # bytes a parameter: weights and gradients in bf16, master weights and two moments in float32
_OWN_STATES = 20  # of our learner in one process, whose gradients are added up in float32
_PROGRAM = 0.25 * _GB  # what a process takes before it has a network
_KEPT = 0.5 * _GB  # of freed memory, which the allocator keeps (machine.prepare)
_SPARE = 0.9  # of a device's memory that can be planned with
_LOAD = 0.8  # of the greatest power that is drawn on average
_PUE = 1.2  # power of the building per power of the machines


@dataclass(frozen=True)
class Device:
    """One accelerator: dense bf16 work and memory reads per second, bytes, links, watts with its share of the host."""

    flops: float
    memory: float
    bandwidth: float
    link: float  # bytes per second to the others in a node, one way
    network: float  # bytes per second to other nodes
    per_node: int
    watts: float
    price: float  # dollars an hour: an assumption, which --price replaces
    efficiency: float  # share of `flops` that trainings reach
    source: str
    drawing: float = 0.4  # share of `flops` that drawing many sequences together reaches


# Efficiency: 38 to 43 % in the training of Llama 3 405B (arXiv:2407.21783, table 4), 46 % in that of PaLM (arXiv:2204.02311).
# Watts: a whole node at most (DGX A100 6.5 kW, H100 and H200 10.2 kW, B200 14.3 kW) by its eight devices.
DEVICES = {
    "a100": Device(312 * _TFLOPS, 80 * _GB, 2.039e12, 300e9, 25e9, 8, 812, 1.8, 0.4, "NVIDIA A100 80GB and DGX A100 data sheets"),
    "h100": Device(989 * _TFLOPS, 80 * _GB, 3.35e12, 450e9, 50e9, 8, 1275, 3.0, 0.4, "NVIDIA H100 SXM and DGX H100 data sheets"),
    "h200": Device(989 * _TFLOPS, 141 * _GB, 4.8e12, 450e9, 50e9, 8, 1275, 3.5, 0.4, "NVIDIA H200 SXM and DGX H200 data sheets"),
    "b200": Device(2250 * _TFLOPS, 180 * _GB, 7.7e12, 900e9, 50e9, 8, 1788, 5.0, 0.4, "NVIDIA HGX B200 and DGX B200 data sheets"),
    "mi300x": Device(1307 * _TFLOPS, 192 * _GB, 5.3e12, 448e9, 50e9, 8, 1200, 3.0, 0.3, "AMD Instinct MI300X data sheet"),
    "l40s": Device(362 * _TFLOPS, 48 * _GB, 0.864e12, 32e9, 12.5e9, 8, 500, 1.0, 0.35, "NVIDIA L40S data sheet"),
    "rtx4090": Device(165 * _TFLOPS, 24 * _GB, 1.008e12, 32e9, 1.25e9, 4, 600, 0.4, 0.35, "NVIDIA Ada architecture white paper"),
}


@dataclass(frozen=True)
class Plan:
    """What a training takes: memory, time, energy and money, and how to spread it over a cluster. Nothing is run."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A size such as 7B, or a model: a zoo name or a folder in Hugging Face layout."""
    tokens: str | None = None
    """Tokens to train on, e.g. 300B (RL: tokens to sample). By default 20 for each parameter."""
    cluster: str = "8xh100"
    """Devices: COUNTxNAME of a100, h100, h200, b200, mi300x, l40s, rtx4090; or `here`, which measures this machine."""
    method: Literal["train", "rl"] = "train"
    """train: pretraining or fine-tuning. rl: the tokens are sampled first, then learnt from."""
    sequence: int = 4096
    """Tokens of a sequence."""
    batch: str | None = None
    """Tokens per update. By default from the work to be done (DeepSeek LLM, arXiv:2401.02954)."""
    efficiency: float | None = None
    """Share of the devices' peak that is reached; by default what published trainings reached."""
    micro_tokens: int = 1024
    """Tokens per forward and backward pass, with `--cluster here`: the recipes' flag of that name."""
    price: float | None = None
    """Dollars per device and hour."""
    price_kwh: float | None = None
    """Dollars per kilowatt-hour, if the machines are your own: then this counts instead of `price`."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Shape:
    """What the arithmetic needs to know of a network."""

    parameters: float
    layers: int
    hidden: int
    vocabulary: int
    kv_bytes: float  # of keys and values per token

    def flops_per_token(self, sequence: int) -> float:
        """Forward and backward."""
        return 6 * self.parameters + 12 * self.layers * self.hidden * sequence


@dataclass(frozen=True)
class Layout:
    """How a network is spread: `shards` devices share the training state, `tensor` of them each layer's matrices."""

    data: int
    tensor: int
    recompute: bool
    sequences: int  # in one pass of one replica
    bytes_per_device: float
    exchange_seconds: float  # per update, to gather weights and add up gradients, if nothing hides it
    compute_seconds: float


def run(config: Plan) -> None:
    result = plan(config)
    print(json.dumps(result, indent=2) if config.json else describe(config, result))


def plan(config: Plan) -> dict[str, Any]:
    """The figures. Raises UserError for what cannot be read or does not fit."""
    shape = _shape(config.model)
    count, device, name = _cluster(config.cluster, shape)
    tokens = _number(config.tokens, "--tokens") if config.tokens else 20 * shape.parameters
    for value, flag in ((config.sequence, "--sequence"), (config.efficiency, "--efficiency"), (config.price, "--price"),
                        (config.micro_tokens, "--micro-tokens")):
        if value is not None and value <= 0:
            raise UserError(f"{flag} must be more than 0, not {value}")
    efficiency = config.efficiency or device.efficiency
    flops = tokens * shape.flops_per_token(config.sequence)
    batch = _number(config.batch, "--batch") if config.batch else batch_tokens(flops, config.sequence)
    seconds = flops / (count * device.flops * efficiency)
    sampling = 0.0
    if config.method == "rl":
        sampling = tokens / (count * decode_rate(shape, device, config.sequence))
    if config.cluster == "here":
        layout = alone(shape, device, config, batch, efficiency)
    else:
        layout = spread(shape, device, count, config.sequence, batch, efficiency)
    total = seconds + sampling
    hours = total * count / 3600
    energy = total * count * device.watts * _LOAD * _PUE / 3.6e6
    own = config.price_kwh is not None
    money = energy * config.price_kwh if config.price_kwh is not None else hours * (config.price or device.price)
    return {
        "model": asdict(shape), "tokens": tokens, "tokens_per_parameter": tokens / shape.parameters, "batch_tokens": batch,
        "updates": math.ceil(tokens / batch), "flops": flops, "cluster": {"count": count, "device": name, **asdict(device)},
        "efficiency": efficiency, "layout": asdict(layout), "hours": total / 3600, "sampling_hours": sampling / 3600,
        "device_hours": hours, "energy_kwh": energy, "dollars": money, "dollars_are": "electricity" if own else "rent",
        "expected_loss": expected_loss(shape.parameters, tokens) if config.method == "train" else None,
    }


def expected_loss(parameters: float, tokens: float) -> float:
    """Nats per token on web text after training from scratch: the fit of Hoffmann et al. (arXiv:2203.15556, eq. 10)."""
    return 1.69 + 406.4 / parameters**0.34 + 410.7 / tokens**0.28


def decode_rate(shape: Shape, device: Device, sequence: int, rows: int = 64) -> float:
    """Tokens per second of one device that samples `rows` at a time: it reads the weights once for all and each one's cache, half
    full on average, at 60 % of its bandwidth, and multiplies at 40 % of its peak (or what was measured)."""
    reading = (2 * shape.parameters + rows * sequence / 2 * shape.kv_bytes) / (0.6 * device.bandwidth)
    work = rows * 2 * shape.parameters / (device.drawing * device.flops)
    return rows / max(reading, work)


def spread(shape: Shape, device: Device, count: int, sequence: int, batch: float, efficiency: float) -> Layout:
    """The simplest layout that fits: fully sharded data parallelism (FSDP2) first, then with activations computed again, then with
    each layer's matrices over 2, 4, … devices of a node. Raises UserError, with the devices it would take, if none does."""
    least = math.inf
    for tensor in (size for size in (1, 2, 4, 8) if size <= min(count, device.per_node)):
        data = count // tensor
        for recompute in (False, True):
            for sequences in (8, 4, 2, 1):
                if sequences * data * sequence > max(batch, sequence):
                    continue
                need = memory(shape, count, tensor, sequence * sequences, recompute)
                least = min(least, need)
                if need <= _SPARE * device.memory:
                    return Layout(data, tensor, recompute, sequences, need,
                                  *_per_update(shape, device, count, tensor, batch, sequence, efficiency, recompute))
    if math.isinf(least):
        least_batch = count // min(device.per_node, 8) * sequence
        raise UserError(f"{count} devices need {least_batch:,} tokens per update at least, for each to have a sequence: use a"
                        " larger --batch, a shorter --sequence or fewer devices")
    states = _STATES * shape.parameters
    fixed = least - states / count
    if fixed >= _SPARE * device.memory:
        raise UserError(f"one sequence of {sequence} tokens takes {fixed / _GB:.0f} GB besides the weights, more than a device has:"
                        " use a shorter --sequence")
    raise UserError(f"this needs {least / _GB:.0f} GB per device of {device.memory / _GB:.0f}: take"
                    f" {math.ceil(states / (_SPARE * device.memory - fixed))} of them, or larger ones")


def alone(shape: Shape, device: Device, config: Plan, batch: float, efficiency: float) -> Layout:
    """Our learner in one process, as the recipes run it: passes of --micro-tokens, nothing computed again; in RL the engine keeps a
    copy of the weights in the order of its kernels. Raises UserError if it does not fit."""
    sequences = max(1, config.micro_tokens // config.sequence)
    states = _OWN_STATES + (2 if config.method == "rl" else 0)
    need = _PROGRAM + _KEPT + memory(shape, 1, 1, sequences * config.sequence, False, states)
    if need > _SPARE * device.memory:
        raise UserError(f"this needs {need / _GB:.3g} GB, and {device.memory / _GB:.3g} are free: use a smaller model, or a shorter"
                        " --sequence with fewer --micro-tokens")
    work = batch * shape.flops_per_token(config.sequence) / (device.flops * efficiency)
    return Layout(1, 1, False, sequences, need, 0.0, work)


def memory(shape: Shape, count: int, tensor: int, tokens: int, recompute: bool, states: int = _STATES) -> float:
    """Bytes on one device: its share of the state, two gathered layers, activations of `tokens`, logits and their gradient."""
    kept = states * shape.parameters / count
    gathered = 2 * 2 * shape.parameters / shape.layers / tensor
    layers = (2 * shape.layers + 34) if recompute else 34 * shape.layers
    activations = tokens * shape.hidden * layers / tensor
    logits = 8 * tokens * shape.vocabulary / tensor
    return kept + gathered + activations + logits


def _per_update(shape: Shape, device: Device, count: int, tensor: int, batch: float, sequence: int, efficiency: float,
                recompute: bool) -> tuple[float, float]:
    """Seconds to gather the weights twice and add up the gradients once (3 · 2N bytes through the slowest link: ZeRO, section 7),
    and seconds of computing."""
    link = device.link if count <= device.per_node else device.network
    exchange = 3 * 2 * shape.parameters / tensor / link if count > tensor else 0.0
    work = batch * shape.flops_per_token(sequence) / (count * device.flops * efficiency)
    return exchange, work * (4 / 3 if recompute else 1)


def describe(config: Plan, result: dict[str, Any]) -> str:
    shape, cluster, layout = result["model"], result["cluster"], result["layout"]
    lines = [
        f"{config.model}: {_short(shape['parameters'])} parameters, {shape['layers']} layers of {shape['hidden']}; "
        f"{_short(result['tokens'])} tokens ({result['tokens_per_parameter']:.3g} per parameter), "
        f"{_short(result['batch_tokens'])} per update, {result['updates']:,} updates",
        f"on {cluster['count']} {cluster['device']}, at {result['efficiency']:.0%} of their peak of "
        f"{cluster['flops'] / _TFLOPS:,.3g} TFLOPS",
        "",
        f"  work     {result['flops']:.3g} floating-point operations",
        f"  memory   {layout['bytes_per_device'] / _GB:.3g} GB per device of {cluster['memory'] / _GB:.3g}",
        f"  time     {_time(result['hours'])}, {result['device_hours']:,.3g} device-hours"
        + (f", {result['sampling_hours'] / result['hours']:.0%} of it sampling" if result["sampling_hours"] else ""),
        f"  energy   {result['energy_kwh']:,.3g} kWh ({cluster['watts']:g} W a device with its host, {_LOAD:.0%} load, PUE {_PUE})",
        f"  money    {result['dollars']:,.3g} dollars of {result['dollars_are']}"
        + ("" if config.price or config.price_kwh else f" (at {cluster['price']:g} dollars an hour, assumed: --price sets yours)"),
    ]
    if result["expected_loss"] is not None:
        nats = result["expected_loss"]
        lines.append(f"  quality  {nats:.3f} nats per token of web text if trained from scratch (Hoffmann et al.)")
    how = f"FSDP2 over {cluster['count']} devices" if cluster["count"] > 1 else "one device"
    if layout["tensor"] > 1:
        how += f", tensor parallel over {layout['tensor']}"
    lines += ["", f"  layout   {how}; {layout['sequences']} sequences of {config.sequence} at a time"
              + (", activations computed again in the backward pass" if layout["recompute"] else "")]
    if layout["exchange_seconds"] > layout["compute_seconds"]:
        lines.append(f"  warning  exchanging weights takes {layout['exchange_seconds']:.2g} s an update, computing "
                     f"{layout['compute_seconds']:.2g} s: use a larger --batch, or shard within a node and replicate across nodes")
    if result["tokens_per_parameter"] < 20 and config.method == "train":
        lines.append("  note     fewer than 20 tokens a parameter: from scratch a smaller model would learn more (Hoffmann et al.)")
    lines += ["", f"Sources: {cluster['source']}; arXiv:2204.02311, 1910.02054, 2205.05198, 2203.15556."]
    return "\n".join(lines)


def _cluster(text: str, shape: Shape) -> tuple[int, Device, str]:
    if text == "here":
        return 1, _here(shape), "machine like this one"
    found = re.fullmatch(r"(\d+)x(\w+)", text.lower())
    if found is None or found[2] not in DEVICES or int(found[1]) < 1:
        raise UserError(f"--cluster {text!r}: expected COUNTxDEVICE, e.g. 8xh100, with one of {', '.join(DEVICES)}; or here")
    return int(found[1]), DEVICES[found[2]], found[2]


@functools.cache
def _here(shape: Shape) -> Device:
    """This machine, its rates and what our learner and engine reach of them measured now (bench/plan.py holds it to whole runs)."""
    from ownship import machine
    from ownship.evals import pace, roofline

    machine.prepare()
    rates, reached = roofline.measure(), pace.measure(shape.layers, shape.hidden, shape.vocabulary)
    watts = 10.0 * (os.cpu_count() or 1)  # about what a core of a server draws
    work, reading = rates["bfloat16_gflops"], rates["read_gb_s"] * 1e9
    return Device(work * 1e9, machine.available_memory(), reading, 1e9, 1e9, 1, watts, 0.1, reached["learning"] / work,
                  "measured just now", reached["drawing"] / work)


def _shape(text: str) -> Shape:
    if re.fullmatch(r"[\d.]+[KMBTkmbt]", text):
        parameters = _number(text, "the size")
        # as wide as 128 times as deep (Kaplan et al., arXiv:2001.08361), which is the Llama family's shape
        layers = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
        hidden = max(64, round((parameters / (12 * layers)) ** 0.5 / 64) * 64)
        return Shape(parameters, layers, hidden, 128_256 if parameters >= 1e9 else 49_152, 4 * layers * min(hidden, 1024))
    from ownship.model import checkpoint, zoo

    config = checkpoint.sizes(zoo.resolve(text))
    return Shape(config.parameters, config.num_hidden_layers, config.hidden_size, config.vocab_size,
                 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim)


def batch_tokens(flops: float, sequence: int) -> int:
    """Tokens per update that use a budget C best, in whole sequences: 0.292 · C^0.3271 (DeepSeek LLM, arXiv:2401.02954, eq. 1)."""
    return max(sequence, round(0.292 * flops**0.3271 / sequence) * sequence)


def _number(text: str, what: str) -> float:
    found = re.fullmatch(r"([\d.]+)([KMBT]?)", text.upper().replace("_", "").replace(",", ""))
    try:
        value = float(found[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[found[2]] if found else 0.0
    except ValueError:
        value = 0.0
    if value <= 0:
        raise UserError(f"{what} {text!r} is not a number such as 300M or 1.5T")
    return value


def _short(value: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _time(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.3g} minutes"
    return f"{hours:.3g} hours" if hours < 72 else f"{hours / 24:.3g} days"
