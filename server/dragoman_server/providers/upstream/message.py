"""What is sent to a provider."""

from __future__ import annotations

from dragoman_server.telemetry.propagation import outgoing_trace, trace_lines


def post(head: bytes, body: bytes) -> bytes:
    """Returns a whole request, which tells of the trace that it belongs to.

    Args:
        head: The request up to the value of its content length.
        body: The body.
    """
    carrier = outgoing_trace.get()
    return b"%b%d\r\n%b\r\n%b" % (head, len(body), trace_lines(carrier) if carrier else b"", body)
