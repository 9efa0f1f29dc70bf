"""One way to begin a unary call that answers by a callback, whatever channel leads to the server.

A generated stub's call can only be awaited, which costs a task, a future, and turns of the loop. `begin_call` tells a
function instead: on the in-process channel within the call chain that produced the response; in a tunnel as soon as the
response is read; on a `grpc.aio` channel one task awaits the call. The caller cannot tell which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, cast

import grpc

from dragoman.streaming import CallStatus, RequestT, ResponseT, status_of_exception

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from dragoman.streaming import Metadata

Then = Callable[[ResponseT | None, CallStatus], None]
"""Takes the end of a call: the response, which is None unless the status is OK, and the status.

It is called at most once, perhaps before `begin_call` returns, in a copy of the context in which that was called. It
must not raise. The response is shared with others: reading is free, changing it is forbidden.
"""


@dataclass(frozen=True, slots=True)
class UnaryRpc(Generic[RequestT, ResponseT]):
    """A method with one request and one response.

    Attributes:
        path: The full name, for example `/dragoman.v1.RunService/ExecuteRun`.
        request_type: Class of the request message.
        response_type: Class of the response message.
    """

    path: str
    request_type: type[RequestT]
    response_type: type[ResponseT]


class CallHandle(Protocol):
    """A running call. It goes on if nobody holds its handle."""

    def cancel(self) -> None:
        """Ends the call with CANCELLED, unless it has ended. Nobody is told: `then` is not called any more."""


class CallbackChannel(Protocol):
    """A channel that answers by a callback itself: the in-process channel, and the tunnel."""

    def begin_call(
        self,
        rpc: UnaryRpc[Any, ResponseT],
        request: Message,
        then: Then[ResponseT],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> CallHandle:
        """Does what `dragoman.unary.begin_call` says."""


def begin_call(
    channel: grpc.aio.Channel | CallbackChannel,
    rpc: UnaryRpc[RequestT, ResponseT],
    request: RequestT,
    then: Then[ResponseT],
    *,
    timeout: float | None = None,
    metadata: Metadata = (),
) -> CallHandle:
    """Begins a call with one request and one response.

    Whatever keeps the call from succeeding is told as a status: metadata or a request that cannot be sent, too.

    Args:
        channel: The in-process channel, a tunnel, or another `grpc.aio` channel.
        rpc: The method.
        request: The request; not to be changed afterwards.
        then: Takes the end of the call, unless the call is cancelled by its handle.
        timeout: Deadline of the call, in seconds from now; None for none.
        metadata: Metadata of the call.

    Raises:
        grpc.aio.UsageError: If the channel is closed.
        ValueError: If an entry of the metadata is not a pair.
    """
    begin: Any = getattr(channel, "begin_call", None)
    if begin is not None:
        handle: CallHandle = begin(rpc, request, then, timeout=timeout, metadata=metadata)
        return handle
    call = _AwaitedCall(cast("grpc.aio.Channel", channel), rpc, request, then, timeout, metadata)
    _running.add(call)
    return call


_NO_RESPONSE = CallStatus(grpc.StatusCode.INTERNAL, "The response is missing.")


def tell(then: Then[ResponseT], response: ResponseT | None, status: CallStatus) -> None:
    """Tells the end of a call as `Then` promises it: a response if, and only if, the status is OK. For channels."""
    if status.code is not grpc.StatusCode.OK:
        then(None, status)
    elif response is None:  # the handler answers with a stream
        then(None, _NO_RESPONSE)
    else:
        then(response, status)


_running: set[_AwaitedCall[Any]] = set()
"""Keeps the calls that nobody holds: the loop has only weak references to their tasks."""


class _AwaitedCall(Generic[ResponseT]):
    """A call over a wire: one task awaits it."""

    __slots__ = ("_call", "_task", "_then")

    def __init__(
        self,
        channel: grpc.aio.Channel,
        rpc: UnaryRpc[Any, ResponseT],
        request: Message,
        then: Then[ResponseT],
        timeout: float | None,
        metadata: Metadata,
    ) -> None:
        self._then: Then[ResponseT] | None = then
        self._call: Any = channel.unary_unary(
            rpc.path,
            request_serializer=rpc.request_type.SerializeToString,
            response_deserializer=rpc.response_type.FromString,
        )(request, timeout=timeout, metadata=tuple(metadata))
        self._task = asyncio.get_running_loop().create_task(self._wait())
        # A task that is cancelled before its first step never runs, so the end cannot be reported inside of it.
        self._task.add_done_callback(self._report)

    def cancel(self) -> None:
        self._then = None
        self._call.cancel()

    async def _wait(self) -> tuple[ResponseT, CallStatus]:
        call = self._call
        response = await call
        return response, CallStatus(
            grpc.StatusCode.OK, await call.details() or "", tuple(await call.trailing_metadata() or ())
        )

    def _report(self, task: asyncio.Task[tuple[ResponseT, CallStatus]]) -> None:
        _running.discard(self)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._call.cancel()
        if self._then is None:
            return
        if error is None:
            tell(self._then, *task.result())
        else:
            self._then(None, status_of_exception(error))
