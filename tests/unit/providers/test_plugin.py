from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from dragoman.plugin.v1 import model_backend_pb2_grpc
from dragoman.plugin.v1.model_backend_pb2 import DescribeResponse, GenerateResponse
from dragoman.v1.event_pb2 import (
    ChoiceFinished,
    FinishReason,
    RunCompleted,
    RunEvent,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from dragoman.v1.failure_pb2 import Failure
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import InvalidRequest, Unavailable
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.plugin.provider import PluginProvider
from dragoman_server.settings import ProviderSettings
from tests.support.generation import Recording, chat, generate, start
from tests.support.plugin_backend import MODEL, Backend, serving
from tests.support.upstream_server import script


@asynccontextmanager
async def plugin(backend: Any, **settings: Any) -> AsyncIterator[PluginProvider]:
    async with serving(backend) as address:
        provider = PluginProvider(ProviderSettings(name="mine", dialect="plugin", base_url=address, **settings))
        await provider.open()
        try:
            yield provider
        finally:
            await provider.close()


async def failed(provider: PluginProvider) -> Failure:
    """Runs a generation to its bad end."""
    _, recording = start(provider, asked())
    failure = await recording.end()
    assert failure is not None
    return failure


def asked(**directions: Any) -> GenerationRequest:
    return GenerationRequest(chat(script(**directions) if directions else "Hello"), "m", run_id="run_1")


async def test_describes_its_models_and_hands_the_request_over() -> None:
    backend = Backend()
    async with plugin(backend, api_key=SecretStr("secret-of-the-plugin")) as provider:
        assert provider.ready
        assert list(provider.models) == [MODEL]
        recording = await generate(provider, asked())
    assert recording.text == "You said: Hello"
    (request,) = backend.requests
    assert (request.spec.model, request.run_id, request.incremental) == ("m", "run_1", True)
    assert backend.metadata[0]["authorization"] == "Bearer secret-of-the-plugin"


async def test_listens_on_a_unix_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/plugin.sock"
    async with serving(Backend(), address):
        provider = PluginProvider(ProviderSettings(name="mine", dialect="plugin", base_url=address))
        await provider.open()
        recording = await generate(provider, asked())
        await provider.close()
    assert recording.text == "You said: Hello"


async def test_cancelling_reaches_the_plugin() -> None:
    backend = Backend()
    async with plugin(backend) as provider:
        generation, recording = start(provider, asked(text=["a "], repeat=10_000, delay=0.01))
        await recording.events_reach(2)
        generation.cancel()
        failure = await recording.end()
        assert failure is not None
        assert failure.reason == "CANCELLED"
        async with asyncio.timeout(10):
            while not backend.cancelled:
                await asyncio.sleep(0.01)


async def test_cancelled_before_its_first_step_it_still_ends() -> None:
    async with plugin(Backend()) as provider:
        generation, recording = start(provider, asked())
        generation.cancel()
        failure = await recording.end()
        assert failure is not None
        assert failure.reason == "CANCELLED"
        assert not provider.running


async def test_a_plugin_that_is_not_there_yet_is_waited_for() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")  # it does not answer before it is started
    provider = PluginProvider(ProviderSettings(name="mine", dialect="plugin", base_url=f"127.0.0.1:{port}"))
    opening = asyncio.create_task(provider.open())
    await asyncio.sleep(0.05)
    assert not provider.ready
    with pytest.raises(Unavailable, match="mine does not answer yet"):
        provider.start(asked(), Recording())
    model_backend_pb2_grpc.add_ModelBackendServicer_to_server(Backend(), server)
    await server.start()
    await asyncio.wait_for(opening, 30)
    assert provider.ready
    await provider.close()
    await server.stop(0)


def test_an_address_is_needed() -> None:
    with pytest.raises(InvalidRequest, match="base_url"):
        PluginProvider(ProviderSettings(name="mine", dialect="plugin"))


def test_a_key_that_no_metadata_can_carry() -> None:
    settings = ProviderSettings(name="mine", dialect="plugin", base_url="127.0.0.1:1", api_key=SecretStr("a\nb"))
    with pytest.raises(InvalidRequest) as caught:
        PluginProvider(settings)
    assert caught.value.field == "api_key"


async def test_a_call_that_breaks_in_our_hands_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise ValueError("no such thing")

    async with plugin(Backend()) as provider:
        monkeypatch.setattr(provider.stub, "Generate", broken)
        failure = await failed(provider)
        assert not provider.running
    assert failure.reason == "INTERNAL"
    assert "no such thing" not in failure.message


class Says(model_backend_pb2_grpc.ModelBackendServicer):
    """Answers with given messages, then with a given end."""

    def __init__(self, *responses: GenerateResponse, code: grpc.StatusCode | None = None, wait: float = 0) -> None:
        self._responses, self._code, self._wait = responses, code, wait

    async def Describe(self, request: Any, context: Any) -> DescribeResponse:
        return DescribeResponse(models=[MODEL])

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[GenerateResponse]:
        for response in self._responses:
            yield response
        await asyncio.sleep(self._wait)
        if self._code is not None:
            await context.abort(self._code, "see http://10.0.0.1/secret")


def said(*events: RunEvent) -> GenerateResponse:
    return GenerateResponse(events=events)


TEXT = RunEvent(text_delta=TextDelta(text="a"))
DONE = RunEvent(choice_finished=ChoiceFinished(finish_reason=FinishReason.FINISH_REASON_STOP))
USAGE = RunEvent(usage_reported=UsageReported(last_call=Usage(input_tokens=1, output_tokens=2)))
CALL = RunEvent(tool_call_started=ToolCallStarted(call_id="c", name="f"))


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([TEXT], "ended without saying why"),
        ([RunEvent(run_completed=RunCompleted())], "run_completed is not a backend's"),
        ([RunEvent()], "unknown is not a backend's"),
        ([RunEvent(text_delta=TextDelta(text="a", choice_index=1))], "choice 0 was asked for, not 1"),
        ([DONE, TEXT], "text_delta came after the end"),
        ([DONE, DONE], "choice_finished came after the end"),
        ([RunEvent(choice_finished=ChoiceFinished())], "without a finish reason"),
        ([RunEvent(tool_call_arguments_delta=ToolCallArgumentsDelta(arguments="{}"))], "not open"),
        ([RunEvent(tool_call_started=ToolCallStarted(name="f"))], "needs an id"),
        ([RunEvent(tool_call_started=ToolCallStarted(call_id="c", name="f", call_index=3))], "the next one is 0"),
        ([CALL, DONE], "within a tool call"),
    ],
)
async def test_what_breaks_the_contract_fails(events: Sequence[RunEvent], problem: str) -> None:
    async with plugin(Says(said(*events))) as provider:
        failure = await failed(provider)
    assert failure.reason == "PROVIDER_PROTOCOL"
    assert problem in failure.message
    assert failure.metadata["provider"] == "mine"


