"""The caller's view of a call, as the call classes of `grpc.aio`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from dragoman_server.inprocess.exchange import DROPPED, LOCALLY_CANCELLED, OK, Exchange, Pipe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterable

    from dragoman.streaming import CallStatus

_log = logging.getLogger(__name__)

_MIXED_STYLES = "The iterator and read/write APIs may not be mixed on a single RPC."


class _Call(grpc.aio.Call):
    """What all calls have in common."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def cancel(self) -> bool:
        """Cancels the call. Returns False if it has ended already."""
        return self._exchange.give_up(LOCALLY_CANCELLED)

    def cancelled(self) -> bool:
        """Returns whether the call ended with CANCELLED."""
        status = self._exchange.status
        return status is not None and status.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Returns whether the call has ended."""
        return self._exchange.status is not None

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline, at least 0; None without one."""
        return self._exchange.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Has a callback called with this call on a turn of the loop after its end."""
        self._exchange.add_done_callback(partial(callback, self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Waits for the initial metadata and returns it; it is empty if the call ended without."""
        while self._exchange.initial_metadata is None:
            await self._exchange.waiter()
        return grpc.aio.Metadata(*self._exchange.initial_metadata)

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
        """Waits for the first sign of the handler.

        Raises:
            grpc.aio.AioRpcError: If the call has failed.
        """
        while self._exchange.initial_metadata is None:
            await self._exchange.waiter()
        if self._exchange.status is not None:
            self._raise_for_status()

    async def _ended(self) -> CallStatus:
        return await self._exchange.wait_end()

    def _raise_for_status(self) -> None:
        exchange = self._exchange
        status = exchange.status
        if status is None or status.code is grpc.StatusCode.OK:
            return
        if exchange.locally_cancelled:
            raise asyncio.CancelledError
        if exchange.error is not None:
            raise exchange.error
        raise grpc.aio.AioRpcError(
            status.code,
            grpc.aio.Metadata(*(exchange.initial_metadata or ())),
            grpc.aio.Metadata(*status.trailing_metadata),
            details=status.details,
            debug_error_string="",
        )

    def __repr__(self) -> str:
        status = self._exchange.status
        if status is None:
            return f"<{type(self).__name__} object>"
        return f"<{type(self).__name__} of RPC that terminated with: {status.code}, {status.details!r}>"


class _UnaryResponse(_Call):
    """A call with one response. It goes on if nobody holds it, like a `grpc.aio` one."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Any]:
        exchange = self._exchange
        while exchange.status is None:
            try:
                yield from exchange.waiter()
            except asyncio.CancelledError:
                self.cancel()
                raise
        if exchange.status is not OK:
            self._raise_for_status()
        return exchange.response

    async def wait_for_connection(self) -> None:
        """Waits for the end: the response is the first sign of the handler.

        Raises:
            grpc.aio.AioRpcError: If the call has failed.
        """
        await self._ended()
        self._raise_for_status()


class _StreamResponse(_Call):
    """A call with a response stream. It is cancelled if nobody holds it."""

    __slots__ = ("_reads", "_responses")

    def __init__(self, exchange: Exchange, responses: Pipe) -> None:
        super().__init__(exchange)
        self._responses = responses
        self._reads: bool | None = None

    def __del__(self) -> None:
        exchange = self._exchange
        if exchange.status is None and not exchange.loop.is_closed():
            # The collector may run in any thread.
            exchange.loop.call_soon_threadsafe(exchange.give_up, DROPPED)

    def __aiter__(self) -> AsyncIterator[Any]:
        self._set_style(reads=False)
        return self

    async def __anext__(self) -> Any:
        message = await self._next()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """Returns the next message; `grpc.aio.EOF` after the last.

        Raises:
            grpc.aio.AioRpcError: If the call has failed.
        """
        self._set_style(reads=True)
        return await self._next()

    async def _next(self) -> Any:
        try:
            message = await self._responses.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is grpc.aio.EOF:
            self._raise_for_status()
        return message

    def _set_style(self, *, reads: bool) -> None:
        if self._reads is None:
            self._reads = reads
        elif self._reads is not reads:
            raise grpc.aio.UsageError(_MIXED_STYLES)


class _StreamRequest(_Call):
    """A call with a request stream: from an iterator, or written."""

    def _feed(self, requests: Pipe, iterator: AsyncIterable[Any] | Iterable[Any] | None) -> None:
        self._requests = requests
        self._half_closed = False
        self._feeder: asyncio.Task[None] | None = None
        if iterator is not None:
            self._feeder = self._exchange.loop.create_task(self._consume(iterator))

    async def _consume(self, iterator: AsyncIterable[Any] | Iterable[Any]) -> None:
        try:
            if isinstance(iterator, AsyncIterable):
                async for request in iterator:
                    if self.done():
                        return
                    await self._requests.put(request)
            else:
                for request in iterator:
                    if self.done():
                        return
                    await self._requests.put(request)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                _log.debug("The request iterator raised; the call is cancelled.", exc_info=True)
            self.cancel()
        else:
            self._requests.shut()

    def cancel(self) -> bool:
        """Cancels the call. Returns False if it has ended already."""
        if not super().cancel():
            return False
        if self._feeder is not None:
            self._feeder.cancel()
        return True

    async def write(self, request: Any) -> None:
        """Sends a request as soon as the handler has room for it.

        Raises:
            asyncio.InvalidStateError: If the call has ended, or after `done_writing`.
        """
        self._require_writer()
        if self.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        if self._half_closed:
            raise asyncio.InvalidStateError('RPC is half closed after calling "done_writing".')
        try:
            await self._requests.put(request)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.done():
            self._raise_for_status()

    async def done_writing(self) -> None:
        """Says that no more requests follow. May be repeated."""
        self._require_writer()
        self._half_closed = True
        self._requests.shut()

    async def wait_for_connection(self) -> None:
        """Returns at once: requests can be written from the beginning.

        Raises:
            grpc.aio.AioRpcError: If the call has failed.
        """
        self._raise_for_status()

    def _require_writer(self) -> None:
        if self._feeder is not None:
            raise grpc.aio.UsageError(_MIXED_STYLES)


class UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call with one request and one response."""

    __slots__ = ()


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """A call with one request and a response stream."""

    __slots__ = ()


class StreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """A call with a request stream and one response."""

    def __init__(self, exchange: Exchange, requests: Pipe, iterator: AsyncIterable[Any] | Iterable[Any] | None) -> None:
        super().__init__(exchange)
        self._feed(requests, iterator)


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    """A call with a request stream and a response stream."""

    def __init__(
        self,
        exchange: Exchange,
        requests: Pipe,
        iterator: AsyncIterable[Any] | Iterable[Any] | None,
        responses: Pipe,
    ) -> None:
        _StreamResponse.__init__(self, exchange, responses)
        self._feed(requests, iterator)
