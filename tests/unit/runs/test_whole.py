"""Answers that come whole and unseen: the record is written at once, and says what their events amount to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FINISH_REASON_STOP, FinishReason, RunCompleted, RunEvent
from dragoman.v1.run_pb2 import Run
from dragoman.v1.usage_pb2 import Charge, InputTokenDetails, OutputTokenDetails, RateState, Usage
from dragoman_server.catalog.service import Catalog
from dragoman_server.clock import system_clock
from dragoman_server.credits.rules import Rule
from dragoman_server.errors import Unavailable
from dragoman_server.providers.routing.table import RoutingTable
from dragoman_server.providers.wire import whole_batch
from dragoman_server.runs.admission import Admission
from dragoman_server.runs.fold import Step, fold
from dragoman_server.runs.run import LiveRun
from dragoman_server.runs.service import Runs, StartOptions
from dragoman_server.runs.whole import EVENTS, WholeFold, encode_rate_state, encode_record, response_of
from dragoman_server.settings import LimitSettings, RunSettings
from tests.support.routing import QUICK, Played, PlayedProvider
from tests.support.runs import CALLER, Collector, chat_spec

COUNT = st.integers(0, 2**61)
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
USAGE = st.builds(
    Usage,
    input_tokens=COUNT,
    output_tokens=COUNT,
    input_details=st.none() | st.builds(InputTokenDetails, cached_tokens=COUNT),
    output_details=st.none() | st.builds(OutputTokenDetails, reasoning_tokens=COUNT),
    estimated=st.booleans(),
)
RATE_STATE = st.none() | st.builds(RateState, request_limit=st.integers(0, 9), tokens_remaining=COUNT)
CHARGE = st.none() | st.builds(Charge, currency=st.just("credits"), amount_micros=COUNT)


def told(run_id: str, micros: int, nanos: int, model: str, step: Step, text: str, reason: Any, usage: Usage) -> Run:
    """Returns the record that the events of such a run amount to."""
    events = [RunEvent() for _ in range(EVENTS)]
    events[0].run_started.model = model
    step.write(events[1].step_started)
    events[2].text_delta.text = text
    events[3].choice_finished.finish_reason = reason
    events[4].usage_reported.last_call.CopyFrom(usage)
    events[4].usage_reported.run_total.CopyFrom(usage)
    events[5].step_completed.usage.CopyFrom(usage)
    events[6].run_completed.CopyFrom(RunCompleted())
    events[6].event_time.FromNanoseconds(nanos)
    for sequence, event in enumerate(events, 1):
        event.sequence = sequence
    record = fold(events)
    record.id = run_id
    record.create_time.FromMicroseconds(micros)
    record.first_available_sequence = EVENTS + 1
    return record


@given(
    run_id=st.from_regex(r"\Arun_[0-9a-f]{32}\Z"),
    micros=st.integers(0, 2**34 * 1_000_000),
    nanos=st.integers(0, 2**34 * 1_000_000_000),
    model=NAME,
    step=st.builds(Step, st.just("step_1"), NAME, NAME, st.integers(1, 3), st.just(()), st.just(())),
    text=TEXT,
    times=st.sampled_from([1, 1, 2, 20, 700, 60_000]),
    reason=st.sampled_from(FinishReason.values()),
    usage=USAGE,
    rate_state=RATE_STATE,
    charge=CHARGE,
)
def test_the_record_is_the_fold_of_the_events(
    text: str, times: int, usage: Usage, rate_state: RateState | None, charge: Charge | None, **given: Any
) -> None:
    text *= times
    expected = told(
        given["run_id"], given["micros"], given["nanos"], given["model"], given["step"], text, given["reason"], usage
    )
    record = encode_record(
        given["run_id"],
        given["micros"],
        given["nanos"],
        given["model"],
        given["step"],
        text,
        given["reason"],
        usage.SerializeToString(),
        b"" if charge is None else charge.SerializeToString(),
    )
    if rate_state is not None:
        record += encode_rate_state(rate_state)
        expected.rate_state.CopyFrom(rate_state)
    if charge is not None:
        expected.charge.CopyFrom(charge)
    response, size = response_of(record)
    assert response.run == expected == Run.FromString(record)
    assert len(record) < size
    assert response.ByteSize() <= size
    ended = WholeFold(response.run, expected.provider, expected.end_time.ToNanoseconds())
    assert (ended.state, ended.provider, ended.last_sequence) == (expected.state, expected.provider, EVENTS)
    assert (ended.usage, ended.end_nanos) == (usage, expected.end_time.ToNanoseconds())


def engine(provider: PlayedProvider) -> Runs:
    catalog = Catalog([provider], [], routing=RoutingTable(QUICK, {provider.name: provider}))
    return Runs(RunSettings(), LimitSettings(), catalog, system_clock)


def whole(played: Played, text: str, reason: FinishReason, usage: bytes | None) -> None:
    played.ended = True
    played.sink.on_whole(text, reason, usage)


def in_events(played: Played, text: str, reason: FinishReason, usage: bytes | None) -> None:
    played.sink.on_events(whole_batch(text, reason, usage))
    played.end(None)


KINDS = ("plain", "labelled", "several", "watched", "incremental", "repeatable", "looked_at")


def play(kind: str, answer: Any, text: str, reason: FinishReason, usage: bytes | None) -> tuple[LiveRun, Run, Run]:
    provider = PlayedProvider("played")
    runs = engine(provider)
    spec = chat_spec(model="played/m")
    if kind == "labelled":
        spec.labels["a"] = "b"
    elif kind == "several":
        spec.chat.sampling.choice_count = 2
    request_id = "once" if kind == "repeatable" else ""
    options = StartOptions("ExecuteRun", request_id, incremental=kind == "incremental")
    run = runs.start(CALLER, spec, options)
    run.add_caller()
    if kind == "watched":
        run.watch(Collector(), 0)
    elif kind == "looked_at":
        assert run.record().state == Run.STATE_RUNNING
    for played in provider.played:
        if played.request.choice_index:
            in_batch = whole_batch(text, reason, usage)
            in_batch.events[0].text_delta.choice_index = in_batch.events[1].choice_finished.choice_index = 1
            played.sink.on_events(in_batch)
            played.end(None)
        else:
            answer(played, text, reason, usage)
    assert run.ended
    assert runs.active == 0
    (target,) = [option.target for option in runs._catalog.route(spec.chat, CALLER.grants).options]
    assert (target.in_flight, target.tally.ended) == (0, len(provider.played))
    assert target.latency is not None
    return run, run.record(), runs.get(CALLER, run.id).record()


@settings(max_examples=100)
@given(kind=st.sampled_from(KINDS), text=TEXT, usage=st.none() | USAGE)
async def test_it_is_the_same_whichever_way_an_answer_comes(kind: str, text: str, usage: Usage | None) -> None:
    encoded = None if usage is None else usage.SerializeToString()
    records = []
    for answer in (whole, in_events):
        run, record, kept = play(kind, answer, text, FINISH_REASON_STOP, encoded)
        assert record == kept == run.response().run
        assert run.outcome.state == Run.STATE_COMPLETED
        assert run.outcome.usage == record.usage
        assert run.outcome.last_sequence == record.last_sequence
        assert run.outcome.provider == record.provider
        assert run.outcome.end_nanos == record.end_time.ToNanoseconds()
        assert run.log.first_content_ms(run.create_micros, 17) == 17
        assert (run.log.last_sequence, run.log.first_sequence) == (record.last_sequence, kept.first_available_sequence)
        assert run.whole_record is None or (kind == "plain" and answer is whole)
        records.append(comparable(run))
    assert records[0] == records[1]


async def test_the_short_way_is_taken() -> None:
    run, record, _ = play("plain", whole, "hello", FINISH_REASON_STOP, Usage(input_tokens=1).SerializeToString())
    assert run.whole_record is not None
    assert record.choices[0].message.parts[0].text.text == "hello"
    with pytest.raises(AssertionError):
        _ = run.log.fold


async def test_who_waits_is_told_at_once_and_once() -> None:
    provider = PlayedProvider("played")
    runs = engine(provider)
    run = runs.start(CALLER, chat_spec(model="played/m"), StartOptions("ExecuteRun", incremental=False))
    heard: list[Run] = []
    run.when_ended(lambda: heard.append(run.record()))
    whole(provider.last, "hello", FINISH_REASON_STOP, b"")
    provider.last.sink.on_end(None)
    assert heard == [run.record()]
    assert run.response_size is not None
    assert run.response().ByteSize() <= run.response_size


async def test_an_answer_after_the_end_changes_nothing() -> None:
    provider = PlayedProvider("played")
    runs = engine(provider)
    run = runs.start(CALLER, chat_spec(model="played/m"), StartOptions("ExecuteRun", incremental=False))
    run.cancel(1)  # type: ignore[arg-type]
    whole(provider.last, "hello", FINISH_REASON_STOP, b"")
    assert run.record().state == Run.STATE_CANCELLED
    assert not run.record().choices
    assert runs.active == 0


async def test_a_fault_of_ours_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("a fault")

    monkeypatch.setattr("dragoman_server.runs.run.encode_record", fail)
    run, record, _ = play("plain", whole, "hello", FINISH_REASON_STOP, b"")
    assert record.state == Run.STATE_FAILED
    assert record.failure.reason == Reason.INTERNAL
    assert run.response().run == record


@pytest.mark.parametrize("kind", ["plain", "watched"])
@pytest.mark.parametrize("answer", [whole, in_events])
async def test_who_waits_is_told_whatever_goes_wrong_at_the_end(kind: str, answer: Any) -> None:
    class Failing:
        def run_ended(self, *_: object) -> None:
            raise RuntimeError("a fault")

    def fail() -> None:
        raise RuntimeError("a fault of the first who waits")

    provider = PlayedProvider("played")
    runs = engine(provider)
    runs._metrics = cast("Any", Failing())
    run = runs.start(CALLER, chat_spec(model="played/m"), StartOptions("ExecuteRun", incremental=False))
    if kind == "watched":
        run.watch(Collector(), 0)
    heard: list[Run] = []
    run.when_ended(fail)
    run.when_ended(lambda: heard.append(run.record()))
    answer(provider.last, "hello", FINISH_REASON_STOP, b"")
    assert [record.state for record in heard] == [Run.STATE_COMPLETED]
    assert runs.active == 0


async def test_a_run_ends_even_if_its_usage_cannot_be_added_up() -> None:
    usage = Usage(output_tokens=2**63 - 1).SerializeToString()
    run, record, _ = play("several", in_events, "hello", FINISH_REASON_STOP, usage)
    assert record.failure.reason == Reason.INTERNAL
    assert run.response().run == record


class SettledByTest:
    """A hold whose charge the test tells."""

    output_tokens = 1000

    def __init__(self) -> None:
        self.asked: list[tuple[Usage | None, str]] = []
        self.then: list[Callable[[Charge | BaseException], None]] = []

    def pay(self, usage: Usage) -> None:
        """Has to be waited for."""

    def settle_then(self, usage: Usage | None, rule: str, then: Callable[[Charge | BaseException], None]) -> None:
        self.asked.append((usage, rule))
        self.then.append(then)


class Granted:
    """A place within limits."""

    state = RateState(request_limit=10, requests_remaining=3)

    def __init__(self) -> None:
        self.ended: list[int] = []

    def end(self, tokens: int) -> None:
        self.ended.append(tokens)


USED = Usage(input_tokens=30, output_tokens=4)
PAID = Charge(currency="credits", amount_micros=70)


def admitted(answer: Any, *, hold: SettledByTest | None = None, slot: Granted | None = None) -> tuple[Runs, LiveRun]:
    """Starts a run that was admitted, and answers it."""
    provider = PlayedProvider("played")
    runs = engine(provider)
    spec = chat_spec(model="played/m")
    admission = Admission()
    admission.chat, admission.route = spec.chat, runs._catalog.route(spec.chat, CALLER.grants)
    admission.hold, admission.slot = cast("Any", hold), cast("Any", slot)
    run = runs.start(CALLER, spec, StartOptions("ExecuteRun", incremental=False), admission=admission)
    run.add_caller()
    answer(provider.last, "hello", FINISH_REASON_STOP, USED.SerializeToString())
    return runs, run


def comparable(run: LiveRun) -> Run:
    record = Run()
    record.CopyFrom(run.record())
    for field in ("id", "create_time", "end_time"):
        record.ClearField(field)
    return record


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("paid", [False, True])
async def test_what_was_admitted_is_settled_first(paid: bool, limited: bool) -> None:
    records = []
    for answer in (whole, in_events):
        hold, slot = SettledByTest() if paid else None, Granted() if limited else None
        runs, run = admitted(answer, hold=hold, slot=slot)
        if hold is not None:
            assert not run.ended
            assert hold.asked == [(USED, Rule.COMPLETED)]
            hold.then[0](PAID)
        assert run.ended
        assert run.record() == runs.get(CALLER, run.id).record()
        assert (run.whole_record is not None) == (answer is whole)
        assert run.record().HasField("charge") == paid
        assert run.record().HasField("rate_state") == limited
        assert slot is None or slot.ended == [34]
        records.append(comparable(run))
    assert records[0] == records[1]


@pytest.mark.parametrize("end", ["no database", "cancelled", "watched", "looked at"])
async def test_what_happens_while_it_is_settled(end: str) -> None:
    records = []
    for answer in (whole, in_events):
        hold = SettledByTest()
        runs, run = admitted(answer, hold=hold)
        collector = Collector()
        match end:
            case "no database":
                hold.then[0](Unavailable("the database does not answer"))
            case "cancelled":
                run.remove_caller()
            case "watched":
                run.watch(collector, 0)
                hold.then[0](PAID)
                assert collector.text == "hello"
                assert len(collector.events) == EVENTS
            case "looked at":
                assert run.record().state == Run.STATE_RUNNING
                hold.then[0](PAID)
        assert run.ended
        assert runs.active == 0
        assert run.record().usage == USED
        assert run.record().choices[0].message.parts[0].text.text == "hello"
        assert run.whole_record is None
        records.append(comparable(run))
    assert records[0] == records[1]
