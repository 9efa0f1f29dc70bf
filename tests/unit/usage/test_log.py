from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dragoman.v1.run_pb2 import Run
from dragoman_server.caller import Caller
from dragoman_server.errors import Unavailable
from dragoman_server.settings import UsageSettings
from dragoman_server.store.memory import MemoryStore
from dragoman_server.store.usage.memory import MemoryUsage
from dragoman_server.store.usage.records import HOUR, UsageQuery, UsageRecord
from dragoman_server.usage import log as usage_log
from dragoman_server.usage.log import UsageLog, tokens_of

CALLER = Caller("default", "key_a", user_id="user_a")
NOW = 1_790_000_000
DAY = 24 * HOUR


class Shaky:
    """A store that fails as long as it is told to."""

    def __init__(self) -> None:
        self.store: MemoryUsage = MemoryStore().usage
        self.failure: Exception | None = None
        self.batches: list[int] = []

    async def add(self, records: Sequence[UsageRecord]) -> int:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.batches.append(len(records))
        return await self.store.add(records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_log, "FLUSH_SECONDS", 0.02)


def a_run(run_id: str, **changes: Any) -> Run:
    run = Run(id=run_id, model="m", provider="p", state=Run.STATE_COMPLETED, **changes)
    run.create_time.FromMicroseconds(NOW * 1_000_000)
    run.usage.input_tokens, run.usage.output_tokens = 10, 5
    return run


def note(log: UsageLog, run: Run) -> None:
    charge = run.charge if run.HasField("charge") else None
    log.note(run, CALLER, "chat", tokens_of(run.usage), run.create_time.ToMicroseconds(), 1200, 80, charge)


async def kept(store: Any) -> list[UsageRecord]:
    found: list[UsageRecord] = await store.page(UsageQuery("default"), limit=10_000)
    return found


async def until_kept(store: Any, count: int) -> None:
    for _ in range(300):
        if len(await kept(store)) == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(await kept(store))} instead of {count}")


async def test_a_note_has_all_that_the_run_tells() -> None:
    store = Shaky()
    log = UsageLog(store, UsageSettings())
    run = a_run("run_1")
    run.usage.input_details.cached_tokens, run.usage.output_details.reasoning_tokens = 4, 3
    run.usage.estimated = True
    run.charge.currency, run.charge.amount_micros = "credits", 5_000_000
    run.state = Run.STATE_FAILED
    run.failure.reason = "INTERNAL"
    note(log, run)
    await log.start()
    await log.stop()
    assert await kept(store) == [
        UsageRecord(
            "run_1", "default", "user_a", "key_a", NOW * 1_000_000, "chat", "m", "p", Run.STATE_FAILED, "INTERNAL",
            10, 4, 5, 3, True, "credits", 5_000_000, 1200, 80,
        )
    ]  # fmt: skip


async def test_what_comes_together_is_written_together() -> None:
    store = Shaky()
    log = UsageLog(store, UsageSettings())
    await log.start()
    for i in range(50):
        note(log, a_run(f"run_{i}"))
    await until_kept(store, 50)
    note(log, a_run("run_later"))
    await until_kept(store, 51)
    assert store.batches == [50, 1]
    await log.stop()


async def test_no_transaction_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_log, "MOST_AT_ONCE", 8)
    store = Shaky()
    log = UsageLog(store, UsageSettings())
    await log.start()
    for i in range(20):
        note(log, a_run(f"run_{i}"))
    await log.stop()
    assert store.batches == [8, 8, 4]


async def test_records_wait_for_the_database_and_what_is_too_much_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_log, "MOST_PENDING", 5)
    store, registry = Shaky(), CollectorRegistry()
    store.failure = Unavailable("gone")
    log = UsageLog(store, UsageSettings(), registry)
    await log.start()
    for i in range(9):
        note(log, a_run(f"run_{i}"))
    await asyncio.sleep(0.1)
    assert registry.get_sample_value("dragoman_usage_records_pending") == 5
    assert registry.get_sample_value("dragoman_usage_records_dropped_total") == 4
    store.failure = None
    await until_kept(store, 5)
    assert registry.get_sample_value("dragoman_usage_records_total") == 5
    note(log, a_run("run_9"))
    await until_kept(store, 6)
    await log.stop()


async def test_what_the_database_refuses_does_not_stop_the_rest() -> None:
    store, registry = Shaky(), CollectorRegistry()
    store.failure = ValueError("this row is none")
    log = UsageLog(store, UsageSettings(), registry)
    await log.start()
    note(log, a_run("run_bad"))
    for _ in range(300):
        if registry.get_sample_value("dragoman_usage_records_dropped_total") == 1:
            break
        await asyncio.sleep(0.01)
    store.failure = None
    note(log, a_run("run_good"))
    await until_kept(store, 1)
    assert registry.get_sample_value("dragoman_usage_records_dropped_total") == 1
    await log.stop()


async def test_names_that_a_database_cannot_keep_are_mended() -> None:
    store = Shaky()
    log = UsageLog(store, UsageSettings())
    await log.start()
    run = a_run("run_1")
    run.model = "a\0b"
    note(log, run)
    await log.stop()
    assert [record.model for record in await kept(store)] == ["ab"]


async def test_switched_off_it_takes_no_note() -> None:
    store, registry = Shaky(), CollectorRegistry()
    log = UsageLog(store, UsageSettings(enabled=False), registry)
    await log.start()
    note(log, a_run("run_1"))
    assert registry.get_sample_value("dragoman_usage_records_pending") == 0
    await log.stop()
    assert await kept(store) == []


async def test_what_is_too_old_goes() -> None:
    store = Shaky()
    log = UsageLog(store, UsageSettings(retention_days=10, sums_retention_days=20), clock=lambda: NOW)
    ages = (0, 9, 11, 19, 21)
    records = [
        UsageRecord(
            f"run_{age}", "default", "", "", NOW * 1_000_000 - age * DAY, "chat", "m", "p", 2, "",
            1, 0, 1, 0, False, "", 0, 1, 1,
        )
        for age in ages
    ]  # fmt: skip
    await store.add(records)
    await log.start()
    await until_kept(store, 2)
    await log.stop()
    sums = await store.sums(UsageQuery("default"), interval=HOUR, dimensions=(), limit=99)
    assert len(sums) == 4


async def test_zero_days_mean_for_ever() -> None:
    store = Shaky()
    log = UsageLog(store, UsageSettings(retention_days=0, sums_retention_days=0), clock=lambda: NOW + 10**9)
    note(log, a_run("run_1"))
    await log.start()
    await until_kept(store, 1)
    await log.stop()
    assert len(await kept(store)) == 1
