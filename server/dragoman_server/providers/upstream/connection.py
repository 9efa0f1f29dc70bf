"""One connection to a provider: bytes in, callbacks out."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Protocol

import httptools

from dragoman.reasons import Reason
from dragoman_server.errors import ProviderError
from dragoman_server.providers.upstream.heads import HEAD_END, Head, KnownHeads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman.outbox import Outbox

MAX_HEAD_BYTES = 64 * 1024
"""Largest status line and headers of an answer."""


class ResponseHandler(Protocol):
    """Receives one answer.

    Nothing comes from inside `Client.send`, and nothing after `on_complete`, `on_error` or an abort. A handler never
    raises; it may abort its exchange at any time. One that has `on_whole` takes an answer that came in one read by it:
    status, headers and body, instead of three calls.
    """

    def on_headers(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Takes the status and the headers, with lower-case names; of repeated ones the last."""

    def on_data(self, data: bytes) -> None:
        """Takes the next bytes of the body: all that one read brought."""

    def on_complete(self) -> None:
        """Takes the end of a complete answer."""

    def on_error(self, error: ProviderError) -> None:
        """Takes the failure that ended the exchange: unreachable, timeout or broken protocol."""


class Owner(Protocol):
    """What a connection tells its pool.

    Attributes:
        outbox: Takes what is to be sent.
        heads: The heads of answers that the server sent before.
    """

    outbox: Outbox
    heads: KnownHeads

    def bytes_per_turn(self) -> int:
        """Returns how many bytes of one connection are worked on before the others have their turn."""

    def released(self, connection: Connection, *, reusable: bool) -> None:
        """The exchange is complete."""

    def lost(self, connection: Connection) -> None:
        """The connection is closed."""

    def stale(self, connection: Connection, exchange: Carried) -> bool:
        """A reused connection closed before it answered; true if the exchange goes on with another one."""


class Carried(Protocol):
    """The exchange that a connection carries."""

    handler: ResponseHandler
    request: bytes
    paused: bool

    def finish(self, error: ProviderError | None) -> None:
        """The exchange ends."""

    def finish_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """The exchange ends with an answer of which the handler has heard nothing yet."""


_NOTHING = memoryview(b"")

LEAST_PER_TURN = 8 * 1024
"""Bytes of one connection that may always be worked on before the others have their turn: some forty events."""


