"""What was decided about a request, and why: for its log line and the headers of its reply. Holds no text of prompt or reply."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Attempt:
    """One call of an upstream. Times are seconds since the request came; None is "not yet" or "never"."""

    model: str
    upstream: str
    reason: str  # first, retry, hedge, or fallback after what
    started: float
    first_event: float | None = None
    ended: float | None = None
    outcome: str = "under way"  # ok, cancelled, or the status and kind of the error


@dataclass
class ToolRun:
    """One call of a tool by the gateway."""

    tool: str
    started: float
    seconds: float
    failed: bool


@dataclass
class Trace:
    """`model` and `upstream` are who answers, as gateway.toml calls them; None until somebody does."""

    asked: str
    why: str = ""
    model: str | None = None
    upstream: str | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)  # models that were not called, and why
    attempts: list[Attempt] = field(default_factory=list)
    tools: list[ToolRun] = field(default_factory=list)
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    def headers(self) -> dict[str, str]:
        """Known when the first event is there."""
        headers = {"x-ownship-attempts": str(len(self.attempts))}
        if self.model is not None and self.upstream is not None:
            headers |= {"x-ownship-model": self.model, "x-ownship-upstream": self.upstream}
        if self.why:
            headers["x-ownship-why"] = self.why
        return headers

    def record(self) -> dict[str, Any]:
        """For the log, as JSON takes it; times to the millisecond."""
        rows = {kind: [{key: round(value, 3) if isinstance(value, float) else value for key, value in vars(row).items()}
                       for row in found] for kind, found in (("attempts", self.attempts), ("tools", self.tools))}
        return {"asked": self.asked, "why": self.why, "model": self.model, "upstream": self.upstream,
                "skipped": [*self.skipped], **rows}
