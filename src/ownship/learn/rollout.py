"""Episodes: tasks go to the sampler, what comes back is scored, and becomes training samples.

The token ids that the sampler emitted are the ones trained on. Over several turns the stream is only ever extended: by
what the model said (weight 1) and by what the environment answered (weight 0), results of tools included. Nothing is tokenised
twice: what the model said is read (where a task has tools, into their calls), and never written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ownship.engine.request import Completion, Finish, Request, Sampling
from ownship.envs.env import Env, Task
from ownship.envs.rubric import Score
from ownship.learn.advantage import Floats, Weighting, overlong_penalty, token_weight
from ownship.learn.sample import Sample
from ownship.model import toolcalls
from ownship.model.chat import Chat, Message
from ownship.model.tokenizer import Tokenizer


class Sampler(Protocol):
    """What draws completions: the engine in this process, or a server (learn/remote.py). `fingerprint` is that of its weights."""

    tokenizer: Tokenizer
    fingerprint: str

    @property
    def capacity(self) -> int:
        """The most tokens, of prompt and reply together, that a request may have."""

    def generate(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Completion]: ...

    def rest(self) -> None:
        """Gives up, until requests come again, what memory it can."""

    def weights_changed(self) -> str:
        """To be called after an update of the network's weights; returns their fingerprint."""


