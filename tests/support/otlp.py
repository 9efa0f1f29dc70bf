"""A collector of traces: a real HTTP server that takes OTLP, on a thread of its own."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Seen:
    """A span, as the collector got it."""

    proto: Span

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def kind(self) -> str:
        return Span.SpanKind.Name(self.proto.kind).removeprefix("SPAN_KIND_")

    @property
    def id(self) -> str:
        return self.proto.span_id.hex()

    @property
    def parent(self) -> str:
        return self.proto.parent_span_id.hex()

    @property
    def trace(self) -> str:
        return self.proto.trace_id.hex()

    @property
    def failed(self) -> bool:
        return self.proto.status.code == self.proto.status.STATUS_CODE_ERROR

    @property
    def attributes(self) -> dict[str, Any]:
        return {entry.key: _value(entry.value) for entry in self.proto.attributes}

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return [(e.name, {entry.key: _value(entry.value) for entry in e.attributes}) for e in self.proto.events]


@dataclass
class Collector:
    """What came to the collector."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    status: int = 200

    @property
    def spans(self) -> list[Seen]:
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += [Seen(span) for scope in resource.scope_spans for span in scope.spans]
        return sorted(found, key=lambda span: span.proto.start_time_unix_nano)

    @property
    def services(self) -> set[str]:
        requests = map(ExportTraceServiceRequest.FromString, self.bodies)
        attributes = [entry for request in requests for r in request.resource_spans for entry in r.resource.attributes]
        return {entry.value.string_value for entry in attributes if entry.key == "service.name"}

    def only(self, kind: str, name: str = "") -> Seen:
        """Returns the one span of a kind, and of a name if one is given."""
        (found,) = [span for span in self.spans if span.kind == kind and name in ("", span.name)]
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Yields a collector that listens on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if collector.status == 200:
                collector.bodies.append(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)
