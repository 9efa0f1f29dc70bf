"""Shows and changes balances, in the database itself. Whoever can open it is its operator."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dragoman.v1.credit_service_pb2 import LedgerEntry
from dragoman_cli.output import CommandError, note, say, table
from dragoman_cli.stores import configured_store
from dragoman_server.accounts.keys import operator
from dragoman_server.credits.service import Credits, amount_text
from dragoman_server.paging import MAX_PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from dragoman_server.store.ledger.records import Entry

_AMOUNT = re.compile(r"([+-]?)(\d{1,12})(?:\.(\d{1,6}))?", re.ASCII)


def balance(config: Path | None, flags: Mapping[str, object], account: str) -> None:
    """Prints a table of the balances of an account.

    Raises:
        CommandError: If the database cannot be read.
    """

    async def work() -> None:
        async with _credits(config, flags, account) as credits:
            balances, plan, renewal = await credits.balances(operator(account))
        rows = [(b.currency, amount_text(b.available_micros), amount_text(b.held_micros)) for b in balances]
        table(("CURRENCY", "AVAILABLE", "RESERVED"), rows)
        if plan and renewal is not None:
            note(f"Plan {plan}; the next month begins {renewal:%Y-%m-%d %H:%M} UTC.")

    asyncio.run(work())


def grant(
    config: Path | None, flags: Mapping[str, object], account: str, amount: str, currency: str, text: str, request: str
) -> None:
    """Adds to a balance.

    Raises:
        CommandError: If that is not possible.
    """
    micros = micros_of(amount)

    async def work() -> None:
        async with _credits(config, flags, account) as credits:
            entry, after = await credits.grant(
                operator(), account, micros, currency=currency, note=text, request_id=request
            )
            say(f"Granted {amount_text(entry.amount_micros)} {entry.currency} to {account} ({entry.id}).")
            note(f"Available now: {amount_text(after.available_micros)} {after.currency}.")

    asyncio.run(work())


def adjust(
    config: Path | None, flags: Mapping[str, object], account: str, amount: str, currency: str, text: str, request: str
) -> None:
    """Corrects a balance.

    Raises:
        CommandError: If that is not possible.
    """
    micros = micros_of(amount)

    async def work() -> None:
        async with _credits(config, flags, account) as credits:
            entry, after = await credits.adjust(
                operator(), account, micros, currency=currency, note=text, request_id=request
            )
            say(f"Corrected {entry.currency} of {account} by {amount_text(entry.amount_micros)} ({entry.id}).")
            note(f"Available now: {amount_text(after.available_micros)} {after.currency}.")

    asyncio.run(work())


def ledger(
    config: Path | None, flags: Mapping[str, object], account: str, currency: str, run_id: str, count: int
) -> None:
    """Prints a table of the newest entries of an account.

    Raises:
        CommandError: If the database cannot be read.
    """

    async def work() -> list[Entry]:
        found: list[Entry] = []
        token = ""
        async with _credits(config, flags, account) as credits:
            while len(found) < count:
                size = min(count - len(found), MAX_PAGE_SIZE)
                page, token = await credits.entries(operator(account), size, token, currency=currency, run_id=run_id)
                found += page
                if not token:
                    break
        return found

    rows = [
        (
            entry.id,
            f"{datetime.fromtimestamp(entry.create_time / 1_000_000, UTC):%Y-%m-%d %H:%M:%S}",
            LedgerEntry.Kind.Name(LedgerEntry.Kind.ValueType(entry.kind)).removeprefix("KIND_").lower(),
            amount_text(entry.amount_micros),
            entry.currency,
            entry.run_id,
            entry.note,
        )
        for entry in asyncio.run(work())
    ]
    table(("ID", "TIME", "KIND", "AMOUNT", "CURRENCY", "RUN", "NOTE"), rows)


def micros_of(text: str) -> int:
    """Returns the millionths that `12`, `0.5` or `-3.25` are.

    Raises:
        CommandError: If it is no amount, or one with more than six decimals.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise CommandError(f"{text}: write an amount such as 100 or 0.25, with at most six decimals")
    sign, whole, rest = match.groups("")
    micros = int(whole) * 1_000_000 + int(rest.ljust(6, "0") or 0)
    return -micros if sign == "-" else micros


@asynccontextmanager
async def _credits(config: Path | None, flags: Mapping[str, object], account: str) -> AsyncIterator[Credits]:
    async with configured_store(config, flags, account) as (store, settings):
        yield Credits(store.ledger, settings.credits, settings.plans)
