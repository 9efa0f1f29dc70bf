"""The event log of a run: numbering, a bounded ring of batches, and delivery to watchers.

Appending is synchronous and delivers in the same call chain. It may re-enter: a watcher that leaves, or a run that is
cancelled from inside a delivery, appends or detaches while the outer append is still delivering. Hence one rule: only
the outermost call delivers, and it goes on until every watcher has everything.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from dragoman_server.errors import WatcherTooSlow
from dragoman_server.providers.base import EventBatch
from dragoman_server.runs.finished import evicted
from dragoman_server.runs.fold import Fold

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.event_pb2 import RunCompleted
    from dragoman.v1.usage_pb2 import RateState, Usage
    from dragoman_server.errors import DragomanError
    from dragoman_server.runs.fold import Step
    from dragoman_server.runs.retention import Budget
    from dragoman_server.settings import RunSettings
    from dragoman_server.telemetry.streams import StreamMeter


class Watcher(Protocol):
    """Receives the events of a log: a sink, so it never raises, never blocks and never calls back into the run."""

    def on_batch(self, batch: EventBatch, size: int) -> None:
        """Takes the next events, and the size of their batch in bytes, which may be stated a little too large.

        The batch is shared: reading is free, changing it is forbidden.
        """

    def on_closed(self, error: DragomanError | None) -> None:
        """Takes the end, once and last: None after the terminal event, else why the watcher was dropped."""


class TextWatcher(Watcher, Protocol):
    """A watcher that takes text without a message around it: nobody writes what nobody reads."""

    @property
    def on_text(self) -> Callable[[str, int, int], bool] | None:
        """Takes a piece of text in place of its batch: the text, its sequence, the size that its batch would have.

        It returns whether it took the text; if not, and if there is None here, the watcher gets the batch.
        """


EVENTS_PER_TURN = 256
"""Most events of a backlog that one watcher gets before others have their turn."""

TEXT_BATCH_BYTES = 40
"""What a batch of one piece of ASCII text takes beyond the text and the run's id, at most, in bytes."""

Opening = tuple[str, "Step", "RateState | None", int]
"""What the first two events say: the model, the step, what is left of the caller's limits, and when it was."""

_Entry = tuple[int, int, int, EventBatch | str, int]
"""A batch in the ring: its first and last sequence, its size in bytes (at least), itself, and when it was appended.

One of plain text is just that text, until somebody wants the batch. The time is in nanoseconds since the epoch.
"""


_NOTHING: deque[_Entry] = deque(maxlen=0)
"""The ring of a log of which no event is written yet: most runs never need one."""


class Subscription:
    """A watcher's place in a log."""

    __slots__ = ("closed", "held", "log", "next_sequence", "on_text", "watcher")

    def __init__(self, log: EventLog, watcher: Watcher | TextWatcher, next_sequence: int) -> None:
        self.log = log
        self.watcher = watcher
        self.on_text: Callable[[str, int, int], bool] | None = getattr(watcher, "on_text", None)
        self.next_sequence = next_sequence
        self.held = False
        self.closed = False

    def hold(self) -> None:
        """Stops deliveries until `release`; the watcher may meanwhile fall out of the ring."""
        self.held = True

    def release(self) -> None:
        """Lifts `hold`, and delivers what has come up."""
        self.held = False
        if not self.closed:
            self.log.deliver()

    def drop(self, error: DragomanError | None) -> None:
        """Ends the subscription, telling the watcher why. Repeatable."""
        if not self.closed:
            self.detach()
            self.watcher.on_closed(error)

    def detach(self) -> None:
        """Ends the subscription from the watcher's side: it hears nothing more. Repeatable."""
        if not self.closed:
            self.closed = True
            self.log.subscriptions = tuple(other for other in self.log.subscriptions if other is not self)


