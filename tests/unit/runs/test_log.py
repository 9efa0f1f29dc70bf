from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.event_pb2 import RunEvent, TextDelta
from dragoman.v1.message_pb2 import Citation
from dragoman.v1.run_pb2 import Run
from dragoman_server.errors import EventsEvicted, WatcherTooSlow
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.wire import sole_text
from dragoman_server.runs.fold import Step, fold
from dragoman_server.runs.log import EVENTS_PER_TURN, EventLog, Subscription
from dragoman_server.runs.retention import Budget
from dragoman_server.settings import RunSettings
from tests.support.runs import Collector, TextCollector, text_batch


def make_log(limit: int = 1 << 30, **settings: int) -> EventLog:
    return EventLog("run_1", RunSettings(**settings), Budget(limit))


def end(log: EventLog) -> None:
    batch = EventBatch()
    batch.events.add().run_completed.SetInParent()
    log.append(batch, close=True)


def test_sequences_start_at_one_and_have_no_gaps() -> None:
    log, watcher = make_log(), Collector()
    log.subscribe(watcher, 0)
    log.append(text_batch("a", "b"))
    log.append(text_batch("c"))
    end(log)
    assert watcher.sequences == [1, 2, 3, 4]
    assert watcher.closed == 1
    assert watcher.error is None
    assert all(event.event_time.seconds > 1_600_000_000 for event in watcher.events)
    assert {batch.run_id for batch in watcher.batches} == {"run_1"}


def test_nothing_follows_the_terminal_event() -> None:
    log, watcher = make_log(), Collector()
    end(log)
    log.append(text_batch("late"))
    log.subscribe(watcher, 0)
    assert watcher.kinds == ["run_completed"]


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    after=st.integers(0, 60),
    joins_at=st.integers(0, 12),
)
def test_replay_then_follow_has_no_gap_and_no_duplicate(sizes: list[int], after: int, joins_at: int) -> None:
    log, watcher = make_log(), Collector()
    joined = False
    for number, size in enumerate([*sizes, 0]):
        if number == min(joins_at, len(sizes)):
            after = min(after, log.last_sequence)
            log.subscribe(watcher, after)
            joined = True
        if size:
            log.append(text_batch(*(f"{number}." for _ in range(size))))
    end(log)
    assert joined
    assert watcher.sequences == list(range(after + 1, sum(sizes) + 2))


def test_the_ring_is_bounded_by_count_and_says_what_is_left() -> None:
    log = make_log(ring_events=4)
    for number in range(10):
        log.append(text_batch(str(number)))
    assert log.first_sequence == 7
    watcher = Collector()
    log.subscribe(watcher, 6)
    assert watcher.text == "6789"
    with pytest.raises(EventsEvicted) as caught:
        log.subscribe(Collector(), 5)
    assert caught.value.metadata["first_available_sequence"] == "7"
    assert log.fold.last_sequence == 10


def test_the_ring_is_bounded_by_bytes_and_keeps_the_newest_batch() -> None:
    budget = Budget(1 << 30)
    log = EventLog("run_1", RunSettings(ring_bytes=1000), budget)
    for _ in range(5):
        log.append(text_batch("x" * 400))
    assert 400 < budget.used <= 1000
    log.append(text_batch("y" * 5000))
    assert log.first_sequence == log.last_sequence == 6


def test_an_offset_beyond_the_newest_event_is_refused() -> None:
    log = make_log()
    log.append(text_batch("a"))
    with pytest.raises(EventsEvicted):
        log.subscribe(Collector(), 2)


def test_a_held_watcher_catches_up_when_released() -> None:
    log, watcher = make_log(), Collector()
    subscription = log.subscribe(watcher, 0)
    log.append(text_batch("a"))
    subscription.hold()
    log.append(text_batch("b"))
    log.append(text_batch("c"))
    assert watcher.text == "a"
    subscription.release()
    assert watcher.text == "abc"


def test_a_watcher_that_falls_out_of_the_ring_is_told_so() -> None:
    log, slow, quick = make_log(ring_events=2), Collector(), Collector()
    subscription = log.subscribe(slow, 0)
    log.subscribe(quick, 0)
    subscription.hold()
    for number in range(5):
        log.append(text_batch(str(number)))
    subscription.release()
    assert isinstance(slow.error, WatcherTooSlow)
    assert slow.closed == 1
    assert quick.text == "01234"
    log.append(text_batch("5"))
    assert quick.text == "012345"


