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
from dragoman_server.inprocess.metadata import delivered
from dragoman_server.inprocess.served import Served

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from dragoman.streaming import Metadata
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


def begun_by(begin: Callable[..., Any]) -> Callable[[MethodT], MethodT]:
    """Decorates a servicer's unary method with a plain function that does its work in the in-process server.

    It has the parameters of the method and runs within the call that starts it, so that it must not wait. It returns
    DEFERRED, or a function without parameters that makes the coroutine that gives the response: it is called in a task.
    That task may be cancelled before its first step, so that nothing is made that would have to be awaited or undone.
    Callers that expect a stream get the method itself.
    """

    def mark(method: MethodT) -> MethodT:
        method.begin = begin  # type: ignore[attr-defined]  # functions have attributes
        return method

    return mark


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
    once and returns whether it did. Where all of them do, nothing else is asked of them. The metadata are pairs, as a
    wire would deliver them: text is printable ASCII.
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
        self._registered: dict[str, Served] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._active: set[Exchange] = set()
        self._stopping = False
        self._terminated = asyncio.Event()
        self._find_handler: FindHandler = self._find_registered
        admits: list[Any] = [getattr(interceptor, "admit", None) for interceptor in interceptors]
        self._admit: Callable[[str, Metadata], bool]
        if None in admits:
            self._admit = _admit_none
        else:
            self._admit = admits[0] if len(admits) == 1 else partial(_admit_all, admits)
        for interceptor in reversed(interceptors):
            self._find_handler = partial(interceptor.intercept_service, self._find_handler)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers that are asked for every call that no registered method serves."""
        self._generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Adds the methods of a service."""
        for name, handler in method_handlers.items():
            path = f"/{service_name}/{name}"
            self._registered[path] = self._served(path, handler)

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

    def launch(self, exchange: Exchange, method: Method, metadata: Metadata, request: Any) -> None:
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
        served = self._registered.get(method.path)
        serving: Coroutine[Any, Any, None] | None
        streams = method.request_streaming or exchange.responses is not None
        if served is None or served.begin is None or streams:
            serving = self._serve(exchange, method, served, metadata, request)
        else:
            serving = context.run(self._begin, exchange, method, served, metadata, request)
            if serving is None:
                if not exchange.detached:
                    self._settle(exchange)
                return
        task = exchange.loop.create_task(serving, context=context)
        exchange.task = task
        # A task that is cancelled before its first step never runs, so the end cannot be noticed inside of it.
        task.add_done_callback(partial(self._task_ended, exchange), context=context)

    def _served(self, path: str, handler: Handler) -> Served:
        return Served(path, handler, self.max_message_bytes, self._settle)

    async def _found(self, path: str, metadata: Metadata) -> Served | None:
        """Returns what serves a call, as the interceptors have it."""
        handler = await self._find_handler(_CallDetails(path, delivered(metadata)))
        if handler is None:
            return None
        served = self._registered.get(path)
        return served if served is not None and served.handler is handler else self._served(path, handler)

    async def _find_registered(self, details: grpc.HandlerCallDetails) -> Handler | None:
        served = self._registered.get(details.method)
        if served is not None:
            return served.handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None

    def _begin(
        self, exchange: Exchange, method: Method, served: Served, metadata: Metadata, request: Any
    ) -> Coroutine[Any, Any, None] | None:
        """Begins a call at once; returns what is left to be done in a task, if anything is."""
        context: ServicerContext | None = None
        try:
            if not self._admit(served.path, metadata):
                return self._serve(exchange, method, served, metadata, request)
            context = exchange.context = ServicerContext(exchange, method, served, metadata)
            assert served.begin is not None
            result = served.begin(context.incoming(request), context)
            if result is DEFERRED and exchange.guard is not None:
                exchange.guard.verify()
        except Exception as error:
            self._failed(exchange, context, served.path, error)
            return None
        if result is not DEFERRED or context.abort_error is not None:
            return self._answer(exchange, served, context, result, begun=True)
        exchange.detached = exchange.status is None
        return None

    async def _serve(
        self, exchange: Exchange, method: Method, served: Served | None, metadata: Metadata, request: Any
    ) -> None:
        context: ServicerContext | None = None
        try:
            if served is None or not self._admit(method.path, metadata):
                served = await self._found(method.path, metadata)
                if served is None:
                    exchange.finish(_NOT_FOUND)
                    return
            context = exchange.context = ServicerContext(exchange, method, served, metadata)
            # The handler's own kind counts: an interceptor may refuse any call with a unary handler that aborts.
            if served.request_streaming or method.request_streaming:
                request = await _received(served, method, request, context)
            else:
                request = context.incoming(request)
            result = served.function(request, context)
            if served.response_streaming:
                result = _streamed(result, context)
        except Exception as error:
            self._failed(exchange, context, method.path, error)
        else:
            await self._answer(exchange, served, context, result)

    async def _answer(
        self, exchange: Exchange, served: Served, context: ServicerContext, result: Any, *, begun: bool = False
    ) -> None:
        """Ends a call with what its handler returned, or with what is left to be done of one that has begun."""
        try:
            response = result if result is DEFERRED else await _coroutine(result() if begun else result)
            if exchange.guard is not None:
                exchange.guard.verify()
            if context.abort_error is not None:
                _log.error("Abort error unexpectedly suppressed in method [%s]", served.path)
            elif exchange.status is not None:
                pass  # The caller went away, and the handler did not mind.
            elif response is DEFERRED:
                exchange.detached = True
            elif served.response_streaming:
                context.send_status(context.details())
            elif exchange.responses is not None:
                await context.send_only_response(response)
            else:
                context.send_response(response)
        except Exception as error:
            self._failed(exchange, context, served.path, error)

    def _failed(self, exchange: Exchange, context: ServicerContext | None, path: str, error: Exception) -> None:
        """Ends a call with what escaped its handler, unless the call has ended with that."""
        if isinstance(error, grpc.aio.AbortError | CallRefused) and _has_ended(exchange, context):
            return
        metadata = () if context is None else context.invocation_metadata()
        ids = {"request_id": dict(metadata).get("x-request-id", "")}
        what = "Unexpected [%s] raised by servicer method [%s]"
        _log.error(what, type(error).__name__, path, exc_info=error, extra=ids)
        if context is None:
            exchange.finish(CallStatus(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}"))
        else:
            context.send_failure(error)

    def _task_ended(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        exchange.task = None
        if not exchange.detached:
            self._settle(exchange)
        if not task.cancelled():
            task.result()  # raises what ends programs: KeyboardInterrupt, SystemExit

    def _settle(self, exchange: Exchange) -> None:
        self._active.discard(exchange)
        context = exchange.context
        if exchange.status is None and not _has_ended(exchange, context):
            exchange.finish(_HANDLER_CANCELLED)
        if exchange.guard is not None:
            try:
                exchange.guard.verify()
            except FrozenMessageChanged:
                _log.exception("A message of a call to a method was changed after it was handed over")
        if context is not None and context.callbacks is not None:
            context.run_done_callbacks()
        exchange.context = None
        if self._stopping and not self._active:
            self._terminated.set()


async def _received(served: Served, method: Method, request: Any, context: ServicerContext) -> Any:
    if served.request_streaming:
        return context.iterator(request)
    return context.incoming(await context.first_request() if method.request_streaming else request)


def _admit_none(_path: str, _metadata: Metadata) -> bool:
    return False


def _admit_all(admits: Sequence[Callable[[str, Metadata], bool]], path: str, metadata: Metadata) -> bool:
    return all(admit(path, metadata) for admit in admits)


def _coroutine(result: Any) -> Awaitable[Any]:
    if type(result) is not CoroutineType and not inspect.isawaitable(result):
        raise TypeError("the handler is not asynchronous: make it `async def`")
    awaitable: Awaitable[Any] = result
    return awaitable


async def _streamed(result: Any, context: ServicerContext) -> None:
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
