"""A flood of bad input gets clear answers: 4xx, never 5xx, never a hang, and the server serves on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dragoman_edge.dialects.openai.schemas import ChatCompletionRequest
from tests.e2e.edge.conftest import SETTINGS
from tests.support.fake_core import RUN_ID

if TYPE_CHECKING:
    from tests.e2e.edge.conftest import Site

URL = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
CLOSE = {"Connection": "close"}
CHUNKED_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-test\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)


async def error_of(site: Site, request: bytes) -> tuple[int, Any]:
    """Returns the status and the error of the answer to raw bytes."""
    answer = await site.send(request)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"null",
        b"[]",
        b'{"messages": NaN}',
        b'{"messages": [], "messages": []}',
        b'{"messages": "\x00"}',
        b'{"messages": "\xff\xfe"}',
        b'{"messages": "\\udc00"}',
        b"[" * 1_000_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"messages": [' + b"1," * 500_000 + b"1]}",
        b'{"' + b"x" * 500_000 + b'": 1}',
    ],
)
async def test_bodies(site: Site, body: bytes) -> None:
    status, error = await error_of(site, site.raw_request(body, headers=CLOSE))
    assert status == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(json.dumps(error)) < 2000


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
)
async def test_content_types(site: Site, content_type: str) -> None:
    status, error = await error_of(site, site.raw_request(HELLO, headers=CLOSE | {"Content-Type": content_type}))
    assert (status, error["code"]) == (415, "unsupported_content_type")


@pytest.mark.parametrize(
    "name",
    ["Idempotency-Key", "X-Dragoman-Conversation", "X-Dragoman-Persona", "X-Token-Type", "X-Dragoman-Disconnect"],
)
async def test_headers_that_are_not_utf_8(site: Site, name: str) -> None:
    request = site.raw_request(HELLO, headers=CLOSE | {name: "a?"}).replace(b"a?", b"a\xff")
    status, error = await error_of(site, request)
    assert (status, error["param"]) == (400, name)


async def test_compressed_bodies(site: Site) -> None:
    status, error = await error_of(site, site.raw_request(b"\x1f\x8b", headers=CLOSE | {"Content-Encoding": "gzip"}))
    assert (status, error["code"]) == (415, "unsupported_content_encoding")


@pytest.mark.parametrize("content_type", ["application/json", 'Application/JSON; charset="UTF-8"'])
async def test_good_content_types(site: Site, content_type: str) -> None:
    answer = await site.send(site.raw_request(HELLO, headers=CLOSE | {"Content-Type": content_type}))
    assert b" 200 OK" in answer


class TestSize:
    @pytest.mark.parametrize("settings", [replace(SETTINGS, max_request_bytes=1000)])
    async def test_declared(self, site: Site) -> None:
        request = site.raw_request(b"{}", headers={"Content-Length": "100000000"})  # the rest never comes
        status, error = await error_of(site, request)
        assert (status, error["code"]) == (413, "request_too_large")

    @pytest.mark.parametrize("settings", [replace(SETTINGS, max_request_bytes=1000)])
    async def test_sent(self, site: Site) -> None:
        status, _ = await error_of(site, site.raw_request(b"x" * 2000, headers=CLOSE))
        assert status == 413

    @pytest.mark.parametrize("settings", [replace(SETTINGS, max_request_bytes=1000)])
    async def test_chunked(self, site: Site) -> None:
        status, _ = await error_of(site, CHUNKED_HEAD + b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n")
        assert status == 413

    async def test_chunked_bodies_are_read(self, site: Site) -> None:
        data = json.dumps(HELLO).encode()
        pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in data)
        assert b" 200 OK" in await site.send(CHUNKED_HEAD + pieces + b"0\r\n\r\n")

    async def test_expect_continue(self, site: Site) -> None:
        request = site.raw_request(HELLO, headers=CLOSE | {"Expect": "100-continue"})
        answer = await site.send(request)
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")

    async def test_a_large_body_that_is_allowed(self, site: Site) -> None:
        body = {"messages": [{"role": "user", "content": "x" * 10_000_000}]}
        assert b" 200 OK" in await site.send(site.raw_request(body, headers=CLOSE))
        assert len(site.core.requests[0].spec.chat.messages[0].parts[0].text.text) == 10_000_000


@pytest.mark.parametrize("settings", [replace(SETTINGS, body_timeout=0.5)])
async def test_slow_bodies(site: Site) -> None:
    reader, writer = await site.connect()
    try:
        writer.write(site.raw_request(b"{", headers={"Content-Length": "100"}))
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")
    finally:
        writer.close()


class TestSlowHeads:
    @pytest.mark.parametrize("settings", [replace(SETTINGS, idle_timeout=0.3)])
    @pytest.mark.parametrize("head", [b"", b"GET /healthz HTTP/1.1\r\nHos"])
    async def test_are_not_waited_for(self, site: Site, head: bytes) -> None:
        assert await site.send(head) == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
    ],
)
async def test_what_is_no_http(site: Site, request_: bytes, status: int) -> None:
    got, error = await error_of(site, request_)
    assert got == status
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models/\xff\xfe HTTP/1.1\r\n",
        b"GET /v1/models/%FF HTTP/1.1\r\n",
        b"GET /v1/runs/%ZZ%80/events HTTP/1.1\r\n",
        b"GET /v1/runs?page_token=%FF&page_size=x HTTP/1.1\r\n",
        b"GET /v1/runs?page_token=\xff HTTP/1.1\r\n",
        b"GET /v1/models/a HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\r\n",
        b"GET /v1/models/a HTTP/1.1\r\nx-api-key: a b\r\n",
        b"GET /v1/models/a HTTP/1.1\r\nX-Request-Id: \xff\r\n",
        b"GET /v1/runs/a/events HTTP/1.1\r\nLast-Event-ID: \xff\r\n",
        b"BREW /v1/models HTTP/1.1\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
    ],
)
async def test_odd_heads(site: Site, head: bytes) -> None:
    if b"Bearer" not in head:
        head += b"Authorization: Bearer sk-test\r\n"
    status, _ = await error_of(site, head + b"Host: x\r\nConnection: close\r\n\r\n")
    assert 400 <= status < 500


class TestConnections:
    @pytest.mark.parametrize("settings", [replace(SETTINGS, max_connections=2)])
    async def test_too_many_are_refused(self, site: Site) -> None:
        held = [await site.connect() for _ in range(2)]
        try:
            for _, writer in held:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            for reader, _ in held:
                await reader.readuntil(b'{"status":"ok"}')
            reader, writer = await site.connect()
            async with asyncio.timeout(10):
                assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            writer.close()
        finally:
            for _, writer in held:
                writer.close()
        for _ in range(100):  # room again, once they are gone
            answer = await site.send(b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n")
            if b" 200 OK" in answer:
                return
            await asyncio.sleep(0.05)
        pytest.fail("no room")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "input_audio", "file", "refusal"]) | JSON},
    optional={name: JSON for name in ("text", "image_url", "input_audio", "file", "refusal")},
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]) | JSON},
    optional={"content": st.text(max_size=5) | st.lists(PARTS, max_size=3) | JSON}
    | {name: JSON for name in ("name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio")},
)
REQUESTS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, max_size=3) | st.just(HELLO["messages"])},
    optional={name: JSON for name in sorted(set(ChatCompletionRequest.__annotations__) - {"messages"})},
)


async def test_a_flood_of_bodies(site: Site) -> None:
    loop = asyncio.get_running_loop()

    async def post(body: bytes) -> None:
        async with site.client.post(URL, data=body, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 200 or 400 <= answer.status < 500, (answer.status, body)
            got = await answer.json()
            assert answer.status == 200 or got["error"]["message"]

    # Hypothesis runs in a thread of its own and hands each request to the loop.
    @hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(REQUESTS.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50))
    def flood(body: bytes) -> None:
        asyncio.run_coroutine_threadsafe(post(body.replace(b'"stream": true', b'"stream": null')), loop).result(20)

    await asyncio.to_thread(flood)
    async with site.client.get(f"/v1/runs/{RUN_ID}") as answer:
        assert answer.status == 200
