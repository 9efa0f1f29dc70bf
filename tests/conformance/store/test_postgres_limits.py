"""What a process may do to PostgreSQL: so many connections, statements of such a length, no idle transactions."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from sqlalchemy import text

from dragoman.reasons import Reason
from dragoman_server.errors import Unavailable
from dragoman_server.store import database as database_module
from dragoman_server.store.database import Database, open_store, parse_url
from dragoman_server.store.ledger.records import GRANT, Post

SHOW = "SELECT current_setting(%s)"


async def test_every_connection_has_its_limits(postgres_url: str) -> None:
    database = Database(parse_url(postgres_url), pool_size=2, statement_timeout=7.5)
    expected = {
        "statement_timeout": "7500ms",
        "idle_in_transaction_session_timeout": "1min",
        "application_name": "dragoman",
    }
    async with database.read() as first, database.write() as second:
        for connection in (first, second):
            for name, value in expected.items():
                found = await connection.execute(text("SELECT current_setting(:name)"), {"name": name})
                assert found.scalar() == value
    with database.open_psycopg() as beside:
        for name, value in expected.items():
            assert beside.execute(SHOW, [name]).fetchone() == (value,)
    await database.close()


async def test_what_the_url_says_comes_first(postgres_url: str) -> None:
    url = f"{postgres_url}&application_name=mine&options=-c%20statement_timeout%3D3s%20-c%20work_mem%3D8MB"
    database = Database(parse_url(url), statement_timeout=7.5)
    async with database.read() as connection:
        names = ("application_name", "statement_timeout", "work_mem", "idle_in_transaction_session_timeout")
        found = [(await connection.execute(text(f"SHOW {name}"))).scalar() for name in names]
    assert found == ["mine", "3s", "8MB", "1min"]
    with database.open_psycopg() as beside:
        assert beside.execute(SHOW, ["statement_timeout"]).fetchone() == ("3s",)
    await database.close()


async def test_a_statement_that_takes_too_long_says_try_again(postgres_url: str) -> None:
    database = Database(parse_url(postgres_url), pool_size=1, statement_timeout=0.2)
    for lend in (database.read, database.write):
        with pytest.raises(Unavailable, match="too busy") as refused:
            async with lend() as connection:
                await connection.execute(text("SELECT pg_sleep(60)"))
        assert refused.value.reason is Reason.OVERLOADED
        assert refused.value.retryable
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await database.close()


async def test_a_pool_has_no_more_than_its_size(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT", 0.2)
    database = Database(parse_url(postgres_url), pool_size=2)
    async with database.read(), database.write():
        with pytest.raises(Unavailable, match="too busy"):
            async with database.read():
                pytest.fail("a third connection")
    async with database.read():
        pass
    await database.close()


async def test_a_transaction_that_idles_is_ended(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "IDLE_TIMEOUT", 0.2)
    database = Database(parse_url(postgres_url), pool_size=1)

    async def idle() -> None:
        async with database.write() as connection:
            await connection.execute(text("CREATE TABLE t (n INTEGER)"))
            await asyncio.sleep(1)
            await connection.execute(text("INSERT INTO t VALUES (1)"))

    with pytest.raises(Unavailable, match="does not answer"):
        await idle()
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT to_regclass('t')"))).scalar() is None
    await database.close()


async def test_a_migration_takes_the_time_it_needs(postgres_url: str) -> None:
    from dragoman_server.store.migrations import _LOCK

    store = open_store(postgres_url, statement_timeout=0.2)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        migrating = asyncio.create_task(store.migrate())
        await asyncio.sleep(1)
        assert not migrating.done()
    await migrating
    assert await store.identity.keys.page("default", limit=1) == []
    await store.close()


async def test_the_ledger_does_not_wait_for_ever(postgres_url: str) -> None:
    store = open_store(postgres_url, statement_timeout=0.2)
    await store.migrate()

    def a_grant(key: str) -> Post:
        return Post("default", "credits", GRANT, 5, key, "", f"txn_{key}", time.time_ns() // 1000)

    await store.ledger.submit(a_grant("1"))
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM balances FOR UPDATE")
        with pytest.raises(Unavailable) as refused:
            await store.ledger.submit(a_grant("2"))
        assert refused.value.retryable
    await store.ledger.submit(a_grant("2"))
    (balance,) = await store.ledger.balances("default")
    assert balance.available_micros == 10
    await store.close()
