"""What all acts of administrators have in common: the time, and the entry that tells of them."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from dragoman_server import paging
from dragoman_server.accounts.authority import LIMITS, NO_BOUND
from dragoman_server.audit import audit_entry
from dragoman_server.clock import system_clock
from dragoman_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dragoman.v1.account_service_pb2 import RateLimits
    from dragoman_server.caller import Caller
    from dragoman_server.clock import Clock
    from dragoman_server.store.identity.records import (
        AccountRecord,
        AccountStore,
        AuditRecord,
        KeyRecord,
        Position,
        UserRecord,
    )

    Welcome = Callable[[str], Awaitable[None]]
    """Is told the id of a new account. It may be told twice, of accounts whose maker died."""

MAX_NAME_CHARS = 128


async def nothing(_account_id: str) -> None:
    """Does nothing for a new account."""


async def welcome_new(store: AccountStore, welcome: Welcome, account: AccountRecord) -> None:
    """Tells of an account if it is new, and notes that: whoever made it may have died before.

    Raises:
        Unavailable: If the store does not answer; the next one who sees the account tells of it.
    """
    if account.welcome_due:
        await welcome(account.id)
        await store.welcomed(account.id)


class Acts:
    """Says when an act was, and who did it."""

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock

    def now(self) -> int:
        """Returns microseconds since the epoch."""
        return int(self._clock() * 1_000_000)

    def entry(self, caller: Caller, account_id: str, action: str, target: str, **details: object) -> AuditRecord:
        """Returns the entry that tells of an act. Details must hold no secret."""
        return audit_entry(caller, account_id, self.now(), action, target, **details)


def checked_name(name: str) -> str:
    """Returns a name of 1 to 128 characters.

    Raises:
        InvalidRequest: If it is none.
    """
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.strip():
        raise InvalidRequest(f"name must have 1 to {MAX_NAME_CHARS} characters", field="name")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InvalidRequest("name must not have control characters", field="name")
    return name


def checked_limits(limits: RateLimits, field: str) -> RateLimits:
    """Returns limits, each -1 (no bound), 0 (the server's) or more.

    Raises:
        InvalidRequest: If one is less.
    """
    for name in LIMITS:
        if getattr(limits, name) < NO_BOUND:
            raise InvalidRequest(f"{field}.{name} must be -1 or more", field=f"{field}.{name}")
    return limits


def position(scope: str, page_token: str) -> Position | None:
    """Returns behind what a page of a list by time and id begins, None for the first page.

    Raises:
        InvalidRequest: If the token is not of this list.
    """
    match paging.decode_token(scope, page_token, int, str):
        case (int(create_time), str(row_id)):
            return create_time, row_id
    return None


def token_of(scope: str, rows: Sequence[AccountRecord | KeyRecord | UserRecord], size: int) -> str:
    """Returns the token of the page behind the first `size` rows; empty if there are no more rows than these."""
    return paging.encode_token(scope, rows[size - 1].create_time, rows[size - 1].id) if len(rows) > size else ""
