"""Listens, watches the connections' times, and stops gracefully."""

from __future__ import annotations

import asyncio
import math
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Protocol

from dragoman.outbox import Outbox
from dragoman_edge.http.connection import Connection
from dragoman_edge.http.errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from dragoman_edge.http.connection import Cancellable
    from dragoman_edge.http.limits import Limits
    from dragoman_edge.http.request import Request
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream

    Handler = Callable[[Request], Response | Cancellable | Coroutine[Any, Any, Response | Stream]]
    """Answers a request: at once, or later. What is awaited runs in a task, and is cancelled when the client leaves.

    Whatever else is returned tells its answer by `request.wire.reply`, once, after it was returned. It is cancelled
    when the client leaves, and tells nothing then.
    """

_BACKLOG = 1024
_MOST_DISMISSED = 128
"""Refused connections that are held until they have read why; more are just closed."""
_LAST_STEPS = 5.0
"""Seconds that handlers get to end once they are cancelled."""


class Counts(Protocol):
    """What a server counts.

    Attributes:
        open_connections: Connections of clients.
        refused_connections: Connections refused because too many were open.
    """

    open_connections: int
    refused_connections: int


class Server:
    """An HTTP server.

    Attributes:
        handler: Answers requests.
        on_error: Says what a client is told that sends no good HTTP, or comes when too many are there.
        limits: Bounds of every connection.
        loop: The loop it runs on.
        outbox: Takes what connections write.
        now: The time, as of the last look at the connections.
        idle_deadline: When a connection is closed on which no request comes from now on.
        tick: Seconds between two looks.
        common: The header lines of every answer, as of the last look.
        stopping: Whether no more connections and requests are taken.
    """

    def __init__(
        self,
        handler: Handler,
        on_error: Callable[[HttpError], Response],
        limits: Limits,
        counts: Counts,
        name: str,
    ) -> None:
        self.handler = handler
        self.on_error = on_error
        self.limits = limits
        self.stopping = False
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox(self.loop)
        self.tick = min(1.0, max(0.02, min(limits.idle, limits.body, limits.stall, limits.linger) / 4))
        self._counts = counts
        self._name = name
        self._connections: set[Connection] = set()
        self._dismissed: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        self._read_clocks()

    async def listen(self, host: str, port: int) -> int:
        """Begins to listen, and returns the port.

        Raises:
            OSError: If the port cannot be had.
        """
        listener = await self.loop.create_server(lambda: Connection(self), host, port, backlog=_BACKLOG)
        self._listeners.append(listener)
        if self._timer is None:
            self._look()
        found: int = listener.sockets[0].getsockname()[1]
        return found

    async def stop(self, drain_timeout: float) -> None:
        """Takes nothing more, lets answers go on for a time, then cuts them off.

        Args:
            drain_timeout: That time, in seconds.
        """
        self.stopping = True
        for listener in self._listeners:
            listener.close()
        for connection in self.connections():
            connection.retire()
        if not await self._emptied(drain_timeout):
            for connection in self.connections():
                connection.abort()
            await self._emptied(_LAST_STEPS)
        if self._timer is not None:
            self._timer.cancel()
        for listener in self._listeners:
            await listener.wait_closed()

    # --- what connections tell

    def admit(self, connection: Connection) -> Response | None:
        """Takes a new connection in, or returns what it is told before it is closed."""
        counts = self._counts
        if self.stopping:
            refusal = HttpError("The server shuts down.", status=503, code="shutting_down")
        elif len(self._connections) >= self.limits.connections:
            refusal = HttpError("The server has too many open connections.", status=503, code="overloaded")
        else:
            self._connections.add(connection)
            counts.open_connections = len(self._connections)
            return None
        counts.refused_connections += 1
        if len(self._dismissed) >= _MOST_DISMISSED:
            connection.abort()
        self._dismissed.add(connection)
        return self.on_error(refusal)

    def forget(self, connection: Connection) -> None:
        """Lets a connection go; nothing is done for it any more."""
        self._connections.discard(connection)
        self._dismissed.discard(connection)
        self._counts.open_connections = len(self._connections)
        if self._empty is not None and not self._empty.done() and not self.connections():
            self._empty.set_result(None)

    # --- times

    def _look(self) -> None:
        self._read_clocks()
        for connection in self.connections():
            connection.check(self.now)
        self._timer = self.loop.call_later(self.tick, self._look)

    def _read_clocks(self) -> None:
        self.now = self.loop.time()
        self.idle_deadline = self.now + self.limits.idle + self.tick
        self.common = f"Server: {self._name}\r\nDate: {formatdate(math.floor(time.time()), usegmt=True)}\r\n"

    def connections(self) -> tuple[Connection, ...]:
        """Returns all connections."""
        return (*self._connections, *self._dismissed)

    async def _emptied(self, timeout: float) -> bool:
        """Waits until all connections are gone; returns whether they are."""
        if self.connections():
            self._empty = self.loop.create_future()
            await asyncio.wait((self._empty,), timeout=timeout)
        return not self.connections()
