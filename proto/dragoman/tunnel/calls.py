"""Calls in a tunnel, as their callers hold them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import grpc

from dragoman.streaming import CallStatus, ResponseT
from dragoman.tunnel.framing import FRAME_BYTES, FRAME_OVERHEAD, InvalidMetadata, Outbox, add_metadata, read_metadata
from dragoman.unary import tell
from dragoman.v1.tunnel_service_pb2 import (
    CALL_SIGNAL_CANCEL,
    CALL_SIGNAL_PAUSE,
    CALL_SIGNAL_RESUME,
    CallEnd,
    OpenCall,
    ResponseFrame,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context

    from dragoman.streaming import Metadata, StreamSink
    from dragoman.unary import Then, UnaryRpc

_log = logging.getLogger(__name__)

CANCELLED = CallStatus(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
DEADLINE_EXCEEDED = CallStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Calls:
    """The calls that go on in one tunnel.

    Attributes:
        outbox: What waits to be sent.
        by_id: The calls, by their numbers.
    """

    __slots__ = ("_finishing", "_last_id", "by_id", "outbox")

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.by_id: dict[int, TunnelCall[Any]] = {}
        self._last_id = 0
        self._finishing = False

    def add(self, call: TunnelCall[Any]) -> int:
        """Takes a call in, and returns its number."""
        self._last_id += 1
        self.by_id[self._last_id] = call
        return self._last_id

    def remove(self, call_id: int) -> None:
        """Lets go of a call that has ended. Repeatable."""
        self.by_id.pop(call_id, None)
        if self._finishing and not self.by_id:
            self.outbox.close()

    def finish(self) -> None:
        """Has the outbox closed as soon as no call goes on."""
        self._finishing = True
        if not self.by_id:
            self.outbox.close()


class TunnelCall(Generic[ResponseT]):
    """A call that feeds a sink: `dragoman.streaming.StreamHandle`.

    Attributes:
        error: What kept it from being sent, if anything did.
        initial_metadata: What the server sent of it; known at the end.
        queued: The outbox's own.
    """

    __slots__ = (
        "_calls",
        "_ended",
        "_held",
        "_id",
        "_last",
        "_opening",
        "_parse",
        "_parts",
        "_paused",
        "_pending",
        "_sink",
        "_timer",
        "_told",
        "error",
        "initial_metadata",
        "queued",
    )

    def __init__(self, calls: Calls, sink: StreamSink[ResponseT], parse: Callable[[bytes], ResponseT]) -> None:
        self.queued = False
        self._calls = calls
        self._sink = sink
        self._parse = parse
        self._id = calls.add(self)
        self._opening: OpenCall | None = None  # not sent yet
        self._pending: memoryview | None = None  # what is still to be sent of the request
        self._told: int = CALL_SIGNAL_RESUME  # the last signal that was sent
        self._paused = False
        self._held: deque[bytes] | None = None  # messages that came while the reader was slow
        self._parts: list[bytes] | None = None  # what has come of a large message
        self._last: CallStatus | None = None  # the end, if messages are held before it
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        self.error: Exception | None = None
        self.initial_metadata: Metadata = ()

    def open(
        self, method: str, serialize: Callable[[Any], bytes], request: Any, timeout: float | None, metadata: Metadata
    ) -> None:
        """Sends the request, or ends the call on a later turn of the loop if it cannot be sent.

        Raises:
            ValueError: If an entry of the metadata is not a pair.
        """
        opening = OpenCall(method=method)
        try:
            add_metadata(opening.metadata, metadata)
            data = serialize(request)
            opening.request_size = len(data)
        except ValueError:
            self._leave()
            raise
        except Exception as error:
            self.error = error
            details = "Invalid metadata" if isinstance(error, InvalidMetadata) else f"{type(error).__name__}: {error}"
            self._end_soon(CallStatus(grpc.StatusCode.INTERNAL, details))
            return
        if timeout is not None:
            if timeout <= 0:
                self._end_soon(DEADLINE_EXCEEDED)
                return
            opening.timeout.FromNanoseconds(int(timeout * 1e9))
            self._timer = asyncio.get_running_loop().call_later(timeout, self._expire)
        if len(data) <= FRAME_BYTES:
            opening.request = data
        else:
            opening.request = data[:FRAME_BYTES]
            self._pending = memoryview(data)[FRAME_BYTES:]
        self._opening = opening
        self._calls.outbox.put(self)

    # The reader's side.

    def cancel(self) -> None:
        """Ends the call with CANCELLED, unless it has ended."""
        self._give_up(CANCELLED)

    def pause(self) -> None:
        """Asks to hold back messages; those on their way are kept here."""
        if not (self._paused or self._ended):
            self._paused = True
            if self._held is None:
                self._held = deque()
            self._calls.outbox.put(self)

    def resume(self) -> None:
        """Lifts `pause`."""
        if self._paused and not self._ended:
            self._paused = False
            self._calls.outbox.put(self)
            asyncio.get_running_loop().call_soon(self._release)

    # The outbox's side.

    def fill(self, frames: Any) -> int:
        """Adds the next frame; see `dragoman.tunnel.framing.Source`."""
        if self._ended:
            if self._told == CALL_SIGNAL_CANCEL:
                frames.add(call_id=self._id, signal=CALL_SIGNAL_CANCEL)
            return FRAME_OVERHEAD
        if self._opening is not None:
            opening, self._opening = self._opening, None
            frames.add(call_id=self._id).open.CopyFrom(opening)
            if self._pending is not None or self._paused:
                self._calls.outbox.put(self)
            return opening.ByteSize() + FRAME_OVERHEAD
        if self._pending is not None:
            piece, rest = bytes(self._pending[:FRAME_BYTES]), self._pending[FRAME_BYTES:]
            self._pending = rest or None
            frames.add(call_id=self._id, request=piece)
            self._calls.outbox.put(self)
            return len(piece) + FRAME_OVERHEAD
        wanted = CALL_SIGNAL_PAUSE if self._paused else CALL_SIGNAL_RESUME
        if wanted != self._told:
            self._told = wanted
            frames.add(call_id=self._id, signal=wanted)
        return FRAME_OVERHEAD

    # The tunnel's side.

    def take(self, frame: ResponseFrame) -> None:
        """Takes the next frame."""
        kind = frame.WhichOneof("kind")
        if kind == "message":
            data = frame.message
            if self._parts is not None:
                data = b"".join((*self._parts, data))
                self._parts = None
            if self._held is None:
                self._deliver(data)
            else:
                self._held.append(data)
                if not self._paused:
                    self._release()
        elif kind == "message_part":
            if self._parts is None:
                self._parts = []
            self._parts.append(frame.message_part)
        elif kind == "end":
            self._take_end(frame.end)

    def end(self, status: CallStatus) -> None:
        """Ends the call for its reader, now. The first end counts."""
        if not self._ended:
            self._leave()
            self._sink.on_end(status)

    def _take_end(self, end: CallEnd) -> None:
        trailing = read_metadata(end.trailing_metadata) if end.trailing_metadata else ()
        status = CallStatus(_CODES.get(end.code, grpc.StatusCode.UNKNOWN), end.details, trailing)
        if end.initial_metadata:
            self.initial_metadata = read_metadata(end.initial_metadata)
        if self._held and status.code is grpc.StatusCode.OK:
            self._last = status  # it comes after the messages; a failure does not wait
        else:
            self.end(status)

    def _deliver(self, data: bytes) -> None:
        try:
            self._sink.on_message(self._parse(data))
        except Exception as error:  # one call must not take the others with it
            _log.exception("a message of a call in a tunnel could not be read")
            self._give_up(CallStatus(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"))

    def _release(self) -> None:
        while self._held and not self._paused:
            self._deliver(self._held.popleft())  # which may pause or end the call
        if not (self._held or self._paused or self._ended):
            self._held = None
            if self._last is not None:
                self.end(self._last)

    def _give_up(self, status: CallStatus) -> None:
        """Ends the call on both sides."""
        if not self._ended:
            if self._opening is None:
                self._told = CALL_SIGNAL_CANCEL
                self._calls.outbox.put(self)
            self._end_soon(status)

    def _expire(self) -> None:
        if self._pending is not None:
            self._give_up(DEADLINE_EXCEEDED)  # the server cannot have begun
        else:
            self.end(DEADLINE_EXCEEDED)  # the server has the same deadline, and need not be told

    def _end_soon(self, status: CallStatus) -> None:
        self._leave()
        asyncio.get_running_loop().call_soon(self._sink.on_end, status)

    def _leave(self) -> None:
        self._ended = True
        self._opening = self._pending = self._held = self._parts = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._calls.remove(self._id)


class CallbackCall(Generic[ResponseT]):
    """A call that tells a function how it ended: `dragoman.unary.CallHandle`."""

    __slots__ = ("_call", "_context", "_response", "_then")

    def __init__(self, calls: Calls, rpc: UnaryRpc[Any, ResponseT], then: Then[ResponseT]) -> None:
        self._then: Then[ResponseT] | None = then
        self._context = copy_context()
        self._response: ResponseT | None = None
        self._call: TunnelCall[ResponseT] | None = TunnelCall(calls, self, rpc.response_type.FromString)

    def open(
        self, method: str, serialize: Callable[[Any], bytes], request: Any, timeout: float | None, metadata: Metadata
    ) -> None:
        """Sends the request; see `TunnelCall.open`."""
        assert self._call is not None
        self._call.open(method, serialize, request, timeout, metadata)

    def cancel(self) -> None:
        """Ends the call, unless it has ended."""
        self._then = None
        if self._call is not None:
            self._call.cancel()

    # The sink.

    def on_message(self, message: ResponseT) -> None:
        """Takes the response."""
        self._response = message

    def on_end(self, status: CallStatus) -> None:
        """Takes the end."""
        then, self._then = self._then, None
        self._call = None
        if then is not None:
            self._context.run(tell, then, self._response, status)


class UnaryCall(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call of a generated stub. Unlike others, it has its initial metadata no sooner than its end."""

    def __init__(self, calls: Calls, parse: Callable[[bytes], Any], timeout: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = None if timeout is None else self._loop.time() + timeout
        self._call: TunnelCall[Any] | None = TunnelCall(calls, self, parse)
        self._response: Any = None
        self._status: CallStatus | None = None
        self._error: Exception | None = None
        self._locally_cancelled = False
        self._initial_metadata: Metadata = ()
        self._waiters: list[asyncio.Future[None]] = []
        self._callbacks: list[tuple[Callable[[], object], Context]] = []

    def open(
        self, method: str, serialize: Callable[[Any], bytes], request: Any, timeout: float | None, metadata: Metadata
    ) -> None:
        """Sends the request; see `TunnelCall.open`."""
        assert self._call is not None
        self._call.open(method, serialize, request, timeout, metadata)

    # The sink.

    def on_message(self, message: Any) -> None:
        """Takes the response."""
        self._response = message

    def on_end(self, status: CallStatus) -> None:
        """Takes the end."""
        if self._status is None:
            assert self._call is not None
            self._initial_metadata, self._error = self._call.initial_metadata, self._call.error
            self._end(status)

    def _end(self, status: CallStatus) -> None:
        self._status = status
        self._call = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        for callback, context in self._callbacks:
            self._loop.call_soon(callback, context=context)
        self._waiters, self._callbacks = [], []

    # The caller's view.

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            status = yield from self._ended().__await__()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._locally_cancelled:
            raise asyncio.CancelledError
        if self._error is not None:
            raise self._error
        if status.code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                status.code,
                grpc.aio.Metadata(*self._initial_metadata),
                grpc.aio.Metadata(*status.trailing_metadata),
                details=status.details,
                debug_error_string="",
            )
        return self._response

    def cancel(self) -> bool:
        """Cancels the call. Returns False if it has ended already."""
        if self._status is not None:
            return False
        assert self._call is not None
        self._call.cancel()
        self._locally_cancelled = True
        self._end(CANCELLED)
        return True

    def cancelled(self) -> bool:
        """Returns whether the call ended with CANCELLED."""
        return self._status is not None and self._status.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Returns whether the call has ended."""
        return self._status is not None

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline, at least 0; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Has a callback called with this call on a turn of the loop after its end."""
        bound, context = partial(callback, self), copy_context()
        if self._status is not None:
            self._loop.call_soon(bound, context=context)
        else:
            self._callbacks.append((bound, context))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Waits for the end and returns the initial metadata."""
        await self._ended()
        return grpc.aio.Metadata(*self._initial_metadata)

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Waits for the end and returns the trailing metadata."""
        return grpc.aio.Metadata(*(await self._ended()).trailing_metadata)

    async def code(self) -> grpc.StatusCode:
        """Waits for the end and returns the status code."""
        return (await self._ended()).code

    async def details(self) -> str:
        """Waits for the end and returns the status message."""
        return (await self._ended()).details

    async def debug_error_string(self) -> str:
        """Waits for the end and returns an empty string: there is nothing more to say."""
        await self._ended()
        return ""

    async def wait_for_connection(self) -> None:
        """Waits for the end: the response is the first sign of the server.

        Raises:
            grpc.aio.AioRpcError: If the call has failed.
        """
        await self

    async def _ended(self) -> CallStatus:
        while self._status is None:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return self._status
