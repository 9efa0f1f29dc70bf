"""Whole answers that are paid for: the run ends when the charge is written, and says what its events would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FINISH_REASON_STOP, CancelReason
from dragoman.v1.run_pb2 import Run
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import InvalidRequest, Unavailable
from dragoman_server.providers.wire import whole_batch
from dragoman_server.runs.service import StartOptions
from dragoman_server.store.ledger.records import CHARGE, Spend
from tests.support.credits import available, check_sums, held
from tests.support.paid_runs import PLENTY, Site
from tests.support.routing import Played
from tests.support.runs import CALLER, Collector, chat_spec

ANSWER = "one two"
USAGE = Usage(input_tokens=3, output_tokens=2)
COST = 100 + 3 + 2 * 2
KINDS = ("plain", "labelled", "watched", "repeatable", "incremental")


def whole(played: Played) -> None:
    played.ended = True
    played.sink.on_whole(ANSWER, FINISH_REASON_STOP, USAGE.SerializeToString())


def in_events(played: Played) -> None:
    played.sink.on_events(whole_batch(ANSWER, FINISH_REASON_STOP, USAGE.SerializeToString()))
    played.end(None)


def comparable(record: Run) -> Run:
    copy = Run()
    copy.CopyFrom(record)
    for field in ("id", "create_time", "end_time"):
        copy.ClearField(field)
    return copy


@settings(max_examples=60)
@given(kind=st.sampled_from(KINDS), late=st.booleans())
async def test_it_is_the_same_whichever_way_an_answer_comes_and_is_paid(kind: str, late: bool) -> None:
    records = []
    for answer in (whole, in_events):
        for ahead in (True, False):
            site = Site()
            await site.start(ahead=ahead)
            run = await site.begin(kind)
            if late:
                site.waiting = []
            collector = Collector()
            if kind == "watched" and not late:
                run.watch(collector, 0)
            answer(site.provider.last)
            if late:
                assert not run.ended
                if kind == "watched":  # while the charge is being written
                    run.watch(collector, 0)
                site.write()
            assert run.ended
            assert run.record() == site.runs.get(CALLER, run.id).record()
            assert (run.whole_record is not None) is (kind == "plain" and answer is whole)
            assert run.record().charge.amount_micros == COST
            assert run.record().charge.available_micros == PLENTY - COST
            if kind == "watched":
                assert collector.events[-1].run_completed.charge == run.record().charge
            records.append(comparable(run.record()))
            charges = [entry for entry in await site.store.ledger.entries("default", limit=99) if entry.kind == CHARGE]
            assert [(entry.run_id, entry.amount_micros) for entry in charges] == [(run.id, COST)]
            await site.credits._advances.end(5)
            assert (await available(site.store), await held(site.store)) == (PLENTY - COST, 0)
            await check_sums(site.store)
    assert all(record == records[0] for record in records)


async def test_a_plain_request_waits_for_nothing_where_credits_are_reserved_ahead() -> None:
    site = Site()
    await site.start(ahead=True)
    await site.begin("plain")  # the model is known from now on
    site.waiting = []
    spec = chat_spec(model="played/m")
    run: Any = site.runs.begin(CALLER, spec, StartOptions("ExecuteRun", incremental=False))
    assert not site.waiting
    assert site.provider.last.request.spec.sampling.max_output_tokens == run.admission.hold.output_tokens > 0
    whole(site.provider.last)
    assert [type(act) for act, _ in site.waiting] == [Spend]
    site.write()
    assert run.whole_record is not None


@pytest.mark.parametrize("answer", [whole, in_events])
async def test_a_run_that_is_cancelled_while_it_is_charged_says_what_was_said(answer: Any) -> None:
    site = Site()
    await site.start(ahead=True)
    run = await site.begin("plain")
    site.waiting = []
    answer(site.provider.last)
    run.cancel(CancelReason.CANCEL_REASON_REQUESTED)
    record = run.record()
    assert record.state == Run.STATE_CANCELLED
    assert record.choices[0].message.parts[0].text.text == ANSWER
    assert record.usage == USAGE
    site.write()
    assert run.record() == record
    await site.credits._advances.end(5)
    assert (await available(site.store), await held(site.store)) == (PLENTY - COST, 0)


async def test_a_charge_that_cannot_be_written_fails_the_run() -> None:
    site = Site()
    await site.start(ahead=True)
    run = await site.begin("plain")
    site.waiting = []
    whole(site.provider.last)
    ((_, then),) = site.waiting
    then(Unavailable("the server is shutting down", reason=Reason.SHUTTING_DOWN))
    assert run.record().state == Run.STATE_FAILED
    assert run.record().failure.reason == Reason.SHUTTING_DOWN


async def test_a_request_that_its_provider_refuses_gives_back_what_it_took() -> None:
    site = Site()
    await site.start(ahead=True)

    def refuse(request: Any) -> None:
        raise InvalidRequest("not so", field="messages")

    site.provider.refusal = refuse
    with pytest.raises(InvalidRequest):
        await site.begin("plain")
    balances, _, _ = await site.credits.balances(CALLER)
    assert [balance[2:4] for balance in balances] == [(PLENTY, 0)]
