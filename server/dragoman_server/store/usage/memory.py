"""What runs used, in memory: the newest runs, and all sums."""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import islice
from typing import TYPE_CHECKING, Any

from dragoman_server.store.usage.hours import sums_by_hour
from dragoman_server.store.usage.records import COUNTS, DIMENSIONS, UsageSum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman_server.store.identity.records import AccountStore
    from dragoman_server.store.usage.records import UsageHour, UsageQuery, UsageRecord

MOST_RECORDS = 100_000
"""Records that are kept; the oldest go first."""


def _position(record: UsageRecord) -> tuple[int, str]:
    return record.create_time, record.run_id


class MemoryUsage:
    """What runs used; see `UsageStore`.

    Args:
        accounts: The accounts.
    """

    def __init__(self, accounts: AccountStore) -> None:
        self._accounts = accounts
        self._runs: set[str] = set()
        self._records: list[UsageRecord] = []  # in the order of `_position`
        self._hours: dict[UsageHour, list[int]] = {}

    async def add(self, records: Sequence[UsageRecord]) -> int:
        """Does what `UsageStore.add` says."""
        named = {record.account_id for record in records}
        known = {account_id for account_id in named if await self._accounts.get(account_id) is not None}
        new = {r.run_id: r for r in records if r.account_id in known and r.run_id not in self._runs}
        added = list(new.values())
        for record in added:
            self._runs.add(record.run_id)
            insort(self._records, record, key=_position)
        for hour, counts in sums_by_hour(added).items():
            self._add_counts(hour, counts)
        self._drop(self._records[:-MOST_RECORDS])
        return len(added)

    async def page(self, query: UsageQuery, *, limit: int, before: tuple[int, str] | None = None) -> list[UsageRecord]:
        """Does what `UsageStore.page` says."""
        end = len(self._records) if before is None else bisect_left(self._records, before, key=_position)
        newest = (self._records[i] for i in range(end - 1, -1, -1))
        return list(islice((r for r in newest if _matches(query, r.create_time, r)), limit))

    async def sums(
        self, query: UsageQuery, *, interval: int | None, dimensions: Sequence[str], limit: int
    ) -> list[UsageSum]:
        """Does what `UsageStore.sums` says."""
        found: dict[tuple[Any, ...], list[int]] = {}
        for row, counts in self._hours.items():
            if _matches(query, row.hour, row):
                start = (query.start_time or 0) if interval is None else row.hour - row.hour % interval
                group = (start, *(getattr(row, name) for name in dimensions), row.currency)
                _add(found.setdefault(group, [0] * len(COUNTS)), counts)
        names = ("start_time", *dimensions, "currency", *COUNTS)
        nothing = dict.fromkeys(DIMENSIONS, "")
        rows = sorted((*group, *counts) for group, counts in found.items())[:limit]
        return [UsageSum(**nothing | dict(zip(names, row, strict=True))) for row in rows]

    async def purge(self, records_before: int | None, sums_before: int | None, *, limit: int) -> int:
        """Does what `UsageStore.purge` says."""
        old = (
            []
            if records_before is None
            else self._records[: bisect_left(self._records, (records_before, ""), key=_position)]
        )
        self._drop(old[:limit])
        hours = [] if sums_before is None else [hour for hour in self._hours if hour.hour < sums_before][:limit]
        for hour in hours:
            del self._hours[hour]
        return len(old[:limit]) + len(hours)

    def rows(self, account_id: str) -> dict[str, list[Any]]:
        """Returns the records of an account by the names of their tables."""
        hours = [
            hour._asdict() | dict(zip(COUNTS, counts, strict=True))
            for hour, counts in self._hours.items()
            if hour.account_id == account_id
        ]
        return {
            "usage_records": [record for record in self._records if record.account_id == account_id],
            "usage_hours": hours,
        }

    def erase(self, account_id: str, user_id: str | None) -> None:
        """Erases what an account used, or takes the name of one user out of it."""
        if user_id is None:
            self._runs -= {r.run_id for r in self._records if r.account_id == account_id}
            self._records = [r for r in self._records if r.account_id != account_id]
            self._hours = {hour: counts for hour, counts in self._hours.items() if hour.account_id != account_id}
            return
        theirs = account_id, user_id
        self._records = [r._replace(user_id="") if (r.account_id, r.user_id) == theirs else r for r in self._records]
        for hour in [hour for hour in self._hours if (hour.account_id, hour.user_id) == theirs]:
            self._add_counts(hour._replace(user_id=""), self._hours.pop(hour))

    def _add_counts(self, hour: UsageHour, counts: Sequence[int]) -> None:
        _add(self._hours.setdefault(hour, [0] * len(COUNTS)), counts)

    def _drop(self, oldest: Sequence[UsageRecord]) -> None:
        """Drops records, which are the first."""
        self._runs.difference_update(r.run_id for r in oldest)
        del self._records[: len(oldest)]


def _matches(query: UsageQuery, time: int, row: UsageRecord | UsageHour) -> bool:
    return (
        row.account_id == query.account_id
        and (query.start_time is None or time >= query.start_time)
        and (query.end_time is None or time < query.end_time)
        and all(getattr(query, name) in (None, getattr(row, name)) for name in DIMENSIONS)
    )


def _add(total: list[int], counts: Sequence[int]) -> None:
    total[:] = map(int.__add__, total, counts)
