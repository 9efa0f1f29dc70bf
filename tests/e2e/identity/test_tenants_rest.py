"""Tenants over REST: whoever asks, on whatever documented route, sees and changes nothing of another account.

The routes, and where they take ids, are read from the OpenAPI document, so that what comes later is tried too.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_edge.dialects.soke.ids import guid_of
from dragoman_server.accounts.keys import operator
from tests.support.core import KEY, running_core
from tests.support.edge import client_of, running_edge
from tests.support.soke import JWT
from tests.support.tokens import token
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import aiohttp

MARK = "a-secret-of-the-other-account"
TEXT = {"text": {"text": "x"}}
MESSAGES = [{"role": "user", "content": "hello"}]

IDS = {
    "account_id": "account", "key_id": "key", "user_id": "user", "run_id": "run", "conversation_id": "conversation",
    "chatId": "chat", "messageId": "message", "message_id": "message", "conversationId": "guid", "connectionId": "guid",
    "X-Dragoman-Conversation": "conversation",
}  # fmt: skip
"""What the ids in requests name."""
OTHER_IDS = {
    "model_id", "OpenAIAPIKey", "modelNameAndTask", "geminiUrl", "proxyUrl", "request_id", "short_id", "X-Request-Id",
    "name", "Last-Event-ID",
}  # fmt: skip
"""What looks like an id, or stands in a path, and names nothing of an account, or nothing that is looked up."""
BODIES: dict[str, Any] = {
    "soke.ChatRequest": {"messages": MESSAGES},
    "ChatCompletionRequest": {"model": "demo/echo", "messages": MESSAGES},
    "gemini.GenerateContentRequest": {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]},
    "alchemyst.DirectRequest": {"chat_history": MESSAGES},
    "alchemyst.GenerateRequest": {"chat_history": MESSAGES},
    "alchemyst.ForkRequest": {"chatId": "", "messageId": "m"},
    "alchemyst.PinRequest": {"pinned": True},
    "alchemyst.PatchRequest": {"title": "x"},
    "dragoman.v1.ForkConversationRequest": {},
    "dragoman.v1.AppendMessagesRequest": {"messages": [{"message": {"role": "ROLE_USER", "parts": [TEXT]}}]},
    "dragoman.v1.UpdateConversationRequest": {"title": "x"},
    "dragoman.v1.UpdateUserRequest": {"name": "x"},
    "dragoman.v1.UpdateKeyRequest": {"name": "x"},
    "dragoman.v1.CreateKeyRequest": {"name": "x"},
    "dragoman.v1.CreateUserRequest": {"email": "x@acme.test"},
    "dragoman.v1.GrantCreditsRequest": {"amount_micros": 1},
    "dragoman.v1.AdjustCreditsRequest": {"amount_micros": 1},
    "dragoman.v1.UpdateAccountRequest": {"name": "x"},
}
"""Bodies that are good but for the ids in them."""
OPERATOR_ROUTES = {
    ("post", "/v1/accounts"), ("post", "/v1/credits/grant"), ("post", "/v1/credits/adjust"),
    ("patch", "/v1/accounts/{account_id}"), ("delete", "/v1/accounts/{account_id}"),
}  # fmt: skip
"""What an account's own administrator may not do to any account."""
FILTERS = {("/v1/usage", "key_id"), ("/v1/usage", "user_id"), ("/v1/usage/summary", "key_id"),
           ("/v1/usage/summary", "user_id"), ("/v1/credits/entries", "run_id")}  # fmt: skip
"""Where an id only narrows a list: what matches nothing gives an empty one."""
CHOSEN = {"/api/v1/chat/generate", "/api/v1/chat/generate/stream"}
"""Where an id that the account does not have becomes that of a new chat of its own."""
FOR_TOKENS = ("/api/v1/chat/completions", "/api/v1/conversations", "/api/v1/connections")
"""Where only tokens find what is stored: they are asked with those."""
PROXIES = "/api/v1/proxy/"
"""The same handlers as elsewhere, before servers that have to be on a list."""


class Place(NamedTuple):
    """Where a route takes an id: in its `path`, `query`, `header` or `body`."""

    method: str
    path: str
    where: str
    name: str
    body: str


@dataclass
class House:
    """An edge in front of a core with two accounts, and what one of them has."""

    client: aiohttp.ClientSession
    secrets: dict[str, str]
    ids: dict[str, str]
    document: dict[str, Any]

    def secret(self, role: str, path: str) -> str:
        """Returns the credential of somebody in the account that has nothing, for a path."""
        return self.secrets[f"{role} by token" if path.startswith(FOR_TOKENS) else role]

    async def ask(self, method: str, path: str, secret: str, **options: Any) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {secret}", **options.pop("headers", {})}
        async with self.client.request(method, path, headers=headers, **options) as answer:
            return answer.status, await answer.text()

    async def theirs(self) -> list[str]:
        """Returns all that the other account has, but for what is told of it."""
        _, lines = await self.ask("GET", "/v1/accounts/other/export", KEY)
        rows = [line for line in lines.splitlines() if json.loads(line)["table"] not in UNSETTLED]
        assert any(MARK in row for row in rows)
        return sorted(rows)


