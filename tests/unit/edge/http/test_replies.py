"""Requests that are answered without a task: at once, or by a callback."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from dragoman_edge.http.request import Request
from dragoman_edge.http.response import Response
from tests.support.http_site import http_site
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from tests.support.http_site import HttpSite

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


def post(body: bytes, path: bytes = b"/") -> bytes:
    return HEAD % (path, len(body)) + body


class Later:
    """A handler whose answers come when the test says so; it notes what was cancelled."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Request, bytes]] = []
        self.cancelled: list[str] = []

    def __call__(self, request: Request) -> Call:
        self.waiting.append((request, request.body.take()))
        return Call(self, request)

    def answer(self, *, body: bytes | None = None, **headers: str) -> None:
        """Answers the request that has waited longest, with its own body."""
        request, own = self.waiting.pop(0)
        request.wire.reply(Response(own if body is None else body, headers))


class Call:
    def __init__(self, handler: Later, request: Request) -> None:
        self._handler = handler
        self._request = request

    def cancel(self) -> None:
        self._handler.cancelled.append(self._request.path)


def at_once(request: Request) -> Response:
    return Response(b"%b %b" % (request.path.encode(), request.body.take()), {})


async def test_an_answer_may_come_later() -> None:
    later = Later()
    async with http_site(later) as site:
        client = await site.connect()
        for size in (1, 1, 20, 300):
            client.writer.write(post(b"x" * size))
            await until(lambda: later.waiting)
            await asyncio.sleep(0.02)
            later.answer()
            assert await client.answer() == (200, b"x" * size)
        client.writer.close()
    assert later.cancelled == []


@pytest.mark.parametrize("handler", [at_once, None])
async def test_pipelined_requests_are_answered_in_turn(handler: None) -> None:
    """Many of them come in one read, and whoever answers at once is not called within itself."""

    async def in_a_task(request: Request) -> Response:
        await asyncio.sleep(0)
        return at_once(request)

    count, kinds = 3_000, (at_once, in_a_task)
    turns = iter(range(count))
    async with http_site(handler or (lambda request: kinds[next(turns) % 2](request))) as site:
        client = await site.connect()
        client.writer.write(b"".join(post(b"%d" % number) for number in range(count)))
        for number in range(count):
            assert await client.answer() == (200, b"/ %d" % number)
        client.writer.close()


async def test_what_follows_a_request_that_waits_comes_after_it() -> None:
    later = Later()
    async with http_site(later) as site:
        client = await site.connect()
        client.writer.write(post(b"1") + post(b"2")[:-1])
        await until(lambda: later.waiting)
        client.writer.write(b"2" + post(b"3"))
        await asyncio.sleep(0.05)
        assert len(later.waiting) == 1
        for number in (b"1", b"2", b"3"):
            await until(lambda: later.waiting)
            later.answer()
            assert await client.answer() == (200, number)
        client.writer.close()


async def test_what_comes_while_the_next_request_is_about_to_begin_waits_behind_it() -> None:
    later = Later()
    async with http_site(later) as site:
        client = await site.connect()
        client.writer.write(post(b"1") + post(b"2"))
        await until(lambda: later.waiting)
        client.writer.write(post(b"3"))
        await asyncio.sleep(0.05)
        later.answer()  # within this turn of the loop, the second has not begun
        assert later.waiting == []
        for number in (b"2", b"3"):
            await until(lambda: later.waiting)
            assert later.waiting[0][1] == number
            later.answer()
        for number in (b"1", b"2", b"3"):
            assert await client.answer() == (200, number)
        client.writer.close()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("cut", [1, 30, -3, -1])
async def test_a_body_that_is_split(known: bool, cut: int) -> None:
    async def reading(request: Request) -> Response:
        return Response(await request.read(1000), {})

    async with http_site(reading) as site:
        client = await site.connect()
        if known:
            client.writer.write(post(b"first"))
            assert await client.answer() == (200, b"first")
        wire = post(b"other")
        client.writer.write(wire[:cut])
        await asyncio.sleep(0.02)
        client.writer.write(wire[cut:])
        assert await client.answer() == (200, b"other")
        client.writer.write(post(b"again"))
        assert await client.answer() == (200, b"again")
        client.writer.close()


