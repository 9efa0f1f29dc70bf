"""Takes note of what runs used, off their path: a note is a tuple in a list, which is written every half second."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from dragoman.v1.run_pb2 import Run
from dragoman_server.clock import system_clock
from dragoman_server.errors import DragomanError
from dragoman_server.store.usage.records import HOUR, UsageRecord
from dragoman_server.telemetry.logs import get_logger
from dragoman_server.usage.metrics import UsageMetrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from dragoman.v1.usage_pb2 import Charge, Usage
    from dragoman_server.caller import Caller
    from dragoman_server.clock import Clock
    from dragoman_server.settings import UsageSettings
    from dragoman_server.store.usage.records import UsageStore

logger = get_logger(__name__)

FLUSH_SECONDS = 0.5
"""Time between two writes; that, and what a write takes, is what a crash can lose."""

MOST_PENDING = 100_000
"""Records that wait while the database does not answer; what comes after them is counted as dropped."""

MOST_AT_ONCE = 2_000
"""Records of one transaction."""

PURGE_SECONDS = 3600.0
"""Time between two looks for what is too old."""

_PURGE_AT_ONCE = 5_000
_DAY = 24 * HOUR


Tokens = tuple[int, int, int, int, bool]
"""Tokens read, of those the cached ones; tokens written, of those the thoughts; and whether that is an estimate."""

NO_TOKENS: Tokens = (0, 0, 0, 0, False)
_FAILED = int(Run.STATE_FAILED)


class UsageLog:
    """Takes note of what runs used.

    Args:
        store: Where it is kept.
        settings: Whether anything is kept, and for how long.
        registry: Where metrics are exposed, if anywhere.
        clock: The time.
    """

    def __init__(
        self,
        store: UsageStore,
        settings: UsageSettings,
        registry: CollectorRegistry | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._pending: list[UsageRecord] = []
        self._metrics = UsageMetrics(registry, lambda: len(self._pending))
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failing = False

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._settings.enabled

    async def start(self) -> None:
        """Begins to write, and to delete what is too old."""
        if self.enabled:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._keep_writing()), loop.create_task(self._keep_purging())]

    async def stop(self) -> None:
        """Writes what is left, and ends."""
        self._stopping.set()
        self._wake.set()
        if self._tasks:
            await asyncio.gather(*self._tasks)
            await self._write()
            if self._pending:
                logger.error("usage records could not be written", records=len(self._pending))

    def note(
        self,
        record: Run,
        caller: Caller,
        operation: str,
        tokens: Tokens,
        create_time: int,
        duration_ms: int,
        first_content_ms: int,
        charge: Charge | None = None,
    ) -> None:
        """Takes note of a run that has ended. Never blocks or raises.

        Args:
            record: The run.
            caller: Whose it was.
            operation: What it did, for example `chat`.
            tokens: What it consumed.
            create_time: When it was accepted, in microseconds since the epoch.
            duration_ms: Milliseconds from its acceptance to its end.
            first_content_ms: Milliseconds from its acceptance to its first content; 0 if it had none.
            charge: What it was charged, if anything.
        """
        if not self._settings.enabled:
            return
        pending = self._pending
        if len(pending) >= MOST_PENDING:
            self._metrics.dropped += 1
            return
        model, state = record.model, record.state
        pending.append(
            tuple.__new__(  # what to call the class does, at half the price
                UsageRecord,
                (
                    record.id,
                    caller.account_id,
                    caller.user_id,
                    caller.key_id,
                    create_time,
                    operation,
                    # PostgreSQL takes no such character, and clients may ask for models of any name.
                    model.replace("\0", "") if "\0" in model else model,
                    record.provider,
                    state,
                    record.failure.reason if state == _FAILED else "",
                    *tokens,
                    "" if charge is None else charge.currency,
                    0 if charge is None else charge.amount_micros,
                    duration_ms,
                    first_content_ms,
                ),
            )
        )
        if len(pending) == 1:
            self._wake.set()

    async def _keep_writing(self) -> None:
        while not self._stopping.is_set():
            await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), FLUSH_SECONDS)
            await self._write()
            if self._pending:  # not all could be written, or more has come
                self._wake.set()

    async def _write(self) -> None:
        """Writes what is pending now; what cannot be written stays."""
        left = len(self._pending)
        try:
            while left > 0:
                batch = self._pending[: min(left, MOST_AT_ONCE)]
                self._metrics.written += await self._store.add(batch)
                del self._pending[: len(batch)]
                left -= len(batch)
        except DragomanError as error:
            if not self._failing:
                self._failing = True
                logger.error("usage records cannot be written; they wait", records=left, error=str(error))
        except Exception as error:  # one record that the database does not take must not stop all others
            self._metrics.dropped += len(batch)
            del self._pending[: len(batch)]
            logger.error("usage records were refused by the database", records=len(batch), exc_info=error)
        else:
            if self._failing:
                self._failing = False
                logger.info("usage records are written again", dropped=self._metrics.dropped)

    async def _keep_purging(self) -> None:
        while not self._stopping.is_set():
            await self._purge()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), PURGE_SECONDS)

    async def _purge(self) -> None:
        """Deletes what is too old, a little at a time: others want to write too."""
        now = int(self._clock() * 1_000_000)
        days, sum_days = self._settings.retention_days, self._settings.sums_retention_days
        records_before, sums_before = now - days * _DAY if days else None, now - sum_days * _DAY if sum_days else None
        try:
            while await self._store.purge(records_before, sums_before, limit=_PURGE_AT_ONCE):
                if self._stopping.is_set():
                    return
        except Exception as error:  # it is tried again in an hour
            logger.error("old usage records could not be deleted", error=str(error))


def tokens_of(usage: Usage | None) -> Tokens:
    """Returns what is counted of a run's consumption; nothing, if it is not known."""
    if usage is None:
        return NO_TOKENS
    return (
        usage.input_tokens,
        usage.input_details.cached_tokens if usage.HasField("input_details") else 0,
        usage.output_tokens,
        usage.output_details.reasoning_tokens if usage.HasField("output_details") else 0,
        usage.estimated,
    )
