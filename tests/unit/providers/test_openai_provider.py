from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest

from dragoman_server.errors import DragomanError, InvalidRequest
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.registry import make_provider
from dragoman_server.providers.remote import RemoteProvider
from dragoman_server.settings import ProviderSettings
from tests.support.generation import BOUND, Recording, chat, generate, start
from tests.support.upstream_server import (
    CLOSE,
    DONE,
    Answer,
    UpstreamServer,
    chunk,
    chunked,
    cut,
    event,
    head,
    in_turn,
    raw,
    stream,
    whole,
)

STOP = chunk({}, "stop")
HI = GenerationRequest(chat("hi"), "m")
HI_WHOLE = GenerationRequest(chat("hi"), "m", incremental=False)
SSE = head(200, "text/event-stream", Transfer_Encoding="chunked")
ANSWER = orjson.dumps({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]})


@asynccontextmanager
async def serving(answer: Answer, **settings: Any) -> AsyncIterator[tuple[UpstreamServer, RemoteProvider]]:
    async with UpstreamServer(answer) as server:
        fields = {"name": "up", "dialect": "openai_chat", "base_url": server.url, **settings}
        provider = make_provider(ProviderSettings.model_validate(fields))
        assert isinstance(provider, RemoteProvider)
        await provider.open()
        try:
            yield server, provider
        finally:
            await provider.close()


async def fail(answer: Answer, request: GenerationRequest = HI, **settings: Any) -> tuple[Any, Recording]:
    async with serving(answer, **settings) as (_, provider):
        _, recording = start(provider, request)
        failure = await recording.end()
        assert failure is not None
        return failure, recording


async def test_the_request_on_the_wire() -> None:
    settings = {"api_key": "secret", "headers": {"X-Team": "blue", "user-agent": "mine"}}
    async with serving(raw(whole(200, ANSWER)), **settings) as (server, provider):
        await generate(provider, HI_WHOLE)
        (request,) = server.requests
    assert request.head == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["x-team"] == "blue"
    assert request.headers["user-agent"] == "mine"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["content-type"] == "application/json"
    assert request.json == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def test_a_header_of_the_settings_takes_the_place_of_the_key() -> None:
    settings = {"api_key": "secret", "headers": {"authorization": "Basic x"}}
    async with serving(raw(whole(200, ANSWER)), **settings) as (server, provider):
        await generate(provider, HI_WHOLE)
        assert server.requests[0].headers["authorization"] == "Basic x"


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "nowhere"},
        {"api_key": "a\r\nX-Evil: 1"},
        {"headers": {"X\r\nY": "1"}},
        {"headers": {"X": "a\nb"}},
        {"headers": {"Content-Length": "0"}},
        {"headers": {"": "x"}},
    ],
)
def test_settings_that_would_break_requests_are_refused(settings: dict[str, Any]) -> None:
    fields = {"name": "up", "dialect": "openai_chat", "base_url": "http://127.0.0.1:1/v1", **settings}
    with pytest.raises(InvalidRequest):
        make_provider(ProviderSettings.model_validate(fields))


async def test_one_read_is_one_batch() -> None:
    answer = stream(*(chunk({"content": f"{at};"}) for at in range(200)), STOP, DONE)
    async with serving(raw(answer)) as (_, provider):
        recording = await generate(provider, HI)
    assert recording.text == "".join(f"{at};" for at in range(200))
    assert len(recording.batches) < 20


async def test_ten_thousand_events() -> None:
    answer = stream(*[chunk({"content": "word "})] * 10_000, STOP, DONE)
    async with serving(raw(*cut(answer, 50_001))) as (_, provider):
        assert (await generate(provider, HI)).text == "word " * 10_000


async def test_a_huge_event_in_small_packets() -> None:
    text = "0123456789" * 300_000
    async with serving(raw(*cut(stream(chunk({"content": text}), STOP, DONE), 9_973))) as (_, provider):
        assert (await generate(provider, HI)).text == text


@pytest.mark.parametrize("kind", ["text/event-stream", "text/event-stream;charset=utf-8", "text/plain", ""])
async def test_streams_of_any_type_but_json(kind: str) -> None:
    body = event(chunk({"content": "a"})) + event(STOP) + DONE
    async with serving(raw(whole(200, body, kind))) as (_, provider):
        assert (await generate(provider, HI)).text == "a"


async def test_a_whole_answer_to_a_request_for_a_stream() -> None:
    async with serving(raw(whole(200, ANSWER))) as (_, provider):
        assert (await generate(provider, HI)).text == "hello"


async def test_a_stream_to_a_request_for_a_whole_answer() -> None:
    async with serving(raw(stream(chunk({"content": "a"}), STOP, DONE))) as (_, provider):
        assert (await generate(provider, HI_WHOLE)).text == "a"


async def test_the_end_of_the_connection_may_be_the_end_of_the_stream() -> None:
    body = head(200, "text/event-stream") + event(chunk({"content": "a"})) + event(STOP)
    async with serving(raw(body, CLOSE)) as (_, provider):
        assert (await generate(provider, HI)).text == "a"


async def test_the_generation_ends_with_done_and_the_connection_is_used_again() -> None:
    """The end of the body comes late, and is nobody's concern but the pool's."""
    body = SSE + chunked(event(chunk({"content": "a"})) + event(STOP) + DONE)
    async with serving(raw(body, 0.1, b"0\r\n\r\n")) as (server, provider):
        await generate(provider, HI)
        await asyncio.sleep(0.3)
        await generate(provider, HI)
        assert server.connection_count == 1


