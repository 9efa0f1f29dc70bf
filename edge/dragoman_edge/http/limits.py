"""What one client may take of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every connection. Times are in seconds, sizes in bytes.

    Times are looked after by one timer for all connections: none is cut short, and each may be exceeded by half of the
    shortest of them, at most by two seconds.

    Attributes:
        connections: Most connections; more are refused.
        field: Longest request line, and longest single header.
        head: Longest head, all headers together.
        fields: Most headers.
        idle: How long a connection may wait for a request, and a request for the rest of its head.
        body: How long a body may take, once somebody reads it.
        stall: How long a client may read nothing while its answer waits.
        linger: How long the rest of a refused request is read and thrown away, so that the client gets to its answer.
        lingering_bytes: Most of what is thrown away.
        unsent: Bytes that wait for a client above which whoever writes is told to wait.
        unread: Bytes of a body that nobody reads, or of requests that wait for their turn, above which no more is read.
    """

    connections: int = 10_000
    field: int = 32 * 1024
    head: int = 64 * 1024
    fields: int = 128
    idle: float = 75.0
    body: float = 30.0
    stall: float = 30.0
    linger: float = 2.0
    lingering_bytes: int = 256 * 1024 * 1024
    unsent: int = 256 * 1024
    unread: int = 64 * 1024
