"""One connection of a client: requests one after the other, each answered before the next one is parsed."""

from __future__ import annotations

import asyncio
import logging
import math
from enum import Enum, auto
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol, cast

from dragoman_edge.http.errors import BodyError, HttpError
from dragoman_edge.http.parser import RequestParser
from dragoman_edge.http.response import Response, render_head
from dragoman_edge.http.stream import Stream, chunk

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from dragoman_edge.http.request import Request
    from dragoman_edge.http.server import Server

logger = logging.getLogger(__name__)


_LITTLE = 16 * 1024
"""Most bytes that are written with those of other connections."""

_TASK = "request"
"""Name of all tasks: to make up one for each costs as much as the task."""


class Waits(Enum):
    """What a connection waits for, and therefore what happens if it waits too long."""

    NOTHING = auto()  # a handler is at work: it may take its time
    REQUEST = auto()
    BODY = auto()  # of the request that a handler reads
    REST = auto()  # of a request that is answered, or of a client that is sent away: it is thrown away
    READER = auto()  # the client must read its answer


class Cancellable(Protocol):
    """What answers a request."""

    def cancel(self) -> object:
        """Ends it: the client has gone. Nothing may be told to the connection any more."""


class _SlowReader:
    """Stands for the client that has yet to read its answer."""

    def cancel(self) -> None:
        pass


_SLOW_READER = _SlowReader()


