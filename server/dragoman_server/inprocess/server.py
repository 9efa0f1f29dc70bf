"""The server side: handlers, interceptors, and the task of each call."""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextvars import Context
from functools import partial
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from dragoman.streaming import CallStatus
from dragoman_server.inprocess.channel import InProcessChannel
from dragoman_server.inprocess.context import DEFERRED, CallRefused, ServicerContext
from dragoman_server.inprocess.exchange import DEADLINE_EXCEEDED, Exchange
from dragoman_server.inprocess.frozen import FrozenGuard, FrozenMessageChanged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping, Sequence

    from dragoman_server.inprocess.channel import Method
    from dragoman_server.inprocess.metadata import WireMetadata

    Handler = grpc.RpcMethodHandler[Any, Any]
    FindHandler = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]

_log = logging.getLogger(__name__)

_NOT_FOUND = CallStatus(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
_STOPPING = CallStatus(grpc.StatusCode.UNAVAILABLE, "The server is stopping.")
_STOPPED = CallStatus(grpc.StatusCode.UNAVAILABLE, "Cancelling all calls")
_HANDLER_CANCELLED = CallStatus(grpc.StatusCode.CANCELLED, "The handler was cancelled.")


MethodT = TypeVar("MethodT", bound="Callable[..., Any]")


def at_once(method: MethodT) -> MethodT:
    """Marks a servicer's method that begins within the call that starts it; it gets a task when it has to wait.

    For methods that seldom wait. Until then they, and the interceptors before them, run in the caller's task: what
    needs a task of its own (`asyncio.timeout`, `asyncio.current_task`) must come after the first wait.
    """
    method.at_once = True  # type: ignore[attr-defined]  # functions have attributes
    return method


class _CallDetails(grpc.HandlerCallDetails):
    """What interceptors are told about a call."""

    __slots__ = ("invocation_metadata", "method")

    def __init__(self, method: str, invocation_metadata: WireMetadata) -> None:
        self.method = method
        self.invocation_metadata = invocation_metadata


class InProcessServer(grpc.aio.Server):
    """Serves the calls of in-process channels, each in a task and a fresh `contextvars.Context` of its own.

    It has no ports, and takes calls from the beginning.

    Interceptors may have a method `admit(method, metadata)` beside `intercept_service`, which lets a call through at
    once and returns whether it did. Where all of them do, nothing else is asked of them.
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
        self._at_once: set[str] = set()
        self._generic: list[grpc.GenericRpcHandler] = []
        self._active: set[Exchange] = set()
        self._stopping = False
        self._terminated = asyncio.Event()
        self._find_handler: FindHandler = self._find_registered
        admits: list[Any] = [getattr(interceptor, "admit", None) for interceptor in interceptors]
        self._admits = None if None in admits else tuple(admits)
        for interceptor in reversed(interceptors):
            self._find_handler = partial(interceptor.intercept_service, self._find_handler)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers that are asked for every call that no registered method serves."""
        self._generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Adds the methods of a service."""
        for name, handler in method_handlers.items():
            path = f"/{service_name}/{name}"
            self._registered[path] = handler
            if getattr(_handler_function(handler), "at_once", False):
                self._at_once.add(path)

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
        self._active.add(exchange)
        serving: Coroutine[Any, Any, None] = self._serve(exchange, method, metadata, request)
        if method.path in self._at_once:
            try:
                awaited = context.run(serving.send, None)
            except (StopIteration, asyncio.CancelledError):
                self._handler_ended(exchange)
                return
            serving = _go_on(serving, awaited)
        task = exchange.loop.create_task(serving, context=context)
        exchange.task = task
        # A task that is cancelled before its first step never runs, so the end cannot be noticed inside of it.
        task.add_done_callback(partial(self._task_ended, exchange), context=context)

    def _admitted(self, path: str, metadata: WireMetadata) -> Handler | None:
        """Returns the handler of a registered method if the interceptors let the call through at once."""
        handler = self._registered.get(path)
        if handler is None or self._admits is None:
            return None
        for admit in self._admits:
            if not admit(path, metadata):
                return None
        return handler

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
            handler = self._admitted(method.path, metadata)
            handler = handler or await self._find_handler(_CallDetails(method.path, metadata))
            if handler is None:
                exchange.finish(_NOT_FOUND)
                return
            context = ServicerContext(exchange, method, handler, metadata, self.max_message_bytes)
            exchange.context = context
            request = await _received(handler, method, request, context)
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
            elif response is DEFERRED:
                self._defer(exchange)
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
        metadata = () if context is None else context.invocation_metadata()
        ids = {"request_id": dict(metadata).get("x-request-id", "")}
        what = "Unexpected [%s] raised by servicer method [%s]"
        _log.error(what, type(error).__name__, method.path, exc_info=error, extra=ids)
        if context is None:
            exchange.finish(CallStatus(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}"))
        else:
            context.send_failure(error)

    def _task_ended(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        exchange.task = None
        self._handler_ended(exchange)
        if not task.cancelled():
            task.result()  # raises what ends programs: KeyboardInterrupt, SystemExit

    def _handler_ended(self, exchange: Exchange) -> None:
        if exchange.deferred is None:
            self._settle(exchange)

    def _defer(self, exchange: Exchange) -> None:
        ended = exchange.deferred

        def settle() -> None:
            if ended is not None:
                ended()
            self._settle(exchange)

        exchange.deferred = settle

    def _settle(self, exchange: Exchange) -> None:
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
        exchange.context = None
        if self._stopping and not self._active:
            self._terminated.set()


async def _received(handler: Handler, method: Method, request: Any, context: ServicerContext) -> Any:
    # The handler's own kind counts: an interceptor may refuse any call with a unary handler that aborts.
    if handler.request_streaming:
        return context.iterator(request)
    return context.incoming(await context.first_request() if method.request_streaming else request)


def _handler_function(handler: Handler) -> Any:
    if handler.request_streaming:
        return handler.stream_stream if handler.response_streaming else handler.stream_unary
    return handler.unary_stream if handler.response_streaming else handler.unary_unary


def _coroutine(result: Any) -> Awaitable[Any]:
    if type(result) is not CoroutineType and not inspect.isawaitable(result):
        raise TypeError("the handler is not asynchronous: make it `async def`")
    awaitable: Awaitable[Any] = result
    return awaitable


async def _go_on(coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
    """Does what is left of a coroutine that was begun by hand, and waits for `awaited`."""
    await _Rest(coroutine, awaited)


class _Rest:
    """The rest of a coroutine, to be awaited."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, awaited = self._coroutine, self._awaited
        try:
            while True:
                try:
                    sent = yield awaited
                except BaseException as error:
                    awaited = coroutine.throw(error)
                else:
                    awaited = coroutine.send(sent)
        except StopIteration:
            return


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
