from __future__ import annotations

from typing import Any

import orjson
import pytest

from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.gemini.dialect import DIALECT
from dragoman_server.providers.remote import RemoteProvider
from dragoman_server.providers.vendors import vendors
from dragoman_server.settings import ProviderSettings
from tests.support.generation import Recording, chat, generate, start
from tests.support.upstream_gemini import chunk, error, retry_info, text
from tests.support.upstream_server import Answer, UpstreamServer, raw, stream, whole

KEY = "AIzaSy-not-a-real-key-0123456789"


def provider_of(server: UpstreamServer) -> RemoteProvider:
    settings: dict[str, Any] = {"base_url": server.url, "api_key": KEY}
    return RemoteProvider(ProviderSettings(name="google", **settings), DIALECT, vendors()["google"])


async def failing(answer: Answer, *, incremental: bool = True) -> Recording:
    async with UpstreamServer(answer) as server:
        provider = provider_of(server)
        _, recording = start(provider, GenerationRequest(chat("Hi"), "m", incremental=incremental))
        assert await recording.end() is not None
        await provider.close()
    return recording


async def test_the_request_on_the_wire() -> None:
    async with UpstreamServer(raw(stream(text("Hello"), chunk(finish="STOP")))) as server:
        provider = provider_of(server)
        assert (await generate(provider, GenerationRequest(chat("Hi"), "gemini-3.5-flash"))).text == "Hello"
        await provider.close()
    [request] = server.requests
    assert request.head == "POST /v1/models/gemini-3.5-flash:streamGenerateContent?alt=sse HTTP/1.1"
    assert request.headers["x-goog-api-key"] == KEY
    assert "authorization" not in request.headers
    assert request.json == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


CLOUD = "/v1/projects/p/locations/l/publishers/google"


@pytest.mark.parametrize(
    ("path", "full"),
    [("", "/v1beta"), ("/", "/v1beta"), ("/v1beta", "/v1beta"), ("/v1/", "/v1"), ("/g", "/g/v1beta"), (CLOUD, CLOUD)],
)
async def test_the_base_url_may_leave_the_version_out(path: str, full: str) -> None:
    async with UpstreamServer(raw(whole(200, orjson.dumps(text("Hello", finish="STOP"))))) as server:
        settings = ProviderSettings(name="g", base_url=f"http://127.0.0.1:{server.port}{path}")
        provider = RemoteProvider(settings, DIALECT, vendors()["google"])
        await generate(provider, GenerationRequest(chat("Hi"), "m", incremental=False))
        await provider.close()
    assert server.requests[0].head == f"POST {full}/models/m:generateContent HTTP/1.1"


@pytest.mark.parametrize("as_list", [False, True])
async def test_a_refusal(as_list: bool) -> None:
    body: Any = error(429, f"slow down, {KEY}", "RESOURCE_EXHAUSTED", retry_info("7s"))
    recording = await failing(raw(whole(429, orjson.dumps([body] if as_list else body))))
    [failure] = recording.ends
    assert failure is not None
    assert (failure.reason, failure.retry_after.seconds) == ("PROVIDER_RATE_LIMITED", 7)
    assert (failure.metadata["provider"], failure.metadata["code"]) == ("google", "RESOURCE_EXHAUSTED")
    assert KEY not in failure.message


async def test_what_came_before_a_failure_is_kept() -> None:
    recording = await failing(raw(stream(text("Hel"), text("lo", finish="MALFORMED_FUNCTION_CALL"))))
    [failure] = recording.ends
    assert failure is not None
    assert (failure.reason, failure.retryable) == ("PROVIDER_FAILED", True)
    assert recording.text == "Hello"
    assert recording.finished is None


@pytest.mark.parametrize("incremental", [True, False])
async def test_a_stream_that_ends_too_early(incremental: bool) -> None:
    broken = stream(text("Hel")) if incremental else whole(200, orjson.dumps(text("Hel")))
    recording = await failing(raw(broken), incremental=incremental)
    [failure] = recording.ends
    assert failure is not None
    assert failure.reason == "PROVIDER_PROTOCOL"


async def test_a_server_that_streams_a_list() -> None:
    chunks = orjson.dumps([text("Hel"), text("lo"), chunk(finish="STOP")])
    async with UpstreamServer(raw(whole(200, chunks))) as server:
        provider = provider_of(server)
        assert (await generate(provider, GenerationRequest(chat("Hi"), "m"))).text == "Hello"
        await provider.close()
