"""A client that is gone in the very turn of the loop in which its request came leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import warnings
from typing import Any

import pytest

from dragoman_edge.http.connection import Connection
from dragoman_server.settings import RateLimitSettings
from tests.support.core import KEY, running_core
from tests.support.edge import client_of, running_edge

CHAT = "/v1/chat/completions"
GOOGLE = "/v1beta/models/demo/echo"
HELLO = {"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}]}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


class Transport(asyncio.Transport):
    """A transport whose client reads nothing more."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, HELLO),
        (CHAT, HELLO | {"stream": True}),
        (CHAT, HELLO | {"model": "nobody/knows"}),
        (CHAT, {}),
        (f"{GOOGLE}:generateContent", CONTENTS),
        (f"{GOOGLE}:streamGenerateContent?alt=sse", CONTENTS),
        ("/v1/conversations", {}),
    ],
)
async def test_nothing_is_left_behind(path: str, body: dict[str, Any], *, limited: bool) -> None:
    limits = RateLimitSettings.model_validate({"key": {"requests_per_minute": 100}} if limited else {})
    async with running_core(rate_limits=limits) as core, running_edge(core.channel()) as edge:
        async with client_of(edge) as client:  # from now on, the core knows the key
            for known in (HELLO, HELLO | {"stream": True}):
                async with client.post(CHAT, json=known) as answer:
                    assert answer.status == 200
                    await answer.read()
        data = json.dumps(body).encode()
        lines = f"Host: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(data)}\r\n"
        connection, transport = Connection(edge._server), Transport()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            connection.connection_made(transport)
            connection.data_received(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + data)
            connection.connection_lost(None)
            await asyncio.sleep(0.01)
            gc.collect()
        assert [str(warning.message) for warning in warned] == []
        assert core.runs.active == 0
        assert connection not in edge._server.connections()
