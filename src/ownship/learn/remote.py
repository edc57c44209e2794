"""A vLLM server as the sampler: token ids in and out over HTTP, and its weights are this learner's.

Weights go by a file that both can read. The server's worker (learn/vllm_worker.py) loads it while nothing is being drawn, and says
the fingerprint of what it read; the server is then told that name for its weights, and gives it with every completion, for each
stretch of tokens. So what a completion came from is what the server says, not what the learner believes: a second learner that
updates the same server, or a server that was started again, is noticed by the first completion.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from safetensors.torch import save_file

from ownship.engine.fingerprint import fingerprint
from ownship.engine.request import Completion, Finish, Request
from ownship.engine.text import TextOut
from ownship.errors import UserError
from ownship.learn import distributed
from ownship.learn.vllm_worker import ORDER
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer

T = TypeVar("T")

START = ("VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out"
         " --worker-extension-cls ownship.learn.vllm_worker.Weights")
_ATTEMPTS, _PAUSE = 4, 0.5  # seconds before the second attempt; each further one waits twice as long
_AGAIN = {429, 502, 503, 504}  # busy, or something between us and the server: worth another attempt
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}


class Remote:
    """What `rollout.play` needs of an engine, from the server at `url` (vLLM 0.32).

    `weights_changed` writes the network's weights into a file in `folder`, which the server must see under the same path; `load`
    has the server read it. They are two because a thread may sample, and load, while the learner changes the weights and writes.
    At most `concurrent` requests run side by side.

    In several processes (learn/distributed.py) all draw, and the first one gives the server the weights.

    `generate` and `load` raise UserError if the server cannot be reached, refuses, or for `patience` seconds finishes nothing.
    """

    def __init__(self, url: str, model: Llama, tokenizer: Tokenizer, folder: Path, concurrent: int = 256,
                 patience: float = 900.0) -> None:
        self.model, self.tokenizer, self.folder, self.concurrent, self.patience = model, tokenizer, folder, concurrent, patience
        self.stop_ids = sorted(model.config.eos_token_ids) or [tokenizer.eos_id]
        self.fingerprint = ""  # of the weights that the server has, as it said itself; none before the first `load`
        self._written, self._files = "", threading.Lock()
        try:
            self.url = httpx.URL(url.rstrip("/") + "/")
        except httpx.InvalidURL as error:
            raise UserError(f"--sampler {url!r}: {error}") from None
        if self.url.scheme not in ("http", "https") or not self.url.host or (self.url.port or 1) > 65535:
            raise UserError(f"--sampler must look like http://127.0.0.1:8000, not {url!r}")
        self.close()  # what an earlier run left
        self.weights_changed()

    def close(self) -> None:
        """Removes the files of weights."""
        if distributed.first():
            shutil.rmtree(self.folder, ignore_errors=True)

    # Drawing

    @property
    def capacity(self) -> int:
        """The most tokens, of prompt and reply together, that the model can read; a server with less room says so itself."""
        return self.model.config.max_position_embeddings

    def generate(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Completion]:
        """Completes the requests side by side, in the order given. `progress` is told the tokens of each that was finished, and 0
        several times a second; if it raises, what was running is cancelled."""
        for request in requests:
            if request.grammar is not None or request.sampling.stop or request.prompt_logprobs is not None:
                raise ValueError("grammars, stop strings and scored prompts are not for a remote sampler")
        tell = progress or (lambda tokens: None)
        room = asyncio.Semaphore(self.concurrent)

        async def one(client: httpx.AsyncClient, request: Request) -> Completion:
            async with room:
                answer = await self._post(client, "inference/v1/generate", self._wire(request))
            return self._completion(answer, request)

        return self._run([partial(one, request=request) for request in requests],
                         lambda done: tell(sum(len(completion.tokens) for completion in done)))

    def _wire(self, request: Request) -> dict[str, Any]:
        """The request as vLLM takes it. Its own stop tokens are off, ours are on; the text we make ourselves, from the ids."""
        sampling = request.sampling
        return {"token_ids": request.prompt, "sampling_params": {
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p,
            "max_tokens": sampling.max_tokens, "min_tokens": sampling.min_tokens, "seed": sampling.seed, "logprobs": 0,
            "stop_token_ids": [] if sampling.ignore_eos else self.stop_ids, "ignore_eos": True, "detokenize": False}}

    def _completion(self, answer: Any, request: Request) -> Completion:
        """The server's answer, if it is whole and was drawn from the weights that it was given."""
        try:
            choice = answer["choices"][0]
            tokens = [int(token) for token in choice["token_ids"]]
            content = choice["logprobs"]["content"]
            logprobs = [float(each["logprob"]) for each in content]
            same = [each["token_id"] for each in content] == tokens
            names = {span["version"] for span in choice["weight_versions"] or ()}
            finish = choice["finish_reason"]
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f"the sampler at {self.url} answers otherwise than vLLM 0.32: {_line(json.dumps(answer))}") from None
        if finish not in _FINISHES or not tokens or not same:
            raise UserError(f"the sampler at {self.url} ended a completion with {_line(str(finish))!r} after {len(tokens)} tokens")
        if finish == "length" and len(tokens) < request.sampling.max_tokens:
            raise UserError(f"the sampler at {self.url} has no room for a prompt of {len(request.prompt)} tokens and a reply of"
                            f" {request.sampling.max_tokens}: start it with a larger --max-model-len")
        if names != {self.fingerprint}:
            drawn = _line(" and ".join(sorted(map(str, names)))) or "weights without a name"
            raise UserError(f"the sampler at {self.url} drew from {drawn} instead of {self.fingerprint}, which it was given: it was"
                            " started again, or another learner updates it; the same command goes on")
        ended = finish == "stop"
        text = TextOut(self.tokenizer)
        for token in tokens[: len(tokens) - ended]:
            text.push(token)
        text.finish()
        return Completion(tokens, logprobs, _FINISHES[finish], text.shown, self.fingerprint, forced=[False] * len(tokens))

    # Weights

    def rest(self) -> None:
        """Nothing: the server's memory is its own."""

    def weights_changed(self) -> str:
        """Writes the network's present weights for the server's next `load`; returns their fingerprint."""
        name = fingerprint(self.model)
        part = self.folder / f".{name}.part-{os.getpid()}"
        if distributed.first():
            self.folder.mkdir(parents=True, exist_ok=True)
            tensors = {f"{'' if key.startswith('lm_head.') else 'model.'}{key}": value.detach().contiguous()
                       for key, value in self.model.named_parameters()}
            save_file(tensors, part, metadata={"format": "pt", ORDER: json.dumps(list(tensors))})
        with self._files:
            if distributed.first():
                os.replace(part, self._path(name))
            self._written = name
        return name

    def load(self, progress: Callable[[int], None] | None = None) -> str:
        """Has the server load what was written last, and returns its fingerprint. What is being drawn there is finished before, and
        its cache emptied. Where this fails, or `progress` raises (it is told 0 several times a second), the server may stay
        paused: nobody draws from half of an update, and the next `load` wakes it."""
        tell, name = progress or (lambda tokens: None), self._written
        if name != self.fingerprint:
            jobs = [partial(self._update, name=name)] if distributed.first() else []
            distributed.together(lambda: self._run(jobs, lambda done: tell(0)))  # and nobody draws before the first one is done
            self.fingerprint = name
            if distributed.first():
                with self._files:
                    for path in self.folder.glob("*.safetensors"):
                        if path.stem == name or path.stem != self._written:
                            path.unlink()
        return name

    async def _update(self, client: httpx.AsyncClient, name: str) -> None:
        await self._post(client, "pause?mode=wait&clear_cache=true", {})
        answer = await self._post(client, "collective_rpc", {"method": "load_ownship", "args": [str(self._path(name).resolve())]})
        read = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(read, list) or set(map(str, read)) != {name}:
            raise UserError(f"the sampler at {self.url} read the weights {_line(json.dumps(read))} instead of {name}")
        await self._post(client, "update_weight_version", {"new_version": name})
        await self._post(client, "resume", {})

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    # HTTP

    def _run(self, jobs: Sequence[Callable[[httpx.AsyncClient], Awaitable[T]]], tick: Callable[[list[T]], None]) -> list[T]:
        """Does the jobs side by side. `tick` is told several times a second what was finished; if it raises, the rest is
        cancelled."""
        return asyncio.run(self._side_by_side(jobs, tick))

    async def _side_by_side(self, jobs: Sequence[Callable[[httpx.AsyncClient], Awaitable[T]]], tick: Callable[[list[T]], None]
                            ) -> list[T]:
        # No limit on how long one answer takes, as the server may queue what it was asked: `patience` is for all together.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.concurrent)
        async with httpx.AsyncClient(base_url=self.url, timeout=httpx.Timeout(None, connect=10.0), trust_env=False,
                                     limits=limits, verify=self.url.scheme == "https") as client:
            tasks = [asyncio.ensure_future(job(client)) for job in jobs]
            running, moved = set(tasks), time.monotonic()
            try:
                while running:
                    done, running = await asyncio.wait(running, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                    tick([task.result() for task in done])
                    if done:
                        moved = time.monotonic()
                    elif time.monotonic() - moved > self.patience:
                        raise UserError(f"the sampler at {self.url} has finished nothing for {self.patience:.0f} seconds: start it"
                                        " again; the same command then goes on")
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            return [task.result() for task in tasks]

    async def _post(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
        """The JSON that comes back. A lost connection and a busy server are tried again: the same request gives the same."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE * 2 ** (attempt - 1))
            try:
                answer = await client.post(path, json=body)
            except (httpx.HTTPError, UnicodeError) as error:  # UnicodeError: of a name that is none
                why = f"cannot be reached ({_line(str(error) or type(error).__name__)})"
                continue
            if answer.status_code in _AGAIN:
                why = f"answers {answer.status_code}"
                continue
            break
        else:
            raise UserError(f"the sampler at {self.url} {why}: start it again; the same command then goes on")
        if answer.status_code == 404:
            raise UserError(f"the sampler at {self.url} has no /{path.partition('?')[0]}; start it with: {START}")
        if answer.is_error:
            raise UserError(f"the sampler at {self.url} refuses /{path.partition('?')[0]}: {_reason(answer)}")
        try:
            return answer.json()
        except ValueError:
            raise UserError(f"the sampler at {self.url} does not answer in JSON: {_line(answer.text)}") from None


def _reason(answer: httpx.Response) -> str:
    """Why the server refuses, as it says in one of its two forms."""
    try:
        body = answer.json()
        return _line(str(body["error"]["message"] if "error" in body else body["detail"]))
    except (ValueError, KeyError, TypeError):
        return _line(answer.text) or str(answer.status_code)


def _line(text: str) -> str:
    """What somebody else wrote, short and on one line."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200]
