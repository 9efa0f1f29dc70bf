from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from dragoman.reasons import Reason
from dragoman.v1.run_pb2 import DisconnectPolicy, Run
from tests.e2e.edge.conftest import SETTINGS, holds_briefly
from tests.support.fake_core import RUN_ID, CallFailed, completed, failed, finished, finished_run, started, text, usage
from tests.support.waiting import at_rest, until

if TYPE_CHECKING:
    from tests.e2e.edge.conftest import Site

URL = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "alias", "messages": [{"role": "user", "content": "hi"}]}
STREAM = HELLO | {"stream": True}


async def test_plain(site: Site) -> None:
    async with site.client.post(URL, json=HELLO, headers={"X-Request-Id": "mine-1"}) as answer:
        assert answer.status == 200
        body = await answer.json()
    assert body["id"] == "chatcmpl-" + RUN_ID.removeprefix("run_")
    assert body["model"] == "alias"
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["usage"]["total_tokens"] == 8
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-dragoman-run-id"] == RUN_ID
    metadata = site.core.metadata[0]
    assert metadata["authorization"] == "Bearer sk-test"
    assert metadata["x-request-id"] == "mine-1"
    assert site.core.requests[0].spec.chat.messages[0].parts[0].text.text == "hi"


async def test_a_new_request_id_replaces_an_insane_one(site: Site) -> None:
    async with site.client.post(URL, json=HELLO, headers={"X-Request-Id": "a b" * 100}) as answer:
        assert answer.headers["x-request-id"].startswith("req_")


async def test_run_headers(site: Site) -> None:
    headers = {"Idempotency-Key": "key-1", "X-Dragoman-Disconnect": "detach-for=90"}
    async with site.client.post(URL, json=HELLO, headers=headers) as answer:
        assert answer.status == 200
    request = site.core.requests[0]
    assert request.request_id == "key-1"
    assert request.spec.disconnect_policy == DisconnectPolicy.DISCONNECT_POLICY_DETACH_FOR
    assert request.spec.detach_ttl.seconds == 90


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Dragoman-Disconnect", "maybe"),
        ("X-Dragoman-Disconnect", "detach-for=-1"),
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "x" * 256),
        ("Idempotency-Key", "a\tb"),
    ],
)
async def test_bad_run_headers(site: Site, name: str, value: str) -> None:
    async with site.client.post(URL, json=HELLO, headers={name: value}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == name


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "authorization"])
async def test_each_header_may_carry_the_key(site: Site, header: str) -> None:
    value = "Bearer sk-test" if header == "authorization" else "sk-test"
    async with site.client.post(URL, json=HELLO, headers={header: value}) as answer:
        assert answer.status == 200
    assert site.core.metadata[0]["authorization"] == "Bearer sk-test"


