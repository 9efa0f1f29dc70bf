"""One run while it is kept: its log, its callers, and the rules by which it ends."""

from __future__ import annotations

import asyncio
from time import time_ns
from typing import TYPE_CHECKING, Protocol

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import CANCEL_REASON_DISCONNECTED, CancelReason
from dragoman.v1.run_pb2 import (
    DISCONNECT_POLICY_CANCEL,
    DISCONNECT_POLICY_DETACH_FOR,
    DisconnectPolicy,
    Run,
)
from dragoman.v1.run_service_pb2 import ExecuteRunResponse
from dragoman_server.errors import DeadlineExceeded, DragomanError, WatcherTooSlow
from dragoman_server.providers.base import EventBatch
from dragoman_server.runs.log import EventLog, Subscription
from dragoman_server.runs.whole import EVENTS, WholeFold, encode_rate_state, encode_record, response_of
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dragoman.v1.event_pb2 import FinishReason, RunCompleted
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.caller import Caller
    from dragoman_server.runs.admission import Admission
    from dragoman_server.runs.fold import Fold
    from dragoman_server.runs.log import Watcher
    from dragoman_server.runs.retention import Budget
    from dragoman_server.settings import RunSettings

logger = get_logger(__name__)

DEADLINE_SLACK_SECONDS = 0.05
"""How far two timers of one deadline may lie apart: a caller that goes this shortly before it went because of it, and a
run ends this much after it, so that its caller sees the deadline of the call and not the failure of the run."""


class Work(Protocol):
    """What a run does. It appends events through the run, and ends it with `complete` or `fail`."""

    def cancel(self) -> None:
        """Stops the work; the run has ended already, and whatever still comes is ignored."""

    def pause(self) -> None:
        """Asks to hold back events."""

    def resume(self) -> None:
        """Lifts `pause`."""

    def final_events(self, batch: EventBatch) -> None:
        """Adds what must precede the terminal event of a run that fails or is cancelled: the usage so far."""


