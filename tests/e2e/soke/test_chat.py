"""Chats of Soke's API over a real core: with keys and with tokens, whole and as streams."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.support.core import KEY
from tests.support.soke import (
    BY_KEY,
    CHAT,
    CONVERSATIONS,
    UUID,
    Site,
    by_token,
    frames_of,
    script,
    soke_site,
    user,
)
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

NO_SERVICES: dict[str, Any] = {"services_used": [], "results": {}}
NOBODY = "0192f0c1-aaaa-7bbb-8ccc-ddddeeee0001"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    async with soke_site() as site:
        yield site


async def test_a_key_is_answered_and_nothing_is_stored(site: Site) -> None:
    for headers in (BY_KEY, {"Authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        answer = await site.chat(headers, user("hi"), conversationId=NOBODY)
        body = answer.body
        assert answer.said == "You said: hi"
        assert re.fullmatch(f"chatcmpl-{UUID}", body["id"])
        assert (body["object"], body["model"]) == ("chat.completion", "soke-v1")
        assert body["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "You said: hi", "data": NO_SERVICES},
                "finish_reason": "stop",
            }
        ]
        assert body["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        assert body["conversation_id"] is None
        assert re.fullmatch(UUID, answer.headers["X-Request-Id"])
    listed = await site.ask("GET", "/v1/conversations", {"x-api-key": KEY})
    assert listed.body == {}


async def test_the_key_header_wins(site: Site) -> None:
    for other in ("Bearer wrong", "nonsense", by_token()["Authorization"]):
        answer = await site.chat({**BY_KEY, "Authorization": other}, user("hi"))
        assert answer.body["conversation_id"] is None
    refused = await site.chat({**by_token(), "X-Soke-Key": "wrong"}, user("hi"))
    assert (refused.status, refused.error["code"]) == (401, "UNAUTHORIZED")


async def test_a_token_goes_on_with_its_conversation(site: Site) -> None:
    ada = by_token("goes-on")
    first = await site.chat(ada, user("one"))
    guid = first.body["conversation_id"]
    assert re.fullmatch(UUID, guid)
    assert await site.conversation_ids(ada) == [guid]
    second = await site.chat(ada, user("two"), conversationId=guid)
    assert second.body["conversation_id"] == guid
    headers, frames = await site.stream(ada, user("three"), conversationId=guid)
    assert frames[-1]["conversation_id"] == guid
    assert re.fullmatch(UUID, headers["X-Request-Id"])
    stored = (await site.ask("GET", f"{CONVERSATIONS}/{guid}", ada)).data
    assert (stored["id"], stored["title"]) == (guid, "one")
    said = [(message["role"], message["content"]) for message in stored["messages"]]
    assert said == [(role, text) for n in ("one", "two", "three") for role, text in _turn(n)]
    assert all(re.fullmatch(r"2\d{3}-[^Z]+\.\d{3}Z", message["createdAt"]) for message in stored["messages"])


def _turn(text: str) -> list[tuple[str, str]]:
    return [("user", text), ("assistant", f"You said: {text}")]


async def test_the_model_sees_the_stored_history(site: Site) -> None:
    ada = by_token("history")
    first = await site.chat(ada, user("one two three"))
    second = await site.chat(ada, user("four"), conversationId=first.body["conversation_id"])
    alone = await site.chat(BY_KEY, user("four"))
    assert second.body["usage"]["prompt_tokens"] > alone.body["usage"]["prompt_tokens"]


async def test_a_stream_in_frames(site: Site) -> None:
    _, frames = await site.stream(BY_KEY, user("a\u2028b"))
    *content, done = frames
    assert {frame["type"] for frame in content} == {"content"}
    assert "".join(frame["content"] for frame in content) == "You said: a\u2028b"
    assert done == {
        "type": "done",
        "services_used": [],
        "conversation_id": None,
        "usage": done["usage"],
    }
    assert done["usage"]["total_tokens"] == done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"] > 0


async def test_a_stream_in_chunks(site: Site) -> None:
    ada = by_token("chunks")
    options = {"format": "openai", "include_usage": True}
    _, frames = await site.stream(ada, user("hi"), stream_options=options, model="fast")
    *chunks, last, usage = frames
    assert {(chunk["object"], chunk["model"]) for chunk in frames} == {("chat.completion.chunk", "fast")}
    assert len({chunk["id"] for chunk in frames}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "You said: hi"
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert (last["data"], last["conversation_id"]) == (NO_SERVICES, (await site.conversation_ids(ada))[0])
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] > 0


async def test_what_goes_wrong_before_the_first_word_has_its_status(site: Site) -> None:
    broken = script(fail_before={"reason": "PROVIDER_FAILED", "message": "It broke."})
    for headers in (BY_KEY, by_token("breaks")):
        for stream in (False, True):
            refused = await site.chat(headers, broken, stream=stream)
            assert (refused.status, refused.error["code"]) == (502, "SERVICE_UNAVAILABLE")
            assert refused.error["message"] == "It broke."
    assert await site.conversation_ids(by_token("breaks")) == []


async def test_what_goes_wrong_later_is_told_in_the_stream(site: Site) -> None:
    ada = by_token("breaks-later")
    broken = script(text=["Well, "], fail_after={"after": 1, "reason": "PROVIDER_FAILED", "message": "It broke."})
    _, frames = await site.stream(ada, broken)
    assert frames == [
        {"type": "content", "content": "Well, "},
        {"type": "error", "error": {"code": "SERVICE_UNAVAILABLE", "message": "It broke.", "details": {}}},
    ]
    (guid,) = await site.conversation_ids(ada)  # what was said is kept
    stored = (await site.ask("GET", f"{CONVERSATIONS}/{guid}", ada)).data
    assert [message["content"] for message in stored["messages"]][1:] == ["Well, "]
    _, frames = await site.stream(ada, broken, stream_options={"format": "openai"})
    assert frames[-1]["error"]["message"] == "It broke."


async def test_whoever_leaves_ends_the_run(site: Site) -> None:
    endless = script(text=["a "] * 1000, delay=0.02, repeat=100)
    ada = by_token("leaves")
    async with site.client.post(CHAT, json={"messages": [endless], "stream": True}, headers=ada) as response:
        assert b"content" in await response.content.readline()
        response.close()
    await until(lambda: site.core.runs.active == 0)


class TestOrder:
    """Authentication, the request, the platform, what it names: what comes first is told."""

    @pytest.mark.parametrize("body", [b"{", b"{}", b'{"messages": []}', b'{"platform": "tiktok"}', b""])
    @pytest.mark.parametrize("headers", [{}, {"X-Soke-Key": "wrong"}, {"Authorization": "Bearer a.b.c"}])
    async def test_first_who_it_is(self, site: Site, headers: dict[str, str], body: bytes) -> None:
        headers = {**headers, "Content-Type": "application/json"}
        async with site.client.post(CHAT, data=body, headers=headers) as response:
            answer = await response.json()
            assert (response.status, answer["error"]["code"]) == (401, "UNAUTHORIZED")
            assert answer["meta"]["request_id"] == response.headers["X-Request-Id"]

    @pytest.mark.parametrize("token", [False, True])
    async def test_then_the_rest(self, site: Site, token: bool) -> None:
        headers = by_token("order") if token else BY_KEY
        everything = {"model": "nope", "connectionId": "c", "platform": "tiktok"}
        refused = await site.chat(headers, **everything)
        assert (refused.status, refused.error["code"], refused.error["details"]) == (
            400,
            "BAD_REQUEST",
            {"field": "messages"},
        )
        refused = await site.chat(headers, user("hi"), **everything)
        assert (refused.status, refused.error["code"]) == (501, "PLATFORM_NOT_IMPLEMENTED")
        assert refused.error["details"] == {"platform": "tiktok", "supported": ["youtube"]}
        del everything["platform"]
        refused = await site.chat(headers, user("hi"), **everything)
        assert (refused.status, refused.error["code"]) == (404, "NOT_FOUND")
        assert refused.error["details"] == {"field": "connectionId"}
        refused = await site.chat(headers, user("hi"), model="nope", stream=True)
        assert (refused.status, refused.error["code"]) == (400, "BAD_REQUEST")
        assert refused.error["details"] == {"field": "model"}


@pytest.mark.parametrize("name", [NOBODY, "nope", "conv_0192f0c1aaaa7bbb8cccddddeeee0001", "x" * 5000, "a\u0000b"])
async def test_a_conversation_that_there_is_not(site: Site, name: str) -> None:
    refused = await site.chat(by_token(), user("hi"), conversationId=name)
    assert (refused.status, refused.error["code"]) == (404, "NOT_FOUND")
    assert refused.error["details"] == {"field": "conversationId"}


async def test_other_headers(site: Site) -> None:
    refused = await site.chat({**BY_KEY, "X-Dragoman-Conversation": NOBODY}, user("hi"))
    assert (refused.status, refused.error["details"]) == (400, {"field": "X-Dragoman-Conversation"})
    answer = await site.chat({**BY_KEY, "X-Request-Id": "mine", "X-Dragoman-Persona": "maya"}, user("hi"))
    assert (answer.said, answer.headers["X-Request-Id"]) == ("You said: hi", "mine")


async def test_what_is_left_out_is_told(site: Site) -> None:
    answer = await site.chat(BY_KEY, user("hi"), temperature=0.1, max_tokens=1)
    assert answer.said == "You said: hi"
    assert answer.headers["x-dragoman-dropped-params"] == "temperature, max_tokens"
    headers, _ = await site.stream(BY_KEY, user("hi"), seed=1)
    assert headers["x-dragoman-dropped-params"] == "seed"


async def test_a_request_that_is_sent_again_gets_the_first_answer(site: Site) -> None:
    headers = {**by_token("again"), "Idempotency-Key": "once"}
    answers = await asyncio.gather(*(site.chat(headers, user("hi")) for _ in range(3)))
    assert len({json.dumps(answer.body) for answer in answers}) == 1
    assert await site.conversation_ids(headers) == [answers[0].body["conversation_id"]]
    other = await site.chat(headers, user("ho"))
    assert (other.status, other.error["code"]) == (409, "CONFLICT")
    assert len(await site.conversation_ids(headers)) == 1


async def test_what_there_is_not_is_told_in_the_same_words(site: Site) -> None:
    for method, path, status, code in (
        ("GET", CHAT, 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", CHAT, 405, "METHOD_NOT_ALLOWED"),
        ("POST", CONVERSATIONS, 405, "METHOD_NOT_ALLOWED"),
        ("GET", f"{CHAT}/x", 404, "NOT_FOUND"),
        ("POST", "/api/v1/research/keywords", 404, "NOT_FOUND"),
        ("GET", "/api/v1/auth/nope", 404, "NOT_FOUND"),
    ):
        answer = await site.ask(method, path, BY_KEY)
        assert (answer.status, answer.error["code"]) == (status, code)
        assert re.fullmatch(UUID, answer.body["meta"]["request_id"])


async def test_logins_have_the_envelope_too(site: Site) -> None:
    answer = await site.ask("POST", "/api/v1/auth/login", {}, {"email": "nobody@example.com", "password": "wrong one"})
    assert (answer.status, answer.error["code"]) == (401, "UNAUTHORIZED")
    assert re.fullmatch(UUID, answer.body["meta"]["request_id"])
    assert answer.headers["Cache-Control"] == "no-store"


async def test_the_configured_model_is_meant_by_soke_v1() -> None:
    async with soke_site(soke_model="demo/other", default_model="fast") as site:
        for fields, model in (({}, "other"), ({"model": "soke-v1"}, "other"), ({"model": "fast"}, "echo")):
            answer = await site.chat(BY_KEY, user("hi"), **fields)
            assert answer.headers["x-dragoman-model"] == model
            assert answer.body["model"] == fields.get("model", "soke-v1")


async def test_bytes_on_the_wire(site: Site) -> None:
    body = json.dumps({"messages": [user("hi")], "stream": True}).encode()
    host, _, port = site.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {CHAT} HTTP/1.0\r\nHost: x\r\nX-Soke-Key: {KEY}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(20):
        wire = (await reader.read()).decode()
    writer.close()
    head, _, stream = wire.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.0 200 OK")
    frames: Any = frames_of(stream)
    assert [frame["type"] for frame in frames] == ["content", "content", "content", "done"]
    assert stream.startswith('data: {"type":"content","content":"You"}\n\ndata: ')