class Connection(asyncio.Protocol):
    """A keep-alive connection; carries one exchange at a time.

    The parser of httptools calls the `on_*` methods from within `data_received`; they only note what came. What was
    noted is handed over once per read, so that a read with many small chunks is one call of the handler. An answer that
    comes in one read, with a head that came before, needs no parser.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._exchange: Carried | None = None
        self._body: list[bytes] = []
        self.on_body = self._body.append
        self._headers: dict[bytes, bytes] = {}
        self._raw_headers: dict[bytes, bytes] = {}  # as they come, trailers too
        self.on_header = self._raw_headers.__setitem__
        self._status = 0
        self._head_bytes = 0
        self._headers_complete = False
        self._headers_delivered = False
        self._message_complete = False
        self._heads = owner.heads
        self._answered = False  # a byte came since the request
        self._put_in = 0  # at which count of the outbox's flushes the request was put in
        self._keep_alive = False
        self._rest = _NOTHING  # of a long read, for later turns
        self._turn: asyncio.Handle | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parse = self._parser.feed_data
        self.used = False
        self.idle_since = 0.0
        self.idle_limit: float | None = None  # seconds, as the peer announced

    def begin(self, exchange: Carried) -> None:
        """Sends the request of an exchange."""
        transport = self._transport
        if transport is None:
            raise AssertionError("begin before the connection is made")
        self._exchange = exchange
        self._answered = False
        self._headers_complete = self._headers_delivered = self._message_complete = False
        self._head_bytes = 0
        if exchange.paused:
            transport.pause_reading()
        outbox = self._owner.outbox
        self._put_in = outbox.flushes
        outbox.write(transport, exchange.request)

    def close(self) -> None:
        """Closes at once; an exchange that is carried hears nothing."""
        self._exchange = None
        self._rest = _NOTHING
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Stops reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._rest:
            self._take_turn()
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def closing(self) -> bool:
        """Whether the connection is of no use any more."""
        return self._transport is None or self._transport.is_closing()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = transport  # type: ignore[assignment]  # a stream protocol gets a stream transport
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Parses one read, then hands over what it brought. Others have their turns between the parts of a long one."""
        if self._rest:  # some transports do not pause at once
            self._rest = memoryview(bytes(self._rest) + data)
            return
        if len(data) > LEAST_PER_TURN and len(data) > (most := self._owner.bytes_per_turn()):
            self._rest = memoryview(data)[most:]
            self.pause()
            self._take_turn()
            data = data[:most]
        self._receive(data)

    def _take_turn(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Goes on with a long read, unless the reader of the answer is slow; reads on when it is done."""
        self._turn = None
        rest = self._rest
        if not rest or self._held_back():
            return
        most = self._owner.bytes_per_turn()
        self._rest = rest[most:]
        self._receive(bytes(rest[:most]))
        if not self._held_back():
            self.resume()

    def _held_back(self) -> bool:
        return self._exchange is not None and self._exchange.paused

    def _receive(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # nothing was asked
            self.close()
            return
        first = not self._answered
        if first:
            if self._put_in == self._owner.outbox.flushes:  # the request is still here: this is no answer to it
                self._abandon(exchange)
                return
            self._answered = True
            size = data.find(HEAD_END) + len(HEAD_END)
            head = self._heads.get(data[:size])
            if head is not None and head.length == len(data) - size:
                self._heads.hits += 1
                self._finish_whole(exchange, head, data[size:])
                return
        try:
            self._parse(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._misunderstood(exchange, error)
            return
        if self._headers_delivered and len(body := self._body) == 1:  # nearly every read of a stream
            exchange.handler.on_data(body.pop())
        elif self._headers_complete:
            if first and self._message_complete and self._heads.learns:
                self._learn(data)
            self._deliver(exchange)
        else:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail("the headers of the answer are too large")
            return
        if self._message_complete and self._exchange is exchange:
            self._finish(exchange)

    def _misunderstood(self, exchange: Carried, error: Exception) -> None:
        self._deliver(exchange)
        if not self._message_complete:
            self._fail(f"the answer is not valid HTTP: {error}")
        elif self._exchange is exchange:  # complete, but more came: never read that as the next answer
            self._keep_alive = False
            self._finish(exchange)

    def eof_received(self) -> bool:
        """Lets the transport close."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Ends the exchange, if one is carried: well only if the end of the connection is the end of the body."""
        exchange, self._exchange = self._exchange, None
        del self._parser, self._parse  # they know this connection: no cycle is left to the collector
        self._owner.lost(self)
        if exchange is None:
            return
        if not self._answered:
            if self.used and self._owner.stale(self, exchange):
                return
            exchange.finish(unreachable("the connection was closed before an answer came", error))
        elif self._ends_with_connection() and error is None:
            exchange.finish(None)
        else:
            exchange.finish(_broken("the connection was closed in the middle of the answer"))

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._message_complete:
            raise ValueError("a second answer")
        self._raw_headers.clear()

    def on_headers_complete(self) -> None:
        """The headers are complete; those of an informational answer do not count."""
        self._status = self._parser.get_status_code()
        self._headers = {name.lower(): value for name, value in self._raw_headers.items()}
        self._headers_complete = self._status >= 200

    def on_message_complete(self) -> None:
        """The answer is complete."""
        if self._headers_complete:
            self._message_complete = True
            self._keep_alive = self._parser.should_keep_alive()

    # What was noted

    def _deliver(self, exchange: Carried) -> None:
        if not self._headers_delivered and self._headers_complete:
            self._headers_delivered = True
            exchange.handler.on_headers(self._status, self._headers)
        body = self._body
        if body:
            data = body[0] if len(body) == 1 else b"".join(body)
            body.clear()
            if self._exchange is exchange:
                exchange.handler.on_data(data)

    def _learn(self, read: bytes) -> None:
        """Remembers the head of an answer that one read brought whole, for the next one that begins with it."""
        headers = self._headers
        length = headers.get(b"content-length", b"")
        if self._keep_alive and length.isdigit():
            head = Head(self._status, headers, int(length), _keep_alive_timeout(headers))
            self._heads.learn(read, b"".join(self._body), head)

    def _finish_whole(self, exchange: Carried, head: Head, body: bytes) -> None:
        """Does what the parser, `_deliver` and `_finish` do, for an answer with a head that they have seen before."""
        self._message_complete = True
        self._keep_alive = True
        self.idle_limit = head.idle_limit
        self._release(exchange)
        exchange.finish_whole(head.status, head.headers, body)

    def _finish(self, exchange: Carried) -> None:
        self.idle_limit = _keep_alive_timeout(self._headers)
        self._release(exchange)
        exchange.finish(None)

    def _release(self, exchange: Carried) -> None:
        """Lets go of a complete exchange: the connection is free for the next one, or is closed."""
        self._exchange = None
        self.used = True
        transport = self._transport
        reusable = (
            self._keep_alive
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()  # answered before the request was sent whole
            and not self._rest  # more came than was asked for
        )
        if not reusable:
            self.close()
        elif exchange.paused:
            self.resume()
        self._owner.released(self, reusable=reusable)

    def _fail(self, message: str) -> None:
        exchange = self._exchange
        self.close()
        if exchange is not None:
            exchange.finish(_broken(message))

    def _abandon(self, exchange: Carried) -> None:
        """Closes a connection that spoke before it was asked; the request, which was not sent, takes another one."""
        self.close()
        if not self._owner.stale(self, exchange):
            exchange.finish(_broken("an answer came before the request was sent"))

    def _ends_with_connection(self) -> bool:
        """Whether the body has no other end: neither a length nor chunks."""
        headers = self._headers
        return self._headers_complete and b"content-length" not in headers and b"transfer-encoding" not in headers


def _keep_alive_timeout(headers: Mapping[bytes, bytes]) -> float | None:
    """Returns for how many seconds the server keeps an idle connection, if it announced that."""
    announced = headers.get(b"keep-alive")
    if announced is not None:
        for field in announced.split(b","):
            name, _, value = field.strip().partition(b"=")
            if name.lower() == b"timeout" and value.isdigit():
                return float(value)
    return None


def unreachable(message: str, error: Exception | None) -> ProviderError:
    """Returns the failure of a connection that could not be made or was lost before it answered."""
    detail = _os_error(error) if isinstance(error, OSError) else ""
    return ProviderError(f"{message}: {detail}" if detail else message, reason=Reason.PROVIDER_UNREACHABLE)


def _os_error(error: OSError) -> str:
    """Returns what went wrong, without the address that some texts name."""
    tls_reason = getattr(error, "reason", None)
    if isinstance(tls_reason, str):
        return tls_reason.replace("_", " ").lower()
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or ""  # of a name that cannot be resolved


def _broken(message: str) -> ProviderError:
    return ProviderError(message, reason=Reason.PROVIDER_PROTOCOL)
