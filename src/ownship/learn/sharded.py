"""FSDP2: the network that learns, its float32 weights and moments spread over the ranks (torch.distributed.fsdp.fully_shard), and
such a state on disk.

A rank keeps its part of each tensor. For a layer's forward and backward pass the whole layer is gathered, in the network's dtype,
and its gradient, summed over the ranks in float32, is spread again (ZeRO stage 3, arXiv:1910.02054; arXiv:2304.11277). The network
that samples, measures and is saved is another, whole one, which every update is gathered into.
"""

from __future__ import annotations

import copy
import errno
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ownship.learn import distributed
from ownship.learn.optim import Muon
from ownship.model.llama import Llama

M = TypeVar("M", bound=torch.nn.Module)


def shard(model: Llama) -> Llama:
    """A network with float32 shards of these weights, which computes in their dtype. Layer by layer: never whole in float32."""
    place = distributed.device()
    mesh = init_device_mesh(place.type, (dist.get_world_size(),))
    # The residual stream stays float32: what goes into a layer is not to be rounded. The sum of the gradients is the update's: it
    # is divided by the trained weight of all ranks (learn/learner.py), not by their number.
    policy = MixedPrecisionPolicy(None if model.dtype == torch.float32 else model.dtype, torch.float32, cast_forward_inputs=False)

    def wide(module: M) -> M:
        return copy.deepcopy(module).to(place, torch.float32)

    with torch.device("meta"):
        network = Llama(model.config)
    for number, block in enumerate(model.layers):
        network.layers[number] = wide(block)
        fully_shard(network.layers[number], mesh=mesh, mp_policy=policy)
    # Embeddings, last norm and head stay gathered from the forward to the end of the backward pass, in which the head's
    # log-probabilities read its weight (model/head.py).
    network.embed_tokens, network.norm, network.lm_head = wide(model.embed_tokens), wide(model.norm), wide(model.lm_head)
    if model.config.tie_word_embeddings:
        network.lm_head.weight = network.embed_tokens.weight
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    return network


@torch.no_grad()
def publish(network: Llama, model: Llama) -> None:
    """Gathers the sharded weights and rounds them into the whole network."""
    shards = dict(network.named_parameters())
    for name, target in model.named_parameters():
        target.copy_(cast(DTensor, shards[name]).full_tensor())


@torch.no_grad()
def step_whole(optimizer: Muon) -> None:
    """A step of an optimizer that needs whole matrices (Muon turns each into an orthogonal one): gathered one after the other, and
    every rank keeps its part of the result."""
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name != "params"}
        for shards in group["params"]:
            kept = optimizer.state[shards]
            whole = torch.nn.Parameter(shards.full_tensor())
            whole.grad = shards.grad.full_tensor()
            once = Muon([whole], **options)
            once.state[whole] = {name: value.full_tensor() for name, value in kept.items()}
            once.step()
            for name, value in once.state[whole].items():
                kept[name] = _spread(value, shards)
            shards.copy_(_spread(whole, shards))


def _spread(whole: Tensor, like: DTensor) -> DTensor:
    """This rank's part of a tensor that all have; nothing is sent."""
    return distribute_tensor(whole.detach(), like.device_mesh, like.placements, src_data_rank=None)


def save(tensors: dict[str, Tensor], folder: Path) -> None:
    """Writes the tensors, each rank its parts, as safetensors. Raises OSError in all ranks if one could not write."""
    try:
        state_dict_saver.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise _cause(error) from None


def load(folder: Path, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the folder's safetensors files, however many ranks wrote them. Those whose names end in a parameter's are
    spread as it is, if they are of its shape (its moments). In one process, too."""
    reader = HuggingFaceStorageReader(str(folder))
    found: dict[str, Tensor] = {}
    for key, about in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(about, TensorStorageMetadata)  # the reader knows no other
        param = params.get(key.partition(".")[2])
        if param is not None and param.shape == about.size:
            found[key] = torch.empty_like(param, dtype=torch.float32).detach()
        else:
            found[key] = torch.empty(about.size)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # so it is, in one process
            state_dict_loader.load(found, storage_reader=reader, no_dist=not distributed.several())
    except CheckpointException as error:
        raise _cause(error) from None
    return found


def _cause(error: CheckpointException) -> OSError:
    """What went wrong in one of the ranks."""
    cause = next(iter(error.failures.values()))[0]
    return cause if isinstance(cause, OSError) else OSError(errno.EIO, f"checkpoint: {cause}")
