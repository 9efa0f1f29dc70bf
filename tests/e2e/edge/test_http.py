"""HTTP as the edge's clients meet it: in pieces, in heaps, and wrong. Its own tests are in tests/unit/edge/http."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.support.fake_core import completed, finished, started, text

if TYPE_CHECKING:
    from tests.e2e.edge.conftest import Site

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = HELLO | {"stream": True}
CLOSE = {"Connection": "close"}


def hello(site: Site) -> None:
    script = site.core.script()
    script.push(started(), text("Hel"), text("lo"), finished(), completed())
    script.end()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_may_come_byte_by_byte(site: Site, stream: bool) -> None:
    hello(site)
    reader, writer = await site.connect()
    try:
        for byte in site.raw_request(HELLO | {"stream": stream}, headers=CLOSE):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert (b"data: [DONE]" in answer) is stream
    finally:
        writer.close()


async def test_streams_and_plain_answers_come_in_the_order_of_their_requests(site: Site) -> None:
    for _ in range(2):
        hello(site)
    wire = site.raw_request(STREAM) + site.raw_request(HELLO) + site.raw_request(STREAM)
    wire += b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = (await site.send(wire)).split(b"HTTP/1.1 200 OK\r\n")[1:]
    kinds = [answer.split(b"\r\n", 1)[0].removeprefix(b"Content-Type: ") for answer in answers]
    assert kinds == [b"text/event-stream; charset=utf-8", b"application/json"] * 2
    assert answers[0].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert answers[3].endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Content-Length : 5\r\n",
        b"A: b\r\n Content-Length: 5\r\n",
        b"A: b\nContent-Length: 5\r\n",
        b"Host: y\r\n",
    ],
)
async def test_what_another_server_may_read_differently_ends_the_connection(site: Site, framing: bytes) -> None:
    wire = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n0\r\n\r\n"
    answer = await site.send(wire + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in head
    assert b"x-request-id: req_" in head
    assert json.loads(body)["error"]["code"] == "invalid_http"  # and nothing after it
    assert not site.core.requests


async def test_a_client_that_offers_http_2_is_answered_in_http_1(site: Site) -> None:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    reader, writer = await site.connect()
    try:
        for _ in range(2):
            writer.write(site.raw_request(HELLO, headers=offer))
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                await reader.readexactly(length)
    finally:
        writer.close()
    assert len(site.core.requests) == 2


async def test_the_answer_to_a_refused_upload_can_be_read(site: Site) -> None:
    """The client sends all of its body before it looks at the answer."""
    reader, writer = await site.connect()
    try:
        writer.write(site.raw_request(b"", headers={"Content-Length": str(80_000_000)}))
        for _ in range(80):
            writer.write(b" " * 1_000_000)
            async with asyncio.timeout(10):
                await writer.drain()
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
    finally:
        writer.close()
