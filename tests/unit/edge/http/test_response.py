"""What a known answer looks like on the wire."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from dragoman_edge.http.request import Request
from dragoman_edge.http.response import Response
from tests.support.http_site import http_site

BODY = b'{"a": 1}'
HEADERS = {"Content-Type": "application/json", "x-request-id": "req_1"}


async def whole(_: Request) -> Response:
    return Response(BODY, HEADERS)


async def test_a_connection_is_used_again() -> None:
    async with http_site(whole) as site:
        client = await site.connect()
        for _ in range(3):
            client.send("GET / HTTP/1.1\nHost: x")
            line, headers = await client.head()
            assert line == "HTTP/1.1 200 OK"
            assert parsedate_to_datetime(headers["Date"]).tzinfo is not None
            expected = {**HEADERS, "Server": "tested", "Content-Length": str(len(BODY)), "Date": ""}
            assert {**headers, "Date": ""} == expected
            assert await client.body(len(BODY)) == BODY
        client.writer.close()


async def test_head_has_the_length_but_no_body() -> None:
    async with http_site(whole) as site:
        client = await site.connect()
        for _ in range(2):
            client.send("HEAD / HTTP/1.1\nHost: x")
            assert (await client.head())[1]["Content-Length"] == str(len(BODY))
        client.send("GET / HTTP/1.1\nHost: x\nConnection: close")
        await client.head()
        assert await client.rest() == BODY
        client.writer.close()


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_content_have_neither_body_nor_length(status: int) -> None:
    async def nothing(_: Request) -> Response:
        return Response(b"", {"Allow": "GET"}, status)

    async with http_site(nothing) as site:
        client = await site.connect()
        client.send("OPTIONS / HTTP/1.1\nHost: x\nConnection: close")
        line, headers = await client.head()
        assert line.startswith(f"HTTP/1.1 {status} ")
        assert set(headers) == {"Allow", "Date", "Server", "Connection"}
        assert await client.rest() == b""
        client.writer.close()


@pytest.mark.parametrize(
    ("request_head", "connection"),
    [
        ("GET / HTTP/1.1\nHost: x\nConnection: close", "close"),
        ("GET / HTTP/1.0\nHost: x", None),
    ],
)
async def test_a_client_that_wants_it_gets_the_connection_closed(request_head: str, connection: str | None) -> None:
    async with http_site(whole) as site:
        client = await site.connect()
        client.send(request_head)
        line, headers = await client.head()
        assert line == f"HTTP/{request_head[11:14]} 200 OK"
        assert headers.get("Connection") == connection
        assert await client.rest() == BODY
        client.writer.close()


async def test_http_1_0_is_told_that_the_connection_stays() -> None:
    async with http_site(whole) as site:
        client = await site.connect()
        for _ in range(2):
            client.send("GET / HTTP/1.0\nHost: x\nConnection: keep-alive")
            assert (await client.head())[1]["Connection"] == "keep-alive"
            assert await client.body(len(BODY)) == BODY
        client.writer.close()


async def test_an_answer_may_close_the_connection() -> None:
    async def closing(_: Request) -> Response:
        return Response(BODY, {}, 400, close=True)

    async with http_site(closing) as site:
        client = await site.connect()
        client.send("GET / HTTP/1.1\nHost: x")
        line, headers = await client.head()
        assert line == "HTTP/1.1 400 Bad Request"
        assert headers["Connection"] == "close"
        assert await client.rest() == BODY
        client.writer.close()


async def test_a_status_of_ones_own() -> None:
    async def left(_: Request) -> Response:
        return Response(b"", {}, 499)

    async with http_site(left) as site:
        assert (await site.send(b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 499 \r\n")


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "\r\n\r\n<p>"])
async def test_a_header_cannot_bring_others(value: str, caplog: pytest.LogCaptureFixture) -> None:
    async def split(_: Request) -> Response:
        return Response(BODY, {"x-dragoman-run-id": value})

    async with http_site(split) as site:
        assert await site.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    assert "a request was not answered" in caplog.text


async def test_an_answer_larger_than_every_buffer_arrives_whole() -> None:
    body = bytes(range(256)) * 64 * 1024  # 16 MiB

    async def large(_: Request) -> Response:
        return Response(body, {})

    async with http_site(large) as site:
        client = await site.connect()
        client.send("GET / HTTP/1.1\nHost: x\nConnection: close")
        await client.head()
        assert await client.rest() == body
        client.writer.close()
