from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.conversation_service_pb2 import StoredMessage
from dragoman.v1.message_pb2 import (
    ROLE_ASSISTANT,
    ROLE_DEVELOPER,
    ROLE_SYSTEM,
    ROLE_TOOL,
    ROLE_USER,
    Message,
)
from dragoman_server.conversations.history import continued
from dragoman_server.conversations.messages import new_message
from dragoman_server.store.conversations.records import ConversationRecord, MessageRecord
from dragoman_server.store.conversations.rules import place

COMPLETE, FAILED = StoredMessage.STATE_COMPLETE, StoredMessage.STATE_FAILED


def say(role: Any, *parts: str) -> Message:
    """A message: `call:ID`, `result:ID` and `think:TEXT` are such parts, all else is text."""
    message = Message(role=role)
    for text in parts:
        kind, _, rest = text.partition(":")
        part = message.parts.add()
        if kind == "call":
            part.tool_call.id = rest
            part.tool_call.name = "f"
        elif kind == "result":
            part.tool_result.call_id = rest
        elif kind == "think":
            part.reasoning.text = rest
        else:
            part.text.text = text
    return message


def stored(*messages: Message, states: dict[int, Any] | None = None) -> list[MessageRecord]:
    conversation = ConversationRecord(
        id="c", account_id="a", user_id="", short_id="s", tree_id="t", create_time=0, update_time=0
    )
    states = states or {}
    new = [new_message(message, 0, state=states.get(n, COMPLETE)) for n, message in enumerate(messages)]
    return place(conversation, new)


def history(*messages: Message, new: tuple[Message, ...] = (), states: dict[int, Any] | None = None) -> list[Message]:
    return continued(stored(*messages, states=states), new or (say(ROLE_USER, "next"),))[0]


USER, ANSWER = say(ROLE_USER, "q"), say(ROLE_ASSISTANT, "a")


def test_what_is_whole_stays_as_it_is() -> None:
    messages = (say(ROLE_SYSTEM, "s"), USER, ANSWER)
    assert history(*messages) == list(messages)


def test_answers_that_broke_off_keep_what_they_said() -> None:
    broken = say(ROLE_ASSISTANT, "think:hm", "I thi", "call:1")
    assert history(USER, broken, states={1: FAILED}) == [USER, say(ROLE_ASSISTANT, "I thi")]


def test_answers_that_said_nothing_are_left_out() -> None:
    for nothing in (say(ROLE_ASSISTANT), say(ROLE_ASSISTANT, ""), say(ROLE_ASSISTANT, "think:hm")):
        assert history(USER, nothing, states={1: FAILED}) == [USER]


def test_calls_without_a_result_are_left_out() -> None:
    asked = say(ROLE_ASSISTANT, "let me see", "call:1", "call:2")
    result = say(ROLE_TOOL, "result:2")
    kept = say(ROLE_ASSISTANT, "let me see", "call:2")
    assert history(USER, asked, result, ANSWER) == [USER, kept, result, ANSWER]
    assert history(USER, asked, USER) == [USER, say(ROLE_ASSISTANT, "let me see"), USER]


def test_results_without_a_call_are_left_out() -> None:
    broken = say(ROLE_ASSISTANT, "call:1")
    result = say(ROLE_TOOL, "result:1")
    assert history(USER, broken, result, states={1: FAILED}) == [USER]


def test_calls_that_the_request_answers_stay_with_their_thoughts() -> None:
    asked = say(ROLE_ASSISTANT, "think:hm", "call:1")
    assert history(USER, asked, new=(say(ROLE_TOOL, "result:1"),)) == [USER, asked]


def test_thoughts_of_earlier_turns_are_left_out() -> None:
    thoughtful = say(ROLE_ASSISTANT, "think:hm", "a")
    assert history(USER, thoughtful, USER, thoughtful) == [USER, ANSWER, USER, ANSWER]
    asked = say(ROLE_ASSISTANT, "think:hm", "call:1")
    result = (say(ROLE_TOOL, "result:1"),)
    assert history(USER, thoughtful, USER, asked, new=result) == [USER, ANSWER, USER, asked]


def test_instructions_in_force_are_not_repeated() -> None:
    system, developer, other = say(ROLE_SYSTEM, "s"), say(ROLE_DEVELOPER, "d"), say(ROLE_SYSTEM, "t")
    before = stored(system, developer, USER, ANSWER)
    assert continued(before, (system, developer, USER))[1] == [USER]
    assert continued(before, (other, USER))[1] == [other, USER]
    assert continued(before, (system,))[1] == [system]  # a request says something
    assert continued(stored(system, USER, other, ANSWER), (system, USER))[1] == [system, USER]
    assert continued([], (system, USER))[1] == [system, USER]


def test_what_is_stored_and_asked_is_not_changed() -> None:
    asked = say(ROLE_ASSISTANT, "think:hm", "call:1", "a")
    records = stored(USER, asked)
    request = (say(ROLE_USER, "next"),)
    continued(records, request)
    assert Message.FromString(records[1].body) == asked
    assert request == (say(ROLE_USER, "next"),)


PARTS = st.sampled_from(["", "x", "think:t", "call:1", "call:2", "call:3"])
RESULTS = st.sampled_from(["result:1", "result:2", "result:3"])
MESSAGES = st.one_of(
    st.builds(lambda parts: say(ROLE_ASSISTANT, *parts), st.lists(PARTS, max_size=3)),
    st.builds(lambda parts: say(ROLE_TOOL, *parts), st.lists(RESULTS, min_size=1, max_size=3)),
    st.builds(lambda: USER),
)


@given(st.lists(MESSAGES, max_size=10), st.lists(st.sampled_from([COMPLETE, FAILED]), min_size=10, max_size=10))
def test_every_call_has_a_result_and_every_result_a_call(messages: list[Message], states: list[Any]) -> None:
    shown = history(*messages, states=dict(enumerate(states)))
    calls: set[str] = set()
    for message in [*shown, USER]:
        if message.role == ROLE_TOOL:
            found = {part.tool_result.call_id for part in message.parts}
            calls -= found
            continue
        assert not calls
        calls = {part.tool_call.id for part in message.parts if part.HasField("tool_call")}
    for before, message in zip([USER, *shown], shown, strict=False):
        if message.role == ROLE_TOOL:
            assert before.role in (ROLE_ASSISTANT, ROLE_TOOL)
