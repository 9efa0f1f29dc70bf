"""Connections, over loopback: order, bodies, times, and how they end."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dragoman_edge.http.errors import BodyError
from dragoman_edge.http.request import Request
from dragoman_edge.http.response import Response
from dragoman_edge.http.stream import Stream
from tests.support.http_site import Client, http_site
from tests.support.waiting import PATIENCE, until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
MOST = 1_000_000
"""Bytes of a body that the handlers here read."""


def post(body: bytes, *headers: str, path: str = "/") -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


async def echo(request: Request) -> Response:
    """Answers with method, target and body, or with what is wrong with the body."""
    try:
        body = await request.read(MOST)
    except BodyError as error:
        return Response(error.code.encode(), {}, error.status, close=True)
    return Response(f"{request.method} {request.head.raw_target} ".encode() + body, {})


class Gate:
    """A handler whose answers wait; it notes what was begun and cancelled."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.opened = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        self.begun.append(request.path)
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request.path)
            raise
        return Response(request.path.encode(), {})


class TestPipelining:
    async def test_answers_come_in_order(self) -> None:
        async def later_is_faster(request: Request) -> Response:
            await asyncio.sleep(0.05 / (1 + int(request.path[1:])))
            return Response(request.path.encode() + await request.read(MOST), {})

        async with http_site(later_is_faster) as site:
            client = await site.connect()
            client.writer.write(b"".join(post(b"%d" % number, path=f"/{number}") for number in range(20)))
            for number in range(20):
                assert await client.answer() == (200, b"/%d%d" % (number, number))
            client.writer.close()

    async def test_one_at_a_time(self) -> None:
        gate = Gate()
        async with http_site(gate) as site:
            client = await site.connect()
            client.writer.write(GET.replace(b"/ ", b"/1 ") + GET.replace(b"/ ", b"/2 "))
            await until(lambda: gate.begun)
            await asyncio.sleep(0.05)
            assert gate.begun == ["/1"]
            gate.opened.set()
            assert await client.answer() == (200, b"/1")
            assert await client.answer() == (200, b"/2")
            client.writer.close()

    async def test_requests_that_wait_hold_the_client_back_and_none_is_lost(self) -> None:
        gate, count = Gate(), 4_000
        path = b"/" + b"x" * 8_000
        async with http_site(gate, unread=1000) as site:
            client = await site.connect()
            sent = 0
            async with asyncio.timeout(PATIENCE):
                while sent < count and not client.writer.transport.get_write_buffer_size():
                    client.writer.write(GET.replace(b"/ ", path + b" ") * 10)
                    sent += 10
                    await asyncio.sleep(0)
            assert sent < count  # what the kernel does not hold waits with the client
            assert len(gate.begun) == 1
            gate.opened.set()
            for _ in range(sent):
                assert await client.answer() == (200, path)
            client.writer.close()

    async def test_a_bad_request_after_good_ones_is_answered_in_its_turn(self) -> None:
        async with http_site(echo) as site:
            answer = await site.send(post(b"a") + GET + b"nonsense\r\n\r\n" + GET)
        first, second, third = answer.split(b"HTTP/1.1 ")[1:]
        assert first.startswith(b"200")
        assert second.startswith(b"200")
        assert third.startswith(b"400")
        assert third.endswith(b"\r\n\r\ninvalid_http")

    async def test_nothing_follows_a_request_to_close(self) -> None:
        async with http_site(echo) as site:
            answer = await site.send(GET.replace(b"Host", b"Connection: close\r\nHost") + GET)
        assert answer.count(b"HTTP/1.1 ") == 1


