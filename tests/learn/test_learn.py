import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model

from ownship.engine.engine import Engine
from ownship.engine.request import Request, Sampling
from ownship.envs.env import Task, tasks
from ownship.envs.rubric import Score
from ownship.envs.sums import Sums
from ownship.errors import UserError
from ownship.learn import rollout
from ownship.learn.advantage import centered, leave_one_out, max_rl, normalized, overlong_penalty, token_weight
from ownship.learn.curriculum import Curriculum
from ownship.learn.doctor import diagnose
from ownship.learn.learner import Learner, Optim
from ownship.learn.loss import PolicyGradient, imitation
from ownship.learn.pack import pack
from ownship.learn.rollout import Rollout
from ownship.learn.run import Run
from ownship.learn.sample import Sample, supervised
from ownship.model import checkpoint, zoo
from ownship.model.chat import Chat, Message
from ownship.model.head import logprobs


def test_advantages_by_hand() -> None:
    rewards_G = np.array([1.0, 0.0, 0.0, 0.0])
    assert centered(rewards_G).tolist() == [0.75, -0.25, -0.25, -0.25]
    assert leave_one_out(rewards_G) == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])
    assert max_rl(rewards_G).tolist() == [3.0, -1.0, -1.0, -1.0]
    assert normalized(rewards_G) == pytest.approx(np.array([0.75, -0.25, -0.25, -0.25]) / (0.5 + 1e-4))
    assert max_rl(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_what_a_token_weighs_by_hand() -> None:
    """Replies of 4 and 1 tokens, at most 8 long; a loss of 1 on each token of the first."""
    for weighting, expected in (("token", 4 / 5), ("sequence", 1 / 2), ("constant", 4 / 16)):
        (weight, first), (_, second) = (token_weight(weighting, drawn, 8) for drawn in (4, 1))  # type: ignore[arg-type]
        assert 4 * weight / (first + second) == expected
        assert token_weight(weighting, 0, 8) == (0.0, 0.0)  # type: ignore[arg-type]


def test_overlong_penalty_by_hand() -> None:
    assert [overlong_penalty(length, 10) for length in (1, 8, 9, 10, 11)] == [0, 0, -0.5, -1, -1]


def one_token(logprob: float, sampled: float, advantage: float) -> float:
    sample = Sample([1, 2], 1, [0.0, 1.0], [0.0, sampled], [0.0, advantage])
    return float(PolicyGradient()(torch.tensor([logprob]), pack([sample], 10)[0]))


def test_policy_gradient_by_hand() -> None:
    assert one_token(-1.0, -1.0, 2.0) == pytest.approx(-2.0)  # ratio 1
    assert one_token(0.0, -1.0, 2.0) == pytest.approx(-2.56)  # clipped at 1.28
    assert one_token(-2.0, -1.0, 2.0) == pytest.approx(-2 * np.exp(-1))  # below: not clipped for A > 0
    assert one_token(-2.0, -1.0, -1.0) == pytest.approx(0.8)  # clipped at 0.8 for A < 0
    assert one_token(0.0, -1.0, -1.0) == pytest.approx(np.exp(1), rel=1e-6)
    assert one_token(1.0, -4.0, -1.0) == pytest.approx(3.0)  # dual clip


def test_pack_reads_a_shared_prompt_once() -> None:
    group = [Sample([5, 6, 7, *tail], 3, [0.0] * 3 + [1.0] * len(tail), [0.0] * (3 + len(tail)), [0.0] * (3 + len(tail)))
             for tail in ([1], [2, 3], [4, 5, 6])]
    (only,) = pack(group, 100)
    assert len(only.tokens) == 3 + 6
    assert only.targets.tolist() == [4, 5, 6, 2, 3, 1]
    assert only.source.tolist() == [2, 3, 4, 2, 6, 2]  # each first token is predicted from the prompt's last
    assert only.positions.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 3]
    assert pack([Sample([1, 2], 2, [0.0] * 2, [0.0] * 2, [0.0] * 2)], 10) == []  # nothing to train


