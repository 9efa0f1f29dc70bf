"""The TunnelService: many calls of one client in one stream.

A call in a tunnel is one of the in-process channel, so that interceptors, deadlines, cancellation, limits and status
are those of any call, and carries its own credentials. Back-pressure is of two kinds: a client that reads one call
slowly says so (PAUSE); one that reads the whole tunnel slowly lets what is unsent grow, and that holds calls back here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc

from dragoman.streaming import CallStatus
from dragoman.tunnel.framing import FRAME_BYTES, FRAME_OVERHEAD, MAX_CALLS, Outbox, add_metadata, read_metadata
from dragoman.v1 import tunnel_service_pb2_grpc
from dragoman.v1.tunnel_service_pb2 import (
    CALL_SIGNAL_CANCEL,
    CALL_SIGNAL_PAUSE,
    CALL_SIGNAL_RESUME,
    CallEnd,
    ConnectResponse,
    OpenCall,
    RequestFrame,
)
from dragoman_server.api.status import CODES, mapped, status_of
from dragoman_server.errors import DragomanError, InvalidRequest, Unavailable
from dragoman_server.inprocess.push import too_large

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dragoman_server.inprocess import InProcessChannel
    from dragoman_server.inprocess.push import PushHandle

    Context = grpc.aio.ServicerContext[Any, Any]

MAX_TUNNELS = 256
"""Most tunnels at a time. Clients that are refused one do without."""

MAX_UNSENT_BYTES = 8 * 1024 * 1024
"""What may wait to be sent in one tunnel before all its calls are held back."""

MAX_UNSENT_BYTES_PER_CALL = 256 * 1024
"""What may wait to be sent in one call before it is held back."""

_MAX_TIMEOUT = 366 * 86_400.0
"""A call that asks for longer, in seconds, may as well have no deadline."""


class TunnelServicer(tunnel_service_pb2_grpc.TunnelServiceServicer):
    """Serves `dragoman.v1.TunnelService`.

    Args:
        channel: Leads to the services that calls in a tunnel can reach.
        max_message_bytes: Largest request of a call, in bytes.
    """

    def __init__(self, channel: InProcessChannel, max_message_bytes: int) -> None:
        self._channel = channel
        self._max_message_bytes = max_message_bytes
        self._tunnels: set[_Tunnel] = set()

    @mapped
    async def Connect(  # type: ignore[override]  # a coroutine that reads and writes, as grpc.aio allows
        self, requests: AsyncIterator[Any], context: Context
    ) -> None:
        if len(self._tunnels) >= MAX_TUNNELS:
            raise Unavailable("the server has too many tunnels; call it without one")
        tunnel = _Tunnel(self._channel, self._max_message_bytes)
        self._tunnels.add(tunnel)
        try:
            await tunnel.serve(context)
        finally:
            self._tunnels.discard(tunnel)
            tunnel.close()

    def stop(self) -> None:
        """Ends all tunnels as soon as what is ready in them is sent. Their calls should have ended."""
        for tunnel in self._tunnels:
            tunnel.outbox.close()


class _Tunnel:
    """One tunnel.

    Attributes:
        channel: Where its calls go.
        outbox: What waits to be sent.
        calls: The calls that go on, by the client's numbers.
        unsent: Bytes that wait to be sent.
        full: Whether they are too many.
        unfinished: Bytes of requests that have not come in full.
    """

    def __init__(self, channel: InProcessChannel, max_message_bytes: int) -> None:
        self.channel = channel
        self.max_message_bytes = max_message_bytes
        self.outbox = Outbox()
        self.calls: dict[int, _Call] = {}
        self.unsent = 0
        self.full = False
        self.unfinished = 0
        self._no_more = False

    async def serve(self, context: Context) -> None:
        """Reads and writes frames until the client has no more to say and no call goes on.

        Raises:
            InvalidRequest: If the client breaks the rules of frames.
        """
        reader = asyncio.get_running_loop().create_task(self._read(context))
        reader.add_done_callback(self._read_ended)
        try:
            await context.write(ConnectResponse())
            while await self.outbox.wait():
                response = ConnectResponse()
                self.outbox.take(response.frames)
                if response.frames:
                    await context.write(response)
                self.relieve()
            if reader.done():
                reader.result()
        except grpc.aio.InternalError:
            pass  # the client has gone in the middle of a write
        finally:
            reader.cancel()

    def close(self) -> None:
        """Cancels all calls: the client has gone."""
        for call in tuple(self.calls.values()):
            call.cancel()

    def remove(self, call_id: int) -> None:
        """Lets go of a call that has ended."""
        del self.calls[call_id]
        if self._no_more and not self.calls:
            self.outbox.close()

    def overflow(self) -> None:
        """Holds back all calls, on a later turn of the loop: a sink does not call back."""
        if not self.full:
            self.full = True
            asyncio.get_running_loop().call_soon(self._balance)

    def relieve(self) -> None:
        """Lets calls go on if little enough waits to be sent."""
        if self.full and self.unsent < MAX_UNSENT_BYTES // 2:
            self.full = False
            self._balance()

    def _balance(self) -> None:
        for call in tuple(self.calls.values()):
            call.balance()

    async def _read(self, context: Context) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            for frame in request.frames:
                self._take(frame)

    def _read_ended(self, reader: asyncio.Task[None]) -> None:
        self._no_more = True
        if not self.calls or reader.cancelled() or reader.exception() is not None:
            self.outbox.close()

    def _take(self, frame: RequestFrame) -> None:
        kind = frame.WhichOneof("kind")
        call = self.calls.get(frame.call_id)
        if kind == "open":
            if call is not None:
                raise InvalidRequest(f"call {frame.call_id} is open already")
            call = self.calls[frame.call_id] = _Call(self, frame.call_id)
            call.open(frame.open)
        elif call is None:
            pass  # it has ended, and its client does not know yet
        elif kind == "signal":
            call.signal(frame.signal)
        elif kind == "request":
            call.add_request(frame.request)


class _Call:
    """One call: the sink of its in-process stream, and what is to be sent of it."""

    __slots__ = (
        "_end",
        "_handle",
        "_held",
        "_id",
        "_paused",
        "_request",
        "_tunnel",
        "_unsent",
        "_waiting",
        "queued",
    )

    def __init__(self, tunnel: _Tunnel, call_id: int) -> None:
        self.queued = False
        self._tunnel = tunnel
        self._id = call_id
        self._request: _Request | None = None  # as long as it has not come in full
        self._handle: PushHandle | None = None  # while the call goes on
        self._waiting: deque[bytes | memoryview] | None = deque()  # None if the client wants no more
        self._unsent = 0
        self._paused = False  # by the client
        self._held = False  # back, in effect
        self._end: CallEnd | None = None

    # What the client does.

    def open(self, opening: OpenCall) -> None:
        """Starts the call, if its request is there in full.

        Raises:
            InvalidRequest: If the client breaks the rules of frames.
        """
        tunnel, size = self._tunnel, opening.request_size
        if len(tunnel.calls) > MAX_CALLS:
            self._refuse(Unavailable(f"a tunnel takes {MAX_CALLS} calls at a time"))
        elif size > tunnel.max_message_bytes:
            self.on_end(too_large("Received", size, tunnel.max_message_bytes))
        elif len(opening.request) == size:
            self._start(_Request(opening), opening.request)
        elif tunnel.unfinished + size > 2 * tunnel.max_message_bytes:
            self._refuse(Unavailable("too many large requests are on their way"))
        else:
            tunnel.unfinished += size
            self._request = _Request(opening)
            self.add_request(opening.request)

    def add_request(self, piece: bytes) -> None:
        """Takes the next bytes of the request, and starts the call when they are the last.

        Raises:
            InvalidRequest: If the client breaks the rules of frames.
        """
        request = self._request
        if request is None:
            if self._end is None:
                raise InvalidRequest(f"call {self._id} has its request already")
            return  # it was refused
        request.pieces.append(piece)
        request.missing -= len(piece)
        if request.missing < 0:
            raise InvalidRequest(f"the request of call {self._id} is larger than it said")
        if request.missing == 0:
            self._drop_request()
            self._start(request, b"".join(request.pieces))

    def signal(self, signal: int) -> None:
        """Does what the client asks for."""
        if signal == CALL_SIGNAL_CANCEL:
            self.cancel()
        elif signal in (CALL_SIGNAL_PAUSE, CALL_SIGNAL_RESUME):
            self._paused = signal == CALL_SIGNAL_PAUSE
            self.balance()

    def cancel(self) -> None:
        """Ends the call, of which the client wants to hear nothing more."""
        self._waiting = None
        self._tunnel.unsent -= self._unsent
        self._drop_request()
        self._tunnel.remove(self._id)
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
        self._tunnel.relieve()

    # What the server does: the sink.

    def on_message(self, message: Any) -> None:
        """Queues a message."""
        if self._waiting is None:
            return
        data: bytes = message if message.__class__ is bytes else message.SerializeToString()
        tunnel, size = self._tunnel, len(data)
        self._waiting.append(data)
        self._unsent += size
        tunnel.unsent += size
        tunnel.outbox.put(self)
        if tunnel.unsent > MAX_UNSENT_BYTES:
            tunnel.overflow()
        elif self._unsent > MAX_UNSENT_BYTES_PER_CALL and not self._held:
            asyncio.get_running_loop().call_soon(self.balance)  # a sink does not call back

    def on_end(self, status: CallStatus) -> None:
        """Queues the end."""
        handle, self._handle = self._handle, None  # which refers to this
        if self._waiting is None:
            return
        details = status.details.encode(errors="replace").decode()  # of an exception, perhaps: no valid text
        end = self._end = CallEnd(code=status.code.value[0], details=details)
        add_metadata(end.trailing_metadata, status.trailing_metadata)
        if handle is not None:
            add_metadata(end.initial_metadata, handle.initial_metadata)
        self._tunnel.outbox.put(self)

    # What is sent: the source.

    def fill(self, frames: Any) -> int:
        """Adds the next frame; see `dragoman.tunnel.framing.Source`."""
        waiting = self._waiting
        if waiting is None:
            return 0
        if not waiting:
            if self._end is None:
                return 0
            frames.add(call_id=self._id).end.CopyFrom(self._end)
            self._waiting = None
            self._tunnel.remove(self._id)
            return self._end.ByteSize() + FRAME_OVERHEAD
        data = waiting.popleft()
        if len(data) <= FRAME_BYTES:
            size = len(data)
            frames.add(call_id=self._id, message=bytes(data))
        else:
            size = FRAME_BYTES
            whole = memoryview(data)
            frames.add(call_id=self._id, message_part=bytes(whole[:size]))
            waiting.appendleft(whole[size:])
        self._unsent -= size
        self._tunnel.unsent -= size
        if waiting or self._end is not None:
            self._tunnel.outbox.put(self)
        if self._held:
            self.balance()
        return size + FRAME_OVERHEAD

    def balance(self) -> None:
        """Holds the call back, or lets it go on, as it should be now."""
        most = MAX_UNSENT_BYTES_PER_CALL // 2 if self._held else MAX_UNSENT_BYTES_PER_CALL
        held = self._paused or self._tunnel.full or self._unsent > most
        if held is not self._held and self._handle is not None:
            self._held = held
            if held:
                self._handle.pause()
            else:
                self._handle.resume()

    def _start(self, request: _Request, data: bytes) -> None:
        self._handle = self._tunnel.channel.open_serialized(
            request.method, data, self, timeout=request.time_remaining(), metadata=request.metadata
        )
        if self._paused:
            self.balance()

    def _refuse(self, error: DragomanError) -> None:
        details = ("grpc-status-details-bin", status_of(error).SerializeToString())
        self.on_end(CallStatus(CODES[error.reason], error.message, (details,)))

    def _drop_request(self) -> None:
        if self._request is not None:
            self._tunnel.unfinished -= self._request.size
            self._request = None


class _Request:
    """What is known of a call before it starts.

    Attributes:
        method: Full name of the method.
        metadata: Its metadata.
        size: Size of the request, in bytes.
        missing: Bytes of it that are still to come.
        pieces: What has come of it, if it comes in pieces.
    """

    __slots__ = ("_deadline", "metadata", "method", "missing", "pieces", "size")

    def __init__(self, opening: OpenCall) -> None:
        self.method = opening.method
        self.metadata = read_metadata(opening.metadata)
        self.size = self.missing = opening.request_size
        self.pieces: list[bytes] = []
        self._deadline: float | None = None
        if opening.HasField("timeout"):
            timeout = opening.timeout.seconds + opening.timeout.nanos / 1e9
            if timeout < _MAX_TIMEOUT:
                self._deadline = time.monotonic() + timeout

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline, negative if it is past; None without one."""
        return None if self._deadline is None else self._deadline - time.monotonic()
