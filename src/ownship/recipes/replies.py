"""Replies for a page, token by token: the less likely the model thought a token that it drew, the more it stands out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

_MOMENTS = 3  # the first, the middle and the last recorded step
_TASKS = 2  # of each of them
_STRONG = 4.0  # nats at which the colour is full: a probability of 2 %


def replies(name: str, colour: str, lines: Sequence[dict[str, Any]]) -> str:
    """HTML of some of a run's rollouts: per task the best and the worst reply, early, midway and late; "" if there are none."""
    lines = [line for line in lines if line.get("rollouts")]
    if not lines:
        return ""
    chosen = dict.fromkeys(round(at * (len(lines) - 1) / (_MOMENTS - 1)) for at in range(_MOMENTS))
    steps = "".join(f"<h3>Step {lines[at]['step']}</h3>{''.join(map(_task, _groups(lines[at]['rollouts'])))}" for at in chosen)
    return (f'<h2>What it said <small style="color:{colour}">{escape(name)}</small></h2><p class="legend key">'
            '<i>A token is the more coloured, the less likely it was when it was drawn:</i>'
            + "".join(f'<span class="token" style="--s:{_strength(math.log(share)):.2f}">{share:.0%}</span>'
                      for share in (0.99, 0.5, 0.2, 0.02)) + f"</p>{steps}")


def _groups(rollouts: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The replies to each of the first tasks."""
    tasks: dict[Any, list[dict[str, Any]]] = {}
    for rollout in rollouts:
        tasks.setdefault(rollout["seed"], []).append(rollout)
    return list(tasks.values())[:_TASKS]


def _task(group: Sequence[dict[str, Any]]) -> str:
    best, worst = (pick(group, key=lambda rollout: rollout["reward"]) for pick in (max, min))
    shown = [best] if best["reward"] == worst["reward"] else [best, worst]
    rewards = [rollout["reward"] for rollout in group]
    question = next((message["content"] for message in group[0]["messages"] if message["role"] == "user"), "")
    question = re.sub(r"\n\s*\n", "\n", question)
    cards = "".join(f'<div class="{"right" if reply["reward"] >= 1 else "wrong"}"><b>reward {reply["reward"]:.3g}</b>'
                    f"<small> {rewards.count(reply['reward'])} of {len(group)} · {escape(str(reply['finish']))}</small>"
                    f"<p>{_reply(reply)}</p></div>" for reply in shown)
    return (f'<section class="card task"><h4>{escape(question)}</h4><p class="expected">Expected: '
            f'<code>{escape(str(group[0]["answer"]))}</code></p><div class="pair">{cards}</div></section>')


def _reply(rollout: dict[str, Any]) -> str:
    """The tokens with their probabilities; the bare text if the run did not keep them."""
    if "tokens" not in rollout:
        said = [message["content"] for message in rollout["messages"] if message["role"] == "assistant"]
        return escape("\n\n".join(said)) or "<i>(nothing)</i>"
    shown: list[str] = []
    held: float | None = None  # of tokens that show nothing: part of a character, or the end of the turn
    for text, logprob in zip(rollout["tokens"], rollout["logprobs"], strict=True):
        if logprob is None:
            shown.append(f'<span class="given">{escape(text)}</span>')
        elif text:
            shown.append(_token(text, logprob + (held or 0.0)))
            held = None
        else:
            held = logprob + (held or 0.0)
    if held is not None:
        shown.append(_token("■", held))
    return "".join(shown) or "<i>(nothing)</i>"


def _token(text: str, logprob: float) -> str:
    return (f'<span class="token" style="--s:{_strength(logprob):.2f}" title="{math.exp(logprob):.1%}, log p {logprob:.2f}">'
            f"{escape(text)}</span>")


def _strength(logprob: float) -> float:
    return min(max(0.0, -logprob) / _STRONG, 1.0)


REPLIES_STYLE = """
h3 { font-size: .95rem; margin: 22px 0 8px; color: var(--quiet); font-weight: 600; }
h4 { font-size: .95rem; font-weight: 600; margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
.task { margin-bottom: 12px; }
.expected { margin: 2px 0 12px; font-size: .9rem; color: var(--quiet); overflow-wrap: anywhere; }
.key { align-items: center; } .key i { color: var(--quiet); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 14px; }
.pair div { border-left: 3px solid var(--line); padding-left: 12px; min-width: 0; }
.pair .right { border-color: var(--good); } .pair .wrong { border-color: var(--bad); }
.pair b { font-size: .85rem; font-weight: 600; }
.pair p { margin: 4px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font: .88rem/1.6 ui-monospace, monospace; }
.token { background: color-mix(in srgb, var(--hot) calc(var(--s) * 75%), transparent); border-radius: 3px; padding: 1px 0; }
.key .token { padding: 1px 8px; font-size: .8rem; border: 1px solid var(--line); } .key .token::before { display: none; }
.given { color: var(--quiet); font-style: italic; }
:root { --hot: #f0a13a; } @media (prefers-color-scheme: dark) { :root { --hot: #c9731a; } }
"""
