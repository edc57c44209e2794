"""A stand-in for a vLLM server: our engine, a network of its own, and as much of vLLM's HTTP as the remote sampler speaks. Weights
are taken in by the worker extension that a real server loads."""

from __future__ import annotations

import copy
import itertools
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Response

from ownship.engine.engine import Engine
from ownship.engine.request import Request, Sampling
from ownship.learn.vllm_worker import Weights
from ownship.model.llama import Llama
from ownship.model.tokenizer import Tokenizer


class Worker(Weights):
    """vLLM's worker, as far as the extension needs it."""

    def __init__(self, network: Llama) -> None:
        self.network = network

    @torch.no_grad()
    def reload_weights(self, weights_iterator: Iterable[tuple[str, torch.Tensor]]) -> None:
        parameters = dict(self.network.named_parameters())
        for name, tensor in weights_iterator:
            parameters.pop(name.removeprefix("model.")).copy_(tensor)
        assert not parameters


class Standin:
    """The server. `statuses` are those of the next completions; while `stall` is cleared, completions wait."""

    def __init__(self, model: Llama, tokenizer: Tokenizer) -> None:
        network = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()  # what it draws from is what it was given
        # FastAPI keeps what its routes refer to: with the usual 2 GB each, no process could be started after the twelfth of them
        self.engine, self.worker = Engine(network, tokenizer, cache_bytes=16 << 20), Worker(network)
        self.version, self.paused, self.served, self.loads = "default", False, 0, 0
        self.statuses: Iterator[int] = itertools.repeat(200)
        self.stall = threading.Event()
        self.stall.set()
        self.url = ""
        self._turn = threading.Lock()

    def app(self) -> FastAPI:
        face = FastAPI()

        @face.post("/pause")
        def pause(mode: str, clear_cache: bool) -> dict[str, str]:
            assert mode == "wait" and clear_cache
            self.paused = True
            return {"status": "paused"}

        @face.post("/resume")
        def resume() -> dict[str, str]:
            self.paused = False
            return {"status": "resumed"}

        @face.post("/collective_rpc")
        def collective_rpc(body: dict[str, Any]) -> dict[str, Any]:
            assert self.paused
            with self._turn:
                read = getattr(self.worker, body["method"])(*body["args"])
                self.engine.weights_changed()
                self.loads += 1
            return {"results": [str(read)]}

        @face.post("/update_weight_version")
        def update_weight_version(body: dict[str, str]) -> dict[str, Any]:
            self.version = body["new_version"]
            return {"success": True}

        @face.post("/inference/v1/generate")
        def generate(body: dict[str, Any], response: Response) -> dict[str, Any]:
            self.stall.wait()
            with self._turn:
                self.served += 1
                if (status := next(self.statuses)) != 200:
                    response.status_code = status
                    return {"error": {"message": "EngineCore encountered an issue.\nSee stack trace"}}
                assert not self.paused
                asked = body["sampling_params"]
                assert asked["ignore_eos"] and asked["stop_token_ids"] == sorted(self.engine.stop_ids)
                (completion,) = self.engine.generate([Request(body["token_ids"], Sampling(
                    temperature=asked["temperature"], top_p=asked["top_p"], max_tokens=asked["max_tokens"], seed=asked["seed"]))])
                pairs = zip(completion.tokens, completion.logprobs, strict=True)
                content = [{"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": []} for token, logprob in pairs]
                span = {"version": self.version, "start": 0, "end": len(completion.tokens)}
                return {"choices": [{"index": 0, "token_ids": completion.tokens, "finish_reason": completion.finish,
                                     "logprobs": {"content": content}, "weight_versions": [span]}]}

        return face


@contextmanager
def running(model: Llama, tokenizer: Tokenizer) -> Iterator[Standin]:
    """A stand-in that listens. Its network has the sizes and type of `model`, and no weights yet."""
    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: False)  # type: ignore[attr-defined]
    known = {name: sys.modules.get(name) for name in ("vllm", "vllm.platforms")}
    sys.modules.update({"vllm": ModuleType("vllm"), "vllm.platforms": platforms})
    standin = Standin(model, tokenizer)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    standin.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(standin.app(), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield standin
    finally:
        standin.stall.set()
        server.should_exit = True
        thread.join()
        for name, module in known.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
