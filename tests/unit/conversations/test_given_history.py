from __future__ import annotations

import pytest

from dragoman.v1.conversation_service_pb2 import StoredMessage
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER, Message
from dragoman_server.conversations.history import unknown_of
from dragoman_server.store.conversations.records import MessageRecord

ROLES = {"u": ROLE_USER, "a": ROLE_ASSISTANT, "s": ROLE_SYSTEM}


def said(text: str) -> Message:
    role, _, words = text.partition(":")
    message = Message(role=ROLES[role])
    if words:
        message.parts.add().text.text = words
    return message


def stored(text: str) -> MessageRecord:
    return MessageRecord(
        id="msg_1",
        account_id="default",
        tree_id="conv_1",
        parent_id=None,
        depth=0,
        body=said(text).SerializeToString(),
        words="",
        state=StoredMessage.STATE_COMPLETE,
        create_time=1,
    )


@pytest.mark.parametrize(
    ("known", "given", "new"),
    [
        ([], ["u:1"], ["u:1"]),
        ([], ["s:be kind", "u:1"], ["s:be kind", "u:1"]),
        (["u:1", "a:2"], ["u:1", "a:2", "u:3"], ["u:3"]),
        (["s:be kind", "u:1", "a:2"], ["u:1", "a:2", "u:3"], ["u:3"]),
        (["u:1", "a:2"], ["s:be kind", "u:1", "a: 2 ", "u:3"], ["u:3"]),
        (["u:1", "a:"], ["u:1", "u:3"], ["u:3"]),
        (["u:1", "a:2"], ["u:3"], ["u:3"]),
        (["u:1", "a:2"], ["u:other", "a:2", "u:3", "u:4"], ["u:3", "u:4"]),
        (["u:1", "a:2", "u:3", "a:4"], ["u:1", "a:2", "u:5"], ["u:5"]),
        (["u:1", "a:2"], ["u:1", "a:2"], []),
    ],
)
def test_what_the_store_does_not_have_is_new(known: list[str], given: list[str], new: list[str]) -> None:
    assert unknown_of([stored(text) for text in known], [said(text) for text in given]) == [said(text) for text in new]
