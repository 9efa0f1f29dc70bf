"""A head that came before needs no parser: what is heard must be what the parser says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.outbox import Outbox
from dragoman_server.providers.upstream.address import parse_base_url
from dragoman_server.providers.upstream.client import Client, Exchange, Timeouts
from dragoman_server.providers.upstream.connection import Connection
from dragoman_server.providers.upstream.heads import MAX_HEADERS, MAX_SIZE, MOST_KNOWN, Head, KnownHeads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dragoman_server.errors import ProviderError

Heard = list[tuple[object, ...]]


class FakeTransport(asyncio.Transport):
    """A transport that sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: object) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0


class Handler:
    """Writes down what it hears."""

    def __init__(self, heard: Heard, aborts: str = "") -> None:
        self.heard = heard
        self.aborts = aborts
        self.exchange: object = None

    def on_headers(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.heard.append(("headers", status, tuple(sorted(headers.items()))))
        self._abort_after("headers")

    def on_data(self, data: bytes) -> None:
        if self.heard and self.heard[-1][0] == "data":  # how it is cut says nothing
            data = self.heard.pop()[1] + data  # type: ignore[operator]
        self.heard.append(("data", data))
        self._abort_after("data")

    def on_complete(self) -> None:
        self.heard.append(("complete",))

    def on_error(self, error: ProviderError) -> None:
        self.heard.append(("error", error.reason, error.message))

    def _abort_after(self, what: str) -> None:
        if self.aborts == what:
            self.exchange.abort()  # type: ignore[attr-defined]


class WholeHandler(Handler):
    """One that takes whole answers."""

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.on_headers(status, headers)
        if body:
            self.on_data(body)
        self.on_complete()


class Loop:
    """Runs nothing: what is put into an outbox stays until it is flushed."""

    def call_soon(self, function: object) -> None:
        pass


class Site:
    """A client with one connection, over which answers come as a test gives them."""

    def __init__(self, *, learns: bool = True) -> None:
        self.client = Client(parse_base_url("http://x"), Timeouts(9, 9, 9, 9), 1)
        self.client.outbox = Outbox(Loop())  # type: ignore[arg-type]
        self.client.heads.learns = learns
        self.heard: Heard = []

    def connect(self) -> Connection:
        self.transport = FakeTransport()
        connection = Connection(self.client)
        connection.connection_made(self.transport)
        return connection

    def ask(
        self, connection: Connection, reads: Sequence[bytes], kind: type[Handler] = Handler, aborts: str = ""
    ) -> bool:
        """Asks once; returns whether the connection may be used again."""
        handler = kind(self.heard, aborts)
        exchange = handler.exchange = Exchange(self.client, b"POST", handler)
        exchange.connection = connection
        connection.begin(exchange)
        self.client.outbox.flush()
        for read in reads:
            if not self.transport.closed:
                connection.data_received(read)
        if self.transport.closed:
            connection.connection_lost(None)
            self.heard.append(("closed",))
            return False
        return bool(self.client._idle) and self.client._idle.pop() is connection


NAMES = st.sampled_from([b"Content-Type", b"content-type", b"X-Request-Id", b"Date", b"Keep-Alive", b"Connection"])
VALUES = st.sampled_from([b"application/json", b"text/event-stream", b"timeout=5, max=9", b"close", b"keep-alive", b""])
BODIES = st.sampled_from([b"", b"{}", b"hello", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n\r\n", b"x" * 3000])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    status = draw(
        st.sampled_from([b"200 OK", b"200 Fine", b"204 No Content", b"304 Not Modified", b"429 Slow", b"500 X"])
    )
    lines = [b"%b: %b" % (name, value) for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=3))]
    body = draw(BODIES)
    length = len(body) + draw(st.sampled_from([0, 0, 0, 0, -1, 1]))
    match draw(st.sampled_from(["length", "length", "length", "chunked", "both", "neither", "twice"])):
        case "length":
            lines.append(b"Content-Length: %d" % length)
        case "chunked":
            lines.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        case "both":
            lines += [b"Content-Length: %d" % length, b"Transfer-Encoding: chunked"]
        case "twice":
            lines += [b"Content-Length: %d" % length] * 2
        case _:
            pass
    before = draw(st.sampled_from([b"", b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    after = draw(st.sampled_from([b"", b"", b"", b"more"]))
    return before + b"\r\n".join([b"HTTP/%b %b" % (version, status), *lines, b"", body]) + after


@st.composite
def reads(draw: st.DrawFn) -> list[bytes]:
    answer = draw(answers())
    cuts = sorted(draw(st.lists(st.integers(1, len(answer) - 1), max_size=1)))
    return [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]


@given(st.lists(reads(), min_size=1, max_size=3), st.sampled_from([Handler, WholeHandler]))
def test_what_is_heard_is_what_the_parser_says(given_reads: list[list[bytes]], kind: type[Handler]) -> None:
    heard = []
    for learns in (True, False):
        site = Site(learns=learns)
        connection = site.connect()
        for answer in given_reads * 2:  # each comes again
            if not site.ask(connection, answer, kind):
                connection = site.connect()
        heard.append((site.heard, connection.idle_limit, connection.used))
    assert heard[0] == heard[1]


def answer(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"Content-Length: %d" % len(body), b"", body])


def test_a_head_is_known_the_second_time_whatever_the_body() -> None:
    site = Site()
    connection = site.connect()
    for body in (b"one", b"two", b"six"):
        assert site.ask(connection, [answer(body)])
    assert site.client.heads.hits == 2
    assert [event[1] for event in site.heard if event[0] == "data"] == [b"one", b"two", b"six"]


def test_an_answer_of_another_length_is_parsed() -> None:
    site = Site()
    connection = site.connect()
    assert site.ask(connection, [answer(b"one")])
    assert not site.ask(connection, [answer(b"two") + b"HTTP/1.1 200 OK\r\n"])  # more than was asked for
    assert site.client.heads.hits == 0
    assert site.heard[-2:] == [("complete",), ("closed",)]
    assert site.ask(connection := site.connect(), [answer(b"one")[:-1], b"e"])
    assert site.client.heads.hits == 0


@pytest.mark.parametrize("aborts", ["headers", "data"])
def test_an_aborted_exchange_hears_nothing_more_and_leaves_the_connection_alone(aborts: str) -> None:
    site = Site()
    connection = site.connect()
    assert site.ask(connection, [answer(b"one")])
    site.heard.clear()
    assert site.ask(connection, [answer(b"one")], aborts=aborts)
    assert site.client.heads.hits == 1
    assert site.heard[-1][0] == aborts
    assert not site.transport.closed
    assert site.client.bytes_per_turn() > 0
    assert not site.client._active


def test_a_server_that_numbers_its_answers_is_soon_not_listened_to() -> None:
    heads = KnownHeads()
    for number in range(MOST_KNOWN + 1):
        read = answer(b"one", b"X-Request-Id: %d" % number)
        heads.learn(read, b"one", Head(200, {}, 3, None))
    assert not heads.learns
    assert not heads


def test_heads_that_come_again_are_learnt_anew() -> None:
    heads = KnownHeads()
    heads.hits = 1
    for number in range(MOST_KNOWN + 1):
        heads.learn(answer(b"one", b"Date: %d" % number), b"one", Head(200, {}, 3, None))
    assert heads.learns
    assert len(heads) == 1


def test_large_heads_are_not_kept() -> None:
    heads = KnownHeads()
    heads.learn(answer(b"one", b"X: " + b"x" * MAX_SIZE), b"one", Head(200, {}, 3, None))
    assert not heads
    many = {b"%d" % number: b"" for number in range(MAX_HEADERS + 1)}
    heads.learn(answer(b"one", *(b"%b:" % name for name in many)), b"one", Head(200, many, 3, None))
    assert not heads
