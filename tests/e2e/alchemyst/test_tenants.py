"""Who may do what in Alchemyst's chat API, what it costs, and how refusals look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from dragoman.v1.account_service_pb2 import CreateKeyRequest, CreateUserRequest, KeyGrants
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub
from dragoman_server.settings import (
    ConversationSettings,
    CreditPriceSettings,
    CreditSettings,
    PersonaSettings,
    RateLimitSettings,
    RateSettings,
    StoreSettings,
)
from tests.support.alchemyst import CHAT, UNUSED_ID, assistant, call, chat_ids, fetch, generate, said, stream, user
from tests.support.core import METADATA, running_core
from tests.support.edge import client_of, running_edge

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp

    from dragoman_edge.app import RunningEdge
    from dragoman_server.app import Core


@asynccontextmanager
async def a_site(**sections: Any) -> AsyncIterator[tuple[Core, RunningEdge, aiohttp.ClientSession]]:
    async with (
        running_core(default_model="fast", **sections) as core,
        running_edge(core.channel()) as edge,
        client_of(edge) as client,
    ):
        yield core, edge, client


async def bearer_of(core: Core, *, name: str = "", scopes: tuple[str, ...] = ()) -> dict[str, str]:
    """Returns the headers of a new key: a new user's, if there is a name."""
    accounts, user_id = AccountServiceStub(core.channel()), ""
    if name:
        request = CreateUserRequest(email=f"{name}@example.org", password="correct horse battery", name=name)
        user_id = (await accounts.CreateUser(request, metadata=METADATA)).user.id
    grants = KeyGrants(scopes=scopes)
    made = await accounts.CreateKey(CreateKeyRequest(name="k", user_id=user_id, grants=grants), metadata=METADATA)
    return {"Authorization": f"Bearer {made.secret}"}


async def test_users_have_their_own_chats() -> None:
    async with a_site() as (core, edge, keys):
        ada, bob = [await bearer_of(core, name=name) for name in ("ada", "bob")]
        async with client_of(edge, ada) as hers, client_of(edge, bob) as his:
            chat_id = (await generate(hers, user("hi"), chatId=UNUSED_ID))["chatId"]
            for client in (his, keys):
                assert await chat_ids(client) == []
                await call(client, "GET", f"{CHAT}/fetch/{chat_id}", 404)
                await call(client, "DELETE", f"{CHAT}/{chat_id}", 404)
                await call(client, "POST", f"{CHAT}/fork", 404, {"chatId": chat_id, "messageId": "x"})
                await generate(client, user("mine"), chatId=chat_id)  # their own, of the same id
                assert await said(client, chat_id) == ["mine", "You said: mine"]
            assert await said(hers, chat_id) == ["hi", "You said: hi"]
            who = [await call(client, "GET", "/api/v1/settings/api-keys/validate", 200) for client in (hers, his)]
            assert who[0]["user"]["id"] == (await fetch(hers, chat_id))["userId"] != who[1]["user"]["id"]
            assert who[0]["organization"] == who[1]["organization"]
            assert (who[0]["user"]["email"], who[0]["user"]["name"]) == ("ada@example.org", "ada")


async def test_a_key_needs_the_scopes() -> None:
    async with a_site() as (core, edge, keys):
        chat_id = (await generate(keys, user("hi")))["chatId"]
        async with client_of(edge, await bearer_of(core, scopes=("conversations.read",))) as reader:
            await fetch(reader, chat_id)
            assert set(await call(reader, "POST", CHAT, 403, {"chat_history": [user("a")]})) == {"message"}
            assert set(await generate(reader, user("a"), status=403)) == {"message"}
            assert set(await generate(reader, user("a"), chatId=chat_id, status=403)) == {"message"}
            refused = await call(reader, "DELETE", f"{CHAT}/{chat_id}", 403)
            assert (set(refused), refused["error"]) == ({"message", "error"}, "Forbidden")
        async with client_of(edge, await bearer_of(core, scopes=("runs",))) as runner:
            await call(runner, "POST", CHAT, 201, {"chat_history": [user("a")]})
            assert set(await call(runner, "GET", f"{CHAT}/history", 403)) == {"error"}


async def test_who_has_no_credits_is_told_and_nothing_is_left() -> None:
    prices = (CreditPriceSettings(request_micros=5),)
    async with a_site(credits=CreditSettings(enabled=True, prices=prices)) as (_, _, client):
        for path in ("", "/generate", "/generate/stream"):
            refused = await call(client, "POST", CHAT + path, 402, {"chat_history": [user("a")]})
            assert set(refused) == {"message"}
        assert await chat_ids(client) == []


async def test_who_asks_too_often_is_told_when_to_come_back() -> None:
    limits = RateLimitSettings(key=RateSettings(requests_per_minute=1))
    async with a_site(rate_limits=limits) as (_, _, client):
        await generate(client, user("a"))
        for path in ("", "/generate", "/generate/stream"):
            async with client.post(CHAT + path, json={"chat_history": [user("a")]}) as response:
                assert response.status == 429
                assert 50 < int(response.headers["Retry-After"]) <= 60
                assert set(await response.json()) == {"message"}
        assert len(await chat_ids(client)) == 1


async def test_what_cannot_be_done_is_unprocessable() -> None:
    async with a_site() as (_, _, client):
        question = user('SCRIPT {"fail_before": {"reason": "CONTEXT_LENGTH_EXCEEDED", "message": "Too long."}}')
        assert await generate(client, question, status=422) == {"message": "Too long."}


async def test_personas_answer_and_stay_with_their_chat() -> None:
    personas = (PersonaSettings(name="ada", system_prompt="You are Ada.", model="demo/other"),)
    async with a_site(personas=personas) as (_, _, client):
        answer = await generate(client, user("hi"), persona="ada")
        assert answer["result"]["persona"] == "ada"
        assert answer["result"]["response"]["kwargs"]["response_metadata"]["model_name"] == "other"
        history = [user("hi"), assistant("You said: hi"), user("more")]
        told = await stream(client, *history, chatId=answer["chatId"], persona="")
        assert {"type": "thinking_update", "content": "Answering as ada"} in told
        assert await said(client, answer["chatId"]) == ["hi", "You said: hi", "more", "You said: more"]


async def test_a_full_chat_is_told() -> None:
    async with a_site(conversations=ConversationSettings(max_messages=2)) as (_, _, client):
        answer = await generate(client, user("hi"))
        refused = await generate(client, user("hi"), assistant("x"), user("b"), chatId=answer["chatId"], status=400)
        assert refused == {"message": "the chat is full: it may have at most 2 messages"}


async def test_it_is_the_same_on_disk(tmp_path: Path) -> None:
    store = StoreSettings(url=SecretStr(f"sqlite:///{tmp_path / 'chats.db'}"))
    async with a_site(store=store) as (_, _, client):
        chat_id = (await generate(client, user("one", id="m-1", json="{}"), chatId=UNUSED_ID))["chatId"]
        *_, metadata = await stream(client, user("one"), assistant("You said: one"), user("two"), chatId=chat_id)
        messages = (await fetch(client, chat_id))["messages"]
        assert [message["message"] for message in messages] == ["one", "You said: one", "two", "You said: two"]
        assert (messages[0]["id"], messages[0]["json"]) == ("m-1", "{}")
        assert messages[3]["id"] == metadata["content"]["messageId"]
        await generate(client, user('SCRIPT {"fail_before": {}}'), status=502)
        assert await chat_ids(client) == [chat_id]
