"""An edge before a real core, over each kind of channel: the edge cannot tell which it got."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import openai
import pytest

from tests.support.core import CHANNELS, KEY, channel_to, running_core
from tests.support.edge import running_edge, url_of
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dragoman_server.app import Core


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with running_core() as core:
        yield core


@pytest.fixture(params=CHANNELS)
async def sdk(request: pytest.FixtureRequest, core: Core) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        channel_to(core, request.param) as channel,
        running_edge(channel, hold_headers=5, keep_alive=0.1) as edge,
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{url_of(edge)}/v1", max_retries=0, timeout=20) as client,
    ):
        yield client


def script(**members: object) -> str:
    return "SCRIPT " + json.dumps(members)


async def run_state(core: Core, sdk: openai.AsyncOpenAI, run_id: str) -> str:
    answer = await sdk.get(f"/runs/{run_id}", cast_to=object)
    assert isinstance(answer, dict)
    state: str = answer["run"]["state"]
    return state


async def test_plain_and_stream_tell_the_same(sdk: openai.AsyncOpenAI) -> None:
    content = script(text=["Hel", "lo ", "wörld"])
    plain = await sdk.chat.completions.create(model="fast", messages=[{"role": "user", "content": content}])
    stream = await sdk.chat.completions.create(
        model="fast",
        messages=[{"role": "user", "content": content}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == plain.choices[0].message.content == "Hello wörld"
    assert chunks[-1].usage == plain.usage


async def test_leaving_on_any_event_cancels_the_run(core: Core, sdk: openai.AsyncOpenAI) -> None:
    words = [f"word{i} " for i in range(8)]
    for count in range(1, 8):
        raw = await sdk.chat.completions.with_raw_response.create(
            model="fast", messages=[{"role": "user", "content": script(text=words, delay=0.05)}], stream=True
        )
        run_id = raw.headers["x-dragoman-run-id"]
        seen = 0
        stream = raw.parse()
        async for chunk in stream:
            seen += bool(chunk.choices and chunk.choices[0].delta.content)
            if seen == count:
                break
        await stream.close()
        await until(lambda: not core.runs.active)
        assert await run_state(core, sdk, run_id) == "STATE_CANCELLED"


async def test_a_detached_run_goes_on(core: Core, sdk: openai.AsyncOpenAI) -> None:
    raw = await sdk.chat.completions.with_raw_response.create(
        model="fast",
        messages=[{"role": "user", "content": script(text=["a", "b", "c"], delay=0.1)}],
        stream=True,
        extra_headers={"X-Dragoman-Disconnect": "detach"},
    )
    run_id = raw.headers["x-dragoman-run-id"]
    await raw.parse().close()
    events = await sdk.get(f"/runs/{run_id}/events", cast_to=str)
    kinds = [line.removeprefix("event: ") for line in events.splitlines() if line.startswith("event: ")]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_completed"
    assert kinds.count("text_delta") == 3
    assert await run_state(core, sdk, run_id) == "STATE_COMPLETED"


async def test_errors(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        await sdk.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        await sdk.get("/runs/run_nope", cast_to=object)


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    ids = [model.id async for model in sdk.models.list()]
    assert "fast" in ids
    assert (await sdk.models.retrieve("demo/echo")).id == "demo/echo"