class LiveRun:
    """One run.

    Callers (of ExecuteRun and StreamRun) count for the disconnect policy; watchers do not. The work is set by whoever
    starts the run, before any event is appended.

    Attributes:
        id: The run's id.
        owner: The account that the run belongs to, and the user in it.
        admission: What the request was given before it became a run, if it had to ask for anything.
        caller: Whose run it is.
        log: Its events and their fold.
        create_micros: When it was accepted, in microseconds since the epoch.
        idempotency_key: Under which a duplicate request finds it, or None.
        fingerprint: What a duplicate's spec must be equal to.
        call_id: The name that its caller gave the call, for the log.
        response_size: How large `response` is at most, in bytes; None if not known.
        outcome: What the fold tells of the end, once the run has ended.
        whole_record: The record in its wire form, if it was written so, and nobody can come back to events.
    """

    outcome: Fold | WholeFold

    __slots__ = (
        "_callers",
        "_deadline_timer",
        "_detach_timer",
        "_detach_ttl",
        "_held",
        "_limits",
        "_on_end",
        "_on_settled",
        "_paused",
        "_policy",
        "_response",
        "_volatile",
        "_waiters",
        "_work",
        "admission",
        "call_id",
        "caller",
        "create_micros",
        "fingerprint",
        "id",
        "idempotency_key",
        "labels",
        "log",
        "outcome",
        "owner",
        "response_size",
        "whole_record",
    )

    def __init__(
        self,
        run_id: str,
        caller: Caller,
        limits: RunSettings,
        budget: Budget,
        *,
        policy: DisconnectPolicy,
        detach_ttl: float,
        create_micros: int,
        labels: Mapping[str, str],
        on_end: Callable[[LiveRun], None],
        on_settled: Callable[[LiveRun], int | None],
    ) -> None:
        self.id = run_id
        self.owner = (caller.account_id, caller.user_id)
        self.caller = caller
        self.admission: Admission | None = None
        self.log = EventLog(run_id, limits, budget)
        self.create_micros = create_micros
        self.labels = labels
        self.idempotency_key: tuple[str, str, str, str] | None = None
        self.fingerprint = b""
        self.call_id = ""
        self.response_size: int | None = None
        self.whole_record: bytes | None = None
        self._limits = limits
        self._policy = policy
        self._detach_ttl = detach_ttl
        self._on_end = on_end
        self._on_settled = on_settled
        self._work: Work | None = None
        self._callers = 0
        self._held: dict[Subscription, asyncio.TimerHandle] = {}
        self._paused = False
        self._detach_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._waiters: list[Callable[[], None]] = []
        self._volatile = False
        self._response: ExecuteRunResponse | None = None  # with the record, once it is final

    # ------------------------------------------------------------------ work

    def begin(self, work: Work, deadline: float | None) -> None:
        """Sets the work, and the loop time from which on the run fails with DEADLINE_EXCEEDED."""
        self._work = work
        # Nobody can come back to the events of such a run once it has ended and its readers are gone.
        self._volatile = self._policy == DISCONNECT_POLICY_CANCEL and self.idempotency_key is None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._deadline_timer = loop.call_at(deadline + DEADLINE_SLACK_SECONDS, self._expire)

    def abandon(self) -> None:
        """Takes back `begin`: the work was refused, and no event was appended."""
        self._work = None
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()

    @property
    def ended(self) -> bool:
        """Whether the terminal event was appended."""
        return self.log.closed

    def append(self, batch: EventBatch) -> None:
        """Appends events of the work."""
        self.log.append(batch)

    def complete(self, batch: EventBatch, outcome: RunCompleted | None = None) -> None:
        """Ends the run well; the batch holds the last events before the terminal one, if any."""
        completed = batch.events.add().run_completed
        completed.SetInParent() if outcome is None else completed.CopyFrom(outcome)
        self._end(batch)

    @property
    def unseen(self) -> bool:
        """Whether nobody sees the events of the run, nor ever will if it ends now."""
        return self._volatile and not self.log.subscriptions

    def complete_unseen(
        self, batch: EventBatch | None, usage: Usage, unwritten: int, outcome: RunCompleted | None = None
    ) -> None:
        """Ends an unseen run well; see `EventLog.complete`."""
        if not self.log.closed:
            self._drop_work()
            self.log.complete(batch, usage, unwritten, outcome)
            self._after_end()

    def complete_whole(self, text: str, finish_reason: FinishReason, usage: bytes, charge: bytes = b"") -> bool:
        """Ends the run well with the whole answer of its only choice, whose events are not even written.

        Args:
            text: What the model said.
            finish_reason: Why it ended.
            usage: What was consumed, in the wire form of a `Usage`.
            charge: What it cost, in the wire form of a `Charge`; empty where nothing is charged.

        Returns:
            Whether that was possible: nobody ever saw an event nor will, and the record says nothing out of the common.
        """
        log = self.log
        opening = log.opening
        if opening is None or not self._volatile or self.labels or log.closed:
            return False
        model, step, rate_state, _ = opening
        if step.dropped_params or step.emulated_features:
            return False
        self._drop_work()
        now = time_ns()
        record = encode_record(self.id, self.create_micros, now, model, step, text, finish_reason, usage, charge)
        if rate_state is not None:
            record += encode_rate_state(rate_state)
        self._response, self.response_size = response_of(record)
        self.whole_record = record
        self.outcome = WholeFold(self._response.run, step.provider, now)
        log.complete_whole(EVENTS)
        self._on_end(self)
        self._tell_waiters()
        return True

    def fail(self, failure: Failure) -> None:
        """Ends the run with a failure and stops its work."""
        batch = self._final_batch()
        batch.events.add().run_failed.failure.CopyFrom(failure)
        self._end(batch, stop=True)

    def cancel(self, reason: CancelReason) -> None:
        """Ends the run, unless it has ended, and stops its work."""
        batch = self._final_batch()
        batch.events.add().run_cancelled.reason = reason
        self._end(batch, stop=True)

    def _final_batch(self) -> EventBatch:
        batch = EventBatch()
        if self._work is not None and not self.ended:
            try:
                self._work.final_events(batch)
            except Exception:  # whatever it is, the run ends
                logger.exception("what a run consumed could not be told", run_id=self.id)
                return EventBatch()
        return batch

    def _end(self, batch: EventBatch, *, stop: bool = False) -> None:
        if self.log.closed:
            return
        work = self._drop_work()
        if self.unseen:
            self.log.conclude(batch)
        else:
            self.log.append(batch, close=True)
        if stop and work is not None:
            work.cancel()
        self._after_end()

    def _drop_work(self) -> Work | None:
        """Lets go of the work and of the timers that would end it."""
        work, self._work = self._work, None
        if self._detach_timer is not None:
            self._detach_timer.cancel()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        return work

    def _after_end(self) -> None:
        self._response = ExecuteRunResponse()
        self.outcome = self.log.fold
        self._fill_record(self._response.run)
        self._on_end(self)
        self._settle()
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            try:
                waiter()
            except Exception:  # it is its own fault: the others are told
                logger.exception("the end of a run could not be told", run_id=self.id)

    def _settle(self) -> None:
        """Lets go of the events of a run that nobody can come back to, once it has ended and its readers are gone."""
        if self._volatile and self._response is not None and not self.log.subscriptions:
            nothing = self.log.last_sequence + 1
            if self.log.first_sequence != nothing:  # the record says otherwise; a copy: others may have it already
                self._response = ExecuteRunResponse(run=self._response.run)
                self._response.run.first_available_sequence = nothing
            self.response_size = self._on_settled(self)

    def _expire(self) -> None:
        message = "the deadline of the run is over; ask for less, or allow more time"
        self.fail(DeadlineExceeded(message, metadata={"run_id": self.id}).to_failure())

    # ------------------------------------------------------------------ callers and watchers

    def add_caller(self) -> None:
        """Counts a caller: ExecuteRun and StreamRun, for as long as they last."""
        self._callers += 1
        if self._detach_timer is not None:
            self._detach_timer.cancel()
            self._detach_timer = None

    def remove_caller(self) -> None:
        """Takes note that a caller has gone; when it was the last one, the disconnect policy acts."""
        self._callers -= 1
        if self._callers == 0 and not self.log.closed:
            self.left_alone()

    def left_alone(self) -> None:
        """Applies the disconnect policy: no caller is there."""
        loop = asyncio.get_running_loop()
        timer = self._deadline_timer
        if timer is not None and timer.when() - loop.time() <= 2 * DEADLINE_SLACK_SECONDS:
            self._expire()
        elif self._policy == DISCONNECT_POLICY_CANCEL:
            self.cancel(CANCEL_REASON_DISCONNECTED)
        elif self._policy == DISCONNECT_POLICY_DETACH_FOR:
            self._detach_timer = loop.call_later(self._detach_ttl, self.cancel, CANCEL_REASON_DISCONNECTED)

    def watch(self, watcher: Watcher, after_sequence: int) -> Subscription:
        """Attaches a watcher; see `EventLog.subscribe`."""
        subscription = self.log.subscribe(watcher, after_sequence)
        self._balance()
        return subscription

    def unwatch(self, subscription: Subscription) -> None:
        """Detaches a watcher that leaves by itself. Repeatable."""
        self._forget_hold(subscription)
        subscription.detach()
        self._balance()
        self._settle()

    def hold(self, subscription: Subscription) -> None:
        """A reader is slow: its deliveries stop, and the work with them if nobody else needs it to go on."""
        if subscription.closed or subscription in self._held:
            return
        subscription.hold()
        loop = asyncio.get_running_loop()
        self._held[subscription] = loop.call_later(self._limits.slow_reader_timeout, self._give_up_on, subscription)
        self._balance()

    def release(self, subscription: Subscription) -> None:
        """A slow reader has caught up."""
        if self._forget_hold(subscription):
            subscription.release()
            self._balance()

    def _give_up_on(self, subscription: Subscription) -> None:
        self._held.pop(subscription, None)
        seconds = self._limits.slow_reader_timeout
        error = WatcherTooSlow(
            f"the reader of run {self.id} took nothing for {seconds:g} s; resume after the last event that it has",
            metadata={"run_id": self.id},
        )
        subscription.drop(error)
        self._balance()

    def _forget_hold(self, subscription: Subscription) -> bool:
        timer = self._held.pop(subscription, None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def _balance(self) -> None:
        """Pauses the work while its only reader, the sole caller of a CANCEL run, is slow; else lets it go on."""
        readers = self.log.subscriptions
        pause = (
            len(readers) == 1 and readers[0].held and self._callers == 1 and self._policy == DISCONNECT_POLICY_CANCEL
        )
        if pause != self._paused and self._work is not None:
            self._paused = pause
            (self._work.pause if pause else self._work.resume)()

    # ------------------------------------------------------------------ record

    async def wait_ended(self) -> None:
        """Returns when the run has ended."""
        if self._response is None:
            future = asyncio.get_running_loop().create_future()
            self.when_ended(lambda: None if future.done() else future.set_result(None))
            await future

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Has a callback called as soon as the run has ended: within the end, or now. It must not raise."""
        if self._response is not None:
            callback()
        else:
            self._waiters.append(callback)

    @property
    def failed_unseen(self) -> bool:
        """Whether the run ended so that the same request id may be used again: nothing of it was worth keeping."""
        outcome = self.outcome
        if outcome.state == Run.STATE_CANCELLED:
            return outcome.cancel_reason == CANCEL_REASON_DISCONNECTED
        return outcome.state == Run.STATE_FAILED and not outcome.has_content

    def record(self) -> Run:
        """Returns the record so far. That of a finished run is shared: reading is free, changing it is forbidden."""
        if self._response is not None:
            return self._response.run
        run = Run()
        self._fill_record(run)
        return run

    def response(self) -> ExecuteRunResponse:
        """Returns the record of a run that has ended as the answer to who executed it; it is shared, too."""
        if self._response is None:
            raise AssertionError("the run goes on")
        return self._response

    def _fill_record(self, run: Run) -> None:
        run.id = self.id
        created = run.create_time
        created.seconds, micros = divmod(self.create_micros, 1_000_000)
        created.nanos = micros * 1000
        if self.labels:
            run.labels.update(self.labels)
        self.log.fold.fill(run)
        run.first_available_sequence = self.log.first_sequence


def internal_failure(error: BaseException) -> Failure:
    """Returns what a run fails with when this server is at fault; the details go to the log, not to the client."""
    message = f"an internal error ended the run ({type(error).__name__}); the server's log has the details"
    return DragomanError(message, reason=Reason.INTERNAL).to_failure()
