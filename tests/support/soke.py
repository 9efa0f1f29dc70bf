"""Requests of Soke's API, as its clients make them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from dragoman_server.settings import AuthSettings, JwtSettings
from tests.support.core import KEY, running_core
from tests.support.edge import client_of, running_edge, url_of
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, token

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

    from dragoman_server.app import Core

API = "/api/v1"
CHAT = f"{API}/chat/completions"
CONVERSATIONS = f"{API}/conversations"
BY_KEY = {"X-Soke-Key": KEY}
JWT = AuthSettings(jwt=JwtSettings(issuer=ISSUER, audience=AUDIENCE, hs256_secret=SecretStr(SECRET)))
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def user(text: Any, **members: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **members}


def script(**members: Any) -> dict[str, Any]:
    """A question whose answer is scripted."""
    return user(f"SCRIPT {json.dumps(members)}")


def by_token(subject: str = "ada", **claims: Any) -> dict[str, str]:
    """Returns the headers of somebody whom the identity provider knows; all are of the same account."""
    return {"Authorization": f"Bearer {token(time.time(), sub=subject, **{'account': 'acme', **claims})}"}


@dataclass
class Answer:
    """What came back: the body as it is in JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def error(self) -> Any:
        """The error in an envelope, which is checked."""
        assert set(self.body) == {"success", "error", "meta"}
        assert self.body["success"] is False
        assert self.body["meta"] == {"request_id": self.headers["X-Request-Id"]}
        error = self.body["error"]
        assert set(error) == {"code", "message", "details"}
        return error

    @property
    def data(self) -> Any:
        """The data in an envelope, which is checked."""
        assert self.status == 200, self.body
        assert set(self.body) == {"success", "data", "meta"}
        assert self.body["success"] is True
        assert self.body["meta"]["request_id"] == self.headers["X-Request-Id"]
        assert isinstance(self.body["meta"]["processing_time_ms"], int)
        return self.body["data"]

    @property
    def said(self) -> str:
        """What a completion says."""
        assert self.status == 200, self.body
        return str(self.body["choices"][0]["message"]["content"])


@dataclass
class Site:
    """An edge before a core, and a client without a credential."""

    core: Core
    client: aiohttp.ClientSession
    url: str

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> Answer:
        async with self.client.request(method, path, headers=headers, json=body) as response:
            return Answer(response.status, response.headers, await response.json())

    async def chat(self, headers: Mapping[str, str], *messages: Any, **fields: Any) -> Answer:
        return await self.ask("POST", CHAT, headers, {"messages": messages, **fields})

    async def stream(self, headers: Mapping[str, str], *messages: Any, **fields: Any) -> tuple[Mapping[str, str], Any]:
        """Returns the headers and the frames of a stream, which must end as it should."""
        body = {"messages": messages, "stream": True, **fields}
        async with self.client.post(CHAT, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert response.headers["Cache-Control"] == "no-cache"
            return response.headers, frames_of(await response.text())

    async def conversation_ids(self, headers: Mapping[str, str]) -> list[str]:
        return [one["id"] for one in (await self.ask("GET", CONVERSATIONS, headers)).data["conversations"]]


def frames_of(wire: str) -> list[Any]:
    """Returns the frames of a stream: one line of data each, and the mark of the end."""
    frames = [frame for frame in wire.replace(": ping\n", "").split("\n\n") if frame]
    assert frames.pop() == "data: [DONE]"
    assert all(frame.startswith("data: ") and len(frame.splitlines()) == 1 for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@asynccontextmanager
async def soke_site(*, soke_model: str = "", **sections: Any) -> AsyncIterator[Site]:
    async with (
        running_core(**{"default_model": "fast", "auth": JWT, **sections}) as core,
        running_edge(core.channel(), soke_model=soke_model) as edge,
        client_of(edge, headers={}) as client,
    ):
        yield Site(core, client, url_of(edge))
