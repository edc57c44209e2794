"""What /metrics tells. Labels are names of gateway.toml, endpoints and statuses: nothing that a client wrote."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ownship.gateway.local import Local
from ownship.gateway.routing import Router
from ownship.gateway.trace import Trace
from ownship.gateway.types import Usage

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line for each, of which nobody has made anything
KIND = "text/plain; version=0.0.4; charset=utf-8"
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_FIRST = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_WHOLE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """Of one server, in a registry of its own: several can live in one process."""

    def __init__(self, router: Router) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_State(router))
        self._requests = Counter("ownship_requests", "Requests to models, by endpoint and HTTP status (499: the client left)",
                                 ["endpoint", "status"], registry=self.registry)
        self._attempts = Counter("ownship_upstream_attempts", "Calls of upstreams, by how they ended", ["upstream", "outcome"],
                                 registry=self.registry)
        names = [("prompt_tokens", "Tokens of prompts"), ("generation_tokens", "Tokens of replies"),
                 ("cached_tokens", "Tokens of prompts that an upstream had kept"), ("cost_micro_dollars", "What replies cost")]
        counters = [Counter(f"ownship_{name}", about, ["model"], registry=self.registry) for name, about in names]
        times = [("time_to_first_token_seconds", "From a request's arrival to its reply's first token", _FIRST),
                 ("inter_token_latency_seconds", "Between the pieces of a reply", _TOKEN),
                 ("e2e_request_latency_seconds", "From a request's arrival to the end of its reply", _WHOLE),
                 ("request_queue_seconds", "From a request's arrival until an upstream was called", _FIRST)]
        histograms = [Histogram(f"ownship_{name}", about, ["model"], buckets=buckets, registry=self.registry)
                      for name, about, buckets in times]
        self._seen: dict[tuple[Counter, str, str], Counter] = {}  # of endpoints and attempts, which have few names as well
        self._of = {name: ([counter.labels(name) for counter in counters], [each.labels(name) for each in histograms])
                    for name in router.routes}  # looked up once: labels() takes longer than what it is called for

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def request(self, endpoint: str, status: int) -> None:
        self._count(self._requests, endpoint, str(status))

    def _count(self, counter: Counter, first: str, second: str) -> None:
        found = self._seen.get((counter, first, second))
        if found is None:
            found = self._seen[counter, first, second] = counter.labels(first, second)
        found.inc()

    def reply(self, model: str | None, usage: Usage, cost: int, trace: Trace, began: float, first: float | None) -> None:
        """When a reply has ended; times on `time.monotonic`."""
        for attempt in trace.attempts:
            self._count(self._attempts, attempt.upstream, attempt.outcome)
        if model is None:
            return
        counters, (to_first, _, whole, queued) = self._of[model]
        for counter, value in zip(counters, (usage.prompt, usage.completion, usage.cached, cost), strict=True):
            counter.inc(value)
        if first is not None:
            to_first.observe(first - began)
        whole.observe(time.monotonic() - began)
        if trace.attempts:
            queued.observe(trace.attempts[0].started)

    def pieces(self, model: str, gaps: list[float]) -> None:
        """Seconds between the pieces of a streamed reply."""
        observe = self._of[model][1][1].observe
        for gap in gaps:
            observe(gap)


class _State(Collector):
    """What is so at this moment, asked when /metrics is."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("ownship_requests_running", "Replies that are being written", labels=["upstream"])
        waiting = GaugeMetricFamily("ownship_requests_waiting", "Requests that wait for their turn", labels=["upstream"])
        usage = GaugeMetricFamily("ownship_kv_cache_usage_ratio", "Share of the engine's cache in use", labels=["upstream"])
        queries = CounterMetricFamily("ownship_prefix_cache_queries", "Prompt tokens looked for in the engine's cache",
                                      labels=["upstream"])
        hits = CounterMetricFamily("ownship_prefix_cache_hits", "Prompt tokens found there", labels=["upstream"])
        starts = CounterMetricFamily("ownship_engine_starts", "Times that the engine's process was started", labels=["upstream"])
        for name, guard in self.router.guards.items():
            load: Mapping[str, float] = {}
            if isinstance(guard.upstream, Local):
                engine = guard.upstream.engine
                load = engine.load
                usage.add_metric([name], load.get("cache_usage", 0.0))
                queries.add_metric([name], load.get("prefix_queries", 0.0))
                hits.add_metric([name], load.get("prefix_hits", 0.0))
                starts.add_metric([name], engine.starts)
                running.add_metric([name], load.get("running", 0.0))
            else:
                running.add_metric([name], guard.running)
            waiting.add_metric([name], guard.waiting + load.get("waiting", 0.0))
        yield from (running, waiting, usage, queries, hits, starts)
