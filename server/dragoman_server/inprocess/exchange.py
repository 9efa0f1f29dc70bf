"""What the two sides of a call share."""

from __future__ import annotations

import time
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from dragoman.streaming import CallStatus
from dragoman.unary import tell

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from dragoman.unary import Then
    from dragoman_server.inprocess.context import ServicerContext
    from dragoman_server.inprocess.frozen import FrozenGuard
    from dragoman_server.inprocess.metadata import WireMetadata

WINDOW = 8
"""Most messages that wait for a slow reader, and most that are sent without giving way to other tasks."""

OK = CallStatus(grpc.StatusCode.OK)
DEADLINE_EXCEEDED = CallStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
LOCALLY_CANCELLED = "Locally cancelled by application!"
DROPPED = "Cancelled upon garbage collection!"


class Responses(Protocol):
    """Takes the messages of a response stream: a pipe to a reader, or a sink."""

    async def put(self, message: Any) -> None:
        """Takes the next message, as soon as there is room for it. Drops it if the call has ended."""

    def finish(self, status: CallStatus) -> None:
        """Takes the handler's end: the call ends as soon as the caller has all messages."""

    def close(self, status: CallStatus) -> None:
        """Takes the end of the call; messages that still wait are lost."""


class Exchange:
    """One call.

    Attributes:
        loop: The event loop of both sides.
        deadline: When the call must have ended, in seconds since the epoch; None for never.
        owner: The channel.
        task: The task of the handler; None before and after.
        context: The handler's view of the call, while it runs.
        deferred: What the handler wants done when the call ends, if it responds later.
        detached: Whether the handler has returned, and responds later.
        then: Is told of the end, if the caller does not await it.
        then_context: In which context.
        initial_metadata: What the caller sees of it; None until the handler has sent it or the call has ended.
        status: How the call ended for its caller; None until then.
        error: What awaiting the call raises in place of the status: the caller made a mistake.
        locally_cancelled: Whether the caller itself cancelled the call.
        response: The message of a unary response.
        requests: The messages of a request stream, on their way to the handler.
        responses: The messages of a response stream, on their way to the caller.
        guard: Watches over the messages, in tests.
    """

    __slots__ = (
        "_callbacks",
        "_timer",
        "_waiters",
        "context",
        "deadline",
        "deferred",
        "detached",
        "error",
        "guard",
        "initial_metadata",
        "locally_cancelled",
        "loop",
        "owner",
        "requests",
        "response",
        "responses",
        "status",
        "task",
        "then",
        "then_context",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: object, timeout: float | None) -> None:
        self.loop = loop
        self.owner = owner
        self.task: asyncio.Task[None] | None = None
        self.initial_metadata: WireMetadata | None = None
        self.status: CallStatus | None = None
        self.error: Exception | None = None
        self.locally_cancelled = False
        self.response: Any = None
        self.requests: Pipe | None = None
        self.responses: Responses | None = None
        self.guard: FrozenGuard | None = None
        self.context: ServicerContext | None = None
        self.deferred: Callable[[], None] | None = None
        self.detached = False
        self.then: Then[Any] | None = None
        self.then_context: Context
        self._callbacks: list[tuple[Callable[[], None], Context]] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout is None:
            self.deadline: float | None = None
        else:
            self.deadline = time.time() + timeout
            if timeout > 0:
                self._timer = loop.call_later(timeout, self.break_off, DEADLINE_EXCEEDED)

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.time())

    # The caller's side.

    def cancel(self) -> None:
        """Cancels the call for its caller, who is told nothing: see `dragoman.unary.CallHandle`."""
        self.then = None
        self.give_up(LOCALLY_CANCELLED)

    def give_up(self, details: str) -> bool:
        """Cancels the call for its caller. Returns False if it has ended already."""
        if self.status is not None:
            return False
        self.locally_cancelled = True
        self.break_off(CallStatus(grpc.StatusCode.CANCELLED, details))
        return True

    async def wait_end(self) -> CallStatus:
        """Waits for the end, and returns the status."""
        while self.status is None:
            await self.waiter()
        return self.status

    def waiter(self) -> asyncio.Future[None]:
        """Returns a future that is done with the next news: initial metadata or status."""
        future = self.loop.create_future()
        if self._waiters is None:
            self._waiters = [future]
        else:
            self._waiters.append(future)
        return future

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Has a callback called, in the present context, on a turn of the loop after the end of the call."""
        context = copy_context()
        if self.status is not None:
            self.loop.call_soon(callback, context=context)
        elif self._callbacks is None:
            self._callbacks = [(callback, context)]
        else:
            self._callbacks.append((callback, context))

    # The handler's side.

    def send_initial_metadata(self, metadata: WireMetadata) -> None:
        """Shows the initial metadata to the caller."""
        if self.initial_metadata is None:
            self.initial_metadata = metadata
            self._wake()

    def finish(self, status: CallStatus) -> None:
        """Takes the handler's status: the call ends as soon as the caller has all messages."""
        if self.responses is None:
            self.end(status)
        else:
            self.responses.finish(status)
        if self.requests is not None:
            self.requests.discard()

    def fail(self, status: CallStatus) -> None:
        """Ends the call like `finish`, and stops its handler."""
        self.finish(status)
        if self.task is not None:
            self.task.cancel()

    # Either side.

    def break_off(self, status: CallStatus) -> None:
        """Ends the call at once, whatever is still on its way, and stops its handler."""
        self.end(status)
        if self.task is not None:
            self.task.cancel()

    def end(self, status: CallStatus) -> None:
        """Ends the call for its caller. The first end counts."""
        if self.status is not None:
            return
        self.status = status
        if self.initial_metadata is None:
            self.initial_metadata = ()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.responses is not None:
            responses, self.responses = self.responses, None  # a cycle less for the collector
            responses.close(status)
        if self.requests is not None:
            self.requests.discard()
            self.requests = None
        if self._waiters is not None:
            self._wake()
        if self.deferred is not None:
            assert self.context is not None
            self.loop.call_soon(self.context.settle_deferred)
        if self.then is not None:
            self.loop.call_soon(self._tell, context=self.then_context)
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback, context in callbacks:
                self.loop.call_soon(callback, context=context)

    def _tell(self) -> None:
        assert self.status is not None
        then, self.then = self.then, None
        if then is not None:
            tell(then, self.response, self.status)

    def _wake(self) -> None:
        if self._waiters is not None:
            waiters, self._waiters = self._waiters, None
            for future in waiters:
                if not future.done():
                    future.set_result(None)