class Reentrant(Collector):
    """A watcher that acts on the log from inside a delivery."""

    def __init__(self, log: EventLog, at: int, action: str) -> None:
        super().__init__()
        self.log = log
        self.at = at
        self.action = action
        self.subscription: Subscription | None = None

    def on_batch(self, batch: EventBatch, size: int) -> None:
        super().on_batch(batch, size)
        if self.at in [event.sequence for event in batch.events]:
            match self.action:
                case "append":
                    self.log.append(text_batch("!"))
                case "close":
                    end(self.log)
                case "leave" if self.subscription:
                    self.subscription.detach()


@pytest.mark.parametrize("action", ["append", "close", "leave"])
@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("position", [0, 1, 2])
def test_reentering_deliveries_keep_every_other_watcher_whole(action: str, at: int, position: int) -> None:
    log = make_log()
    watchers: list[Collector] = [Collector(), Collector()]
    acting = Reentrant(log, at, action)
    watchers.insert(position, acting)
    for watcher in watchers:
        subscription = log.subscribe(watcher, 0)
        if watcher is acting:
            acting.subscription = subscription
    for number in range(6):
        log.append(text_batch(str(number)))
    end(log)
    for watcher in watchers:
        if watcher is acting and action == "leave":
            assert watcher.sequences == list(range(1, at + 1))
            assert watcher.closed == 0
        else:
            assert watcher.sequences == list(range(1, log.last_sequence + 1))
            assert watcher.closed == 1
            assert watcher.kinds[-1] == "run_completed"


def test_a_watcher_that_is_detached_by_another_hears_nothing_more() -> None:
    log, second = make_log(), Collector()

    class Detaching(Collector):
        def on_batch(self, batch: EventBatch, size: int) -> None:
            super().on_batch(batch, size)
            if len(self.batches) == 2:
                subscription.detach()

    log.subscribe(Detaching(), 0)
    subscription = log.subscribe(second, 0)
    log.append(text_batch("a"))
    log.append(text_batch("b"))
    log.append(text_batch("c"))
    assert second.text == "a"


async def test_a_long_backlog_comes_in_turns_and_whole() -> None:
    log, watcher = make_log(), Collector()
    for _ in range(3 * EVENTS_PER_TURN):
        log.append(text_batch("x"))
    end(log)
    log.subscribe(watcher, 0)
    first_share = len(watcher.events)
    assert EVENTS_PER_TURN <= first_share < 2 * EVENTS_PER_TURN
    while not watcher.closed:
        await asyncio.sleep(0)
    assert watcher.sequences == list(range(1, log.last_sequence + 1))


def test_a_budget_counts_what_is_kept() -> None:
    budget = Budget(1 << 20)
    log = EventLog("run_1", RunSettings(ring_events=3), budget)
    for _ in range(10):
        log.append(text_batch("x" * 100))
    assert 300 < budget.used < 1000
    log.clear()
    assert budget.used == 0
    assert log.first_sequence == log.last_sequence + 1


def test_the_last_events_of_an_unseen_log_are_folded_and_not_kept() -> None:
    budget = Budget(1 << 20)
    log = EventLog("run_1", RunSettings(), budget)
    log.append(text_batch("a"))
    last = text_batch("b", "c")
    last.events.add().run_completed.SetInParent()
    log.conclude(last)
    assert log.closed
    assert budget.used == 0
    assert (log.fold.last_sequence, log.first_sequence, log.last_sequence) == (4, 5, 4)
    assert log.fold.end_time is not None
    assert log.fold.end_time.seconds > 1_600_000_000
    with pytest.raises(EventsEvicted):
        log.subscribe(Collector(), 0)
    log.append(text_batch("late"))
    assert log.last_sequence == 4


