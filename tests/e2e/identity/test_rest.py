"""Accounts, users, keys and logins over REST."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from dragoman_server.app import Core
from dragoman_server.settings import AuthSettings, CreditSettings, JwtSettings, LoginSettings
from tests.support.core import KEY, channel_to, running_core
from tests.support.edge import client_of, running_edge
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, token

PASSWORD = "correct horse"


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    jwt = JwtSettings(issuer=ISSUER, audience=AUDIENCE, hs256_secret=SecretStr(SECRET))
    async with running_core(auth=AuthSettings(jwt=jwt, login=LoginSettings(attempts=3))) as core:
        yield core


@pytest.fixture(params=["inprocess", "tcp"])
async def site(request: pytest.FixtureRequest, core: Core) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        channel_to(core, request.param) as channel,
        running_edge(channel) as edge,
        client_of(edge, headers={}) as client,
    ):
        yield client


async def ask(
    site: aiohttp.ClientSession, method: str, path: str, body: Any = None, *, credential: str = KEY
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {credential}"} if credential else {}
    async with site.request(method, path, json=body, headers=headers) as response:
        return response.status, json.loads(await response.read())


async def test_the_life_of_an_account(site: aiohttp.ClientSession) -> None:
    status, made = await ask(site, "POST", "/v1/accounts", {"name": "Acme", "account_id": "acme"})
    assert (status, made["account"]["id"], made["account"]["name"]) == (200, "acme", "Acme")
    assert (await ask(site, "POST", "/v1/accounts", {"name": "Acme", "account_id": "acme"}))[0] == 409
    limits = {"requests_per_minute": 5, "tokens_per_minute": "7000000000"}
    _, changed = await ask(site, "PATCH", "/v1/accounts/acme", {"name": "Acme & Co", "limits": limits})
    assert changed["account"]["limits"] == limits
    _, key = await ask(site, "POST", "/v1/keys", {"name": "k", "role": "KEY_ROLE_ADMIN", "account_id": "acme"})
    admin = key["secret"]
    _, caller = await ask(site, "GET", "/v1/caller", credential=admin)
    assert (caller["account_id"], caller["key"]["id"]) == ("acme", key["key"]["id"])
    assert (await ask(site, "GET", "/v1/accounts/acme", credential=admin))[1] == changed
    assert (await ask(site, "GET", "/v1/accounts/default", credential=admin))[0] == 404
    assert (await ask(site, "GET", "/v1/accounts", credential=admin))[0] == 403
    _, listed = await ask(site, "GET", "/v1/accounts?page_size=1")
    _, rest = await ask(site, "GET", f"/v1/accounts?page_size=9&page_token={listed['next_page_token']}")
    assert {account["id"] for account in listed["accounts"] + rest["accounts"]} == {"default", "acme"}
    _, entries = await ask(site, "GET", "/v1/audit", credential=admin)
    assert [entry["action"] for entry in entries["entries"]] == ["key.create", "account.update", "account.create"]
    assert await ask(site, "PATCH", "/v1/accounts/acme", {"disabled": True}) == (
        200,
        {"account": {**changed["account"], "disabled": True}},
    )
    status, error = await ask(site, "GET", "/v1/caller", credential=admin)
    assert (status, error["error"]["code"]) == (403, "account_disabled")
    assert await ask(site, "DELETE", "/v1/accounts/acme") == (200, {})
    assert (await ask(site, "DELETE", "/v1/accounts/acme"))[0] == 404
    assert (await ask(site, "DELETE", "/v1/accounts/default"))[0] == 409


async def test_the_life_of_a_restricted_key(site: aiohttp.ClientSession) -> None:
    grants = {"scopes": ["models.read", "account"], "models": ["fa*"], "limits": {"concurrent_runs": 2}}
    body = {"name": "k", "role": "KEY_ROLE_ADMIN", "grants": grants, "expire_time": "2099-01-01T00:00:00Z"}
    _, made = await ask(site, "POST", "/v1/keys", body)
    key_id, secret = made["key"]["id"], made["secret"]
    assert made["key"]["grants"] == grants
    assert (await ask(site, "GET", "/v1/models", credential=secret))[0] == 200
    status, error = await ask(
        site,
        "POST",
        "/v1/chat/completions",
        {"model": "fast", "messages": [{"role": "user", "content": "x"}]},
        credential=secret,
    )
    assert (status, error["error"]["code"]) == (403, "forbidden")
    assert "`runs`" in error["error"]["message"]
    assert (await ask(site, "POST", "/v1/keys", {"name": "wider"}, credential=secret))[0] == 403
    _, changed = await ask(site, "PATCH", f"/v1/keys/{key_id}", {"disabled": True, "name": "off"})
    assert (changed["key"]["disabled"], changed["key"]["name"]) == (True, "off")
    status, error = await ask(site, "GET", "/v1/models", credential=secret)
    assert (status, error["error"]["code"]) == (401, "api_key_disabled")
    for _ in range(2):
        status, revoked = await ask(site, "POST", f"/v1/keys/{key_id}/revoke")
        assert (status, "revoke_time" in revoked["key"]) == (200, True)
    _, listed = await ask(site, "GET", "/v1/keys")
    assert [key["name"] for key in listed["keys"]] == ["bootstrap key", "off"]


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "/v1/keys", {"name": "k", "colour": 1}, "colour"),
        ("POST", "/v1/keys", {"name": 1}, "name"),
        ("POST", "/v1/keys", {"name": "k", "role": "KING"}, "role"),
        (
            "POST",
            "/v1/keys",
            {"name": "k", "grants": {"limits": {"requests_per_minute": "x"}}},
            "grants.limits.requests_per_minute",
        ),
        ("POST", "/v1/keys", {"name": "k", "grants": {"colour": 1}}, "grants.colour"),
        ("POST", "/v1/keys", {"name": "k", "grants": {"scopes": ["all"]}}, "grants.scopes[0]"),
        ("POST", "/v1/keys", {"name": "k", "expire_time": "soon"}, "expire_time"),
        ("POST", "/v1/keys", None, "name"),
        ("POST", "/v1/users", {"email": "x"}, "email"),
        ("GET", "/v1/keys?page_size=many", None, "page_size"),
        ("GET", "/v1/keys?colour=1", None, "colour"),
    ],
)
async def test_bad_input_is_named(site: aiohttp.ClientSession, method: str, path: str, body: Any, param: str) -> None:
    status, error = await ask(site, method, path, body)
    assert (status, error["error"]["param"]) == (400, param)


async def test_everything_of_an_account_can_be_taken_home(site: aiohttp.ClientSession) -> None:
    for number in range(600):  # more than a page of rows
        body = {"email": f"u{number}@acme.test"}
        assert (await ask(site, "POST", "/v1/users", body))[0] == 200
    async with site.get("/v1/accounts/default/export", headers={"x-api-key": KEY}) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "application/x-ndjson")
        rows = [json.loads(line) for line in (await response.read()).splitlines()]
    emails = [row["row"]["email"] for row in rows if row["table"] == "users"]
    assert sorted(emails) == sorted(f"u{number}@acme.test" for number in range(600))
    assert {"accounts", "users", "api_keys", "audit_entries"} <= {row["table"] for row in rows}
    assert not any(name.endswith("_hash") for row in rows for name in row["row"])
    assert (await ask(site, "GET", "/v1/accounts/nobody/export"))[0] == 404
    assert (await ask(site, "GET", "/v1/accounts/default/export", credential=""))[0] == 401


async def test_a_new_account_is_welcomed_however_it_came() -> None:
    jwt = JwtSettings(issuer=ISSUER, audience=AUDIENCE, hs256_secret=SecretStr(SECRET))
    credits = CreditSettings(enabled=True, welcome_micros=5)
    async with (
        running_core(auth=AuthSettings(jwt=jwt), credits=credits) as core,
        running_edge(core.channel()) as edge,
        client_of(edge, headers={}) as site,
    ):
        await ask(site, "POST", "/v1/accounts", {"name": "Acme", "account_id": "acme"})
        for account_id, subject in (("acme", "a"), ("new", "a"), ("new", "b"), (None, "a")):
            credential = token(time.time(), account=account_id, sub=subject)
            _, told = await ask(site, "GET", "/v1/credits/balances", credential=credential)
            assert [balance["available_micros"] for balance in told["balances"]] == ["5"]


async def test_the_account_is_told_as_sognis_sdks_ask_for_it(site: aiohttp.ClientSession) -> None:
    status, told = await ask(site, "GET", "/v1/account/me")
    assert (status, told) == (200, {"status": "success", "data": {"username": "default", "currentEmail": ""}})
    _, user = await ask(site, "POST", "/v1/users", {"email": "ada@example.com", "name": "Ada"})
    _, made = await ask(site, "POST", "/v1/keys", {"name": "hers", "user_id": user["user"]["id"]})
    _, told = await ask(site, "GET", "/v1/account/me", credential=made["secret"])
    assert told["data"] == {"username": "Ada", "currentEmail": "ada@example.com"}
    assert (await ask(site, "GET", "/v1/account/me", credential="dgm_wrong-key-wrong-key"))[0] == 401


async def login(site: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, Any]:
    return await ask(site, "POST", f"/api/v1/auth/{path}", body, credential="")


async def test_a_login_from_its_beginning_to_its_end(site: aiohttp.ClientSession) -> None:
    user = {"email": "Ada@Example.com", "password": PASSWORD, "name": "Ada", "role": "KEY_ROLE_ADMIN"}
    _, made = await ask(site, "POST", "/v1/users", user)
    status, answer = await login(site, "login", {"email": "ada@example.com", "password": PASSWORD})
    assert (status, answer["success"], set(answer["meta"])) == (200, True, {"request_id", "processing_time_ms"})
    first = answer["data"]
    assert set(first) == {"accessToken", "refreshToken", "expiresAt"}
    _, caller = await ask(site, "GET", "/v1/caller", credential=first["accessToken"])
    assert caller == {"account_id": "default", "user": made["user"]}
    question = {"model": "fast", "messages": [{"role": "user", "content": "x"}]}
    assert (await ask(site, "POST", "/v1/chat/completions", question, credential=first["accessToken"]))[0] == 200
    status, answer = await login(site, "refresh", {"refreshToken": first["refreshToken"]})
    assert status == 200
    second = answer["data"]
    status, answer = await login(site, "refresh", {"refreshToken": first["refreshToken"]})  # it was copied
    assert (status, answer["success"], answer["error"]["code"]) == (401, False, "UNAUTHORIZED")
    assert (await login(site, "refresh", {"refreshToken": second["refreshToken"]}))[0] == 401
    status, error = await ask(site, "GET", "/v1/caller", credential=second["accessToken"])
    assert (status, error["error"]["code"]) == (401, "invalid_token")
    _, answer = await login(site, "login", {"email": "ada@example.com", "password": PASSWORD})
    for _ in range(2):
        status, left = await login(site, "logout", {"refreshToken": answer["data"]["refreshToken"]})
        assert (status, left["data"]) == (200, {})
    assert (await ask(site, "GET", "/v1/caller", credential=answer["data"]["accessToken"]))[0] == 401


async def test_wrong_logins_are_refused_alike_and_throttled(site: aiohttp.ClientSession) -> None:
    await ask(site, "POST", "/v1/users", {"email": "ada@example.com", "password": PASSWORD})
    for email in ("ada@example.com", "nobody@example.com"):
        answers = [await login(site, "login", {"email": email, "password": "wrong password"}) for _ in range(3)]
        assert {(status, answer["error"]["code"]) for status, answer in answers} == {(401, "UNAUTHORIZED")}
        status, answer = await login(site, "login", {"email": email, "password": PASSWORD})
        assert (status, answer["error"]["code"]) == (429, "RATE_LIMIT_EXCEEDED")
        assert answer["error"]["details"]["retryAfter"] > 0
    for body in ({}, {"email": 1, "password": "x"}, {"email": "a@b", "password": "x", "colour": 1}):
        status, answer = await login(site, "login", body)
        assert (status, answer["error"]["code"]) == (400, "BAD_REQUEST")
        assert answer["error"]["details"]["field"] in ("email", "colour")


async def test_a_token_of_the_identity_provider_is_taken_on_every_route(
    core: Core, site: aiohttp.ClientSession
) -> None:

    credential = token(time.time(), account="acme", scope="runs models.read account.read conversations")
    for method, path, body in (
        ("GET", "/v1/models", None),
        ("GET", "/v1/caller", None),
        ("GET", "/v1/runs", None),
        ("POST", "/v1/chat/completions", {"model": "fast", "messages": [{"role": "user", "content": "x"}]}),
    ):
        assert (await ask(site, method, path, body, credential=credential))[0] == 200
    _, caller = await ask(site, "GET", "/v1/caller", credential=credential)
    assert (caller["account_id"], caller["user"]["subject"]) == ("acme", "subject-1")
    assert "key" not in caller
    status, error = await ask(site, "POST", "/v1/embeddings", {"input": "x", "model": "fast"}, credential=credential)
    assert (status, error["error"]["code"]) == (403, "forbidden")
    for bad, code in (
        (token(time.time() - 1_000), "token_expired"),
        (token(time.time(), aud="another"), "invalid_token"),
        (credential[:-1] + ("A" if credential[-1] != "A" else "B"), "invalid_token"),
        (credential + "x" * 9_000, "invalid_token"),
        ("..", "invalid_token"),
    ):
        status, error = await ask(site, "GET", "/v1/models", credential=bad)
        assert (status, error["error"]["code"]) == (401, code)


async def test_a_scoped_key_gives_no_key_more_than_it_has(site: aiohttp.ClientSession) -> None:
    _, wide = await ask(site, "POST", "/v1/keys", {"name": "wide"})
    scoped = {"name": "admin", "role": "KEY_ROLE_ADMIN", "grants": {"scopes": ["account", "runs.read"]}}
    _, made = await ask(site, "POST", "/v1/keys", scoped)
    admin, path = made["secret"], f"/v1/keys/{wide['key']['id']}"
    status, answer = await ask(site, "POST", "/v1/keys", {"name": "more"}, credential=admin)
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (403, "permission_error", "forbidden")
    assert "grants.scopes" in answer["error"]["message"]
    assert (await ask(site, "PATCH", path, {"disabled": True}, credential=admin))[1]["key"]["disabled"]
    status, answer = await ask(site, "PATCH", path, {"disabled": False}, credential=admin)
    assert (status, "grants.scopes" in answer["error"]["message"]) == (403, True)
    status, _ = await ask(site, "GET", "/v1/models", credential=wide["secret"])
    assert status == 401
    own = f"/v1/keys/{made['key']['id']}"
    assert (await ask(site, "PATCH", own, {"grants": {"scopes": ["account", "runs"]}}, credential=admin))[0] == 403
    within = {"name": "less", "grants": {"scopes": ["runs.read"]}}
    assert (await ask(site, "POST", "/v1/keys", within, credential=admin))[0] == 200
    assert (await ask(site, "POST", f"{path}/revoke", {}, credential=admin))[0] == 200
