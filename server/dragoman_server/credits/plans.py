"""Monthly plans: when a month begins, and what it brings."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dragoman_server.ids import new_id
from dragoman_server.store.ledger.records import Renew

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman_server.clock import Clock
    from dragoman_server.credits.advance import Advances
    from dragoman_server.settings import PlanSettings
    from dragoman_server.store.ledger.records import LedgerStore, Subscription

PAGE = 500
"""Accounts that a sweep takes at a time."""
MOST_REMEMBERED = 100_000
"""Accounts whose next month is remembered."""
LOOK_AGAIN = 60
"""Seconds after which an account is looked up again whose plan brings nothing."""


class Plans:
    """The plans of accounts.

    A month of an account begins with the first request in it, or with a sweep. Months in which nothing of that happened
    bring nothing. What each brings is written once, whoever sees to it.

    Args:
        ledger: Where it is written.
        plans: The plans as configured.
        currency: The currency of plans that name none.
        clock: The time.
        advances: What is reserved ahead: it lapses like all that no work holds.
    """

    def __init__(
        self, ledger: LedgerStore, plans: Iterable[PlanSettings], currency: str, clock: Clock, advances: Advances
    ) -> None:
        self._ledger = ledger
        self._plans = {plan.name: plan for plan in plans}
        self._currency = currency
        self._clock = clock
        self._advances = advances
        self._next: dict[str, tuple[str, float]] = {}  # account: its plan, and until when there is nothing to do

    async def renew(self, account_id: str, plan: str) -> None:
        """Begins the present month of an account's plan, unless that was done.

        Args:
            account_id: The account.
            plan: Its plan as far as the caller knows; empty for none.

        Raises:
            Unavailable: If the database does not answer.
        """
        if not plan or not self.is_due(account_id, plan):
            return
        subscription = await self._ledger.subscription(account_id)
        if subscription is None or subscription.plan != plan:  # changed just now: the caller is told within seconds
            self._remember(account_id, plan, self._clock() + LOOK_AGAIN)
        else:
            await self._begin_month(subscription)

    def is_due(self, account_id: str, plan: str) -> bool:
        """Tells whether `renew` has anything to do."""
        known = self._next.get(account_id)
        return known is None or known[0] != plan or self._clock() >= known[1]

    async def renew_all(self) -> None:
        """Begins the present month of everyone whose month has not begun."""
        last = ""
        while page := await self._ledger.subscriptions(limit=PAGE, after_id=last):
            for subscription in page:
                if self.is_due(subscription.account_id, subscription.plan):
                    await self._begin_month(subscription)
            last = page[-1].account_id

    def next_month(self, subscription: Subscription) -> datetime:
        """Returns when the next month of an account begins."""
        return month_of(subscription.start_time, self._clock())[1]

    async def _begin_month(self, subscription: Subscription) -> None:
        account_id, plan, start_time = subscription
        settings = self._plans.get(plan)
        if settings is None or not settings.monthly_micros:
            self._remember(account_id, plan, self._clock() + LOOK_AGAIN)
            return
        begin, end = month_of(start_time, self._clock())
        act = Renew(
            account_id,
            settings.currency or self._currency,
            settings.monthly_micros,
            settings.rollover_micros,
            f"plan:{plan}:{begin:%Y-%m-%d}",
            f"plan {plan}, month from {begin:%Y-%m-%d}",
            new_id("txn"),
            new_id("txn"),
            int(self._clock() * 1_000_000),
        )
        if (advance := self._advances.find(act[:2])) is not None:
            advance.close()
        await self._ledger.submit(act)
        self._remember(account_id, plan, end.timestamp())

    def _remember(self, account_id: str, plan: str, until: float) -> None:
        if len(self._next) >= MOST_REMEMBERED:
            self._next.clear()
        self._next[account_id] = plan, until


def month_of(start_time: int, now: float) -> tuple[datetime, datetime]:
    """Returns the beginning and the end of the month that it is, in UTC.

    Months are counted from a start: they begin at its time of day on its day of the month, or on the last day of months
    that have no such day.

    Args:
        start_time: The start, in microseconds since the epoch.
        now: The time, in seconds since the epoch; taken as the start if it is before that.
    """
    start = datetime.fromtimestamp(start_time / 1_000_000, UTC)
    moment = max(start, datetime.fromtimestamp(now, UTC))
    count = (moment.year - start.year) * 12 + moment.month - start.month
    if _months_after(start, count) > moment:
        count -= 1
    return _months_after(start, count), _months_after(start, count + 1)


def _months_after(start: datetime, count: int) -> datetime:
    years, month = divmod(start.month - 1 + count, 12)
    year = start.year + years
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return start.replace(year=year, month=month + 1, day=day)
