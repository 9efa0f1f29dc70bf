from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.credits.plans import month_of
from dragoman_server.credits.service import Credits
from dragoman_server.settings import CreditSettings, PlanSettings
from dragoman_server.store.ledger.memory import MemoryLedger
from dragoman_server.store.ledger.records import Subscription
from dragoman_server.store.memory import MemoryStore
from tests.support.credits import Clock, a_caller, available

TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


def micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("start", "now", "begin", "end"),
    [
        ("2026-01-31T10:00", "2026-01-31T10:00", "2026-01-31T10:00", "2026-02-28T10:00"),
        ("2026-01-31T10:00", "2026-02-28T09:59", "2026-01-31T10:00", "2026-02-28T10:00"),
        ("2026-01-31T10:00", "2026-02-28T10:00", "2026-02-28T10:00", "2026-03-31T10:00"),
        ("2024-01-31T10:00", "2024-02-29T12:00", "2024-02-29T10:00", "2024-03-31T10:00"),
        ("2026-12-05T00:00", "2027-01-04T00:00", "2026-12-05T00:00", "2027-01-05T00:00"),
        ("2026-05-05T00:00", "2026-04-01T00:00", "2026-05-05T00:00", "2026-06-05T00:00"),
    ],
)
def test_months_begin_on_the_day_of_the_start(start: str, now: str, begin: str, end: str) -> None:
    def at(text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)

    assert month_of(micros(at(start)), at(now).timestamp()) == (at(begin), at(end))


@given(TIMES, st.timedeltas(timedelta(0), timedelta(days=10_000)))
def test_every_moment_is_in_one_month(start: datetime, passed: timedelta) -> None:
    now = start + passed
    begin, end = month_of(micros(start), now.timestamp())
    assert begin <= now + timedelta(milliseconds=1)
    assert now - timedelta(milliseconds=1) < end
    assert timedelta(days=28) <= end - begin <= timedelta(days=31)
    assert month_of(micros(start), end.timestamp() + 0.001)[0] == end


def a_store(clock: Clock, plan: str = "pro") -> MemoryStore:
    store = MemoryStore()
    subscription = Subscription("default", plan, int(clock.now * 1_000_000))
    store.ledger = LedgerWithPlan(store, subscription)
    return store


class LedgerWithPlan(MemoryLedger):
    """A ledger whose only account has a plan."""

    def __init__(self, store: MemoryStore, subscription: Subscription) -> None:
        super().__init__(store.identity)
        self.the_subscription = subscription

    async def subscription(self, account_id: str) -> Subscription | None:
        return self.the_subscription if account_id == "default" else None

    async def subscriptions(self, *, limit: int, after_id: str = "") -> list[Subscription]:
        return [] if after_id else [self.the_subscription]


PLANS = (PlanSettings(name="pro", monthly_micros=1000, rollover_micros=100), PlanSettings(name="empty"))


async def test_a_month_is_granted_when_it_is_first_needed_and_once() -> None:
    clock = Clock()
    store = a_store(clock)
    credits = [Credits(store.ledger, CreditSettings(enabled=True), PLANS, clock) for _ in range(2)]
    caller = a_caller(plan="pro")
    for one in credits * 2:  # two processes, twice
        balances, plan, renewal = await one.balances(caller)
        assert [balance.available_micros for balance in balances] == [1000]
        assert (plan, renewal) == ("pro", month_of(int(clock.now * 1e6), clock.now)[1])
    clock.now += 31 * 86400
    assert [(await one.balances(caller))[0][0].available_micros for one in credits] == [1100, 1100]


async def test_a_sweep_begins_the_months_of_everyone() -> None:
    clock = Clock()
    store = a_store(clock)
    credits = Credits(store.ledger, CreditSettings(enabled=True), PLANS, clock)
    await credits._months.renew_all()
    await credits._months.renew_all()
    assert await available(store) == 1000
    clock.now += 31 * 86400
    await credits._months.renew_all()
    assert await available(store) == 1100


@pytest.mark.parametrize("plan", ["empty", "gone-from-the-settings"])
async def test_a_plan_without_a_quota_brings_nothing(plan: str) -> None:
    clock = Clock()
    store = a_store(clock, plan)
    credits = Credits(store.ledger, CreditSettings(enabled=True), PLANS, clock)
    assert (await credits.balances(a_caller(plan=plan)))[:2] == ([], plan)


async def test_a_plan_that_was_changed_counts_from_its_own_start() -> None:
    clock = Clock()
    store = a_store(clock, "pro")
    credits = Credits(
        store.ledger, CreditSettings(enabled=True), (*PLANS, PlanSettings(name="max", monthly_micros=5000)), clock
    )
    await credits.balances(a_caller(plan="pro"))
    clock.now += 86400
    assert isinstance(store.ledger, LedgerWithPlan)
    store.ledger.the_subscription = Subscription("default", "max", int(clock.now * 1_000_000))
    await credits.balances(a_caller(plan="max"))
    assert await available(store) == 5000  # nothing of the old quota rolls over into a plan without rollover
