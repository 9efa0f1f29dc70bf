"""Credits that are reserved ahead: everything is as without them, but for when it is written."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.usage_pb2 import Charge, Usage
from dragoman_server.credits import advance as module
from dragoman_server.credits.service import Credits
from dragoman_server.errors import InsufficientCredits, Unavailable
from dragoman_server.settings import PlanSettings
from dragoman_server.store.ledger.records import (
    ADJUST,
    CHARGE,
    HOLD,
    RELEASE,
    Extend,
    Hold,
    Post,
    Settle,
    Spend,
    Subscription,
)
from dragoman_server.store.ledger.writer import as_future
from dragoman_server.store.memory import MemoryStore
from tests.support.credits import (
    OPERATOR,
    Clock,
    a_caller,
    available,
    check_sums,
    credit_settings,
    credits_with,
    held,
)

if TYPE_CHECKING:
    from dragoman_server.credits.hold import Hold as Reservation
    from dragoman_server.store.ledger.memory import MemoryLedger
    from dragoman_server.store.ledger.records import Act, Outcome, Told

MOST = 210
"""What each piece of work can cost: 100, 10 tokens at 1 and 50 at 2."""
PLENTY = 10_000_000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(autouse=True)
def busy_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY", 2)


async def ask(credits: Credits, number: int, *, brief: bool = True, **fields: Any) -> Reservation:
    found = await credits.hold(
        fields.pop("caller", a_caller()), run_id=f"run_{number}", step_id="step_1", operation="chat", model="m",
        token_type="", brief=brief, **{"input_tokens": 10, "output_tokens": 50, **fields},
    )  # fmt: skip
    assert found is not None
    return found


def usage(read: int, written: int) -> Usage:
    return Usage(input_tokens=read, output_tokens=written)


async def acts_of(store: MemoryStore) -> dict[str, list[tuple[int, int, str]]]:
    """Returns what was written about each run: kinds, amounts and notes."""
    found = defaultdict(list)
    for entry in reversed(await store.ledger.entries("default", limit=100_000)):
        if entry.run_id:
            found[entry.run_id].append((entry.kind, entry.amount_micros, entry.note))
    return found


def charges_of(acts: dict[str, list[tuple[int, int, str]]]) -> dict[str, list[tuple[int, int, str]]]:
    """Returns the charges among what was written about runs that have any."""
    charges = {run_id: [act for act in found if act[0] == CHARGE] for run_id, found in acts.items()}
    return {run_id: found for run_id, found in charges.items() if found}


def advances_of(acts: dict[str, list[tuple[int, int, str]]]) -> list[list[tuple[int, int, str]]]:
    return [written for run_id, written in acts.items() if run_id.startswith("adv_")]


async def test_a_busy_account_writes_nothing_before_its_work(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    holds = [await ask(credits, number) for number in range(2)]  # these are written, and with the second an advance
    assert await held(store) == 2 * MOST + module.WORKS * MOST
    before = len(await store.ledger.entries("default", limit=100))
    holds += [await ask(credits, number) for number in range(2, 2 + module.WORKS)]
    assert len(await store.ledger.entries("default", limit=100)) == before
    charge = await holds[5].settle(usage(10, 20), "completed")
    assert charge == Charge(
        currency="credits", amount_micros=150, available_micros=PLENTY - 150 - (len(holds) - 1) * MOST
    )
    failed = await holds[6].settle(None, "failed")
    assert (failed.amount_micros, failed.available_micros) == (0, charge.available_micros + MOST)
    acts = await acts_of(store)
    assert (acts["run_5"], acts["run_6"]) == ([(CHARGE, 150, "completed")], [])
    await check_sums(store)


async def test_work_that_is_not_brief_is_reserved_on_its_own(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    for number in range(10):
        await ask(credits, number, brief=False)
    assert await held(store) == 10 * MOST
    assert not advances_of(await acts_of(store))


async def test_an_advance_grows_with_what_is_asked_for_at_a_time(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    holds = [await ask(credits, number) for number in range(3 * module.WORKS)]
    (written,) = advances_of(await acts_of(store))
    assert written == [(HOLD, times * module.WORKS * MOST, "") for times in (1, 1, 2)]
    for hold in holds:
        await hold.settle(usage(10, 20), "completed")
    await check_sums(store)


async def test_an_advance_takes_but_a_part_of_what_is_there(store: MemoryStore) -> None:
    credits = await credits_with(store, 20 * MOST)
    for number in range(3):
        await ask(credits, number)
    assert await held(store) == 3 * MOST  # which is not worth an advance
    credits = await credits_with(store, 80 * MOST)
    for number in range(3, 6):
        await ask(credits, number)
    assert await held(store) == 5 * MOST + 95 * MOST // module.MOST_PART


async def test_looking_at_the_balance_shows_only_what_work_holds(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    holds = [await ask(credits, number) for number in range(5)]
    ((balance,), _, _) = await credits.balances(OPERATOR)
    assert balance[2:4] == (PLENTY - 5 * MOST, 5 * MOST)
    for hold in holds:
        await hold.settle(usage(10, 20), "completed")
    ((balance,), _, _) = await credits.balances(OPERATOR)
    assert balance[2:4] == (PLENTY - 5 * 150, 0)


async def test_what_is_not_used_any_more_is_given_back(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.02)
    credits = await credits_with(store, PLENTY)
    holds = [await ask(credits, number) for number in range(4)]
    async with asyncio.timeout(10):
        while await held(store) != 4 * MOST:
            await asyncio.sleep(0.005)
    for hold in holds:
        await hold.settle(usage(10, 20), "completed")
    assert (await available(store), await held(store)) == (PLENTY - 4 * 150, 0)
    (written,) = advances_of(await acts_of(store))
    assert sum(amount for kind, amount, _ in written if kind == RELEASE) == module.WORKS * MOST - 2 * 150
    await check_sums(store)


async def test_the_end_gives_everything_back(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    await credits.start()
    holds = [await ask(credits, number) for number in range(4)]
    for hold in holds:
        await hold.settle(usage(10, 20), "completed")
    assert await held(store) == module.WORKS * MOST - 2 * 150
    await credits.stop()
    assert (await available(store), await held(store)) == (PLENTY - 4 * 150, 0)
    await check_sums(store)


async def test_a_correction_gets_what_is_reserved_ahead(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    for number in range(3):
        await (await ask(credits, number)).settle(None, "failed")
    with pytest.raises(InsufficientCredits):
        await credits.adjust(OPERATOR, "default", -PLENTY - 1)
    _, balance = await credits.adjust(OPERATOR, "default", -PLENTY)
    assert balance.available_micros == 0


async def test_what_is_taken_from_an_advance_does_not_grow(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    *_, hold = [await ask(credits, number) for number in range(3)]
    assert not await hold.extend(100)
    assert hold.output_tokens == 50
    charge = await hold.settle(usage(10, 10**7), "completed")
    assert charge.amount_micros == MOST
    await check_sums(store)


async def test_a_month_begins_although_credits_are_reserved_ahead(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def subscription(account_id: str) -> Subscription:
        return Subscription(account_id, "pro", 1)

    monkeypatch.setattr(store.ledger, "subscription", subscription)
    pro = PlanSettings(name="pro", monthly_micros=77)
    credits = Credits(store.ledger, credit_settings(), (pro,), clock=Clock())
    await credits.grant(OPERATOR, "default", PLENTY)
    for number in range(3):
        await ask(credits, number, caller=a_caller(plan="" if number < 2 else "pro"))
    assert advances_of(await acts_of(store))
    assert any(entry.note.startswith("plan pro") for entry in await store.ledger.entries("default", limit=100))


async def test_what_others_released_is_not_charged_and_not_used_any_more(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    holds = [await ask(credits, number) for number in range(4)]
    (advance_id,) = (run_id for run_id in await acts_of(store) if run_id.startswith("adv_"))
    await store.ledger.submit(Settle("default", "credits", advance_id, "", 0, "orphaned", "txn_a", "txn_b", 1))
    assert [(await hold.settle(usage(10, 20), "completed")).amount_micros for hold in holds] == [150, 150, 0, 0]
    assert (await available(store), await held(store)) == (PLENTY - 300, 0)
    await (await ask(credits, 9)).settle(usage(10, 20), "completed")
    assert (await available(store), await held(store)) == (PLENTY - 450, 0)
    await check_sums(store)


class Flaky:
    """A ledger that may fail, before or after it does what it is asked for."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.before: list[type[Act]] = []
        self.after: list[type[Act]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def submit(self, act: Act) -> asyncio.Future[Outcome]:
        return as_future(self.send, act)

    def send(self, act: Act, then: Told) -> None:
        error = Unavailable("the database does not answer", reason=Reason.STORE_UNAVAILABLE)
        if type(act) in self.before:
            self.before.remove(type(act))
            then(error)
        elif type(act) in self.after:
            self.after.remove(type(act))
            self._ledger.send(act, lambda _: then(error))
        else:
            self._ledger.send(act, then)


def flaky(credits: Credits, store: MemoryStore) -> Flaky:
    ledger = Flaky(store.ledger)
    credits._ledger = credits._advances._ledger = ledger
    return ledger


@pytest.mark.parametrize("kind", [Hold, Extend, Spend, Settle])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_database_that_does_not_answer_costs_nobody_anything(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, kind: type[Act], when: str
) -> None:
    monkeypatch.setattr("dragoman_server.credits.hold.FIRST_PAUSE", 0.001)
    credits = await credits_with(store, 20_000)
    ledger = flaky(credits, store)
    holds = [await ask(credits, 0)]
    failing = getattr(ledger, when)
    if kind is not Hold:
        failing.append(kind)
    holds.append(await ask(credits, 1))
    if advance := credits._advances.find(("default", "credits")):
        advance.close()
    if kind is Hold:
        ask_ahead = credits._advances.missed
        failing.append(kind)
        for _ in range(2):
            ask_ahead((await store.ledger.balances("default"))[0], MOST)
    holds += [await ask(credits, number) for number in range(2, 40)]
    for hold in holds:
        assert (await hold.settle(usage(10, 20), "completed")).amount_micros == 150
    await credits._advances.end(5)
    assert (await available(store), await held(store)) == (20_000 - 150 * 40, 0)
    assert not failing
    await check_sums(store)


@pytest.mark.parametrize(("seconds", "works"), [(0.1, [64] + [33] * 5), (0.001, [64, 128 - 31, 256 - 63])])
async def test_an_advance_is_filled_up_before_it_is_used_up(
    store: MemoryStore, seconds: float, works: list[int]
) -> None:
    """To what it was; to twice as much if that did not last long."""
    clock = Clock()
    credits = await credits_with(store, PLENTY, clock)
    for number in range(3 * module.WORKS):
        await (await ask(credits, number)).settle(usage(10, 50), "completed")
        clock.now += seconds
    acts = await acts_of(store)
    (written,) = advances_of(acts)
    assert [(kind, amount) for kind, amount, _ in written] == [(HOLD, count * MOST) for count in works]
    assert [run_id for run_id, found in acts.items() if found[0][0] == HOLD and run_id[:4] == "run_"] == [
        "run_0",
        "run_1",
    ]
    await check_sums(store)


async def test_an_advance_covers_its_work_when_nothing_else_is_left(store: MemoryStore) -> None:
    credits = await credits_with(store, 100 * MOST)
    holds = [await ask(credits, number) for number in range(4)]
    rest = await available(store)
    await store.ledger.submit(
        Post("default", "credits", ADJUST, -rest, "all", "", "txn_z", 1)
    )  # another process's work
    for hold in holds:
        assert (await hold.settle(usage(10, 20), "completed")).amount_micros == 150
    await credits._advances.end(5)
    assert (await available(store), await held(store)) == (100 * MOST - rest - 600, 0)
    await check_sums(store)


class Late:
    """A ledger that does what it is asked for together, when it is told to."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[Act, Told]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def submit(self, act: Act) -> asyncio.Future[Outcome]:
        return as_future(self.send, act)

    def send(self, act: Act, then: Told) -> None:
        self._waiting.append((act, then))

    def write(self) -> None:
        waiting, self._waiting = self._waiting, []
        outcomes: list[Outcome | Exception] = []
        for act, _ in waiting:
            self._ledger.send(act, outcomes.append)
        for (_, then), outcome in zip(waiting, outcomes, strict=True):
            then(outcome)

    async def wait_for(self, *tasks: asyncio.Task[Any]) -> None:
        async with asyncio.timeout(10):
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0)
                self.write()


async def test_of_many_that_the_balance_is_short_for_all_get_what_is_reserved_ahead(store: MemoryStore) -> None:
    credits = await credits_with(store, 100 * MOST)
    for number in range(2):
        await (await ask(credits, number)).settle(None, "failed")
    rest = await available(store)
    assert await held(store) > 2 * MOST  # reserved ahead
    await credits.adjust(OPERATOR, "default", -rest)
    ledger = Late(store.ledger)
    credits._ledger = credits._advances._ledger = ledger
    tasks = [asyncio.create_task(ask(credits, number, brief=False)) for number in range(10, 13)]
    await ledger.wait_for(*tasks)
    assert len({id(task.result()) for task in tasks}) == 3


async def test_what_an_advance_is_about_to_grow_by_is_given_back_too(store: MemoryStore) -> None:
    credits = await credits_with(store, 100 * MOST)
    for number in range(2):
        await (await ask(credits, number)).settle(None, "failed")
    advance = credits._advances.find(("default", "credits"))
    assert advance is not None
    taken = advance.free // MOST
    for number in range(2, 2 + taken):
        await ask(credits, number)
    ledger = Late(store.ledger)
    credits._ledger = credits._advances._ledger = advance._ledger = ledger
    missed = asyncio.create_task(ask(credits, 100))
    all_that_is_left = 100 * MOST - (taken + 1) * MOST
    large = asyncio.create_task(ask(credits, 101, brief=False, output_tokens=(all_that_is_left - 110) // 2))
    await ledger.wait_for(missed, large)
    assert missed.result().covers(50)
    assert await held(store) == 100 * MOST
    assert large.result().covers((all_that_is_left - 110) // 2)


async def test_an_answer_that_grows_gets_what_is_reserved_ahead(store: MemoryStore) -> None:
    credits = await credits_with(store, 100 * MOST)
    stream = await ask(credits, 9, brief=False)
    for number in range(3):
        await (await ask(credits, number)).settle(None, "failed")
    rest = await available(store)
    await store.ledger.submit(Post("default", "credits", ADJUST, -rest, "all", "", "txn_z", 1))
    assert await stream.extend(100)
    assert stream.output_tokens == 100
    assert not await stream.extend(10**7)
    assert (await stream.settle(usage(10, 10**7), "completed")).amount_micros == MOST + 100
    await check_sums(store)


async def test_charges_of_what_outlives_its_advance_tell_what_is_there(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    holds = [await ask(credits, number) for number in range(6)]
    credits._advances.find(("default", "credits")).close()  # type: ignore[union-attr]  # as after a while
    left = PLENTY - len(holds) * MOST
    for hold in holds:
        left += MOST - 150
        assert (await hold.settle(usage(10, 20), "completed")).available_micros == left
    await check_sums(store)


async def test_what_others_released_of_what_is_not_used_any_more_ends_too(store: MemoryStore) -> None:
    credits = await credits_with(store, PLENTY)
    holds = [await ask(credits, number) for number in range(4)]
    advance = credits._advances.find(("default", "credits"))
    assert advance is not None
    advance.close()
    await store.ledger.submit(Settle("default", "credits", advance.id, "", 0, "orphaned", "txn_a", "txn_b", 1))
    for hold in holds:
        await hold.settle(usage(10, 20), "completed")
    assert advance.ended
    await check_sums(store)


@pytest.mark.parametrize("ahead", [False, True])
async def test_what_is_reserved_ahead_lapses_at_the_end_of_the_month(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    async def subscription(account_id: str) -> Subscription:
        return Subscription(account_id, "pro", 1)

    monkeypatch.setattr(store.ledger, "subscription", subscription)
    clock = Clock()
    pro = PlanSettings(name="pro", monthly_micros=PLENTY)
    credits = Credits(store.ledger, credit_settings(), (pro,), clock=clock)
    caller = a_caller(plan="pro")
    for number in range(4):
        await (await ask(credits, number, brief=ahead, caller=caller)).settle(None, "failed")
    hold = await ask(credits, 4, brief=ahead, caller=caller)
    assert bool(advances_of(await acts_of(store))) == ahead
    clock.now += 32 * 86400
    await (await ask(credits, 5, brief=ahead, caller=caller)).settle(None, "failed")
    charge = await hold.settle(usage(10, 20), "completed")
    assert charge.available_micros == PLENTY + MOST - 150  # only what work holds is left of the month before
    await check_sums(store)


async def test_what_is_reserved_ahead_gets_less_with_the_balance(store: MemoryStore) -> None:
    """Another process, which sees it as held, must not refuse much because of it."""
    credits = await credits_with(store, 8 * 64 * MOST)
    for number in range(2):
        await (await ask(credits, number)).settle(None, "failed")
    advance = credits._advances.find(("default", "credits"))
    assert advance is not None
    assert advance.free > 50 * MOST
    for number in range(10, 40):
        rest = await available(store)
        await store.ledger.submit(
            Post("default", "credits", ADJUST, -rest // 3, f"other:{number}", "", f"txn_{number}", 1)
        )
        with suppress(InsufficientCredits):
            await (await ask(credits, number)).settle(usage(10, 20), "completed")
        assert advance.closed or advance.free <= max(await available(store) / 2, MOST)
    assert await held(store) < MOST
    await check_sums(store)


async def test_what_had_been_reserved_before_the_answer_was_lost_is_used(store: MemoryStore) -> None:
    """As when PostgreSQL has written one part of a group, and is asked again for all of it."""
    credits = await credits_with(store, PLENTY)
    send = store.ledger.send

    def twice(act: Act, then: Told) -> None:
        if isinstance(act, Hold | Extend) and act.run_id.startswith("adv_"):
            send(act, lambda _: None)
        send(act, then)

    store.ledger.send = twice  # type: ignore[method-assign]
    holds = [await ask(credits, number) for number in range(3 * module.WORKS)]
    (written,) = advances_of(await acts_of(store))
    assert written == [(HOLD, times * module.WORKS * MOST, "") for times in (1, 1, 2)]
    for hold in holds:
        await hold.settle(usage(10, 20), "completed")
    await check_sums(store)


WORK = st.tuples(st.integers(0, 40), st.integers(0, 60))
"""Tokens that are read, and the limit of those that are written."""
END = st.tuples(
    st.integers(0, 30),
    st.none() | st.builds(usage, st.integers(0, 50), st.integers(0, 80)),
    st.sampled_from(["completed", "completed", "failed", "cancelled", "disconnected", "refused"]),
)
"""Which work, of those that go on; what it consumed, and how it ended."""
PAUSE = st.just(())
"""So long that what is reserved ahead is given back."""


@given(
    balance=st.sampled_from([0, 500, 2_000, 10_000, 1_000_000]),
    steps=st.lists(WORK | WORK | END | PAUSE, max_size=80),
    when_short=st.sampled_from(["refuse", "lower"]),
)
async def test_it_is_as_if_nothing_were_reserved_ahead(balance: int, steps: list[Any], when_short: str) -> None:
    stores = MemoryStore(), MemoryStore()
    sides = [await credits_with(store, balance, when_short=when_short, max_output_tokens=20) for store in stores]
    going_on: list[list[Reservation]] = []
    for number, step in enumerate(steps):
        told: list[Any] = []
        holds = []
        if not step:
            if advance := sides[1]._advances.find(("default", "credits")):
                advance.close()
        elif len(step) == 3:
            place, consumed, rule = step
            if going_on:
                holds = going_on.pop(place % len(going_on))
                told = [await hold.settle(consumed, rule) for hold in holds]
        else:
            for side, brief in zip(sides, (False, True), strict=True):
                try:
                    hold = await ask(side, number, brief=brief, input_tokens=step[0], output_tokens=step[1])
                except InsufficientCredits as error:
                    told.append((str(error), error.metadata))
                else:
                    holds.append(hold)
                    told.append((hold.currency, hold.output_tokens, hold.lowered))
            if holds:
                going_on.append(holds)
        assert told[:1] == told[1:]
        plain, ahead = [(await side.balances(OPERATOR))[0] for side in sides]
        assert plain == ahead
    for holds in going_on:
        told = [await hold.settle(None, "shutdown") for hold in holds]
        assert told[0] == told[1]
    await sides[1]._advances.end(5)
    assert await stores[0].ledger.balances("default") == await stores[1].ledger.balances("default")
    plain_acts, acts = [await acts_of(store) for store in stores]
    assert charges_of(acts) == charges_of(plain_acts)
    for store in stores:
        await check_sums(store)
