"""Plain-language warnings about a reinforcement-learning step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def diagnose(now: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> list[str]:
    """What ails this step, judged by its metrics and those of the steps before; empty if nothing does."""
    warnings = []
    if now["flat_groups"] == 1.0:
        solved = now["solve_rate"]
        remedy = "make the tasks harder" if solved > 0.5 else "make the tasks easier, or give a longer cold start"
        warnings.append(f"every group is flat (solve rate {solved:.0%}): nothing can be learned; {remedy}")
    elif now["flat_groups"] > 0.75:
        warnings.append(f"{now['flat_groups']:.0%} of the groups are flat: most of the sampling teaches nothing")
    if now["truncated"] > 0.5:
        warnings.append(f"{now['truncated']:.0%} of the replies hit the token limit: raise max_tokens")
    if now["stopped"] == 0.0:
        warnings.append("the stop token was never sampled: the model does not know how to end a turn")
    mismatch = now.get("mismatch", 0.0)
    if mismatch > 0.1:
        warnings.append(f"sampler and learner disagree (mean |Δ log π| = {mismatch:.3f}): their weights or their numerics differ")
    earlier = [step["entropy"] for step in history[:5] if "entropy" in step]
    if earlier and "entropy" in now and now["entropy"] < 0.1 * (sum(earlier) / len(earlier)):
        warnings.append(f"entropy has collapsed to {now['entropy']:.4f}: the model no longer explores; lower the learning rate")
    if now.get("weights_changed") == 0.0 and now.get("trained_tokens", 0.0) > 0:
        warnings.append("the weights did not change in this update: the learning rate is 0 or too small for the precision")
    return warnings
