"""The server side: handlers, interceptors, and the task of each call."""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextvars import Context
from functools import partial
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any

import grpc

from dragoman.streaming import CallStatus
from dragoman_server.inprocess.channel import InProcessChannel
from dragoman_server.inprocess.context import CallRefused, ServicerContext
from dragoman_server.inprocess.exchange import DEADLINE_EXCEEDED, Exchange
from dragoman_server.inprocess.frozen import FrozenGuard, FrozenMessageChanged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from dragoman_server.inprocess.channel import Method
    from dragoman_server.inprocess.metadata import WireMetadata

    Handler = grpc.RpcMethodHandler[Any, Any]
    FindHandler = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]

_log = logging.getLogger(__name__)

_NOT_FOUND = CallStatus(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
_STOPPING = CallStatus(grpc.StatusCode.UNAVAILABLE, "The server is stopping.")
_STOPPED = CallStatus(grpc.StatusCode.UNAVAILABLE, "Cancelling all calls")
_HANDLER_CANCELLED = CallStatus(grpc.StatusCode.CANCELLED, "The handler was cancelled.")


class _CallDetails(grpc.HandlerCallDetails):
    """What interceptors are told about a call."""

    __slots__ = ("invocation_metadata", "method")

    def __init__(self, method: str, invocation_metadata: WireMetadata) -> None:
        self.method = method
        self.invocation_metadata = invocation_metadata


class InProcessServer(grpc.aio.Server):
    """Serves the calls of in-process channels, each in a task and a fresh `contextvars.Context` of its own.

    It has no ports, and takes calls from the beginning.
    """

    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        *,
        max_message_bytes: int,
        check_frozen: bool = False,
    ) -> None:
        """Makes a server.

        Args:
            interceptors: Run for every call, in this order.
            max_message_bytes: Largest request and response, in bytes.
            check_frozen: Compares all messages of a call with what they were, and fails it if one was changed. Slow.
        """
        self.max_message_bytes = max_message_bytes
        self._check_frozen = check_frozen
        self._registered: dict[str, Handler] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._active: set[Exchange] = set()
        self._stopping = False
        self._terminated = asyncio.Event()
        self._find_handler: FindHandler = self._find_registered
        for interceptor in reversed(interceptors):
            self._find_handler = partial(interceptor.intercept_service, self._find_handler)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers that are asked for every call that no registered method serves."""
        self._generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Adds the methods of a service."""
        for name, handler in method_handlers.items():
            self._registered[f"/{service_name}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:
        """Raises `grpc.aio.UsageError`: there are no ports."""
        raise grpc.aio.UsageError(f"An in-process server cannot listen on {address!r}.")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Raises `grpc.aio.UsageError`: there are no ports."""
        return self.add_insecure_port(address)

    def channel(self) -> InProcessChannel:
        """Returns a new channel to this server."""
        return InProcessChannel(self)

    async def start(self) -> None:
        """Returns at once: calls are taken from the beginning."""

    async def stop(self, grace: float | None) -> None:
        """Refuses new calls with UNAVAILABLE, lets running ones finish, then ends them with UNAVAILABLE too.

        Returns when the last handler has ended. May be called again, also with a shorter grace.

        Args:
            grace: How long calls may go on, in seconds; None for not at all.
        """
        self._stopping = True
        if not self._active:
            self._terminated.set()
        if grace is not None and await self.wait_for_termination(grace):
            _log.info("Calls that did not end within %s s are cancelled: %d", grace, len(self._active))
        for exchange in tuple(self._active):
            exchange.break_off(_STOPPED)
        await self._terminated.wait()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Waits until the server has stopped. Returns True if it takes longer than `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._terminated.wait()
        except TimeoutError:
            return True
        return False

    def active(self, owner: object) -> list[Exchange]:
        """Returns the running calls of one owner."""
        return [exchange for exchange in self._active if exchange.owner is owner]

    def launch(self, exchange: Exchange, method: Method, metadata: WireMetadata, request: Any) -> None:
        """Starts the handler of a call, or ends the call if it is too late for that."""
        if self._stopping:
            exchange.end(_STOPPING)
            return
        if exchange.deadline is not None and exchange.time_remaining() == 0:
            exchange.end(DEADLINE_EXCEEDED)
            return
        if self._check_frozen:
            exchange.guard = FrozenGuard()
            if hasattr(request, "SerializeToString"):
                exchange.guard.keep(request)
        context = Context()
        task = exchange.loop.create_task(self._serve(exchange, method, metadata, request), context=context)
        exchange.task = task
        self._active.add(exchange)
        # A task that is cancelled before its first step never runs, so the end cannot be noticed inside of it.
        task.add_done_callback(partial(self._settle, exchange), context=context)

    async def _find_registered(self, details: grpc.HandlerCallDetails) -> Handler | None:
        handler = self._registered.get(details.method)
        if handler is None:
            for generic in self._generic:
                handler = generic.service(details)
                if handler is not None:
                    break
        return handler

    async def _serve(self, exchange: Exchange, method: Method, metadata: WireMetadata, request: Any) -> None:
        context: ServicerContext | None = None
        try:
            handler = await self._find_handler(_CallDetails(method.path, metadata))
            if handler is None:
                exchange.finish(_NOT_FOUND)
                return
            context = ServicerContext(exchange, method, handler, metadata, self.max_message_bytes)
            exchange.context = context
            # The handler's own kind counts: an interceptor may refuse any call with a unary handler that aborts.
            if handler.request_streaming:
                request = context.iterator(request)
            else:
                request = context.incoming(await context.first_request() if method.request_streaming else request)
            response = None
            if handler.response_streaming:
                await _stream(handler, request, context)
            else:
                response = await _coroutine(_handler_function(handler)(request, context))
            if exchange.guard is not None:
                exchange.guard.verify()
            if context.abort_error is not None:
                _log.error("Abort error unexpectedly suppressed in method [%s]", method.path)
            elif exchange.status is not None:
                pass  # The caller went away, and the handler did not mind.
            elif handler.response_streaming:
                context.send_status(context.details())
            elif exchange.responses is not None:
                await context.send_only_response(response)
            else:
                context.send_response(response)
        except (grpc.aio.AbortError, CallRefused) as error:
            if not _has_ended(exchange, context):
                self._fail(exchange, context, method, error)
        except Exception as error:
            self._fail(exchange, context, method, error)

    def _fail(self, exchange: Exchange, context: ServicerContext | None, method: Method, error: Exception) -> None:
        _log.error("Unexpected [%s] raised by servicer method [%s]", type(error).__name__, method.path, exc_info=error)
        if context is None:
            exchange.finish(CallStatus(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}"))
        else:
            context.send_failure(error)

    def _settle(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        self._active.discard(exchange)
        context = exchange.context
        if not _has_ended(exchange, context):
            exchange.finish(_HANDLER_CANCELLED)
        if exchange.guard is not None:
            try:
                exchange.guard.verify()
            except FrozenMessageChanged:
                _log.exception("A message of a call to a method was changed after it was handed over")
        if context is not None:
            context.run_done_callbacks()
        exchange.task = exchange.context = None
        if self._stopping and not self._active:
            self._terminated.set()
        if not task.cancelled():
            task.result()  # raises what ends programs: KeyboardInterrupt, SystemExit


def _handler_function(handler: Handler) -> Any:
    if handler.request_streaming:
        return handler.stream_stream if handler.response_streaming else handler.stream_unary
    return handler.unary_stream if handler.response_streaming else handler.unary_unary


def _coroutine(result: Any) -> Awaitable[Any]:
    if type(result) is not CoroutineType and not inspect.isawaitable(result):
        raise TypeError("the handler is not asynchronous: make it `async def`")
    awaitable: Awaitable[Any] = result
    return awaitable


async def _stream(handler: Handler, request: Any, context: ServicerContext) -> None:
    result = _handler_function(handler)(request, context)
    if not isinstance(result, AsyncGeneratorType):
        await _coroutine(result)
        return
    try:
        async for message in result:
            await context.write(message)
    finally:
        await result.aclose()


def _has_ended(exchange: Exchange, context: ServicerContext | None) -> bool:
    return exchange.status is not None or (context is not None and context.done())
