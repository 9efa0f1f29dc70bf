"""Stopping an edge: answers that go on may end, for a while."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.e2e.edge.conftest import SETTINGS
from tests.support.fake_core import completed, finished, started, text

if TYPE_CHECKING:
    from tests.e2e.edge.conftest import Site

URL = "/v1/chat/completions"
STREAM = {"stream": True, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("settings", [replace(SETTINGS, drain_timeout=10)])
async def test_a_stream_may_end(site: Site) -> None:
    script = site.core.script()
    script.push(started(), text("a"))
    async with asyncio.timeout(20), site.client.post(URL, json=STREAM) as answer:
        stopping = asyncio.create_task(site.edge.stop())
        await asyncio.sleep(0.2)
        with pytest.raises(aiohttp.ClientConnectionError):
            await site.client.get("/healthz")
        script.push(text("b"), finished(), completed())
        script.end()
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        await stopping


@pytest.mark.parametrize("settings", [replace(SETTINGS, drain_timeout=0.3)])
async def test_but_not_for_ever(site: Site) -> None:
    script = site.core.script()
    script.push(started(), text("a"))
    async with asyncio.timeout(20), site.client.post(URL, json=STREAM) as answer:
        await site.edge.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
        await script.gone.wait()
    assert script.cancelled


async def test_an_idle_edge_stops_at_once(site: Site) -> None:
    async with site.client.get("/healthz") as answer:  # leaves a connection open
        await answer.read()
    async with asyncio.timeout(10):
        await site.edge.stop()
