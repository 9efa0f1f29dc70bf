"""Calls one server over a pool of keep-alive connections.

On a pooled connection a request is one socket write, and its answer arrives by callbacks: no task, future or timer of
its own. Deadlines are checked by one timer of the client, so they are late by up to a tenth of the shortest timeout,
and at most by a second. Redirects are not followed, and proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from dragoman.outbox import Outbox
from dragoman.reasons import Reason
from dragoman_server.errors import ProviderError, Unavailable
from dragoman_server.providers.upstream.connection import LEAST_PER_TURN, Connection, unreachable
from dragoman_server.providers.upstream.heads import KnownHeads

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from dragoman_server.providers.upstream.address import Address
    from dragoman_server.providers.upstream.connection import Carried, ResponseHandler

    Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

KEEP_ALIVE = 55.0
"""Seconds that an idle connection is kept, unless the peer announced less."""

BYTES_PER_TURN = 1024 * 1024
"""Bytes that all exchanges together should be worked on in one turn of the loop: some fifty milliseconds of events."""

_KEEP_ALIVE_MARGIN = 1.0
"""Seconds by which we give up a connection before the peer does."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one exchange, in seconds.

    Attributes:
        connect: Until a connection stands, the wait for a free one included.
        first: From then until something worth waiting for came.
        idle: Between two such things; a paused exchange is not idle.
        total: For everything.
    """

    connect: float
    first: float
    idle: float
    total: float


class _Nobody:
    """Takes the place of a handler that hears nothing more, so that it and its exchange do not keep each other."""

    def on_headers(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Does nothing."""

    def on_data(self, data: bytes) -> None:
        """Does nothing."""

    def on_complete(self) -> None:
        """Does nothing."""

    def on_error(self, error: ProviderError) -> None:
        """Does nothing."""


_NOBODY = _Nobody()


