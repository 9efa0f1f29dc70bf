"""What an error about a credential is called, on every route that gateways of the OpenAI kind have, whoever refuses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from dragoman.v1.account_service_pb2 import KeyGrants, RateLimits
from dragoman_server.accounts.keys import operator
from dragoman_server.app import Core
from dragoman_server.settings import ModelSettings
from tests.support.core import KEY, running_core
from tests.support.edge import client_of, running_edge
from tests.support.waiting import until

SLUG = "maker/small"
CHAT = {"model": SLUG, "messages": [{"role": "user", "content": "hello"}]}
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    ("POST", "/v1/embeddings", {"model": SLUG, "input": "hello"}),
    ("GET", "/v1/models", None),
    ("GET", f"/v1/models/{SLUG}", None),
    ("GET", f"/v1/models/{SLUG.replace('/', '%2F')}", None),
]
AUTHENTICATION, PERMISSION = "authentication_error", "permission_error"


@dataclass
class Site:
    core: Core
    client: aiohttp.ClientSession

    async def key(self, account_id: str = "", expire_time: int | None = None, **grants: Any) -> tuple[str, str]:
        """A new key: its id and its secret."""
        keys = self.core.accounts.keys
        key, secret = await keys.create(
            operator(), "x", expire_time=expire_time, grants=KeyGrants(**grants), account_id=account_id
        )
        return key.id, secret

    async def error(self, route: tuple[str, str, Any], headers: dict[str, str]) -> tuple[int, str, str]:
        """The status, the type and the code of what a request is refused with."""
        method, path, body = route
        async with self.client.request(method, path, json=body, headers=headers) as answer:
            error = (await answer.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return answer.status, error["type"], error["code"]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    models = (ModelSettings(id=SLUG, provider="demo", upstream_model="echo"),)
    async with (
        running_core(models=models) as core,
        running_edge(core.channel()) as edge,
        client_of(edge, headers={}) as client,
    ):
        yield Site(core, client)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def test_keys_that_are_not_good(site: Site) -> None:
    accounts = site.core.accounts
    soon = int((time.time() + 0.2) * 1_000_000)
    _, expired = await site.key(expire_time=soon)
    disabled_id, disabled = await site.key()
    await accounts.keys.update(operator(), disabled_id, disabled=True)
    revoked_id, revoked = await site.key()
    await accounts.keys.revoke(operator(), revoked_id)
    await until(lambda: time.time() * 1_000_000 > soon)
    for route in ROUTES:
        for headers, code in (
            ({}, "invalid_api_key"),
            ({"Authorization": "Basic abc"}, "invalid_api_key"),
            ({"Authorization": "Bearer a b"}, "invalid_api_key"),
            (bearer("wrong"), "invalid_api_key"),
            ({"x-api-key": "wrong"}, "invalid_api_key"),
            ({"Authorization": "Bearer one", "x-api-key": "two"}, "invalid_api_key"),
            (bearer("a.b.c"), "invalid_token"),
            (bearer(expired), "api_key_expired"),
            (bearer(disabled), "api_key_disabled"),
            (bearer(revoked), "api_key_disabled"),
        ):
            assert await site.error(route, headers) == (401, AUTHENTICATION, code)


async def test_what_a_good_key_does_not_permit(site: Site) -> None:
    accounts = site.core.accounts
    _, scoped = await site.key(scopes=["usage"])
    _, other_model = await site.key(models=["maker/big"])
    _, other_supplier = await site.key(providers=["elsewhere"])
    await accounts.tenants.create(operator(), "Acme", "acme")
    _, of_disabled = await site.key("acme")
    await accounts.tenants.update(operator(), "acme", disabled=True)
    for route in ROUTES:
        assert await site.error(route, bearer(scoped)) == (403, PERMISSION, "forbidden")
        assert await site.error(route, bearer(of_disabled)) == (403, PERMISSION, "account_disabled")
    for route in ROUTES[:2]:
        assert await site.error(route, bearer(other_model)) == (403, PERMISSION, "forbidden")
        assert await site.error(route, bearer(other_supplier)) == (403, PERMISSION, "supplier_not_allowed")


async def test_too_many_requests(site: Site) -> None:
    _, secret = await site.key(limits=RateLimits(requests_per_minute=1))
    async with site.client.post("/v1/chat/completions", json=CHAT, headers=bearer(secret)) as answer:
        assert answer.status == 200
    for route in ROUTES[:2]:
        assert await site.error(route, bearer(secret)) == (429, "rate_limit_error", "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/completions", 404, "unknown_url"),
        ("POST", "/v1/images/generations", 404, "unknown_url"),
        ("GET", "/v1/models/maker/unknown", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there(site: Site, method: str, path: str, status: int, code: str) -> None:
    assert await site.error((method, path, None), bearer(KEY)) == (status, "invalid_request_error", code)
