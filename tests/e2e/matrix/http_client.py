"""What the HTTP clients of the matrix have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import orjson

from tests.e2e.matrix.words import Served
from tests.support.core import KEY

PATIENCE = 30.0
"""Seconds after which an answer is given up."""


class Reply(NamedTuple):
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def raw(self) -> str:
        """All that was sent."""
        return f"{dict(self.headers)} {self.body.decode()}"

    def frames(self) -> list[bytes]:
        """Returns the data of the events."""
        assert self.headers["content-type"].startswith("text/event-stream"), self.headers
        blocks = self.body.replace(b"\r\n", b"\n").split(b"\n\n")
        return [block.removeprefix(b"data: ") for block in blocks if block.startswith(b"data: ")]


class HttpClient:
    """A client on connections of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = aiohttp.ClientSession(headers={"content-type": "application/json"})

    async def post(self, path: str, body: object, **headers: str) -> Reply:
        async with (
            asyncio.timeout(PATIENCE),
            self.session.post(self.url + path, data=orjson.dumps(body), headers=headers) as answer,
        ):
            found = {name.lower(): value for name, value in answer.headers.items()}
            assert len(found) == len(answer.headers), "a header came twice"
            return Reply(answer.status, found, await answer.read())

    async def close(self) -> None:
        await self.session.close()


def served(headers: Mapping[str, str]) -> Served:
    """Returns what the headers tell about who answered."""
    return Served(
        headers.get("x-dragoman-model", ""),
        headers.get("x-dragoman-provider", ""),
        int(headers.get("x-dragoman-attempts", "0")),
        tuple(filter(None, headers.get("x-dragoman-emulated", "").split(", "))),
        tuple(filter(None, headers.get("x-dragoman-dropped-params", "").split(", "))),
    )


BEARER = f"Bearer {KEY}"
