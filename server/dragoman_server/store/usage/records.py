"""What is kept of the usage of runs, and what is asked of it.

Times are microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

HOUR = 3_600_000_000
"""An hour."""

DIMENSIONS = ("user_id", "key_id", "model", "provider", "operation")
"""By what usage is filtered and summed up, beside the account and the time."""

COUNTS = ("runs", "failed_runs", "input_tokens", "cached_tokens", "output_tokens", "charged_micros", "duration_ms")
"""What is summed up."""


class UsageRecord(NamedTuple):  # a plain tuple: one is made for every run
    """What one run used.

    Attributes:
        run_id: The run.
        account_id: The account.
        user_id: The user; empty for none.
        key_id: The key; empty for none.
        create_time: When it was accepted.
        operation: What it did.
        model: The model that was asked for.
        provider: The provider that served it.
        state: How it ended, as `dragoman.v1.Run.State`.
        failure_reason: Why it failed; empty if it did not.
        input_tokens: Tokens read.
        cached_tokens: Of those, read from a provider's cache.
        output_tokens: Tokens written.
        reasoning_tokens: Of those, spent on thinking.
        estimated: Whether the counts are an estimate.
        currency: What it was charged in; empty if nothing was.
        charged_micros: What was charged.
        duration_ms: Milliseconds to its end.
        first_content_ms: Milliseconds to its first content; 0 if it had none.
    """

    run_id: str
    account_id: str
    user_id: str
    key_id: str
    create_time: int
    operation: str
    model: str
    provider: str
    state: int
    failure_reason: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool
    currency: str
    charged_micros: int
    duration_ms: int
    first_content_ms: int


class UsageHour(NamedTuple):
    """What the sums of an hour are kept by: the runs that have all this in common.

    Attributes:
        account_id: The account.
        hour: When the hour begins in which they were accepted.
        user_id: The user.
        key_id: The key.
        model: The model.
        provider: The provider.
        operation: The operation.
        currency: What was charged in.
    """

    account_id: str
    hour: int
    user_id: str
    key_id: str
    model: str
    provider: str
    operation: str
    currency: str


class UsageSum(NamedTuple):
    """What the runs of one interval used; what they are not summed up by is empty.

    Attributes:
        start_time: When the interval begins.
        user_id: The user.
        key_id: The key.
        model: The model.
        provider: The provider.
        operation: The operation.
        currency: What was charged in; runs of several currencies have a sum for each.
        runs: How many runs there were.
        failed_runs: How many of them failed.
        input_tokens: Tokens read.
        cached_tokens: Of those, read from a provider's cache.
        output_tokens: Tokens written.
        charged_micros: What was charged.
        duration_ms: Milliseconds that they took together.
    """

    start_time: int
    user_id: str
    key_id: str
    model: str
    provider: str
    operation: str
    currency: str
    runs: int
    failed_runs: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    charged_micros: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which runs are meant; None filters nothing.

    Attributes:
        account_id: The account.
        start_time: From when on; inclusive.
        end_time: Until when; exclusive.
        user_id: The user; empty means those of no user. So with the others.
        key_id: The key.
        model: The model.
        provider: The provider.
        operation: The operation.
    """

    account_id: str
    start_time: int | None = None
    end_time: int | None = None
    user_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    provider: str | None = None
    operation: str | None = None


class UsageStore(Protocol):
    """What runs used. All methods raise `Unavailable` if the database does not answer."""

    async def add(self, records: Sequence[UsageRecord]) -> int:
        """Keeps the records of runs, and adds them to the sums of their hours; all or nothing.

        A run that there is a record of already, and one of an account that does not exist any more, is left out.

        Returns:
            How many were kept.
        """

    async def page(self, query: UsageQuery, *, limit: int, before: tuple[int, str] | None = None) -> list[UsageRecord]:
        """Returns the newest records by (create_time, run_id), beginning before `before`."""

    async def sums(
        self, query: UsageQuery, *, interval: int | None, dimensions: Sequence[str], limit: int
    ) -> list[UsageSum]:
        """Returns the sums of the hours that begin in the time asked for, by their fields from the left.

        Args:
            query: Which runs.
            interval: Length of the intervals, whole hours, counted from the epoch; None makes one of all the time,
                which begins at the query's.
            dimensions: By what, out of `DIMENSIONS`.
            limit: Most sums to return.
        """

    async def purge(self, records_before: int | None, sums_before: int | None, *, limit: int) -> int:
        """Deletes what is older, of all accounts: at most `limit` records and as many sums; returns how many."""
