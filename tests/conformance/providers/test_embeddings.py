"""What holds for every provider that makes vectors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman.v1.embedding_service_pb2 import Embedding
from dragoman_server.errors import ContextLengthExceeded, ProviderError, UnsupportedFeature
from dragoman_server.providers.base import Embedder
from dragoman_server.providers.gemini.dialect import DIALECT as GEMINI
from dragoman_server.providers.llamacpp import LlamaCppEmbedder, LlamaCppProvider
from dragoman_server.providers.openai_chat.embeddings import EMBEDDINGS
from dragoman_server.providers.registry import make_provider
from dragoman_server.providers.remote import RemoteProvider
from dragoman_server.providers.scripted import EMBEDDING_MODEL, ScriptedProvider
from dragoman_server.providers.vendors import Quirks, Vendor
from dragoman_server.settings import ProviderSettings
from tests.support.embedding_upstream import gemini_embeddings, openai_embeddings, texts, tokens
from tests.support.model import MODEL, MODEL_ID, fetch_model
from tests.support.upstream_server import Answer, UpstreamServer, script


@dataclass(frozen=True)
class Case:
    """An embedder under test.

    Attributes:
        name: For the test ids.
        open: Yields the provider, open, and the server behind it if there is one.
        model: The model to ask for.
        takes_tokens: Whether inputs may be tokens.
        takes_dimensions: Whether vectors can be shortened.
        plays_scripts: Whether inputs may be scripts.
    """

    name: str
    open: Callable[[], AbstractAsyncContextManager[tuple[Embedder, UpstreamServer | None]]]
    model: str = EMBEDDING_MODEL
    takes_tokens: bool = True
    takes_dimensions: bool = True
    plays_scripts: bool = True


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Embedder, None]]:
    provider = ScriptedProvider("scripted")
    yield provider, None
    await provider.close()


@asynccontextmanager
async def openai_chat() -> AsyncIterator[tuple[Embedder, UpstreamServer]]:
    async with UpstreamServer(openai_embeddings()) as server:
        provider = make_provider(ProviderSettings(name="openai", dialect="openai_chat", base_url=server.url))
        assert isinstance(provider, Embedder)
        yield provider, server
        await provider.close()


@asynccontextmanager
async def remote(dialect: Any, quirks: Quirks, answer: Answer) -> AsyncIterator[tuple[Embedder, UpstreamServer]]:
    async with UpstreamServer(answer) as server:
        vendor = Vendor("v", "V", dialect.name, server.url, quirks=quirks)
        provider = RemoteProvider(ProviderSettings(name="openai", vendor="v"), dialect, vendor)
        yield provider, server
        await provider.close()


@asynccontextmanager
async def llamacpp() -> AsyncIterator[tuple[Embedder, None]]:
    folder = await fetch_model()
    embedder = LlamaCppEmbedder("local", MODEL, folder, max_tokens=64)
    provider = LlamaCppProvider("local", MODEL, folder, embedder=embedder)  # not opened: it need not chat
    yield provider, None
    await provider.close()


BASE64 = Quirks(base64_embeddings=True)
SMALL = Quirks(max_embedding_inputs=2)
OPENAI = GEMINI._replace(name="openai_chat", auth="bearer", embeddings=EMBEDDINGS)

CASES = [
    Case("scripted", scripted),
    Case("openai_chat", openai_chat),
    Case("openai_chat_in_base64", partial(remote, OPENAI, BASE64, openai_embeddings())),
    Case("openai_chat_in_batches", partial(remote, OPENAI, SMALL, openai_embeddings())),
    Case("gemini", partial(remote, GEMINI, SMALL, gemini_embeddings()), takes_tokens=False),
    Case("llamacpp", llamacpp, MODEL_ID, takes_dimensions=False, plays_scripts=False),
]


def for_cases(**traits: bool) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if all(getattr(case, name) == value for name, value in traits.items())]
    return pytest.mark.parametrize("case", chosen, ids=[case.name for case in chosen])


def likeness(one: Embedding, other: Embedding) -> float:
    return math.fsum(a * b for a, b in zip(one.values, other.values, strict=True))


@for_cases()
async def test_vectors_come_in_the_order_of_the_inputs(case: Case) -> None:
    given = ["the cat sat on the mat", "the cat lay on the mat", "quarterly revenue rose by ten percent"]
    async with case.open() as (provider, _):
        assert isinstance(provider, Embedder)
        whole = await provider.embed(texts(*given), case.model)
        single = [(await provider.embed(texts(text), case.model)).embeddings[0] for text in given]
    assert len(whole.embeddings) == 3
    for vector, alone in zip(whole.embeddings, single, strict=True):
        assert likeness(vector, vector) == pytest.approx(1, abs=1e-4)  # of length 1
        assert likeness(vector, alone) == pytest.approx(1, abs=1e-4)
    near, far = likeness(*whole.embeddings[:2]), likeness(whole.embeddings[0], whole.embeddings[2])
    assert near > far
    assert whole.usage.input_tokens >= 3 * 6
    assert whole.usage.output_tokens == 0


@for_cases(takes_tokens=True)
async def test_tokens_are_inputs_too(case: Case) -> None:
    async with case.open() as (provider, _):
        made = await provider.embed(tokens([5, 6, 7], [8]), case.model)
    assert made.usage.input_tokens == 4
    assert likeness(*made.embeddings) < 0.999


@for_cases(takes_tokens=False)
async def test_tokens_are_refused_where_they_mean_nothing(case: Case) -> None:
    async with case.open() as (provider, _):
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.embed(tokens([1]), case.model)
    assert caught.value.field == "inputs"


@for_cases(takes_dimensions=True)
async def test_vectors_are_as_long_as_asked_for(case: Case) -> None:
    async with case.open() as (provider, _):
        made = await provider.embed(texts("a", "b", "c", dimensions=12), case.model)
    assert [len(vector.values) for vector in made.embeddings] == [12, 12, 12]


@for_cases(takes_dimensions=False)
async def test_other_lengths_are_refused(case: Case) -> None:
    async with case.open() as (provider, _):
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.embed(texts("a", dimensions=12), case.model)
    assert caught.value.field == "dimensions"


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "gemini"], ids=lambda case: case.name)
async def test_a_task_without_a_word_for_it_is_refused(case: Case) -> None:
    async with case.open() as (provider, _):
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.embed(texts("a", task_type="RETRIEVAL_QUERY"), case.model)
    assert caught.value.field == "task_type"


@for_cases()
async def test_what_is_too_long_is_refused(case: Case) -> None:
    async with case.open() as (provider, _):
        with pytest.raises((ContextLengthExceeded, ProviderError)) as caught:
            await provider.embed(texts("short", "word " * 9000), case.model)
    assert caught.value.reason == Reason.CONTEXT_LENGTH_EXCEEDED
    assert not caught.value.retryable


FAILURES: Sequence[tuple[dict[str, Any], Reason, bool]] = [
    ({"reason": "PROVIDER_RATE_LIMITED"}, Reason.PROVIDER_RATE_LIMITED, True),
    ({"reason": "PROVIDER_FAILED"}, Reason.PROVIDER_FAILED, True),
    ({"reason": "PROVIDER_AUTH", "retryable": False}, Reason.PROVIDER_AUTH, False),
]


@for_cases(plays_scripts=True)
@pytest.mark.parametrize(("failure", "reason", "retryable"), FAILURES, ids=[reason for _, reason, _ in FAILURES])
async def test_failures_keep_their_reason(case: Case, failure: dict[str, Any], reason: Reason, retryable: bool) -> None:
    async with case.open() as (provider, server):
        with pytest.raises(ProviderError) as caught:
            await provider.embed(texts("a", "b", script(fail_before=failure)), case.model)
    assert (caught.value.reason, caught.value.retryable) == (reason, retryable)
    if server is not None:
        assert caught.value.metadata["provider"] == "openai"
        assert caught.value.retry_after == 2


@for_cases(plays_scripts=True)
async def test_cancelling_reaches_the_server(case: Case) -> None:
    async with case.open() as (provider, server):
        task = asyncio.create_task(provider.embed(texts("a", "b", script(hang=True)), case.model))
        if server is None:
            await asyncio.sleep(0.05)
        else:
            async with asyncio.timeout(5):
                while not any(b"hang" in request.body for request in server.requests):
                    await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if server is not None:
            async with asyncio.timeout(5):
                await server.aborted.wait()
            await provider.embed(texts("again"), case.model)  # the provider is none the worse


@for_cases()
async def test_requests_at_a_time_do_not_mix(case: Case) -> None:
    given = [f"{word} {word}" for word in ("cat", "revenue", "mountain", "engine", "poem", "salt")]
    async with case.open() as (provider, _):
        alone = [(await provider.embed(texts(text), case.model)).embeddings[0] for text in given]
        made = await asyncio.gather(*(provider.embed(texts(text, text), case.model) for text in given))
    for vector, answer in zip(alone, made, strict=True):
        for other in answer.embeddings:
            assert likeness(vector, other) == pytest.approx(1, abs=1e-4)
