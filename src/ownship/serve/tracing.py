"""OpenTelemetry, where it is asked for: a span for each request to models. Names, numbers and times, and no text of either side.

A `traceparent` that comes with a request is the span's parent, and the span is the parent of what upstreams make of it; without
OpenTelemetry it is handed on as it came. Attributes are those of the semantic conventions for generative AI, and `ownship.*`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import ownship
from ownship.errors import UserError
from ownship.gateway.trace import Trace
from ownship.gateway.types import Usage
from ownship.serve.call import Call

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_OPERATIONS = {"completions": "text_completion"}  # the others are conversations
_NOTHING: Mapping[str, str] = {}
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Spans:
    """`provider` makes spans and knows where they go."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.provider = provider
        self._tracer = provider.get_tracer("ownship", ownship.__version__)
        self._headers = TraceContextTextMapPropagator()

    def begin(self, call: Call, wire: str) -> Span:
        """Of a request that was let in."""
        from opentelemetry.trace import SpanKind

        said = {name: call.headers[name] for name in ("traceparent", "tracestate") if name in call.headers}
        operation = _OPERATIONS.get(wire, "chat")
        return self._tracer.start_span(operation, self._headers.extract(said), SpanKind.SERVER, {
            "gen_ai.operation.name": operation, "http.request.method": "POST", "http.route": call.path, "ownship.request": call.id})

    def headers(self, span: Span) -> dict[str, str]:
        """What an upstream is sent, for its spans to be below this one."""
        from opentelemetry.trace import set_span_in_context

        told: dict[str, str] = {}
        self._headers.inject(told, set_span_in_context(span))
        return told

    def end(self, span: Span, status: int, error: str | None, trace: Trace, usage: Usage, cost: int, first: float | None) -> None:
        """`first`: seconds until the reply began. A model is named as gateway.toml does: what a client asks for may be anything."""
        from opentelemetry.trace import Status, StatusCode

        span.set_attributes({
            "http.response.status_code": status, "gen_ai.usage.input_tokens": usage.prompt, "ownship.attempts": len(trace.attempts),
            "gen_ai.usage.output_tokens": usage.completion, "ownship.cost_micro_dollars": cost})
        if trace.model is not None and trace.upstream is not None:
            span.update_name(f"{_operation(span)} {trace.model}")
            span.set_attributes({"gen_ai.request.model": trace.model, "ownship.upstream": trace.upstream})
        if first is not None:
            span.set_attribute("ownship.first_token_seconds", round(first, 6))
        if error is not None:
            span.set_attribute("error.type", error)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def close(self) -> None:
        """Sends what waits."""
        self.provider.shutdown()


def _operation(span: Span) -> str:
    attributes = getattr(span, "attributes", None) or {}
    return str(attributes.get("gen_ai.operation.name", "chat"))


def handed_on(call: Call) -> Mapping[str, str]:
    """Without OpenTelemetry: the client's own header, if it is one."""
    said = call.headers.get("traceparent")
    return {"traceparent": said} if said is not None and _PARENT.fullmatch(said) else _NOTHING


def start(endpoint: str) -> Spans | None:
    """Spans to the collector at `endpoint` (OTLP over HTTP), or as OTEL_EXPORTER_OTLP_ENDPOINT says; None if neither does."""
    asked = endpoint or any(os.environ.get(name) for name in _ENDPOINTS)
    if not asked or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise UserError("OpenTelemetry needs its packages: pip install 'ownship[otel]'") from None
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "ownship"}
    provider = TracerProvider(resource=Resource.create(named))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces") if endpoint else OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Spans(provider)
