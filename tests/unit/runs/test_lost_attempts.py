"""What attempts that came to nothing have consumed counts beside the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FINISH_REASON_STOP
from dragoman.v1.run_pb2 import RunSpec
from dragoman.v1.usage_pb2 import OutputTokenDetails, Usage
from dragoman_server.catalog.service import Catalog
from dragoman_server.clock import system_clock
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.routing.table import RoutingTable
from dragoman_server.providers.usage import sum_of_calls
from dragoman_server.runs.run import LiveRun
from dragoman_server.runs.service import Runs, StartOptions
from dragoman_server.settings import LimitSettings, ModelSettings, RunSettings, TargetSettings
from tests.support.routing import QUICK, Played, PlayedProvider
from tests.support.runs import CALLER, Collector, chat_spec


@asynccontextmanager
async def engine(*providers: PlayedProvider) -> AsyncIterator[Runs]:
    """Yields an engine whose model `m` is served by each provider, the first one first."""
    targets = tuple(TargetSettings(provider=one.name, upstream_model="m") for one in providers)
    named = {one.name: one for one in providers}
    catalog = Catalog(
        providers, [ModelSettings(id="m", targets=targets, max_attempts=2)], routing=RoutingTable(QUICK, named)
    )
    runs = Runs(RunSettings(), LimitSettings(), catalog, system_clock)
    try:
        yield runs
    finally:
        await runs.drain(0)


def start(runs: Runs, *, incremental: bool, spec: RunSpec | None = None) -> LiveRun:
    return runs.start(CALLER, spec or chat_spec(model="m"), StartOptions("ExecuteRun", incremental=incremental))


def answer(played: Played, usage: Usage | None) -> None:
    played.say("hello")
    batch = EventBatch()
    finished = batch.events.add().choice_finished
    finished.finish_reason, finished.choice_index = FINISH_REASON_STOP, played.request.choice_index
    if usage is not None:
        batch.events.add().usage_reported.last_call.CopyFrom(usage)
    played.sink.on_events(batch)
    played.end(None)


@pytest.mark.parametrize("incremental", [True, False])
async def test_they_add_up_with_the_answer(incremental: bool) -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    async with engine(one, two) as runs:
        run = start(runs, incremental=incremental)
        collector = Collector()
        run.watch(collector, 0)
        one.last.report_usage(20)
        one.last.fail()
        answer(two.last, Usage(input_tokens=7, output_tokens=2, output_details=OutputTokenDetails(reasoning_tokens=1)))
        total = Usage(input_tokens=27, output_tokens=2, output_details=OutputTokenDetails(reasoning_tokens=1))
        assert run.record().usage == total
        (told,) = [event.usage_reported for event in collector.events if event.HasField("usage_reported")]
        assert (told.last_call.input_tokens, told.run_total) == (7, total)


async def test_they_count_where_nobody_reads_along() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    async with engine(one, two) as runs:
        run = start(runs, incremental=False)
        one.last.report_usage(20)
        one.last.fail()
        answer(two.last, Usage(input_tokens=7, output_tokens=2))
        assert run.record().usage == Usage(input_tokens=27, output_tokens=2)


async def test_they_are_all_there_is_of_a_run_that_never_said_anything() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    async with engine(one, two) as runs:
        run = start(runs, incremental=True)
        one.last.report_usage(20)
        one.last.fail()
        two.last.fail(Reason.PROVIDER_REJECTED)
        assert run.record().usage == Usage(input_tokens=20)


async def test_what_a_provider_only_told_on_the_way_counts_too() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    async with engine(one, two) as runs:
        run = start(runs, incremental=True)
        one.last.told = Usage(input_tokens=20)
        one.last.fail()
        answer(two.last, Usage(input_tokens=7, output_tokens=2))
        assert run.record().usage == Usage(input_tokens=27, output_tokens=2)


async def test_the_last_one_is_not_counted_twice() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    async with engine(one, two) as runs:
        run = start(runs, incremental=True)
        one.last.report_usage(20)
        one.last.fail()
        two.last.report_usage(5)
        two.last.fail(Reason.PROVIDER_REJECTED)
        assert run.record().usage.input_tokens == 25


async def test_an_answer_whose_usage_nobody_tells_is_estimated_beside_them() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    async with engine(one, two) as runs:
        run = start(runs, incremental=True)
        one.last.report_usage(20)
        one.last.fail()
        answer(two.last, None)
        assert run.record().usage == Usage(input_tokens=22, output_tokens=2, estimated=True)


async def test_each_choice_has_attempts_of_its_own() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    spec = chat_spec(model="m")
    spec.chat.sampling.choice_count = 2
    async with engine(one, two) as runs:
        run = start(runs, incremental=True, spec=spec)
        first, second = one.played
        second.report_usage(20)
        second.fail()
        answer(first, Usage(input_tokens=7, output_tokens=2))
        answer(two.last, Usage(input_tokens=7, output_tokens=3))
        assert run.record().usage == Usage(input_tokens=27, output_tokens=5), "the prompt of an answer counts once"


def test_a_sum_has_all_counts_and_the_words_of_the_latest_call() -> None:
    usage = Usage(input_tokens=1, service_tier="flex")
    usage.output_details.reasoning_tokens = 2
    before = Usage(input_tokens=10, output_tokens=5, service_tier="auto", estimated=True)
    before.input_details.cached_tokens = 4
    total = sum_of_calls(usage, before)
    expected = Usage(input_tokens=11, output_tokens=5, service_tier="flex", estimated=True)
    expected.output_details.reasoning_tokens, expected.input_details.cached_tokens = 2, 4
    assert total == expected
    assert usage.input_tokens == 1
    assert sum_of_calls(usage, None) is usage
