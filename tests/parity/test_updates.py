"""Several updates of a tiny network, ours against `transformers`' network with torch's own optimizers in a plain loop."""

import pytest
import torch
from transformers import LlamaConfig as HFConfig
from transformers import LlamaForCausalLM

from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import imitation
from ownship.learn.sample import supervised
from ownship.model.llama import Llama, LlamaConfig

SIZES = LlamaConfig(vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)
LR, DECAY, NORM, STEPS, WARMUP = 3e-3, 0.1, 0.5, 6, 2


def documents(step: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(step)
    return [torch.randint(120, (size,), generator=draw).tolist() for size in (17, 4, 29, 11)]


def reference(weights: dict[str, torch.Tensor], kind: str) -> tuple[dict[str, torch.Tensor], list[float]]:
    """A plain loop: documents one at a time, the mean over all predicted tokens, clipping, warm-up, then a linear decay."""
    model = LlamaForCausalLM(HFConfig(
        vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, tie_word_embeddings=True, rms_norm_eps=1e-5, attn_implementation="eager"))
    model.load_state_dict({f"model.{name}": tensor.clone() for name, tensor in weights.items()}, strict=False)
    named = {name.removeprefix("model."): parameter for name, parameter in model.named_parameters()}
    by_muon = [p for name, p in named.items() if kind == "muon" and "_proj" in name]
    norms = [p for name, p in named.items() if "norm" in name]
    others = [p for p in named.values() if not any(p is q for q in (*by_muon, *norms))]
    adam = torch.optim.AdamW([{"params": others, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}],
                             lr=LR, betas=(0.9, 0.95), foreach=False)
    optimizers: list[torch.optim.Optimizer] = [adam]
    if by_muon:
        optimizers.append(torch.optim.Muon(by_muon, lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"))
    losses = []
    for step in range(STEPS):
        rate = LR * min(1.0, (step + 1) / WARMUP, (STEPS - step) / 3)
        model.zero_grad()
        batch = documents(step)
        loss = sum(model(torch.tensor([tokens]), labels=torch.tensor([tokens])).loss * (len(tokens) - 1) for tokens in batch)
        loss = loss / sum(len(tokens) - 1 for tokens in batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), NORM)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        losses.append(float(loss.detach()))
    return {name: parameter.detach() for name, parameter in named.items()}, losses


# The weights move by about 1e-2. AdamW makes lr · sign out of gradients that are nearly 0; torch's Muon iterates in bf16, ours
# where that is fast.
@pytest.mark.parametrize(("kind", "most"), [("adamw", 5e-5), ("muon", 2e-4)])
@pytest.mark.parametrize("micro_tokens", [20, 10_000])
def test_updates_equal_torchs_own(kind: str, most: float, micro_tokens: int) -> None:
    ours = Llama(SIZES).init_weights(3, std=0.2)
    expected, losses = reference({name: p.detach().clone() for name, p in ours.named_parameters()}, kind)
    optim = Optim(lr=LR, weight_decay=DECAY, max_grad_norm=NORM, warmup=WARMUP, kind=kind, end=STEPS, decay=0.5)  # type: ignore[arg-type]
    learner = Learner(ours, optim, micro_tokens)
    found = [learner.update([supervised(tokens, [False] + [True] * (len(tokens) - 1)) for tokens in documents(step)],
                            imitation)["loss"] for step in range(STEPS)]
    assert found == pytest.approx(losses, rel=1e-4)
    for name, parameter in ours.named_parameters():
        assert (parameter.detach() - expected[name]).abs().max() <= most, name
