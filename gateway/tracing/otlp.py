"""Spans kept by OpenTelemetry's SDK and sent as OTLP over HTTP. Only loaded where traces have an endpoint.

Nothing global is set: a tracer belongs to its worker, and the API's own context is left alone.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span as SdkSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as SdkTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__
from gateway.settings import SettingsError
from gateway.tracing.export import BoundedExport, Count, bounded_export
from gateway.tracing.spans import Attributes, Headers, Span

SCOPE = "tidegate"
SERVICE = "tidegate-gateway"
NOTHING = Context()  # without it the SDK would look for a parent in a context of its own

_w3c = TraceContextTextMapPropagator()


class OtlpSpan:
    """tracing.spans.Span over the SDK's."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: SdkTracer, span: SdkSpan) -> None:
        self._tracer, self._span = tracer, span

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def span_id(self) -> str:
        return f"{self._span.get_span_context().span_id:016x}"

    def child(self, name: str, attributes: Attributes, *, is_call: bool) -> Span:
        kind = SpanKind.CLIENT if is_call else SpanKind.INTERNAL
        context = set_span_in_context(self._span, NOTHING)
        made = self._tracer.start_span(name, context, kind, attributes, record_exception=False)
        return OtlpSpan(self._tracer, made)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def event(self, name: str, attributes: Attributes) -> None:
        self._span.add_event(name, attributes)

    def fail(self, error_type: str, message: str = "") -> None:
        if error_type:
            self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR, message or None))

    def headers(self) -> Headers:
        carrier: dict[str, str] = {}
        _w3c.inject(carrier, set_span_in_context(self._span, NOTHING))
        return tuple(carrier.items())

    def end(self) -> None:
        self._span.end()


class OtlpTracer:
    """tracing.spans.Tracer of one worker. Sampling is what OTEL_TRACES_SAMPLER says, by default the client's wish."""

    def __init__(self, exporting: BoundedExport, resource: Mapping[str, str]) -> None:
        self._exporting = exporting
        provider = TracerProvider(resource=Resource.create(dict(resource)), shutdown_on_exit=False)
        provider.add_span_processor(exporting)
        self._tracer = provider.get_tracer(SCOPE, __version__)

    @property
    def num_waiting(self) -> int:
        """Spans that are still to be sent."""
        return self._exporting.num_waiting

    def request(self, name: str, attributes: Attributes, headers: Mapping[str, str]) -> Span | None:
        parent = _w3c.extract(headers, NOTHING)  # what is malformed begins a trace of its own
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes, record_exception=False)
        return OtlpSpan(self._tracer, span) if span.is_recording() else None

    def close(self, timeout_s: float) -> None:
        """Blocks for as long at most: not for the event loop."""
        self._exporting.close(timeout_s)


def otlp_tracer(url: str, count: Count, environ: Mapping[str, str] | None = None) -> OtlpTracer:
    """url: where traces go. The exporter reads OpenTelemetry's variables for the rest: headers, certificates,
    compression, timeout.

    Raises: SettingsError.
    """
    environ = os.environ if environ is None else environ
    # It has a line for each try that fails; ours tells when the collector goes, and when it is back.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    try:
        exporting = bounded_export(OTLPSpanExporter(endpoint=url), count, environ)
    except (ValueError, OSError) as error:
        raise SettingsError(f"Traces cannot be sent: {error}.") from None
    resource = {
        "service.version": __version__,
        "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
    }
    has_name = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    if not has_name:
        resource["service.name"] = SERVICE
    return OtlpTracer(exporting, resource)
