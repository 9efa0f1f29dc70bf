"""A backup that was taken from a busy server is whole, and a server goes on from it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import shutil
import sqlite3
from typing import TYPE_CHECKING

import grpc

from dragoman.v1.conversation_service_pb2 import CreateConversationRequest
from dragoman.v1.conversation_service_pb2_grpc import ConversationServiceStub
from dragoman.v1.credit_service_pb2 import ListBalancesRequest
from dragoman.v1.credit_service_pb2_grpc import CreditServiceStub
from dragoman_server.providers.scripted import Script
from tests.support import paid_streams as paid
from tests.support.command import dragoman
from tests.support.paid_streams import METADATA, PRICED, Seen, stream
from tests.support.server import running_server
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS = 20
BEFORE = 50
"""Answers before the backup."""


async def test_a_backup_under_load_can_be_gone_on_from(tmp_path: Path) -> None:
    busy, restored, target = tmp_path / "busy", tmp_path / "restored", tmp_path / "copy.db"
    seen = Seen()
    with running_server(busy, config=PRICED) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            await paid.grant(channel)
            stub, empty = ConversationServiceStub(channel), CreateConversationRequest()
            made = [await stub.CreateConversation(empty, metadata=METADATA, timeout=20) for _ in range(5)]
            names = itertools.cycle([answer.conversation.id for answer in made])

            async def keep_asking() -> None:
                while True:
                    await stream(channel, next(names), Script(text=("an ", "answer"), delay=0.02), seen)

            clients = [asyncio.create_task(keep_asking()) for _ in range(CLIENTS)]
            await until(lambda: len(seen.completed) >= BEFORE)
            before = copy.deepcopy(seen)
            command = await asyncio.to_thread(dragoman, "backup", str(target), DRAGOMAN_DATA_DIR=str(busy / "data"))
            assert (command.returncode, command.stdout) == (0, f"{target}\n"), command.stderr
            during = len(seen.completed)
            await until(lambda: len(seen.completed) > during)  # nobody was disturbed
            for client in clients:
                client.cancel()
            ends = await asyncio.gather(*clients, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends

    with contextlib.closing(sqlite3.connect(target)) as file:
        paid.check_balance(file)
        paid.check_runs(file, before)
        paid.check_messages(file, before)
        paid.forget_owners(file)
        charged = paid.charged(file)

    (restored / "data").mkdir(parents=True)
    shutil.copy(target, restored / "data" / "dragoman.db")
    with running_server(restored, config=PRICED) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            answer = await CreditServiceStub(channel).ListBalances(ListBalancesRequest(), metadata=METADATA, timeout=20)
            (balance,) = answer.balances
            assert (balance.available_micros, balance.held_micros) == (paid.GRANTED - charged, 0)
            for name in itertools.islice(names, 5):
                await stream(channel, name, Script(text=("it ", "goes ", "on")), before)
    with contextlib.closing(sqlite3.connect(restored / "data" / "dragoman.db")) as file:
        paid.check_balance(file)
        paid.check_runs(file, before)
        paid.check_messages(file, before)


def test_what_cannot_be_backed_up_is_said(tmp_path: Path) -> None:
    data, target = {"DRAGOMAN_DATA_DIR": str(tmp_path)}, tmp_path / "copy.db"
    missing = dragoman("backup", str(target), **data)
    assert (missing.returncode, "there is no database" in missing.stderr) == (1, True)
    assert dragoman("migrate", **data).returncode == 0
    assert dragoman("backup", str(target), **data).returncode == 0
    taken = dragoman("backup", str(target), **data)
    assert (taken.returncode, "exists already; --force replaces it" in taken.stderr) == (1, True)
    assert dragoman("backup", str(target), "--force", **data).returncode == 0
    elsewhere = dragoman("backup", str(target), DRAGOMAN_STORE__URL="postgresql://u:hunter2@h/d", **data)
    assert (elsewhere.returncode, "pg_dump" in elsewhere.stderr, "hunter2" in elsewhere.stderr) == (1, True, False)
    nowhere = dragoman("backup", str(target), DRAGOMAN_STORE__URL="memory:", **data)
    assert (nowhere.returncode, "nothing to back up" in nowhere.stderr) == (1, True)
