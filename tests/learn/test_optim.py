import pytest
import torch
from tiny import tiny_model

from ownship.learn.learner import Learner
from ownship.learn.loss import imitation
from ownship.learn.optim import Optim, Optimizer, schedule
from ownship.learn.sample import Sample, supervised


def test_schedule_by_hand() -> None:
    shares = [schedule(update, warmup=2, end=10, decay=0.4) for update in range(12)]
    assert shares == [0.5, 1, 1, 1, 1, 1, 1.0, 0.75, 0.5, 0.25, 0, 0]
    assert [schedule(update, warmup=4) for update in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]  # it never ends
    assert [schedule(update, warmup=0, end=3, decay=0.0) for update in range(3)] == [1, 1, 1]
    assert [schedule(update, warmup=0, end=4, decay=1.0) for update in range(4)] == [1, 0.75, 0.5, 0.25]
    assert schedule(1, warmup=10, end=4, decay=0.75) == 0.2  # the lower of the two
    # Up to the decay the end does not matter, so it may be moved.
    assert [schedule(u, 3, 100) for u in range(80)] == [schedule(u, 3, 1000) for u in range(80)]


def lesson(step: int) -> list[Sample]:
    draw = torch.Generator().manual_seed(step)
    return [supervised(torch.randint(256, (size,), generator=draw).tolist(), [False] + [True] * (size - 1)) for size in (9, 5, 12)]


def test_the_learner_follows_the_schedule() -> None:
    learner = Learner(tiny_model()[0], Optim(lr=0.01, warmup=2, end=5, decay=0.4))
    assert [learner.update(lesson(step), imitation)["lr"] for step in range(5)] == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.005])


def test_which_tensor_is_moved_by_what() -> None:
    model, _ = tiny_model()
    params = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in params.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer = Optimizer(params, Optim(kind="muon", weight_decay=0.5))
    before = {name: parameter.clone() for name, parameter in params.items()}
    optimizer.step(0.0)
    assert all(torch.equal(before[name], parameter) for name, parameter in params.items())
    moments = set(optimizer.tensors())
    assert "momentum_buffer.layers.1.mlp.up_proj.weight" in moments and "exp_avg.layers.1.mlp.up_proj.weight" not in moments
    assert "exp_avg.embed_tokens.weight" in moments and "exp_avg.layers.0.input_layernorm.weight" in moments
    for parameter in params.values():  # without a gradient only weight decay is left, and it spares vectors
        parameter.grad = torch.zeros_like(parameter)
    fresh = Optimizer(params, Optim(kind="muon", weight_decay=0.5))
    fresh.step(0.1)
    for name, parameter in params.items():
        assert torch.allclose(parameter, before[name] * (0.95 if parameter.dim() > 1 else 1.0), atol=1e-7), name


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_loaded_optimizer_goes_on_bit_for_bit(kind: str) -> None:
    optim = Optim(lr=0.01, weight_decay=0.1, kind=kind)  # type: ignore[arg-type]
    first, second = (Learner(tiny_model()[0], optim) for _ in range(2))
    for step in range(3):
        first.update(lesson(step), imitation)
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()}, first.updates)
    for step in range(3, 5):
        assert first.update(lesson(step), imitation) == second.update(lesson(step), imitation)
    assert first.fingerprint == second.fingerprint
    tensors = first.tensors()
    del tensors["momentum_buffer.layers.0.mlp.up_proj.weight" if kind == "muon" else "exp_avg.layers.0.mlp.up_proj.weight"]
    with pytest.raises(KeyError, match="up_proj"):
        second.load(tensors, 5)
