"""What a run has left in its folder, whether it has ended or is under way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from ownship.errors import UserError

# What is known of a metric: its title, what it means, and whether it is a share. In the order they are shown; others follow.
KNOWN: dict[str, tuple[str, str, bool]] = {
    "solve_rate": ("Solve rate", "replies with full reward, while sampling", True),
    "reward": ("Reward", "mean over all replies", False),
    "loss": ("Loss", "", False),
    "bits_per_byte": ("Bits per byte", "of held-out text", False),
    "held_out_loss": ("Held-out loss", "of examples that are not trained on", False),
    "accuracy": ("Accuracy", "pairs whose chosen reply has the larger implicit reward", True),
    "held_out_accuracy": ("Held-out accuracy", "of pairs that are not trained on", True),
    "margin": ("Margin", "implicit reward of the chosen reply − that of the rejected one", False),
    "flat_groups": ("Flat groups", "all rewards equal: they teach nothing", True),
    "truncated": ("Truncated", "replies that hit the token limit", True),
    "stopped": ("Stopped", "replies that ended by themselves", True),
    "drawn_tokens": ("Length", "tokens per reply", False),
    "entropy": ("Entropy", "nats per token", False),
    "mismatch": ("Mismatch", "mean |log π − log μ|: learner and sampler", False),
    "effective_samples": ("Effective samples", "what the ratios leave of their number", True),
    "clipped": ("Clipped", "tokens beyond a bound", True),
    "left_out": ("Left out", "tokens that the correction drops", True),
    "kl": ("KL", "from the reference, nats per token", False),
    "grad_norm": ("Gradient norm", "before clipping", False),
    "lr": ("Learning rate", "", False),
    "trained_tokens": ("Trained tokens", "per update", False),
}
_SILENT = {"step", "ratio", "weights_changed", "same_weights", "completions", "stream_tokens"}
_NO_PHASE = ("step", "tokens", "end")  # of a line of timings: the rest are seconds of its phases


class Lines:
    """The lines of a file of JSON lines that grows; `keep` bounds how many, from the end."""

    def __init__(self, path: Path, keep: int | None = None) -> None:
        self.path, self.all, self._keep = path, list[dict[str, Any]](), keep
        self._read, self._last = 0, b""  # bytes that are read, and the line that they end with

    def follow(self) -> list[dict[str, Any]]:
        """All lines that are whole by now. A run may be writing the last one; a run that goes on from a checkpoint cuts the file
        and makes its lines again: then what was read before is not there any more, and the file is read anew.

        Raises UserError for a line that is not JSON.
        """
        if not self.path.is_file():
            self._forget()
            return self.all
        with open(self.path, "rb") as file:
            file.seek(self._read - len(self._last))
            if file.read(len(self._last)) != self._last:
                self._forget()
                file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.all.append(self._parsed(line))
                self._read, self._last = self._read + len(line), line
        if self._keep is not None:
            del self.all[: -self._keep]
        return self.all

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            raise UserError(f"{self.path}: damaged (a line is not JSON)") from None
        if not isinstance(value, dict) or type(value.get("step")) is not int:
            raise UserError(f"{self.path}: damaged (a line has no step)")
        return value

    def _forget(self) -> None:
        self.all, self._read, self._last = [], 0, b""


class Past:
    """What a run has left: its settings, and its lines so far. `follow` reads what came since.

    Raises UserError for a folder that holds no run, or a damaged one. `rollouts` bounds how many steps' replies are kept.
    """

    def __init__(self, folder: Path, name: str, rollouts: int | None = None) -> None:
        self.folder, self.name = folder, name
        self._files = {kind: Lines(folder / f"{kind}.jsonl", rollouts if kind == "rollouts" else None)
                       for kind in ("metrics", "timings", "rollouts")}
        self.follow()

    def follow(self) -> None:
        path = self.folder / "config.json"
        if not path.is_file():
            raise UserError(f"{self.folder}: not a run (it has no config.json); give a folder that --out of a recipe named")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise UserError(f"{path}: damaged (not JSON)") from None
        self.config: dict[str, Any] = config if isinstance(config, dict) else {}
        self.metrics, self.timings, self.rollouts = (lines.follow() for lines in self._files.values())

    def series(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of a metric."""
        return _series(self.metrics, name)

    def seconds(self, phase: str) -> list[tuple[float, float]]:
        """(step, seconds) of a phase."""
        return _series(self.timings, phase)

    def written(self, name: str) -> float:
        """When a file of the run's was last written, in seconds since 1970; 0 if there is none."""
        path = self.folder / name
        return path.stat().st_mtime if path.exists() else 0.0

    @property
    def step(self) -> int:
        """Finished steps."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def warnings(self) -> list[tuple[int, str]]:
        """(step, what the doctor said)."""
        return [(line["step"], text) for line in self.metrics for text in line.get("doctor", ())]

    @property
    def asked(self) -> str:
        """What it is, in a few words."""
        return " · ".join(str(self.config[key]) for key in ("recipe", "algorithm", "env", "data") if self.config.get(key))


def _series(lines: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in lines if number(line.get(name))]


def phases(runs: Sequence[Past]) -> list[str]:
    """What the runs spent their seconds on."""
    return list(dict.fromkeys(key for past in runs for line in past.timings for key in line if key not in _NO_PHASE))


def taken(line: dict[str, Any]) -> float:
    """Seconds of a step, from its line of timings."""
    return sum(value for key, value in line.items() if key not in _NO_PHASE and number(value))


def measured(runs: Sequence[Past]) -> list[str]:
    """The metrics that any of the runs has: the known ones first."""
    seen = dict.fromkeys(name for past in runs for line in past.metrics for name, value in line.items() if number(value))
    return [name for name in KNOWN if name in seen] + [name for name in seen if name not in KNOWN and name not in _SILENT]


def title(name: str) -> tuple[str, str, bool]:
    """A metric's title, what it means, and whether it is a share."""
    if name.startswith("part/"):
        return f"Reward: {name.removeprefix('part/')}", "one part of the reward", False
    return KNOWN.get(name, (name.replace("_", " ").capitalize(), "", False))


def names(folders: Sequence[Path]) -> list[str]:
    """As much of the ends of the paths as tells them apart."""
    whole = [folder.resolve().parts for folder in folders]
    for size in range(1, max(map(len, whole)) + 1):
        found = ["/".join(parts[-size:]) for parts in whole]
        if len(set(found)) == len(found):
            return found
    raise UserError("the same run is named twice")


def opened(folders: Sequence[Path], rollouts: int | None = None) -> Iterator[Past]:
    """The runs in these folders, each under a name of its own."""
    return (Past(folder, name, rollouts) for folder, name in zip(folders, names(folders), strict=True))


def number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
