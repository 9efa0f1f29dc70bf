"""The caller's side: what generated stubs and `open_stream` need of a channel."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from dragoman.streaming import CallStatus
from dragoman.unary import tell
from dragoman_server.inprocess.calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from dragoman_server.inprocess.exchange import LOCALLY_CANCELLED, Exchange, Pipe
from dragoman_server.inprocess.metadata import InvalidMetadata, checked
from dragoman_server.inprocess.push import PushHandle, PushTarget

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable
    from types import TracebackType

    from google.protobuf.message import Message

    from dragoman.streaming import Metadata, StreamHandle, StreamRpc, StreamSink
    from dragoman.unary import CallHandle, Then, UnaryRpc
    from dragoman_server.inprocess.server import InProcessServer

    Serializer = Callable[[Any], bytes] | None
    Deserializer = Callable[[bytes], Any] | None

    StreamUnaryMultiCallable = grpc.aio.StreamUnaryMultiCallable[Any, Any]
    StreamStreamMultiCallable = grpc.aio.StreamStreamMultiCallable[Any, Any]
else:  # older grpcio knows these two as generic in its stubs only
    StreamUnaryMultiCallable = grpc.aio.StreamUnaryMultiCallable
    StreamStreamMultiCallable = grpc.aio.StreamStreamMultiCallable


@dataclass(frozen=True, slots=True)
class Method:
    """A method as its caller knows it.

    Attributes:
        path: The full name, for example `/dragoman.v1.RunService/GetRun`.
        request_streaming: Whether requests are a stream.
        response_streaming: Whether responses are a stream.
        serialize: Makes bytes of a request, when the handler wants another type; None if requests are bytes.
        deserialize: Makes a response of bytes, when the handler has another type; None if responses are bytes.
        response_type: Class of the responses; None if unknown.
    """

    path: str
    request_streaming: bool
    response_streaming: bool
    serialize: Serializer
    deserialize: Deserializer
    response_type: type[Any] | None


class InProcessChannel(grpc.aio.Channel):
    """A channel to a server in the same process and event loop."""

    def __init__(self, server: InProcessServer) -> None:
        self._server = server
        self._closed = False
        self._closing: asyncio.Event | None = None
        self._stream_methods: dict[str, Method] = {}
        self._unary_methods: dict[str, Method] = {}
        self._loop: Any = None  # known since the first call: to ask for it may cost a system call

    # For generated stubs.

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary:
        """Returns the method as a function, like `grpc.aio.Channel.unary_unary`."""
        return UnaryUnary(self, _method(method, False, False, request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryStream:
        """Returns the method as a function, like `grpc.aio.Channel.unary_stream`."""
        return UnaryStream(self, _method(method, False, True, request_serializer, response_deserializer))

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> StreamUnary:
        """Returns the method as a function, like `grpc.aio.Channel.stream_unary`."""
        return StreamUnary(self, _method(method, True, False, request_serializer, response_deserializer))

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> StreamStream:
        """Returns the method as a function, like `grpc.aio.Channel.stream_stream`."""
        return StreamStream(self, _method(method, True, True, request_serializer, response_deserializer))

    # For `dragoman.unary.begin_call`.

    def begin_call(
        self,
        rpc: UnaryRpc[Any, Any],
        request: Message,
        then: Then[Any],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> CallHandle:
        """Begins a call that tells a function how it ended; see `dragoman.unary.begin_call`.

        Raises:
            grpc.aio.UsageError: If the channel is closed.
            ValueError: If an entry of the metadata is not a pair.
        """
        method = self._unary_methods.get(rpc.path)
        if method is None or method.response_type is not rpc.response_type:
            method = self._unary_methods[rpc.path] = _method(
                rpc.path, False, False, rpc.request_type.SerializeToString, rpc.response_type.FromString
            )
        if self._closed or self._loop is None:
            self._require_open()
        exchange = Exchange(self._loop, self, timeout)
        try:
            metadata = checked(metadata)
        except (InvalidMetadata, TypeError) as error:
            _refuse(exchange, method, error)
        else:
            self._server.launch(exchange, method, metadata, request)
        if exchange.status is None:
            exchange.then = then
            exchange.then_context = copy_context()
        else:
            tell(then, exchange.response, exchange.status)
        return exchange

    # For `dragoman.streaming.open_stream`.

    def open_stream(
        self,
        rpc: StreamRpc[Any, Any],
        request: Message,
        sink: StreamSink[Any],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> StreamHandle:
        """Opens a server stream that pushes its messages into a sink; see `dragoman.streaming.open_stream`."""
        method = self._stream_methods.get(rpc.path)
        if method is None or method.response_type is not rpc.response_type:
            method = Method(
                rpc.path,
                False,
                True,
                rpc.request_type.SerializeToString,
                rpc.response_type.FromString,
                rpc.response_type,
            )
            self._stream_methods[rpc.path] = method
        return self._push(method, request, sink, timeout, metadata)

    def open_serialized(
        self, path: str, request: bytes, sink: StreamSink[Any], *, timeout: float | None = None, metadata: Metadata = ()
    ) -> PushHandle:
        """Does what `open_stream` does for a call from elsewhere: any method with one request, which is in bytes.

        The sink gets what the handler sends: a pushed message as it is, others in bytes.
        """
        return self._push(Method(path, False, True, None, None, None), request, sink, timeout, metadata)

    def _push(
        self, method: Method, request: Any, sink: StreamSink[Any], timeout: float | None, metadata: Metadata
    ) -> PushHandle:
        exchange = self.exchange(timeout)
        target = exchange.responses = PushTarget(exchange, sink, self._server.max_message_bytes)
        self.begin(exchange, method, metadata, request)
        return PushHandle(exchange, target)

    # For the calls.

    def exchange(self, timeout: float | None) -> Exchange:
        """Returns the shared part of a new call.

        Raises:
            grpc.aio.UsageError: If the channel is closed.
        """
        if self._closed or self._loop is None:
            self._require_open()
        return Exchange(self._loop, self, timeout)

    def _require_open(self) -> None:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        self._loop = asyncio.get_running_loop()

    def begin(self, exchange: Exchange, method: Method, metadata: Any, request: Any) -> None:
        """Starts a call, or ends it if its metadata cannot be sent."""
        if metadata:
            try:
                metadata = checked(metadata)
            except (InvalidMetadata, TypeError) as error:
                _refuse(exchange, method, error)
                return
        self._server.launch(exchange, method, metadata or (), request)

    # The channel itself.

    async def close(self, grace: float | None = None) -> None:
        """Refuses new calls, lets running ones end, then cancels them.

        Args:
            grace: How long calls may go on, in seconds; None for not at all.
        """
        self._closed = True
        if self._closing is not None:
            self._closing.set()
        calls = self._server.active(self)
        if grace and calls:
            await asyncio.wait([asyncio.ensure_future(call.wait_end()) for call in calls], timeout=grace)
        for call in calls:
            call.give_up(LOCALLY_CANCELLED)

    async def __aenter__(self) -> InProcessChannel:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Returns READY, or SHUTDOWN once closed."""
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state is another one. After SHUTDOWN there is none."""
        if self.get_state() is last_observed_state:
            if self._closing is None:
                self._closing = asyncio.Event()
            await self._closing.wait()

    async def channel_ready(self) -> None:
        """Returns at once: there is nothing to connect."""


def _refuse(exchange: Exchange, method: Method, error: Exception) -> None:
    """Ends a call whose metadata cannot be sent."""
    # As in grpc.aio, awaiting the call raises the mistake; streams report illegal metadata as a status.
    if not (method.response_streaming and isinstance(error, InvalidMetadata)):
        exchange.error = error
    exchange.end(CallStatus(grpc.StatusCode.INTERNAL, "Invalid metadata"))


def _method(
    path: str, request_streaming: bool, response_streaming: bool, serialize: Serializer, deserialize: Deserializer
) -> Method:
    # A generated stub passes `Message.FromString`, which knows its class.
    response_type = getattr(deserialize, "__self__", None)
    return Method(
        path,
        request_streaming,
        response_streaming,
        serialize,
        deserialize,
        response_type if isinstance(response_type, type) else None,
    )


class _MultiCallable:
    """A method of a channel, ready to be called."""

    __slots__ = ("_channel", "_method")

    def __init__(self, channel: InProcessChannel, method: Method) -> None:
        self._channel = channel
        self._method = method


def _require_no_credentials(credentials: grpc.CallCredentials | None) -> None:
    if credentials is not None:
        raise grpc.aio.UsageError("Call credentials need a secure channel; send them as metadata.")


class UnaryUnary(_MultiCallable, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    """A method with one request and one response."""

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryUnaryCall:
        """Starts a call."""
        _require_no_credentials(credentials)
        exchange = self._channel.exchange(timeout)
        self._channel.begin(exchange, self._method, metadata, request)
        return UnaryUnaryCall(exchange)


class UnaryStream(_MultiCallable, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    """A method with one request and a response stream."""

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryStreamCall:
        """Starts a call."""
        _require_no_credentials(credentials)
        exchange = self._channel.exchange(timeout)
        responses = exchange.responses = Pipe(exchange)
        self._channel.begin(exchange, self._method, metadata, request)
        return UnaryStreamCall(exchange, responses)


class StreamUnary(_MultiCallable, StreamUnaryMultiCallable):
    """A method with a request stream and one response."""

    def __call__(
        self,
        request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamUnaryCall:
        """Starts a call."""
        _require_no_credentials(credentials)
        exchange = self._channel.exchange(timeout)
        requests = exchange.requests = Pipe(exchange)
        self._channel.begin(exchange, self._method, metadata, None)
        return StreamUnaryCall(exchange, requests, request_iterator)


class StreamStream(_MultiCallable, StreamStreamMultiCallable):
    """A method with a request stream and a response stream."""

    def __call__(
        self,
        request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamStreamCall:
        """Starts a call."""
        _require_no_credentials(credentials)
        exchange = self._channel.exchange(timeout)
        requests = exchange.requests = Pipe(exchange)
        responses = exchange.responses = Pipe(exchange)
        self._channel.begin(exchange, self._method, metadata, None)
        return StreamStreamCall(exchange, requests, request_iterator, responses)
