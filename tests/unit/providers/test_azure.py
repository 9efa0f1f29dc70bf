"""Azure OpenAI: how its API differs from OpenAI's, as its documentation has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import ParseDict

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FINISH_REASON_CONTENT_FILTER
from dragoman.v1.failure_pb2 import Failure
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_DEVELOPER, ROLE_USER, Message
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.errors import UnsupportedFeature
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.registry import make_provider
from dragoman_server.providers.remote import RemoteProvider
from dragoman_server.providers.vendors import vendor_of_host
from dragoman_server.settings import ProviderSettings
from tests.support.embedding_upstream import texts
from tests.support.generation import Recording, chat, generate, start
from tests.support.upstream_server import (
    DONE,
    Answer,
    UpstreamServer,
    chunked,
    cut,
    event,
    head,
    raw,
    whole,
    without_urls,
)

KEY = "azure-key-0123456789"
SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
MASKED = {"prompt_index": 0, "content_filter_results": SAFE}


@asynccontextmanager
async def deployment(
    answer: Answer, path: str = "/openai/v1", **settings: Any
) -> AsyncIterator[tuple[UpstreamServer, RemoteProvider]]:
    async with UpstreamServer(answer) as server:
        base_url = server.url.removesuffix("/v1") + path
        fields = {"name": "azure", "vendor": "azure", "base_url": base_url, "api_key": KEY, **settings}
        provider = make_provider(ProviderSettings.model_validate(fields))
        assert isinstance(provider, RemoteProvider)
        try:
            yield server, provider
        finally:
            await provider.close()


def answer_of(text: str, finish: str = "stop") -> bytes:
    choice = {
        "content_filter_results": SAFE,
        "finish_reason": finish,
        "index": 0,
        "logprobs": None,
        "message": {"annotations": [], "content": text, "refusal": None, "role": "assistant"},
    }
    usage = {
        "completion_tokens": 3,
        "completion_tokens_details": {"accepted_prediction_tokens": 0, "audio_tokens": 0, "reasoning_tokens": 2},
        "prompt_tokens": 9,
        "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 4},
        "total_tokens": 12,
    }
    return orjson.dumps(
        {
            "choices": [choice],
            "created": 1,
            "id": "chatcmpl-1",
            "model": "gpt-4.1-2025-04-14",
            "object": "chat.completion",
            "prompt_filter_results": [MASKED],
            "system_fingerprint": "fp_1",
            "usage": usage,
        }
    )


def piece(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {
        "content_filter_results": SAFE if delta else {},
        "delta": delta,
        "finish_reason": finish,
        "index": 0,
        "logprobs": None,
        **fields,
    }
    return {
        "choices": [choice],
        "created": 1,
        "id": "chatcmpl-1",
        "model": "gpt-4.1-2025-04-14",
        "object": "chat.completion.chunk",
        "system_fingerprint": "fp_1",
        "usage": None,
    }


FILTERED_PROMPT = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [MASKED],
    "usage": None,
}
OFFSETS = {"check_offset": 44, "start_offset": 44, "end_offset": 198}
LATE_VERDICT = {
    **piece({}),
    "id": "",
    "model": "",
    "choices": [
        {
            "content_filter_offsets": OFFSETS,
            "content_filter_results": SAFE,
            "finish_reason": None,
            "index": 0,
        }
    ],
}
"""What the asynchronous filter sends: a chunk without a delta."""
USAGE = {**piece({}), "choices": [], "usage": {"completion_tokens": 3, "prompt_tokens": 9, "total_tokens": 12}}


def streamed(*chunks: Any) -> bytes:
    return (
        head(200, "text/event-stream; charset=utf-8", Transfer_Encoding="chunked")
        + b"".join(chunked(event(one)) for one in chunks)
        + chunked(DONE)
        + b"0\r\n\r\n"
    )


def past_thoughts() -> ChatSpec:
    """A conversation with instructions of the developer, and with thoughts of another model."""
    spec = chat("Why?")
    spec.messages.insert(0, Message(role=ROLE_DEVELOPER, parts=[{"text": {"text": "Be brief."}}]))
    spec.messages.append(
        ParseDict({"parts": [{"reasoning": {"text": "hm"}}, {"text": {"text": "Because."}}]}, Message())
    )
    spec.messages[-1].role = ROLE_ASSISTANT
    spec.messages.append(Message(role=ROLE_USER, parts=[{"text": {"text": "Why?"}}]))
    spec.sampling.max_output_tokens = 5
    return spec


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/openai/v1", "/openai/v1/chat/completions"),
        (
            "/openai/deployments/mine?api-version=2024-10-21",
            "/openai/deployments/mine/chat/completions?api-version=2024-10-21",
        ),
    ],
)
async def test_the_request_on_the_wire(path: str, target: str) -> None:
    async with deployment(raw(streamed(piece({"content": "So."}), piece({}, "stop"))), path) as (server, provider):
        await generate(provider, GenerationRequest(past_thoughts(), "mine"))
        (request,) = server.requests
    assert request.head == f"POST {target} HTTP/1.1"
    assert request.headers["api-key"] == KEY
    assert "authorization" not in request.headers
    assert request.json == {
        "model": "mine",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because."},  # it refuses messages with fields that it does not know
            {"role": "user", "content": "Why?"},
        ],
        "max_completion_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_tokens_of_entra_go_where_people_put_them() -> None:
    settings: dict[str, Any] = {"api_key": None, "headers": {"Authorization": "Bearer token-of-entra"}}
    async with deployment(raw(whole(200, answer_of("a"))), **settings) as (server, provider):
        await generate(provider, GenerationRequest(chat("hi"), "mine", incremental=False))
        (request,) = server.requests
    assert request.headers["authorization"] == "Bearer token-of-entra"
    assert "api-key" not in request.headers


async def test_embeddings_go_to_the_same_place() -> None:
    vectors = {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    path = "/openai/deployments/mine?api-version=2024-10-21"
    async with deployment(raw(whole(200, orjson.dumps(vectors))), path) as (server, provider):
        assert (await provider.embed(texts("a"), "mine")).usage.input_tokens == 1
        (request,) = server.requests
    assert request.head == "POST /openai/deployments/mine/embeddings?api-version=2024-10-21 HTTP/1.1"
    assert request.headers["api-key"] == KEY


@pytest.mark.parametrize("host", ["a.openai.azure.com", "a.cognitiveservices.azure.com", "a.services.ai.azure.com"])
def test_its_hosts(host: str) -> None:
    vendor = vendor_of_host(host)
    assert vendor is not None
    assert vendor.name == "azure"


def test_what_it_does_not_know_is_refused() -> None:
    spec = chat("hi")
    spec.sampling.top_k = 3
    fields = {"name": "azure", "vendor": "azure", "base_url": "http://127.0.0.1:1/openai/v1"}
    provider = make_provider(ProviderSettings.model_validate(fields))
    with pytest.raises(UnsupportedFeature) as caught:
        provider.start(GenerationRequest(spec, "mine"), Recording())
    assert caught.value.field == "sampling.top_k"


async def test_an_answer_in_one_piece() -> None:
    async with deployment(raw(whole(200, answer_of("Because.")))) as (_, provider):
        recording = await generate(provider, GenerationRequest(chat("hi"), "mine", incremental=False))
    assert recording.text == "Because."
    assert recording.usage is not None
    assert (recording.usage.input_tokens, recording.usage.output_tokens) == (9, 3)
    assert recording.usage.input_details.cached_tokens == 4
    assert recording.usage.output_details.reasoning_tokens == 2


@pytest.mark.parametrize("size", [7, 100_000])
async def test_a_stream_with_the_verdicts_of_its_filters(size: int) -> None:
    words = ["So", " it", " is", " ", '"so"', "."]
    answer = streamed(
        FILTERED_PROMPT,
        piece({"content": "", "refusal": None, "role": "assistant"}),
        *(piece({"content": word}) for word in words[:3]),
        LATE_VERDICT,
        *(piece({"content": word}, content_filter_results={}) for word in words[3:]),
        piece({}, "stop"),
        LATE_VERDICT,
        USAGE,
    )
    async with deployment(raw(*cut(answer, size))) as (_, provider):
        recording = await generate(provider, GenerationRequest(chat("hi"), "mine"))
    assert recording.text == "".join(words)
    assert recording.kinds[-2:] == ["choice_finished", "usage_reported"]
    assert recording.usage is not None
    assert (recording.usage.input_tokens, recording.usage.output_tokens) == (9, 3)


async def test_an_answer_that_the_filter_stops() -> None:
    answer = streamed(FILTERED_PROMPT, piece({"content": "So"}), piece({}, "content_filter"))
    async with deployment(raw(answer)) as (_, provider):
        recording = await generate(provider, GenerationRequest(chat("hi"), "mine"))
    assert recording.text == "So"
    assert recording.events[-1].choice_finished.finish_reason == FINISH_REASON_CONTENT_FILTER


def refusal(code: str, message: str, **fields: Any) -> bytes:
    return orjson.dumps({"error": {"code": code, "message": message, **fields}})


FILTER = refusal(
    "content_filter",
    "The response was filtered.",
    param="prompt",
    type=None,
    status=400,
    innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": SAFE},
)
DENIED = {"statusCode": 401, "message": f"Access denied due to invalid subscription key {KEY}."}
WORDS = "Visit https://aka.ms/oai/quotaincrease to raise your limit."


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (whole(400, FILTER), Reason.CONTENT_FILTERED),
        (whole(401, refusal("401", f"invalid subscription key {KEY}")), Reason.PROVIDER_AUTH),
        (whole(401, orjson.dumps(DENIED)), Reason.PROVIDER_AUTH),
        (whole(404, refusal("DeploymentNotFound", "There is no such deployment.")), Reason.MODEL_NOT_FOUND),
        (whole(429, refusal("429", WORDS), retry_after_ms=1500, Retry_After=2), Reason.PROVIDER_RATE_LIMITED),
        (whole(500, refusal("InternalServerError", "Backend returned unexpected response.")), Reason.PROVIDER_FAILED),
        (whole(408, refusal("Timeout", "The operation was timeout.")), Reason.PROVIDER_TIMEOUT),
    ],
)
async def test_its_errors(answer: bytes, reason: Reason) -> None:
    async with deployment(raw(answer)) as (_, provider):
        _, recording = start(provider, GenerationRequest(chat("hi"), "mine"))
        failure = await recording.end()
    assert isinstance(failure, Failure)
    assert failure.reason == reason
    assert KEY not in str(failure)
    assert without_urls(str(failure))
    assert failure.HasField("retry_after") == (reason == Reason.PROVIDER_RATE_LIMITED)