class TestBodies:
    async def test_byte_by_byte(self) -> None:
        async with http_site(echo) as site:
            client = await site.connect()
            for byte in post(b"hello"):
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0.001)
            assert await client.answer() == (200, b"POST / hello")
            client.writer.close()

    async def test_larger_than_every_buffer(self) -> None:
        body = bytes(range(256)) * 4096
        async with http_site(echo) as site:
            client = await site.connect()
            client.writer.write(post(body[:MOST]))
            assert await client.answer() == (200, b"POST / " + body[:MOST])
            client.writer.close()

    @pytest.mark.parametrize("declared", [True, False])
    async def test_too_large(self, declared: bool) -> None:
        async with http_site(echo) as site:
            client = await site.connect()
            head = f"Content-Length: {10 * MOST}" if declared else "Transfer-Encoding: chunked"
            client.send(f"POST / HTTP/1.1\nHost: x\n{head}")
            await asyncio.sleep(0)
            for _ in range(20):  # the client does not look for an answer before it has sent everything
                piece = b"x" * (MOST // 2)
                client.writer.write(piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece))
            async with asyncio.timeout(PATIENCE):
                await client.writer.drain()
            assert await client.answer() == (413, b"request_too_large")
            assert await client.rest() == b""
            client.writer.close()

    async def test_too_slow(self) -> None:
        async with http_site(echo, body=0.2) as site:
            client = await site.connect()
            client.writer.write(post(b"hello")[:-1])
            assert await client.answer() == (408, b"request_timeout")
            assert await client.rest() == b""
            client.writer.close()

    async def test_broken(self) -> None:
        async with http_site(echo) as site:
            client = await site.connect()
            client.send("POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked")
            await asyncio.sleep(0.05)  # the handler waits for it
            client.writer.write(b"1\r\na\r\nzz\r\n")
            assert await client.answer() == (400, b"invalid_body")
            assert await client.rest() == b""
            client.writer.close()

    async def test_nobody_reads_holds_the_client_back(self) -> None:
        gate = Gate()
        async with http_site(gate, unread=1000, linger=5) as site:
            client = await site.connect()
            size = 50_000_000
            client.send(f"POST /a HTTP/1.1\nHost: x\nContent-Length: {size}")
            await until(lambda: gate.begun)
            client.writer.write(b"x" * size)
            await asyncio.sleep(0.2)
            assert client.writer.transport.get_write_buffer_size() > 0
            gate.opened.set()
            assert await client.answer() == (200, b"/a")
            client.writer.write(GET)  # once the client has sent all of it, it may go on
            assert await client.answer() == (200, b"/")
            client.writer.close()

    async def test_that_never_come_end_the_connection(self) -> None:
        async def at_once(_: Request) -> Response:
            return Response(b"no", {}, 404)

        async with http_site(at_once, linger=0.2) as site:
            client = await site.connect()
            client.writer.write(post(b"hello")[:-1])
            assert await client.answer() == (404, b"no")
            assert await client.rest() == b""
            client.writer.close()

    async def test_expected_ones_are_asked_for_when_they_are_read(self) -> None:
        async with http_site(echo) as site:
            client = await site.connect()
            client.send("POST / HTTP/1.1\nHost: x\nContent-Length: 2\nExpect: 100-Continue")
            assert await client.head() == ("HTTP/1.1 100 Continue", {})
            client.writer.write(b"ab")
            assert await client.answer() == (200, b"POST / ab")
            client.send(f"POST / HTTP/1.1\nHost: x\nContent-Length: {2 * MOST}\nExpect: 100-continue")
            assert await client.answer() == (413, b"request_too_large")
            client.writer.close()

    @pytest.mark.parametrize("way", ["at once", "later", "stream"])
    async def test_those_that_nobody_asked_for_end_the_connection(self, way: str) -> None:
        """The client may send the body or not: what comes next could be taken for either."""

        def refuse(request: Request) -> Response:
            return Response(b"no", {}, 401)

        async def refuse_later(request: Request) -> Response | Stream:
            return request.begin({}, b"no", last=True, status=401) if way == "stream" else refuse(request)

        async with http_site(refuse if way == "at once" else refuse_later) as site:
            client = await site.connect()
            client.send("POST / HTTP/1.1\nHost: x\nContent-Length: 40\nExpect: 100-continue", b"")
            line, headers = await client.head()
            assert (line, headers["Connection"]) == ("HTTP/1.1 401 Unauthorized", "close")
            client.writer.write(b"GET /skipped HTTP/1.1\r\nHost: victim.example\r\n\r\n" + GET)
            assert (await client.rest()).count(b"HTTP/1.1") == 0
            client.writer.close()

    async def test_an_offer_to_upgrade_is_not_taken_up(self) -> None:
        async with http_site(echo) as site:
            client = await site.connect()
            for offer in ("h2c", "websocket"):
                client.writer.write(post(b"hello", "Connection: Upgrade", f"Upgrade: {offer}"))
                assert await client.answer() == (200, b"POST / hello")
            client.send("GET / HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket")
            assert await client.answer() == (200, b"GET / ")
            client.writer.close()


