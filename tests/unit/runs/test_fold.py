from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.event_pb2 import FinishReason, RunEvent, TokenLogprob
from dragoman.v1.run_pb2 import Run
from dragoman_server.runs.fold import Fold, fold

deltas = st.lists(
    st.tuples(st.sampled_from(["text", "reasoning", "refusal", "arguments"]), st.integers(0, 2), st.text(max_size=8)),
    max_size=40,
)


def events_of(said: list[tuple[str, int, str]]) -> list[RunEvent]:
    """Returns events that say these deltas; each choice calls one tool first."""
    events = []
    for index in range(3):
        event = RunEvent()
        event.tool_call_started.choice_index = index
        event.tool_call_started.call_id = f"call_{index}"
        event.tool_call_started.name = "f"
        events.append(event)
    for kind, index, text in said:
        event = RunEvent()
        match kind:
            case "text":
                event.text_delta.choice_index, event.text_delta.text = index, text
            case "reasoning":
                event.reasoning_delta.choice_index, event.reasoning_delta.text = index, text
            case "refusal":
                event.refusal_delta.choice_index, event.refusal_delta.text = index, text
            case "arguments":
                event.tool_call_arguments_delta.choice_index = index
                event.tool_call_arguments_delta.arguments = text
        events.append(event)
    return numbered(events)


def numbered(events: list[RunEvent]) -> list[RunEvent]:
    for number, event in enumerate(events, 1):
        event.sequence = number
    return events


@given(deltas)
def test_the_record_says_exactly_what_the_deltas_said(said: list[tuple[str, int, str]]) -> None:
    run = fold(events_of(said))
    for choice in run.choices:
        for kind, read in (
            ("text", lambda part: part.text.text),
            ("reasoning", lambda part: part.reasoning.text),
            ("refusal", lambda part: part.refusal.text),
            ("arguments", lambda part: part.tool_call.arguments),
        ):
            assert "".join(map(read, choice.message.parts)) == "".join(
                text for found, index, text in said if found == kind and index == choice.index
            )
        kinds = [part.WhichOneof("kind") for part in choice.message.parts]
        assert all(a != b for a, b in pairwise(kinds)), "neighbours of one kind are one part"


@given(deltas, st.integers(0, 43))
def test_a_fold_can_be_read_at_any_time_and_goes_on(said: list[tuple[str, int, str]], at: int) -> None:
    events = events_of(said)
    state = Fold()
    for number, event in enumerate(events):
        if number == at:
            partial = Run()
            state.fill(partial)
            assert partial == fold(events[:at])
        state.apply([event])
    whole = Run()
    state.fill(whole)
    assert whole == fold(events)


def test_a_restarted_step_takes_back_what_it_said() -> None:
    events = [RunEvent() for _ in range(7)]
    events[0].step_started.step_id = "step_1"
    events[1].text_delta.text = "kept "
    events[2].step_started.step_id = "step_2"
    events[3].text_delta.text = "void"
    events[3].text_delta.logprobs.append(TokenLogprob(token="void"))
    events[4].step_restarted.step_id = "step_2"
    events[4].step_restarted.discards_from_sequence = 4
    events[5].text_delta.text = "said again"
    events[6].choice_finished.finish_reason = FinishReason.FINISH_REASON_STOP
    run = fold(numbered(events))
    assert run.choices[0].message.parts[0].text.text == "kept said again"
    assert not run.choices[0].logprobs


def test_a_spoken_answer_has_its_id_sound_transcript_and_expiry() -> None:
    events = [RunEvent() for _ in range(2)]
    first, second = (event.audio_delta for event in events)
    first.audio_id, first.data, first.transcript = "audio_1", b"ab", "Hel"
    second.data, second.transcript = b"c", "lo"
    second.expire_time.seconds = 99
    (part,) = fold(numbered(events)).choices[0].message.parts
    assert part.audio.audio_id == "audio_1"
    assert part.audio.data == b"abc"
    assert part.audio.transcript == "Hello"
    assert part.audio.expire_time.seconds == 99


def test_an_unknown_kind_is_skipped_only_if_it_may_be() -> None:
    ignorable = RunEvent(sequence=1, ignorable=True)
    assert fold([ignorable]).last_sequence == 1
    with pytest.raises(ValueError, match="unknown kind"):
        fold([RunEvent(sequence=1)])


def thought(text: str = "", signature: bytes = b"", *, redacted: bool = False) -> RunEvent:
    event = RunEvent()
    event.reasoning_delta.text, event.reasoning_delta.signature = text, signature
    event.reasoning_delta.redacted = redacted
    return event


def test_a_signature_ends_a_thought() -> None:
    run = fold(numbered([thought("a"), thought("b"), thought(signature=b"1"), thought("c"), thought(signature=b"2")]))
    thoughts = [part.reasoning for part in run.choices[0].message.parts]
    assert [(part.text, part.signature, part.redacted) for part in thoughts] == [
        ("ab", b"1", False),
        ("c", b"2", False),
    ]


def test_hidden_thoughts_stand_alone() -> None:
    events = [
        thought("a"),
        thought(signature=b"x", redacted=True),
        thought(signature=b"y", redacted=True),
        thought("b"),
    ]
    thoughts = [part.reasoning for part in fold(numbered(events)).choices[0].message.parts]
    assert [(part.text, part.signature, part.redacted) for part in thoughts] == [
        ("a", b"", False),
        ("", b"x", True),
        ("", b"y", True),
        ("b", b"", False),
    ]


def test_calls_keep_their_signature_and_texts_their_sources() -> None:
    said, cited, called = RunEvent(), RunEvent(), RunEvent()
    said.text_delta.text = "Rain."
    cited.text_delta.citations.add(url="https://example.org/rain", end_index=5)
    called.tool_call_started.call_id, called.tool_call_started.name = "c", "f"
    called.tool_call_started.signature = b"proof"
    text, call = fold(numbered([said, cited, called])).choices[0].message.parts
    assert text.text.text == "Rain."
    assert [source.url for source in text.text.citations] == ["https://example.org/rain"]
    assert call.tool_call.signature == b"proof"
