"""The client's end of a tunnel: a channel like any other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from dragoman.streaming import CallStatus, ResponseT, open_stream
from dragoman.tunnel.calls import CANCELLED, CallbackCall, Calls, TunnelCall, UnaryCall
from dragoman.tunnel.framing import CONNECT, MAX_CALLS
from dragoman.unary import begin_call
from dragoman.v1.tunnel_service_pb2 import ConnectRequest, ConnectResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from google.protobuf.message import Message

    from dragoman.streaming import Metadata, StreamHandle, StreamRpc, StreamSink
    from dragoman.unary import CallHandle, Then, UnaryRpc

REFUSED_SECONDS = 60.0
"""How long a server that offers no tunnel is not asked for one again."""

_REFUSALS = frozenset({grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED})
_ENDED = CallStatus(grpc.StatusCode.UNAVAILABLE, "The tunnel has ended.")


class TunnelChannel(grpc.aio.Channel):
    """A `grpc.aio` channel that carries calls with one request in a tunnel, if the server offers one.

    A call that finds no tunnel goes without, and has one opened for those after it. If a tunnel breaks, the calls in it
    end with UNAVAILABLE. Calls with options that only a stream of their own can have (`wait_for_ready`, `compression`,
    `credentials`), response streams of generated stubs, and request streams, go without as well.

    Args:
        channel: Leads to the server. Closing this one closes it.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._tunnel: _Tunnel | None = None
        self._refused_until = 0.0
        self._closed = False

    # Calls in the tunnel.

    def open_stream(
        self,
        rpc: StreamRpc[Any, ResponseT],
        request: Message,
        sink: StreamSink[ResponseT],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> StreamHandle:
        """Opens a stream; see `dragoman.streaming.open_stream`.

        Raises:
            grpc.aio.UsageError: If the channel is closed.
        """
        tunnel = self._standing()
        if tunnel is None:
            return open_stream(self._channel, rpc, request, sink, timeout=timeout, metadata=metadata)
        call = TunnelCall(tunnel.calls, sink, rpc.response_type.FromString)
        call.open(rpc.path, rpc.request_type.SerializeToString, request, timeout, metadata)
        return call

    def begin_call(
        self,
        rpc: UnaryRpc[Any, ResponseT],
        request: Message,
        then: Then[ResponseT],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> CallHandle:
        """Begins a call; see `dragoman.unary.begin_call`.

        Raises:
            grpc.aio.UsageError: If the channel is closed.
        """
        tunnel = self._standing()
        if tunnel is None:
            return begin_call(self._channel, rpc, request, then, timeout=timeout, metadata=metadata)
        call = CallbackCall(tunnel.calls, rpc, then)
        call.open(rpc.path, rpc.request_type.SerializeToString, request, timeout, metadata)
        return call

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """Returns the method as a function, like `grpc.aio.Channel.unary_unary`."""
        plain = self._channel.unary_unary(method, request_serializer, response_deserializer)

        def call(
            request: Any,
            *,
            timeout: float | None = None,
            metadata: Any = None,
            credentials: grpc.CallCredentials | None = None,
            wait_for_ready: bool | None = None,
            compression: grpc.Compression | None = None,
        ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
            tunnel = self._standing()
            if tunnel is None or wait_for_ready is not None or not (credentials is None is compression):
                return plain(
                    request,
                    timeout=timeout,
                    metadata=metadata,
                    credentials=credentials,
                    wait_for_ready=wait_for_ready,
                    compression=compression,
                )
            unary = UnaryCall(tunnel.calls, response_deserializer or bytes, timeout)
            unary.open(method, request_serializer or bytes, request, timeout, metadata or ())
            return unary

        return call

    def _standing(self) -> _Tunnel | None:
        """Returns the tunnel if it stands and has room; has one opened if there is none."""
        tunnel = self._tunnel
        if tunnel is not None:
            return tunnel if tunnel.stands and len(tunnel.calls.by_id) < MAX_CALLS and not self._closed else None
        if not self._closed and asyncio.get_running_loop().time() >= self._refused_until:
            self._tunnel = _Tunnel(self._channel, self._on_end)
        return None

    def _on_end(self, tunnel: _Tunnel, status: CallStatus) -> None:
        self._tunnel = None
        if status.code in _REFUSALS and not tunnel.stands:
            self._refused_until = asyncio.get_running_loop().time() + REFUSED_SECONDS
        if self._closed or self._channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN:
            status = CANCELLED
        elif status.code is not grpc.StatusCode.UNAVAILABLE:
            status = CallStatus(grpc.StatusCode.UNAVAILABLE, f"The tunnel broke: {status.details}")
        for call in tuple(tunnel.calls.by_id.values()):
            call.end(status)

    # Calls beside it.

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the method as a function, like `grpc.aio.Channel.unary_stream`."""
        return self._channel.unary_stream(*args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the method as a function, like `grpc.aio.Channel.stream_unary`."""
        return self._channel.stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the method as a function, like `grpc.aio.Channel.stream_stream`."""
        return self._channel.stream_stream(*args, **kwargs)

    # The channel itself.

    async def close(self, grace: float | None = None) -> None:
        """Refuses new calls, lets running ones end, then cancels them and closes the channel.

        Args:
            grace: How long calls may go on, in seconds; None for not at all.
        """
        self._closed = True
        if self._tunnel is not None:
            self._tunnel.calls.finish()
        await self._channel.close(grace)

    async def __aenter__(self) -> TunnelChannel:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Returns the state of the connection; `try_to_connect` has the tunnel opened, too."""
        if try_to_connect:
            self._standing()
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state of the connection is another one."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until the connection stands, and the tunnel too if the server offers one."""
        await self._channel.channel_ready()
        self._standing()
        if self._tunnel is not None:
            await self._tunnel.settled.wait()


class _Tunnel:
    """One tunnel: a task that writes and one that reads, and the calls between.

    Attributes:
        calls: The calls that go on.
        settled: Set when the server has said that it takes calls, or never will.
        stands: Whether it has said so.
    """

    def __init__(self, channel: grpc.aio.Channel, on_end: Callable[[_Tunnel, CallStatus], None]) -> None:
        self.calls = Calls()
        self.settled = asyncio.Event()
        self.stands = False
        self._on_end = on_end
        self._call: Any = channel.stream_stream(
            CONNECT,
            request_serializer=ConnectRequest.SerializeToString,
            response_deserializer=ConnectResponse.FromString,
        )()
        loop = asyncio.get_running_loop()
        self._writer = loop.create_task(self._write())
        self._reader = loop.create_task(self._read())
        self._reader.add_done_callback(self._report)

    async def _write(self) -> None:
        outbox = self.calls.outbox
        try:
            while await outbox.wait():
                request = ConnectRequest()
                outbox.take(request.frames)
                if request.frames:
                    await self._call.write(request)
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the tunnel has ended: the reader is told why
        except Exception:
            self._call.cancel()
            raise

    async def _read(self) -> CallStatus:
        read, calls = self._call.read, self.calls.by_id
        try:
            while (response := await read()) is not grpc.aio.EOF:
                if not self.stands:
                    self.stands = True
                    self.settled.set()
                for frame in response.frames:
                    call = calls.get(frame.call_id)
                    if call is not None:
                        call.take(frame)
        except grpc.aio.AioRpcError as error:
            return CallStatus(error.code(), error.details() or "")
        return _ENDED

    def _report(self, reader: asyncio.Task[CallStatus]) -> None:
        self._writer.cancel()
        if reader.cancelled():
            status = CANCELLED
        elif (error := reader.exception()) is not None:  # a message that is none
            self._call.cancel()
            status = CallStatus(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        else:
            status = reader.result()
        self._on_end(self, status)
        self.settled.set()