class Pipe:
    """Messages on their way to a reader, at most `WINDOW` of them."""

    __slots__ = ("_closed", "_exchange", "_last", "_messages", "_reader", "_writer")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._messages: deque[Any] = deque()
        self._closed = False
        self._last: CallStatus | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    @classmethod
    def of(cls, exchange: Exchange, message: Any) -> Pipe:
        """Returns a pipe with one message and no more to come."""
        pipe = cls(exchange)
        pipe._messages.append(message)
        pipe._closed = True
        return pipe

    async def put(self, message: Any) -> None:
        """Puts a message in, as soon as there is room. Drops it if the pipe was closed."""
        while len(self._messages) >= WINDOW and not self._closed:
            if self._writer is not None and not self._writer.done():
                raise grpc.aio.UsageError("Only one write may wait at a time.")
            self._writer = self._exchange.loop.create_future()
            await self._writer
        if not self._closed:
            self._messages.append(message)
            _wake(self._reader)

    async def get(self) -> Any:
        """Takes the next message out; `grpc.aio.EOF` if none will come."""
        while not self._messages:
            if self._closed:
                return grpc.aio.EOF
            if self._reader is not None and not self._reader.done():
                raise grpc.aio.UsageError("Only one read may wait at a time.")
            self._reader = self._exchange.loop.create_future()
            await self._reader
        message = self._messages.popleft()
        if self._last is not None and not self._messages:
            self._exchange.end(self._last)
        # Half a window at a time: a writer that is woken for every message costs two task switches each.
        if self._writer is not None and len(self._messages) <= WINDOW // 2:
            _wake(self._writer)
        return message

    def shut(self) -> None:
        """Lets nothing more in; what is in can still be taken out."""
        self._closed = True
        _wake(self._reader)
        _wake(self._writer)

    def discard(self) -> None:
        """Shuts the pipe and drops what is in it."""
        self._messages.clear()
        self.shut()

    def finish(self, status: CallStatus) -> None:
        """Shuts the pipe; its call ends with this status when the last message is taken out."""
        if self._closed:
            return
        self.shut()
        if self._messages:
            self._last = status
        else:
            self._exchange.end(status)

    def close(self, status: CallStatus) -> None:
        """Takes the end of the call."""
        self.discard()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
