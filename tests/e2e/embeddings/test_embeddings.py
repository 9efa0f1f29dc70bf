"""Vectors from a real core: over gRPC by every channel, and over REST with the official OpenAI SDK."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import openai
import pytest
from prometheus_client import generate_latest

from dragoman.v1.embedding_service_pb2 import EmbedRequest
from dragoman.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from dragoman_client import Dragoman, DragomanClientError, InvalidRequest
from dragoman_server.app import Core
from dragoman_server.settings import ModelSettings, ProviderSettings
from tests.support.core import CHANNELS, KEY, METADATA, AnyChannel, channel_to, core_settings, running_core
from tests.support.edge import running_edge, url_of
from tests.support.embedding_upstream import openai_embeddings, texts, tokens
from tests.support.upstream_server import UpstreamServer, script
from tests.support.waiting import until


@dataclass
class Site:
    """A core with a provider behind it, one channel to it, and an edge and a client at that channel."""

    core: Core
    upstream: UpstreamServer
    channel: AnyChannel
    url: str
    sdk: openai.AsyncOpenAI


@pytest.fixture(params=CHANNELS)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(UpstreamServer(openai_embeddings()))
        core = await stack.enter_async_context(
            running_core(
                providers=(
                    ProviderSettings(name="demo", dialect="scripted"),
                    ProviderSettings(name="up", dialect="openai_chat", base_url=upstream.url),
                ),
                models=(
                    ModelSettings(id="fast", provider="demo", upstream_model="echo"),
                    ModelSettings(id="vectors", provider="up", upstream_model="text-embedding"),
                ),
            )
        )
        channel = await stack.enter_async_context(channel_to(core, request.param))
        url = url_of(await stack.enter_async_context(running_edge(channel)))
        sdk = await stack.enter_async_context(
            openai.AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0, timeout=20)
        )
        yield Site(core, upstream, channel, url, sdk)


async def test_the_sdk_gets_the_vectors_that_grpc_gives(site: Site) -> None:
    given = ["hello world", "hello there"]
    in_base64 = await site.sdk.embeddings.create(model="vectors", input=given)  # base64 is the SDK's own choice
    numbers = await site.sdk.embeddings.create(model="vectors", input=given, encoding_format="float")
    over_grpc = await EmbeddingServiceStub(site.channel).Embed(texts(*given, model="vectors"), metadata=METADATA)
    vectors = [list(vector.values) for vector in over_grpc.embeddings]
    assert [item.embedding for item in in_base64.data] == vectors
    assert [item.embedding for item in numbers.data] == vectors
    assert [item.index for item in numbers.data] == [0, 1]
    assert (in_base64.object, in_base64.model, in_base64.usage.prompt_tokens) == ("list", "vectors", 4)
    assert over_grpc.usage.input_tokens == in_base64.usage.total_tokens == 4
    assert (over_grpc.provider, over_grpc.upstream_model, over_grpc.attempts) == ("up", "text-embedding", 1)


async def test_tokens_dimensions_and_user_reach_the_provider(site: Site) -> None:
    made = await site.sdk.embeddings.create(model="vectors", input=[[1, 2], [3]], dimensions=5, user="u1")
    assert [len(item.embedding) for item in made.data] == [5, 5]
    asked = site.upstream.requests[-1].json
    assert (asked["input"], asked["dimensions"], asked["user"]) == ([[1, 2], [3]], 5, "u1")


async def test_the_client_of_the_contract(site: Site) -> None:
    async with Dragoman(site.channel, KEY) as client:
        made = await client.embed("hello world")
        assert (made.model, len(made.embeddings[0].values)) == ("demo/embed", 64)
        made = await client.embed(["a", "b"], model="vectors", dimensions=3)
        assert [len(vector.values) for vector in made.embeddings] == [3, 3]
        made = await client.embed([[1], [2]], model="vectors")
        assert made.usage.input_tokens == 2
        with pytest.raises(InvalidRequest) as caught:
            await client.embed("")
        assert caught.value.field == "inputs[0].text"
        with pytest.raises(DragomanClientError):
            await client.embed("a", model="nope")


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"input": ""}, 400, "invalid_value", "input"),
        ({"input": ["a", ""]}, 400, "invalid_value", "input[1]"),
        ({"model": "nope"}, 404, "model_not_found", "model"),
        ({"model": "fast"}, 400, "unsupported_feature", "model"),
        ({"extra_body": {"task_type": "QUERY"}}, 400, "unsupported_feature", "task_type"),
        ({"input": ["a", "word " * 9000], "model": "demo/embed"}, 400, "context_length_exceeded", "input[1]"),
        ({"input": script(fail_before={"reason": "PROVIDER_RATE_LIMITED"})}, 429, "rate_limit_exceeded", None),
        ({"input": script(fail_before={"reason": "PROVIDER_AUTH"})}, 502, "provider_auth", None),
    ],
)
async def test_failures(site: Site, fields: dict[str, object], status: int, code: str, param: str | None) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await site.sdk.embeddings.create(**{"model": "vectors", "input": "a", **fields})  # type: ignore[arg-type]
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (status, code, param)


async def test_an_embedding_model_asked_to_chat(site: Site) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await site.sdk.chat.completions.create(model="demo/embed", messages=[{"role": "user", "content": "Hi"}])
    assert (caught.value.code, caught.value.param) == ("unsupported_feature", "model")


async def test_a_key_is_needed(site: Site) -> None:
    with pytest.raises(openai.AuthenticationError):
        await site.sdk.with_options(api_key="wrong").embeddings.create(model="vectors", input="a")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await EmbeddingServiceStub(site.channel).Embed(EmbedRequest())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_leaving_reaches_the_provider(site: Site) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as client:
        body = {"model": "vectors", "input": script(hang=True)}
        asking = asyncio.create_task(client.post(f"{site.url}/v1/embeddings", json=body))
        await until(lambda: site.upstream.requests)
        asking.cancel()
        async with asyncio.timeout(10):
            await site.upstream.aborted.wait()


async def test_a_deadline_reaches_the_provider(site: Site) -> None:
    stub = EmbeddingServiceStub(site.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Embed(texts(script(hang=True), model="vectors"), metadata=METADATA, timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        await site.upstream.aborted.wait()


async def test_a_large_request_and_a_large_answer(site: Site) -> None:
    made = await EmbeddingServiceStub(site.channel).Embed(
        texts(*["a"] * 2048, model="demo/embed", dimensions=256), metadata=METADATA
    )
    assert len(made.embeddings) == 2048
    numbers = await site.sdk.embeddings.create(
        model="demo/embed", input=["a"] * 2048, dimensions=256, encoding_format="float"
    )
    assert numbers.data[2047].embedding == list(made.embeddings[2047].values)
    many = await site.sdk.embeddings.create(model="vectors", input=[[7] * 1000] * 200)
    assert many.usage.prompt_tokens == 200_000
    with pytest.raises(openai.BadRequestError):
        await site.sdk.embeddings.create(model="vectors", input=[[7] * 8000] * 50)


async def test_the_answer_names_who_made_it_and_metrics_count_it(site: Site) -> None:
    raw = await site.sdk.embeddings.with_raw_response.create(model="vectors", input=["a b", "c"])
    told = [raw.headers[f"x-dragoman-{name}"] for name in ("model", "provider", "attempts")]
    assert told == ["text-embedding", "up", "1"]
    shown = generate_latest(site.core.registry).decode()
    assert 'dragoman_embeddings_total{provider="up"} 2.0' in shown
    assert 'dragoman_tokens_total{direction="input",provider="up"} 3.0' in shown


async def test_grpc_says_where_a_request_is_wrong(site: Site) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await EmbeddingServiceStub(site.channel).Embed(tokens([]), metadata=METADATA)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "inputs[0].tokens" in (caught.value.details() or "")


async def test_it_is_documented(site: Site) -> None:
    async with aiohttp.ClientSession() as client, client.get(f"{site.url}/openapi.json") as answer:
        document = await answer.json()
    operation = document["paths"]["/v1/embeddings"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/EmbeddingRequest")
    assert len(document["components"]["schemas"]["EmbeddingRequest"]["properties"]["input"]["anyOf"]) == 4


@pytest.mark.parametrize("kind", CHANNELS)
async def test_a_server_that_stops_lets_vectors_be_made(kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="dgm") as folder:
        core = Core(core_settings(Path(folder)), bootstrap_key=KEY)
        await core.start()
        await core.wait_ready()
        async with channel_to(core, kind) as channel:
            slow = texts(script(first_delay=1.5), model="demo/embed")  # longer than calls without work get
            asked = asyncio.ensure_future(EmbeddingServiceStub(channel).Embed(slow, metadata=METADATA, timeout=30))
            await until(lambda: any(target.in_flight for target in core.routing.targets))
            await core.stop(20)
            assert len((await asked).embeddings) == 1
