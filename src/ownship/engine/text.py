"""Token ids → visible text, with stop strings that may lie across token borders."""

from __future__ import annotations

from collections.abc import Sequence

from ownship.model.tokenizer import Tokenizer


class TextOut:
    """Collects one reply's text. What could still become part of a stop string is held back."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._stream = tokenizer.stream()
        self._stop = tuple(stop)
        self._held = ""
        self.shown = ""
        self.stop: str | None = None  # the stop string that was found

    @property
    def stopped(self) -> bool:
        return self.stop is not None

    def push(self, id: int) -> str:
        """The text that this token makes visible; sets `stop` when a stop string is complete."""
        return self._show(self._held + self._stream.push(id), last=False)

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        return "" if self.stopped else self._show(self._held + self._stream.flush(), last=True)

    def _show(self, text: str, last: bool) -> str:
        found = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            at, self.stop = min(found)
            text, self._held = text[:at], ""
        elif not last:
            hold = max((_overlap(text, stop) for stop in self._stop), default=0)
            text, self._held = text[: len(text) - hold], text[len(text) - hold :]
        else:
            self._held = ""
        self.shown += text
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
