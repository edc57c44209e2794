"""Our network, packing and losses against `transformers` and plain autograd, on a tiny random model in float32."""

import pytest
import torch
from transformers import LlamaConfig as HFConfig
from transformers import LlamaForCausalLM

from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import PolicyGradient, imitation
from ownship.learn.pack import Pack, pack
from ownship.learn.sample import Sample, supervised
from ownship.model.llama import Llama, LlamaConfig

SIZES = LlamaConfig(vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
                    num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)


def twins(seed: int = 0) -> tuple[Llama, LlamaForCausalLM]:
    ours = Llama(SIZES).init_weights(seed, std=0.3)
    theirs = LlamaForCausalLM(HFConfig(
        vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        head_dim=8, tie_word_embeddings=True, rms_norm_eps=1e-5, attn_implementation="eager"))
    weights = {name if name.startswith("lm_head") else f"model.{name}": p.data.clone() for name, p in ours.named_parameters()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return ours, theirs


def group(seed: int = 1) -> list[Sample]:
    """Two prompts; four and three completions of different lengths, with made-up sampler log-probabilities."""
    draw = torch.Generator().manual_seed(seed)
    samples = []
    for prompt_length, sizes in ((7, (5, 1, 9, 3)), (4, (2, 6, 6))):
        prompt = torch.randint(300, (prompt_length,), generator=draw).tolist()
        for size in sizes:
            tail = torch.randint(300, (size,), generator=draw).tolist()
            zeros = [0.0] * prompt_length
            advantage = float(torch.randn((), generator=draw))
            samples.append(Sample(prompt + tail, prompt_length, zeros + [1.0] * size,
                                  zeros + (-6 + 3 * torch.randn(size, generator=draw)).tolist(), zeros + [advantage] * size))
    return samples


def reference_gradients(theirs: LlamaForCausalLM, samples: list[Sample], kind: str) -> dict[str, torch.Tensor]:
    total = sum(sum(s.weights) for s in samples)
    for s in samples:
        logits = theirs(torch.tensor([s.tokens])).logits[0]
        new = torch.log_softmax(logits[:-1], -1)[torch.arange(len(s.tokens) - 1), torch.tensor(s.tokens[1:])][s.prompt - 1 :]
        if kind == "imitation":
            loss = -new.sum()
        else:
            a = torch.tensor(s.advantages[s.prompt :])
            ratio = torch.exp(new - torch.tensor(s.logprobs[s.prompt :]))
            gain = torch.minimum(ratio * a, torch.clamp(ratio, 0.8, 1.28) * a)
            loss = -torch.where(a < 0, torch.maximum(gain, 3.0 * a), gain).sum()
        (loss / total).backward()
    return {name.removeprefix("model."): p.grad for name, p in theirs.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["imitation", "policy"])
def test_gradients_equal_transformers(kind: str) -> None:
    ours, theirs = twins()
    samples = group()
    expected = reference_gradients(theirs, samples, kind)
    learner = Learner(ours, Optim(lr=0.0, max_grad_norm=1e9), micro_tokens=10_000)
    learner.update(samples, imitation if kind == "imitation" else PolicyGradient())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        scale = expected[name].abs().max()
        assert (parameter.grad - expected[name]).abs().max() <= 1e-4 * scale, name


@pytest.mark.parametrize("micro_tokens", [10, 16, 20, 40])
def test_update_does_not_depend_on_the_split(micro_tokens: int) -> None:
    whole, split = twins()[0], twins()[0]
    first = Learner(whole, Optim(lr=1e-3), micro_tokens=10_000).update(group(), PolicyGradient())
    second = Learner(split, Optim(lr=1e-3), micro_tokens=micro_tokens).update(group(), PolicyGradient())
    assert second["stream_tokens"] > first["stream_tokens"]  # a prompt was read more than once: its group was split
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-5)


def even_groups() -> list[Sample]:
    """Four prompts of 6 tokens with four completions of 5 each: four streams of 6 + 4 · 5 tokens."""
    draw = torch.Generator().manual_seed(4)
    samples = []
    for _ in range(4):
        prompt = torch.randint(300, (6,), generator=draw).tolist()
        for _ in range(4):
            tail = torch.randint(300, (5,), generator=draw).tolist()
            logprobs = [0.0] * 6 + (-6 + 3 * torch.randn(5, generator=draw)).tolist()
            advantage = float(torch.randn((), generator=draw))
            samples.append(Sample(prompt + tail, 6, [0.0] * 6 + [1.0] * 5, logprobs, [0.0] * 6 + [advantage] * 5))
    return samples


def test_one_batch_of_16_equals_four_of_4() -> None:
    """In float32 sums in another order differ in the last digits, so gradients agree relative to their largest entry."""
    samples = even_groups()
    assert [int(part.sample.max()) + 1 for part in pack(samples, 26)] == [4, 4, 4, 4]
    assert [int(part.sample.max()) + 1 for part in pack(samples, 10_000)] == [16]
    whole, split = twins()[0], twins()[0]
    Learner(whole, Optim(lr=0.0, max_grad_norm=1e9), micro_tokens=10_000).update(samples, PolicyGradient())
    passes: list[int] = []
    Learner(split, Optim(lr=0.0, max_grad_norm=1e9), micro_tokens=26).update(samples, PolicyGradient(), tick=passes.append)
    assert passes == [26, 26, 26, 26]
    for (name, one), (_, four) in zip(whole.named_parameters(), split.named_parameters(), strict=True):
        assert one.grad is not None and four.grad is not None
        assert (one.grad - four.grad).abs().max() <= 1e-5 * one.grad.abs().max(), name


def chats() -> list[Sample]:
    """Conversations with 3, 7, 5 and 2 tokens to learn; the third has two turns, with something only read between them."""
    draw = torch.Generator().manual_seed(6)
    masks = ["00111", "0001111111", "0011100110", "0101"]
    return [supervised(torch.randint(300, (len(mask),), generator=draw).tolist(), [bit == "1" for bit in mask]) for mask in masks]


@pytest.mark.parametrize("number", range(4))
def test_a_sample_gives_the_same_gradient_alone_and_packed(number: int) -> None:
    """Nothing of what else is in the stream reaches it: the others are there, but carry no loss."""
    samples, sample = chats(), chats()[number]

    def only(logprobs: torch.Tensor, part: Pack) -> torch.Tensor:
        assert len(part.tokens) == sum(len(other.tokens) for other in samples)
        return -logprobs * (torch.bincount(part.sample)[part.sample] == sum(sample.weights))

    alone, among = twins()[0], twins()[0]
    plain = Optim(lr=0.0, max_grad_norm=1e9)
    Learner(alone, plain, micro_tokens=1000).update([sample], imitation)
    Learner(among, plain, micro_tokens=1000).update(samples, only)
    share = sum(sample.weights) / sum(sum(other.weights) for other in samples)
    for (name, one), (_, many) in zip(alone.named_parameters(), among.named_parameters(), strict=True):
        assert one.grad is not None and many.grad is not None
        apart = (one.grad * share - many.grad).abs().max()
        assert apart <= 1e-5 * many.grad.abs().max(), name  # sums in another order differ in the last digits