class EventLog:
    """The events of one run.

    Attributes:
        opening: What the first two events say, until they or any others are written.
        last_sequence: Sequence of the newest event; 0 if there is none.
        first_sequence: Sequence of the oldest event in the ring; `last_sequence + 1` if the ring is empty.
        subscriptions: Who watches.
        closed: Whether the terminal event was appended.
        meter: Measures how the events flow, if anything does.
    """

    __slots__ = (
        "_again",
        "_budget",
        "_bytes",
        "_delivering",
        "_fold",
        "_limits",
        "_ring",
        "closed",
        "first_sequence",
        "last_sequence",
        "meter",
        "opening",
        "run_id",
        "subscriptions",
    )

    def __init__(self, run_id: str, limits: RunSettings, budget: Budget) -> None:
        self.run_id = run_id
        self.last_sequence = 0
        self.first_sequence = 1
        self.subscriptions: tuple[Subscription, ...] = ()  # replaced, never changed: deliveries iterate over it
        self.closed = False
        self.meter: StreamMeter | None = None
        self._limits = limits
        self._budget = budget
        self._fold: Fold | None = None  # until an event is written, or somebody asks
        self._ring = _NOTHING
        self._bytes = 0
        self.opening: Opening | None = None
        self._delivering = False
        self._again = False

    def begin(self, model: str, step: Step, rate_state: RateState | None = None) -> None:
        """Does what `append` does for the first two events, but writes them only when they are needed."""
        self.opening = (model, step, rate_state, time.time_ns())
        self.last_sequence = 2

    @property
    def fold(self) -> Fold:
        """The state that all events so far amount to."""
        if self._fold is None and self.closed:
            raise AssertionError("the answer came whole: there are no events, and the record is complete")
        return self._fold or self._open()

    def append(self, batch: EventBatch, *, close: bool = False) -> None:
        """Numbers, stamps and folds the events of a batch, keeps it and delivers it. Takes the batch over.

        Args:
            batch: One or more events. Ignored if the log is closed: nothing follows a terminal event.
            close: Whether the last event is terminal.
        """
        if self.closed:
            return
        fold = self._fold or self._open()
        batch.run_id = self.run_id
        first = self.last_sequence + 1
        sequence = self.last_sequence
        now = time.time_ns()
        seconds, nanos = now // 1_000_000_000, now % 1_000_000_000
        events = batch.events[:]  # a slice: iterating over the field itself costs twice as much
        for event in events:
            sequence += 1
            event.sequence = sequence
            stamp = event.event_time
            stamp.seconds = seconds
            stamp.nanos = nanos
        fold.apply(events)
        if self.meter is not None and not close:
            self.meter.appended(now, fold)
        self.closed = close
        self._keep(first, sequence, batch.ByteSize(), batch, now)

    def append_text(self, text: str) -> None:
        """Does what `append` does for one piece of text of the first choice, which nearly all of a stream are."""
        if self.closed:
            return
        fold = self._fold or self._open()
        sequence = self.last_sequence + 1
        now = time.time_ns()
        fold.add_text(text)
        fold.last_sequence = sequence
        if self.meter is not None:
            self.meter.appended(now, fold)
        size = (len(text) if text.isascii() else len(text.encode())) + len(self.run_id) + TEXT_BATCH_BYTES
        self._keep(sequence, sequence, size, text, now)

    def first_content_ms(self, start_micros: int, duration_ms: int) -> int:
        """Returns when the first content came, in milliseconds since a time; 0 if there was none.

        Where nobody read along, all of the answer came at its end.
        """
        if self._fold is not None and not self._fold.has_content:  # without a fold, the answer came whole
            return 0
        if self.meter is None or not self.meter.first_content:
            return duration_ms
        return max(0, (self.meter.first_content // 1000 - start_micros) // 1000)

    def _open(self) -> Fold:
        """Makes the fold and the ring, with the events of `begin`, as of then."""
        self._ring = deque()
        opening = self.opening
        fold = self._begun_fold()
        if opening is not None:
            self._write_opening(opening)
        return fold

    def _begun_fold(self) -> Fold:
        fold = self._fold = Fold()
        opening, self.opening = self.opening, None
        if opening is not None:
            fold.begin(*opening[:3])
        return fold

    def _write_opening(self, opening: Opening) -> None:
        model, step, rate_state, now = opening
        batch = EventBatch(run_id=self.run_id)
        started = batch.events.add().run_started
        started.model = model
        if rate_state is not None:
            started.rate_state.CopyFrom(rate_state)
        step.write(batch.events.add().step_started)
        for sequence, event in enumerate(batch.events, 1):
            event.sequence = sequence
            event.event_time.seconds, event.event_time.nanos = divmod(now, 1_000_000_000)
        self._keep(1, 2, batch.ByteSize(), batch, now)

    def _keep(self, first: int, last: int, size: int, batch: EventBatch | str, now: int) -> None:
        """Puts a batch into the ring, and delivers it."""
        self.last_sequence = last
        self._ring.append((first, last, size, batch, now))
        self._bytes += size
        budget = self._budget
        budget.used += size  # as `Budget.take`, without the call
        if budget.used > budget.limit:
            budget.enforce()
        if self._bytes > self._limits.ring_bytes or last - self.first_sequence >= self._limits.ring_events:
            self._evict()
        if self.subscriptions:
            self.deliver()

    def conclude(self, batch: EventBatch) -> None:
        """Appends the last events of a log that nobody watches or can come back to: they are folded and not kept."""
        fold = self._fold or self._begun_fold()
        sequence = self.last_sequence
        events = batch.events[:]
        stamp = events[-1].event_time
        stamp.seconds, stamp.nanos = divmod(time.time_ns(), 1_000_000_000)
        for event in events:
            sequence += 1
            event.sequence = sequence
        fold.apply(events)
        self.last_sequence = sequence
        self.closed = True
        self.clear()

    def complete(
        self, batch: EventBatch | None, usage: Usage, unwritten: int, outcome: RunCompleted | None = None
    ) -> None:
        """Does what `conclude` does for the last events of a run that ended well, most of which are not even written.

        Args:
            batch: The last events of the answer itself, if any.
            usage: What the run consumed.
            unwritten: How many events would follow those of the batch, up to the terminal one.
            outcome: What the terminal one would tell, if anything.
        """
        fold = self._fold or self._begun_fold()
        sequence = self.last_sequence + unwritten
        if batch is not None:
            events = batch.events[:]
            fold.apply(events)
            sequence += len(events)
        fold.complete(usage, time.time_ns(), outcome)
        fold.last_sequence = self.last_sequence = sequence
        self.closed = True
        self.clear()

    def complete_whole(self, sequence: int) -> None:
        """Takes note that the run has ended without an event being written, with this sequence as the last."""
        self.opening = None
        self.last_sequence = sequence
        self.first_sequence = sequence + 1
        self.closed = True

    def subscribe(self, watcher: Watcher, after_sequence: int) -> Subscription:
        """Attaches a watcher and delivers what it has missed, within this call.

        Raises:
            EventsEvicted: If the event after `after_sequence` is no longer kept, or lies beyond the next one.
        """
        wanted = after_sequence + 1
        if not self.first_sequence <= wanted <= self.last_sequence + 1:
            raise evicted(self.run_id, wanted, self.first_sequence, self.last_sequence)
        if self.opening is not None:
            self._open()
        subscription = Subscription(self, watcher, wanted)
        self.subscriptions = (*self.subscriptions, subscription)
        self.deliver()
        return subscription

    def deliver(self) -> None:
        """Gives every watcher all that it can take."""
        if self._delivering:
            self._again = True
            return
        self._delivering = True
        try:
            self._again = True
            while self._again:
                self._again = False
                newest = self._ring[-1] if self._ring else None
                for subscription in self.subscriptions:
                    if subscription.held or subscription.closed:  # closed since the loop began
                        continue
                    if newest is not None and subscription.next_sequence == newest[0]:
                        self._give(subscription, newest)  # it has everything else: nearly always
                    if self.closed or subscription.next_sequence <= self.last_sequence:
                        self._pump(subscription)
        finally:
            self._delivering = False

    def clear(self) -> None:
        """Lets go of all kept events; the fold stays. Watchers that still lag are dropped."""
        self._ring.clear()
        self._budget.give(self._bytes)
        self._bytes = 0
        self.first_sequence = self.last_sequence + 1
        if self.subscriptions:
            self.deliver()

    def trim(self) -> None:
        """Lets go of all kept events but the newest batch."""
        while len(self._ring) > 1:
            self._evict_oldest()

    def _pump(self, subscription: Subscription) -> None:
        """Delivers to one watcher until it has all, holds, left, or had its share of this turn of the loop."""
        share = subscription.next_sequence + EVENTS_PER_TURN
        while not subscription.held and not subscription.closed:
            wanted = subscription.next_sequence
            if wanted > self.last_sequence:
                if self.closed:
                    subscription.drop(None)
                return
            if wanted < self.first_sequence:
                subscription.drop(self._too_slow(wanted))
                return
            if wanted > share:
                asyncio.get_running_loop().call_soon(self.deliver)
                return
            entry = self._ring[-1]
            if wanted != entry[0]:
                entry = self._find(wanted)
            self._give(subscription, entry)

    def _give(self, subscription: Subscription, entry: _Entry) -> None:
        """Delivers what a watcher has not got of a batch."""
        first, last, size, batch, now = entry
        wanted = subscription.next_sequence
        subscription.next_sequence = last + 1
        if isinstance(batch, str):
            if (on_text := subscription.on_text) is not None and on_text(batch, last, size):
                return
            batch = self._written(batch, last, now)
        elif wanted != first:
            batch = _tail(batch, wanted - first)
        subscription.watcher.on_batch(batch, size)

    def _written(self, text: str, sequence: int, now: int) -> EventBatch:
        """Returns the batch that a piece of text is."""
        batch = EventBatch(run_id=self.run_id)
        event = batch.events.add()
        event.sequence = sequence
        event.event_time.seconds, event.event_time.nanos = divmod(now, 1_000_000_000)
        event.text_delta.text = text
        return batch

    def _find(self, sequence: int) -> _Entry:
        """Returns the kept entry with a sequence, searching from the newest: a watcher seldom lags far."""
        for entry in reversed(self._ring):
            if entry[0] <= sequence:
                return entry
        raise AssertionError("sequence is kept")  # the caller compared it with first_sequence

    def _evict(self) -> None:
        """Lets go of the oldest batches until the bounds hold; the newest stays, whatever its size."""
        limits = self._limits
        while len(self._ring) > 1 and (
            self._bytes > limits.ring_bytes or self.last_sequence - self.first_sequence >= limits.ring_events
        ):
            self._evict_oldest()

    def _evict_oldest(self) -> None:
        _, last, size, _, _ = self._ring.popleft()
        self._bytes -= size
        self._budget.give(size)
        self.first_sequence = last + 1

    def _too_slow(self, wanted: int) -> WatcherTooSlow:
        return WatcherTooSlow(
            f"the reader of run {self.run_id} fell behind: event {wanted} is no longer kept; "
            f"resume after {self.first_sequence - 1}",
            metadata={"run_id": self.run_id, "first_available_sequence": str(self.first_sequence)},
        )


def _tail(batch: EventBatch, start: int) -> EventBatch:
    """Returns a copy of a batch from an index on."""
    return EventBatch(run_id=batch.run_id, events=batch.events[start:])