class Connection(asyncio.Protocol):
    """The protocol of one connection.

    A request costs one task: the one that its handler waits in. One whose answer comes by `reply` costs none. The
    server's timer looks after the times: it calls `check`.

    Attributes:
        writing_paused: Whether so much waits for the client that no more should be written.
        work: What answers a request, if one is being answered, or begins to answer the next one.
        transport: The transport, until it is closed.
    """

    __slots__ = (
        "_backlog",
        "_began",
        "_closing",
        "_deadline",
        "_drained",
        "_lingered",
        "_parser",
        "_reading_paused",
        "_server",
        "_unsent",
        "_waits",
        "transport",
        "work",
        "writing_paused",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = RequestParser(server.limits)
        self.transport: asyncio.Transport | None = None
        self._backlog = b""  # what came after the request that is being answered
        self._began = False  # whether the task that waits for an answer has begun to run
        self._closing = False  # whether the connection is closed after this answer
        self._reading_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._lingered = 0
        self._unsent = 0
        self._waits = Waits.REQUEST
        self._deadline = server.idle_deadline
        self.writing_paused = False
        self.work: Cancellable | None = None

    # --- the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes a connection in, or refuses it."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it
        self.transport.set_write_buffer_limits(high=self._server.limits.unsent)
        refusal = self._server.admit(self)
        if refusal is not None:
            self._dismiss(refusal)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Lets a connection go; what was begun for it is cancelled."""
        self.transport = None
        self._parser.close()
        self._wake_writer()
        work = self.work
        if isinstance(work, asyncio.Task):  # `_wait_for_answer` ends it, once it has begun
            if self._began:
                work.cancel()
            else:
                self._server.loop.call_soon(work.cancel)
            return
        if work is not None:
            self.work = None
            work.cancel()
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        """Parses what came, or keeps it while a request is being answered."""
        if self._lingered:
            self._throw_away(data)
        elif self.work is None:
            request = self._parser.repeated(data)
            if request is not None:
                self._begin(request)
            else:
                self._feed(data)
        else:
            under_way = self._parser.request
            if under_way is None or under_way.body.complete:
                self._backlog += data
                if len(self._backlog) > self._server.limits.unread:
                    self._pause_reading()
            else:
                self._feed(data)

    def pause_writing(self) -> None:
        """Notes that the client is slow: it must go on reading, or else it is cut off.

        That may show only after an answer, as writes are put off. A body that is awaited or thrown away has a time of
        its own.
        """
        self.writing_paused = True
        if self._waits is not Waits.BODY and self._waits is not Waits.REST:
            self._wait_for_reader()

    def resume_writing(self) -> None:
        """Notes that the client has caught up."""
        self.writing_paused = False
        if self._waits is Waits.READER and not self._closing_down():
            if self.work is None:
                self._wait(Waits.REQUEST, self._server.limits.idle)
            else:
                self._wait(Waits.NOTHING, math.inf)
        self._wake_writer()
        request = self._parser.request
        if self.work is _SLOW_READER and request is not None:
            self._answered(request)

    def eof_received(self) -> None:
        """Writes what is said so far: the transport now closes by itself."""
        self._server.outbox.flush()

    # --- requests

    def _feed(self, data: bytes) -> None:
        parser = self._parser
        idle = not parser.in_head
        try:
            rest = parser.feed(data)
        except BodyError as error:
            self._broken_body(error)
            return
        except HttpError as error:
            self._dismiss(self._server.on_error(error))
            return
        request = parser.request
        if request is None:
            if idle:  # a head has begun: it has as much time as the connection had to wait for it
                self._wait(Waits.REQUEST, self._server.limits.idle)
            return
        if rest:
            self._backlog = rest + self._backlog
        if self.work is None and self._waits is not Waits.REST:
            self._begin(request)
        elif request.body.complete:
            if self._waits is Waits.REST:
                self._next()
        elif request.body.unread > self._server.limits.unread and not request.body.awaited:
            self._pause_reading()

    def _begin(self, request: Request) -> None:
        request.wire = self
        self._closing = not request.head.keep_alive
        self._waits, self._deadline = Waits.NOTHING, math.inf
        if self.writing_paused:  # an earlier answer turned out to be too much
            self._wait_for_reader()
        try:
            answer: Any = self._server.handler(request)
        except Exception:
            logger.exception("a request was not answered")
            self.abort()
            return
        if isinstance(answer, Response):
            self.reply(answer)
        elif isinstance(answer, CoroutineType):
            self._began = False
            self.work = self._server.loop.create_task(self._wait_for_answer(request, answer), name=_TASK)
        else:
            self.work = answer

    def reply(self, answer: Response) -> None:
        """Writes an answer, and turns to what comes after its request."""
        self.work = None
        transport, request, server = self.transport, self._parser.request, self._server
        if request is None or transport is None or transport.is_closing():
            return
        closing = self._closing or answer.close or server.stopping
        self._closing = closing = closing or (not request.body.complete and _is_held_back(request))
        try:
            self.send(answer.render(request, server.common, close=closing))
        except Exception:
            logger.exception("a request was not answered")
            self.abort()
            return
        if closing or self.writing_paused or self._reading_paused or self._backlog or not request.body.complete:
            self._answered(request)
        else:
            self._parser.request = None
            self._waits, self._deadline = Waits.REQUEST, server.idle_deadline

    async def _wait_for_answer(self, request: Request, answering: Coroutine[Any, Any, Response | Stream]) -> None:
        self._began = True
        try:
            answer = await answering
            if isinstance(answer, Response):
                self._write(answer, request)
            elif not answer.ended:
                raise ConnectionError("the answer broke off")
        except asyncio.CancelledError:
            self.abort()
            raise
        except ConnectionError:
            self.abort()
        except Exception:
            logger.exception("a request was not answered")
            self.abort()
        finally:
            self._answered(request)

    def _write(self, answer: Response, request: Request) -> None:
        transport, server = self.transport, self._server
        if transport is None or transport.is_closing():
            return
        self._closing = self._closing or answer.close or server.stopping or _is_held_back(request)
        self.send(answer.render(request, server.common, close=self._closing))

    def _answered(self, request: Request) -> None:
        """Turns to what comes after an answered request, once the client has caught up."""
        self.work = None
        if self.transport is None:
            self._server.forget(self)
        elif self.writing_paused:
            self.work = _SLOW_READER  # `resume_writing` goes on
            self._wait_for_reader()
        else:
            self._release(request)

    def _release(self, request: Request) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        closing = self._closing or self._server.stopping
        if request.body.complete:
            if closing:
                self._close()
            else:
                self._next()
        elif closing:
            self._linger()
        else:  # the client may go on, once it has sent what nobody reads
            request.body.drop()
            self._wait(Waits.REST, self._server.limits.linger)
            self._resume_reading()

    def _next(self) -> None:
        self._parser.request = None
        self._wait(Waits.REQUEST, self._server.limits.idle)
        self._resume_reading()
        if self._backlog:  # not within a call chain that an answer came by, nor one request within the other
            self.work = self._server.loop.call_soon(self._feed_backlog)

    def _feed_backlog(self) -> None:
        self.work = None
        data, self._backlog = self._backlog, b""
        if not self._closing_down():
            self._feed(data)
            if self._server.stopping:  # `retire` took this for a request, which it need not be
                self.retire()

    def _broken_body(self, error: BodyError) -> None:
        request = self._parser.request
        if self._waits is Waits.REST:  # it is answered
            self._close()
            return
        if request is None or self.work is None:  # nobody has begun to answer it
            self._dismiss(self._server.on_error(error))
            return
        self._closing = True
        self._pause_reading()
        request.body.fail(error)

    # --- what requests and streams ask for

    def ask_for_body(self) -> None:
        """Tells a client that waits for it to send its body."""
        self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def receive(self, request: Request, limit: int) -> None:
        """Waits until the body of a request is complete, or larger than `limit`.

        Raises:
            BodyError: If it comes too slowly, or breaks off.
        """
        self._resume_reading()
        self._wait(Waits.BODY, self._server.limits.body)
        try:
            await request.body.wait(limit)
        finally:
            self._wait(Waits.NOTHING, math.inf)
            if self.writing_paused:
                self._wait_for_reader()

    def begin(self, request: Request, status: int, headers: Mapping[str, str], first: bytes, *, last: bool) -> Stream:
        """Begins an answer whose length is not known: the head and the first bytes of its body are one write."""
        server = self._server
        if self.transport is None:
            raise ConnectionResetError("the client has gone")
        chunked = bool(request.head.minor)
        self._closing = self._closing or server.stopping or not chunked or _is_held_back(request)
        common = f"{server.common}Transfer-Encoding: chunked\r\n" if chunked else server.common
        head = render_head(request, status, headers, common, close=self._closing)
        if request.method == "HEAD":
            first, last, size = b"", True, 0
        else:
            size = len(first)
            first = chunk(first, last=last) if chunked else first
        self.send(head + first)
        return Stream(self, status, chunked=chunked, ended=last, sent=size)

    def send(self, data: bytes) -> None:
        """Writes bytes by the end of this turn of the loop; many at once: whether the client is slow must show."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        outbox = self._server.outbox
        if len(data) <= _LITTLE:
            outbox.write(transport, data)
        else:
            outbox.flush()
            transport.write(data)

    async def drain(self) -> None:
        """Waits until the client has caught up."""
        while self.writing_paused and self.transport is not None:
            self._drained = self._server.loop.create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # --- the end

    def retire(self) -> None:
        """Closes the connection, at once if no request is under way, else after its answer."""
        self._closing = True
        if self.work is None and not self._lingered:
            self._close()

    def abort(self) -> None:
        """Closes the connection at once, and ends what is done for it; whatever the client has not got is lost."""
        if self.transport is not None:
            self.transport.abort()

    def _close(self) -> None:
        if self.transport is not None:
            self._server.outbox.flush()
            self.transport.close()
            self._wait_for_reader()  # what is written still goes out

    def _dismiss(self, answer: Response) -> None:
        """Sends a client away: what it sends can no longer be trusted, or is not wanted."""
        if not self._closing_down() and self.transport is not None:
            self.send(answer.render(None, self._server.common, close=True))
            self._linger()

    def _linger(self) -> None:
        """Closes the connection, but not at once: what the client still sends would make it lose the answer."""
        transport = self.transport
        if transport is None:
            return
        self._backlog = b""
        self._lingered = 1
        self._server.outbox.flush()
        if transport.can_write_eof():
            transport.write_eof()
        self._wait(Waits.REST, self._server.limits.linger)
        self._resume_reading()

    def _throw_away(self, data: bytes) -> None:
        self._lingered += len(data)
        if self._lingered > self._server.limits.lingering_bytes:
            self._close()

    # --- times, and how much is read

    def check(self, now: float) -> None:
        """Acts if what the connection waits for takes too long."""
        if now <= self._deadline:
            return
        if self._waits is Waits.BODY:
            request = self._parser.request
            if request is not None:
                self._closing = True
                request.body.fail(_slow_body(self._server.limits.body))
        elif self._waits is Waits.READER:
            self._check_reader()
        else:
            self._close()

    def _check_reader(self) -> None:
        """Cuts a client off that has read nothing since the last look."""
        transport = self.transport
        if transport is None:
            return
        unsent = transport.get_write_buffer_size()
        if unsent >= self._unsent:
            transport.abort()
        else:
            self._wait_for_reader()

    def _wait_for_reader(self) -> None:
        if self.transport is not None:
            self._unsent = self.transport.get_write_buffer_size()
            self._wait(Waits.READER, self._server.limits.stall)

    def _wait(self, for_: Waits, patience: float) -> None:
        self._waits = for_
        self._deadline = self._server.now + patience + self._server.tick

    def _closing_down(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    def _pause_reading(self) -> None:
        if not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and self.transport is not None:
            self._reading_paused = False
            self.transport.resume_reading()


def _is_held_back(request: Request) -> bool:
    """Whether a client may still wait to be asked for the body: what comes next may be that, or another request."""
    return not request.body.complete and "expect" in request.headers


def _slow_body(seconds: float) -> BodyError:
    return BodyError(f"The request body did not arrive within {seconds:g} seconds.", status=408, code="request_timeout")