@pytest.mark.parametrize(
    "headers", [{"x-api-key": "other"}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer "}]
)
async def test_contradicting_or_malformed_keys(site: Site, headers: dict[str, str]) -> None:
    async with site.client.post(URL, json=HELLO, headers=headers) as answer:
        assert answer.status == 401
        assert (await answer.json())["error"]["code"] == "invalid_api_key"
    assert not site.core.metadata


@pytest.mark.parametrize(
    ("code", "reason", "status", "error_code", "retry"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST, 400, "invalid_value", False),
        (grpc.StatusCode.INVALID_ARGUMENT, Reason.CONTEXT_LENGTH_EXCEEDED, 400, "context_length_exceeded", False),
        (grpc.StatusCode.UNAUTHENTICATED, Reason.API_KEY_EXPIRED, 401, "api_key_expired", False),
        (grpc.StatusCode.PERMISSION_DENIED, Reason.FORBIDDEN, 403, "forbidden", False),
        (grpc.StatusCode.NOT_FOUND, Reason.MODEL_NOT_FOUND, 404, "model_not_found", False),
        (grpc.StatusCode.ALREADY_EXISTS, Reason.IDEMPOTENCY_CONFLICT, 409, "idempotency_conflict", False),
        (grpc.StatusCode.UNAVAILABLE, Reason.MODEL_NOT_READY, 503, "model_not_ready", True),
        (grpc.StatusCode.UNIMPLEMENTED, Reason.UNIMPLEMENTED, 501, "unimplemented", False),
        (grpc.StatusCode.INTERNAL, Reason.INTERNAL, 500, "internal_error", True),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refused_calls(
    site: Site, code: grpc.StatusCode, reason: Reason, status: int, error_code: str, retry: bool, stream: bool
) -> None:
    refusal = CallFailed(code, reason, "No.", field="spec.chat.sampling.temperature", metadata={"run_id": RUN_ID})
    site.core.answer = refusal
    site.core.script().end(refusal)
    async with site.client.post(URL, json=HELLO | {"stream": stream}) as answer:
        assert answer.status == status
        assert answer.content_type == "application/json"
        error = (await answer.json())["error"]
    param = "model" if reason is Reason.MODEL_NOT_FOUND else "temperature"
    assert (error["message"], error["param"], error["code"]) == ("No.", param, error_code)
    assert (answer.headers.get("x-should-retry") == "false") is not retry
    assert answer.headers["x-dragoman-run-id"] == RUN_ID


async def test_advice_when_to_come_back(site: Site) -> None:
    site.core.answer = CallFailed(grpc.StatusCode.UNAVAILABLE, Reason.OVERLOADED, "Full.", retry_after=2.5)
    async with site.client.post(URL, json=HELLO) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "3"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_run_before_its_first_word(site: Site, stream: bool) -> None:
    event = failed(Reason.PROVIDER_RATE_LIMITED, "Slow down.", retryable=True)
    site.core.answer = Run(id=RUN_ID, state=Run.STATE_FAILED, failure=event.run_failed.failure)
    site.core.script().push(started(), event)
    async with site.client.post(URL, json=HELLO | {"stream": stream}) as answer:
        assert answer.status == 429
        assert (await answer.json())["error"]["code"] == "rate_limit_exceeded"
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["x-dragoman-run-id"] == RUN_ID


async def test_a_cancelled_run(site: Site) -> None:
    site.core.answer = Run(id=RUN_ID, state=Run.STATE_CANCELLED)
    async with site.client.post(URL, json=HELLO) as answer:
        assert answer.status == 499


async def test_a_core_that_cannot_be_reached(site: Site) -> None:
    site.core.hold = asyncio.Event()
    request = asyncio.create_task(site.client.post(URL, json=HELLO))
    await until(lambda: site.core.requests)
    await site.stop_core()
    answer = await request
    assert answer.status in (503, 499)
    async with site.client.post(URL, json=HELLO) as second:
        assert second.status == 503
        assert "unix" not in await second.text()


async def test_stream(site: Site) -> None:
    script = site.core.script()
    script.push(started(), text("Hel"))
    script.push(text("lo"), finished(), usage(), completed())
    script.end()
    body = STREAM | {"stream_options": {"include_usage": True}}
    async with site.client.post(URL, json=body) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert "Content-Length" not in answer.headers
        assert answer.headers["x-dragoman-run-id"] == RUN_ID
        wire = await answer.text()
    *frames, done, rest = wire.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks[:-1]) == "Hello"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 8


async def test_a_long_backlog_comes_whole(site: Site) -> None:
    script = site.core.script()
    script.push(started(), *(text(f"{i} ") for i in range(20_000)))
    script.push(finished(), completed())
    script.end()
    async with site.client.post(URL, json=STREAM) as answer:
        wire = await answer.text()
    assert [int(number) for number in re.findall(r'"content":"(\d+) "', wire)] == list(range(20_000))


async def test_a_stream_shows_each_word_when_it_comes(site: Site) -> None:
    script = site.core.script()
    async with asyncio.timeout(10):
        request = asyncio.create_task(site.client.post(URL, json=STREAM))
        await script.started.wait()
        script.push(started(), text("one"))
        async with await request as answer:
            seen = b""
            while b"one" not in seen:
                seen += await answer.content.readany()
            script.push(text("two"))
            while b"two" not in seen:
                seen += await answer.content.readany()
            assert b"[DONE]" not in seen
            script.push(finished(), completed())
            script.end()
            assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")


async def test_failure_after_the_first_word_is_told_in_band(site: Site) -> None:
    script = site.core.script()
    script.push(started(), text("par"))
    script.push(failed(Reason.PROVIDER_PROTOCOL, "It broke off.", retryable=True))
    async with site.client.post(URL, json=STREAM) as answer:
        assert answer.status == 200
        *_, error, done, _ = (await answer.text()).split("\n\n")
    assert json.loads(error.removeprefix("data: ")) == {
        "error": {"message": "It broke off.", "type": "server_error", "param": None, "code": "provider_protocol"}
    }
    assert done == "data: [DONE]"


@pytest.mark.parametrize(
    "end", [None, CallFailed(grpc.StatusCode.ABORTED, Reason.WATCHER_TOO_SLOW, "Too slow.", metadata={})]
)
async def test_a_call_that_ends_before_its_run_is_an_error(site: Site, end: CallFailed | None) -> None:
    script = site.core.script()
    script.push(started(), text("par"))
    script.end(end)
    async with site.client.post(URL, json=STREAM) as answer:
        *_, error, done, _ = (await answer.text()).split("\n\n")
    code = "internal_error" if end is None else "watcher_too_slow"
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == code
    assert done == "data: [DONE]"


class TestSilence:
    """The upstream is silent for longer than the status line is held."""

    @holds_briefly
    async def test_then_it_answers(self, site: Site) -> None:
        script = site.core.script()
        async with asyncio.timeout(10), site.client.post(URL, json=STREAM) as answer:  # the status comes without a word
            assert answer.status == 200
            assert await answer.content.readline() == b": ping\n"
            assert await answer.content.readline() == b": ping\n"
            script.push(started(), text("late"), finished(), completed())
            script.end()
            rest = (await answer.content.read()).decode()
        rest = rest.replace(": ping\n", "")
        assert rest.startswith("data: {")
        assert "late" in rest
        assert rest.endswith("data: [DONE]\n\n")

    @holds_briefly
    async def test_then_it_fails(self, site: Site) -> None:
        script = site.core.script()
        async with asyncio.timeout(10), site.client.post(URL, json=STREAM) as answer:
            assert answer.status == 200
            assert await answer.content.readline() == b": ping\n"
            script.push(started(), failed(Reason.PROVIDER_TIMEOUT, "Silent.", retryable=True))
            rest = (await answer.content.read()).decode().replace(": ping\n", "")
        assert json.loads(rest.split("\n\n")[0].removeprefix("data: "))["error"]["code"] == "provider_timeout"
        assert rest.endswith("data: [DONE]\n\n")

    async def test_between_two_words(self, site: Site) -> None:
        script = site.core.script()
        script.push(started(), text("one"))
        async with asyncio.timeout(10), site.client.post(URL, json=STREAM) as answer:
            while await answer.content.readline() != b": ping\n":
                pass
            script.push(finished(), completed())
            script.end()
            assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")


class TestDisconnect:
    async def test_on_every_event(self, site: Site) -> None:
        events = [started(), *(text(f"word {i}") for i in range(6)), finished(), usage()]
        for count in range(len(events) + 1):
            script = site.core.script()
            request = asyncio.create_task(site.client.post(URL, json=STREAM))
            async with asyncio.timeout(10):
                await script.started.wait()
                for event in events[:count]:
                    script.push(type(event).FromString(event.SerializeToString()))
                while script.sent < count:
                    await asyncio.sleep(0)
                if count > 1:
                    answer = await request
                    answer.close()
                else:
                    request.cancel()
                await script.gone.wait()
            assert script.cancelled

    async def test_a_plain_request(self, site: Site) -> None:
        site.core.hold = asyncio.Event()
        request = asyncio.create_task(site.client.post(URL, json=HELLO))
        await until(lambda: site.core.requests)
        request.cancel()
        async with asyncio.timeout(10):
            await site.core.abandoned.wait()


class TestSlowReader:
    @pytest.mark.parametrize("settings", [replace(SETTINGS, write_buffer=16 * 1024)])
    async def test_holds_the_run_back_and_loses_nothing(self, site: Site) -> None:
        script = site.core.script()
        count, word = 1500, "x" * 20_000
        script.push(started())
        for i in range(count):
            script.push(text(f"{i} {word}"))
        script.push(finished(), completed())
        script.end()
        reader, writer = await site.connect(limit=4096)
        try:
            writer.write(site.raw_request(STREAM))
            async with asyncio.timeout(30):
                await until(lambda: script.sent >= 3)
                assert await at_rest(lambda: script.sent) < count
                wire = bytearray()
                while not wire.endswith(b"0\r\n\r\n"):
                    wire += await reader.read(1 << 20)
            assert [int(number) for number in re.findall(rb'"(\d+) xxx', wire)] == list(range(count))
        finally:
            writer.close()

    @pytest.mark.parametrize("settings", [replace(SETTINGS, write_buffer=16 * 1024, slow_reader_timeout=0.2)])
    async def test_that_never_reads_is_cut_off(self, site: Site) -> None:
        script = site.core.script()
        script.push(started())
        for _ in range(1000):
            script.push(text("x" * 20_000))
        _, writer = await site.connect(limit=4096)
        try:
            writer.write(site.raw_request(STREAM))
            async with asyncio.timeout(20):
                await script.gone.wait()
            assert script.cancelled
        finally:
            writer.close()


@pytest.mark.parametrize("settings", [replace(SETTINGS, write_buffer=16 * 1024, slow_reader_timeout=0.2)])
async def test_a_plain_answer_that_is_never_read_is_cut_off(site: Site) -> None:
    site.core.answer = finished_run("x" * 30_000_000)
    _, writer = await site.connect(limit=4096)
    try:
        writer.write(site.raw_request(HELLO))
        await until(lambda: site.core.requests)
        await until(lambda: not site.registry.get_sample_value("dragoman_http_open_connections"))
    finally:
        writer.close()


async def test_plain_answers_of_any_text(site: Site) -> None:
    site.core.answer = finished_run('"\n\u2028😀\0')
    async with site.client.post(URL, json=HELLO) as answer:
        assert (await answer.json())["choices"][0]["message"]["content"] == '"\n\u2028😀\0'
