"""What is sent to a provider."""

from __future__ import annotations

from dragoman_server.telemetry.propagation import trace_headers


def post(head: bytes, body: bytes) -> bytes:
    """Returns a whole request, which tells of the trace that it belongs to.

    Args:
        head: The request up to the value of its content length.
        body: The body.
    """
    return b"%b%d\r\n%b\r\n%b" % (head, len(body), trace_headers(), body)
