"""A key that was acknowledged survives the death of the process that made it."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.service import Accounts
from dragoman_server.store.database import open_store, sqlite_url

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import asyncio, sys
from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.service import Accounts
from dragoman_server.store.database import open_store

async def main():
    store = open_store(sys.argv[1])
    await store.migrate()
    accounts = Accounts(store)
    while True:
        key, secret = await accounts.keys.create(operator(), "made in a hurry")
        print(key.id, secret, flush=True)

asyncio.run(main())
"""


async def test_every_acknowledged_key_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "dragoman.db"
    made = make_keys_until_killed(sqlite_url(path), 10)
    assert len(made) >= 10
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = open_store(sqlite_url(path))
    await store.migrate()
    accounts = Accounts(store)
    for key_id, secret in made:
        assert (await accounts.authenticate(secret)).key_id == key_id
    await accounts.keys.create(operator(), "and it goes on")
    await store.close()


def make_keys_until_killed(url: str, count: int) -> list[list[str]]:
    """Has a process make keys without end, kills it when it has made some, and returns those it told of."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(count)]
        finally:
            process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -9
    return [line.split() for line in lines if line.endswith("\n")]
