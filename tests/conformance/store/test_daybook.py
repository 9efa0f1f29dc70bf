"""Charges that are noted in a file before they are in the ledger: each is written once, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman_server.errors import Unavailable
from dragoman_server.ids import new_id
from dragoman_server.store import database
from dragoman_server.store.database import SqlStore, open_store, sqlite_url
from dragoman_server.store.ledger import daybook
from dragoman_server.store.ledger.lifemarks import Lifemarks
from dragoman_server.store.ledger.records import CHARGE, GRANT, Extend, Hold, Outcome, Post, Settle, Spend, Verdict
from tests.support.credits import available, check_sums, held
from tests.support.locking import locked
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dragoman_server.store.base import Store
    from dragoman_server.store.ledger.daybook import Daybook

GRANTED = 1_000_000
RESERVED = 100_000
LATER = 3600.0
"""Seconds after which nothing happens within a test unless something else makes it."""
PATIENCE = 3600.0
"""Nobody counts as gone because it is silent."""

numbers = itertools.count(1)


class Process:
    """What a process has of a ledger: a store, the name by which it shows that it lives, and what it was told."""

    def __init__(self, path: Path) -> None:
        store = open_store(sqlite_url(path))
        assert isinstance(store, SqlStore)
        self.store = store
        self.path = path
        self.ledger = store.ledger
        self.owner_id = new_id("own")
        self.told: list[Outcome | Exception] = []

    @property
    def daybook(self) -> Daybook:
        return self.ledger._daybook

    @property
    def file(self) -> Path:
        return self.path.with_name(f"{self.path.name}-owners") / self.owner_id

    async def begin(self) -> Process:
        await self.store.migrate()
        await self.ledger.beat(self.owner_id)
        return self

    async def reserve(self, amount: int = RESERVED) -> str:
        """Reserves ahead, for an account that has something."""
        advance_id = new_id("adv")
        grant = Post("default", "credits", GRANT, GRANTED, "granted", "", new_id("txn"), next(numbers))
        await self.ledger.submit(grant)
        hold = Hold("default", "credits", advance_id, "", amount, self.owner_id, False, new_id("txn"), next(numbers))
        assert (await self.ledger.submit(hold)).verdict is Verdict.DONE
        return advance_id

    def note(self, advance_id: str, amount: int, run_id: str = "") -> str:
        spend = a_spend(advance_id, amount, run_id)
        assert self.ledger.note(spend, self.told.append)
        return spend.run_id

    def die(self) -> None:
        """Leaves what a killed process leaves: its file, without the lock. What was not posted is never posted."""
        book = self.daybook
        if book._timer is not None:
            book._timer.cancel()
            book._timer = None
        book.close()
        self.ledger._lifemarks.drop(self.owner_id, keep_file=True)  # type: ignore[union-attr]

    async def sweep(self) -> list[str]:
        """Releases what the dead have reserved, as each process does; returns what it was."""
        orphans = await self.ledger.orphans(self.owner_id, PATIENCE)
        for hold in orphans:
            await self.ledger.submit(a_settlement(hold.run_id))
        return [hold.run_id for hold in orphans]


def a_spend(advance_id: str, amount: int, run_id: str = "") -> Spend:
    return Spend(
        "default", "credits", run_id or new_id("run"), "step_1", amount, "completed", advance_id, new_id("txn"),
        next(numbers),
    )  # fmt: skip


def a_settlement(advance_id: str) -> Settle:
    return Settle("default", "credits", advance_id, "", 0, "advance", new_id("txn"), new_id("txn"), next(numbers))


async def charges(process: Process) -> dict[str, int]:
    """Returns what was charged by run; fails if anything was charged twice."""
    entries = await process.ledger.entries("default", limit=1_000_000)
    found = [(entry.run_id, entry.amount_micros) for entry in entries if entry.kind == CHARGE]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.fixture(autouse=True)
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daybook, "PAUSE", 0.02)
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.05)
    monkeypatch.setattr(daybook, "READ_PATIENCE", 20.0)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is posted but by what is sent or read."""
    monkeypatch.setattr(daybook, "DELAY", LATER)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes waits for others. To be asked for before the processes."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 20.0)


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[list[Process]]:
    """Processes, which are closed in the end."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        await process.store.close()
        process.die()


@pytest.fixture
async def one(tmp_path: Path, started: list[Process]) -> Process:
    started.append(await Process(tmp_path / "dragoman.db").begin())
    return started[0]


@pytest.fixture
async def other(one: Process, started: list[Process]) -> Process:
    started.append(await Process(one.path).begin())
    return started[1]


async def test_what_is_noted_can_be_read_at_once(one: Process, later: None) -> None:
    advance_id = await one.reserve()
    runs = {one.note(advance_id, amount): amount for amount in (5, 0, 7)}
    await check_sums(one.store)
    assert await held(one.store) == RESERVED - 12
    expected = {run_id: amount for run_id, amount in runs.items() if amount}  # a charge of nothing writes nothing
    assert await charges(one) == expected
    assert [o.amount_micros for o in one.told if isinstance(o, Outcome)] == list(runs.values())
    told = one.told[-1]
    assert isinstance(told, Outcome)
    assert (told.verdict, told.balance.held_micros) == (Verdict.DONE, RESERVED - 12)
    run_id = one.note(advance_id, 9)
    assert [e.amount_micros for e in await one.ledger.entries("default", limit=10, run_id=run_id)] == [9]
    assert len(one.told) == 4


async def test_others_see_it_soon(one: Process, other: Process) -> None:
    advance_id = await one.reserve()
    run_id = one.note(advance_id, 5)
    async with asyncio.timeout(20):
        while await charges(other) != {run_id: 5}:
            await asyncio.sleep(0.01)
    assert len(one.told) == 1


async def test_each_is_told(one: Process, later: None) -> None:
    told: dict[str, list[Outcome | Exception]] = {}
    advances = [await one.reserve() for _ in range(3)]
    for number in range(6):
        spend = a_spend(advances[number % 3], 1 + number)
        assert one.ledger.note(spend, told.setdefault(spend.run_id, []).append)
    await check_sums(one.store)
    for number, outcomes in enumerate(told.values()):
        (outcome,) = outcomes
        assert isinstance(outcome, Outcome)
        assert (outcome.verdict, outcome.amount_micros) == (Verdict.DONE, 1 + number)
        assert outcome.balance.available_micros == GRANTED - 3 * RESERVED


async def test_many_do_not_wait(one: Process, later: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daybook, "MOST", 3)
    advance_id = await one.reserve()
    for _ in range(2):
        one.note(advance_id, 5)
    assert not one.daybook.is_written
    one.note(advance_id, 5)
    await until(lambda: one.daybook.is_written)
    assert len(one.told) == 3
    assert len(await charges(one)) == 3


async def test_what_is_sent_later_is_done_later(one: Process, later: None) -> None:
    advance_id = await one.reserve(100)
    first = one.note(advance_id, 60)
    less = Extend("default", "credits", advance_id, "", 1, -30, new_id("txn"), next(numbers))
    one.ledger.send(less, one.told.append)
    second = one.note(advance_id, 10)
    settled = await one.ledger.submit(a_settlement(advance_id))
    assert await charges(one) == {first: 60, second: 10}
    assert settled.balance[2:4] == (GRANTED - 70, 0)
    assert [o.verdict for o in one.told if isinstance(o, Outcome)] == [Verdict.DONE] * 3
    await check_sums(one.store)


async def test_a_charge_to_what_others_released_is_told(one: Process, other: Process, later: None) -> None:
    advance_id = await one.reserve()
    await other.ledger.submit(a_settlement(advance_id))
    one.note(advance_id, 60)
    assert await charges(one) == {}
    (told,) = one.told
    assert isinstance(told, Outcome)
    assert told.verdict is Verdict.MISSING
    await check_sums(one.store)


async def test_only_a_file_takes_notes(store: Store) -> None:
    """And only one that shows that its process lives."""
    assert not store.ledger.note(a_spend("adv_1", 1), lambda _: None)
    owner_id = new_id("own")
    await store.ledger.beat(owner_id)
    noted: asyncio.Future[Outcome | Exception] = asyncio.get_running_loop().create_future()
    is_file = isinstance(store, SqlStore) and store.ledger._lifemarks is not None
    assert store.ledger.note(a_spend("adv_1", 1), noted.set_result) == is_file
    if is_file:
        told = await noted
        assert isinstance(told, Outcome)
        assert told.verdict is Verdict.MISSING
    await store.ledger.leave(owner_id)
    assert not store.ledger.note(a_spend("adv_1", 1), lambda _: None)


async def test_without_a_place_for_the_file_nothing_is_noted(started: list[Process], tmp_path: Path) -> None:
    one = Process(tmp_path / "dragoman.db")
    started.append(one)
    one.file.parent.write_bytes(b"not a folder")
    await one.begin()
    advance_id = await one.reserve()
    spend = a_spend(advance_id, 5)
    assert not one.ledger.note(spend, one.told.append)
    await one.ledger.submit(spend)
    assert await charges(one) == {spend.run_id: 5}


@pytest.mark.parametrize("error", [OSError("no memory"), ValueError("mmap length is greater than file size")])
async def test_what_cannot_be_mapped_takes_no_notes(
    started: list[Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(daybook, "mmap", fail)
    started.append(one := await Process(tmp_path / "dragoman.db").begin())
    assert not one.ledger.note(a_spend(await one.reserve(), 5), one.told.append)
    await one.ledger.leave(one.owner_id)
    assert not one.file.exists()


async def test_a_process_that_goes_on_to_tell_that_it_lives_goes_on_to_note(
    one: Process, other: Process, later: None
) -> None:
    advance_id = await one.reserve()
    first = one.note(advance_id, 5)
    await one.ledger.beat(one.owner_id)
    second = one.note(advance_id, 7)
    one.die()
    assert await other.sweep() == [advance_id]
    assert await charges(other) == {first: 5, second: 7}


async def test_the_second_owner_of_a_process_notes_when_the_first_has_left(
    one: Process, other: Process, later: None
) -> None:
    second = new_id("own")
    await one.ledger.beat(second)
    advance_id = await one.reserve()
    runs = {one.note(advance_id, 5): 5}
    await one.ledger.leave(one.owner_id)
    assert await charges(other) == runs
    assert not one.ledger.note(a_spend(advance_id, 7), one.told.append)
    await one.ledger.beat(second)
    runs[one.note(advance_id, 7)] = 7
    one.owner_id = second
    one.die()
    await other.sweep()
    assert await charges(other) == runs


class TestTheDead:
    """Whoever finds the file of a dead process writes what it says, before anything is released."""

    @pytest.mark.parametrize("written", [0, 2, 5])
    @pytest.mark.parametrize("how_often", [1, 2])
    async def test_it_is_charged_once_whatever_was_written(
        self, one: Process, other: Process, later: None, written: int, how_often: int
    ) -> None:
        advance_id = await one.reserve()
        runs = {}
        for number in range(5):
            if number == written:
                assert len(await charges(one)) == written
            runs[one.note(advance_id, 10 + number)] = 10 + number
        if written == 5:
            assert await charges(one) == runs
        text = one.file.read_bytes()
        one.die()
        assert await other.sweep() == [advance_id]
        assert not one.file.exists()
        for _ in range(how_often - 1):  # as if nobody could remove it
            one.file.write_bytes(text)
            assert await other.sweep() == []
        assert await charges(other) == runs
        assert (await available(other.store), await held(other.store)) == (GRANTED - 60, 0)
        await check_sums(other.store)

    async def test_who_lives_is_left_alone(self, one: Process, other: Process, later: None) -> None:
        advance_id = await one.reserve()
        run_id = one.note(advance_id, 5)
        assert await other.sweep() == []
        assert await charges(other) == {}
        assert one.file.exists()
        assert await charges(one) == {run_id: 5}

    async def test_a_sweep_that_fails_is_done_again(self, one: Process, other: Process, later: None) -> None:
        advance_id = await one.reserve()
        runs = {one.note(advance_id, amount): amount for amount in (5, 7)}
        one.die()
        async with locked(one.path):
            with pytest.raises(Unavailable):
                await other.sweep()
        assert one.file.exists()
        assert await charges(other) == {}
        assert await other.sweep() == [advance_id]
        assert not one.file.exists()
        assert await charges(other) == runs
        await check_sums(other.store)

    async def test_several_find_them_at_once(
        self, patient: None, one: Process, other: Process, started: list[Process]
    ) -> None:
        runs: dict[str, int] = {}
        for _ in range(3):
            victim = await Process(one.path).begin()
            started.append(victim)
            advance_id = await victim.reserve()
            runs |= {victim.note(advance_id, amount): amount for amount in (5, 7)}
            victim.die()
        found = await asyncio.gather(one.sweep(), other.sweep(), one.sweep(), other.sweep())
        assert len({advance_id for swept in found for advance_id in swept}) == 3
        assert await charges(other) == runs
        assert (await available(other.store), await held(other.store)) == (GRANTED - 36, 0)
        await check_sums(other.store)

    async def test_they_were_silent_for_long_and_somebody_is_about_to_write_their_notes(
        self, one: Process, other: Process, later: None
    ) -> None:
        advance_id = await one.reserve()
        run_id = one.note(advance_id, 7)
        with contextlib.closing(sqlite3.connect(one.path)) as file, file:
            file.execute("UPDATE owners SET seen_time = 0 WHERE id = ?", (one.owner_id,))
        one.die()
        third = Lifemarks(one.path).dead()
        with contextlib.suppress(KeyError), third as (dead, alive):
            assert other.owner_id in alive
            assert list(dead) == [one.owner_id]
            assert await other.sweep() == []
            raise KeyError  # it does not get far
        assert await other.sweep() == [advance_id]
        assert await charges(other) == {run_id: 7}

    @pytest.mark.parametrize("kept", [0, 1, 8, 9, 20, -2, -1])
    async def test_a_line_that_is_not_whole_loses_nothing_before_it(
        self, one: Process, other: Process, later: None, kept: int
    ) -> None:
        advance_id = await one.reserve()
        runs = {one.note(advance_id, amount): amount for amount in (5, 7)}
        one.note(advance_id, 9)
        text = one.file.read_bytes()
        lines = text.split(b"\n")
        lines[2] = lines[2][:kept] + b"\0" * len(lines[2][kept:])
        one.file.write_bytes(b"\n".join(lines))
        one.die()
        assert await other.sweep() == [advance_id]
        assert await charges(other) == runs
        await check_sums(other.store)

    @pytest.mark.parametrize("text", [b"", b"null", b"7", b"{}", b'["a"]', b'"\xff"', b"[" * 9, b"\xf0\x28\x8c\x28"])
    async def test_what_is_whole_but_no_charge_loses_nothing_else(
        self, one: Process, other: Process, later: None, text: bytes
    ) -> None:
        """As of another release."""
        advance_id = await one.reserve()
        runs = {one.note(advance_id, amount): amount for amount in (5, 7)}
        before, after, _ = one.file.read_bytes().split(b"\n", 2)
        with one.file.open("r+b") as file:
            file.write(b"%b\n%08x %b\n%b\n" % (before, crc32(text), text, after))
        one.die()
        assert await other.sweep() == [advance_id]
        assert await charges(other) == runs

    async def test_a_damaged_page_says_nothing_of_the_other(
        self, small_pages: None, one: Process, other: Process, later: None
    ) -> None:
        advance_id = await one.reserve()
        async with locked(one.path):
            runs = note_until_full(one, advance_id)
            one.die()
        with one.file.open("r+b") as file:
            file.write(b"xx")
        await one.store.close()
        text = one.file.read_bytes()
        count = text[:PAGE_BYTES].count(b"\n")
        assert 0 < count < len(runs)
        await other.sweep()
        found = await charges(other)
        assert dict(list(runs.items())[count:]).items() <= found.items() <= runs.items()

    async def test_an_empty_file_or_a_short_one_is_removed(self, one: Process, tmp_path: Path) -> None:
        for name, text in (("own_a", b""), ("own_b", b"\0" * 10), ("own_c", b"\n\n"), ("own_d", b"x" * 1000)):
            one.file.with_name(name).write_bytes(text)
        assert await one.sweep() == []
        assert [path.name for path in one.file.parent.iterdir()] == [one.owner_id]


PAGE_BYTES = 1000


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a few lines. To be asked for before the processes."""
    monkeypatch.setattr(daybook, "PAGE_BYTES", PAGE_BYTES)