def test_samples_of_different_prompts_do_not_see_each_other() -> None:
    model, _ = tiny_model()
    samples = [supervised([1, 2, 3, 4], [False, False, True, True]), supervised([9, 8, 7], [False, True, True])]
    (both,) = pack(samples, 100)
    alone = [pack([sample], 100)[0] for sample in samples]
    with torch.no_grad():
        together = model(both.tokens, both.positions, both.attention)[both.source]
        apart = torch.cat([model(one.tokens, one.positions, one.attention)[one.source] for one in alone])
    assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampler_and_learner_agree(dtype: torch.dtype) -> None:
    """The engine's log-probabilities are the learner's, alone and among 64 requests of unequal lengths."""
    model, tokenizer = tiny_model()
    model = model.to(dtype)
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(256, (int(size),), generator=draw).tolist() for size in torch.randint(3, 60, (64,), generator=draw)]
    for chosen in (prompts[:1], prompts):
        engine = Engine(model, tokenizer)
        completions = engine.generate([Request(prompt, Sampling(max_tokens=30, seed=i)) for i, prompt in enumerate(chosen)])
        samples = []
        for prompt, completion in zip(chosen, completions, strict=True):
            zeros, drawn = [0.0] * len(prompt), len(completion.tokens)
            samples.append(Sample(prompt + completion.tokens, len(prompt), zeros + [1.0] * drawn, zeros + completion.logprobs,
                                  zeros + [1.0] * drawn))
        measured = Learner(model, Optim(lr=0.0)).update(samples, PolicyGradient())
        assert measured["mismatch"] <= (1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_sampler_and_learner_agree_on_the_default_model(dtype: torch.dtype, most: float) -> None:
    """At temperature 1 and 3 nats of entropy a token, where every rounding counts: one by one, and 64 of unequal lengths."""
    model, tokenizer = checkpoint.load(zoo.resolve(zoo.DEFAULT), dtype)
    engine, chat = Engine(model, tokenizer), Chat(tokenizer)
    topics = ["ships", "the sea", "maps", "captains", "whales", "storms", "sails", "islands"]
    requests = [Request(chat.prompt([{"role": "user", "content": f"Tell me about {topics[index % 8]} in {index} words."}]),
                        Sampling(max_tokens=4 + index % 20, seed=index)) for index in range(64)]
    for apart in (True, False):
        chosen = requests[::8] if apart else requests
        done = [engine.generate([request])[0] for request in chosen] if apart else engine.generate(chosen)
        samples = []
        for request, completion in zip(chosen, done, strict=True):
            zeros, drawn = [0.0] * len(request.prompt), len(completion.tokens)
            samples.append(Sample(request.prompt + completion.tokens, len(zeros), zeros + [1.0] * drawn,
                                  zeros + completion.logprobs, zeros + [1.0] * drawn))
        gap = count = 0.0
        for part in [pack([sample], 4096)[0] for sample in samples] if apart else pack(samples, 4096):
            hidden = model(part.tokens, part.positions, part.attention)  # as in training: gradients are kept
            found, _ = logprobs(model, hidden[part.source], part.targets)
            gap, count = gap + float((found.detach() - part.logprobs).abs().sum()), count + len(found)
        assert gap / count <= most


def test_the_learner_refuses_what_other_weights_drew() -> None:
    model, tokenizer = tiny_model()
    engine, learner = Engine(model, tokenizer), Learner(model, Optim(lr=1e-2, warmup=1))
    drawn = engine.generate([Request([1, 2, 3], Sampling(max_tokens=2, seed=1, ignore_eos=True))])[0]
    sample = Sample([1, 2, 3, *drawn.tokens], 3, [0.0] * 3 + [1.0] * 2, [0.0] * 3 + drawn.logprobs, [0.0] * 3 + [1.0] * 2,
                    drawn.fingerprint)
    learner.update([sample], PolicyGradient())
    assert engine.weights_changed() == learner.fingerprint != drawn.fingerprint
    before = learner.tensors()["weight.norm.weight"].clone()
    with pytest.raises(ValueError, match=drawn.fingerprint):
        learner.update([sample], PolicyGradient())
    assert torch.equal(learner.tensors()["weight.norm.weight"], before) and learner.updates == 1
    learner.update([sample], PolicyGradient(), drawn_from=[drawn.fingerprint])  # unless told that these are earlier ones
    assert learner.updates == 2


def test_a_second_learner_of_the_same_network_learns_as_the_first() -> None:
    """What one learner does with bf16 gradients ends with its update: the network may have another learner later."""
    sample = Sample([1, 2, 3, 4, 5], 3, [0.0] * 3 + [1.0] * 2, [0.0] * 5, [0.0] * 3 + [1.0] * 2)
    model = tiny_model()[0].bfloat16()
    first = Learner(model, Optim(lr=0.0))
    first.update([sample], PolicyGradient())
    before = {name: master.grad.clone() for name, master in first.params.items() if master.grad is not None}
    second = Learner(model, Optim(lr=1e-2, warmup=1))
    second.update([sample], PolicyGradient())
    assert before and all(torch.equal(first.params[name].grad, grad) for name, grad in before.items())  # type: ignore[arg-type]
    fresh = Learner(tiny_model()[0].bfloat16(), Optim(lr=1e-2, warmup=1))
    fresh.update([sample], PolicyGradient())
    assert second.fingerprint == fresh.fingerprint != first.fingerprint


def test_learner_fits_and_the_engine_sees_it() -> None:
    model, tokenizer = tiny_model()
    model = model.bfloat16()
    engine, chat = Engine(model, tokenizer), Chat(tokenizer)
    before = engine.fingerprint
    lesson: list[Message] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    learner = Learner(model, Optim(lr=1e-2, warmup=1))
    losses = [learner.update([supervised(*chat.render(lesson))], imitation)["loss"] for _ in range(30)]
    assert losses[-1] < 0.05 < losses[0]
    assert engine.weights_changed() != before
    reply = engine.generate([Request(chat.prompt(lesson[:1]), Sampling(temperature=0, max_tokens=9))])[0]
    assert (reply.text, reply.finish) == ("ho", "stop")


def test_an_interrupted_update_leaves_the_weights() -> None:
    model, _ = tiny_model()
    learner = Learner(model, Optim(lr=1e-2))
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def tick(tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.update([supervised([1, 2, 3], [False, True, True])], imitation, tick)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


class Echo(Sums):
    """Two turns: after the first reply the environment asks once more."""

    def reply(self, task: Task, messages: list[Message]) -> list[Message]:  # type: ignore[override]
        return [{"role": "user", "content": "Sure?"}] if len(messages) == 2 else []


def test_several_turns_train_on_the_tokens_that_were_drawn() -> None:
    model, tokenizer = tiny_model()
    engine = Engine(model, tokenizer)
    env = Echo(2, 2, 3)
    stream = tasks(env, "train")
    played = rollout.play(engine, env, [next(stream) for _ in range(6)], Sampling(max_tokens=12), seed="x")
    turns = {len(item.messages) for item in played}
    assert turns <= {2, 4}
    chat = Chat(tokenizer)
    for item in played:
        assert len(item.tokens) == len(item.drawn) == len(item.logprobs)
        if item.finish == "stop" and len(item.messages) == 4 and "\ufffd" not in str(item.messages):
            ids, mask = chat.render(item.messages)
            assert ids[: len(item.tokens)] == item.tokens
            assert mask[: len(item.tokens)] == item.drawn
    assert rollout.play(engine, env, [item.task for item in played], Sampling(max_tokens=12), seed="x") == played


def graded(reward: float, finish: str = "stop") -> Rollout:
    task = Task("sums", 0, ({"role": "user", "content": "?"},), "1", "1")
    return Rollout(task, [], [1, 2, 3], 2, [False, False, True], [0.0, 0.0, -1.0], "weights", finish, score=Score(reward, {}))  # type: ignore[arg-type]


def test_flat_groups_and_truncated_replies_give_no_samples() -> None:
    assert rollout.samples([graded(1.0), graded(1.0)], centered) == []
    made = rollout.samples([graded(1.0), graded(0.0), graded(0.0, "length")], centered)
    assert [sample.advantages[-1] for sample in made] == pytest.approx([2 / 3, -1 / 3])
    assert {sample.policy for sample in made} == {"weights"}


def test_overlong_replies() -> None:
    long, short = (replace(graded(1.0, finish), last=last) for finish, last in (("length", 10), ("stop", 9)))
    group = [long, short, graded(0.0)]
    kept = rollout.samples(group, centered, overlong="none")
    assert [sample.advantages[-1] for sample in kept] == pytest.approx([1 / 3, 1 / 3, -2 / 3])
    penalized = rollout.samples(group, centered, overlong="penalty", max_tokens=10)  # rewards 0, ½ and 0
    assert [sample.advantages[-1] for sample in penalized] == pytest.approx([-1 / 6, 1 / 3, -1 / 6])
    assert [sample.divisor for sample in rollout.samples(group, centered, "constant", "none", 10)] == [1.0, 1.0, 1.0]
    assert rollout.samples(group, centered, "constant", "none", 10)[0].weights == [0.0, 0.0, 0.1]


def test_curriculum_prefers_what_is_sometimes_solved() -> None:
    env = Sums(4, 7)
    curriculum = Curriculum({"4": 1.0, "5": 0.5, "6": 0.0})
    chosen = curriculum.choose(tasks(env, "train"), "seed")
    levels = [next(chosen).level for _ in range(400)]
    assert levels.count(5) > 5 * levels.count(4) > 0
    assert levels.count(5) > 5 * levels.count(6) > 0
    assert levels.count(7) > 100  # not known yet
    curriculum.learn(env.task(0), [True, False])
    assert Curriculum(json.loads(json.dumps(curriculum.rates))).rates == curriculum.rates


HEALTHY = {"flat_groups": 0.2, "solve_rate": 0.5, "truncated": 0.0, "stopped": 1.0, "mismatch": 0.01, "entropy": 0.5,
           "weights_changed": 1.0, "trained_tokens": 9.0, "same_weights": 1.0, "effective_samples": 0.99, "clipped": 0.01,
           "left_out": 0.0}


@pytest.mark.parametrize(("ill", "word"), [
    ({"flat_groups": 1.0}, "flat"), ({"flat_groups": 0.9}, "flat"),
    ({"truncated": 0.9}, "max_tokens"), ({"trained_tokens": 0.0}, "nothing was trained on"), ({"stopped": 0.0}, "stop token"),
    ({"mismatch": 0.5}, "disagree"), ({"mismatch": 0.06}, "grows"), ({"same_weights": 0.0}, "fingerprints"),
    ({"effective_samples": 0.3}, "worth 30%"), ({"clipped": 0.4}, "40% of the tokens are clipped"),
    ({"left_out": 0.4}, "leaves out 40%"), ({"entropy": 0.01}, "entropy"), ({"weights_changed": 0.0}, "did not change")])
def test_doctor(ill: dict[str, float], word: str) -> None:
    assert diagnose(HEALTHY, [HEALTHY] * 3) == []
    (warning,) = diagnose({**HEALTHY, **ill}, [HEALTHY] * 3)
    assert word in warning


def test_run_keeps_the_last_whole_checkpoint(tmp_path: Path) -> None:
    learner = Learner(tiny_model()[0], Optim(lr=1e-2))
    run = Run(tmp_path / "run", {"a": 1})
    for _ in range(3):
        learner.update([supervised([1, 2, 3], [False, True, True])], imitation)
        run.log("metrics", loss=1.0)
        run.finish_step(learner, save_every=1)
    run.log("metrics", loss=2.0)  # a step that was never saved
    (tmp_path / "run" / "checkpoints" / ".000009.part-1").mkdir()  # a save that was never finished
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    again = Run(tmp_path / "run", {"a": 1})
    assert again.step == 3
    assert [line["step"] for line in again.read("metrics")] == [1, 2, 3]
    fresh = Learner(tiny_model(seed=5)[0], Optim(lr=1e-2))
    again.restore(fresh)
    first, second = (x.update([supervised([3, 2, 1], [False, True, True])], imitation) for x in (learner, fresh))
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(learner.model.parameters(), fresh.model.parameters(), strict=True))


def test_run_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(UserError, match="not empty and not a run"):
        Run(tmp_path, {})
