from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from dragoman.reasons import Reason
from dragoman_server.accounts.keys import operator
from dragoman_server.credits.service import Credits
from dragoman_server.errors import InvalidRequest, NotFound, Unavailable, Unimplemented
from dragoman_server.settings import CreditSettings
from dragoman_server.store import database as database_module
from dragoman_server.store.base import StoreUnusable
from dragoman_server.store.database import Database, open_store, parse_url, sqlite_url
from dragoman_server.store.usage.records import UsageQuery


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("sqlite:///relative/file.db", "relative/file.db"),
        ("sqlite:////absolute/file.db", "/absolute/file.db"),
        ("sqlite+aiosqlite:////absolute/file.db", "/absolute/file.db"),
        ("sqlite:///~/file.db", os.path.expanduser("~/file.db")),
    ],
)
def test_sqlite_urls(written: str, path: str) -> None:
    url = parse_url(written)
    assert (url.drivername, url.database) == ("sqlite+aiosqlite", path)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgres_urls(scheme: str) -> None:
    url = parse_url(f"{scheme}://user:p%40ss@db.example:6432/chat?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "user", "p@ss", "db.example", 6432, "chat",
    )  # fmt: skip
    assert url.query == {"sslmode": "require"}


@pytest.mark.parametrize(
    "written",
    ["", "nonsense", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x", "sqlite:///x?mode=ro",
     "mysql://root:hunter2@host/db", "postgresql+asyncpg://u:hunter2@h/d", "postgresql://u:hunter2@h:port/d",
     "/a/path.db"],
)  # fmt: skip
def test_other_urls_are_refused_without_repeating_them(written: str) -> None:
    with pytest.raises(InvalidRequest, match="use sqlite:///PATH, postgresql://") as refused:
        open_store(written)
    assert refused.value.field == "store.url"
    assert "hunter2" not in str(refused.value)


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_a_path_survives_its_url(name: str) -> None:
    path = Path("/data") / name.replace("/", "_")
    assert parse_url(sqlite_url(path)).database == str(path)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(written: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert parse_url(written).drivername in ("sqlite+aiosqlite", "postgresql+psycopg")


def test_postgres_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Unimplemented, match=r"pip install 'dragoman\[postgres\]'"):
        open_store("postgresql://localhost/x")


async def test_the_file_is_made_with_its_folder_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a?b#c%20.db"
    store = open_store(sqlite_url(path))
    await store.migrate()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    await store.close()


async def test_every_sqlite_connection_is_set_up(tmp_path: Path) -> None:
    database = Database(parse_url(sqlite_url(tmp_path / "x.db")))
    async with database.read() as first, database.read() as second:
        for connection in (first, second):
            assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar() == 1
            assert (await connection.execute(text("PRAGMA busy_timeout"))).scalar() == 10_000
            assert (await connection.execute(text("PRAGMA synchronous"))).scalar() == 2
    await database.close()


async def test_a_transaction_is_committed_whole_or_not_at_all(database_url: str) -> None:
    database = Database(parse_url(database_url))
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE t (n INTEGER)"))

    async def add_two() -> None:
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO t VALUES (1)"))
            await connection.execute(text("INSERT INTO t VALUES (2)"))
            raise RuntimeError("stop")

    async def add_and_hang(inside: asyncio.Event) -> None:
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO t VALUES (3)"))
            inside.set()
            await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="stop"):
        await add_two()
    inside = asyncio.Event()
    hanging = asyncio.create_task(add_and_hang(inside))
    await inside.wait()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO t VALUES (4)"))
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT n FROM t"))).scalars().all() == [4]
    await database.close()


async def test_a_locked_database_says_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT", 0.1)
    path = tmp_path / "x.db"
    database = Database(parse_url(sqlite_url(path)))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="too busy") as refused:
        async with database.write():
            pytest.fail("two writers")
    assert refused.value.reason is Reason.OVERLOADED
    assert refused.value.retryable
    other.close()
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE t (n INTEGER)"))
    await database.close()


async def test_a_start_waits_for_another_that_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # without write-ahead log, as yet: SQLite would refuse to set it at once
    store = open_store(sqlite_url(path))
    starting = asyncio.create_task(store.migrate())
    await asyncio.sleep(0.3)
    assert not starting.done()
    other.close()
    await starting
    assert await store.identity.keys.page("default", limit=1) == []
    await store.close()


async def test_a_database_that_is_away_says_so_without_its_address(tmp_path: Path) -> None:
    url = f"postgresql://someone:hunter2@/x?host={tmp_path}"
    store = open_store(url)
    with pytest.raises(Unavailable, match="does not answer") as away:
        await store.identity.keys.find(b"")
    assert away.value.retryable
    assert str(tmp_path) not in away.value.message
    with pytest.raises(StoreUnusable, match="cannot use the database postgresql") as unusable:
        await store.migrate()
    assert "hunter2" not in unusable.value.message
    await store.close()


async def test_what_is_no_database_is_said_to_be_unusable(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("this is a text file\n" * 100)
    store = open_store(sqlite_url(path))
    with pytest.raises(StoreUnusable, match="not a database"):
        await store.migrate()
    await store.close()
    store = open_store(sqlite_url(path / "below" / "a file.db"))
    with pytest.raises(StoreUnusable, match="cannot write the database file"):
        await store.migrate()
    await store.close()


@pytest.mark.parametrize("policy", ["asyncio", "uvloop"])
def test_both_event_loops(database_url: str, policy: str) -> None:
    program = """
import asyncio, sys
from dragoman_server.store.database import open_store

async def main():
    store = open_store(sys.argv[2])
    await store.migrate()
    print(type(asyncio.get_running_loop()).__module__, await store.identity.keys.page("default", limit=1))
    await store.close()

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, policy, database_url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.stderr == ""
    assert run.stdout.endswith("[]\n")
    assert ("uvloop" in run.stdout) == (policy == "uvloop")


async def test_a_nul_in_what_callers_look_for_is_their_mistake(postgres_url: str) -> None:
    store = open_store(postgres_url)
    await store.migrate()
    try:
        for look in (
            store.usage.page(UsageQuery("default", model="a\0b"), limit=1),
            store.identity.keys.page("default", limit=1, after=(0, "\0")),
            store.ledger.entries("default", limit=1, run_id="\0"),
            store.identity.accounts.get("\0"),
        ):
            with pytest.raises(InvalidRequest, match="NUL"):
                await look
        with pytest.raises(NotFound):
            await Credits(store.ledger, CreditSettings()).grant(operator(), "a\0b", 1)
    finally:
        await store.close()