class Exchange:
    """A request and its answer, as the caller holds them. All methods may be called at any time and repeatedly.

    Attributes:
        moved: The handler sets it when something worth waiting for came: the idle timeout then runs anew.
    """

    __slots__ = (
        "_client",
        "connection",
        "done",
        "handler",
        "moved",
        "paused",
        "progressed",
        "request",
        "retried",
        "since",
        "start",
        "task",
    )

    def __init__(self, client: Client, request: bytes, handler: ResponseHandler) -> None:
        self._client = client
        self.request = request
        self.handler: ResponseHandler = handler
        self.connection: Connection | None = None
        self.task: asyncio.Task[None] | None = None
        self.paused = False
        self.retried = False
        self.done = False
        self.progressed = False
        self.moved = False
        self.start = self.since = monotonic()  # since: it last moved, the moment the connection stood, or the start

    def abort(self) -> None:
        """Ends the exchange; its socket is closed at once, and the handler hears nothing more."""
        if not self.done:
            self.done = True
            self.handler = _NOBODY
            self._client.forget(self)
            if self.connection is not None:
                self.connection.close()
            elif self.task is not None:
                self.task.cancel()

    def pause(self) -> None:
        """Stops reading the answer; what was read already may still come."""
        if not self.paused and not self.done:
            self.paused = True
            if self.connection is not None:
                self.connection.pause()

    def resume(self) -> None:
        """Reads on."""
        if self.paused and not self.done:
            self.paused = False
            self.since = monotonic()
            if self.connection is not None:
                self.connection.resume()

    def finish(self, error: ProviderError | None) -> None:
        """Ends the exchange and tells the handler. The connection calls it."""
        if not self.done:
            self.done = True
            handler, self.handler = self.handler, _NOBODY
            self._client.forget(self)
            if error is None:
                handler.on_complete()
            else:
                handler.on_error(error)

    def finish_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Ends the exchange with a whole answer; the connection is free by now. The connection calls it."""
        if self.done:
            return
        self.connection = None
        if (on_whole := getattr(self.handler, "on_whole", None)) is not None:
            self.done = True
            self.handler = _NOBODY
            self._client.forget(self)
            on_whole(status, headers, body)
            return
        self.handler.on_headers(status, headers)
        if body:
            self.handler.on_data(body)
        self.finish(None)

    def overdue(self, now: float, limits: Timeouts) -> str:
        """Returns which limit is exceeded, or nothing."""
        if self.moved:  # the clock is read once per look, not once per read of the socket
            self.moved, self.progressed, self.since = False, True, now
        if now - self.start > limits.total:
            return f"the answer took longer than {limits.total:g} s"
        silence = now - self.since
        if self.connection is None:
            return f"no connection stood after {limits.connect:g} s" if silence > limits.connect else ""
        if self.paused:
            return ""
        if self.progressed:
            return f"the answer stopped for {limits.idle:g} s" if silence > limits.idle else ""
        return f"no answer came for {limits.first:g} s" if silence > limits.first else ""


class Client:
    """Calls one server.

    Args:
        address: The server.
        timeouts: Limits of every exchange.
        max_connections: Most connections at a time. As many requests again may wait for one, first come first served.
        ssl_context: How to encrypt; by default with the certificates of the system.
        resolve: Finds the IP addresses of a host and port, and may refuse them with a ProviderError; connections are
            made to just these. By default the system finds them.

    Attributes:
        outbox: Takes what connections send; made with the first request.
    """

    outbox: Outbox

    def __init__(
        self,
        address: Address,
        timeouts: Timeouts,
        max_connections: int,
        ssl_context: ssl.SSLContext | None = None,
        resolve: Resolver | None = None,
    ) -> None:
        self._address = address
        self._timeouts = timeouts
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        self._resolve = resolve
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._idle: list[Connection] = []  # the warmest last
        self._active: set[Exchange] = set()
        self._waiting: deque[Exchange] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._tick = min(1.0, max(0.01, min(timeouts.connect, timeouts.first, timeouts.idle, timeouts.total) / 10))
        self._closed = False
        self.heads = KnownHeads()

    def send(self, request: bytes, handler: ResponseHandler) -> Exchange:
        """Sends a whole request. The handler hears of it on later turns of the loop.

        Raises:
            Unavailable: If too many requests wait for a connection, or the client is closed.
        """
        if self._closed:
            raise Unavailable("the provider is closed", reason=Reason.SHUTTING_DOWN)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self.outbox = Outbox(self._loop)
        exchange = Exchange(self, request, handler)
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.closing:
                exchange.connection = connection
                connection.begin(exchange)
                break
        else:
            self._send_later(exchange)
        self._active.add(exchange)
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick, self._check)
        return exchange

    async def close(self) -> None:
        """Aborts everything and closes all connections."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for exchange in tuple(self._active):
            exchange.abort()
        for connection in tuple(self._connections):
            connection.close()
        if self._connecting:
            await asyncio.wait(tuple(self._connecting))
        await asyncio.sleep(0)  # the turn in which the transports close

    # What exchanges and connections tell

    def forget(self, exchange: Exchange) -> None:
        """The exchange is done."""
        self._active.discard(exchange)
        if self._waiting and exchange in self._waiting:
            self._waiting.remove(exchange)

    def bytes_per_turn(self) -> int:
        """Returns an equal share of a turn for every exchange."""
        return max(LEAST_PER_TURN, BYTES_PER_TURN // (len(self._active) or 1))

    def released(self, connection: Connection, *, reusable: bool) -> None:
        """A connection completed its exchange: the next waiting one takes it, or it rests."""
        if not reusable or self._closed:
            connection.close()
        elif self._waiting:
            self._carry(connection, self._waiting.popleft())
        else:
            connection.idle_since = monotonic()
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection is closed: there is room for another."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._serve_waiting()

    def stale(self, connection: Connection, exchange: Carried) -> bool:
        """Sends the request of a stale connection once more, on another one."""
        if not isinstance(exchange, Exchange) or exchange.retried or exchange.done or self._closed:
            return False
        exchange.retried = True
        exchange.connection = None
        exchange.since = monotonic()
        self._connect_for(exchange)
        return True

    # Connections

    def _send_later(self, exchange: Exchange) -> None:
        """Lets an exchange wait for a connection of its own, or for the next that is free."""
        if self._has_room():
            self._connect_for(exchange)
        elif len(self._waiting) < self._max_connections:
            self._waiting.append(exchange)
        else:
            raise Unavailable("too many requests wait for a connection to the provider")

    def _has_room(self) -> bool:
        return len(self._connections) + len(self._connecting) < self._max_connections

    def _serve_waiting(self) -> None:
        while self._waiting and self._has_room() and not self._closed:
            self._connect_for(self._waiting.popleft())

    def _carry(self, connection: Connection, exchange: Exchange) -> None:
        exchange.connection = connection
        exchange.since = monotonic()
        connection.begin(exchange)

    def _connect_for(self, exchange: Exchange) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(exchange))
        exchange.task = task
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        self._serve_waiting()

    async def _connect(self, exchange: Exchange) -> None:
        try:
            connection = await self._open_connection()
        except (OSError, UnicodeError) as error:
            exchange.finish(
                unreachable("the provider cannot be reached", error if isinstance(error, OSError) else None)
            )
            return
        except ProviderError as error:
            exchange.finish(error)
            return
        finally:
            exchange.task = None  # one that is cancelled keeps its frames, and those the exchange
        self._connections.add(connection)
        self._carry(connection, exchange)

    async def _open_connection(self) -> Connection:
        """Connects to the first address that answers."""
        address, loop = self._address, asyncio.get_running_loop()
        if address.tls and self._ssl_context is None:
            self._ssl_context = _default_ssl_context()
        hosts: Sequence[str] = (address.host,)
        if self._resolve is not None:
            hosts = await self._resolve(address.host, address.port)
        for number, host in enumerate(hosts, 1):
            try:
                _, connection = await loop.create_connection(
                    partial(Connection, self),
                    host,
                    address.port,
                    ssl=self._ssl_context if address.tls else None,
                    server_hostname=address.host if address.tls else None,
                )
            except OSError:
                if number == len(hosts):
                    raise
            else:
                return connection
        raise OSError(f"{address.host} has no address")

    def _check(self) -> None:
        """Ends what is overdue and closes what rested long enough."""
        now = monotonic()
        for exchange in tuple(self._active):
            overdue = exchange.overdue(now, self._timeouts)
            if overdue and not exchange.done:
                handler = exchange.handler
                exchange.abort()
                handler.on_error(ProviderError(overdue, reason=Reason.PROVIDER_TIMEOUT))
        for connection in tuple(self._idle):
            if connection.closing or now - connection.idle_since > _rest(connection):
                self._idle.remove(connection)
                connection.close()
        self._timer = None
        if self._loop is not None and (self._active or self._idle) and not self._closed:
            self._timer = self._loop.call_later(self._tick, self._check)


def _rest(connection: Connection) -> float:
    if connection.idle_limit is None:
        return KEEP_ALIVE
    return min(KEEP_ALIVE, max(0.0, connection.idle_limit - _KEEP_ALIVE_MARGIN))


def _default_ssl_context() -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
