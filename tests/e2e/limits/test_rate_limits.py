"""Rate limits through everything: SDK, edge, core, engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import openai
import pytest

from dragoman.v1.account_service_pb2 import CreateKeyRequest, KeyGrants, RateLimits
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub
from dragoman.v1.run_service_pb2 import ExecuteRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.app import Core
from dragoman_server.providers.scripted import SCRIPT_MARK
from dragoman_server.settings import RateLimitSettings, RateSettings
from tests.support.core import KEY, METADATA, running_core
from tests.support.edge import running_edge, url_of
from tests.support.redis import RedisServer, redis_server
from tests.support.waiting import until

__all__ = ["redis_server"]

MESSAGES: list[Any] = [{"role": "user", "content": "one two three four"}]
SLOW = f'{SCRIPT_MARK}{{"text": ["never"], "hang": true}}'


@asynccontextmanager
async def a_site(**rates: Any) -> AsyncIterator[tuple[Core, str]]:
    """A core with limits and an edge before it; its URL."""
    async with (
        running_core(rate_limits=RateLimitSettings.model_validate(rates)) as core,
        running_edge(core.channel()) as edge,
    ):
        yield core, url_of(edge)


def sdk(url: str, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


async def test_the_sdk_reads_what_is_left_and_gets_a_rate_limit_error() -> None:
    async with (
        a_site(key=RateSettings(requests_per_minute=2, tokens_per_minute=10_000)) as (core, url),
        sdk(url) as client,
    ):
        first = await client.chat.completions.with_raw_response.create(model="fast", messages=MESSAGES)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"] == "1m0s"
        assert first.headers["x-ratelimit-remaining-tokens"] == "10000"
        second = await client.chat.completions.with_raw_response.create(model="fast", messages=MESSAGES, stream=True)
        assert second.headers["x-ratelimit-remaining-requests"] == "0"
        assert int(second.headers["x-ratelimit-remaining-tokens"]) < 10_000
        async for _ in second.parse():
            pass
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(model="fast", messages=MESSAGES, stream=stream)
            error = refused.value
            assert error.code == "rate_limit_exceeded"
            assert 50 < int(error.response.headers["retry-after"]) <= 60
            assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
            assert error.response.headers["x-ratelimit-limit-tokens"] == "10000"
        labels = {"scope": "key", "limit": "requests_per_minute"}
        assert core.registry.get_sample_value("dragoman_rate_limited_total", labels) == 2


async def test_used_up_tokens_refuse_the_next_request() -> None:
    async with a_site(account=RateSettings(tokens_per_minute=1)) as (_, url), sdk(url) as client:
        await client.chat.completions.create(model="fast", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="fast", messages=MESSAGES)
        assert "tokens" in refused.value.message
        assert "account" in refused.value.message


async def test_embeddings_count_too() -> None:
    async with a_site(key=RateSettings(requests_per_minute=1)) as (_, url), sdk(url) as client:
        first = await client.embeddings.with_raw_response.create(model="demo/embed", input="a b")
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError):
            await client.embeddings.create(model="demo/embed", input="a b")


async def test_the_place_of_a_run_comes_free_when_its_client_leaves() -> None:
    async with a_site(key=RateSettings(concurrent_runs=1)) as (core, url), sdk(url) as client:
        slow = asyncio.create_task(
            client.chat.completions.create(model="fast", messages=[{"role": "user", "content": SLOW}])
        )
        await until(lambda: core.runs.active == 1)
        await refused_until(client, refused=True)
        slow.cancel()
        await refused_until(client, refused=False)


async def refused_until(client: openai.AsyncOpenAI, *, refused: bool) -> None:
    for _ in range(500):
        try:
            await client.chat.completions.create(model="fast", messages=MESSAGES)
            was = False
        except openai.RateLimitError:
            was = True
        if was == refused:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"never {'refused' if refused else 'admitted'}")


async def test_google_gets_its_own_words() -> None:
    body = {"contents": [{"parts": [{"text": "hi"}]}]}
    async with a_site(key=RateSettings(requests_per_minute=1)) as (_, url), aiohttp.ClientSession(url) as client:
        path = "/v1beta/models/fast:generateContent"
        for status in (200, 429):
            async with client.post(path, json=body, headers={"x-goog-api-key": KEY}) as response:
                assert response.status == status
                answer = await response.json()
        details = {detail["@type"].rpartition(".")[2]: detail for detail in answer["error"]["details"]}
        assert answer["error"]["status"] == "RESOURCE_EXHAUSTED"
        assert details["ErrorInfo"]["reason"] == "RATE_LIMITED"
        assert 50 < float(details["RetryInfo"]["retryDelay"].removesuffix("s")) <= 60


async def test_a_key_has_limits_of_its_own_and_grpc_tells_them() -> None:
    async with running_core() as core:
        channel = core.channel()
        grants = KeyGrants(limits=RateLimits(requests_per_minute=1))
        request = CreateKeyRequest(name="narrow", grants=grants)
        made = await AccountServiceStub(channel).CreateKey(request, metadata=METADATA)
        metadata = (("authorization", f"Bearer {made.secret}"),)
        runs = RunServiceStub(channel)
        run = ExecuteRunRequest()
        run.spec.chat.model = "fast"
        run.spec.chat.messages.add(role="ROLE_USER").parts.add().text.text = "hi"
        done = (await runs.ExecuteRun(run, metadata=metadata)).run
        assert (done.rate_state.request_limit, done.rate_state.requests_remaining) == (1, 0)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await runs.ExecuteRun(run, metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not (await runs.ExecuteRun(run, metadata=METADATA)).run.HasField("rate_state")


async def test_a_refused_request_leaves_its_idempotency_key_free() -> None:
    async with a_site(key=RateSettings(concurrent_runs=1)) as (core, url), sdk(url) as client:
        slow = asyncio.create_task(
            client.chat.completions.create(model="fast", messages=[{"role": "user", "content": SLOW}])
        )
        await until(lambda: core.runs.active == 1)
        await refused_until(client, refused=True)
        named = {"Idempotency-Key": "once"}
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="fast", messages=MESSAGES, extra_headers=named)
        slow.cancel()
        await refused_until(client, refused=False)
        answer = await client.chat.completions.create(model="fast", messages=MESSAGES, extra_headers=named)
        assert answer.choices[0].message.content


async def test_two_servers_share_limits_in_redis(redis_server: RedisServer) -> None:
    rates = {"storage": redis_server.url, "account": RateSettings(requests_per_minute=3, concurrent_runs=2)}
    async with a_site(**rates) as (_, one), a_site(**rates) as (_, two), sdk(one) as first, sdk(two) as second:
        for client in (first, second, first):
            await client.chat.completions.create(model="fast", messages=MESSAGES)
        for client in (first, second):
            with pytest.raises(openai.RateLimitError) as refused:
                await client.embeddings.create(model="demo/embed", input="a b")
            assert refused.value.response.headers["x-ratelimit-limit-requests"] == "3"