def note_until_full(one: Process, advance_id: str) -> dict[str, int]:
    runs = {}
    for amount in range(1, 100):
        spend = a_spend(advance_id, amount)
        if not one.ledger.note(spend, one.told.append):
            break
        runs[spend.run_id] = amount
    return runs


class TestPages:
    """Two pages take turns."""

    async def test_they_are_used_again_and_again(
        self, small_pages: None, one: Process, other: Process, later: None
    ) -> None:
        advance_id = await one.reserve()
        runs: dict[str, int] = {}
        for _ in range(20):
            more = note_until_full(one, advance_id)
            assert len(more) >= 4  # both pages
            runs |= more
            await until(lambda: one.ledger.note(a_spend(advance_id, 0), one.told.append))
            assert await charges(one) == runs
            assert one.daybook.is_written
        assert one.file.stat().st_size == 2 * PAGE_BYTES
        more = {one.note(advance_id, amount): amount for amount in (5, 7)}
        one.die()
        await other.sweep()
        assert await charges(other) == runs | more
        await check_sums(other.store)

    async def test_when_both_are_full_it_is_sent_instead(self, small_pages: None, one: Process, later: None) -> None:
        advance_id = await one.reserve()
        async with locked(one.path):
            runs = note_until_full(one, advance_id)
            for _ in range(3):
                assert not one.ledger.note(a_spend(advance_id, 1), one.told.append)
            await asyncio.sleep(0.2)  # it is tried in vain
            assert not one.ledger.note(a_spend(advance_id, 1), one.told.append)
            assert one.told == []
        assert await charges(one) == runs
        assert one.ledger.note(a_spend(advance_id, 0), one.told.append)
        assert await held(one.store) == RESERVED - sum(runs.values())
        await check_sums(one.store)

    async def test_what_stands_behind_a_new_line_of_the_same_length_is_not_charged_again(
        self, small_pages: None, one: Process, other: Process, later: None
    ) -> None:
        advance_id = await one.reserve()
        runs = {one.note(advance_id, 5): 5 for _ in range(3)}
        assert await charges(one) == runs
        runs[one.note(advance_id, 5)] = 5
        one.die()
        assert len(daybook.read(os.open(one.file, os.O_RDONLY))) == 3
        await other.sweep()
        assert await charges(other) == runs

    async def test_a_line_that_is_longer_than_a_page_is_not_noted(
        self, small_pages: None, one: Process, later: None
    ) -> None:
        advance_id = await one.reserve()
        long = a_spend(advance_id, 5, "run_" + "x" * PAGE_BYTES)
        run_id = one.note(advance_id, 7)
        assert not one.ledger.note(long, one.told.append)
        await one.ledger.submit(long)
        assert await charges(one) == {run_id: 7, long.run_id: 5}