@given(
    st.lists(
        st.builds(
            lambda text, index, stop: RunEvent(
                text_delta=TextDelta(text=text, choice_index=index, citations=[Citation(url="u")] if stop else [])
            ),
            st.text(max_size=40),
            st.integers(0, 1),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_text_is_appended_as_anything_else(events: list[RunEvent]) -> None:
    short, general = make_log(), make_log()
    seen, expected = Collector(), Collector()
    short.subscribe(seen, 0)
    general.subscribe(expected, 0)
    for event in events:
        if text := sole_text(EventBatch(events=[event])):
            short.append_text(text)
        else:
            assert event.text_delta.text == "" or event.text_delta.choice_index or event.text_delta.citations
            short.append(EventBatch(events=[event]))
        general.append(EventBatch(events=[event]))
    assert short.last_sequence == general.last_sequence == len(events)
    for one, other in zip(seen.batches, expected.batches, strict=True):
        assert one.run_id == other.run_id
        assert one.events[0].event_time.seconds > 1_600_000_000
        for batch in (one, other):
            batch.events[0].ClearField("event_time")
        assert one == other
    records = Run(), Run()
    short.fold.fill(records[0])
    general.fold.fill(records[1])
    assert records[0] == records[1]


@given(
    appended=st.lists(st.lists(st.sampled_from(["a", "bc", "ü"]), max_size=3), max_size=12),
    joins_at=st.integers(0, 12),
    after=st.integers(0, 40),
    most=st.sampled_from([0, 47, 1 << 20]),
)
def test_who_takes_text_without_batches_gets_what_everyone_gets(
    appended: list[list[str]], joins_at: int, after: int, most: int
) -> None:
    log = make_log()
    taker, other = TextCollector(most), Collector()
    for number, texts in enumerate([*appended, []]):
        if number == min(joins_at, len(appended)):
            for watcher in (taker, other):
                log.subscribe(watcher, min(after, log.last_sequence))
        if len(texts) == 1:
            log.append_text(texts[0])
        elif texts:
            log.append(text_batch(*texts))
    end(log)
    assert (taker.sequences, taker.text, taker.kinds) == (other.sequences, other.text, other.kinds)
    assert taker.closed == other.closed == 1
    assert all(event.event_time.seconds > 1_600_000_000 for event in other.events)
    assert all(batch.run_id == "run_1" for batch in other.batches)
    sizes = {text_batch(text).ByteSize() for text in taker.texts}
    assert not sizes or (max(sizes) < min(taker.sizes) and max(taker.sizes) <= most)


def test_a_watcher_that_takes_text_may_hold_and_catch_up() -> None:
    log, watcher = make_log(), TextCollector()
    subscription = log.subscribe(watcher, 0)
    log.append_text("a")
    subscription.hold()
    log.append_text("b")
    log.append(text_batch("c", "d"))
    log.append_text("e")
    assert watcher.text == "a"
    subscription.release()
    end(log)
    assert watcher.text == "abcde"
    assert watcher.texts == ["a", "b", "e"]
    assert watcher.sequences == [1, 2, 3, 4, 5, 6]


def test_watchers_hear_sizes_that_are_little_too_large() -> None:
    sizes: list[int] = []
    log = EventLog("run_" + "0" * 32, RunSettings(), Budget(1 << 30))

    class Sizes(Collector):
        def on_batch(self, batch: EventBatch, size: int) -> None:
            super().on_batch(batch, size)
            sizes.append(size - batch.ByteSize())

    log.subscribe(Sizes(), 0)
    for text in ("a", "é" * 300, "b" * 70_000, "c" * 2_100_000):
        log.append_text(text)
    log.append(text_batch("d", "e"))
    assert all(0 <= size < 64 for size in sizes)
    assert len(sizes) == 5


def test_the_beginning_is_written_when_somebody_looks() -> None:
    budget, step = Budget(1 << 20), Step("step_1", "demo", "echo", 1, ("sampling.top_k",), ("tools",))
    log = EventLog("run_1", RunSettings(), budget)
    log.begin("demo/echo", step)
    assert (budget.used, log.first_sequence, log.last_sequence) == (0, 1, 2)
    watcher = Collector()
    log.subscribe(watcher, 0)
    assert watcher.kinds == ["run_started", "step_started"]
    assert budget.used > 0
    log.append(text_batch("x"))
    assert [event.sequence for event in watcher.events] == [1, 2, 3]
    told, direct = fold(watcher.events), Run()
    log.fold.fill(direct)
    assert told == direct
