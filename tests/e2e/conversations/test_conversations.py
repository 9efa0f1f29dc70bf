"""Conversations and personas through every door of a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from pydantic import SecretStr

from dragoman.v1 import conversation_service_pb2 as pb
from dragoman.v1 import persona_service_pb2
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman.v1.conversation_service_pb2_grpc import ConversationServiceStub
from dragoman.v1.persona_service_pb2_grpc import PersonaServiceStub
from dragoman.v1.run_pb2 import Run
from dragoman.v1.run_service_pb2 import ExecuteRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.app import Core
from dragoman_server.settings import ConversationSettings, PersonaSettings, StoreSettings
from dragoman_server.store.database import sqlite_url
from tests.support.conversations import appending, chat, creation, new, texts
from tests.support.core import CHANNELS, METADATA, channel_to, running_core
from tests.support.edge import client_of, running_edge
from tests.support.runs import chat_spec

ZOE = PersonaSettings(name="zoe", system_prompt="You are Zoe.", model="demo/echo")


@pytest.fixture(params=["memory", "sqlite"])
async def core(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Core]:
    url = "memory:" if request.param == "memory" else sqlite_url(tmp_path / "dragoman.db")
    async with running_core(store=StoreSettings(url=SecretStr(url)), personas=(ZOE,)) as core:
        yield core


@pytest.fixture
async def client(core: Core) -> AsyncIterator[ClientSession]:
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(running_edge(core.channel()))
        yield await stack.enter_async_context(client_of(edge))


async def ask(client: ClientSession, method: str, path: str, status: int = 200, **options: Any) -> Any:
    async with client.request(method, path, **options) as answer:
        body = await answer.json()
        assert answer.status == status, body
        return body


async def created(client: ClientSession, *said: str, **fields: Any) -> Any:
    messages = [{"message": {"role": "ROLE_USER", "parts": [{"text": {"text": text}}]}} for text in said]
    return (await ask(client, "POST", "/v1/conversations", json={"messages": messages, **fields}))["conversation"]


async def stored(client: ClientSession, name: str) -> list[Any]:
    return list((await ask(client, "GET", f"/v1/conversations/{name}/messages")).get("messages", []))


def shown(messages: list[Any]) -> list[str]:
    return [
        "".join(part.get("text", {}).get("text", "") for part in stored["message"].get("parts", []))
        for stored in messages
    ]


class TestRest:
    async def test_the_life_of_a_conversation(self, client: ClientSession) -> None:
        made = await created(client, "Why is the sky blue?", labels={"a": "b"})
        assert (made["title"], made["message_count"], made["labels"]) == ("Why is the sky blue?", 1, {"a": "b"})
        one = f"/v1/conversations/{made['short_id']}"
        assert (await ask(client, "GET", one))["conversation"] == made
        renamed = await ask(client, "PATCH", one, json={"title": "Sky", "pinned": True})
        assert (renamed["conversation"]["title"], renamed["conversation"]["pinned"]) == ("Sky", True)
        listed = await ask(client, "GET", "/v1/conversations", params={"query": "BLUE sky", "pinned": "true"})
        assert listed == {"conversations": [renamed["conversation"]]}
        assert await ask(client, "GET", "/v1/conversations", params={"query": "green"}) == {}
        (message,) = await stored(client, made["id"])
        fork = (await ask(client, "POST", f"{one}/fork", json={"message_id": message["id"]}))["conversation"]
        assert fork["forked_at_message_id"] == message["id"]
        await ask(client, "DELETE", one)
        await ask(client, "GET", one, 404)
        assert len((await ask(client, "GET", "/v1/conversations", params={"deleted": "true"}))["conversations"]) == 1
        await ask(client, "POST", f"{one}/undelete")
        await ask(client, "GET", one)
        await ask(client, "DELETE", one, params={"purge": "true"})
        await ask(client, "POST", f"{one}/undelete", 404)
        assert await stored(client, fork["id"]) == [message]

    async def test_etags(self, client: ClientSession) -> None:
        made = await created(client, "x")
        one = f"/v1/conversations/{made['id']}"
        async with client.get(one) as answer:
            etag = answer.headers["ETag"]
        async with client.patch(one, json={"pinned": True}, headers={"If-Match": etag}) as answer:
            assert answer.status == 200
            assert answer.headers["ETag"] != etag
        body = {"messages": [{"message": {"role": "ROLE_USER"}}]}
        for method, path, json_ in (
            ("PATCH", one, {"title": "x"}),
            ("POST", f"{one}/messages", body),
            ("DELETE", one, None),
        ):
            told = await ask(client, method, path, 412, json=json_, headers={"If-Match": etag})
            assert (told["error"]["code"], told["error"]["param"]) == ("conflict", "etag")
        await ask(client, "PATCH", one, 409, json={"title": "x", "etag": "1"})
        await ask(client, "PATCH", one, 400, json={"title": "x"}, headers={"If-Match": "a, b"})
        await ask(client, "PATCH", one, json={"title": "x"}, headers={"If-Match": "*"})
        await ask(client, "GET", one)

    async def test_a_request_sent_again(self, client: ClientSession) -> None:
        headers = {"Idempotency-Key": "k"}
        body = {"messages": [{"message": {"role": "ROLE_USER", "parts": [{"text": {"text": "x"}}]}}]}
        made = [await ask(client, "POST", "/v1/conversations", json=body, headers=headers) for _ in range(2)]
        assert made[0] == made[1]
        path = f"/v1/conversations/{made[0]['conversation']['id']}/messages"
        appended = [await ask(client, "POST", path, json=body, headers=headers) for _ in range(2)]
        assert appended[0] == appended[1]
        assert len(await stored(client, made[0]["conversation"]["id"])) == 2
        await ask(client, "POST", "/v1/conversations", 409, json={"title": "other"}, headers=headers)

    async def test_export_and_import(self, client: ClientSession) -> None:
        made = await created(client, "one", "zwei 🔑", title="T")
        async with client.get(f"/v1/conversations/{made['id']}/export") as answer:
            assert answer.content_type == "application/json"
            data = await answer.read()
        assert json.loads(data)["conversation"]["title"] == "T"
        copied = (await ask(client, "POST", "/v1/conversations/import", data=data))["conversation"]
        assert copied["id"] != made["id"]
        assert shown(await stored(client, copied["id"])) == ["one", "zwei 🔑"]
        told = await ask(client, "POST", "/v1/conversations/import", 400, data=b"{}")
        assert told["error"]["param"] == "json.format"

    @pytest.mark.parametrize(
        ("method", "path", "body", "param"),
        [
            ("POST", "", {"nonsense": 1}, "nonsense"),
            ("POST", "", {"title": 3}, "title"),
            ("POST", "", {"title": "x" * 257}, "title"),
            ("POST", "", {"messages": [{"message": {"parts": []}}]}, "messages[0].message.role"),
            ("POST", "", {"messages": [{"message": {"role": 3}, "details_json": "{"}]}, "messages[0].details_json"),
            ("POST", "", {"messages": [{}, {"message": {"role": "NOBODY"}}]}, "messages[1].message.role"),
            ("POST", "", {"messages": [{"message": {"parts": [{"x": 1}]}}]}, "messages[0].message.parts[0].x"),
            ("GET", "?page_size=x", None, "page_size"),
            ("GET", "?page_token=x", None, "page_token"),
            ("GET", "?pinned=maybe", None, "pinned"),
            ("GET", "?nonsense=x", None, "nonsense"),
        ],
    )  # fmt: skip
    async def test_bad_requests_are_named(
        self, client: ClientSession, method: str, path: str, body: Any, param: str
    ) -> None:
        told = await ask(client, method, f"/v1/conversations{path}", 400, json=body)
        assert told["error"]["param"] == param

    async def test_another_user_finds_nothing(self, core: Core, client: ClientSession) -> None:
        made = await created(client, "mine")
        one = f"/v1/conversations/{made['id']}"
        theirs = await stranger(core)
        headers = {"Authorization": f"Bearer {theirs}"}
        for method, path, body in (
            ("GET", one, None),
            ("PATCH", one, {"title": "x"}),
            ("DELETE", one, None),
            ("DELETE", f"{one}?purge=true", None),
            ("POST", f"{one}/undelete", {}),
            ("POST", f"{one}/fork", {}),
            ("GET", f"{one}/messages", None),
            ("POST", f"{one}/messages", {"messages": [{"message": {"role": "ROLE_USER"}}]}),
            ("GET", f"{one}/export", None),
        ):
            await ask(client, method, path, 404, json=body, headers=headers)
        told = await ask(
            client, "POST", "/v1/chat/completions", 404, json=completion("x"),
            headers={**headers, "X-Dragoman-Conversation": made["id"]},
        )  # fmt: skip
        assert told["error"]["param"] == "X-Dragoman-Conversation"
        assert await ask(client, "GET", "/v1/conversations", headers=headers) == {}
        assert (await ask(client, "GET", one))["conversation"] == made


async def stranger(core: Core) -> str:
    """The secret of a key of another account."""
    from dragoman.v1 import account_service_pb2 as accounts
    from dragoman.v1.account_service_pb2_grpc import AccountServiceStub

    stub: Any = AccountServiceStub(core.channel())
    account = (await stub.CreateAccount(accounts.CreateAccountRequest(name="other"), metadata=METADATA)).account
    request = accounts.CreateKeyRequest(name="k", role=KeyRole.KEY_ROLE_ADMIN, account_id=account.id)
    return str((await stub.CreateKey(request, metadata=METADATA)).secret)


def completion(*said: Any, **fields: Any) -> dict[str, Any]:
    messages = [one if isinstance(one, dict) else {"role": "user", "content": one} for one in said]
    return {"model": "demo/echo", "messages": messages, **fields}


class TestTurns:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_chat_goes_on_with_a_conversation(self, client: ClientSession, stream: bool) -> None:
        made = await created(client)
        headers = {"X-Dragoman-Conversation": made["short_id"]}
        for question in ("first", "second"):
            body = completion(question, stream=stream)
            async with client.post("/v1/chat/completions", json=body, headers=headers) as answer:
                assert answer.status == 200
                await answer.read()
                run_id = answer.headers["x-dragoman-run-id"]
        messages = await stored(client, made["id"])
        assert shown(messages)[::2] == ["first", "second"]
        assert [one["message"]["role"] for one in messages] == ["ROLE_USER", "ROLE_ASSISTANT"] * 2
        assert all(shown(messages)[1::2])
        assert (messages[-1]["run_id"], messages[-1]["model"]) == (run_id, "demo/echo")
        run = (await ask(client, "GET", f"/v1/runs/{run_id}"))["run"]
        assert run["conversation_id"] == made["id"]
        assert run["message_ids"] == [one["id"] for one in messages[2:]]
        conversation = (await ask(client, "GET", f"/v1/conversations/{made['id']}"))["conversation"]
        assert (conversation["title"], conversation["message_count"]) == ("first", 4)

    async def test_the_model_sees_the_history(self, client: ClientSession) -> None:
        made = await created(client, "SCRIPT " + json.dumps({"text": ["from the history"]}))
        headers = {"X-Dragoman-Conversation": made["id"]}
        answer = await ask(client, "POST", "/v1/chat/completions", json=completion("go on"), headers=headers)
        alone = await ask(client, "POST", "/v1/chat/completions", json=completion("go on"))
        assert answer["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"]

    async def test_a_failed_turn_keeps_what_was_said(self, client: ClientSession) -> None:
        made = await created(client)
        script = {"text": ["half ", "an answer"], "fail_after": 1}
        body = completion("SCRIPT " + json.dumps(script), stream=True)
        headers = {"X-Dragoman-Conversation": made["id"]}
        async with client.post("/v1/chat/completions", json=body, headers=headers) as answer:
            await answer.read()
        messages = await until(client, made["id"], 2)
        assert messages[1]["state"] == "STATE_FAILED"
        assert shown(messages)[1] == "half "

    async def test_a_cancelled_turn_keeps_what_was_said(self, client: ClientSession) -> None:
        made = await created(client)
        script = {"text": ["half ", *["…"] * 1000], "delay": 0.02}
        body = completion("SCRIPT " + json.dumps(script), stream=True)
        headers = {"X-Dragoman-Conversation": made["id"]}
        async with client.post("/v1/chat/completions", json=body, headers=headers) as answer:
            await answer.content.readany()
        messages = await until(client, made["id"], 2)
        assert messages[1]["state"] == "STATE_CANCELLED"
        assert shown(messages)[1].startswith("half ")

    async def test_a_refused_request_leaves_nothing(self, client: ClientSession) -> None:
        made = await created(client)
        headers = {"X-Dragoman-Conversation": made["id"]}
        await ask(
            client, "POST", "/v1/chat/completions", 404, json=completion("x") | {"model": "no/such"}, headers=headers
        )
        assert await stored(client, made["id"]) == []

    async def test_parallel_turns_lose_nothing(self, client: ClientSession) -> None:
        made = await created(client)
        headers = {"X-Dragoman-Conversation": made["id"]}
        posts = (
            ask(client, "POST", "/v1/chat/completions", json=completion(f"q{number}"), headers=headers)
            for number in range(30)
        )
        await asyncio.gather(*posts)
        messages = await until(client, made["id"], 60, page_size=1000)
        assert sorted(shown(messages)[::2]) == sorted(f"q{number}" for number in range(30))

    async def test_in_the_gemini_dialect(self, client: ClientSession) -> None:
        made = await created(client)
        headers = {"X-Dragoman-Conversation": made["id"], "X-Dragoman-Persona": "zoe"}
        body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
        await ask(client, "POST", "/v1beta/models/demo/echo:generateContent", json=body, headers=headers)
        assert shown(await stored(client, made["id"]))[0] == "hello"
        assert len(await stored(client, made["id"])) == 2


async def until(client: ClientSession, name: str, count: int, page_size: int = 50) -> list[Any]:
    """The messages, once there are so many: a turn that broke off is kept right after its end."""
    for _ in range(500):
        path = f"/v1/conversations/{name}/messages?page_size={page_size}"
        messages = (await ask(client, "GET", path)).get("messages", [])
        if len(messages) >= count:
            return list(messages)
        await asyncio.sleep(0.02)
    raise AssertionError(f"only {len(messages)} messages")


class TestPersonas:
    async def test_their_life(self, client: ClientSession) -> None:
        listed = await ask(client, "GET", "/v1/personas")
        assert [one["name"] for one in listed["personas"]] == ["maya", "zoe"]
        saved = (await ask(client, "PUT", "/v1/personas/anna", json={"system_prompt": "You are Anna."}))["persona"]
        assert (await ask(client, "GET", "/v1/personas/anna"))["persona"] == saved
        await ask(client, "PUT", "/v1/personas/anna", json={"etag": saved["etag"], "model": "m"})
        told = await ask(client, "PUT", "/v1/personas/anna", 409, json={"etag": saved["etag"]})
        assert told["error"]["code"] == "conflict"
        for body, param in (
            ({"name": "other"}, "name"),
            ({"sampling": {"temperature": 9}}, "persona.sampling.temperature"),
        ):
            assert (await ask(client, "PUT", "/v1/personas/anna", 400, json=body))["error"]["param"] == param
        await ask(client, "DELETE", "/v1/personas/anna")
        await ask(client, "GET", "/v1/personas/anna", 404)
        await ask(client, "DELETE", "/v1/personas/zoe", 404)

    async def test_a_persona_answers(self, client: ClientSession) -> None:
        plain = await ask(client, "POST", "/v1/chat/completions", json=completion("hello"))
        headers = {"X-Dragoman-Persona": "zoe"}
        shaped = await ask(client, "POST", "/v1/chat/completions", json=completion("hello"), headers=headers)
        assert shaped["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]
        headers = {"X-Dragoman-Persona": "nobody"}
        told = await ask(client, "POST", "/v1/chat/completions", 400, json=completion("hello"), headers=headers)
        assert told["error"]["param"] == "X-Dragoman-Persona"
        assert "maya, zoe" in told["error"]["message"]

    async def test_the_instructions_of_a_persona_are_not_stored(self, client: ClientSession) -> None:
        made = await created(client, persona="zoe")
        headers = {"X-Dragoman-Conversation": made["id"]}
        system = {"role": "system", "content": "be brief"}
        for question in ("a", "b"):
            body = completion(system, question)
            await ask(client, "POST", "/v1/chat/completions", json=body, headers=headers)
        messages = await stored(client, made["id"])
        assert [one["message"]["role"].removeprefix("ROLE_").lower() for one in messages] == [
            "system", "user", "assistant", "user", "assistant",
        ]  # fmt: skip
        assert not any("Zoe" in text for text in shown(messages)[::2])


@pytest.mark.parametrize("kind", CHANNELS)
async def test_over_grpc(kind: str) -> None:
    async with running_core(personas=(ZOE,)) as core, channel_to(core, kind) as channel:
        stub: Any = ConversationServiceStub(channel)
        options: Any = {"metadata": METADATA, "timeout": 20}
        made = (await stub.CreateConversation(creation("one"), **options)).conversation
        request = ExecuteRunRequest(spec=chat_spec(text=["two"]))
        request.spec.chat.conversation_id = made.short_id
        request.spec.chat.persona = "zoe"
        request.spec.chat.context.append("a fact")
        run = (await RunServiceStub(channel).ExecuteRun(request, **options)).run
        assert (run.state, run.conversation_id, len(run.message_ids)) == (Run.STATE_COMPLETED, made.id, 2)
        listed = await stub.ListMessages(pb.ListMessagesRequest(conversation_id=made.id), **options)
        assert [message.id for message in listed.messages[1:]] == list(run.message_ids)
        assert texts(message.message for message in listed.messages)[2] == "two"
        fork = await stub.ForkConversation(
            pb.ForkConversationRequest(conversation_id=made.id, message_id=listed.messages[0].id), **options
        )
        assert fork.conversation.message_count == 1
        appended = await stub.AppendMessages(appending(fork.conversation.id, "else"), **options)
        assert texts(message.message for message in appended.messages) == ["else"]
        updated = await stub.UpdateConversation(
            pb.UpdateConversationRequest(conversation_id=made.id, title="T"), **options
        )
        assert updated.conversation.title == "T"
        exported = await stub.ExportConversation(pb.ExportConversationRequest(conversation_id=made.id), **options)
        imported = await stub.ImportConversation(pb.ImportConversationRequest(json=exported.json), **options)
        assert imported.conversation.message_count == 3
        found = await stub.ListConversations(pb.ListConversationsRequest(query="one"), **options)
        assert len(found.conversations) == 3
        for purge in (False, True):
            request_ = pb.DeleteConversationRequest(conversation_id=made.id, purge=purge)
            await stub.DeleteConversation(request_, **options)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.UndeleteConversation(pb.UndeleteConversationRequest(conversation_id=made.id), **options)
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND
        personas: Any = PersonaServiceStub(channel)
        saved = await personas.SavePersona(
            persona_service_pb2.SavePersonaRequest(persona=persona_service_pb2.Persona(name="anna")), **options
        )
        assert (
            await personas.GetPersona(persona_service_pb2.GetPersonaRequest(name="anna"), **options)
        ).persona == saved.persona
        await personas.DeletePersona(persona_service_pb2.DeletePersonaRequest(name="anna"), **options)
        assert len((await personas.ListPersonas(persona_service_pb2.ListPersonasRequest(), **options)).personas) == 2


async def test_a_member_may_not_change_personas(core: Core) -> None:
    from dragoman.v1 import account_service_pb2 as accounts
    from dragoman.v1.account_service_pb2_grpc import AccountServiceStub

    stub: Any = AccountServiceStub(core.channel())
    secret = (await stub.CreateKey(accounts.CreateKeyRequest(name="m"), metadata=METADATA)).secret
    options: Any = {"metadata": (("authorization", f"Bearer {secret}"),), "timeout": 20}
    personas: Any = PersonaServiceStub(core.channel())
    request = persona_service_pb2.SavePersonaRequest(persona=persona_service_pb2.Persona(name="anna"))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await personas.SavePersona(request, **options)
    assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    store = StoreSettings(url=SecretStr(sqlite_url(tmp_path / "dragoman.db")))
    options: Any = {"metadata": METADATA, "timeout": 20}
    async with running_core(store=store) as core:
        stub: Any = ConversationServiceStub(core.channel())
        made = (
            await stub.CreateConversation(pb.CreateConversationRequest(messages=[new("kept")]), **options)
        ).conversation
    async with running_core(store=store) as core:
        stub = ConversationServiceStub(core.channel())
        again = await stub.GetConversation(pb.GetConversationRequest(conversation_id=made.id), **options)
        assert again.conversation == made


async def test_a_model_makes_the_title() -> None:
    async with running_core(conversations=ConversationSettings(title="model")) as core:
        stub: Any = ConversationServiceStub(core.channel())
        options: Any = {"metadata": METADATA, "timeout": 20}
        made = (await stub.CreateConversation(pb.CreateConversationRequest(), **options)).conversation
        request = ExecuteRunRequest()
        request.spec.chat.CopyFrom(chat("Why?", model="demo/echo", conversation_id=made.id))
        await RunServiceStub(core.channel()).ExecuteRun(request, **options)
        wanted = pb.GetConversationRequest(conversation_id=made.id)
        for _ in range(500):
            title = (await stub.GetConversation(wanted, **options)).conversation.title
            if title != "Why?":
                break
            await asyncio.sleep(0.02)
        assert title.startswith("You said: Why?")
