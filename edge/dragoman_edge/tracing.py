"""The spans of the edge, by OpenTelemetry's conventions for HTTP: one for each request.

Imported only when traces are on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dragoman_edge.outcome import CLIENT_LEFT

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

    from dragoman_edge.exchange import Exchange
    from dragoman_edge.outcome import Begin, End, Outcome
    from dragoman_edge.routing import Route

_PROPAGATOR = TraceContextTextMapPropagator()


def trace_requests(provider: TracerProvider) -> Begin:
    """Returns what makes a span of each request, below the one that its `traceparent` names, and tells the core of it.

    Args:
        provider: Where spans go.
    """
    tracer = provider.get_tracer("dragoman")

    def begin(exchange: Exchange, route: Route) -> End:
        request = exchange.request
        attributes: dict[str, AttributeValue] = {
            "http.request.method": route.method,
            "http.route": route.path,
            "url.scheme": "http",
            "network.protocol.version": f"1.{request.head.minor}",
            "dragoman.request_id": exchange.request_id,
        }
        if not route.dialect.secret_paths:
            attributes["url.path"] = request.path
        if (agent := request.headers.get("user-agent")) is not None:
            attributes["user_agent.original"] = agent
        parent = _PROPAGATOR.extract(request.headers)
        span = tracer.start_span(f"{route.method} {route.path}", parent, SpanKind.SERVER, attributes)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span))
        exchange.trace = tuple(carrier.items())

        def end(outcome: Outcome) -> None:
            stream = request.stream
            status = stream.status if stream is not None else outcome.status  # a status that was sent stays sent
            if status != CLIENT_LEFT:
                span.set_attribute("http.response.status_code", status)
            if outcome.error:
                span.set_attribute("error.type", outcome.error)
            if outcome.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

        return end

    return begin
