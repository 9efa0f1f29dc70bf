"""What is left when a server is killed amid paid streams: all that was acknowledged, and balances that balance."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from dragoman.v1.conversation_service_pb2 import CreateConversationRequest
from dragoman.v1.conversation_service_pb2_grpc import ConversationServiceStub
from dragoman.v1.credit_service_pb2 import ListBalancesRequest
from dragoman.v1.credit_service_pb2_grpc import CreditServiceStub
from dragoman_server.providers.scripted import Script
from tests.support import paid_streams as paid
from tests.support.paid_streams import METADATA, PRICED, Seen, stream
from tests.support.server import Server, running_server

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 3
OPEN_STREAMS = 500
"""Streams in the middle of which the server is killed."""
CLIENTS = 50
"""Who meanwhile ask one short question after the other."""
CONVERSATIONS = 20
"""What they share."""
ENOUGH = 200
"""Answers that were acknowledged before a kill."""
NOTED_AFTER = 3.0
"""Seconds after which the usage of a run must be on disk: one is promised, and the machine may be busy."""


@pytest.mark.timeout(240)
async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    seen, noted = Seen(), set[str]()
    database = tmp_path / "data" / "dragoman.db"
    for kill in range(KILLS):
        with running_server(tmp_path, config=PRICED) as server:
            async with grpc.aio.insecure_channel(server.target) as channel:
                if kill == 0:
                    await paid.grant(channel)
                noted |= await stream_until_killed(server, channel, seen)
        with contextlib.closing(sqlite3.connect(database)) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert file.execute("SELECT count(*) FROM holds").fetchone()[0] >= OPEN_STREAMS
            paid.check_balance(file)
    with running_server(tmp_path, config=PRICED) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            answer = await CreditServiceStub(channel).ListBalances(ListBalancesRequest(), metadata=METADATA, timeout=20)
    with contextlib.closing(sqlite3.connect(database)) as file:
        paid.check_balance(file)
        paid.check_runs(file, seen)
        paid.check_messages(file, seen)
        paid.check_usage(file, seen, noted)
        assert file.execute("SELECT count(*) FROM holds").fetchone() == (0,)
        charged = paid.charged(file)
    assert len(noted) >= KILLS * ENOUGH
    assert charged >= sum(completed.charge.amount_micros for completed in seen.completed.values())
    (balance,) = answer.balances
    assert (balance.available_micros, balance.held_micros) == (paid.GRANTED - charged, 0)


async def stream_until_killed(server: Server, channel: grpc.aio.Channel, seen: Seen) -> set[str]:
    """Opens streams, lets others end well meanwhile, and kills the server; returns runs whose usage must be kept."""
    stub = ConversationServiceStub(channel)
    empty = CreateConversationRequest()
    made = [await stub.CreateConversation(empty, metadata=METADATA, timeout=20) for _ in range(CONVERSATIONS)]
    names = itertools.cycle([answer.conversation.id for answer in made])
    numbers = itertools.count()
    speaking: set[int] = set()
    acknowledged: dict[str, float] = {}

    async def stay(number: int) -> None:
        answer = Script(text=("on ", "and "), repeat=1_000, delay=1)
        await stream(channel, next(names), answer, seen, lambda: speaking.add(number))
        raise AssertionError("the server should have been killed amid this")

    async def keep_asking() -> None:
        while True:
            answer = Script(text=(f"answer {next(numbers)} ", "is ", "this"), delay=0.05)
            run_id = await stream(channel, next(names), answer, seen)
            acknowledged[run_id] = time.monotonic()

    streams = [asyncio.create_task(stay(number)) for number in range(OPEN_STREAMS)]
    streams += [asyncio.create_task(keep_asking()) for _ in range(CLIENTS)]
    async with asyncio.timeout(60):
        while len(speaking) < OPEN_STREAMS or len(acknowledged) < ENOUGH:
            await asyncio.sleep(0.01)
    await asyncio.sleep(NOTED_AFTER)
    server.process.kill()
    killed = time.monotonic()
    server.process.wait(20)
    async with asyncio.timeout(60):
        ends = await asyncio.gather(*streams, return_exceptions=True)
    for end in ends:
        assert isinstance(end, grpc.aio.AioRpcError), end
        assert end.code() is grpc.StatusCode.UNAVAILABLE, end
    return {run_id for run_id, at in acknowledged.items() if at < killed - NOTED_AFTER}
