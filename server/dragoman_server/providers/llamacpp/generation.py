"""One generation: from a worker thread, where llama.cpp hands over its chunks, to the sink on the event loop.

llama.cpp calls back on the thread that called it, from a queue of its own that the model's thread fills. So the
callback may take its time without holding up the model or other slots, and holding it up would not stop this slot
either: it generates on into that queue. A paused generation therefore keeps its events here; they are at most one
context's worth.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman.v1.failure_pb2 import Failure
from dragoman_server.errors import DragomanError, InvalidRequest, ProviderError
from dragoman_server.providers.llamacpp.chunks import refusal_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.providers.base import EventBatch, GenerationSink
    from dragoman_server.providers.llamacpp.chunks import ChunkReader

    JsonObject = Mapping[str, Any]


class LlamaCppGeneration:
    """A running generation, and its bridge between threads. `run` belongs to a worker thread, all else to the loop's.

    Args:
        loop: The loop of the sink.
        body: What llama.cpp is asked.
        reader: Reads its answer.
        sink: Receives the answer.
        incremental: Whether to deliver as it comes; if false, all comes at the end.
        on_cancel: Is told that the generation was cancelled, so that it need not be run if it still waits.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        body: JsonObject,
        reader: ChunkReader,
        sink: GenerationSink,
        *,
        incremental: bool,
        on_cancel: Callable[[LlamaCppGeneration], None],
    ) -> None:
        self._loop = loop
        self._body = body
        self._reader = reader
        self._sink = sink
        self._incremental = incremental
        self._on_cancel = on_cancel
        # Written by the worker, emptied by the loop: deques and plain attributes need no lock.
        self._pending: deque[EventBatch] = deque()
        self._delivery_due = False
        self._failure: DragomanError | None = None
        self._run_over = False
        self._cancelled = False
        self._paused = False
        self._ended = False

    def run(self, complete: Callable[[JsonObject, Callable[[JsonObject], bool]], object]) -> None:
        """Generates to the end, on a worker thread.

        Args:
            complete: `handle_chat_completions` of the server; blocks until the end, or the callback returns true.
        """
        if not self._cancelled:
            try:
                complete(self._body, self._take)
            except ValueError as error:
                self._failure = refusal_of(error, has_schema="response_format" in self._body)
            except TypeError as error:  # free-form JSON may hold numbers beyond 64 bits
                self._failure = InvalidRequest(f"the request cannot be handed to llama.cpp: {error}")
            except Exception as error:  # whatever llama.cpp throws ends this generation, never the worker
                self._failure = ProviderError(f"llama.cpp failed: {error!r}", reason=Reason.PROVIDER_FAILED)
        if self._failure is None and not self._reader.finished:
            self._failure = ProviderError("the answer ended without a finish", reason=Reason.PROVIDER_PROTOCOL)
        self._run_over = True
        self._schedule_delivery()

    def _take(self, chunk: JsonObject) -> bool:
        """Takes a chunk, on the worker thread. Returns whether to stop."""
        if self._cancelled:
            return True
        try:
            batch = self._reader.read(chunk)
        except DragomanError as error:
            self._failure = error
            return True
        except (KeyError, TypeError, ValueError) as error:
            self._failure = ProviderError(
                f"llama.cpp sent a chunk that makes no sense: {error!r}", reason=Reason.PROVIDER_PROTOCOL
            )
            return True
        if batch is not None:
            self._pending.append(batch)
            if self._incremental:
                self._schedule_delivery()
        return False

    def _schedule_delivery(self) -> None:
        if not self._delivery_due:
            self._delivery_due = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._delivery_due = False  # before looking: what comes from now on schedules anew
        if self._ended or self._cancelled or self._paused:
            return
        run_over = self._run_over  # before emptying: the run's last events precede its end
        if batch := self._take_pending():
            self._sink.on_events(batch)
        # The sink may have paused or cancelled meanwhile.
        if run_over and not (self._ended or self._cancelled or self._paused):
            self._end(self._failure.to_failure() if self._failure else None)

    def _take_pending(self) -> EventBatch | None:
        if not self._pending:
            return None
        batch = self._pending.popleft()
        while self._pending:
            batch.MergeFrom(self._pending.popleft())
        return batch

    def _end(self, failure: Failure | None) -> None:
        if not self._ended:
            self._ended = True
            self._sink.on_end(failure)

    def cancel(self) -> None:
        """Ends the sink with CANCELLED on the loop's next turn. The model stops at its next token or prompt batch."""
        if self._cancelled or self._ended:
            return
        self._cancelled = True
        self._pending.clear()
        self._on_cancel(self)
        self._loop.call_soon(self._end, Failure(reason=Reason.CANCELLED, message="the generation was cancelled"))

    def pause(self) -> None:
        """Holds back events."""
        self._paused = True

    def resume(self) -> None:
        """Delivers on the loop's next turn what was held back."""
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._deliver)

    @property
    def usage_so_far(self) -> Usage | None:
        """What llama.cpp has told of its consumption; None if nothing."""
        return self._reader.usage
