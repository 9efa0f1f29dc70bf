"""Vectors over REST in the dialect of Google's Gemini API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_edge.dialects.gemini.embeddings import read_batch, read_single
from dragoman_edge.errors import EdgeError
from dragoman_server.errors import ProviderError
from dragoman_server.providers.gemini.dialect import DIALECT
from dragoman_server.providers.gemini.embeddings import read as read_upstream
from dragoman_server.providers.scripted_vectors import vector_of
from dragoman_server.providers.vendors import Quirks
from tests.support.core import KEY, running_core
from tests.support.edge import client_of, running_edge
from tests.support.embedding_upstream import texts
from tests.support.upstream_server import script


def content(*parts: str) -> dict[str, Any]:
    return {"parts": [{"text": part} for part in parts]}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        running_core() as core,
        running_edge(core.channel()) as edge,
        client_of(edge, {"x-goog-api-key": KEY}) as client,
    ):
        yield client


def vectors(*given: str) -> list[list[float]]:
    return [list(vector_of(text.split(), 4).values) for text in given]


MODEL = "/v1beta/models/demo/embed"


async def post(client: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, Any]:
    async with client.post(path, json=body) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("path", [MODEL, "/v1beta/models/demo%2Fembed", "/v1/models/demo/embed"])
async def test_one_content(client: aiohttp.ClientSession, path: str) -> None:
    body = {"content": content("hello world"), "output_dimensionality": 4, "taskType": "TASK_TYPE_UNSPECIFIED"}
    status, answer = await post(client, f"{path}:embedContent", body)
    assert status == 200
    assert answer == {
        "embedding": {"values": vectors("hello world")[0]},
        "usageMetadata": {"promptTokenCount": 2},
    }


async def test_several_contents(client: aiohttp.ClientSession) -> None:
    requests = [
        {"model": "models/demo/embed", "content": content(text), "outputDimensionality": 4}
        for text in ("hello world", "b")
    ]
    status, answer = await post(client, f"{MODEL}:batchEmbedContents", {"requests": requests})
    assert status == 200
    assert [one["values"] for one in answer["embeddings"]] == vectors("hello world", "b")
    assert answer["usageMetadata"] == {"promptTokenCount": 3}


A = content("a")
BAD: list[tuple[str, Any, str]] = [
    ("embedContent", {}, "content"),
    ("embedContent", {"content": {"parts": []}}, "content"),
    ("embedContent", {"content": content("")}, "content"),
    (
        "embedContent",
        {"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]}},
        "content.parts[0]",
    ),
    ("embedContent", {"content": A, "model": "models/other"}, "model"),
    ("embedContent", {"content": A, "title": "t"}, "title"),
    ("embedContent", {"content": A, "taskType": "NONSENSE"}, "task_type"),
    ("embedContent", {"content": A, "taskType": "CLUSTERING"}, "task_type"),  # the provider has no word for it
    ("embedContent", {"content": A, "outputDimensionality": 0}, "output_dimensionality"),
    ("embedContent", {"content": content("word " * 9000)}, "requests[0].content"),
    ("embedContent", {"content": A, "what": 1}, "what"),
    ("batchEmbedContents", {}, "requests"),
    ("batchEmbedContents", {"requests": [{"content": A}] * 2049}, "requests"),
    ("batchEmbedContents", {"requests": [{"content": A}, {}]}, "requests[1].content"),
    (
        "batchEmbedContents",
        {"requests": [{"content": A}, {"content": A, "outputDimensionality": 3}]},
        "requests[1].output_dimensionality",
    ),
]


@pytest.mark.parametrize(("method", "body", "field"), BAD, ids=[str(number) for number in range(len(BAD))])
async def test_what_is_refused(client: aiohttp.ClientSession, method: str, body: Any, field: str) -> None:
    status, answer = await post(client, f"{MODEL}:{method}", body)
    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    violations = [one for one in answer["error"]["details"] if "fieldViolations" in one]
    assert violations[0]["fieldViolations"][0]["field"] == field


async def test_failures_are_in_googles_words(client: aiohttp.ClientSession) -> None:
    status, answer = await post(client, "/v1beta/models/nope:embedContent", {"content": A})
    assert (status, answer["error"]["status"]) == (404, "NOT_FOUND")
    async with client.post(f"{MODEL}:embedContent?key={KEY}", json={"content": A}) as taken:
        assert taken.status == 200
    async with client.post(f"{MODEL}:embedContent", json={"content": A}, headers={"x-goog-api-key": "no"}) as refused:
        assert refused.status == 401
    busy = {"content": content(script(fail_before={"reason": "PROVIDER_RATE_LIMITED", "retry_after": 9}))}
    status, answer = await post(client, f"{MODEL}:embedContent", busy)
    assert (status, answer["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["content", "parts", "text", "requests", "model", "taskType", "x"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["content", "requests", "taskType", "outputDimensionality", "model"]), values))
def test_anything_is_a_request_or_refused(body: dict[str, Any]) -> None:
    for read in (read_single, read_batch):
        try:
            request = read(body, "m")
        except EdgeError as error:
            refused = error.message
            assert refused
        else:
            assert request.inputs


@given(values | st.fixed_dictionaries({"embeddings": values}, optional={"usageMetadata": values}))
def test_whatever_a_server_says_is_an_answer_or_its_failure(said: Any) -> None:
    with suppress(ProviderError):
        assert len(read_upstream(json.dumps(said).encode(), 1).embeddings) == 1


def test_the_request_to_google() -> None:
    assert DIALECT.embeddings is not None
    asked = texts("a", "b", dimensions=3, task_type="CLUSTERING", user="u")
    path, body, _ = DIALECT.embeddings.encode(asked, asked.inputs, "gemini-embedding-001", Quirks())
    assert path == "/models/gemini-embedding-001:batchEmbedContents"
    common = {"model": "models/gemini-embedding-001", "taskType": "CLUSTERING", "outputDimensionality": 3}
    assert json.loads(body) == {"requests": [common | {"content": content(text)} for text in ("a", "b")]}
