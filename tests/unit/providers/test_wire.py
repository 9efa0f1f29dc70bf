"""The wire form of frequent events says what filled-in messages say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.usage_pb2 import Usage
from dragoman.wire import varint
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.wire import FINISHED, sole_text, text_batch, text_event, usage_event, whole_batch

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
count = st.integers(0, 2**63 - 1)


@given(text, text)
def test_texts(first: str, second: str) -> None:
    expected = EventBatch()
    expected.events.add().text_delta.text = first
    expected.events.add().text_delta.text = second
    batch = EventBatch()
    batch.MergeFromString(text_event(first))
    batch.MergeFromString(text_event(second))
    assert batch == expected


@given(text)
def test_a_text_alone_is_told_from_all_else(said: str) -> None:
    batch = text_batch(said)
    assert sole_text(batch) == said
    batch.events[0].ignorable = True
    assert sole_text(batch) == ""
    batch = text_batch(said)
    batch.events[0].text_delta.MergeFromString(b"\xf8\x07\x01")  # a field that is not known yet
    assert sole_text(batch) == ""
    assert sole_text(EventBatch.FromString(text_event(said) * 2)) == ""
    assert sole_text(EventBatch.FromString(FINISHED[FinishReason.FINISH_REASON_STOP])) == ""
    assert sole_text(EventBatch()) == ""


@given(st.sampled_from([reason for reason in FinishReason.values() if reason]), count, count)
def test_an_end_with_usage(reason: FinishReason, read: int, written: int) -> None:
    usage = Usage(input_tokens=read, output_tokens=written)
    expected = EventBatch()
    expected.events.add().choice_finished.finish_reason = reason
    expected.events.add().usage_reported.last_call.CopyFrom(usage)
    assert EventBatch.FromString(FINISHED[reason] + usage_event(usage.SerializeToString())) == expected


@given(count)
def test_numbers(value: int) -> None:
    usage = Usage.FromString(b"\x08" + varint(value))
    assert usage.input_tokens == value


@given(text.filter(bool), st.sampled_from(FinishReason.values()), st.none() | st.builds(Usage, input_tokens=count))
def test_a_whole_answer(said: str, reason: FinishReason, usage: Usage | None) -> None:
    expected = EventBatch()
    expected.events.add().text_delta.text = said
    finished = expected.events.add().choice_finished
    finished.SetInParent()
    finished.finish_reason = reason
    if usage is not None:
        expected.events.add().usage_reported.last_call.CopyFrom(usage)
    assert whole_batch(said, reason, None if usage is None else usage.SerializeToString()) == expected