async def test_requests_that_repeat_another_share_what_was_found_out() -> None:
    seen: list[object] = []

    def noting(request: Request) -> Response:
        if request.head.facts is None:
            request.head.facts = object()
        seen.append(request.head.facts)
        return at_once(request)

    async with http_site(noting) as site:
        client = await site.connect()
        for wire in (post(b"1"), post(b"2"), post(b"three" * 30), post(b"1", b"/b"), post(b"2", b"/b")):
            client.writer.write(wire)
            await client.answer()
        other = await site.connect()
        other.writer.write(post(b"1"))
        await other.answer()
        client.writer.close()
        other.writer.close()
    one, two, three, four, five, six = seen
    assert one is two is three
    assert four is five
    assert len({one, four, six}) == 3


class TestClientsThatLeave:
    @pytest.mark.parametrize("half", [False, True])
    async def test_what_they_wait_for_is_cancelled(self, half: bool) -> None:
        later = Later()
        async with http_site(later) as site:
            client = await site.connect()
            client.writer.write(post(b"1") + post(b"2"))
            await until(lambda: later.waiting)
            if half:
                client.writer.write_eof()
            else:
                client.writer.close()
            await until(lambda: later.cancelled)
            await until(lambda: site.counts.open_connections == 0)
            assert later.cancelled == ["/"]
            assert len(later.waiting) == 1
            later.answer()  # nobody is there to be told
            client.writer.close()

    async def test_before_a_task_has_begun_leave_nothing(self) -> None:
        begun: list[str] = []

        async def waiting(request: Request) -> Response:
            begun.append(request.path)
            await asyncio.sleep(PATIENCE)
            return Response(b"", {})

        async with http_site(waiting) as site:
            for _ in range(50):
                with socket.create_connection(("127.0.0.1", site.port)) as direct:
                    direct.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    direct.sendall(GET)
            await until(lambda: site.counts.open_connections == 0)

    async def test_while_the_next_request_is_about_to_begin(self) -> None:
        later = Later()
        async with http_site(later) as site:
            client = await site.connect()
            client.writer.write(post(b"1") + post(b"2"))
            await until(lambda: later.waiting)
            request, _ = later.waiting.pop()
            request.wire.reply(Response(b"", {}, close=False))
            request.wire.abort()  # type: ignore[attr-defined]
            await until(lambda: site.counts.open_connections == 0)
            assert later.waiting == []
            client.writer.close()


class TestSlowReaders:
    async def test_the_next_request_begins_when_the_answer_is_read(self) -> None:
        later = Later()
        async with http_site(later, unsent=1000) as site:
            client = await site.connect(limit=4096)
            client.writer.write(post(b"1") + post(b"2"))
            await until(lambda: later.waiting)
            later.answer(body=b"x" * 20_000_000)
            await asyncio.sleep(0.1)
            assert later.waiting == []
            assert len((await client.answer())[1]) == 20_000_000
            await until(lambda: later.waiting)
            later.answer()
            assert await client.answer() == (200, b"2")
            client.writer.close()

    async def test_one_that_never_reads_is_cut_off(self) -> None:
        later = Later()
        async with http_site(later, unsent=1000, stall=0.2) as site:
            client = await site.connect(limit=4096)
            client.writer.write(post(b"1"))
            await until(lambda: later.waiting)
            later.answer(body=b"x" * 20_000_000)
            await until(lambda: site.counts.open_connections == 0)
            client.writer.close()

    async def test_that_a_client_is_slow_may_show_when_its_answer_is_given(self) -> None:
        """It is not begun again with what still comes of the request."""
        begun: list[Request] = []

        def refusing(request: Request) -> Response:
            begun.append(request)
            return too_much_for(request)

        async with http_site(refusing, unsent=1000) as site:
            with narrow_connection(site) as client:
                client.sendall(post(b"x" * 1000)[:-500])
                await until(lambda: begun)
                (connection,) = site.server.connections()
                await until(lambda: connection.writing_paused)
                client.sendall(b"x" * 100)
                await asyncio.sleep(0.05)
                assert len(begun) == 1

    async def test_that_a_client_is_slow_may_show_before_its_next_request_begins(self) -> None:
        begun: list[str] = []

        async def waiting(request: Request) -> Response:
            await asyncio.sleep(PATIENCE)
            return Response(b"", {})

        def handler(request: Request) -> Any:
            begun.append(request.path)
            return too_much_for(request) if request.path == "/" else waiting(request)

        async with http_site(handler, unsent=1000, stall=0.2) as site:
            with narrow_connection(site) as client:
                client.sendall(post(b"1") + post(b"2", b"/wait"))
                await until(lambda: site.counts.open_connections == 1 and begun[-1:] == ["/wait"])
                await until(lambda: site.counts.open_connections == 0, PATIENCE / 2)