@pytest.mark.parametrize("request_", [HI, HI_WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "pieces",
    [
        [20.0],
        [SSE, 20.0],
        [SSE + chunked(event(chunk({"content": "a"}))), 20.0],
        [SSE, *[chunked(b": ping\n\n"), 0.01] * 2000],
        [head(200, Content_Length=99) + b"{", 20.0],
    ],
)
async def test_cancelling_reaches_the_server(pieces: list[Any], request_: GenerationRequest) -> None:
    async with serving(raw(*pieces)) as (server, provider):
        generation, recording = start(provider, request_)
        async with asyncio.timeout(BOUND):
            while not server.requests:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        cancelled_at = time.monotonic()
        generation.cancel()
        failure = await recording.end()
        assert failure is not None
        assert failure.reason == "CANCELLED"
        async with asyncio.timeout(BOUND):
            await server.aborted.wait()
        assert server.aborts[0] - cancelled_at < 1  # the promise of `Generation.cancel`


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([whole(200, b"")], "PROVIDER_PROTOCOL"),
        ([whole(200, b"<html>sorry</html>", "text/html")], "PROVIDER_PROTOCOL"),
        ([whole(200, b'{"error": {"message": "x", "type": "server_error"}}')], "PROVIDER_FAILED"),
        ([whole(500, b"down", "text/plain")], "PROVIDER_FAILED"),
        ([whole(307, b"", Location="http://127.0.0.1:1/")], "PROVIDER_FAILED"),
        ([whole(201, ANSWER)], "PROVIDER_FAILED"),
        ([head(503, Content_Length=99) + b'{"error":', CLOSE], "PROVIDER_FAILED"),
        ([head(500, Content_Length=9_000_000), *[b"x" * 100_000] * 90], "PROVIDER_FAILED"),
        ([whole(200, b"\x1f\x8b", Content_Encoding="gzip")], "PROVIDER_PROTOCOL"),
        ([stream()], "PROVIDER_PROTOCOL"),
        ([stream(DONE)], "PROVIDER_PROTOCOL"),
        ([stream(b": ping\n\n")], "PROVIDER_PROTOCOL"),
        ([head(200, "text/event-stream"), CLOSE], "PROVIDER_PROTOCOL"),
    ],
)
@pytest.mark.parametrize("request_", [HI, HI_WHOLE], ids=["stream", "whole"])
async def test_never_an_empty_success(pieces: list[Any], reason: str, request_: GenerationRequest) -> None:
    failure, recording = await fail(raw(*pieces), request_)
    assert failure.reason == reason
    assert recording.events == []


async def test_the_wait_that_a_rate_limit_asks_for() -> None:
    failure, _ = await fail(raw(whole(429, b'{"error":{"message":"slow down"}}', Retry_After=12)))
    assert (failure.reason, failure.message) == ("PROVIDER_RATE_LIMITED", "slow down")
    assert failure.retry_after.seconds == 12
    assert failure.retryable


async def test_a_refused_key_is_not_told() -> None:
    body = b'{"error":{"message":"bad key topsecretkey0 at https://x.example.org"}}'
    for status in (400, 401):
        failure, _ = await fail(raw(whole(status, body)), api_key="topsecretkey0")
        assert "topsecretkey0" not in str(failure)
        assert "example.org" not in str(failure)


@pytest.mark.parametrize("broken", [b"0\r", b""])
async def test_a_stream_that_is_cut_off_after_some_text(broken: bytes) -> None:
    body = SSE + chunked(event(chunk({"content": "a"}))) + broken
    failure, recording = await fail(raw(body, CLOSE))
    assert failure.reason == "PROVIDER_PROTOCOL"
    assert recording.text == "a"
    assert recording.finished is None


async def test_silence_is_a_timeout_and_pings_are_silence() -> None:
    failure, recording = await fail(raw(SSE, *[chunked(b": ping\n\n"), 0.02] * 500), first_event_timeout=0.2)
    assert failure.reason == "PROVIDER_TIMEOUT"
    failure, recording = await fail(
        raw(SSE + chunked(event(chunk({"content": "a"}))), *[chunked(b": ping\n\n"), 0.02] * 500), idle_timeout=0.2
    )
    assert failure.reason == "PROVIDER_TIMEOUT"
    assert recording.text == "a"


async def test_a_failure_leaves_the_provider_usable() -> None:
    async with serving(in_turn(raw(whole(500, b"{}")), raw(b"junk"), raw(whole(200, ANSWER)))) as (_, provider):
        for _ in range(2):
            assert await start(provider, HI_WHOLE)[1].end() is not None
        assert (await generate(provider, HI_WHOLE)).text == "hello"


async def test_many_generations_share_connections() -> None:
    async with serving(raw(0.01, whole(200, ANSWER)), max_connections=8) as (server, provider):
        recordings = [start(provider, HI_WHOLE)[1] for _ in range(16)]
        with pytest.raises(DragomanError) as refused:
            provider.start(HI_WHOLE, Recording())
        assert refused.value.reason == "OVERLOADED"
        for recording in recordings:
            assert await recording.end() is None
        assert server.connection_count == 8


async def test_what_is_refused_sends_nothing() -> None:
    spec = chat("hi")
    spec.response_format.grammar.definition = "x"
    async with serving(raw(whole(200, ANSWER))) as (server, provider):
        with suppress(DragomanError):
            provider.start(GenerationRequest(spec, "m"), Recording())
        await asyncio.sleep(0.05)
        assert server.connection_count == 0
