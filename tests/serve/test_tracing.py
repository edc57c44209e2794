"""OpenTelemetry: one span a request, below who asked and above the upstream, without a word of either side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from stage import Stage, eventually, serving

from ownship.gateway.config import parse
from ownship.gateway.routing import Router
from ownship.gateway.upstreams import build
from ownship.serve import tracing
from ownship.serve.app import create

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REPLY = (b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant",'
         b'"content":"canary-reply"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}')


@contextmanager
def traced(spans: tracing.Spans | None) -> Iterator[tuple[Stage, list[str | None]]]:
    """A gateway, and the `traceparent` of each call of its upstream, which refuses the model `broken`."""
    told: list[str | None] = []

    class Upstream(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.headers["traceparent"])
            broken = b'"broken"' in self.rfile.read(int(self.headers["content-length"]))
            self.send_response(400 if broken else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(REPLY)))
            self.end_headers()
            self.wfile.write(REPLY)

        def log_message(self, *arguments: object) -> None:
            pass

    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    price = {"input": 1000.0, "output": 2000.0}
    config = parse({"upstreams": {"up": {"url": f"http://127.0.0.1:{upstream.server_port}"}},
                    "models": {name: {"upstream": "up", "price": price} for name in ("good", "broken")}})
    try:
        with serving(create(Router(config, build(config)), spans=spans)) as stage:
            yield stage, told
    finally:
        upstream.shutdown()
        upstream.server_close()


def ask(stage: Stage, model: str, **headers: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "canary-prompt"}]}
    return stage.post("/v1/chat/completions", body, headers=headers).status_code


def test_a_span_for_each_request() -> None:
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with traced(tracing.Spans(provider)) as (stage, told):
        assert ask(stage, "good", traceparent=f"00-{TRACE}-{PARENT}-01") == 200
        assert ask(stage, "broken") == 400
        assert ask(stage, "canary-model") == 404
        eventually(lambda: len(memory.get_finished_spans()) == 3)
    good, broken, unknown = memory.get_finished_spans()
    assert good.name == "chat good" and good.attributes is not None and good.parent is not None
    assert f"{good.context.trace_id:032x}" == TRACE and f"{good.parent.span_id:016x}" == PARENT
    assert told[0] == f"00-{TRACE}-{good.context.span_id:016x}-01"
    wanted = {"http.response.status_code": 200, "gen_ai.operation.name": "chat", "gen_ai.request.model": "good",
              "ownship.attempts": 1, "ownship.upstream": "up", "gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 2,
              "ownship.cost_micro_dollars": 9000, "http.route": "/v1/chat/completions"}
    assert {name: good.attributes.get(name) for name in wanted} == wanted
    assert 0 < good.attributes["ownship.first_token_seconds"] < 60 and good.status.status_code is StatusCode.UNSET
    assert broken.parent is None and broken.attributes is not None and broken.attributes["http.response.status_code"] == 400
    assert len(told) == 2
    assert told[1] is not None and told[1][:52] == f"00-{broken.context.trace_id:032x}-{broken.context.span_id:016x}"
    assert unknown.name == "chat" and unknown.attributes is not None and unknown.attributes["error.type"] == "model_not_found"
    assert not any("canary" in said(span) for span in (good, broken, unknown))


def said(span: ReadableSpan) -> str:
    return str(span.to_json())


def test_without_it_the_parent_is_handed_on() -> None:
    with traced(None) as (stage, told):
        assert ask(stage, "good", traceparent=f"00-{TRACE}-{PARENT}-00") == 200
        for strange in ("canary", f"00-{TRACE}", f"00-{TRACE}-{PARENT}-00, canary"):
            assert ask(stage, "good", traceparent=strange) == 200
        assert ask(stage, "good") == 200
    assert told == [f"00-{TRACE}-{PARENT}-00", None, None, None, None]


def test_it_is_off_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    assert tracing.start("") is None
    for endpoint, environment in (("http://127.0.0.1:9", ""), ("", "http://127.0.0.1:9")):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", environment)
        spans = tracing.start(endpoint)
        assert spans is not None
        spans.close()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing.start("http://127.0.0.1:9") is None
