"""What is on the wire of a stream, seen from a raw socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from tests.e2e.edge.conftest import holds_briefly
from tests.support.fake_core import RUN_ID, completed, failed, finished, started, text

if TYPE_CHECKING:
    from tests.e2e.edge.conftest import Site

STREAM = {"stream": True, "messages": [{"role": "user", "content": "hi"}]}


def unchunked(body: bytes) -> tuple[list[bytes], bytes]:
    """Returns the chunks of a body, and what follows it."""
    chunks: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert body.startswith(b"\r\n")
            return chunks, body[2:]
        chunks.append(body[:length])
        assert body[length : length + 2] == b"\r\n"
        body = body[length + 2 :]


def hello(site: Site) -> None:
    script = site.core.script()
    script.push(started(), text("Hel"), text("lo"), finished(), completed())
    script.end()


async def test_one_batch_is_one_chunk(site: Site) -> None:
    hello(site)
    answer = await site.send(site.raw_request(STREAM, headers={"Connection": "close"}))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"content-length" not in head.lower()
    assert b"content-encoding" not in head.lower()
    chunks, rest = unchunked(body)
    assert rest == b""
    assert len(chunks) == 1
    assert chunks[0].count(b"data: ") == 5
    assert not any(line.startswith((b"id:", b"retry:", b"event:")) for line in chunks[0].split(b"\n"))


async def test_the_connection_serves_on_after_a_stream(site: Site) -> None:
    hello(site)
    hello(site)
    second = site.raw_request(STREAM, headers={"Connection": "close"})
    reader, writer = await site.connect()
    try:
        writer.write(site.raw_request(STREAM))
        async with asyncio.timeout(10):
            first = await reader.readuntil(b"\r\n0\r\n\r\n")
            assert b"data: [DONE]\n\n\r\n0\r\n\r\n" in first
            writer.write(second)
            rest = await reader.read()
        assert rest.startswith(b"HTTP/1.1 200 OK")
        assert rest.endswith(b"0\r\n\r\n")
    finally:
        writer.close()


async def test_the_connection_serves_on_after_a_failed_stream(site: Site) -> None:
    script = site.core.script()
    script.push(started(), text("par"), failed(Reason.PROVIDER_PROTOCOL))
    hello(site)
    both = site.raw_request(STREAM) + site.raw_request(STREAM, headers={"Connection": "close"})
    answer = await site.send(both)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"data: [DONE]\n\n\r\n0\r\n\r\n") == 2


async def test_http_1_0_ends_with_the_connection(site: Site) -> None:
    hello(site)
    answer = await site.send(site.raw_request(STREAM, version="1.0"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


@holds_briefly
async def test_pings_have_one_newline_and_no_blank_line(site: Site) -> None:
    script = site.core.script()
    reader, writer = await site.connect()
    try:
        writer.write(site.raw_request(STREAM, headers={"Connection": "close"}))
        async with asyncio.timeout(10):
            await reader.readuntil(b": ping\n\r\n7\r\n: ping\n\r\n")
            script.push(started(), text("late"), finished(), completed())
            script.end()
            rest = await reader.read()
        assert b"ping\n\n" not in rest
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    finally:
        writer.close()


async def test_the_events_of_a_run(site: Site) -> None:
    script = site.core.script()
    script.push(started(), text("a"), failed(Reason.INTERNAL))
    request = f"GET /v1/runs/{RUN_ID}/events HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer sk-test\r\n\r\n".encode()
    answer = await site.send(request)
    frames = answer.partition(b"\r\n\r\n")[2].split(b"\n\n")
    assert frames.pop() == b""
    assert [frame.split(b"\n")[:2] for frame in frames] == [
        [b"id: 1", b"event: run_started"],
        [b"id: 2", b"event: text_delta"],
        [b"id: 3", b"event: run_failed"],
    ]
