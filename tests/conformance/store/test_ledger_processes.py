"""Several processes on one ledger: nobody is overdrawn, and what a killed one had reserved comes back."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from dragoman.v1.usage_pb2 import Usage
from dragoman_server.credits import service
from dragoman_server.store.database import open_store
from dragoman_server.store.ledger.records import CHARGE, Settle
from tests.support.credits import OPERATOR, a_caller, available, check_sums, credits_with, held
from tests.support.sources import ROOT

PROCESSES = 4
RUNS = 25
"""Of each of the 16 tasks of a process: 64 spend at once."""


async def start(url: str, *more: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.spender", url, "default", str(RUNS), *more,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert await line_of(process) == "ready"
    return process


def go(*processes: asyncio.subprocess.Process) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(90):
        return (await process.stdout.readline()).decode().strip()


async def test_64_at_once_in_four_processes_never_overdraw(database_url: str) -> None:
    store = open_store(database_url)
    await store.migrate()
    granted = 100_000  # less than all of them want
    credits = await credits_with(store, granted)
    processes = [await start(database_url) for _ in range(PROCESSES)]
    go(*processes)
    for _ in range(5):  # an operator meanwhile
        await credits.grant(OPERATOR, "default", 100)
        await asyncio.sleep(0.1)
    spent = [int(await line_of(process)) for process in processes]
    assert [await process.wait() for process in processes] == [0] * PROCESSES
    assert sum(map(bool, spent)) > 1  # SQLite's lock is not fair: the money may be gone before the last one gets it
    assert (await available(store), await held(store)) == (granted + 500 - sum(spent), 0)
    assert await available(store) < 310 + 500  # less than one of them wants, and grants that came when all had given up
    await check_sums(store)
    await store.close()


async def test_processes_that_reserve_ahead_never_overdraw(database_url: str) -> None:
    store = open_store(database_url)
    await store.migrate()
    granted = 300_000  # less than all of them want
    await credits_with(store, granted)
    processes = [await start(database_url, "brief") for _ in range(PROCESSES)]
    go(*processes)
    spent = [int(await line_of(process)) for process in processes]
    assert [await process.wait() for process in processes] == [0] * PROCESSES
    entries = await store.ledger.entries("default", limit=1_000_000)
    assert sum(entry.amount_micros for entry in entries if entry.kind == CHARGE) == sum(spent)
    assert any(entry.run_id.startswith("adv_") for entry in entries)
    assert (await available(store), await held(store)) == (granted - sum(spent), 0)
    await check_sums(store)
    await store.close()


@pytest.mark.parametrize("how", [(), ("brief",)])
async def test_what_a_killed_process_had_reserved_comes_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]
) -> None:
    store = open_store(database_url)
    await store.migrate()
    credits = await credits_with(store, 100_000)
    monkeypatch.setattr(service, "GONE_SECONDS", 3600.0)
    victim, spender = await start(database_url, "hold", *how), await start(database_url, *how)
    go(victim, spender)
    for _ in range(16):
        assert await line_of(victim) == "held"
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    spent = int(await line_of(spender))
    await spender.wait()
    await check_sums(store)
    if database_url.startswith("sqlite"):  # on one machine, the dead are known at once
        await credits.start()
    else:
        reserved = await held(store)
        assert reserved > 16 * 200
        await credits.start()  # it may live as yet, elsewhere
        assert await held(store) == reserved
        monkeypatch.setattr(service, "GONE_SECONDS", 0.001)
        await credits._release_orphans()
    assert (await available(store), await held(store)) == (100_000 - spent, 0)
    await check_sums(store)
    await credits.stop()
    await store.close()


@pytest.mark.parametrize("how", [(), ("brief",)])
async def test_a_process_that_is_killed_in_the_middle_of_writing_leaves_books_that_add_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]
) -> None:
    store = open_store(database_url)
    await store.migrate()
    credits = await credits_with(store, 10_000_000)
    for _ in range(3):
        victim = await start(database_url, *how)
        before = (await store.ledger.entries("default", limit=1))[0].id
        go(victim)
        async with asyncio.timeout(60):
            while (await store.ledger.entries("default", limit=1))[0].id == before and victim.returncode is None:
                await asyncio.sleep(0.001)
        victim.kill()
        await victim.wait()
        await check_sums(store)
    monkeypatch.setattr(service, "GONE_SECONDS", 0.0)
    await credits._release_orphans()
    assert await held(store) == 0
    await check_sums(store)
    await store.close()


async def test_what_another_process_gave_back_is_not_charged(database_url: str) -> None:
    store, other = open_store(database_url), open_store(database_url)
    await store.migrate()
    credits = await credits_with(store, 1000)
    holds = [
        await credits.hold(
            a_caller(), run_id=f"run_{number}", step_id="step_1", operation="chat", model="m", token_type="",
            input_tokens=10, output_tokens=50,
        )
        for number in range(3)
    ]  # fmt: skip
    await other.ledger.submit(Settle("default", "credits", "run_1", "step_1", 0, "orphaned", "txn_a", "txn_b", 1))
    used = Usage(input_tokens=10, output_tokens=20)
    charges = await asyncio.gather(*[hold.settle(used, "completed") for hold in holds if hold is not None])
    assert [charge.amount_micros for charge in charges] == [150, 0, 150]
    assert (await available(store), await held(store)) == (700, 0)
    await check_sums(store)
    await other.close()
    await store.close()