class TestClientsThatLeave:
    @pytest.mark.parametrize("half", [False, True])
    async def test_cancel_what_was_begun(self, half: bool) -> None:
        gate = Gate()
        async with http_site(gate) as site:
            client = await site.connect()
            client.writer.write(GET)
            await until(lambda: gate.begun)
            if half:
                client.writer.write_eof()
            else:
                client.writer.close()
            await until(lambda: gate.cancelled)
            await until(lambda: site.counts.open_connections == 0)
            client.writer.close()

    async def test_at_once_leave_nothing(self) -> None:
        gate = Gate()
        async with http_site(gate) as site:
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", site.port)) as direct:
                    direct.sendall(GET + GET)
            await until(lambda: site.counts.open_connections == 0 and gate.begun == gate.cancelled)

    async def test_within_a_body(self) -> None:
        seen: list[BaseException] = []
        begun = asyncio.Event()

        async def reading(request: Request) -> Response:
            begun.set()
            try:
                return Response(await request.read(MOST), {})
            except BaseException as error:
                seen.append(error)
                raise

        async with http_site(reading) as site:
            client = await site.connect()
            client.writer.write(post(b"hello")[:-1])
            await asyncio.wait_for(begun.wait(), PATIENCE)
            client.writer.close()
            await until(lambda: seen)
        assert isinstance(seen[0], asyncio.CancelledError)

    @pytest.mark.parametrize("close", ["", "\nConnection: close"])
    async def test_a_client_that_never_reads_is_cut_off(self, close: str) -> None:
        async def large(_: Request) -> Response:
            return Response(b"x" * 30_000_000, {})

        async with http_site(large, stall=0.2) as site:
            client = await site.connect(limit=4096)
            client.send(f"GET / HTTP/1.1\nHost: x{close}")
            await until(lambda: site.counts.open_connections == 1)
            await until(lambda: site.counts.open_connections == 0)
            client.writer.close()

    async def test_a_little_that_is_never_read_does_not_keep_a_connection(self) -> None:
        """It is too little for the transport to tell that the client is slow."""

        async def large(_: Request) -> Response:
            return Response(b"x" * 20_000_000, {}, close=True)

        async with http_site(large, stall=0.2, unsent=100_000_000) as site:
            client = await site.connect(limit=4096)
            client.writer.write(GET)
            await until(lambda: site.counts.open_connections == 1)
            await until(lambda: site.counts.open_connections == 0)
            client.writer.close()


class TestTimes:
    @pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHos", b"\r\n"])
    async def test_a_connection_without_a_request_is_closed(self, start: bytes) -> None:
        async with http_site(echo, idle=0.2) as site:
            assert await site.send(start) == b""

    async def test_between_requests_too(self) -> None:
        async with http_site(echo, idle=0.2) as site:
            client = await site.connect()
            client.writer.write(GET)
            assert await client.answer() == (200, b"GET / ")
            assert await client.rest() == b""
            client.writer.close()

    async def test_a_head_that_trickles_in_is_not_waited_for(self) -> None:
        async with http_site(echo, idle=0.3) as site:
            client = await site.connect()
            ended = asyncio.create_task(client.rest())
            async with asyncio.timeout(PATIENCE):
                while not ended.done():
                    client.writer.write(b"GET / HTTP/1.1\r\nA: b\r\n" if not client.writer.is_closing() else b"")
                    await asyncio.sleep(0.02)
            client.writer.close()

    async def test_a_handler_may_take_its_time(self) -> None:
        async def slow(_: Request) -> Response:
            await asyncio.sleep(0.6)
            return Response(b"done", {})

        async with http_site(slow, idle=0.1, body=0.1, stall=0.1, linger=0.1) as site:
            client = await site.connect()
            client.writer.write(GET)
            assert await client.answer() == (200, b"done")
            client.writer.close()


