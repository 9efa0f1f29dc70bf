"""The events of a run, as they happen, over as many calls as it takes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol, Self

import grpc

from dragoman.reasons import Reason
from dragoman_client._errors import (
    DeadlineExceeded,
    DragomanClientError,
    RunCancelled,
    RunFailed,
    StreamInterrupted,
    error_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dragoman.v1.event_pb2 import RunEvent
    from dragoman.v1.run_service_pb2 import StreamRunResponse, WatchRunResponse

_TERMINAL = frozenset({"run_completed", "run_failed", "run_cancelled"})
_MAX_RESUMES = 6
"""Calls in a row that may break without having brought an event."""
_FIRST_DELAY, _MAX_DELAY = 0.1, 3.0
"""Seconds to wait before the first and before any later resumption, unless the server says how long."""


class OpenCall(Protocol):
    """Opens the call that continues a run after a sequence; `run_id` is empty as long as nothing is known of it."""

    def __call__(self, run_id: str, after_sequence: int, timeout: float | None) -> StreamCall: ...


class StreamCall(Protocol):
    """What is needed of a call of `StreamRun` or `WatchRun`, on whatever channel."""

    def __aiter__(self) -> AsyncIterator[StreamRunResponse | WatchRunResponse]: ...

    def cancel(self) -> bool: ...


class RunStream:
    """The events of one run, in order, without gap or duplicate.

    Iterate it once; leave it early by `aclose` or `async with`.

    If the connection breaks, or this reader was too slow for what the server keeps, and the run lives on without its
    caller, the stream goes on by itself after the last event that it has. The iteration ends after the terminal event.

    Attributes:
        run_id: The run; empty before the first event.
        last_sequence: Sequence of the newest event that was handed out.
    """

    def __init__(
        self,
        open_call: OpenCall,
        *,
        can_resume: Callable[[str], bool],
        raise_failure: bool,
        run_id: str = "",
        after_sequence: int = 0,
        timeout: float | None = None,
    ) -> None:
        self.run_id = run_id
        self.last_sequence = after_sequence
        self._open_call = open_call
        self._can_resume = can_resume
        self._raise_failure = raise_failure
        self._timeout = timeout
        self._deadline: float | None = None
        self._call: StreamCall | None = None
        self._batches: AsyncIterator[StreamRunResponse | WatchRunResponse] | None = None
        self._ready: deque[RunEvent] = deque()
        self._after_sequence = self._received = after_sequence
        self._resumes = 0
        self._ended = False
        self._error: DragomanClientError | None = None  # what the terminal event means, raised once it was handed out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RunEvent:
        """Returns the next event.

        Raises:
            RunFailed: After the event `run_failed`, unless the stream only watches.
            RunCancelled: After the event `run_cancelled`, unless the stream only watches.
            DragomanClientError: If the call failed and cannot be resumed.
        """
        while not self._ready:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._ended:
                raise StopAsyncIteration
            await self._receive()
        event = self._ready.popleft()
        self.last_sequence = event.sequence
        return event

    async def text(self, choice_index: int = 0) -> AsyncIterator[str]:
        """Yields the text of one choice, piece by piece, and closes the stream when it is left.

        Raises:
            DragomanClientError: As the iteration itself does; also if text that was yielded is taken back, because a
                step of the run is repeated.
        """
        async with self:
            async for event in self:
                kind = event.WhichOneof("kind")
                if kind == "text_delta" and event.text_delta.choice_index == choice_index:
                    yield event.text_delta.text
                elif kind == "step_restarted":
                    raise StreamInterrupted(
                        f"Events from {event.step_restarted.discards_from_sequence} on are void: a step is run again. "
                        "Read the events to follow.",
                        run_id=self.run_id,
                    )

    async def aclose(self) -> None:
        """Leaves the stream. What happens to the run is up to its disconnect policy. Repeatable."""
        self._ended, self._error = True, None
        self._ready.clear()
        self._close_call()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _receive(self) -> None:
        """Takes the next batch, or makes the call that will bring it."""
        if self._batches is None:
            self._call = self._open_call(self.run_id, self._received, self._remaining())
            self._batches = aiter(self._call)
        try:
            batch = await anext(self._batches)
        except StopAsyncIteration:
            if not self._raise_failure and self._received == self._after_sequence:
                self._ended = True  # the reader had the terminal event already
                return
            broken: DragomanClientError = StreamInterrupted(
                "The stream ended before the run did.", retryable=True, run_id=self.run_id
            )
        except grpc.aio.AioRpcError as error:
            broken = error_of(error, self.run_id)
        else:
            self._take(batch)
            return
        await self._await_resumption(broken)

    def _take(self, batch: StreamRunResponse | WatchRunResponse) -> None:
        self.run_id = batch.run_id
        self._resumes = 0
        for event in batch.events:
            if event.sequence != self._received + 1:
                self._fail(f"Event {event.sequence} came after {self._received}.")
                return
            kind = event.WhichOneof("kind")
            if kind is None and not event.ignorable:
                self._fail(f"Event {event.sequence} is of a kind that this client is too old for.")
                return
            self._received = event.sequence
            if kind is None:
                continue
            self._ready.append(event)
            if kind in _TERMINAL:
                self._finish(event, kind)
                return

    def _finish(self, event: RunEvent, kind: str) -> None:
        self._ended = True
        if self._raise_failure and kind == "run_failed":
            self._error = RunFailed(event.run_failed.failure, self.run_id)
        elif self._raise_failure and kind == "run_cancelled":
            self._error = RunCancelled(event.run_cancelled.reason, self.run_id)
        self._close_call()

    def _fail(self, message: str) -> None:
        self._ended = True
        self._error = StreamInterrupted(message, run_id=self.run_id)
        self._close_call()

    async def _await_resumption(self, broken: DragomanClientError) -> None:
        """Waits for the moment to call again.

        Raises:
            DragomanClientError: `broken` itself, if calling again cannot help.
        """
        self._close_call()
        transient = broken.code in (None, grpc.StatusCode.UNAVAILABLE) or broken.reason == Reason.WATCHER_TOO_SLOW
        if not (transient and self._can_resume(self.run_id)) or self._resumes == _MAX_RESUMES:
            self._ended = True
            raise broken
        delay = min(_FIRST_DELAY * 2**self._resumes, _MAX_DELAY) if broken.retry_after is None else broken.retry_after
        self._resumes += 1
        await asyncio.sleep(delay)

    def _remaining(self) -> float | None:
        if self._timeout is None:
            return None
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._timeout
        if self._deadline <= now:
            self._ended = True
            raise DeadlineExceeded(
                f"The stream was not done after {self._timeout} s.",
                reason=Reason.DEADLINE_EXCEEDED,
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
                run_id=self.run_id,
            )
        return self._deadline - now

    def _close_call(self) -> None:
        if self._call is not None:
            self._call.cancel()
        self._call = self._batches = None
