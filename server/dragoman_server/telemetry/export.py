"""Sends spans to an OpenTelemetry collector, over OTLP/HTTP. The only module that needs the SDK (the extra `otel`)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from dragoman_server.settings import TracingSettings

logger = get_logger(__name__)

TRACES_PATH = "/v1/traces"
EXPORT_TIMEOUT = 5.0
"""Seconds that a collector may take for a batch, the exporter's own retries included."""


class Exporting:
    """Spans on their way to a collector. A thread sends them in batches; when it cannot keep up, the oldest are lost.

    Args:
        settings: Where to, and how many.

    Attributes:
        provider: Makes tracers.
    """

    def __init__(self, settings: TracingSettings) -> None:
        # The library says the same with every batch; `_Reporting` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        endpoint = settings.endpoint.rstrip("/")
        if endpoint and not endpoint.endswith(TRACES_PATH):
            endpoint += TRACES_PATH
        exporter = OTLPSpanExporter(endpoint=endpoint or None, timeout=EXPORT_TIMEOUT)
        self._reporting = _Reporting(exporter)
        self._processor = BatchSpanProcessor(self._reporting)
        self.provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=_resource(),
            shutdown_on_exit=False,
        )
        self.provider.add_span_processor(self._processor)

    def close(self) -> None:
        """Sends what is left, if the collector takes it; blocks for a few seconds at most."""
        self._reporting.closing = True
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the library has it without types


class _Reporting(SpanExporter):
    """Says once that the collector cannot be reached, and once that it can again.

    Attributes:
        closing: Whether only what the collector takes at once is still sent.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False
        self.closing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.closing and self._failing:
            return SpanExportResult.FAILURE
        cause = "the collector does not take them"
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # whatever it is, it must not end the thread
            result, cause = SpanExportResult.FAILURE, f"{type(error).__name__}: {error}"
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            logger.warning("traces cannot be delivered and are lost", cause=cause)
        elif self._failing and not failing:
            logger.info("traces are delivered again")
        self._failing = failing
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _resource() -> Resource:
    """Returns what all spans say of this server; the variables of OpenTelemetry (`OTEL_SERVICE_NAME` …) come first."""
    found = Resource.create()
    if str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: "dragoman"}))
    return found
