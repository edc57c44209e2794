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
    if now.get("trained_tokens") == 0.0 and now["flat_groups"] < 1.0:
        warnings.append("nothing was trained on: each group is flat, or all its replies hit the token limit; raise max_tokens")
    if now["stopped"] == 0.0:
        warnings.append("the stop token was never sampled: the model does not know how to end a turn")
    if now.get("same_weights") == 0.0:
        warnings.append("the sampler's weights are not the learner's (their fingerprints differ): what it draws now is of an old"
                        " policy")
    mismatch = now.get("mismatch", 0.0)
    at_first = _mean(history, "mismatch")
    if now.get("staleness"):
        if mismatch > 0.1:
            warnings.append(f"the samples are {now['staleness']:.0f} updates old, and the policy has moved (mean |Δ log π| ="
                            f" {mismatch:.3f}): a smaller --stale, or a lower learning rate")
    elif mismatch > 0.1:
        warnings.append(f"sampler and learner disagree (mean |Δ log π| = {mismatch:.3f}): their weights or their numerics differ")
    elif at_first is not None and mismatch > max(0.02, 5 * at_first):
        warnings.append(f"the mismatch of sampler and learner grows: mean |Δ log π| was {at_first:.4f} and is {mismatch:.4f};"
                        " train in float32, or with a --correction")
    if now.get("effective_samples", 1.0) < 0.5:
        warnings.append(f"the samples are worth {now['effective_samples']:.0%} of their number (effective sample size of π/μ): few"
                        " tokens decide the update; fewer epochs, or a lower learning rate")
    if now.get("clipped", 0.0) > 0.3:
        warnings.append(f"{now['clipped']:.0%} of the tokens are clipped: the policy is far from the one that drew them; fewer"
                        " epochs, or a lower learning rate")
    if now.get("left_out", 0.0) > 0.3:
        warnings.append(f"the correction leaves out {now['left_out']:.0%} of the tokens: sampler and learner are too far apart")
    earlier = _mean(history, "entropy")
    if earlier is not None and "entropy" in now and now["entropy"] < 0.1 * earlier:
        warnings.append(f"entropy has collapsed to {now['entropy']:.4f}: the model no longer explores; lower the learning rate")
    if now.get("weights_changed") == 0.0 and now.get("trained_tokens", 0.0) > 0:
        warnings.append("the weights did not change in this update: the learning rate is 0 or too small for the precision")
    return warnings


def _mean(history: Sequence[Mapping[str, float]], name: str) -> float | None:
    """Of the first five steps; None if none of them has it."""
    values = [step[name] for step in history[:5] if name in step]
    return sum(values) / len(values) if values else None
