"""How a servicer hands a run's log to whoever called: pushed within the process, written over a wire."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dragoman_server.providers.base import EventBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from dragoman_server.errors import DragomanError
    from dragoman_server.runs.finished import KeptRun
    from dragoman_server.runs.log import Subscription

    Convert = Callable[[EventBatch], Any]

MAX_UNWRITTEN_BYTES = 256 * 1024
"""What may wait for a slow connection before its run is held back, in bytes of events."""


async def relay(
    context: grpc.aio.ServicerContext[Any, Any], run: KeptRun, after_sequence: int, convert: Convert | None = None
) -> None:
    """Streams a run to the call's client, from the event after a sequence to the end; ends the call if that fails.

    Args:
        context: The call. On the in-process channel its `push` takes messages without a task or queue between.
        run: The run.
        after_sequence: The last event that the client has.
        convert: Makes the call's message of a batch, where they differ.

    Raises:
        DragomanError: If the events are no longer kept, or the client reads too slowly.
    """
    push = getattr(context, "push", None)
    if push is not None:
        await _Pushed(push, convert).serve(run, after_sequence)
    else:
        await _Written(context, convert).serve(run, after_sequence)


class _Pushed:
    """Passes batches to the client's sink in the call chain that appends them."""

    on_text = None  # what has to be converted comes in batches

    def __init__(self, push: Any, convert: Convert | None) -> None:
        self._push = push
        self._end: asyncio.Future[DragomanError | None] = asyncio.get_running_loop().create_future()
        if convert is None:
            self.on_batch = push.on_message
            self.on_text = push.on_text
        else:
            self.on_batch = lambda batch, _: push.on_message(convert(batch))

    def on_closed(self, error: DragomanError | None) -> None:
        if not self._end.done():
            self._end.set_result(error)

    async def serve(self, run: KeptRun, after_sequence: int) -> None:
        subscription = run.watch(self, after_sequence)
        self._push.bind(_Flow(run, subscription))
        try:
            error = await self._end
        finally:
            run.unwatch(subscription)
        if error is not None:
            raise error


class _Flow:
    """Lets the reader of a pushed stream hold back its run."""

    __slots__ = ("_run", "_subscription")

    def __init__(self, run: KeptRun, subscription: Subscription) -> None:
        self._run = run
        self._subscription = subscription

    def pause(self) -> None:
        self._run.hold(self._subscription)

    def resume(self) -> None:
        self._run.release(self._subscription)


class _Written:
    """Writes batches to a connection; whatever is ready when a write is done goes into the next message."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], convert: Convert | None) -> None:
        self._context = context
        self._convert = convert
        self._ready: list[EventBatch] = []
        self._unwritten = 0
        self._ended = False
        self._error: DragomanError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._flow: _Flow | None = None

    def on_batch(self, batch: EventBatch, size: int) -> None:
        self._ready.append(batch)
        self._unwritten += size
        if self._unwritten > MAX_UNWRITTEN_BYTES and self._flow is not None:
            asyncio.get_running_loop().call_soon(self._pause)  # a sink does not call back into the run
        self._wake()

    def on_closed(self, error: DragomanError | None) -> None:
        self._ended = True
        self._error = error
        self._wake()

    async def serve(self, run: KeptRun, after_sequence: int) -> None:
        subscription = run.watch(self, after_sequence)
        self._flow = flow = _Flow(run, subscription)
        context, convert = self._context, self._convert
        try:
            while True:
                if self._ready:
                    batch = self._take()
                    await context.write(batch if convert is None else convert(batch))
                    if self._unwritten <= MAX_UNWRITTEN_BYTES:
                        flow.resume()
                elif self._ended:
                    break
                else:
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        finally:
            self._flow = None  # it refers to this by way of the subscription
            run.unwatch(subscription)
        if self._error is not None:
            raise self._error

    def _take(self) -> EventBatch:
        ready, self._ready, self._unwritten = self._ready, [], 0
        if len(ready) == 1:
            return ready[0]
        merged = EventBatch(run_id=ready[0].run_id)
        for batch in ready:
            merged.events.extend(batch.events)
        return merged

    def _pause(self) -> None:
        if self._flow is not None and self._unwritten > MAX_UNWRITTEN_BYTES:
            self._flow.pause()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
