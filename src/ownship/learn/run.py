"""A run's directory: what was asked, what was measured, and the last whole state to go on from.

    config.json      what was asked
    metrics.jsonl    one line per step; the same run gives the same bytes (times are in timings.jsonl)
    timings.jsonl    seconds per phase and memory, one line per step
    rollouts.jsonl   what the model said and what it was given for it (RL)
    checkpoints/N/   the whole state after step N: what is trained, in float32, optimizer, place in the data; the last one is kept.
                     The tensors are one safetensors file, or one of each rank: any number of processes goes on from either
    model/           the result, in Hugging Face layout
    adapter/         with LoRA, also the adapter alone, in PEFT's layout
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from ownship.errors import UserError, writing
from ownship.learn import distributed
from ownship.learn.interrupt import Interrupted
from ownship.learn.learner import Learner
from ownship.model.checkpoint import whole_folder

_LINES = ("metrics.jsonl", "timings.jsonl", "rollouts.jsonl")


class Run:
    """An open run directory. `step` is the number of finished steps, `state` what the recipe saved with them.

    Opening an existing directory continues it if it was asked for the same thing. Raises UserError if `folder` holds
    another run, or something that is not a run. In several processes the first rank reads and writes for all; each writes its part
    of the state.
    """

    def __init__(self, folder: Path, config: dict[str, Any], may_change: Iterable[str] = ()) -> None:
        self.folder, self.step, self.state = folder, 0, dict[str, Any]()
        if distributed.first():
            self._open(config, set(may_change))
        self.step, self.state = distributed.from_first((self.step, self.state))

    def _open(self, config: dict[str, Any], may_change: set[str]) -> None:
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        if path.exists():
            self._same(json.loads(path.read_text()), config, may_change)
        elif any(folder.iterdir()):
            raise UserError(f"{folder}: not empty and not a run; choose another --out")
        write_whole(path, json.dumps(config, indent=2) + "\n")
        for left in (*folder.glob("checkpoints/.*"), *folder.glob(".*.part-*")):
            if left.is_dir():  # of a process that was killed while it wrote
                shutil.rmtree(left, ignore_errors=True)
        if (saved := self._checkpoint()) is not None:
            loaded = json.loads((saved / "state.json").read_text())
            self.step, self.state = loaded["step"], loaded["state"]
        for name in _LINES:
            self._cut(folder / name)

    def _same(self, before: dict[str, Any], now: dict[str, Any], may_change: set[str]) -> None:
        for key in sorted(before.keys() | now.keys()):
            if key not in may_change and before.get(key) != now.get(key):
                raise UserError(f"{self.folder} holds a run with {key}={before.get(key)!r}, not {now.get(key)!r}:"
                                " choose another --out, or remove it")

    def _cut(self, path: Path) -> None:
        """Drops the lines of steps that the checkpoint does not know: they will be made again."""
        if path.exists():
            kept = []
            for line in path.read_text().splitlines(keepends=True):
                if not line.endswith("\n") or json.loads(line)["step"] > self.step:
                    break
                kept.append(line)
            write_whole(path, "".join(kept))

    def log(self, name: str, **values: Any) -> None:
        """Appends a line about the step that is being made (the first is step 1)."""
        path = self.folder / f"{name}.jsonl"
        if distributed.first():
            with writing(path), open(path, "a") as file:
                file.write(json.dumps({"step": self.step + 1, **values}) + "\n")

    def finish_step(self, learner: Learner, save_every: int) -> None:
        """The step that was being made is done; every so many the state is saved."""
        self.step += 1
        if self.step % save_every == 0:
            self.save(learner)

    @contextlib.contextmanager
    def saved(self, learner: Learner) -> Iterator[None]:
        """Saves the state where what is inside ends: when it is done, and when it is interrupted."""
        try:
            yield
        except Interrupted:
            self.save(learner)
            raise
        self.save(learner)

    def save(self, learner: Learner) -> None:
        """Makes the present state the one to go on from; a kill at any moment leaves this one or the one before."""
        place = self.folder / "checkpoints" / f"{self.step:06}"
        if distributed.from_first(place.is_dir()):
            return  # whole: finish_step wrote it. To replace it would leave a moment in which there is none
        with whole_folder(place) if distributed.first() else contextlib.nullcontext(place) as part:
            part = distributed.from_first(part)
            if learner.sharded:
                from ownship.learn import sharded

                sharded.save(learner.tensors(), part)  # and waits until all ranks have written
            elif distributed.first():
                save_file(learner.tensors(), part / "learner.safetensors")
            if distributed.first():
                state = {"step": self.step, "updates": learner.updates, "base": learner.base, "state": self.state}
                (part / "state.json").write_text(json.dumps(state) + "\n")
        if distributed.first():
            for other in place.parent.iterdir():
                if other.name != place.name:
                    hidden = other.with_name(f".{other.name.lstrip('.')}.old")  # a kill must not leave half of it to be seen
                    os.replace(other, hidden)
                    shutil.rmtree(hidden)
        distributed.from_first(None)  # all go on when it is there

    def restore(self, learner: Learner) -> None:
        """Puts the saved state back into a fresh learner (and so into its network); nothing if none was saved.

        Raises UserError if the saved adapter belongs to another base model than the learner's.
        """
        if (saved := self._checkpoint()) is None:
            return
        state = json.loads((saved / "state.json").read_text())
        if state.get("base") != learner.base:
            raise UserError(f"{self.folder}: this run's adapter belongs to weights that the model no longer has;"
                            " restore them, or choose another --out")
        whole = saved / "learner.safetensors"
        if learner.sharded or not whole.exists():
            from ownship.learn import sharded

            tensors = sharded.load(saved, learner.params)
        else:
            with safe_open(whole, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        learner.load(tensors, state["updates"])

    def _checkpoint(self) -> Path | None:
        return max((path for path in (self.folder / "checkpoints").glob("[0-9]*") if path.is_dir()), default=None)

    def read(self, name: str) -> list[dict[str, Any]]:
        """The lines of metrics, timings or rollouts; none in a rank that does not write them."""
        path = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if distributed.first() and path.exists() else []


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is never seen half-written. Raises OSError that names it if the disk is full."""
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        with writing(path), open(part, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
