"""Manages accounts in the database itself, whether a server runs or not. Whoever can open it is its operator."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from dragoman_cli.identity import all_pages, date_of, open_accounts
from dragoman_cli.output import note, say, table
from dragoman_server.accounts.keys import operator
from dragoman_server.paging import MAX_PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dragoman_server.store.identity.records import AccountRecord, AuditRecord

ENTRIES = 1_000
"""Most audit entries that are shown."""


def create(config: Path | None, flags: Mapping[str, object], *, name: str, account_id: str, plan: str) -> None:
    """Makes an account; prints its id.

    Raises:
        CommandError: If that is not possible.
    """

    async def work() -> AccountRecord:
        async with open_accounts(config, flags) as accounts:
            return await accounts.tenants.create(operator(), name, account_id, plan)

    say(asyncio.run(work()).id)


def list_all(config: Path | None, flags: Mapping[str, object]) -> None:
    """Prints a table of all accounts, oldest first.

    Raises:
        CommandError: If the database cannot be read.
    """

    async def work() -> list[AccountRecord]:
        async with open_accounts(config, flags) as accounts:
            return await all_pages(lambda token: accounts.tenants.page(operator(), MAX_PAGE_SIZE, token))

    rows = [
        (
            account.id,
            "disabled" if account.disabled else "enabled",
            account.plan,
            date_of(account.create_time),
            account.name,
        )
        for account in asyncio.run(work())
    ]
    table(("ID", "STATE", "PLAN", "CREATED", "NAME"), rows)


def update(
    config: Path | None,
    flags: Mapping[str, object],
    account_id: str,
    *,
    name: str | None,
    plan: str | None,
    disabled: bool | None,
) -> None:
    """Changes an account.

    Raises:
        CommandError: If there is no such account.
    """

    async def work() -> None:
        async with open_accounts(config, flags) as accounts:
            await accounts.tenants.update(operator(""), account_id, name=name, plan=plan, disabled=disabled)

    asyncio.run(work())
    say(f"Changed {account_id}.")


def delete(config: Path | None, flags: Mapping[str, object], account_id: str) -> None:
    """Erases an account and every row of it.

    Raises:
        CommandError: If there is no such account.
    """

    async def work() -> None:
        async with open_accounts(config, flags) as accounts:
            await accounts.tenants.delete(operator(), account_id)

    asyncio.run(work())
    say(f"Erased {account_id}.")


def export(config: Path | None, flags: Mapping[str, object], account_id: str) -> None:
    """Writes everything that is stored of an account on standard output, as lines of JSON.

    Raises:
        CommandError: If there is no such account.
    """

    async def work() -> int:
        size = 0
        async with open_accounts(config, flags) as accounts:
            async for piece in accounts.exports.account(operator(), account_id):
                sys.stdout.buffer.write(piece)
                size += len(piece)
        sys.stdout.flush()
        return size

    note(f"Wrote {asyncio.run(work())} bytes.")


def audit(config: Path | None, flags: Mapping[str, object], account_id: str) -> None:
    """Prints the newest entries of the audit log of an account, newest first.

    Raises:
        CommandError: If the database cannot be read.
    """

    async def work() -> list[AuditRecord]:
        async with open_accounts(config, flags) as accounts:
            entries, _ = await accounts.tenants.audit_entries(operator(), ENTRIES, account_id=account_id)
            return entries

    rows = [(date_of(e.create_time), e.actor, e.action, e.target, e.details) for e in asyncio.run(work())]
    table(("DATE", "ACTOR", "ACTION", "TARGET", "DETAILS"), rows)