UNSETTLED = {"audit_entries", "usage_records", "usage_hours"}


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with (
        running_core(auth=JWT) as core,
        running_edge(core.channel()) as edge,
        client_of(edge, headers={}) as client,
    ):
        _, document = await House(client, {}, {}, {}).ask("GET", "/openapi.json", "")
        house = House(client, {}, {"account": "other"}, json.loads(document))
        for account_id in ("acme", "other"):
            await core.accounts.tenants.create(operator(), account_id, account_id)
        for name, account_id, role in (
            ("member", "acme", KeyRole.KEY_ROLE_MEMBER),
            ("admin", "acme", KeyRole.KEY_ROLE_ADMIN),
            ("other", "other", KeyRole.KEY_ROLE_ADMIN),
        ):
            key, house.secrets[name] = await core.accounts.keys.create(operator(account_id), name, role)
            house.secrets[f"{name} by token"] = token(time.time(), sub=name, account=account_id, role=[name])
        user = await core.accounts.users.create(operator("other"), f"{MARK}@other.test", name=MARK)
        house.ids |= {"key": key.id, "user": user.id}
        await fill(house)
        await until(lambda: core.runs.active == 0)
        yield house


async def fill(house: House) -> None:
    """Gives the other account something of each kind."""
    secret = house.secrets["other"]
    message = {"message": {"role": "ROLE_USER", "parts": [{"text": {"text": MARK}}]}}
    _, made = await house.ask("POST", "/v1/conversations", secret, json={"title": MARK, "messages": [message]})
    conversation = json.loads(made)["conversation"]
    house.ids |= {"conversation": conversation["id"], "chat": conversation["short_id"]}
    house.ids["guid"] = guid_of(conversation["id"])
    house.ids["message"] = conversation["head_message_id"]
    status, _ = await house.ask("PUT", f"/v1/personas/{MARK}", secret, json={"name": MARK, "system_prompt": MARK})
    assert status == 200
    body = {"messages": [{"role": "user", "content": MARK}]}
    await house.ask("POST", "/v1/chat/completions", secret, json=body, headers={"Idempotency-Key": "one"})
    _, runs = await house.ask("GET", "/v1/runs", secret)
    house.ids["run"] = json.loads(runs)["runs"][0]["id"]


def places(document: dict[str, Any]) -> Iterator[Place]:
    """Yields every place where a documented route takes an id of something that an account has."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            body = next((kind["schema"].get("$ref", "") for kind in content.values()), "").rpartition("/")[2]
            taken = [(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", ())]
            fields = document["components"]["schemas"].get(body, {}).get("properties", {})
            taken += [("body", name) for name in fields if name.lower().endswith("id")]
            for where, name in taken:
                if name in IDS and not path.startswith(PROXIES):
                    yield Place(method, path, where, name, body)
                elif name not in IDS and (where == "path" or name.lower().endswith("id")):
                    assert name in OTHER_IDS, f"say in this test what {name} of {method} {path} names"


async def attempt(house: House, place: Place, secret: str) -> tuple[int, str]:
    """Does what a route does, to what another account has."""
    path, options = place.path, {}
    body = dict(BODIES.get(place.body, {})) if place.body else None
    if place.where == "query":
        options["params"] = {place.name: house.ids[IDS[place.name]]}
    elif place.where == "header":
        options["headers"] = {place.name: house.ids[IDS[place.name]]}
    elif place.where == "body":
        assert body is not None
        body |= {name: house.ids[IDS[name]] for name in {*body, place.name} & IDS.keys()}
    if body is not None:
        options["json"] = body
    for name, kind in IDS.items():
        path = path.replace(f"{{{name}}}", house.ids[kind])
    return await house.ask(place.method, path.replace("{model_id}", "demo/echo"), secret, **options)


async def test_what_is_anothers_does_not_exist_on_any_route(house: House) -> None:
    found = list(places(house.document))
    assert len(found) > 40
    assert {place.where for place in found} == {"path", "query", "header", "body"}
    before = await house.theirs()
    wrong = []
    for place in sorted(found, key=lambda place: place.path in CHOSEN):  # those last
        for role in ("member", "admin"):
            status, told = await attempt(house, place, house.secret(role, place.path))
            expected = {404}
            if place.path in CHOSEN:
                expected = {200, 201}
            elif (place.path, place.name) in FILTERS:
                expected = {200, 404} if role == "admin" else {200, 403, 404}
            elif role == "member":  # who may not do it to anybody, hears that
                expected = {403, 404}
            elif (place.method, place.path) in OPERATOR_ROUTES:
                expected = {403}
            if status not in expected or MARK in told:
                wrong.append((role, place, status, told[:200]))
    assert wrong == []
    assert await house.theirs() == before


async def test_lists_hold_nothing_of_others(house: House) -> None:
    lists = [
        path
        for path, methods in house.document["paths"].items()
        if "get" in methods and "{" not in path and methods["get"].get("security") != []
    ]
    assert len(lists) > 10
    for path in lists:
        _, told = await house.ask("GET", path, house.secret("admin", path))
        assert MARK not in told, path


async def test_anothers_persona_is_unknown(house: House) -> None:
    for method in ("GET", "DELETE"):
        assert (await house.ask(method, f"/v1/personas/{MARK}", house.secrets["admin"]))[0] == 404
    body, headers = BODIES["ChatCompletionRequest"], {"X-Dragoman-Persona": MARK}
    status, told = await house.ask("POST", "/v1/chat/completions", house.secrets["admin"], json=body, headers=headers)
    assert status == 400, told