class TestStreams:
    async def test_head_and_first_piece_are_one_write_and_the_end_goes_with_the_last(self) -> None:
        async def streaming(request: Request) -> Stream:
            stream = request.begin({"Content-Type": "text/plain"}, b"one")
            await asyncio.sleep(0.05)
            stream.write(b"two")
            await asyncio.sleep(0.05)
            stream.write(b"three", last=True)
            stream.write(b"four")
            stream.end()
            return stream

        async with http_site(streaming) as site:
            client = await site.connect()
            client.writer.write(GET + GET)
            for _ in range(2):
                line, headers = await client.head()
                assert line == "HTTP/1.1 200 OK"
                assert headers["Transfer-Encoding"] == "chunked"
                assert "Content-Length" not in headers
                expected = b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"
                assert await client.body(len(expected)) == expected
            client.writer.close()

    async def test_http_1_0_ends_with_the_connection(self) -> None:
        async def streaming(request: Request) -> Stream:
            stream = request.begin({}, b"one", status=201)
            stream.write(b"two")
            stream.end()
            return stream

        async with http_site(streaming) as site:
            answer = await site.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert answer.startswith(b"HTTP/1.0 201 Created\r\n")
        assert answer.endswith(b"\r\n\r\nonetwo")
        assert b"chunked" not in answer

    async def test_head_has_no_body(self) -> None:
        async def streaming(request: Request) -> Stream:
            stream = request.begin({}, b"one")
            stream.write(b"two", last=True)
            return stream

        async with http_site(streaming) as site:
            answer = await site.send(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.endswith(b"chunked\r\n\r\n")

    async def test_one_that_breaks_off_is_cut_off(self) -> None:
        async def broken(request: Request) -> Stream:
            return request.begin({}, b"one")

        async with http_site(broken) as site:
            client = await site.connect()
            client.writer.write(GET)
            assert not (await client.rest()).endswith(b"0\r\n\r\n")
            client.writer.close()

    async def test_a_writer_can_wait_for_a_slow_client(self) -> None:
        pieces = 0

        async def streaming(request: Request) -> Stream:
            nonlocal pieces
            stream = request.begin({}, b"x")
            for _ in range(1000):
                stream.write(b"x" * 100_000)
                pieces += 1
                if stream.outlet.writing_paused:
                    await stream.outlet.drain()
            stream.end()
            return stream

        async with http_site(streaming) as site:
            client = await site.connect(limit=4096)
            client.writer.write(GET.replace(b"Host", b"Connection: close\r\nHost"))
            await asyncio.sleep(0.3)
            assert 0 < pieces < 1000
            assert (await client.rest()).endswith(b"0\r\n\r\n")
            client.writer.close()


class TestConnections:
    async def test_too_many_are_refused_and_may_come_back(self) -> None:
        async with http_site(echo, connections=2) as site:
            held = [await site.connect() for _ in range(2)]
            for client in held:
                client.writer.write(GET)
                assert await client.answer() == (200, b"GET / ")
            refused = await site.connect()
            refused.writer.write(GET * 1000)
            assert await refused.answer() == (503, b"overloaded")
            assert await refused.rest() == b""
            refused.writer.close()
            assert (site.counts.open_connections, site.counts.refused_connections) == (2, 1)
            held[0].writer.close()
            await until(lambda: site.counts.open_connections == 1)
            again = await site.connect()
            again.writer.write(GET)
            assert await again.answer() == (200, b"GET / ")
            for client in (held[1], again):
                client.writer.close()

    async def test_a_crowd_of_refused_ones_is_closed(self) -> None:
        async with http_site(echo, connections=1) as site:
            clients = [await site.connect() for _ in range(300)]
            async with asyncio.timeout(PATIENCE):
                for client in clients[1:]:
                    try:
                        await client.reader.read()
                    except ConnectionResetError:
                        continue
            assert site.counts.refused_connections == 299
            for client in clients:
                client.writer.close()

    async def test_small_packets_are_sent_at_once(self) -> None:
        seen: list[int] = []
        async with http_site(echo) as site:
            client = await site.connect()
            client.writer.write(GET)
            await client.answer()
            for connection in site.server.connections():
                transport = connection.transport
                assert transport is not None
                raw = transport.get_extra_info("socket")
                seen.append(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            client.writer.close()
        assert seen == [1]

    async def test_ipv6(self) -> None:
        if not socket.has_ipv6:
            pytest.skip("no IPv6")
        async with http_site(echo) as site:
            try:
                port = await site.server.listen("::1", 0)
            except OSError:
                pytest.skip("no IPv6 address")
            client = Client(*await asyncio.open_connection("::1", port))
            client.send(f"GET http://[::1]:{port}/a HTTP/1.1\nHost: [::1]:{port}")
            assert await client.answer() == (200, f"GET http://[::1]:{port}/a ".encode())
            client.writer.close()


class TestStop:
    async def test_idle_connections_are_closed_at_once_and_answers_may_end(self) -> None:
        gate = Gate()
        async with http_site(gate) as site:
            idle, partial, busy = [await site.connect() for _ in range(3)]
            partial.writer.write(b"GET / HTTP/1.1\r\n")
            busy.writer.write(GET + GET)
            await until(lambda: gate.begun and site.counts.open_connections == 3)
            stopping = asyncio.create_task(site.server.stop(PATIENCE))
            assert await idle.rest() == b""
            assert await partial.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await site.connect()
            assert not stopping.done()
            gate.opened.set()
            line, headers = await busy.head()
            assert line == "HTTP/1.1 200 OK"
            assert headers["Connection"] == "close"
            assert await busy.rest() == b"/"  # the second request is not begun
            await stopping
            assert gate.begun == ["/"]
            for client in (idle, partial, busy):
                client.writer.close()

    async def test_answers_that_go_on_are_cut_off(self) -> None:
        gate = Gate()
        async with http_site(gate) as site:
            client = await site.connect()
            client.writer.write(GET)
            await until(lambda: gate.begun)
            async with asyncio.timeout(PATIENCE):
                await site.server.stop(0.1)
            assert gate.cancelled == ["/"]
            assert site.counts.open_connections == 0
            client.writer.close()


async def test_a_handler_that_fails_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(request: Request) -> Response:
        if request.path == "/bad":
            raise RuntimeError("oops")
        return Response(b"good", {})

    async with http_site(failing) as site:
        client = await site.connect()
        assert await site.send(GET.replace(b"/ ", b"/bad ")) == b""
        client.writer.write(GET)
        assert await client.answer() == (200, b"good")
        client.writer.close()
    assert "oops" in caplog.text
