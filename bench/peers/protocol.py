"""How the benchmark talks to an engine: a child process, in its own environment, that speaks JSON lines.

    python bench/peers/NAME.py SETTINGS          serves: says its version when loaded, then answers each line with one line
    python bench/peers/NAME.py SETTINGS IDS      loads, draws one token after the ids, says so, and ends

SETTINGS is a JSON object (`model`, `threads` and what the engine needs besides). Between two lines an engine sleeps in a
read of stdin: whatever it burns meanwhile it takes from the engine that is being measured, which `decode.py` checks.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Work:
    """One run: every prompt is continued `n` times by exactly `tokens` tokens (no end of sequence ends it sooner), or by a
    text of the JSON `schema` and at most so many. A `temperature` of 0 is greedy."""

    prompts: list[list[int]]
    tokens: int
    n: int = 1
    temperature: float = 0.0
    seed: int = 0
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Result:
    """What a run took and gave. `seconds` covers everything from token ids in to the last token out. `first` holds the
    first stream's tokens, `text` its text if there was a schema."""

    seconds: float
    prompt_tokens: int
    tokens: int
    first: list[int]
    text: str = ""


def main(package: str, load: Callable[[dict[str, Any]], Callable[[Work], Result]]) -> None:
    """An engine's side: `load` takes the settings and returns the function that does a run; `package` has the version."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=out, flush=True)

    run = load(json.loads(sys.argv[1]))
    if len(sys.argv) > 2:
        run(Work([json.loads(sys.argv[2])], tokens=1))
        say({"token": 1})
        out.close()
        os._exit(0)  # the first token is all that was asked for: no engine is taken down in an orderly way
    say({"version": f"{package} {version(package)}"})
    for line in sys.stdin:
        try:
            say(vars(run(Work(**json.loads(line)))))
        except Exception as error:  # the others go on
            import traceback

            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})
