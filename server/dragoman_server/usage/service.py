"""What runs used: the log that takes note of it, and what can be asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server import paging
from dragoman_server.authority import seen_account
from dragoman_server.clock import system_clock
from dragoman_server.errors import Forbidden, InvalidRequest, NotFound
from dragoman_server.store.usage.records import HOUR, UsageQuery
from dragoman_server.usage.log import Tokens, UsageLog, tokens_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman_server.caller import Caller
    from dragoman_server.clock import Clock
    from dragoman_server.store.usage.records import UsageRecord, UsageStore, UsageSum

__all__ = ["Tokens", "Usage", "UsageFilter", "UsageLog", "tokens_of"]

MAX_SUMS = 10_000
"""Most sums of one answer."""

DAY = 24 * HOUR
DEFAULT_DAYS = 30
"""How far back sums go if nobody says."""


class UsageFilter(NamedTuple):
    """Which runs are asked for; what is empty or None filters nothing.

    Attributes:
        account_id: The account; empty means the caller's own.
        start_time: From when on, in microseconds since the epoch; inclusive.
        end_time: Until when; exclusive.
        user_id: The user.
        key_id: The key.
        model: The model.
        provider: The provider.
        operation: The operation.
    """

    account_id: str = ""
    start_time: int | None = None
    end_time: int | None = None
    user_id: str = ""
    key_id: str = ""
    model: str = ""
    provider: str = ""
    operation: str = ""


class Usage:
    """Tells what runs used.

    OPERATOR sees every account, ADMIN all of its own, MEMBER what its user did, or what was done with its key if that
    is nobody's.

    Args:
        store: Where it is kept.
        clock: The time.
    """

    def __init__(self, store: UsageStore, clock: Clock = system_clock) -> None:
        self._store = store
        self._clock = clock

    async def records(
        self, caller: Caller, which: UsageFilter, page_size: int = 0, page_token: str = ""
    ) -> tuple[list[UsageRecord], str]:
        """Returns the next records, newest first, and the token of the page after; empty on the last.

        Raises:
            NotFound: If the account is not the caller's.
            Forbidden: If the caller is nobody whose runs could be told apart.
            InvalidRequest: If the size is negative, or the token is not of this account.
        """
        query = _query(caller, which)
        size = paging.page_size(page_size)
        scope = f"usage:{query.account_id}"
        before = _position(paging.decode_token(scope, page_token, int, str))
        records = await self._store.page(query, limit=size + 1, before=before)
        if len(records) <= size:
            return records, ""
        last = records[size - 1]
        return records[:size], paging.encode_token(scope, last.create_time, last.run_id)

    async def summarize(
        self, caller: Caller, which: UsageFilter, *, interval: int | None, dimensions: Sequence[str] = ()
    ) -> list[UsageSum]:
        """Returns sums, by time, then by the dimensions as they were asked for, then by currency.

        Args:
            caller: Who asks.
            which: Which runs; times are rounded down to whole hours, and go 30 days back if they are not given.
            interval: Length of the intervals in microseconds, whole hours, counted from the epoch; None makes one of
                all the time.
            dimensions: By what; see `DIMENSIONS`.

        Raises:
            NotFound: If the account is not the caller's.
            Forbidden: If the caller is nobody whose runs could be told apart.
            InvalidRequest: If there would be more than 10,000 sums.
        """
        start = which.start_time
        if start is None:
            end = int(self._clock() * 1_000_000) if which.end_time is None else which.end_time
            start = max(end - DEFAULT_DAYS * DAY, 0)
        end_time = None if which.end_time is None else which.end_time - which.end_time % HOUR
        query = _query(caller, which._replace(start_time=start - start % HOUR, end_time=end_time))
        sums = await self._store.sums(query, interval=interval, dimensions=dimensions, limit=MAX_SUMS + 1)
        if len(sums) > MAX_SUMS:
            raise InvalidRequest(
                f"these are more than {MAX_SUMS} sums; ask for less time, longer intervals or fewer dimensions",
                field="interval",
            )
        return sums


def _query(caller: Caller, which: UsageFilter) -> UsageQuery:
    """Returns the query, which can reach nothing that the caller must not see."""
    account_id = seen_account(caller, which.account_id, "filter.account_id")
    user_id, key_id = which.user_id or None, which.key_id or None
    if caller.role not in (KeyRole.KEY_ROLE_ADMIN, KeyRole.KEY_ROLE_OPERATOR):
        user_id, key_id = _own(caller, user_id, key_id)
    return UsageQuery(
        account_id,
        which.start_time,
        which.end_time,
        user_id,
        key_id,
        which.model or None,
        which.provider or None,
        which.operation or None,
    )


def _own(caller: Caller, user_id: str | None, key_id: str | None) -> tuple[str, str | None]:
    """Returns the user and the key that a member's query is held to."""
    if not caller.user_id and not caller.key_id:
        raise Forbidden("what others used is told to administrators only")
    if caller.user_id:
        if user_id not in (None, caller.user_id):
            raise NotFound(f"user {user_id[:64]!r} does not exist", field="filter.user_id")
        return caller.user_id, key_id
    if user_id is not None:
        raise NotFound(f"user {user_id[:64]!r} does not exist", field="filter.user_id")
    if key_id not in (None, caller.key_id):
        raise NotFound(f"key {key_id[:64]!r} does not exist", field="filter.key_id")
    return "", caller.key_id


def _position(decoded: paging.Position) -> tuple[int, str] | None:
    match decoded:
        case (int(create_time), str(run_id)):
            return create_time, run_id
    return None
