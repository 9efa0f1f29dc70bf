"""Writes that are put off to the end of the loop's turn."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from dragoman.outbox import MOST_WAITING, Outbox

if TYPE_CHECKING:
    import pytest


class _Transport:
    """Keeps what is written to it."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.written: list[bytes] = []
        self.closing = False
        self._breaks = breaks

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        if self._breaks:
            raise RuntimeError("out of order")
        self.written.append(data)

    def abort(self) -> None:
        self.closing = True


def _as_transport(transport: _Transport) -> asyncio.Transport:
    return cast("asyncio.Transport", transport)


async def test_writes_wait_for_the_end_of_the_turn_and_keep_their_order() -> None:
    outbox, one, other = Outbox(asyncio.get_running_loop()), _Transport(), _Transport()
    outbox.write(_as_transport(one), b"a")
    outbox.write(_as_transport(other), b"b")
    outbox.write(_as_transport(one), b"c")
    assert one.written == other.written == []
    assert outbox.flushes == 0
    await asyncio.sleep(0)
    assert (one.written, other.written) == ([b"a", b"c"], [b"b"])
    assert outbox.flushes == 1
    outbox.write(_as_transport(one), b"d")
    await asyncio.sleep(0)
    assert one.written == [b"a", b"c", b"d"]


async def test_flush_writes_at_once_and_once() -> None:
    outbox, transport = Outbox(asyncio.get_running_loop()), _Transport()
    outbox.flush()
    assert outbox.flushes == 0
    outbox.write(_as_transport(transport), b"a")
    outbox.flush()
    assert transport.written == [b"a"]
    await asyncio.sleep(0)
    assert transport.written == [b"a"]
    assert outbox.flushes == 1


async def test_not_too_many_wait() -> None:
    outbox, transport = Outbox(asyncio.get_running_loop()), _Transport()
    for _ in range(MOST_WAITING - 1):
        outbox.write(_as_transport(transport), b"a")
    assert transport.written == []
    outbox.write(_as_transport(transport), b"a")
    assert len(transport.written) == MOST_WAITING


async def test_what_closes_before_gets_nothing() -> None:
    outbox, transport = Outbox(asyncio.get_running_loop()), _Transport()
    outbox.write(_as_transport(transport), b"a")
    transport.closing = True
    await asyncio.sleep(0)
    assert transport.written == []


async def test_one_that_breaks_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    outbox, broken, fine = Outbox(asyncio.get_running_loop()), _Transport(breaks=True), _Transport()
    with caplog.at_level(logging.ERROR):
        outbox.write(_as_transport(broken), b"a")
        outbox.write(_as_transport(fine), b"b")
        outbox.flush()
    assert fine.written == [b"b"]
    assert broken.closing
    assert "could not be written to" in caplog.text
