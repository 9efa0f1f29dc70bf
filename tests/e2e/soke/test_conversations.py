"""Stored conversations in Soke's words, and whose they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from dragoman.v1.account_service_pb2 import CreateUserRequest
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub
from dragoman_server.settings import StoreSettings
from tests.support.core import METADATA
from tests.support.soke import API, BY_KEY, CHAT, CONVERSATIONS, by_token, soke_site, user

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'soke.db'}"
    return StoreSettings(url=SecretStr(url))


async def test_pages_and_deletion(store: StoreSettings) -> None:
    async with soke_site(store=store) as site:
        ada = by_token()
        guids = [(await site.chat(ada, user(f"question {n}"))).body["conversation_id"] for n in range(5)]
        newest_first = guids[::-1]
        page = (await site.ask("GET", f"{CONVERSATIONS}?page=1&pageSize=2", ada)).data
        assert [one["id"] for one in page["conversations"]] == newest_first[:2]
        assert page["total"] == 5
        assert set(page["conversations"][0]) == {"id", "title", "createdAt", "updatedAt", "messageCount"}
        assert (page["conversations"][0]["title"], page["conversations"][0]["messageCount"]) == ("question 4", 2)
        page = (await site.ask("GET", f"{CONVERSATIONS}?page=3&pageSize=2", ada)).data
        assert [one["id"] for one in page["conversations"]] == newest_first[4:]
        page = (await site.ask("GET", f"{CONVERSATIONS}?page=4&pageSize=2", ada)).data
        assert page == {"conversations": [], "total": 5}
        gone = guids[2]
        assert (await site.ask("DELETE", f"{CONVERSATIONS}/{gone}", ada)).data == {"id": gone, "deleted": True}
        for method, path, body in (
            ("GET", f"{CONVERSATIONS}/{gone}", None),
            ("POST", CHAT, {"messages": [user("x")], "conversationId": gone}),
        ):
            refused = await site.ask(method, path, ada, body)
            assert (refused.status, refused.error["code"]) == (404, "NOT_FOUND")
        assert await site.conversation_ids(ada) == [guid for guid in newest_first if guid != gone]


async def test_nobody_finds_what_is_anothers() -> None:
    async with soke_site() as site:
        ada, bob, eve = by_token("ada"), by_token("bob"), by_token("ada", account="other")
        guid = (await site.chat(ada, user("a secret"))).body["conversation_id"]
        for stranger in (bob, eve):
            assert await site.conversation_ids(stranger) == []
            for method, path, body in (
                ("GET", f"{CONVERSATIONS}/{guid}", None),
                ("DELETE", f"{CONVERSATIONS}/{guid}", None),
                ("POST", CHAT, {"messages": [user("x")], "conversationId": guid}),
                ("POST", CHAT, {"messages": [user("x")], "conversationId": guid, "stream": True}),
            ):
                refused = await site.ask(method, path, stranger, body)
                assert (refused.status, refused.error["code"]) == (404, "NOT_FOUND")
                assert "a secret" not in str(refused.body)
        stored = (await site.ask("GET", f"{CONVERSATIONS}/{guid}", ada)).data
        assert [message["content"] for message in stored["messages"]] == ["a secret", "You said: a secret"]


PATHS = (
    ("GET", CONVERSATIONS),
    ("GET", f"{CONVERSATIONS}/0192f0c1-aaaa-7bbb-8ccc-ddddeeee0001"),
    ("DELETE", f"{CONVERSATIONS}/0192f0c1-aaaa-7bbb-8ccc-ddddeeee0001"),
    ("GET", f"{API}/connections"),
)


async def test_keys_have_no_conversations() -> None:
    async with soke_site() as site:
        for method, path in PATHS:
            refused = await site.ask(method, path, BY_KEY)
            assert (refused.status, refused.error["code"]) == (403, "FORBIDDEN")
            for headers in ({}, {"X-Soke-Key": "wrong"}, {"Authorization": "Bearer a.b.c"}):
                refused = await site.ask(method, path, headers)
                assert (refused.status, refused.error["code"]) == (401, "UNAUTHORIZED")
        assert (await site.ask("GET", f"{API}/connections", by_token())).data == {"connections": []}
        for query in ("page=0", "pageSize=101", "page=x"):
            refused = await site.ask("GET", f"{CONVERSATIONS}?{query}", by_token())
            assert (refused.status, refused.error["details"]) == (400, {"field": query.partition("=")[0]})


async def test_a_token_needs_the_scopes() -> None:
    async with soke_site() as site:
        refused = await site.chat(by_token(scope="runs"), user("hi"))
        assert (refused.status, refused.error["code"]) == (403, "FORBIDDEN")
        assert (await site.ask("GET", CONVERSATIONS, by_token(scope="runs"))).status == 403
        assert (await site.ask("GET", CONVERSATIONS, by_token(scope="conversations.read"))).data["total"] == 0


async def test_who_logs_in_has_conversations() -> None:
    async with soke_site() as site:
        given = {"email": "ada@example.com", "password": "correct horse battery"}
        await AccountServiceStub(site.core.channel()).CreateUser(CreateUserRequest(**given), metadata=METADATA)
        tokens = (await site.ask("POST", f"{API}/auth/login", {}, given)).data
        logged_in = {"Authorization": f"Bearer {tokens['accessToken']}"}
        guid = (await site.chat(logged_in, user("hi"))).body["conversation_id"]
        assert await site.conversation_ids(logged_in) == [guid]
        refreshed = (await site.ask("POST", f"{API}/auth/refresh", {}, {"refreshToken": tokens["refreshToken"]})).data
        assert await site.conversation_ids({"Authorization": f"Bearer {refreshed['accessToken']}"}) == [guid]


async def test_what_is_stored_elsewhere_is_shown() -> None:
    async with soke_site() as site:
        ada = by_token()
        question = {"chat_history": [user("hi")]}
        assert (await site.ask("POST", "/api/v1/chat/generate", ada, question)).status == 201
        (guid,) = await site.conversation_ids(ada)
        assert (await site.chat(ada, user("more"), conversationId=guid)).body["conversation_id"] == guid
        history = await site.ask("GET", "/api/v1/chat/history", ada)
        assert len(history.body["chats"]) == 1
