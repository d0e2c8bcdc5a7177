"""A collector of traces: takes OTLP over HTTP on a real socket, as protobuf or as JSON, and keeps every span.

Knobs: `status` answers something else than 200; `freeze` lets whoever sends wait for ever; `stop` is nobody there.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

Value = str | bool | int | float | list[Any]


@dataclass(frozen=True)
class Seen:
    """One span as it arrived. Ids are hexadecimal, parent_id "" = it began the trace."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    attributes: dict[str, Value]
    events: dict[str, dict[str, Value]]
    is_error: bool
    start_ns: int
    end_ns: int


class TraceCollector:
    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.status = 200
        self.headers: list[dict[str, str]] = []
        self.spans: list[Seen] = []
        self._thawed = threading.Event()
        self._thawed.set()
        self.num_frozen = 0  # messages that were let wait
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def stop(self) -> None:
        self.thaw()
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, enough: Callable[[list[Seen]], bool], limit_s: float = 10.0) -> list[Seen]:
        """All spans so far, once they are enough."""
        deadline = time.monotonic() + limit_s
        while not enough(self.spans):
            names = [(span.service, span.name) for span in self.spans]
            assert time.monotonic() < deadline, f"not within {limit_s:g} s; there are {names}"
            time.sleep(0.02)
        return list(self.spans)

    def trace(self, trace_id: str) -> list[Seen]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = _body(self)
                if not collector._thawed.is_set():
                    collector.num_frozen += 1
                    collector._thawed.wait()
                    self.close_connection = True
                    return
                status = 404 if self.path != "/v1/traces" else collector.status
                if status == 200:
                    collector.headers.append(dict(self.headers))
                    is_json = self.headers["content-type"].startswith("application/json")
                    collector.spans += spans_in(message_of_json(data) if is_json else message_of(data))
                body = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    """Of known length, or in chunks, as Envoy sends it."""
    if "chunked" not in handler.headers.get("transfer-encoding", ""):
        return handler.rfile.read(int(handler.headers["content-length"]))
    data = b""
    while size := int(handler.rfile.readline().partition(b";")[0], 16):
        data += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return data


def message_of(data: bytes) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    message.ParseFromString(data)
    return message


def message_of_json(data: bytes) -> ExportTraceServiceRequest:
    """OTLP writes ids in hexadecimal, where protobuf's own JSON has base64."""

    def with_base64(fields: dict[str, Any]) -> dict[str, Any]:
        for name, value in fields.items():
            if name.replace("_", "").lower() in {"traceid", "spanid", "parentspanid"}:
                fields[name] = base64.b64encode(bytes.fromhex(value)).decode()
        return fields

    found = json.loads(data, object_hook=with_base64)
    return json_format.ParseDict(found, ExportTraceServiceRequest(), ignore_unknown_fields=True)


def spans_in(message: ExportTraceServiceRequest) -> Iterator[Seen]:
    for group in message.resource_spans:
        service = str(_attributes(group.resource.attributes).get("service.name", ""))
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Seen(
                    name=span.name,
                    service=service,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    attributes=_attributes(span.attributes),
                    events={event.name: _attributes(event.attributes) for event in span.events},
                    is_error=span.status.code == Status.STATUS_CODE_ERROR,
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                )


def _attributes(pairs: Any) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Value:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    found: Value = getattr(value, kind) if kind else ""
    return found


@contextmanager
def collecting(tls: ssl.SSLContext | None = None) -> Iterator[TraceCollector]:
    collector = TraceCollector(tls=tls)
    try:
        yield collector
    finally:
        collector.stop()
