"""How records get into a SQLite file; what they mean is for the conformance suite of the store."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest

from dragoman.v1.run_pb2 import Run
from dragoman_server.errors import Unavailable
from dragoman_server.store.database import open_store, sqlite_url
from dragoman_server.store.usage.records import HOUR, UsageQuery, UsageRecord
from dragoman_server.store.usage.sqlite import SqliteUsageWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dragoman_server.store.base import Store

NOON = 1_790_000_000_000_000 // HOUR * HOUR


def a_record(number: int, tokens: int = 3) -> UsageRecord:
    return UsageRecord(
        f"run_{number:05}", "default", "", "key", NOON + number, "chat", "m", "p", Run.STATE_COMPLETED, "",
        tokens, 0, 2, 0, False, "", 0, 10, 5,
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dragoman.db"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[Store]:
    store = open_store(sqlite_url(file))
    await store.migrate()
    yield store
    await store.close()


@pytest.fixture
def writer(store: Store, file: Path) -> SqliteUsageWriter:
    return SqliteUsageWriter(str(file), 0.05)


async def counted(store: Store) -> tuple[int, int]:
    """How many records there are, and how many runs the sums say there were."""
    records = await store.usage.page(UsageQuery("default"), limit=10_000)
    sums = await store.usage.sums(UsageQuery("default"), interval=None, dimensions=(), limit=9)
    return len(records), sum(row.runs for row in sums)


async def test_of_a_large_batch_with_known_runs_only_the_others_count(store: Store, writer: SqliteUsageWriter) -> None:
    assert writer.add([a_record(7), a_record(300)]) == 2
    assert writer.add([a_record(number) for number in range(700)]) == 698
    assert writer.add([a_record(number) for number in range(700)]) == 0
    assert await counted(store) == (700, 700)
    writer.close()


async def test_a_batch_that_fails_leaves_nothing_and_the_next_one_goes_on(
    store: Store, writer: SqliteUsageWriter
) -> None:
    with pytest.raises(OverflowError):
        writer.add([a_record(number) for number in range(500)] + [a_record(500, tokens=2**64)])
    assert await counted(store) == (0, 0)
    assert writer.add([a_record(1)]) == 1
    writer.close()
    assert writer.add([a_record(2)]) == 1
    assert await counted(store) == (2, 2)
    writer.close()


async def test_a_file_that_others_hold_is_too_busy(store: Store, writer: SqliteUsageWriter, file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="too busy"):
        writer.add([a_record(1)])
    other.execute("ROLLBACK")
    other.close()
    assert writer.add([a_record(1)]) == 1
    writer.close()


async def test_a_file_that_is_no_database_does_not_answer(tmp_path: Path) -> None:
    writer = SqliteUsageWriter(str(tmp_path / "missing" / "x.db"), 0.05)
    with pytest.raises(Unavailable, match="does not answer"):
        writer.add([a_record(1)])


async def test_batches_from_several_threads_wait_for_each_other(store: Store, writer: SqliteUsageWriter) -> None:
    batches = [[a_record(number) for number in range(start, start + 100)] for start in range(0, 800, 50)]
    await asyncio.gather(*(asyncio.to_thread(writer.add, batch) for batch in batches))
    assert await counted(store) == (850, 850)
    writer.close()
