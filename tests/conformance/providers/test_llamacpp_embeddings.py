"""The embedded model as an embedder: what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dragoman.reasons import Reason
from dragoman_server.errors import ContextLengthExceeded, InvalidRequest, NotFound, Unavailable, UnsupportedFeature
from dragoman_server.providers import model_files
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.llamacpp import LlamaCppEmbedder, LlamaCppProvider
from tests.support import generation
from tests.support.embedding_upstream import texts, tokens
from tests.support.model import MODEL, MODEL_ID, models_dir

__all__ = ["models_dir"]


def model_file(models_dir: Path) -> Path:
    file = model_files.find(MODEL, models_dir)
    assert file is not None
    return file


@pytest.fixture
async def embedder(models_dir: Path) -> AsyncIterator[LlamaCppEmbedder]:
    embedder = LlamaCppEmbedder("local", MODEL, models_dir, max_tokens=128, max_waiting=2)
    yield embedder
    await embedder.close()


async def test_the_first_requests_load_the_model_together(embedder: LlamaCppEmbedder) -> None:
    assert not embedder.ready
    made = await asyncio.gather(embedder.embed(texts("one")), embedder.embed(texts("one")))
    assert embedder.ready
    assert made[0].embeddings == made[1].embeddings


async def test_who_gives_up_while_it_loads_stops_it_for_nobody(embedder: LlamaCppEmbedder) -> None:
    first = asyncio.create_task(embedder.embed(texts("one")))
    second = asyncio.create_task(embedder.embed(texts("two")))
    await asyncio.sleep(0)
    first.cancel()
    assert len((await second).embeddings) == 1
    assert first.cancelled()


async def test_a_long_input_is_refused_with_the_numbers(embedder: LlamaCppEmbedder) -> None:
    assert (await embedder.embed(tokens([5] * 128))).usage.input_tokens == 128
    with pytest.raises(ContextLengthExceeded) as caught:
        await embedder.embed(tokens([5], [5] * 129))
    assert caught.value.field == "inputs[1]"
    assert caught.value.metadata == {"prompt_tokens": "129", "context_tokens": "128"}


async def test_a_huge_input_is_not_even_read(embedder: LlamaCppEmbedder) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        await embedder.embed(texts("x" * 50_000_000))
    assert caught.value.metadata == {"context_tokens": "128"}


async def test_tokens_must_be_the_models_own(embedder: LlamaCppEmbedder) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await embedder.embed(tokens([1], [2**31 - 1]))
    assert caught.value.field == "inputs[1]"


async def test_too_many_requests_are_refused(embedder: LlamaCppEmbedder) -> None:
    waiting = [asyncio.create_task(embedder.embed(texts("one", "two"))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await embedder.embed(texts("three"))
    assert caught.value.reason == Reason.OVERLOADED
    await asyncio.gather(*waiting)
    await embedder.embed(texts("four"))


async def test_requests_take_turns(embedder: LlamaCppEmbedder) -> None:
    await embedder.open()
    large = asyncio.create_task(embedder.embed(texts(*["word " * 60] * 200)))
    await asyncio.sleep(0.1)
    await embedder.embed(texts("small", "small"))
    assert not large.done()
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large


async def test_closing_ends_requests(models_dir: Path) -> None:
    embedder = LlamaCppEmbedder("local", MODEL, models_dir, max_tokens=128)
    await embedder.open()
    running = [asyncio.create_task(embedder.embed(texts(*["word " * 60] * 100))) for _ in range(3)]
    await asyncio.sleep(0.1)
    await embedder.close()
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(outcome, Unavailable)
        assert outcome.reason == Reason.SHUTTING_DOWN
    with pytest.raises(Unavailable):
        await embedder.embed(texts("late"))


async def test_a_model_that_cannot_be_loaded_is_tried_again(tmp_path: Path, models_dir: Path) -> None:
    embedder = LlamaCppEmbedder("local", MODEL, tmp_path)
    with pytest.raises(NotFound) as caught:
        await embedder.embed(texts("one"))
    assert "dragoman models pull" in caught.value.message
    file = model_file(models_dir)
    (tmp_path / file.name).symlink_to(file)
    assert len((await embedder.embed(texts("one"))).embeddings) == 1
    await embedder.close()


@pytest.mark.parametrize("pooling", ["cls", "last"])
async def test_poolings(models_dir: Path, embedder: LlamaCppEmbedder, pooling: str) -> None:
    other = LlamaCppEmbedder("local", MODEL, models_dir, pooling=pooling, max_tokens=32)
    mean, pooled = await embedder.embed(texts("one two three")), await other.embed(texts("one two three"))
    await other.close()
    assert mean.embeddings != pooled.embeddings


async def test_the_provider_says_which_model_does_what(models_dir: Path, embedder: LlamaCppEmbedder) -> None:
    provider = LlamaCppProvider("local", MODEL, models_dir, embedder=embedder)
    (model,) = provider.models
    assert (model.capabilities.chat, model.capabilities.embeddings) == (True, True)
    with pytest.raises(NotFound):
        await provider.embed(texts("one"), "other")
    without = LlamaCppProvider("local", MODEL, models_dir)
    assert not without.models[0].capabilities.embeddings
    with pytest.raises(UnsupportedFeature) as caught:
        await without.embed(texts("one"), MODEL_ID)
    assert caught.value.field == "model"
    await without.close()


async def test_a_model_of_its_own_for_vectors(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "Vectors.gguf").symlink_to(model_file(models_dir))
    embedder = LlamaCppEmbedder("local", str(tmp_path / "Vectors.gguf"), models_dir, max_tokens=32)
    provider = LlamaCppProvider(
        "local", MODEL, models_dir, context_tokens=256, parallel=1, embedder=embedder, embed_at_start=True
    )
    await provider.open()
    try:
        chat, vectors = provider.models
        assert (vectors.id, vectors.capabilities.chat, vectors.context_length) == ("vectors", False, 32)
        assert not chat.capabilities.embeddings
        assert embedder.ready
        assert len((await provider.embed(texts("one"), "vectors")).embeddings) == 1
        with pytest.raises(UnsupportedFeature, match="makes vectors only"):
            generation.start(provider, GenerationRequest(generation.chat("Hi"), "vectors"))
        with pytest.raises(UnsupportedFeature, match="makes no vectors"):
            await provider.embed(texts("one"), MODEL_ID)
    finally:
        await provider.close()
