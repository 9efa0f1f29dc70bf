"""The official OpenAI SDK against an edge, for what it makes of our answers."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import grpc
import openai
import pytest

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import Model
from dragoman.v1.event_pb2 import FinishReason, RunEvent
from dragoman.v1.run_pb2 import Run
from tests.e2e.edge.conftest import holds_briefly
from tests.support.fake_core import RUN_ID, CallFailed, completed, failed, finished, finished_run, started, text, usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai.types.chat import ChatCompletionMessageParam

    from tests.e2e.edge.conftest import Site

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def sdk(site: Site) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=site.url + "/v1", max_retries=1, timeout=20) as client:
        yield client


async def test_plain(site: Site, sdk: openai.AsyncOpenAI) -> None:
    raw = await sdk.chat.completions.with_raw_response.create(model="fast", messages=HELLO)
    assert raw.headers["x-dragoman-run-id"] == RUN_ID
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 8


async def test_an_answer_may_be_sent_back(site: Site, sdk: openai.AsyncOpenAI) -> None:
    call = {"parts": [{"tool_call": {"id": "call_a", "name": "f", "arguments": "{}"}}], "role": "ROLE_ASSISTANT"}
    site.core.answer = run_of({"message": call, "finish_reason": "FINISH_REASON_TOOL_CALLS"})
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    first = await sdk.chat.completions.create(model="fast", messages=HELLO, tools=tools)
    assert first.choices[0].finish_reason == "tool_calls"
    site.core.answer = finished_run("done")
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": "call_a", "content": "3"}
    history: Any = [*HELLO, first.choices[0].message, result]
    second = await sdk.chat.completions.create(model="fast", messages=history, tools=tools)
    assert second.choices[0].message.content == "done"
    parts = site.core.requests[-1].spec.chat.messages[1].parts
    assert [part.WhichOneof("kind") for part in parts] == ["tool_call"]


async def test_stream_with_usage(site: Site, sdk: openai.AsyncOpenAI) -> None:
    script = site.core.script()
    script.push(started(), text("Hel"))
    script.push(text("lo"), finished(), usage(), completed())
    script.end()
    stream = await sdk.chat.completions.create(
        model="fast", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 3


async def test_the_stream_helper_gathers_tool_calls(site: Site, sdk: openai.AsyncOpenAI) -> None:
    script = site.core.script()
    start, more, second = RunEvent(), RunEvent(), RunEvent()
    start.tool_call_started.call_id, start.tool_call_started.name = "call_a", "f"
    more.tool_call_arguments_delta.arguments = '{"x":'
    second.tool_call_arguments_delta.arguments = "1}"
    script.push(started(), start, more)
    script.push(second, finished(reason=FinishReason.FINISH_REASON_TOOL_CALLS), completed())
    script.end()
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with sdk.chat.completions.stream(model="fast", messages=HELLO, tools=tools) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert (calls[0].id, calls[0].function.name, calls[0].function.arguments) == ("call_a", "f", '{"x":1}')


async def test_several_choices_interleaved(site: Site, sdk: openai.AsyncOpenAI) -> None:
    script = site.core.script()
    script.push(started(), text("a", 1), text("b", 0), text("c", 1), finished(0), finished(1), completed())
    script.end()
    said = {0: "", 1: ""}
    async for chunk in await sdk.chat.completions.create(model="fast", messages=HELLO, n=2, stream=True):
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert said == {0: "b", 1: "ac"}
    assert script.request.spec.chat.sampling.choice_count == 2


@holds_briefly
async def test_pings_are_not_seen(site: Site, sdk: openai.AsyncOpenAI) -> None:
    script = site.core.script()
    stream = await sdk.chat.completions.create(model="fast", messages=HELLO, stream=True)  # held, then committed
    script.push(started(), text("late"), finished(), completed())
    script.end()
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "late"


async def test_an_error_in_band_is_raised(site: Site, sdk: openai.AsyncOpenAI) -> None:
    script = site.core.script()
    script.push(started(), text("par"), failed(Reason.PROVIDER_FAILED, "It broke."))
    stream = await sdk.chat.completions.create(model="fast", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="It broke") as caught:
        async for _ in stream:
            pass
    assert caught.value.code == "provider_failed"


@pytest.mark.parametrize(
    ("code", "reason", "exception", "calls"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST, openai.BadRequestError, 1),
        (grpc.StatusCode.UNAUTHENTICATED, Reason.API_KEY_INVALID, openai.AuthenticationError, 1),
        (grpc.StatusCode.NOT_FOUND, Reason.MODEL_NOT_FOUND, openai.NotFoundError, 1),
        (grpc.StatusCode.ALREADY_EXISTS, Reason.IDEMPOTENCY_CONFLICT, openai.ConflictError, 1),
        (grpc.StatusCode.UNIMPLEMENTED, Reason.UNIMPLEMENTED, openai.InternalServerError, 1),
        (grpc.StatusCode.UNAVAILABLE, Reason.OVERLOADED, openai.InternalServerError, 2),
    ],
)
async def test_errors_and_how_often_they_are_retried(
    site: Site, sdk: openai.AsyncOpenAI, code: grpc.StatusCode, reason: Reason, exception: type[Exception], calls: int
) -> None:
    site.core.answer = CallFailed(code, reason, "No.", retry_after=0.01 if calls > 1 else None)
    with pytest.raises(exception):
        await sdk.chat.completions.create(model="fast", messages=HELLO)
    assert len(site.core.requests) == calls


async def test_leaving_a_stream_cancels_its_run(site: Site, sdk: openai.AsyncOpenAI) -> None:
    script = site.core.script()
    script.push(started(), text("a"))
    stream = await sdk.chat.completions.create(model="fast", messages=HELLO, stream=True)
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(10):
        await script.gone.wait()
    assert script.cancelled


async def test_images(site: Site, sdk: openai.AsyncOpenAI) -> None:
    url = "data:image/png;base64," + base64.b64encode(b"pixel").decode()
    parts: Any = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]
    await sdk.chat.completions.create(model="fast", messages=[{"role": "user", "content": parts}])
    assert site.core.requests[0].spec.chat.messages[0].parts[1].image.data == b"pixel"


async def test_models(site: Site, sdk: openai.AsyncOpenAI) -> None:
    site.core.models = [Model(id=name, owner="acme") for name in ("local/small", "a", "b")]
    assert [model.id async for model in sdk.models.list()] == ["local/small", "a", "b"]
    assert (await sdk.models.retrieve("local/small")).owned_by == "acme"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("nope")


def run_of(choice: Any) -> Run:
    from google.protobuf.json_format import ParseDict

    return ParseDict({"id": RUN_ID, "state": "STATE_COMPLETED", "choices": [choice]}, Run())
