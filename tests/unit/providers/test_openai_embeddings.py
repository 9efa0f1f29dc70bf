"""Embeddings in OpenAI's dialect, towards a server: what is asked, and what answers mean."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.embedding_service_pb2 import EmbedRequest
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import InvalidRequest, ProviderError
from dragoman_server.providers import remote_embeddings
from dragoman_server.providers.openai_chat.embeddings import encode, read
from dragoman_server.providers.registry import make_provider
from dragoman_server.providers.remote import RemoteProvider
from dragoman_server.providers.vendors import Quirks
from dragoman_server.settings import ProviderSettings
from tests.support.embedding_upstream import texts, tokens
from tests.support.upstream_server import CLOSE, RESET, Answer, UpstreamServer, head, raw, whole


def asked(request: EmbedRequest, quirks: Quirks = Quirks()) -> dict[str, Any]:  # noqa: B008  # frozen
    call = encode(request, request.inputs, "m", quirks)
    assert call.path == "/embeddings"
    body: dict[str, Any] = json.loads(call.body)
    return body


def test_requests() -> None:
    assert asked(texts("a", "b")) == {"model": "m", "input": ["a", "b"]}
    assert asked(tokens([1, 2], [3])) == {"model": "m", "input": [[1, 2], [3]]}
    full = asked(texts("a", dimensions=3, user="u"), Quirks(base64_embeddings=True))
    assert full == {"model": "m", "input": ["a"], "encoding_format": "base64", "dimensions": 3, "user": "u"}


def test_texts_and_tokens_do_not_go_together() -> None:
    mixed = EmbedRequest(inputs=[*texts("a").inputs, *tokens([1]).inputs])
    with pytest.raises(InvalidRequest) as caught:
        asked(mixed)
    assert caught.value.field == "inputs"


def answer(*vectors: Any, **fields: Any) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return json.dumps({"object": "list", "data": data, **fields}).encode()


def test_numbers_and_base64_are_the_same() -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    made = read(answer([0.5, -1], packed, usage={"prompt_tokens": 7, "total_tokens": 7}), 2)
    assert [list(vector.values) for vector in made.embeddings] == [[0.5, -1.0], [0.5, -1.0]]
    assert made.usage.input_tokens == 7


def test_an_answer_without_usage_or_indexes() -> None:
    made = read(b'{"data": [{"embedding": [1]}, {"embedding": [2]}]}', 2)
    assert [list(vector.values) for vector in made.embeddings] == [[1.0], [2.0]]
    assert made.usage.input_tokens == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no",
        b"[]",
        b"{}",
        b'{"data": 1}',
        b'{"data": [1]}',
        b'{"data": [{"embedding": null}, {"embedding": "x"}]}',
        b'{"data": [{"embedding": "AAAA"}]}',  # three bytes
        b'{"data": [{"embedding": ["a"]}]}',
        b'{"data": [{"embedding": {}, "index": {}}]}',
        b'{"data": [{"embedding": [1], "index": []}]}',
        b'{"data": [{"embedding": [1], "index": 1}]}',
        answer([1], [2]),
        answer(),
    ],
)
def test_answers_that_make_no_sense(data: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        read(data, 1)
    assert caught.value.reason == Reason.PROVIDER_PROTOCOL


def test_an_error_that_came_as_an_answer() -> None:
    with pytest.raises(ProviderError) as caught:
        read(b'{"error": {"message": "slow down", "code": 429}}', 1)
    assert caught.value.reason == Reason.PROVIDER_RATE_LIMITED


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"data": st.lists(st.fixed_dictionaries({"embedding": json_values}, optional={"index": json_values}))},
        optional={"usage": json_values, "error": json_values},
    )
    | json_values
)
def test_whatever_a_server_says_is_an_answer_or_its_failure(said: Any) -> None:
    with suppress(ProviderError):
        assert len(read(json.dumps(said).encode(), 1).embeddings) == 1


@asynccontextmanager
async def provider_of(answer: Answer, **settings: Any) -> AsyncIterator[tuple[RemoteProvider, UpstreamServer]]:
    async with UpstreamServer(answer) as server:
        provider = make_provider(ProviderSettings(name="ref", dialect="openai_chat", base_url=server.url, **settings))
        assert isinstance(provider, RemoteProvider)
        yield provider, server
        await provider.close()


async def test_the_request_on_the_wire() -> None:
    async with provider_of(raw(whole(200, answer([1.0]))), api_key="sk-secret-of-mine") as (provider, server):
        await provider.embed(texts("a"), "text-embedding-3-small")
    (request,) = server.requests
    assert request.head == "POST /v1/embeddings HTTP/1.1"
    assert request.headers["authorization"] == "Bearer sk-secret-of-mine"
    assert request.json["model"] == "text-embedding-3-small"


async def test_secrets_and_addresses_are_not_told() -> None:
    body = b'{"error": {"message": "key my-own-secret-key at https://inner.example/v1 is bad"}}'
    async with provider_of(raw(whole(400, body)), api_key="my-own-secret-key") as (provider, _):
        with pytest.raises(ProviderError) as caught:
            await provider.embed(texts("a"), "m")
    assert caught.value.reason == Reason.PROVIDER_REJECTED
    assert caught.value.metadata["provider"] == "ref"
    assert "my-own-secret-key" not in caught.value.message
    assert "inner.example" not in caught.value.message


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((head(200, Content_Length=100), b'{"data', CLOSE), Reason.PROVIDER_PROTOCOL),
        ((head(200, Content_Length=100), b'{"data', RESET), Reason.PROVIDER_PROTOCOL),
        ((head(429, Content_Length=100), b'{"error', CLOSE), Reason.PROVIDER_RATE_LIMITED),
        ((whole(200, b"{}", Content_Encoding="gzip"),), Reason.PROVIDER_PROTOCOL),
        ((head(200, Content_Length=100), b"{", 5), Reason.PROVIDER_TIMEOUT),
        ((5,), Reason.PROVIDER_TIMEOUT),
    ],
    ids=["closed", "reset", "broken_error", "compressed", "stalls", "silent"],
)
async def test_servers_that_break_off(pieces: tuple[Any, ...], reason: Reason) -> None:
    async with provider_of(raw(*pieces), first_event_timeout=0.3, idle_timeout=0.3) as (provider, _):
        with pytest.raises(ProviderError) as caught:
            await provider.embed(texts("a"), "m")
    assert caught.value.reason == reason


async def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_embeddings, "MAX_ANSWER_BYTES", 1000)
    async with provider_of(raw(head(200), b"x" * 2000, 5)) as (provider, server):
        with pytest.raises(ProviderError, match="too large"):
            await provider.embed(texts("a"), "m")
        async with asyncio.timeout(5):
            await server.aborted.wait()


async def test_a_connection_is_used_again() -> None:
    async with provider_of(raw(whole(200, answer([1.0])))) as (provider, server):
        for _ in range(3):
            await provider.embed(texts("a"), "m")
    assert server.connection_count == 1


async def test_one_failed_batch_ends_the_others() -> None:
    hanging = asyncio.Event()

    async def reply(request: Any, connection: Any) -> None:
        if b"bad" in request.body:
            await asyncio.sleep(0.1)
            await connection.write(whole(500, b"{}"))
        else:
            await hanging.wait()

    async with provider_of(reply) as (provider, server):
        with pytest.raises(ProviderError) as caught:
            await provider.embed(texts(*["good"] * 256, "bad"), "m")
        assert caught.value.reason == Reason.PROVIDER_FAILED
        async with asyncio.timeout(5):
            await server.aborted.wait()
    assert len(server.requests) == 2


async def test_batches_that_were_answered_count_although_another_one_failed() -> None:
    answered = asyncio.Event()

    async def reply(request: Any, connection: Any) -> None:
        if b"bad" in request.body:
            await answered.wait()
            await connection.write(whole(200, answer(usage={"prompt_tokens": 4})))
        else:
            await connection.write(whole(200, answer(*[[1.0]] * 256, usage={"prompt_tokens": 256})))
            asyncio.get_running_loop().call_later(0.1, answered.set)

    async with provider_of(reply) as (provider, _):
        with pytest.raises(ProviderError) as caught:
            await provider.embed(texts(*["good"] * 256, "bad"), "m")
    assert caught.value.reason == Reason.PROVIDER_PROTOCOL
    assert caught.value.usage == Usage(input_tokens=260)
