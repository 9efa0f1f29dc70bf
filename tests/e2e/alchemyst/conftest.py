from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.support.core import channel_to, running_core
from tests.support.edge import client_of, running_edge


@pytest.fixture(params=["inprocess", "tunnel"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of an edge before a core whose default model plays scripts; over both kinds of channel."""
    async with (
        running_core(default_model="fast") as core,
        channel_to(core, request.param) as channel,
        running_edge(channel, hold_headers=5, keep_alive=0.2) as edge,
        client_of(edge) as session,
    ):
        yield session
