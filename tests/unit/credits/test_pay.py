"""Charges that nobody waits for: what is told at once is what the ledger says in the end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.v1.usage_pb2 import Charge, Usage
from dragoman_server.credits import advance as module
from dragoman_server.credits import service
from dragoman_server.store import database
from dragoman_server.store.database import open_store, sqlite_url
from dragoman_server.store.ledger import daybook
from dragoman_server.store.ledger.records import CHARGE, Settle
from tests.support.credits import OPERATOR, a_caller, available, check_sums, credits_with, held
from tests.support.locking import locked
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dragoman_server.credits.advance import Advance
    from dragoman_server.credits.hold import Hold
    from dragoman_server.credits.service import Credits
    from dragoman_server.store.base import Store

MOST = 210
"""What each piece of work can cost: 100, 10 tokens at 1 and 50 at 2."""
PLENTY = 10_000_000
USED = Usage(input_tokens=10, output_tokens=20)
COST = 150
LATER = 3600.0
"""Seconds after which nothing happens within a test unless something else makes it."""


@pytest.fixture(autouse=True)
def paces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY", 2)
    monkeypatch.setattr(module, "PERIOD", LATER)
    monkeypatch.setattr(daybook, "PAUSE", 0.02)
    monkeypatch.setattr(daybook, "READ_PATIENCE", 20.0)
    monkeypatch.setattr("dragoman_server.credits.hold.FIRST_PAUSE", 0.001)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes does not wait long for others."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dragoman.db"


@contextlib.asynccontextmanager
async def process(file: Path, balance: int = PLENTY, **fields: object) -> AsyncIterator[tuple[Store, Credits]]:
    """Credits as a server has them, which shows that it lives, until it has given back everything."""
    store = open_store(sqlite_url(file))
    await store.migrate()
    credits = await credits_with(store, balance, **fields)  # type: ignore[arg-type]
    await credits.start()
    try:
        yield store, credits
    finally:
        await credits.stop()
        await store.close()


async def ask(credits: Credits, number: int, *, brief: bool = True) -> Hold:
    found = await credits.hold(
        a_caller(), run_id=f"run_{number}", step_id="step_1", operation="chat", model="m", token_type="", brief=brief,
        input_tokens=10, output_tokens=50,
    )  # fmt: skip
    assert found is not None
    return found


async def ask_ahead(credits: Credits, count: int) -> tuple[Advance, list[Hold]]:
    """Returns an advance, and work that has taken something of it."""
    for number in range(2):
        await (await ask(credits, number)).settle(None, "failed")
    await until(lambda: advance_of(credits) is not None and advance_of(credits).reserved)
    return advance_of(credits), [await ask(credits, 2 + number) for number in range(count)]


def advance_of(credits: Credits) -> Any:
    return credits._advances.find(("default", "credits"))


async def charges(store: Store) -> dict[str, tuple[int, str]]:
    entries = [entry for entry in await store.ledger.entries("default", limit=100_000) if entry.kind == CHARGE]
    found = {entry.run_id: (entry.amount_micros, entry.note) for entry in entries}
    assert len(found) == len(entries)
    return found


async def given_back(credits: Credits, advance: Advance) -> None:
    """Returns when all of an advance is given back."""
    await until(lambda: advance.closed and advance not in credits._advances.ending)
    assert advance.ended


async def test_it_is_told_what_is_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daybook, "DELAY", LATER)
    async with process(file) as (store, credits):
        _, holds = await ask_ahead(credits, 5)
        left = PLENTY - 5 * MOST
        for hold in holds:
            left += MOST - COST
            assert hold.pay(USED) == Charge(currency="credits", amount_micros=COST, available_micros=left)
        assert await charges(store) == {f"run_{2 + number}": (COST, "completed") for number in range(5)}
        ((balance,), _, _) = await credits.balances(OPERATOR)
        assert balance[2:4] == (left, 0)
        await check_sums(store)
    async with process(file, 0) as (store, _):
        assert (await available(store), await held(store)) == (left, 0)


async def test_at_most_what_is_reserved_and_it_is_said_what_is_estimated(file: Path) -> None:
    async with process(file) as (store, credits):
        _, (hold,) = await ask_ahead(credits, 1)
        charge = hold.pay(Usage(input_tokens=10, output_tokens=500, estimated=True))
        assert charge == Charge(currency="credits", amount_micros=MOST, available_micros=PLENTY - MOST)
        assert await charges(store) == {"run_2": (MOST, "completed, estimated")}


async def test_it_counts_once(file: Path) -> None:
    async with process(file) as (store, credits):
        _, holds = await ask_ahead(credits, 2)
        charge = holds[0].pay(USED)
        assert charge is not None
        assert holds[0].pay(USED) is None
        assert await holds[0].settle(None, "failed") == charge
        assert (await holds[1].settle(USED, "completed")).amount_micros == COST
        assert holds[1].pay(USED) is None
        assert len(await charges(store)) == 2
        await check_sums(store)


async def test_what_was_reserved_on_its_own_has_to_be_waited_for(file: Path) -> None:
    async with process(file) as (store, credits):
        hold = await ask(credits, 0, brief=False)
        assert hold.pay(USED) is None
        assert (await hold.settle(USED, "completed")).amount_micros == COST
        assert await charges(store) == {"run_0": (COST, "completed")}


async def test_who_waits_for_the_disk_notes_nothing(file: Path) -> None:
    async with process(file, wait_for_disk=True) as (store, credits):
        advance, holds = await ask_ahead(credits, 3)
        for hold in holds:
            assert hold.pay(USED) is None
            await hold.settle(USED, "completed")
        assert advance.noted == 0
        assert len(await charges(store)) == 3


async def test_when_nothing_can_be_noted_it_is_settled(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with process(file) as (store, credits):
        advance, holds = await ask_ahead(credits, 2)
        monkeypatch.setattr(store.ledger._daybook, "_file", None)  # type: ignore[attr-defined]
        assert holds[0].pay(USED) is None
        charge = await holds[0].settle(USED, "completed")
        monkeypatch.undo()
        last = holds[1].pay(USED)
        assert last is not None
        assert last.available_micros == charge.available_micros + MOST - COST
        assert (advance.taken, advance.free) == (0, advance.reserved)
        await check_sums(store)


async def test_what_outlives_its_advance_is_charged_to_it(file: Path) -> None:
    async with process(file) as (store, credits):
        advance, holds = await ask_ahead(credits, 4)
        paid = holds[0].pay(USED)
        assert paid is not None
        left = paid.available_micros
        advance.close()
        for hold in holds[1:]:
            left += MOST - COST
            assert hold.pay(USED) is None  # that has to be waited for
            charge = await hold.settle(USED, "completed")
            assert (charge.amount_micros, charge.available_micros) == (COST, left)
        await given_back(credits, advance)
        assert len(await charges(store)) == 4
        assert (await available(store), await held(store)) == (left, 0)
        await check_sums(store)


@pytest.mark.parametrize("ends", [0, 1])
async def test_what_others_released_is_not_charged_and_ends(file: Path, ends: int) -> None:
    """Whether it is closed before that is known or after; what had been told to callers is to their benefit."""
    async with process(file) as (store, credits):
        advance, holds = await ask_ahead(credits, 5)
        await store.ledger.submit(Settle("default", "credits", advance.id, "", 0, "orphaned", "txn_a", "txn_b", 1))
        for hold in holds[:3]:
            assert hold.pay(USED) is not None
        if ends:
            advance.close()
        assert await charges(store) == {}
        await until(lambda: advance.closed)
        for hold in holds[3:]:
            assert hold.pay(USED) is None
            assert (await hold.settle(USED, "completed")).amount_micros == 0
        await given_back(credits, advance)
        assert await charges(store) == {}
        assert (await available(store), await held(store)) == (PLENTY, 0)
        await (await ask(credits, 100)).settle(USED, "completed")
        assert await charges(store) == {"run_100": (COST, "completed")}
        await check_sums(store)


async def test_what_is_given_back_while_the_database_is_locked_comes_after_the_charges(
    file: Path, impatient: None
) -> None:
    async with process(file) as (store, credits):
        advance, holds = await ask_ahead(credits, 4)
        async with locked(file):
            for hold in holds[:2]:
                assert hold.pay(USED) is not None
            await asyncio.sleep(0.3)  # it was tried in vain
            late = holds[2].pay(USED)
            assert late is not None
            advance.close()
            assert holds[3].pay(USED) is None
            last = holds[3].settle(USED, "completed")
            await asyncio.sleep(0.3)
            assert not last.done()
        await given_back(credits, advance)
        assert (await last).amount_micros == COST
        assert await charges(store) == {f"run_{2 + number}": (COST, "completed") for number in range(4)}
        assert (await available(store), await held(store)) == (PLENTY - 4 * COST, 0)
        await check_sums(store)


async def test_an_end_while_the_database_is_locked_leaves_the_charges_to_the_next(
    file: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(file, 0) as (other, others):
        async with process(file) as (_, credits):
            _, holds = await ask_ahead(credits, 3)
            async with locked(file):
                for hold in holds:
                    assert hold.pay(USED) is not None
                monkeypatch.setattr(service, "END_TIMEOUT", 0.2)
                monkeypatch.setattr(daybook, "READ_PATIENCE", 0.1)
                await credits.stop()
        await others._release_orphans()
        assert len(await charges(other)) == 3
        assert (await available(other), await held(other)) == (PLENTY - 3 * COST, 0)
        await check_sums(other)


async def test_what_is_told_is_as_fresh_as_what_this_process_knows(file: Path) -> None:
    async with process(file) as (store, credits):
        _, holds = await ask_ahead(credits, 4)
        await credits.grant(OPERATOR, "default", 1_000)
        left = PLENTY + 1_000 - 4 * MOST
        for number, hold in enumerate(holds):
            single = await ask(credits, 50 + number, brief=False)
            left -= COST - MOST + MOST
            charge = hold.pay(USED)
            assert charge is not None
            assert charge.available_micros == left
            await single.settle(None, "failed")
            left += MOST
        await check_sums(store)


STEP = st.one_of(
    st.tuples(st.just("ask"), st.booleans()),
    st.tuples(st.just("ask"), st.just(True)),
    st.tuples(st.just("pay"), st.integers(0, 30), st.builds(Usage, input_tokens=st.integers(0, 50))),
    st.tuples(st.just("pay"), st.integers(0, 30), st.builds(Usage, output_tokens=st.integers(0, 80))),
    st.tuples(st.just("fail"), st.integers(0, 30)),
    st.tuples(st.sampled_from(["grant", "look", "wait", "close"])),
)


@settings(max_examples=20, deadline=None)
@given(balance=st.sampled_from([0, 5_000, 100_000, PLENTY]), steps=st.lists(STEP, max_size=60))
async def test_it_is_told_what_is_left(balance: int, steps: list[tuple[Any, ...]]) -> None:
    """At each moment: what there was, less what was charged and what work holds."""
    numbers = itertools.count(10)
    with tempfile.TemporaryDirectory(prefix="pay-") as folder:
        async with process(Path(folder) / "dragoman.db", balance) as (store, credits):
            left, charged, holds = balance, 0, list[Any]()
            for what, *how in steps:
                match what:
                    case "ask" if left >= MOST:
                        holds.append(await ask(credits, next(numbers), brief=how[0]))
                        left -= MOST
                    case "pay" if holds:
                        hold = holds.pop(how[0] % len(holds))
                        charge = hold.pay(how[1]) or await hold.settle(how[1], "completed")
                        amount = min(MOST, 100 + how[1].input_tokens + 2 * how[1].output_tokens)
                        charged += amount
                        left += MOST - amount
                        assert (charge.amount_micros, charge.available_micros) == (amount, left)
                    case "fail" if holds:
                        charge = await holds.pop(how[0] % len(holds)).settle(None, "failed")
                        left += MOST
                        assert (charge.amount_micros, charge.available_micros) == (0, left)
                    case "grant":
                        await credits.grant(OPERATOR, "default", 500)
                        left += 500
                    case "look":
                        balances, _, _ = await credits.balances(OPERATOR)
                        assert [found[2:4] for found in balances] in ([], [(left, len(holds) * MOST)])
                    case "wait":
                        await asyncio.sleep(0)
                    case "close" if (advance := advance_of(credits)) is not None:
                        advance.close()
            for hold in holds:
                await hold.settle(None, "failed")
            left += len(holds) * MOST
            await credits.stop()
            assert (await available(store), await held(store)) == (left, 0)
            assert sum(amount for amount, _ in (await charges(store)).values()) == charged
            await check_sums(store)
