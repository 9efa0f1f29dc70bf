"""What the adapter of the LiteLLM library does beside the conformance suite; it needs the library."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from dragoman.reasons import Reason
from dragoman.v1.failure_pb2 import Failure
from dragoman.v1.message_pb2 import ImagePart, Message, Part, Role
from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import Sampling
from dragoman_server.errors import InvalidRequest, Unavailable, UnsupportedFeature
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.litellm_library.provider import LiteLLMProvider
from dragoman_server.settings import ProviderSettings
from tests.support import upstream_anthropic
from tests.support.generation import Recording, chat, generate, start
from tests.support.upstream_server import Answer, UpstreamServer, raw, script, whole
from tests.support.upstream_server import chat as chat_answer

HERE = find_spec("litellm") is not None
needs_library = pytest.mark.skipif(not HERE, reason="the extra litellm is not installed")
KEY = "key-0123456789-of-the-tests"


@asynccontextmanager
async def serving(
    answer: Answer, path: str = "/v1", **fields: Any
) -> AsyncIterator[tuple[UpstreamServer, LiteLLMProvider]]:
    async with UpstreamServer(answer) as server:
        url = server.url.removesuffix("/v1") + path
        provider = LiteLLMProvider(
            ProviderSettings(name="lib", dialect="litellm", base_url=url, api_key=SecretStr(KEY), **fields)
        )
        await provider.open()
        try:
            yield server, provider
        finally:
            await provider.close()


async def failure(answer: Answer, **fields: Any) -> Failure:
    async with serving(answer, **fields) as (_, provider):
        _, recording = start(provider, GenerationRequest(chat("hi"), "openai/m"))
        failed = await recording.end()
    assert failed is not None
    assert KEY not in str(failed)
    return failed


@pytest.mark.skipif(HERE, reason="the extra litellm is installed")
def test_a_missing_library_is_told_by_its_extra() -> None:
    with pytest.raises(InvalidRequest, match=r"pip install 'dragoman\[litellm\]'"):
        LiteLLMProvider(ProviderSettings(name="lib", dialect="litellm"))


@needs_library
async def test_the_request_on_the_wire() -> None:
    spec = chat("hi")
    spec.sampling.MergeFrom(Sampling(temperature=0.5, max_output_tokens=7, stop=["x"]))
    async with serving(chat_answer(), headers={"x-team": SecretStr("blue-team")}) as (server, provider):
        recording = await generate(provider, GenerationRequest(spec, "openai/m"))
    (request,) = server.requests
    assert recording.text == "You said: hi"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["x-team"] == "blue-team"
    assert request.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "max_tokens": 7,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@needs_library
async def test_tools_are_handed_over_and_nothing_else_is_made_of_them() -> None:
    spec = chat("hi")
    function = spec.tools.add().function
    function.name, function.parameters_json = "weather", '{"type":"object","properties":{}}'
    async with serving(chat_answer()) as (server, provider):
        assert (await generate(provider, GenerationRequest(spec, "openai/m"))).text == "You said: hi"
    parameters = {"type": "object", "properties": {}}
    assert server.requests[0].json["tools"] == [
        {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    ]


@needs_library
@pytest.mark.parametrize("incremental", [True, False])
async def test_another_vendors_dialect(incremental: bool) -> None:
    async with serving(upstream_anthropic.messages(), path="") as (server, provider):
        spec = chat(script(text=["one ", "two"], usage={"input_tokens": 11, "output_tokens": 5}))
        spec.sampling.max_output_tokens = 100
        model = f"anthropic/{upstream_anthropic.MODEL}"
        recording = await generate(provider, GenerationRequest(spec, model, incremental=incremental))
    assert recording.text == "one two"
    assert recording.usage is not None
    assert (recording.usage.input_tokens, recording.usage.output_tokens) == (11, 5)
    assert server.requests[0].headers["x-api-key"] == KEY


@needs_library
@pytest.mark.parametrize(
    ("spec", "model", "field"),
    [
        (ChatSpec(sampling=Sampling(seed=1)), "anthropic/claude-3-5-sonnet-20241022", "sampling.seed"),
        (ChatSpec(sampling=Sampling(logprobs=True)), "anthropic/claude-3-5-sonnet-20241022", "sampling.logprobs"),
        (ChatSpec(metadata={"a": "b"}), "openai/m", "metadata"),
        (
            ChatSpec(messages=[Message(role=Role.ROLE_USER, parts=[Part(image=ImagePart(url="https://e.org/a.png"))])]),
            "openai/m",
            "messages[1].parts[0].image.url",
        ),
    ],
)
async def test_what_would_be_dropped_is_refused_by_name(spec: ChatSpec, model: str, field: str) -> None:
    asked = chat("hi")
    asked.MergeFrom(spec)
    async with serving(chat_answer()) as (server, provider):
        with pytest.raises(UnsupportedFeature) as caught:
            provider.start(GenerationRequest(asked, model), Recording())
        assert not server.requests
    assert caught.value.field == field


@needs_library
@pytest.mark.parametrize(
    ("status", "headers", "error", "reason"),
    [
        (401, {}, {"message": f"wrong key {KEY}"}, Reason.PROVIDER_AUTH),
        (404, {}, {"message": "no such model"}, Reason.MODEL_NOT_FOUND),
        (429, {"Retry_After": 7}, {"message": "slow down"}, Reason.PROVIDER_RATE_LIMITED),
        (
            400,
            {},
            {"message": "This model's maximum context length is 8 tokens.", "code": "context_length_exceeded"},
            Reason.CONTEXT_LENGTH_EXCEEDED,
        ),
        (500, {}, {"message": "it hurts"}, Reason.PROVIDER_FAILED),
        (503, {}, {"message": "busy"}, Reason.PROVIDER_FAILED),
    ],
)
async def test_refusals_by_status(status: int, headers: dict[str, Any], error: dict[str, str], reason: Reason) -> None:
    failed = await failure(raw(whole(status, orjson.dumps({"error": error}), **headers)))
    assert failed.reason == reason
    assert failed.metadata["provider"] == "lib"
    assert (failed.retry_after.seconds == 7) is (status == 429)
    assert "litellm" not in failed.message.lower()


@needs_library
async def test_nobody_is_there() -> None:
    settings = ProviderSettings(name="lib", dialect="litellm", base_url="http://127.0.0.1:1/v1", api_key=SecretStr(KEY))
    provider = LiteLLMProvider(settings)
    await provider.open()
    _, recording = start(provider, GenerationRequest(chat("hi"), "openai/m"))
    failed = await recording.end()
    await provider.close()
    assert failed is not None
    assert failed.reason == Reason.PROVIDER_UNREACHABLE


@needs_library
async def test_silence_ends_an_answer() -> None:
    assert (await failure(raw(60.0), first_event_timeout=0.3)).reason == Reason.PROVIDER_TIMEOUT


@needs_library
async def test_before_it_is_loaded_and_after_its_end() -> None:
    provider = LiteLLMProvider(ProviderSettings(name="lib", dialect="litellm"))
    request = GenerationRequest(chat("hi"), "openai/m")
    with pytest.raises(Unavailable) as early:
        provider.start(request, Recording())
    assert early.value.reason == Reason.MODEL_NOT_READY
    await provider.open()
    await provider.close()
    with pytest.raises(Unavailable) as late:
        provider.start(request, Recording())
    assert late.value.reason == Reason.SHUTTING_DOWN
