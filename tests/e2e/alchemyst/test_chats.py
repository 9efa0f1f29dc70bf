"""The stored chats of Alchemyst's chat API."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from tests.support.alchemyst import CHAT, UNUSED_ID, assistant, call, chat_ids, fetch, generate, said, stream, user

if TYPE_CHECKING:
    import aiohttp

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def save(client: aiohttp.ClientSession, *texts: str) -> str:
    messages = [user(text, id=f"m-{number}") for number, text in enumerate(texts)]
    chat_id: str = (await call(client, "POST", f"{CHAT}/new", 201, {"title": "Saved", "messages": messages}))["chatId"]
    return chat_id


async def test_a_chat_is_saved_and_fetched(client: aiohttp.ClientSession) -> None:
    messages = [user("one", json="{}", steps=["s"]), assistant("two")]
    made = await call(client, "POST", f"{CHAT}/new", 201, {"title": "Saved", "messages": messages})
    assert set(made) == {"chatId"}
    chat = await fetch(client, made["chatId"])
    assert chat.pop("_id") == made["chatId"]
    assert re.fullmatch("[0-9a-f]{24}", chat.pop("userId"))
    assert TIME.fullmatch(chat.pop("createdAt"))
    assert TIME.fullmatch(chat.pop("updatedAt"))
    one, two = chat.pop("messages")
    assert chat == {
        "title": "Saved",
        "source": "platform.converse",
        "scope": "private",
        "fork": False,
        "forkedFrom": None,
        "pinned": False,
    }
    assert (one["role"], one["message"], one["json"], one["steps"]) == ("user", "one", "{}", ["s"])
    assert (two["role"], two["content"], two["steps"], two["tools"]) == ("assistant", "two", [], None)
    assert TIME.fullmatch(one["createdAt"])


async def test_a_saved_chat_goes_on(client: aiohttp.ClientSession) -> None:
    chat_id = await save(client, "one")
    answer = await generate(client, user("one"), assistant("It is."), user("two"), chatId=chat_id)
    assert answer["title"] == "Saved"
    assert await said(client, chat_id) == ["one", "It is.", "two", "You said: two"]


async def test_the_history_is_newest_first_and_tells_when(client: aiohttp.ClientSession) -> None:
    first, second = await save(client, "one"), await save(client, "two")
    assert await chat_ids(client) == [second, first]
    await generate(client, user("one"), assistant("x"), user("more"), chatId=first)
    listed = (await call(client, "GET", f"{CHAT}/history", 200))["chats"]
    assert [chat["id"] for chat in listed] == [first, second]
    assert set(listed[0]) == {"title", "id", "timestamp"}
    assert listed[0]["timestamp"] >= listed[1]["timestamp"] > 1_700_000_000_000


async def test_a_fork_includes_its_message(client: aiohttp.ClientSession) -> None:
    chat_id = await save(client, "one", "two", "three")
    body = {"chatId": chat_id, "messageId": "m-1"}
    answer = await call(client, "POST", f"{CHAT}/fork", 201, body)
    fork_id = answer.pop("forkedChatId")
    assert answer == {"originalChatId": chat_id, "forkedAtMessageId": "m-1"}
    fork = await fetch(client, fork_id)
    assert (fork["fork"], fork["forkedFrom"], fork["title"]) == (True, chat_id, "Saved")
    assert [message["message"] for message in fork["messages"]] == ["one", "two"]
    await call(client, "DELETE", f"{CHAT}/{chat_id}", 200)
    fork = await fetch(client, fork_id)
    assert (fork["fork"], fork["forkedFrom"]) == (True, None)
    missing = await call(client, "POST", f"{CHAT}/fork", 404, {"chatId": fork_id, "messageId": "m-2"})
    assert missing == {"message": "the chat has no message 'm-2'", "error": "Not Found"}


async def test_chats_are_pinned_renamed_and_deleted(client: aiohttp.ClientSession) -> None:
    chat_id, other = await save(client, "one"), await save(client, "two")
    pinned = (await call(client, "PUT", f"{CHAT}/{chat_id}/pin", 200, {"pinned": True}))["data"]
    assert (pinned["_id"], pinned["pinned"]) == (chat_id, True)
    assert "messages" not in pinned
    renamed = (await call(client, "PATCH", f"{CHAT}/{chat_id}", 200, {"title": "New", "pinned": False}))["data"]
    assert (renamed["title"], renamed["pinned"]) == ("New", False)
    deleted = await call(client, "DELETE", f"{CHAT}/{chat_id}", 200)
    assert deleted["chatId"] == chat_id
    assert await chat_ids(client) == [other]
    await call(client, "GET", f"{CHAT}/fetch/{chat_id}", 404)


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", f"{CHAT}/fetch/{{}}", None),
    ("PUT", f"{CHAT}/{{}}/pin", {"pinned": True}),
    ("PATCH", f"{CHAT}/{{}}", {"title": "x"}),
    ("DELETE", f"{CHAT}/{{}}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_ids_are_checked(client: aiohttp.ClientSession, method: str, path: str, body: Any) -> None:
    answer = await call(client, method, path.format("nonsense"), 400, body)
    assert answer == {"message": "Invalid 'chatId': it must be 24 hex digits.", "error": "Bad Request"}
    answer = await call(client, method, path.format(UNUSED_ID), 404, body)
    assert answer == {"message": f"chat '{UNUSED_ID}' does not exist", "error": "Not Found"}


@pytest.mark.parametrize(
    ("method", "path", "body", "members"),
    [
        ("POST", f"{CHAT}/new", {}, {"error"}),
        ("POST", f"{CHAT}/new", {"title": "x"}, {"error"}),
        ("POST", f"{CHAT}/new", {"title": "", "messages": [user("a")]}, {"error"}),
        ("POST", f"{CHAT}/new", {"title": "x", "messages": []}, {"error"}),
        ("POST", f"{CHAT}/new", {"title": "x", "messages": [user("a", id="1"), user("b", id="1")]}, {"error"}),
        ("POST", f"{CHAT}/fork", {"chatId": UNUSED_ID}, {"message", "error"}),
        ("POST", f"{CHAT}/fork", {"chatId": "x", "messageId": "y"}, {"message", "error"}),
        ("PUT", f"{CHAT}/{UNUSED_ID}/pin", {"pinned": "yes"}, {"message", "error"}),
        ("PATCH", f"{CHAT}/{UNUSED_ID}", {}, {"message", "error"}),
        ("PATCH", f"{CHAT}/{UNUSED_ID}", {"title": "x" * 257}, {"message", "error"}),
    ],
)
async def test_bad_bodies_are_refused(
    client: aiohttp.ClientSession, method: str, path: str, body: Any, members: set[str]
) -> None:
    assert set(await call(client, method, path, 400, body)) == members
    assert await chat_ids(client) == []


@pytest.mark.parametrize(
    ("method", "path", "members"),
    [
        ("POST", CHAT, {"message"}),
        ("POST", f"{CHAT}/generate", {"message"}),
        ("POST", f"{CHAT}/generate/stream", {"message"}),
        ("GET", f"{CHAT}/history", {"error"}),
        ("POST", f"{CHAT}/new", {"error"}),
        ("GET", f"{CHAT}/fetch/{UNUSED_ID}", {"message", "error"}),
        ("GET", "/api/v1/settings/api-keys/validate", {"message"}),
    ],
)
async def test_a_key_is_needed(client: aiohttp.ClientSession, method: str, path: str, members: set[str]) -> None:
    body: Any = {"chat_history": [user("a")]} if "generate" in path or path == CHAT else None
    if path.endswith("/new"):
        body = {"title": "x", "messages": [user("a")]}
    headers = {"Authorization": "Bearer wrong"}
    assert set(await call(client, method, path, 401, body, headers=headers)) == members
    assert set(await call(client, "GET", f"{CHAT}/nowhere/at/all", 404)) == {"message"}


async def test_a_key_tells_whose_it_is(client: aiohttp.ClientSession) -> None:
    found = await call(client, "GET", "/api/v1/settings/api-keys/validate", 200)
    chat_id = await save(client, "one")
    assert found["user"]["id"] == (await fetch(client, chat_id))["userId"]
    assert re.fullmatch("[0-9a-f]{24}", found["organization"]["id"])


async def test_a_chat_that_is_saved_twice_under_one_name_is_one(client: aiohttp.ClientSession) -> None:
    body = {"title": "x", "messages": [user("a")]}
    headers = {"Idempotency-Key": "once"}
    first = await call(client, "POST", f"{CHAT}/new", 201, body, headers=headers)
    assert await call(client, "POST", f"{CHAT}/new", 201, body, headers=headers) == first
    assert await chat_ids(client) == [first["chatId"]]


async def test_answers_are_as_documented(client: aiohttp.ClientSession) -> None:
    async with client.get("/openapi.json") as response:
        components = (await response.json())["components"]

    def check(name: str, value: Any) -> None:
        jsonschema.validate(value, {"$ref": f"#/components/schemas/alchemyst.{name}", "components": components})

    body: dict[str, Any] = {"chat_history": [user("hi", id="m-1")], "tools": ["x"], "fastContext": ["a", {"b": 1}]}
    check("GenerateRequest", body)
    answer = await generate(client, *body["chat_history"])
    check("GeneratedAnswer", answer)
    check("DirectAnswer", await call(client, "POST", CHAT, 201, {"chat_history": [user("hi")]}))
    check("Chats", await call(client, "GET", f"{CHAT}/history", 200))
    check("Data", await call(client, "GET", f"{CHAT}/fetch/{answer['chatId']}", 200))
    place = {"chatId": answer["chatId"], "messageId": "m-1"}
    check("ForkRequest", place)
    check("Fork", await call(client, "POST", f"{CHAT}/fork", 201, place))
    for frame in await stream(client, user("hi")):
        check("Frame", frame)
    check("Caller", await call(client, "GET", "/api/v1/settings/api-keys/validate", 200))
    check("Error", await generate(client, status=400))
    check("ListError", await call(client, "POST", f"{CHAT}/new", 400, {}))
    check("StoredError", await call(client, "GET", f"{CHAT}/fetch/{UNUSED_ID}", 404))
    check("Deleted", await call(client, "DELETE", f"{CHAT}/{answer['chatId']}", 200))
