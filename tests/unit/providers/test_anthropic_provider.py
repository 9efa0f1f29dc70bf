from __future__ import annotations

from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from dragoman_server.providers.anthropic_messages.dialect import DIALECT
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.remote import RemoteProvider
from dragoman_server.providers.vendors import vendors
from dragoman_server.settings import ProviderSettings
from tests.support.generation import Recording, chat, generate, start
from tests.support.upstream_anthropic import MODEL, PING, block, delta, end, error, event, stop
from tests.support.upstream_anthropic import start as message_start
from tests.support.upstream_server import Answer, UpstreamServer, chunked, head, raw, stream, whole

KEY = "sk-ant-secret-key"
BINDING = "thinking-binding-controls-2026-08-01"
REQUEST = GenerationRequest(chat("hi"), MODEL)
ANSWER = [message_start(), block(0, type="text", text=""), delta(0, "text", text="hello"), stop(0), *end("end_turn")]


def provider_at(server: UpstreamServer, **settings: Any) -> RemoteProvider:
    base_url = f"http://127.0.0.1:{server.port}"
    made = ProviderSettings(name="a", vendor="anthropic", base_url=base_url, api_key=SecretStr(KEY), **settings)
    return RemoteProvider(made, DIALECT, vendors()["anthropic"])


async def asked(answer: Answer, **settings: Any) -> tuple[Recording, Any]:
    """Returns what a request to a server that answers so came to, and the failure, if any."""
    async with UpstreamServer(answer) as server:
        provider = provider_at(server, **settings)
        _, recording = start(provider, REQUEST)
        failure = await recording.end()
        await provider.close()
    return recording, failure


async def test_a_request_on_the_wire() -> None:
    async with UpstreamServer(raw(stream(*map(event, ANSWER)))) as server:
        provider = provider_at(server)
        assert (await generate(provider, REQUEST)).text == "hello"
        await provider.close()
    (request,) = server.requests
    assert request.head == "POST /v1/messages HTTP/1.1"
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in request.headers
    assert request.json["stream"] is True


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("", "/v1"),
        ("/", "/v1"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
        ("/anthropic", "/anthropic/v1"),
        ("/v1/a", "/v1/a/v1"),
    ],
)
async def test_the_base_url_may_end_in_the_version_or_before_it(path: str, full: str) -> None:
    async with UpstreamServer(raw(stream(*map(event, ANSWER)))) as server:
        url = f"http://127.0.0.1:{server.port}{path}?team=blue"
        provider = RemoteProvider(ProviderSettings(name="a", base_url=url), DIALECT, vendors()["anthropic"])
        await generate(provider, REQUEST)
        await provider.close()
    assert server.requests[0].head == f"POST {full}/messages?team=blue HTTP/1.1"


async def test_another_version_and_features_can_be_asked_for() -> None:
    headers = {"Anthropic-Version": SecretStr("2030-01-01"), "anthropic-beta": SecretStr("something-new")}
    async with UpstreamServer(raw(stream(*map(event, ANSWER)))) as server:
        provider = provider_at(server, headers=headers)
        await generate(provider, REQUEST)
        await provider.close()
    (request,) = server.requests
    assert request.headers["anthropic-version"] == "2030-01-01"
    assert request.headers["anthropic-beta"] == "something-new"


@pytest.mark.parametrize(("configured", "sent"), [(None, BINDING), ("a,b", f"a,b,{BINDING}")])
async def test_a_feature_that_a_request_needs_joins_those_of_the_settings(configured: str | None, sent: str) -> None:
    headers = {} if configured is None else {"Anthropic-Beta": SecretStr(configured), "x-team": SecretStr("blue")}
    spec = chat("a", "b", "c")
    spec.messages[1].parts.add().reasoning.signature = b"EqoB"
    async with UpstreamServer(raw(stream(*map(event, ANSWER)))) as server:
        provider = provider_at(server, headers=headers)
        await generate(provider, REQUEST._replace(spec=spec, model="claude-opus-5-5"))
        await generate(provider, REQUEST)
        await provider.close()
    with_thoughts, without = server.requests
    assert with_thoughts.head == without.head
    assert with_thoughts.headers["anthropic-beta"] == sent
    assert with_thoughts.headers.get("x-team") == without.headers.get("x-team")
    assert without.headers.get("anthropic-beta") == configured


async def test_an_error_with_a_status() -> None:
    body = orjson.dumps(error("overloaded_error", f"Overloaded: {KEY}"))
    recording, failure = await asked(raw(whole(529, body, Retry_After=3)))
    assert recording.events == []
    assert (failure.reason, failure.retryable, failure.retry_after.seconds) == ("PROVIDER_FAILED", True, 3)
    assert KEY not in str(failure)


async def test_an_error_within_a_stream_keeps_what_was_said() -> None:
    recording, failure = await asked(
        raw(stream(*map(event, ANSWER[:3]), event(error("overloaded_error", "Overloaded"))))
    )
    assert recording.text == "hello"
    assert (failure.reason, failure.message) == ("PROVIDER_FAILED", "Overloaded")


async def test_pings_do_not_hold_off_the_time_limit_of_silence() -> None:
    pings = [piece for _ in range(100) for piece in (chunked(event(PING)), 0.05)]
    begin = head(200, "text/event-stream", Transfer_Encoding="chunked") + b"".join(map(chunked, map(event, ANSWER[:3])))
    recording, failure = await asked(raw(begin, *pings), idle_timeout=0.3)
    assert recording.text == "hello"
    assert failure.reason == "PROVIDER_TIMEOUT"