@dataclass
class Rollout:
    """One episode: the conversation, its tokens, and which of them the model drew with what log-probability."""

    task: Task
    messages: list[Message]
    tokens: list[int]
    prompt: int  # leading tokens of the first prompt
    drawn: list[bool]  # per token: was it the model's
    logprobs: list[float]  # per token, 0 where not drawn
    fingerprint: str = ""
    finish: Finish = "stop"
    last: int = 0  # tokens of the last turn
    score: Score = field(default_factory=lambda: Score(0.0, {}))

    @property
    def reply(self) -> str:
        return self.messages[-1]["content"]

    @property
    def truncated(self) -> bool:
        return self.finish == "length"

    def record(self, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
        """What a viewer shows of it. With the tokenizer also the tokens after the prompt, as texts ("" for a special one and for
        a part of a character, which then stands with the next), and their log-probabilities, null where they were not drawn."""
        record = {"seed": self.task.seed, "messages": self.messages, "answer": self.task.answer, "reward": self.score.reward,
                  "parts": self.score.parts, "finish": self.finish, "fingerprint": self.fingerprint}
        if self.task.tools:
            record["tools"] = self.task.tools
        if tokenizer is not None:
            stream, rest = tokenizer.stream(), slice(self.prompt, None)
            record["tokens"] = [stream.push(token) for token in self.tokens[rest]]
            record["logprobs"] = [round(logprob, 3) if drawn else None
                                  for logprob, drawn in zip(self.logprobs[rest], self.drawn[rest], strict=True)]
        return record


def training_sampling(max_tokens: int) -> Sampling:
    """Temperature 1 and nothing cut off: the learner's probabilities are then the sampler's, and the ratios unbiased."""
    return Sampling(temperature=1.0, max_tokens=max_tokens)


def play(sampler: Sampler, env: Env, tasks: Sequence[Task], sampling: Sampling, seed: str,
         progress: Callable[[int], None] | None = None, first: int = 0) -> list[Rollout]:
    """Plays each task to its end, all side by side, and scores it.

    `sampling.max_tokens` bounds one turn, and an episode that fills the model's context is truncated. Every draw follows from
    `seed`, the turn and the task's place: `first` is that of the first of them, which may be a stretch of many
    (learn/distributed.py).
    """
    chat = Chat(sampler.tokenizer)
    rollouts = []
    for task in tasks:
        prompt = chat.prompt(task.messages, task.tools)
        rollouts.append(Rollout(task, list(task.messages), prompt, len(prompt), [False] * len(prompt), [0.0] * len(prompt)))
    active, turn = list(range(len(rollouts))), 0
    while active:
        requests = [_request(rollouts[index], sampling, _seed(seed, first + index, turn), sampler.capacity if turn else None)
                    for index in active]
        going_on = []
        for index, completion in zip(active, sampler.generate(requests, progress), strict=True):
            rollout = rollouts[index]
            rollout.tokens += completion.tokens
            rollout.drawn += [not forced for forced in completion.forced]  # what a grammar forced was not drawn
            rollout.logprobs += completion.logprobs
            rollout.fingerprint, rollout.finish = completion.fingerprint, completion.finish
            rollout.last = len(completion.tokens)
            said: Message = {"role": "assistant", "content": completion.text}
            rollout.messages.append(toolcalls.message(completion.text) if rollout.task.tools else said)
            answer = [] if completion.finish == "length" else env.reply(rollout.task, rollout.messages)
            if answer:
                between = chat.between(rollout.messages, answer, rollout.task.tools)
                if len(rollout.tokens) + len(between) >= sampler.capacity:
                    rollout.finish = "length"
                    continue
                rollout.messages += answer
                rollout.tokens += between
                rollout.drawn += [False] * len(between)
                rollout.logprobs += [0.0] * len(between)
                going_on.append(index)
        active, turn = going_on, turn + 1
    for rollout in rollouts:
        rollout.score = env.rubric.score(rollout.task, rollout.messages)
    return rollouts


def _request(rollout: Rollout, sampling: Sampling, seed: int, capacity: int | None) -> Request:
    """The next turn; with `capacity`, no longer than there is room for."""
    longest = sampling.max_tokens if capacity is None else min(sampling.max_tokens, capacity - len(rollout.tokens))
    return Request(list(rollout.tokens), replace(sampling, seed=seed, max_tokens=longest))


OVERLONG = {"mask": "do not train on a truncated reply", "penalty": "take from the reward as a turn comes near its bound (DAPO)",
            "none": "train on it like on any other"}


def samples(group: Sequence[Rollout], advantage: Callable[[Floats], Floats], weighting: Weighting = "token",
            overlong: str = "mask", max_tokens: int = 1) -> list[Sample]:
    """The training samples of one task's rollouts; empty if all rewards are equal, as nothing is to be learned then.

    A truncated rollout counts in the group's mean but, with `overlong` "mask", is not trained on: its reward says nothing about
    the tokens that it did draw. The other ways are in OVERLONG. `max_tokens` bounds a turn ("penalty", and the weighting
    "constant").
    """
    rewards_G = np.array([rollout.score.reward for rollout in group])
    if overlong == "penalty":
        rewards_G = rewards_G + [overlong_penalty(rollout.last, max_tokens) for rollout in group]
    if np.ptp(rewards_G) == 0:
        return []
    result = []
    for rollout, value in zip(group, advantage(rewards_G), strict=True):
        if rollout.truncated and overlong == "mask":
            continue
        weight, divisor = token_weight(weighting, sum(rollout.drawn), max_tokens)
        weights = [weight * drawn for drawn in rollout.drawn]
        advantages = [float(value) * drawn for drawn in rollout.drawn]
        result.append(Sample(rollout.tokens, rollout.prompt, weights, rollout.logprobs, advantages, rollout.fingerprint,
                             divisor=divisor))
    return result


def groups(rollouts: Sequence[Rollout], size: int) -> Iterator[Sequence[Rollout]]:
    """Consecutive stretches of `size` rollouts: those of one task."""
    for start in range(0, len(rollouts), size):
        yield rollouts[start : start + size]


def measure(rollouts: Sequence[Rollout], size: int) -> dict[str, float]:
    """What a step's rollouts say: reward and its parts, solve rate, flat groups, truncation, stops, length; shares are 0–1."""
    rewards_NG = np.array([[rollout.score.reward for rollout in group] for group in groups(rollouts, size)])
    names = rollouts[0].score.parts
    parts = {f"part/{name}": float(np.mean([rollout.score.parts[name] for rollout in rollouts])) for name in names}
    return {
        "reward": float(rewards_NG.mean()), **parts,
        "solve_rate": float((rewards_NG == 1.0).mean()),
        "flat_groups": float((np.ptp(rewards_NG, axis=1) == 0).mean()),
        "truncated": float(np.mean([rollout.truncated for rollout in rollouts])),
        "stopped": float(np.mean([rollout.finish == "stop" for rollout in rollouts])),
        "drawn_tokens": float(np.mean([sum(rollout.drawn) for rollout in rollouts])),
        "completions": float(len(rollouts)),
    }


def _seed(seed: str, index: int, turn: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {index} {turn}".encode()).digest()[:6])
