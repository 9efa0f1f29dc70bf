"""What the commands about accounts, users and keys share: the accounts of the configured database."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_cli.output import CommandError
from dragoman_cli.stores import configured_store
from dragoman_server.accounts.service import Accounts
from dragoman_server.credits.service import Credits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

Row = TypeVar("Row")

_ROLES = {
    "member": KeyRole.KEY_ROLE_MEMBER,
    "admin": KeyRole.KEY_ROLE_ADMIN,
    "operator": KeyRole.KEY_ROLE_OPERATOR,
}


@asynccontextmanager
async def open_accounts(config: Path | None, flags: Mapping[str, object]) -> AsyncIterator[Accounts]:
    """Lends the accounts of the configured database.

    Raises:
        CommandError: If it cannot be used, or what is done with it fails.
    """
    async with configured_store(config, flags) as (store, settings):
        credits = Credits(store.ledger, settings.credits, settings.plans)
        yield Accounts(store, plans=(plan.name for plan in settings.plans), welcome=credits.welcome)


async def all_pages(page: Callable[[str], Awaitable[tuple[list[Row], str]]]) -> list[Row]:
    """Returns what a listing holds, page after page; `page` takes the token of one."""
    found, token = await page("")
    while token:
        rows, token = await page(token)
        found += rows
    return found


def role_of(text: str) -> KeyRole:
    """Returns the role that a word means.

    Raises:
        CommandError: If it means none.
    """
    if text not in _ROLES:
        raise CommandError(f"there is no role {text!r}; there are: {', '.join(_ROLES)}")
    return _ROLES[text]


def role_name(role: KeyRole) -> str:
    """Returns the word for a role."""
    return KeyRole.Name(role).removeprefix("KEY_ROLE_").lower()


def date_of(microseconds: int) -> str:
    """Returns the day of a moment, UTC."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).strftime("%Y-%m-%d")
