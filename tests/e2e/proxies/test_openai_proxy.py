from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import openai
import pytest

from tests.support.core import KEY
from tests.support.proxy_site import BOUND, UPSTREAM_KEY, Site, completion
from tests.support.upstream_server import raw, script, whole
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HELLO = script(text=["Hel", "lo"])


@pytest.fixture
async def sdk(site: Site) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{site.url}/api/v1/proxy/{site.upstream.url}/{UPSTREAM_KEY}"
    async with openai.AsyncOpenAI(api_key=KEY, base_url=base_url, max_retries=0, timeout=BOUND) as client:
        yield client


async def test_the_sdk_gets_an_answer(site: Site, sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(
        model="gpt-x", messages=[{"role": "user", "content": HELLO}], temperature=0.5, max_tokens=100
    )
    assert (answer.object, answer.model, answer.choices[0].finish_reason) == ("chat.completion", "gpt-x", "stop")
    assert answer.choices[0].message.content == "Hello"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    [request] = site.upstream.requests
    assert request.head == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert KEY not in request.head + str(request.headers)
    assert (request.json["model"], request.json["temperature"]) == ("gpt-x", 0.5)


async def test_the_sdk_gets_a_stream(site: Site, sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="gpt-x",
        messages=[{"role": "user", "content": HELLO}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert chunks[-1].usage is not None
    answer = await site.post(proxied(site), completion(HELLO, stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_tools_and_formats_are_handed_on(site: Site, sdk: openai.AsyncOpenAI) -> None:
    call = {"name": "look", "arguments": ['{"at":', '"it"}']}
    answer = await sdk.chat.completions.create(
        model="gpt-x",
        messages=[{"role": "user", "content": script(tool_calls=[call])}],
        tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        response_format={"type": "json_object"},
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls is not None
    [request] = site.upstream.requests
    assert request.json["tools"][0]["function"]["name"] == "look"
    assert request.json["response_format"] == {"type": "json_object"}


def proxied(site: Site, address: str | None = None, key: str = UPSTREAM_KEY) -> str:
    return f"/api/v1/proxy/{address or site.upstream.url}/{key}/chat/completions"


async def test_addresses_are_taken_in_every_form(site: Site) -> None:
    host = f"127.0.0.1:{site.upstream.port}"
    places = [
        f"http://{host}/v1/{UPSTREAM_KEY}",
        f"http:/{host}/v1/{UPSTREAM_KEY}",
        f"{quote(f'http://{host}/v1', safe='')}/{UPSTREAM_KEY}",
        quote(f"http://{host}/v1/{UPSTREAM_KEY}", safe=""),
        f"http%3A//{host}/v1/{UPSTREAM_KEY}",
        f"http://{host}/v1/{quote(UPSTREAM_KEY.replace('-', '%2D'), safe='%')}",
    ]
    for place in places:
        answer = await site.post(f"/api/v1/proxy/{place}/chat/completions", completion(HELLO))
        assert answer.status == 200, place
    absolute = f"http://edge/api/v1/proxy/http://{host}/v1/{UPSTREAM_KEY}/chat/completions"
    assert (await site.post(absolute, completion(HELLO))).status == 200
    assert {request.head for request in site.upstream.requests} == {"POST /v1/chat/completions HTTP/1.1"}
    assert {request.headers["authorization"] for request in site.upstream.requests} == {f"Bearer {UPSTREAM_KEY}"}


@pytest.mark.parametrize("path", ["/api/v1/proxy/default", "/api/v1/proxy/default/chat/completions"])
async def test_the_default_route_has_the_servers_own_model(site: Site, path: str) -> None:
    answer = await site.post(path, completion(HELLO, model="alchemyst-ai/alchemyst-c1"))
    assert answer.status == 200
    assert (answer.json["model"], answer.json["choices"][0]["message"]["content"]) == (
        "alchemyst-ai/alchemyst-c1",
        "Hello",
    )
    stream = await site.post(path, completion(HELLO, model="alchemyst-ai/alchemyst-c1", stream=True))
    assert stream.body.endswith(b"data: [DONE]\n\n")
    for model in ("fast", "demo/echo", "gpt-4"):
        refused = await site.post(path, completion(model=model))
        assert (refused.status, refused.error["type"], refused.error["code"], refused.error["param"]) == (
            400,
            "invalid_request_error",
            "invalid_request",
            "model",
        )
    assert site.upstream.connection_count == 0


@pytest.mark.parametrize("path", ["/api/v1/proxy/default", None])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"messages": [{"role": "user", "content": "x"}]}, "invalid_request"),
        ({"model": "alchemyst-ai/alchemyst-c1"}, "invalid_messages"),
        ({"model": "alchemyst-ai/alchemyst-c1", "messages": []}, "invalid_messages"),
        (completion(model="alchemyst-ai/alchemyst-c1") | {"messages": [{"role": "nobody"}]}, "invalid_messages"),
        (completion(model="alchemyst-ai/alchemyst-c1", temperature=3), "invalid_request"),
        (completion(model="alchemyst-ai/alchemyst-c1", presence_penalty="x"), "invalid_request"),
        ([], "invalid_request"),
    ],
)
async def test_bad_bodies(site: Site, path: str | None, body: object, code: str) -> None:
    answer = await site.post(path or proxied(site), body)
    assert answer.status == 400
    assert (answer.error["type"], answer.error["code"]) == ("invalid_request_error", code)
    assert answer.error["message"]
    assert site.upstream.connection_count == 0


async def test_the_platform_key_is_needed(site: Site) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {UPSTREAM_KEY}"}):
        for path in ("/api/v1/proxy/default", proxied(site)):
            answer = await site.post(path, completion(model="alchemyst-ai/alchemyst-c1"), headers)
            assert (answer.status, answer.error["type"]) == (401, "authentication_error")
            assert set(answer.error) == {"message", "type", "code"}
    assert site.upstream.connection_count == 0


@pytest.mark.parametrize(
    ("status", "seen", "kind", "code"),
    [
        (401, 401, "authentication_error", "upstream_auth"),
        (403, 401, "authentication_error", "upstream_auth"),
        (400, 400, "invalid_request_error", "provider_rejected"),
        (404, 400, "invalid_request_error", "provider_rejected"),
        (429, 429, "rate_limit_error", "rate_limit_exceeded"),
        (500, 502, "server_error", "provider_failed"),
        (302, 502, "server_error", "provider_failed"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_failures_of_the_upstream(
    site: Site, streams: bool, status: int, seen: int, kind: str, code: str
) -> None:
    message = f"no: {UPSTREAM_KEY} at {site.upstream.url}"
    body = json.dumps({"error": {"message": message}}).encode()
    site.upstream.answer = raw(whole(status, body, Location=f"{site.upstream.url}/elsewhere", Retry_After=7))
    answer = await site.post(proxied(site), completion(stream=streams))
    assert (answer.status, answer.error["type"], answer.error["code"]) == (seen, kind, code)
    assert UPSTREAM_KEY not in answer.body.decode()
    assert site.upstream.url not in answer.body.decode()
    assert len(site.upstream.requests) == 1
    assert answer.headers.get("retry-after") == ("7" if status in (429, 500) else None)


async def test_a_failure_within_a_stream_has_the_same_words(site: Site) -> None:
    told = script(text=["Hel", "lo"], delay=0.05, fail_after={"after": 1, "message": "over"})
    answer = await site.post(proxied(site), completion(told, stream=True))
    assert answer.status == 200
    *_, last, done = answer.body.decode().removesuffix("\n\n").split("\n\n")
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], set(error)) == ("server_error", {"message", "type", "code"})
    assert done == "data: [DONE]"


async def test_leaving_ends_the_call_of_the_upstream(site: Site) -> None:
    for streams in (True, False):
        told = script(text=["word "] * 200, delay=0.05)
        body = json.dumps(completion(told, stream=streams)).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        head = f"POST {proxied(site)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(BOUND):
            if streams:
                await reader.readuntil(b"word ")
            await until(lambda: site.upstream.requests)
            site.upstream.aborted.clear()
            writer.close()
            await site.upstream.aborted.wait()
        site.upstream.requests.clear()


async def test_other_operations_are_not_there(site: Site) -> None:
    for tail in ("v1/messages", "models", "embeddings", "chat/completions/x"):
        answer = await site.post(f"/api/v1/proxy/{site.upstream.url}/{UPSTREAM_KEY}/{tail}", completion())
        assert (answer.status, answer.error["code"]) == (404, "unknown_url")
        assert UPSTREAM_KEY not in answer.body.decode()
        assert str(site.upstream.port) not in answer.body.decode()
    assert site.upstream.connection_count == 0


async def test_a_proxied_run_is_recorded_without_address_and_key(site: Site) -> None:
    answer = await site.post(proxied(site), completion(HELLO))
    run_id = answer.headers["x-dragoman-run-id"]
    record = await site.send("GET", f"/v1/runs/{run_id}", b"", {"Authorization": f"Bearer {KEY}"})
    assert record.status == 200
    assert record.json["run"]["provider"] == "proxy"
    assert record.json["run"]["model"] == "m"
    for secret in (UPSTREAM_KEY, str(site.upstream.port)):
        assert secret not in record.body.decode()


async def test_failures_of_one_caller_do_not_shut_the_server_off(site: Site) -> None:
    answers = site.upstream.answer
    site.upstream.answer = raw(whole(500, b"{}"))
    for _ in range(10):
        assert (await site.post(proxied(site), completion())).status == 502
    site.upstream.answer = raw(whole(429, b"{}", Retry_After=60))
    assert (await site.post(proxied(site), completion())).status == 429
    site.upstream.answer = answers
    assert (await site.post(proxied(site), completion(HELLO))).status == 200
