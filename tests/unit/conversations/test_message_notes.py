"""What clients keep with the messages of a request, and what of it is kept."""

from __future__ import annotations

import pytest

from dragoman.v1.message_pb2 import ROLE_ASSISTANT
from dragoman.v1.run_pb2 import HISTORY_MODE_GIVEN, ChatSpec, MessageNote
from dragoman_server.conversations.messages import asked_messages
from dragoman_server.errors import InvalidRequest
from tests.support.conversations import said


def request(*notes: MessageNote) -> ChatSpec:
    messages = [said("one"), said("two", ROLE_ASSISTANT), said("three"), said("four")]
    return ChatSpec(messages=messages, message_notes=notes, history_mode=HISTORY_MODE_GIVEN)


def kept(chat: ChatSpec, new: int, *taken: str) -> list[tuple[str | None, str]]:
    asked = asked_messages(chat, chat.messages[len(chat.messages) - new :], frozenset(taken), 0)
    return [(message.client_id, message.details) for message in asked]


def test_notes_go_with_their_messages() -> None:
    notes = [MessageNote(message_index=n, client_id=f"m-{n}", details_json=f"[{n}]") for n in (3, 0, 2)]
    assert kept(request(*notes), 2) == [("m-2", "[2]"), ("m-3", "[3]")]
    assert kept(request(*notes), 4) == [("m-0", "[0]"), (None, ""), ("m-2", "[2]"), ("m-3", "[3]")]
    assert kept(request(*notes), 0) == []


def test_an_id_is_kept_once() -> None:
    notes = [MessageNote(message_index=n, client_id="same", details_json="{}") for n in range(4)]
    assert kept(request(*notes), 2) == [("same", "{}"), (None, "{}")]
    assert kept(request(*notes), 2, "same") == [(None, "{}"), (None, "{}")]


@pytest.mark.parametrize(
    ("notes", "field"),
    [
        ([MessageNote(message_index=4)], "spec.chat.message_notes[0].message_index"),
        ([MessageNote(message_index=-1)], "spec.chat.message_notes[0].message_index"),
        ([MessageNote(message_index=1), MessageNote(message_index=1)], "spec.chat.message_notes[1].message_index"),
        ([MessageNote(client_id="a b")], "spec.chat.message_notes[0].client_id"),
        ([MessageNote(details_json="{")], "spec.chat.message_notes[0].details_json"),
        ([MessageNote(details_json="[NaN]")], "spec.chat.message_notes[0].details_json"),
        ([MessageNote(details_json='"\\ud800"')], "spec.chat.message_notes[0].details_json"),
        ([MessageNote(details_json='"' + "x" * 65_536 + '"')], "spec.chat.message_notes[0].details_json"),
    ],
)
def test_notes_that_make_no_sense_are_refused(notes: list[MessageNote], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        kept(request(*notes), 2)
    assert refused.value.field == field
