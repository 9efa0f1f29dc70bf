"""The pure parts of the chat API: checks, translation, errors."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.conversation_service_pb2 import StoredMessage
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_TOOL, ROLE_USER
from dragoman.v1.run_pb2 import HISTORY_MODE_GIVEN, ChatSpec
from dragoman_edge.dialects.alchemyst import chat_errors
from dragoman_edge.dialects.alchemyst.chats import message_objects, object_id
from dragoman_edge.dialects.alchemyst.request import check_chat_id, check_direct, check_generate, check_save, words_of
from dragoman_edge.dialects.alchemyst.to_proto import (
    fill_stored_chat,
    saved_chat,
    title_of,
    wants_research,
    wants_tools,
)
from dragoman_edge.errors import EdgeError
from tests.support.alchemyst import UNUSED_ID, assistant, user

if TYPE_CHECKING:
    from collections.abc import Callable


def spec_of(*history: Any, **fields: Any) -> ChatSpec:
    spec = ChatSpec()
    fill_stored_chat(spec, check_generate({"chat_history": list(history), **fields}, {}), "maya", UNUSED_ID)
    return spec


def test_a_turn() -> None:
    system = {"role": "system", "message": "Be kind."}
    spec = spec_of(system, user("a"), assistant(""), user("b"))
    assert (spec.persona, spec.conversation_id, spec.history_mode) == ("maya", UNUSED_ID, HISTORY_MODE_GIVEN)
    said = [(message.role, message.parts[0].text.text) for message in spec.messages]
    assert said == [(ROLE_SYSTEM, "Be kind."), (ROLE_USER, "a"), (ROLE_USER, "b")]
    assert not spec.message_notes


def test_what_a_client_keeps_with_a_message_goes_along() -> None:
    spec = spec_of(assistant(""), user("a", id="m-1"), user("b", json="{}", steps=[], createdAt=1, mood={"x": 1}))
    first, second = spec.message_notes
    assert (first.message_index, first.client_id, first.details_json) == (0, "m-1", "")
    assert (second.message_index, second.client_id) == (1, "")
    assert json.loads(second.details_json) == {"json": "{}", "mood": {"x": 1}}


def test_a_saved_chat_has_them_too() -> None:
    request = saved_chat(check_save({"title": "t", "messages": [user("a", id="m-1", json="{}"), assistant("")]}), "r")
    (message,) = request.messages
    assert (message.client_id, message.details_json) == ("m-1", '{"json":"{}"}')
    assert (request.title, request.request_id, request.source) == ("t", "r", "platform.converse")


@pytest.mark.parametrize(
    ("given", "context"),
    [
        ("plain", "plain"),
        ({"text": "a"}, "a"),
        ({"content": "b"}, "b"),
        ({"text": "a", "n": 1}, '{"text":"a","n":1}'),
        ({"text": 1}, '{"text":1}'),
        ({}, "{}"),
    ],
)
def test_context(given: Any, context: str) -> None:
    assert list(spec_of(user("a"), fastContext=[given]).context) == [context]


def test_a_voice_makes_it_short() -> None:
    (style,) = spec_of(user("a"), voice=True).context
    assert "short" in style
    assert not spec_of(user("a"), voice=False).context


@pytest.mark.parametrize(
    ("fields", "research", "tools"),
    [
        ({}, False, False),
        ({"researchMode": True}, True, False),
        ({"tools": {"researchIcps": True}}, True, False),
        ({"tools": {"researchIcps": False}}, False, False),
        ({"tools": {"other": True}}, False, True),
        ({"tools": []}, False, False),
        ({"tools": ["x"]}, False, True),
    ],
)
def test_what_is_wanted_and_missing(fields: Any, research: bool, tools: bool) -> None:  # a table
    request = check_generate({"chat_history": [user("a")], **fields}, {})
    assert (wants_research(request), wants_tools(request)) == (research, tools)


def test_the_body_wins_over_the_query() -> None:
    query = {"chatId": UNUSED_ID, "title": "q", "source": "s", "deltas": "true"}
    request = check_generate({"chat_history": [user("a")], "title": "b", "chatId": None}, query)
    assert (request["chatId"], request["title"], request["source"]) == (UNUSED_ID, "b", "s")
    assert "deltas" not in request


@given(st.text(max_size=30))
def test_ids_of_chats(text: str) -> None:
    if re.fullmatch("[0-9a-fA-F]{24}", text, re.ASCII):
        assert check_chat_id(text) == text.lower()
    else:
        with pytest.raises(EdgeError):
            check_chat_id(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from(
    ["chat_history", "role", "content", "message", "id", "json", "tools", "chatId", "title", "stream"]
)
BODIES = st.dictionaries(NAMES, JSON | st.lists(st.dictionaries(NAMES, JSON | st.just("user"), max_size=4), max_size=3))


@given(BODIES)
def test_whatever_comes_is_taken_or_refused(body: dict[str, Any]) -> None:
    checks: tuple[Callable[[dict[str, Any]], Any], ...] = (lambda body: check_generate(body, {}), check_direct)
    for check in checks:
        with suppress(EdgeError):
            request = check(dict(body))
            assert any(words_of(message).strip() for message in request["chat_history"])


def test_a_title_is_made_of_the_first_question() -> None:
    history: list[Any] = [{"role": "system", "content": "x"}, user("  "), user("How are\nyou?")]
    assert title_of(history) == "How are you?"
    assert title_of(history[:2]) == ""


@given(st.text(), st.text())
def test_ids_of_owners(one: str, other: str) -> None:
    assert re.fullmatch("[0-9a-f]{24}", object_id(one))
    assert (object_id(one) == object_id(other)) == (one == other)


def test_stored_messages_of_other_dialects() -> None:
    question, answer, result = StoredMessage(id="msg_1"), StoredMessage(id="msg_2"), StoredMessage(id="msg_3")
    question.message.role, question.details_json = ROLE_USER, "[1]"
    question.message.parts.add().text.text = "a"
    answer.message.role = ROLE_ASSISTANT
    answer.message.parts.add().refusal.text = "No."
    result.message.role = ROLE_TOOL
    shown = message_objects([question, answer, result])
    assert [(one["id"], one["role"], one["message"]) for one in shown] == [
        ("msg_1", "user", "a"),
        ("msg_2", "assistant", "No."),
    ]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_an_answer_in_each_family(reason: Reason) -> None:
    families = (
        (chat_errors.render_chat_error, {"message"}),
        (chat_errors.render_list_error, {"error"}),
        (chat_errors.render_stored_error, {"message", "error"}),
    )
    answers = [(render(EdgeError("Oh.", reason=reason)), members) for render, members in families]
    for answer, members in answers:
        assert set(json.loads(answer.body)) == members
        assert json.loads(answer.body).get("message", "Oh.") == "Oh."
    assert len({answer.status for answer, _ in answers}) == 1


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.INVALID_REQUEST, 400),
        (Reason.API_KEY_INVALID, 401),
        (Reason.INSUFFICIENT_CREDITS, 402),
        (Reason.FORBIDDEN, 403),
        (Reason.NOT_FOUND, 404),
        (Reason.CONTEXT_LENGTH_EXCEEDED, 422),
        (Reason.RATE_LIMITED, 429),
        (Reason.INTERNAL, 500),
        (Reason.PROVIDER_FAILED, 502),
        (Reason.OVERLOADED, 503),
        (Reason.PROVIDER_TIMEOUT, 504),
    ],
)
def test_statuses(reason: Reason, status: int) -> None:
    assert chat_errors.status_of(EdgeError("Oh.", reason=reason)) == status


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("spec.chat.messages[3].parts[0]", "chat_history"),
        ("spec.chat.message_notes[1].details_json", "chat_history"),
        ("messages[2].client_id", "messages"),
        ("spec.chat.persona", "persona"),
        ("spec.chat.conversation_id", "chatId"),
        ("short_id", "chatId"),
        ("message_id", "messageId"),
        ("title", "title"),
        ("request_id", "Idempotency-Key"),
        ("", ""),
    ],
)
def test_fields_are_told_in_the_words_of_the_dialect(field: str, name: str) -> None:
    assert chat_errors.field_of(field) == name
    if field:
        error = EdgeError(f"`{field}` of the conversation is wrong", field=field)
        assert chat_errors.message_of(error) == f"`{name}` of the chat is wrong"
