"""One way to open a server stream, whatever channel leads to the server.

A generated stub can only be iterated, which costs a task wake-up per message. `open_stream` pushes instead: on the
in-process channel the server's messages arrive in the sink within the call chain that produced them; on a `grpc.aio`
channel one task iterates the call. The caller cannot tell which.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    Metadata = Sequence[tuple[str, str | bytes]]

RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT", bound="Message")
SinkT_contra = TypeVar("SinkT_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class StreamRpc(Generic[RequestT, ResponseT]):
    """A server-streaming method.

    Attributes:
        path: The full name, for example `/dragoman.v1.RunService/StreamRun`.
        request_type: Class of the request message.
        response_type: Class of the response messages.
    """

    path: str
    request_type: type[RequestT]
    response_type: type[ResponseT]


@dataclass(frozen=True, slots=True)
class CallStatus:
    """How a call ended.

    Attributes:
        code: The status code.
        details: The status message.
        trailing_metadata: The trailing metadata; `grpc-status-details-bin` holds a `google.rpc.Status`, if any.
    """

    code: grpc.StatusCode
    details: str = ""
    trailing_metadata: Metadata = ()


class StreamSink(Protocol[SinkT_contra]):
    """Receives a stream.

    It never raises, never blocks and never calls back into the server: it marks, and the loop's next turn acts.
    """

    def on_message(self, message: SinkT_contra) -> None:
        """Takes the next message. It is shared with others: reading is free, changing it is forbidden."""

    def on_end(self, status: CallStatus) -> None:
        """Takes the end of the call, exactly once and last."""


class TextSink(StreamSink[SinkT_contra], Protocol[SinkT_contra]):
    """A sink that takes text without a message around it, where the channel can pass it so: within a process.

    Most of a stream of events is text. To write each piece into a message, just to read it out again, would cost more
    than all that is done with it.
    """

    def on_text(self, text: str, sequence: int) -> None:
        """Takes what would otherwise be a message with one event, the text_delta of choice 0 with this text alone."""


class StreamHandle(Protocol):
    """A running stream, as its reader holds it. All methods may be called at any time and repeatedly.

    The stream goes on if nobody holds its handle: it is the sink that keeps it.
    """

    def cancel(self) -> None:
        """Ends the call with CANCELLED, unless it has ended.

        No message follows; `on_end` comes on a later turn of the loop.
        """

    def pause(self) -> None:
        """Asks to hold back messages: the reader is slow. A few more may come."""

    def resume(self) -> None:
        """Lifts `pause`."""


class PushChannel(Protocol):
    """A channel that can push: the in-process channel."""

    def open_stream(
        self,
        rpc: StreamRpc[Any, ResponseT],
        request: Message,
        sink: StreamSink[ResponseT],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> StreamHandle:
        """Does what `dragoman.streaming.open_stream` says."""


def open_stream(
    channel: grpc.aio.Channel | PushChannel,
    rpc: StreamRpc[RequestT, ResponseT],
    request: RequestT,
    sink: StreamSink[ResponseT],
    *,
    timeout: float | None = None,
    metadata: Metadata = (),
) -> StreamHandle:
    """Opens a server stream that pushes its messages into a sink. Nothing reaches the sink before this returns.

    Args:
        channel: The in-process channel or a `grpc.aio` channel.
        rpc: The method.
        request: The request; not to be changed afterwards.
        sink: Receives the messages, then the status.
        timeout: Deadline of the call, in seconds from now; None for none.
        metadata: Metadata of the call.
    """
    if hasattr(channel, "open_stream"):
        return cast("PushChannel", channel).open_stream(rpc, request, sink, timeout=timeout, metadata=metadata)
    stream = _IteratedStream(channel, rpc, request, sink, timeout, metadata)
    _running.add(stream)
    return stream


_LOCALLY_CANCELLED = CallStatus(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")


def status_of_exception(error: BaseException) -> CallStatus:
    """Returns the status of a `grpc.aio` call from what awaiting it raised."""
    if isinstance(error, asyncio.CancelledError):
        return _LOCALLY_CANCELLED
    if isinstance(error, grpc.aio.AioRpcError):
        return CallStatus(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
    # What grpc.aio says of requests and metadata that cannot be sent.
    return CallStatus(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


_running: set[_IteratedStream[Any]] = set()
"""Keeps the streams that nobody holds: the loop has only weak references to their tasks."""


class _IteratedStream(Generic[ResponseT]):
    """A stream over a wire: one task iterates the call and feeds the sink."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        rpc: StreamRpc[Any, ResponseT],
        request: Message,
        sink: StreamSink[ResponseT],
        timeout: float | None,
        metadata: Metadata,
    ) -> None:
        self._call = channel.unary_stream(
            rpc.path,
            request_serializer=rpc.request_type.SerializeToString,
            response_deserializer=rpc.response_type.FromString,
        )(request, timeout=timeout, metadata=tuple(metadata))
        self._sink = sink
        self._paused = False
        self._cancelled = False
        self._news: asyncio.Event | None = None  # only a reader that was ever slow needs one
        self._task = asyncio.get_running_loop().create_task(self._iterate())
        # A task that is cancelled before its first step never runs, so the end cannot be reported inside of it.
        self._task.add_done_callback(self._report)

    def cancel(self) -> None:
        self._cancelled = True
        self._call.cancel()
        self._wake()

    def pause(self) -> None:
        if not self._paused and not self._task.done():
            self._paused = True
            if self._news is None:
                self._news = asyncio.Event()
                self._call.add_done_callback(self._wake)

    def resume(self) -> None:
        self._paused = False
        self._wake()

    def _wake(self, _: object = None) -> None:
        if self._news is not None:
            self._news.set()

    async def _iterate(self) -> CallStatus:
        call = self._call
        try:
            async for message in call:
                if self._paused and not await self._resumed():
                    continue  # the call has failed: the iteration says how
                if not self._cancelled:
                    self._sink.on_message(message)
            return CallStatus(
                await call.code(), await call.details() or "", tuple(await call.trailing_metadata() or ())
            )
        except grpc.aio.AioRpcError as error:
            return status_of_exception(error)

    async def _resumed(self) -> bool:
        """Waits for `resume`; returns False if the call fails first (one that ended well still owes its message)."""
        assert self._news is not None
        while self._paused:
            if self._call.done() and await self._call.code() is not grpc.StatusCode.OK:
                return False
            self._news.clear()
            await self._news.wait()
        return True

    def _report(self, task: asyncio.Task[CallStatus]) -> None:
        _running.discard(self)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            status = task.result()
        else:
            self._call.cancel()
            status = status_of_exception(error)
        self._sink.on_end(status)
