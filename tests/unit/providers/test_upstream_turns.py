"""A long read is worked on in turns, so that one busy upstream does not hold up all others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dragoman.outbox import Outbox
from dragoman_server.errors import ProviderError
from dragoman_server.providers.upstream.connection import LEAST_PER_TURN, Connection
from dragoman_server.providers.upstream.heads import KnownHeads

BODY = bytes(range(256)) * 400
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)


class FakeTransport(asyncio.Transport):
    """A transport that remembers whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.closed = False

    def write(self, data: object) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0


class Pool:
    """The owner of a connection."""

    def __init__(self) -> None:
        self.outbox = Outbox(asyncio.get_running_loop())
        self.heads = KnownHeads()
        self.reusable: list[bool] = []
        self.staled: list[object] = []

    def bytes_per_turn(self) -> int:
        return LEAST_PER_TURN

    def released(self, connection: Connection, *, reusable: bool) -> None:
        self.reusable.append(reusable)

    def lost(self, connection: Connection) -> None:
        pass

    def stale(self, connection: Connection, exchange: object) -> bool:
        self.staled.append(exchange)
        return True


class Exchange:
    """An exchange that collects its answer."""

    request = b""

    def __init__(self) -> None:
        self.handler: Any = self
        self.paused = False
        self.pieces: list[bytes] = []
        self.ends: list[ProviderError | None] = []

    def on_headers(self, status: int, headers: object) -> None:
        pass

    def on_data(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_complete(self) -> None:
        pass

    def on_error(self, error: ProviderError) -> None:
        pass

    def finish_whole(self, status: int, headers: object, body: bytes) -> None:
        self.on_data(body)
        self.finish(None)

    def finish(self, error: ProviderError | None) -> None:
        self.ends.append(error)


def connected() -> tuple[Connection, FakeTransport, Pool, Exchange]:
    pool, exchange, transport = Pool(), Exchange(), FakeTransport()
    connection = Connection(pool)
    connection.connection_made(transport)
    connection.begin(exchange)
    pool.outbox.flush()
    return connection, transport, pool, exchange


async def until_idle() -> None:
    for _ in range(len(BODY) // LEAST_PER_TURN + 5):
        await asyncio.sleep(0)


async def test_a_long_read_comes_in_bounded_pieces_and_whole() -> None:
    connection, transport, pool, exchange = connected()
    connection.data_received(HEAD + BODY)
    assert not transport.reading
    assert len(b"".join(exchange.pieces)) < LEAST_PER_TURN
    await until_idle()
    assert max(map(len, exchange.pieces)) <= LEAST_PER_TURN
    assert b"".join(exchange.pieces) == BODY
    assert exchange.ends == [None]
    assert pool.reusable == [True]
    assert transport.reading


async def test_others_have_their_turn_between() -> None:
    first, _, _, busy = connected()
    second, _, _, quick = connected()
    first.data_received(HEAD + BODY)
    second.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert quick.ends == [None]
    assert busy.ends == []
    await until_idle()
    assert busy.ends == [None]


async def test_a_slow_reader_stops_the_turns_until_it_resumes() -> None:
    connection, transport, _, exchange = connected()
    connection.data_received(HEAD + BODY)
    exchange.paused = True
    connection.pause()
    had = len(exchange.pieces)
    await until_idle()
    assert len(exchange.pieces) == had
    exchange.paused = False
    connection.resume()
    connection.resume()
    await until_idle()
    assert b"".join(exchange.pieces) == BODY
    assert transport.reading


async def test_bytes_that_come_although_reading_is_paused_keep_their_order() -> None:
    connection, _, _, exchange = connected()
    connection.data_received(HEAD + BODY[:-10])
    connection.data_received(BODY[-10:])
    await until_idle()
    assert b"".join(exchange.pieces) == BODY


async def test_a_connection_that_says_more_than_was_asked_is_not_used_again() -> None:
    connection, transport, pool, exchange = connected()
    connection.data_received(HEAD + BODY + b"x" * (2 * LEAST_PER_TURN))
    await until_idle()
    assert exchange.ends == [None]
    assert pool.reusable == [False]
    assert transport.closed


async def test_what_comes_before_the_request_is_sent_is_no_answer_to_it() -> None:
    connection, transport, pool, first = connected()
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert first.ends == [None]
    second = Exchange()
    connection.begin(second)
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    assert transport.closed
    assert pool.staled == [second]
    assert second.ends == []


@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_closing_ends_the_turns(turns: int) -> None:
    connection, _, _, exchange = connected()
    connection.data_received(HEAD + BODY)
    for _ in range(turns):
        await asyncio.sleep(0)
    had = len(exchange.pieces)
    connection.close()
    await until_idle()
    assert len(exchange.pieces) == had
    assert exchange.ends == []
