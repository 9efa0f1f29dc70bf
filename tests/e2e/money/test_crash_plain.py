"""What is left when a server is killed amid plain paid requests: each that was answered is charged, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from dragoman_server.providers.scripted import Script
from dragoman_server.store.ledger.records import CHARGE
from tests.support import paid_streams as paid
from tests.support.http_site import Client
from tests.support.locking import locked
from tests.support.paid_streams import PRICED
from tests.support.server import MODEL, Server, running_server
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

CONNECTIONS = 16
ENOUGH = 400
"""Answers before a kill: some of the credits for them were reserved on their own, most ahead."""
HEAD = "POST /v1/chat/completions HTTP/1.1\nHost: x\nAuthorization: Bearer {key}\nContent-Type: application/json"


class Clients:
    """Who ask one question after the other, and what they were told: the charges of runs."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.told: dict[str, int] = {}
        self.is_late = False
        """Whether nothing can be written any more."""
        self.late: set[str] = set()
        """Runs of which all was asked and told since."""

    async def ask(self, number: int) -> None:
        """Asks until the connection is lost."""
        port = int(self.server.url.rpartition(":")[2])
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        try:
            while True:
                answer = Script(text=(f"answer-{number}" * (1 + len(self.told) % 7),))  # it comes whole
                asked = f"SCRIPT {answer.model_dump_json(exclude_defaults=True)}"
                messages = [{"role": "user", "content": asked}]
                body = json.dumps({"model": MODEL, "messages": messages, "max_tokens": 50}).encode()
                head, late = HEAD.format(key=self.server.key), self.is_late
                client.send(f"{head}\nContent-Length: {len(body)}", body)
                line, headers = await client.head()
                assert line == "HTTP/1.1 200 OK"
                run_id, charged = headers["x-dragoman-run-id"], int(headers["x-dragoman-charged-micros"])
                assert charged > 5
                self.told[run_id] = charged
                if late:
                    self.late.add(run_id)
                await client.body(int(headers["Content-Length"]))
        except (asyncio.IncompleteReadError, ConnectionError):
            assert self.server.process.poll() is not None
        finally:
            client.writer.close()


def charges(file: sqlite3.Connection) -> dict[str, int]:
    """Returns what was charged by run; fails if anything was charged twice."""
    found = file.execute("SELECT run_id, amount_micros FROM ledger_entries WHERE kind = ?", (CHARGE,)).fetchall()
    by_run = {str(run_id): int(amount) for run_id, amount in found}
    assert len(by_run) == len(found)
    return by_run


async def grant(database: Path) -> None:
    """Gives the account something to spend."""
    from dragoman_server.store.database import open_store, sqlite_url
    from tests.support.credits import credits_with

    store = open_store(sqlite_url(database))
    await credits_with(store, paid.GRANTED)
    await store.close()


@pytest.mark.timeout(240)
async def test_kill_9_loses_no_charge_that_was_told(tmp_path: Path) -> None:
    """Thrice; the last time, none of the last charges can be in the ledger yet."""
    database = tmp_path / "data" / "dragoman.db"
    told: dict[str, int] = {}
    for cannot_write in (False, False, True):
        with running_server(tmp_path, config=PRICED) as server:
            if not told:
                await grant(database)
            told |= await ask_until_killed(server, database, cannot_write=cannot_write)
        with contextlib.closing(sqlite3.connect(database)) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            paid.check_balance(file)
            written = charges(file)
            assert {run_id: told[run_id] for run_id in told.keys() & written.keys()}.items() <= written.items()
            if cannot_write:
                assert told.keys() - written.keys()  # what this is about
    with running_server(tmp_path, config=PRICED):
        with contextlib.closing(sqlite3.connect(database)) as file:
            paid.check_balance(file)
            assert file.execute("SELECT count(*) FROM holds").fetchone() == (0,)
            written = charges(file)
            assert told.items() <= written.items()
            spent = sum(written.values())
            assert file.execute("SELECT available_micros, held_micros FROM balances").fetchall() == [
                (paid.GRANTED - spent, 0)
            ]
            ahead = file.execute("SELECT count(*) FROM ledger_entries WHERE run_id LIKE 'adv_%'").fetchone()[0]
            assert ahead >= 3
        # Who was answered nothing is charged at most for what was under way.
        assert len(written) - len(told) <= 3 * CONNECTIONS
        assert [path.suffix for path in database.parent.glob("*-owners/*")] == [""]  # that of the one that runs
    assert not list(database.parent.glob("*-owners/*"))


async def ask_until_killed(server: Server, database: Path, *, cannot_write: bool) -> dict[str, int]:
    """Kills a server amid many requests; returns what clients were told that they pay."""
    clients = Clients(server)
    tasks = [asyncio.create_task(clients.ask(number)) for number in range(CONNECTIONS)]
    await until(lambda: len(clients.told) >= ENOUGH or any(task.done() for task in tasks), 60)
    async with contextlib.AsyncExitStack() as stack:
        if cannot_write:
            await stack.enter_async_context(locked(database))
            clients.is_late = True
            await until(lambda: clients.late)
        server.process.kill()
        server.process.wait(20)
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
    return clients.told