async def test_usage_ends_its_batch_and_positions_are_the_engines() -> None:
    numbered = RunEvent(sequence=7, text_delta=TextDelta(text="a"))
    async with plugin(Says(said(numbered, DONE, USAGE, USAGE))) as provider:
        _, recording = start(provider, asked())
        assert await recording.end() is None
    kinds = [[event.WhichOneof("kind") for event in batch.events] for batch in recording.batches]
    assert kinds == [["text_delta", "choice_finished", "usage_reported"], ["usage_reported"]]
    assert recording.batches[0].events[0].sequence == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNREACHABLE"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "PROVIDER_RATE_LIMITED"),
        (grpc.StatusCode.UNAUTHENTICATED, "PROVIDER_AUTH"),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        (grpc.StatusCode.INVALID_ARGUMENT, "PROVIDER_REJECTED"),
        (grpc.StatusCode.UNKNOWN, "PROVIDER_FAILED"),
    ],
)
async def test_statuses_become_reasons_without_addresses(code: grpc.StatusCode, reason: str) -> None:
    async with plugin(Says(said(TEXT), code=code)) as provider:
        failure = await failed(provider)
    assert failure.reason == reason
    assert "10.0.0.1" not in failure.message


async def test_a_reported_failure_passes_with_a_known_reason() -> None:
    known = Failure(reason="CONTEXT_LENGTH_EXCEEDED", message="too long")
    unknown = Failure(reason="WHATEVER", message="see https://inner.test/x", retryable=True)
    async with plugin(Says(GenerateResponse(failure=known))) as provider:
        first = await failed(provider)
    async with plugin(Says(said(TEXT), GenerateResponse(failure=unknown))) as provider:
        second = await failed(provider)
    assert (first.reason, first.message) == ("CONTEXT_LENGTH_EXCEEDED", "too long")
    assert (second.reason, second.message, second.retryable) == ("PROVIDER_FAILED", "see [address]", True)


async def test_silence_ends_the_call() -> None:
    async with plugin(Says(said(TEXT), wait=30), idle_timeout=0.1) as provider:
        failure = await failed(provider)
    assert failure.reason == "PROVIDER_TIMEOUT"