class TestALockedDatabase:
    """Nothing is lost while somebody else writes for long."""

    async def test_it_is_written_when_it_can_be(self, one: Process) -> None:
        advance_id = await one.reserve()
        async with locked(one.path):
            runs = {one.note(advance_id, amount): amount for amount in (5, 7)}
            await asyncio.sleep(0.3)  # several tries
            runs[one.note(advance_id, 9)] = 9
            await asyncio.sleep(0.2)
            assert one.told == []
            assert not one.daybook.is_written
        await until(lambda: one.daybook.is_written)
        assert await charges(one) == runs
        assert {o.verdict for o in one.told if isinstance(o, Outcome)} == {Verdict.DONE}
        await check_sums(one.store)

    async def test_readers_see_the_ledger_as_it_is_after_a_while(
        self, one: Process, later: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(daybook, "READ_PATIENCE", 0.1)
        advance_id = await one.reserve()
        run_id = one.note(advance_id, 5)
        async with locked(one.path):
            assert await charges(one) == {}
            assert await held(one.store) == RESERVED
        monkeypatch.setattr(daybook, "READ_PATIENCE", 20.0)
        assert await charges(one) == {run_id: 5}

    async def test_readers_wait_for_what_is_tried_again_too(self, one: Process, later: None) -> None:
        advance_id = await one.reserve()
        first = one.note(advance_id, 5)
        async with locked(one.path):
            one.daybook.post()
            await asyncio.sleep(0.2)
        second = one.note(advance_id, 7)
        assert await charges(one) == {first: 5, second: 7}


class TestTheEnd:
    """A process that ends leaves nothing behind but what is not written."""

    async def test_all_is_written_and_nothing_stays(self, one: Process, other: Process, later: None) -> None:
        advance_id = await one.reserve()
        run_id = one.note(advance_id, 5)
        await one.ledger.leave(one.owner_id)
        assert not one.file.exists()
        assert await charges(other) == {run_id: 5}
        assert await other.sweep() == [advance_id]
        await check_sums(other.store)

    @pytest.mark.parametrize("lasts", [True, False])
    async def test_what_cannot_be_written_is_left_to_the_next(
        self, one: Process, other: Process, later: None, monkeypatch: pytest.MonkeyPatch, lasts: bool
    ) -> None:
        """Be the database locked until all is over, or answer again just when it is too late."""
        monkeypatch.setattr(daybook, "READ_PATIENCE", 0.1)
        monkeypatch.setattr(daybook, "PAUSE", LATER)
        advance_id = await one.reserve()
        runs = {one.note(advance_id, amount): amount for amount in (5, 7)}
        async with locked(one.path):
            one.daybook.post()
            await asyncio.sleep(0.2)
            if lasts:
                await one.ledger.leave(one.owner_id)
        if not lasts:
            await one.ledger.leave(one.owner_id)
        assert not one.ledger.note(a_spend(advance_id, 1), one.told.append)
        await one.store.close()
        assert one.file.exists()
        assert await charges(other) == {}
        monkeypatch.setattr(other.ledger._lifemarks, "dead", lambda: contextlib.nullcontext(({}, [])))
        assert await other.sweep() == []  # it had looked for files before this one's owner left
        monkeypatch.undo()
        assert await other.sweep() == [advance_id]
        assert not one.file.exists()
        assert await charges(other) == runs
        assert (await available(other.store), await held(other.store)) == (GRANTED - 12, 0)
        await check_sums(other.store)

    async def test_a_store_that_is_closed_without_notice_leaves_its_notes(
        self, one: Process, other: Process, later: None
    ) -> None:
        advance_id = await one.reserve()
        run_id = one.note(advance_id, 5)
        await one.store.close()
        one.die()
        await other.sweep()
        assert await charges(other) == {run_id: 5}

    async def test_who_comes_back_under_the_same_name_loses_nothing(
        self, one: Process, other: Process, later: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(daybook, "READ_PATIENCE", 0.1)
        monkeypatch.setattr(daybook, "PAUSE", LATER)
        advance_id = await one.reserve()
        runs = {one.note(advance_id, 5): 5}
        async with locked(one.path):
            await one.ledger.leave(one.owner_id)
        await one.ledger.beat(one.owner_id)
        spend = a_spend(advance_id, 7)
        if not one.ledger.note(spend, one.told.append):
            await one.ledger.submit(spend)
        one.die()
        await one.store.close()
        await other.sweep()
        assert await charges(other) == {**runs, spend.run_id: 7}
        await check_sums(other.store)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database in which nothing is."""
    path = tmp_path_factory.mktemp("empty") / "dragoman.db"

    async def make() -> None:
        store = open_store(sqlite_url(path))
        await store.migrate()
        await store.close()

    asyncio.run(make())
    return path.read_bytes()


AMOUNT = st.integers(0, 60)
STEP = st.one_of(
    st.tuples(st.just("note"), AMOUNT),
    st.tuples(st.just("note"), AMOUNT),
    st.tuples(st.just("send"), AMOUNT),
    st.tuples(st.just("extend"), st.integers(-60, 60)),
    st.tuples(st.just("crash"), st.sampled_from([0, 5, 9, 50])),
    st.tuples(st.sampled_from(["post", "turn", "read", "fail", "give_back", "sweep", "leave"]), st.just(0)),
)


class Story:
    """Processes one after the other on one file, and what they were told to charge."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.charged: dict[str, int] = {}
        self.processes: list[Process] = []
        self.serial = 0

    async def begin(self) -> None:
        """Lets a process follow on the last one."""
        self.noted = 0
        self.process = Process(self.path)
        self.processes.append(self.process)
        await self.process.begin()
        await self.process.sweep()
        await self.reserve()

    async def end(self) -> None:
        for process in self.processes:
            await process.store.close()
            process.die()

    async def reserve(self) -> None:
        self.advance_id = await self.process.reserve(1_000)
        self.left = 1_000

    async def check(self) -> None:
        store = self.process.store
        assert await charges(self.process) == self.charged
        spent = sum(self.charged.values())
        assert (await available(store), await held(store)) == (GRANTED - spent - self.left, self.left)
        await check_sums(store)

    def spend(self, amount: int) -> Spend:
        amount = min(amount, self.left)
        self.left -= amount
        spend = a_spend(self.advance_id, amount)
        if amount:
            self.charged[spend.run_id] = amount
        return spend

    async def note(self, amount: int) -> None:
        spend = self.spend(amount)
        if self.process.ledger.note(spend, self.process.told.append):
            self.noted += 1
        else:
            assert (await self.process.ledger.submit(spend)).verdict is Verdict.DONE

    async def send(self, amount: int) -> None:
        assert (await self.process.ledger.submit(self.spend(amount))).verdict is Verdict.DONE

    async def extend(self, amount: int) -> None:
        self.serial += 1
        amount = max(amount, -self.left)
        self.left += amount
        act = Extend("default", "credits", self.advance_id, "", self.serial, amount, new_id("txn"), next(numbers))
        assert (await self.process.ledger.submit(act)).verdict is Verdict.DONE

    async def post(self, _: int) -> None:
        self.process.daybook.post()

    async def turn(self, _: int) -> None:
        await asyncio.sleep(0)

    async def read(self, _: int) -> None:
        assert await held(self.process.store) == self.left

    async def fail(self, _: int) -> None:
        """The database does not answer for a while."""

        def commit(_: object) -> None:
            raise Unavailable("the database does not answer")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.process.ledger._writer._scribe, "commit", commit)
            self.process.daybook.post()
            await asyncio.sleep(0.01)

    async def give_back(self, _: int) -> None:
        """As who reserves ahead does: when it is told what became of all that was noted."""
        await until(lambda: len(self.process.told) == self.noted)
        assert (await self.process.ledger.submit(a_settlement(self.advance_id))).verdict is Verdict.DONE
        await self.reserve()

    async def sweep(self, _: int) -> None:
        assert await self.process.sweep() == []

    async def leave(self, _: int) -> None:
        await self.process.ledger.leave(self.process.owner_id)
        await self.begin()

    async def crash(self, written: int) -> None:
        """A process is killed when it has begun to write one more line."""
        end = self.process.daybook._page.end
        self.process.die()
        with self.process.file.open("r+b") as file:
            file.seek(end)
            file.write((b"00000000 " + b"[" * 50)[:written])
        await self.begin()


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(STEP, max_size=30))
async def test_whatever_happens_each_is_charged_once(empty_database: bytes, steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="daybook-") as folder:
        patch.setattr(daybook, "PAGE_BYTES", PAGE_BYTES)
        patch.setattr(daybook, "PAUSE", 0.005)
        patch.setattr(database, "BUSY_TIMEOUT", 20.0)
        path = Path(folder) / "dragoman.db"
        path.write_bytes(empty_database)
        story = Story(path)
        try:
            await story.begin()
            for what, amount in steps:
                await getattr(story, what)(amount)
            await story.check()
            await story.crash(0)
            await story.check()
            assert os.listdir(story.process.file.parent) == [story.process.owner_id]
        finally:
            await story.end()
