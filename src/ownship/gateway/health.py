"""What is remembered of an upstream between requests: whether to call it, how often to call again, how fast it answers.

All times are the event loop's clock, which is `time.monotonic`.
"""

from __future__ import annotations

import logging
from collections import deque

from ownship.gateway.config import BreakerTable

_REMEMBERED = 50  # calls on which a breaker judges
_RESERVE = 10.0  # retries that are always there, so that a quiet service may retry at all
_LEARN = 0.2  # weight of the newest measurement in a moving average
_HEDGE_SAMPLES = 20  # fewer say nothing of the 95th percentile


class Breaker:
    """Stops calling an upstream that fails: closed → open → half-open (one probe at a time) → closed.

    It opens when `rate` of the calls of the last `window` seconds failed, of at least `minimum`. What the client did wrong does not
    count, and neither does what began before the last change of state. A reply that breaks off counts once as good (it began) and
    once as bad.
    """

    def __init__(self, name: str, settings: BreakerTable) -> None:
        self.name, self.settings = name, settings
        self.opened: float | None = None  # when
        self.probing = False
        self._calls: deque[tuple[float, bool]] = deque(maxlen=_REMEMBERED)
        self._generation = 0
        self._failed = float("-inf")  # when a call last failed

    def wait(self, now: float) -> float:
        """Seconds until a call may be made; 0 is now."""
        if self.opened is None:
            return 0.0
        left = self.opened + self.settings.open - now
        return left if left > 0 else 1.0 if self.probing else 0.0

    def admit(self, now: float) -> int | None:
        """A permit for one call, which is handed back to `record` or `release`; None if there is none."""
        if self.wait(now) > 0:
            return None
        self.probing = self.opened is not None
        return self._generation

    def record(self, permit: int, ok: bool, now: float) -> None:
        if permit != self._generation:
            return
        if self.opened is not None:
            self._turn(None if ok else now)
            return
        self._calls.append((now, ok))
        if not ok:
            self._failed = now
        if self._failed <= now - self.settings.window:  # nothing to judge, as nearly always
            return
        recent = [good for at, good in self._calls if at > now - self.settings.window]
        if len(recent) >= self.settings.minimum and recent.count(False) >= self.settings.rate * len(recent):
            self._turn(now)

    def release(self, permit: int) -> None:
        """The call ended without telling anything of the upstream."""
        if permit == self._generation:
            self.probing = False

    def _turn(self, opened: float | None) -> None:
        if (opened is None) != (self.opened is None):
            logging.getLogger(__name__).warning("upstream %s %s", self.name, "is well again" if opened is None else
                                                f"fails: not called for {self.settings.open:g} s")
        self.opened, self.probing = opened, False
        self._calls.clear()
        self._generation += 1


class RetryBudget:
    """Retries are at most `share` of the requests, beyond the first ten: when everything fails, load must not multiply."""

    def __init__(self, share: float) -> None:
        self.share, self.left = share, _RESERVE

    def request(self) -> None:
        self.left = min(_RESERVE, self.left + self.share)

    def spend(self) -> bool:
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Speed:
    """How fast a model answers: moving averages of what was measured; None before anything was."""

    def __init__(self) -> None:
        self.first: float | None = None  # seconds to the first token
        self.rate: float | None = None  # tokens a second, after it
        self._firsts: deque[float] = deque(maxlen=200)

    def saw_first(self, seconds: float) -> None:
        self._firsts.append(seconds)
        self.first = seconds if self.first is None else self.first + _LEARN * (seconds - self.first)

    def saw_reply(self, tokens: int, seconds: float) -> None:
        if tokens < 2 or seconds <= 0:
            return
        rate = (tokens - 1) / seconds
        self.rate = rate if self.rate is None else self.rate + _LEARN * (rate - self.rate)

    def expected(self, tokens: int) -> float | None:
        """Seconds for a reply of that many tokens."""
        if self.first is None:
            return None
        return self.first + (tokens / self.rate if self.rate else 0.0)

    def p95(self) -> float | None:
        """The time to the first token that one reply of twenty exceeds."""
        if len(self._firsts) < _HEDGE_SAMPLES:
            return None
        return sorted(self._firsts)[int(0.95 * len(self._firsts))]
