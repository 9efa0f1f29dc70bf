"""Writes a server stream of the core as server-sent events: the hot path of every stream.

The sink renders each batch and writes it to the transport within the call that brought it. The handler's task only
does what needs waiting: it holds the status line until there is something to say, keeps silent streams alive, and holds
the run back while the client is slow.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import grpc

from dragoman.reasons import Reason
from dragoman_edge.calls import error_of_status
from dragoman_edge.errors import EdgeError, internal_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.streaming import CallStatus, StreamHandle
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.settings import EdgeSettings

logger = logging.getLogger(__name__)

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


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
    def media_type(self) -> str:
        """The media type of the answer."""

    @property
    def keep_alive(self) -> bytes:
        """What is sent when there is nothing to say, and what clients skip."""

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


class TextRenderer(Renderer[BatchT_contra], Protocol[BatchT_contra]):
    """A renderer that takes text without a batch around it."""

    def render_text(self, text: str, sequence: int) -> bytes:
        """Does what `render` does for a batch with one text_delta of choice 0, of this text alone; never empty."""


class EventStream(Generic[BatchT]):
    """One stream, from the core to one client. It is the sink of the core's stream.

    A failure before anything was rendered is raised, so that it gets its own status; later ones are told in-band.

    Args:
        exchange: The request.
        renderer: Turns batches into bytes.
        settings: The knobs.
        before_head: Gets each batch that comes before the head is written, to add headers.
    """

    def __init__(
        self,
        exchange: Exchange,
        renderer: Renderer[BatchT],
        settings: EdgeSettings,
        before_head: Callable[[BatchT], None] = lambda batch: None,
    ) -> None:
        self._exchange = exchange
        self._renderer = renderer
        self._render = renderer.render
        self._render_text: Callable[[str, int], bytes] | None = getattr(renderer, "render_text", None)
        self._settings = settings
        self._before_head = before_head
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._stream: Stream | None = None  # set once the head is written
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
        if self._stream is None:
            self._run_id = message.run_id
            self._before_head(message)
        try:
            data = self._render(message)
        except Exception:
            self._fault()
            return
        if self._renderer.ended:
            self._end(self._renderer.failure, data)
        elif data:
            self._write(data)

    @property
    def on_text(self) -> Callable[[str, int], None] | None:
        """Writes text, if the renderer takes it; see `dragoman.streaming.TextSink`."""
        return None if self._render_text is None else self._write_text

    def _write_text(self, text: str, sequence: int) -> None:
        if self._ended or self._render_text is None:
            return
        try:
            data = self._render_text(text, sequence)
        except Exception:
            self._fault()
            return
        self._write(data)

    def _write(self, data: bytes) -> None:
        stream = self._stream
        if stream is None:
            self._pending.append(data)
            self._wake()
        else:
            stream.write(data)
            self._last_write = self._time()
            if stream.outlet.writing_paused:
                self._wake()

    def _fault(self) -> None:
        """Ends the stream: what came could not be rendered."""
        ids = {"request_id": self._exchange.request_id, "run_id": self._run_id}
        logger.exception("a batch could not be rendered", extra=ids)
        self._end(internal_error())

    def on_end(self, status: CallStatus) -> None:
        """Ends the stream; after the run's own end, nothing is left to say."""
        if self._ended:
            return
        if status.code is grpc.StatusCode.OK:
            self._end(EdgeError("The stream broke off before the run ended.", reason=Reason.INTERNAL))
        else:
            self._end(error_of_status(status.code, status.details, status.trailing_metadata))

    def _end(self, error: EdgeError | None, data: bytes = b"") -> None:
        """Ends the body in the same write as the last event."""
        self._ended = True
        if error is not None:
            error.run_id = error.run_id or self._run_id
            if self._stream is None and not self._pending and not data:
                self._error = error
            else:
                data += self._renderer.fail(error)
        if self._stream is None:
            self._pending.append(data)
        elif data:
            self._stream.write(data, last=True)
        else:
            self._stream.end()
        self._wake()

    # --- the handler's task

    async def run(self, open_: Callable[[EventStream[BatchT]], StreamHandle]) -> Stream:
        """Answers the request with the stream that `open_` opens into this sink. Leaving early cancels the call.

        Raises:
            EdgeError: If the stream fails before there is anything to show.
        """
        handle = open_(self)
        try:
            await self._hold()
            if self._error is not None:
                raise self._error
            stream = self._stream = self._commit()
            while not self._ended:
                if stream.outlet.writing_paused:
                    handle.pause()
                    await stream.outlet.drain()
                    handle.resume()
                else:
                    await self._keep_alive(stream)
            return stream
        finally:
            handle.cancel()

    async def _hold(self) -> None:
        """Waits for something to show, but not for ever."""
        deadline = self._time() + self._settings.hold_headers
        while not (self._pending or self._ended) and self._time() < deadline:
            await self._sleep_until(deadline)

    def _commit(self) -> Stream:
        """Writes the head, and what has waited for it."""
        headers = {"Content-Type": self._renderer.media_type, **_HEADERS, **self._exchange.headers}
        if self._run_id:
            headers["x-dragoman-run-id"] = self._run_id
        first = b"".join(self._pending) or self._renderer.keep_alive
        self._pending.clear()
        self._last_write = self._time()
        return self._exchange.request.begin(headers, first, last=self._ended)

    async def _keep_alive(self, stream: Stream) -> None:
        """Waits for the end, for a slow client, or until the stream has been silent for too long."""
        deadline = self._last_write + self._settings.keep_alive
        await self._sleep_until(deadline)
        if not self._ended and self._time() >= self._last_write + self._settings.keep_alive:
            stream.write(self._renderer.keep_alive)
            self._last_write = self._time()

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
