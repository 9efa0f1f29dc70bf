"""What requests may look like, and what is asked of the core."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.credentials import looks_like_token
from dragoman.reasons import Reason
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER
from dragoman.v1.run_pb2 import HISTORY_MODE_UNSPECIFIED, ChatSpec
from dragoman_edge.dialects.soke.ids import completion_id, conversation_of, guid_of
from dragoman_edge.dialects.soke.request import LEFT_OUT, MAX_PAGE_SIZE, Page, check_chat, check_page
from dragoman_edge.dialects.soke.to_proto import fill_chat
from dragoman_edge.errors import EdgeError
from dragoman_server.ids import new_id
from tests.support.soke import user


def checked(*messages: Any, **fields: Any) -> Any:
    return check_chat({"messages": list(messages) or [user("hi")], **fields})


def spec_of(*messages: Any, configured: str = "", conversation_id: str = "", **fields: Any) -> ChatSpec:
    spec = ChatSpec()
    fill_chat(spec, checked(*messages, **fields).request, configured, conversation_id)
    return spec


def refused(body: dict[str, Any]) -> EdgeError:
    with pytest.raises(EdgeError) as error:
        check_chat(body)
    return error.value


def test_messages() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    spec = spec_of(
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": "Be brief."},
        user(parts, name="ada"),
        {"role": "assistant", "content": "ab", "data": {"services_used": []}, "refusal": None, "tool_calls": None},
        user(""),
    )
    said = [(message.role, message.parts[0].text.text) for message in spec.messages]
    assert said == [
        (ROLE_SYSTEM, "Be kind."),
        (ROLE_SYSTEM, "Be brief."),
        (ROLE_USER, "ab"),
        (ROLE_ASSISTANT, "ab"),
        (ROLE_USER, ""),
    ]
    assert spec.messages[2].name == "ada"


@pytest.mark.parametrize(
    ("asked", "configured", "model"),
    [
        ({}, "", ""),
        ({}, "mine", "mine"),
        ({"model": None}, "mine", "mine"),
        ({"model": ""}, "mine", "mine"),
        ({"model": "soke-v1"}, "mine", "mine"),
        ({"model": "fast"}, "mine", "fast"),
    ],
)
def test_models(asked: dict[str, Any], configured: str, model: str) -> None:
    assert spec_of(configured=configured, **asked).model == model


def test_a_turn_of_a_conversation_brings_new_messages_only() -> None:
    spec = spec_of(conversation_id="conv_1")
    assert (spec.conversation_id, spec.history_mode) == ("conv_1", HISTORY_MODE_UNSPECIFIED)


@pytest.mark.parametrize("platform", [None, "", "youtube", "YouTube", "YOUTUBE"])
def test_the_platform_that_there_is(platform: Any) -> None:
    checked(platform=platform)


@pytest.mark.parametrize("platform", ["tiktok", "TikTok", "x", "youtube ", "ä" * 100])
def test_other_platforms(platform: str) -> None:
    error = refused({"messages": [user("hi")], "platform": platform, "connectionId": "c"})
    assert (error.reason, error.param) == (Reason.UNIMPLEMENTED, "platform")
    assert error.metadata["platform"] == platform[:64]


def test_nothing_is_connected() -> None:
    error = refused({"messages": [user("hi")], "connectionId": "c"})
    assert (error.reason, error.param) == (Reason.NOT_FOUND, "connectionId")
    checked(connectionId=None)
    checked(connectionId="")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [user([])]}, "messages[0].content"),
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}])]}, None),
        ({"messages": [user("hi", tool_calls=[])]}, "messages[0].tool_calls"),
        ({"messages": [user("hi")], "platform": 1}, "platform"),
        ({"messages": [user("hi")], "model": 1}, "model"),
        ({"messages": [user("hi")], "stream": "yes"}, "stream"),
        ({"messages": [user("hi")], "conversationId": 1}, "conversationId"),
        ({"messages": [user("hi")], "connectionId": 1}, "connectionId"),
        ({"messages": [user("hi")], "stream_options": {"format": "xml"}}, "stream_options.format"),
        ({"messages": [user("hi")], "tools": []}, "tools"),
        ({"messages": [user("hi")], "n": 2}, "n"),
        ({"messages": [user("hi")], "conversation_id": "x"}, "conversation_id"),
        ({"messages": [user("hi")], "platform": "tiktok", "colour": 1}, "colour"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str | None) -> None:
    error = refused(body)
    assert error.reason is Reason.INVALID_REQUEST
    assert param is None or error.param == param


def test_what_only_steers_the_words_is_left_out_and_told() -> None:
    found = checked(temperature=0.5, max_tokens=5, seed=None, user="me", n=1)
    assert found.left_out == ("temperature", "max_tokens", "user")
    assert LEFT_OUT.isdisjoint(found.request)
    assert checked(temperature="whatever it is").left_out == ("temperature",)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["messages", "platform", "model", "conversationId", "connectionId", "stream", "stream_options", "seed", "role"]
)
messages = st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "data"]), json_values, max_size=4))


@given(st.dictionaries(names, json_values | messages, max_size=6))
def test_whatever_comes_is_taken_or_refused(body: dict[str, Any]) -> None:
    with suppress(EdgeError):
        fill_chat(ChatSpec(), check_chat(body).request, "", "")


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ({}, Page(0, 20)),
        ({"page": "1"}, Page(0, 20)),
        ({"page": "3", "pageSize": "7"}, Page(14, 7)),
        ({"pageSize": str(MAX_PAGE_SIZE)}, Page(0, MAX_PAGE_SIZE)),
    ],
)
def test_pages(query: dict[str, str], page: Page) -> None:
    assert check_page(query) == page


@pytest.mark.parametrize("name", ["page", "pageSize"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "", "x", "²", "1_0", "9" * 5000])
def test_pages_that_make_no_sense(name: str, value: str) -> None:
    with pytest.raises(EdgeError) as error:
        check_page({name: value})
    assert error.value.param == name


def test_ids_are_guids() -> None:
    name = "conv_0192f0c1aaaa7bbb8cccddddeeee0001"
    guid = "0192f0c1-aaaa-7bbb-8ccc-ddddeeee0001"
    assert guid_of(name) == guid
    assert conversation_of(guid) == conversation_of(guid.upper()) == name
    assert completion_id("run_" + name[5:]) == f"chatcmpl-{guid}"
    for other in (name, guid[:-1], f"{guid}\n", "nope", "", "64a7f92e9b4f20c5d7f1aabc"):
        with pytest.raises(EdgeError) as error:
            conversation_of(other)
        assert (error.value.reason, error.value.param) == (Reason.NOT_FOUND, "conversationId")


def test_every_id_of_the_core_survives() -> None:
    for _ in range(100):
        name = new_id("conv")
        assert conversation_of(guid_of(name)) == name


@pytest.mark.parametrize(
    ("credential", "token"), [("dgm_x", False), ("a.b", False), ("a.b.c", True), ("..", True), ("0" * 32, False)]
)
def test_the_shape_of_a_credential_says_which_it_is(credential: str, token: bool) -> None:
    assert looks_like_token(credential) is token
