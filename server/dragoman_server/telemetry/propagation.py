"""Passes the trace of a request on to whatever is called for it. It needs no tracing library."""

from __future__ import annotations

from contextvars import ContextVar

Carrier = tuple[tuple[str, str], ...]
"""`traceparent` and `tracestate` (W3C Trace Context), as names and values; empty when nobody traces."""

outgoing_trace: ContextVar[Carrier] = ContextVar("outgoing_trace", default=())
"""The trace headers of calls to the provider that is being asked; set around `Provider.start` and `Embedder.embed`."""


def trace_lines(carrier: Carrier) -> bytes:
    """Returns the header lines that tell a provider of a trace."""
    return "".join(f"{name}: {value}\r\n" for name, value in carrier).encode("ascii")
