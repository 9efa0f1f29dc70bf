"""Writes a server stream of the core as server-sent events: the hot path of every stream.

The sink renders each batch and writes it to the transport within the call that brought it. The handler's task only
does what needs waiting: it holds the status line until there is something to say, keeps silent streams alive, and holds
the run back while the client is slow.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

import grpc
from aiohttp import HttpVersion11, web

from dragoman.reasons import Reason
from dragoman_edge.calls import error_of_status
from dragoman_edge.errors import EdgeError, internal_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.http import StreamWriter

    from dragoman.streaming import CallStatus, StreamHandle
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.settings import EdgeSettings

logger = logging.getLogger(__name__)

PING = b": ping\n"
"""A comment. One newline only: clients that saw an `id:` take a blank line after it for an empty event, and choke."""

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class Batch(Protocol):
    """A message of a stream: some events of one run."""

    @property
    def run_id(self) -> str:
        """The run."""


BatchT = TypeVar("BatchT", bound=Batch)
BatchT_contra = TypeVar("BatchT_contra", bound=Batch, contravariant=True)


class Renderer(Protocol[BatchT_contra]):
    """Turns the batches of one stream into the bytes of one answer. It does no I/O."""

    @property
    def ended(self) -> bool:
        """Whether the last batch ended the stream: nothing follows."""

    @property
    def failure(self) -> EdgeError | None:
        """Why the run failed, if this stream tells that as an error; `fail` renders it."""

    def render(self, batch: BatchT_contra) -> bytes:
        """Returns what the client is to read of a batch; may be empty."""

    def fail(self, error: EdgeError) -> bytes:
        """Returns the end of a stream that went wrong after it began."""


class EventStream(Generic[BatchT]):
    """One stream, from the core to one client. It is the sink of the core's stream.

    A failure before anything was rendered is raised, so that it gets its own status; later ones are told in-band.
    """

    def __init__(self, exchange: Exchange, renderer: Renderer[BatchT], settings: EdgeSettings) -> None:
        self._exchange = exchange
        self._request = exchange.request
        self._protocol = exchange.request.protocol
        self._renderer = renderer
        self._render = renderer.render
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._chunked = exchange.request.version >= HttpVersion11
        self._transport: asyncio.Transport | None = None  # set once the head is written
        self._pending: list[bytes] = []
        self._run_id = ""
        self._ended = False
        self._error: EdgeError | None = None
        self._last_write = 0.0
        self._waiter: asyncio.Future[None] | None = None

    # --- the sink: called within the core's own call chain

    def on_message(self, message: BatchT) -> None:
        """Writes a batch."""
        if self._ended:
            return
        if not self._run_id:
            self._run_id = message.run_id
        try:
            data = self._render(message)
        except Exception:
            logger.exception("a batch could not be rendered", extra={"run_id": self._run_id})
            self._end(internal_error())
            return
        if data:
            self._send(data)
        if self._renderer.ended:
            self._end(self._renderer.failure)

    def on_end(self, status: CallStatus) -> None:
        """Ends the stream; after the run's own end, nothing is left to say."""
        if self._ended:
            return
        if status.code is grpc.StatusCode.OK:
            self._end(EdgeError("The stream broke off before the run ended.", reason=Reason.INTERNAL))
        else:
            self._end(error_of_status(status.code, status.details, status.trailing_metadata))

    def _send(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            self._pending.append(data)
            self._wake()
            return
        if transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        self._last_write = self._loop.time()
        if self._protocol.writing_paused:
            self._wake()

    def _end(self, error: EdgeError | None) -> None:
        self._ended = True
        if error is not None:
            error.run_id = error.run_id or self._run_id
            if self._transport is None and not self._pending:
                self._error = error
            else:
                self._send(self._renderer.fail(error))
        self._close()
        self._wake()

    def _close(self) -> None:
        """Ends the body in the same turn as the last event, so that both travel in one packet."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            cast("StreamWriter", self._request.writer).set_eof()

    # --- the handler's task

    async def run(self, open_: Callable[[EventStream[BatchT]], StreamHandle]) -> web.StreamResponse:
        """Answers the request with the stream that `open_` opens into this sink. Leaving early cancels the call.

        Raises:
            EdgeError: If the stream fails before there is anything to show.
        """
        handle = open_(self)
        try:
            await self._hold()
            if self._error is not None:
                raise self._error
            response = await self._commit()
            while not self._ended:
                if self._protocol.writing_paused:
                    handle.pause()
                    await self._request.writer.drain()
                    handle.resume()
                else:
                    await self._keep_alive()
            return response
        finally:
            handle.cancel()

    async def _hold(self) -> None:
        """Waits for something to show, but not for ever."""
        deadline = self._loop.time() + self._settings.hold_headers
        while not (self._pending or self._ended) and self._loop.time() < deadline:
            await self._sleep_until(deadline)

    async def _commit(self) -> web.StreamResponse:
        """Writes the head, and what has waited for it."""
        response = web.StreamResponse(headers=_HEADERS | self._exchange.headers)
        if self._run_id:
            response.headers["x-dragoman-run-id"] = self._run_id
        if self._chunked:
            response.enable_chunked_encoding()
        await response.prepare(self._request)
        self._transport = self._request.transport
        self._send(b"".join(self._pending) or PING)
        self._pending.clear()
        if self._ended:
            self._close()
        return response

    async def _keep_alive(self) -> None:
        """Waits for the end, for a slow client, or until the stream has been silent for too long."""
        deadline = self._last_write + self._settings.keep_alive
        await self._sleep_until(deadline)
        if not self._ended and self._loop.time() >= self._last_write + self._settings.keep_alive:
            self._send(PING)

    async def _sleep_until(self, deadline: float) -> None:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(deadline, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
