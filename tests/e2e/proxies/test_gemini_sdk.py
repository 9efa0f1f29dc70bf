"""The official Google Gen AI SDKs through the Gemini proxy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dragoman_server.settings import ProxySettings
from tests.support import upstream_gemini
from tests.support.core import KEY, running_core
from tests.support.edge import running_edge, url_of
from tests.support.proxy_site import UPSTREAM_KEY
from tests.support.toolchains import python_with, run
from tests.support.upstream_server import UpstreamServer

pytestmark = pytest.mark.timeout(600)  # the first test fetches the SDK

PROGRAM = Path(__file__).with_name("gemini_sdk.py")
SDKS = {"1.75.0": "v1beta", "3.4.0": "v1"}
"""Versions, and the version of the API that each asks for if it is told none."""


@pytest.mark.parametrize("version", SDKS)
async def test_the_sdk_asks_through_the_proxy(version: str) -> None:
    python = await asyncio.to_thread(python_with, f"google-genai=={version}")
    async with UpstreamServer(upstream_gemini.generate()) as upstream:
        place = f"http://127.0.0.1:{upstream.port}"
        async with running_core(proxy=ProxySettings(allow=(place,))) as core, running_edge(core.channel()) as edge:
            base_url = f"{url_of(edge)}/api/v1/proxy/{place}"
            printed = await asyncio.to_thread(run, [python, PROGRAM, base_url, KEY, UPSTREAM_KEY])
    found = json.loads(printed)
    assert found["whole"] == "".join(text or "" for text in found["stream"]) == "Hello"
    assert (found["key"], found["failure"]) == (401, 503)
    assert {request.headers["x-goog-api-key"] for request in upstream.requests} == {UPSTREAM_KEY}
    path = f"POST /{SDKS[version]}/models/gemini-x:"
    assert all(request.head.startswith(path) for request in upstream.requests)
    assert all(KEY not in request.head + str(request.headers) for request in upstream.requests)
