"""Answers that go beyond what is reserved for them are stopped after what goes beyond, and that is what is paid for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dragoman.v1.event_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP
from dragoman.v1.run_pb2 import Run
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.providers.base import EventBatch
from tests.support.credits import check_sums, held
from tests.support.paid_runs import Site
from tests.support.runs import Collector

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman_server.providers.base import GenerationSink

PIECE = "word " * 10
SAID = 3 * PIECE
"""Of 20 tokens of four characters, and half as many again, this is the first that is more."""


def as_text(sink: GenerationSink) -> None:
    sink.on_text(PIECE)


def as_events(sink: GenerationSink) -> None:
    batch = EventBatch()
    batch.events.add().text_delta.text = PIECE[:20]
    batch.events.add().text_delta.text = PIECE[20:]
    sink.on_events(batch)


def as_thoughts(sink: GenerationSink) -> None:
    batch = EventBatch()
    batch.events.add().reasoning_delta.text = PIECE
    sink.on_events(batch)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["plain", "labelled", "incremental"])
@pytest.mark.parametrize("say", [as_text, as_events, as_thoughts])
async def test_nothing_is_lost_and_nothing_follows_the_end(
    say: Callable[[GenerationSink], None], kind: str, late: bool
) -> None:
    site = Site()
    await site.start(ahead=False)
    run = await site.begin(kind)
    reserved = await held(site.store)
    collector = Collector()
    if kind == "incremental":
        run.watch(collector, 0)
    if late:  # the charge is written after more has come
        site.waiting = []
    for _ in range(5):
        say(site.provider.last.sink)
    if late:
        site.write()
    record = run.record()
    assert record.state == Run.STATE_COMPLETED
    (part,) = record.choices[0].message.parts
    assert part.text.text + part.reasoning.text == SAID
    assert record.choices[0].finish_reason == FINISH_REASON_LENGTH
    assert record.usage.output_tokens == -(-len(SAID) // 4)
    assert record.charge.amount_micros == reserved  # less than it costs
    await check_sums(site.store)
    if kind == "incremental":
        kinds = [event.WhichOneof("kind") for event in collector.events]
        assert kinds[-4:] == ["choice_finished", "usage_reported", "step_completed", "run_completed"]


@pytest.mark.parametrize("told", [False, True])
async def test_an_answer_that_has_ended_is_not_stopped(told: bool) -> None:
    site = Site()
    await site.start(ahead=False)
    run = await site.begin("plain")
    usage = Usage(input_tokens=3, output_tokens=25).SerializeToString() if told else None
    site.provider.last.sink.on_whole(2 * SAID, FINISH_REASON_STOP, usage)
    record = run.record()
    assert record.choices[0].message.parts[0].text.text == 2 * SAID
    assert record.choices[0].finish_reason == FINISH_REASON_STOP
    assert record.usage.estimated is not told
    assert record.charge.amount_micros
