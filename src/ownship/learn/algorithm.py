"""Reinforcement-learning algorithms: one line each.

**Which ratio.** μ is what the sampler says of the tokens it drew, π_old the learner before the first update on them, π the
learner now. π_old and μ have the same weights and differ by rounding (or by staleness, with a sampler of older weights); π
differs from π_old only from the second epoch on.

- A clip over single tokens takes π/μ: one ratio for both differences, and no forward pass for π_old.
- A clip over whole sequences takes π/π_old (`recomputed`): GSPO's bounds of 0.0003 lie below the rounding between π_old and μ,
  and would throw out half of all sequences at random.
- A correction that weighs π_old/μ (TIS, IcePop, the geometric mask) leaves π/π_old to the clip of any algorithm: π/μ would
  count the same difference twice. DPPO-TV looks at π − μ and leaves the ratio as it is.

With one epoch π_old is π, and costs nothing; with more it costs one forward pass per batch of rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ownship.learn.advantage import Floats, Weighting, centered, leave_one_out, normalized
from ownship.learn.correction import Correction
from ownship.learn.loss import Cispo, PolicyGradient, Reinforce, Surrogate, log_ratio, reference_kl
from ownship.learn.pack import Pack


@dataclass(frozen=True)
class Algorithm:
    """How rewards become advantages, what is minimized, and what the sum over tokens is divided by."""

    advantage: Callable[[Floats], Floats]
    surrogate: Surrogate
    weighting: Weighting
    recomputed: bool = False  # the surrogate's ratio is π/π_old instead of π/μ


ALGORITHMS: dict[str, Algorithm] = {
    # The project's own: Dr. GRPO's advantage, DAPO's bounds and mean over tokens, a dual clip.
    "dual_clip": Algorithm(centered, PolicyGradient(), "token"),
    "grpo": Algorithm(normalized, PolicyGradient(0.2, 0.2, None), "sequence"),  # arXiv:2402.03300
    "dr_grpo": Algorithm(centered, PolicyGradient(0.2, 0.2, None), "constant"),  # arXiv:2503.20783
    "dapo": Algorithm(normalized, PolicyGradient(0.2, 0.28, None), "token"),  # arXiv:2503.14476
    "rloo": Algorithm(leave_one_out, PolicyGradient(0.2, 0.2, None, "sum"), "sequence", recomputed=True),  # arXiv:2402.14740
    "reinforce": Algorithm(centered, Reinforce(), "token"),  # Williams 1992; the group's mean is the baseline
    "cispo": Algorithm(normalized, Cispo(), "token"),  # arXiv:2506.13585
    "gspo": Algorithm(normalized, PolicyGradient(3e-4, 4e-4, None, "mean"), "sequence", recomputed=True),  # arXiv:2507.18071
}


@dataclass(frozen=True)
class Policy:
    """The loss that the learner is given: factor · surrogate + kl · KL(π ‖ reference), [M].

    With `kl` the samples must carry the reference's log-probabilities; with `recomputed` and more than one epoch, π_old's.
    """

    surrogate: Surrogate
    correction: Correction | None = None
    recomputed: bool = False
    kl: float = 0.0

    @property
    def needs_old(self) -> bool:
        """Whether π_old plays a part: from the second epoch on, the samples must then carry it."""
        return self.recomputed or (self.correction is not None and self.correction.recomputed)

    def __call__(self, logprobs: Tensor, pack: Pack) -> Tensor:
        losses = self.surrogate(logprobs, self._anchored(logprobs, pack))
        if self.correction is not None:
            losses = losses * self._factor(self.correction, logprobs, pack)
        if self.kl:
            assert pack.reference is not None, "the samples carry no log-probabilities of the reference"
            losses = losses + self.kl * reference_kl(logprobs, pack.reference)
        return losses

    def measure(self, logprobs: Tensor, pack: Pack) -> dict[str, float]:
        """What to watch, as weighted sums over the tokens: π/μ and its square (the effective sample size, as a share, is mean² /
        mean of squares), what is clipped, what the correction leaves out, and the KL to the reference."""
        ratio = log_ratio(logprobs, pack).exp()
        found = {"ratio": ratio, "ratio_squared": ratio.square(),
                 "clipped": self.surrogate.clipped(logprobs, self._anchored(logprobs, pack)).float()}
        if self.correction is not None:
            found["left_out"] = (self._factor(self.correction, logprobs, pack) == 0).float()
        if pack.reference is not None:
            found["kl"] = reference_kl(logprobs, pack.reference)
        return {name: float((value * pack.weights).sum()) for name, value in found.items()}

    def _anchored(self, logprobs: Tensor, pack: Pack) -> Pack:
        """The pack with the log-probabilities that the surrogate's ratio is measured from."""
        return replace(pack, logprobs=_old(logprobs, pack)) if self.needs_old else pack

    @staticmethod
    def _factor(correction: Correction, logprobs: Tensor, pack: Pack) -> Tensor:
        return correction.factor(_old(logprobs, pack) if correction.recomputed else logprobs, pack)


def _old(logprobs: Tensor, pack: Pack) -> Tensor:
    return logprobs.detach() if pack.old is None else pack.old