def narrow_connection(site: HttpSite) -> socket.socket:
    """Opens a connection on which the kernel keeps little of what is not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", site.port))
    return client


def too_much_for(request: Request) -> Response:
    """Returns an answer that is written with those of others, and yet more than a narrow connection keeps."""
    wire: Any = request.wire
    wire.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    return Response(b"x" * 15_000, {})


class TestTheEnd:
    async def test_an_answer_that_is_waited_for_still_comes_and_the_connection_closes(self) -> None:
        later = Later()
        async with http_site(later) as site:
            client, idle = await site.connect(), await site.connect()
            client.writer.write(post(b"1"))
            await until(lambda: later.waiting and site.counts.open_connections == 2)
            stopping = asyncio.create_task(site.server.stop(PATIENCE))
            assert await idle.rest() == b""
            later.answer()
            assert b"Connection: close" in await client.rest()
            await stopping
            client.writer.close()
            idle.writer.close()
        assert later.cancelled == []

    @pytest.mark.parametrize("more", [b"", b"2"])
    async def test_it_comes_when_the_next_request_is_about_to_begin(self, more: bytes) -> None:
        later = Later()
        async with http_site(later) as site:
            client = await site.connect()
            client.writer.write(post(b"1") + (HEAD % (b"/", 1) + more)[: None if more else -1])
            await until(lambda: later.waiting)
            stopping = asyncio.create_task(site.server.stop(2 * PATIENCE))
            later.answer()  # before the server stops, which it does before the next request
            assert await client.answer() == (200, b"1")
            if more:
                await until(lambda: later.waiting)
                later.answer()
                assert await client.answer() == (200, b"2")
            assert await client.rest() == b""
            await stopping
            client.writer.close()

    async def test_a_client_that_sends_no_more_gets_what_was_said_before(self) -> None:
        later = Later()
        async with http_site(later) as site:
            client = await site.connect()
            client.writer.write(post(b"1"))
            await until(lambda: later.waiting)
            (connection,) = site.server.connections()
            later.answer()
            connection.eof_received()  # within this turn of the loop
            assert connection.transport is not None
            connection.transport.close()
            assert await client.answer() == (200, b"1")
            client.writer.close()

    async def test_what_takes_too_long_is_cancelled(self) -> None:
        later = Later()
        async with http_site(later) as site:
            client = await site.connect()
            client.writer.write(post(b"1"))
            await until(lambda: later.waiting)
            await site.server.stop(0.05)
            assert later.cancelled == ["/"]
            client.writer.close()

    async def test_a_connection_that_is_not_used_is_closed(self) -> None:
        async with http_site(at_once, idle=0.2) as site:
            client = await site.connect()
            for body in (b"1", b"2"):
                client.writer.write(post(body))
                assert await client.answer() == (200, b"/ " + body)
            assert await client.rest() == b""
            client.writer.close()

    async def test_a_body_that_nobody_reads_is_thrown_away(self) -> None:
        async with http_site(at_once) as site:
            client = await site.connect()
            client.writer.write(post(b"x" * 1000)[:-1])
            assert await client.head()
            client.writer.write(b"x" + post(b"2"))
            await client.body(2)
            assert (await client.answer())[1] == b"/ 2"
            client.writer.close()


@pytest.mark.parametrize("kind", ["raises", "line break", "late line break"])
async def test_an_answer_that_fails_ends_its_connection_only(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    later = Later()

    def failing(request: Request) -> Response | Call:
        if kind == "raises":
            raise RuntimeError("oops")
        return later(request) if kind == "late line break" else Response(b"", {"A": "oops\r\nB: c"})

    async with http_site(failing) as site:
        client = await site.connect()
        client.writer.write(post(b"1"))
        if kind == "late line break":
            await until(lambda: later.waiting)
            later.answer(A="oops\r\nB: c")
        assert await client.rest() == b""
        await until(lambda: site.counts.open_connections == 0)
        client.writer.close()
    assert "a request was not answered" in caplog.text
