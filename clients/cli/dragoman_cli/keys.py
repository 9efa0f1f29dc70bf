"""Manages API keys in the database itself, whether a server runs or not. Whoever can open it is its operator."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from dragoman_cli.identity import all_pages, date_of, open_accounts, role_name, role_of
from dragoman_cli.output import CommandError, note, say, table
from dragoman_server.accounts.keys import operator
from dragoman_server.paging import MAX_PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dragoman.v1.account_service_pb2 import KeyGrants
    from dragoman_server.store.identity.records import KeyRecord

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def create(
    config: Path | None,
    flags: Mapping[str, object],
    *,
    name: str,
    role: str,
    expires: str | None,
    account: str,
    user: str,
    grants: KeyGrants | None,
) -> None:
    """Makes a key; prints its secret on standard output and all else on standard error.

    Raises:
        CommandError: If that is not possible.
    """
    expire_time = None if expires is None else int(expiry(expires, datetime.now(UTC)).timestamp() * 1_000_000)
    role_value = role_of(role)

    async def work() -> None:
        async with open_accounts(config, flags) as accounts:
            key, secret = await accounts.keys.create(
                operator(account), name, role_value, expire_time, grants, user_id=user
            )
            note(f"Made {key.id} ({key.name}, {role_name(key.role)}). The secret is shown only now:")
            say(secret)

    asyncio.run(work())


def list_all(config: Path | None, flags: Mapping[str, object], account: str) -> None:
    """Prints a table of the keys of an account, oldest first.

    Raises:
        CommandError: If the database cannot be read.
    """

    async def work() -> list[KeyRecord]:
        async with open_accounts(config, flags) as accounts:
            return await all_pages(lambda token: accounts.keys.page(operator(account), MAX_PAGE_SIZE, token))

    rows = [(k.id, k.prefix, role_name(k.role), _state(k), date_of(k.create_time), k.name) for k in asyncio.run(work())]
    table(("ID", "PREFIX", "ROLE", "STATE", "CREATED", "NAME"), rows)


def update(
    config: Path | None,
    flags: Mapping[str, object],
    key_id: str,
    *,
    account: str,
    name: str | None,
    disabled: bool | None,
    expires: str | None,
) -> None:
    """Changes a key.

    Raises:
        CommandError: If there is no such key.
    """
    expire_time = None if expires is None else int(expiry(expires, datetime.now(UTC)).timestamp() * 1_000_000)

    async def work() -> None:
        async with open_accounts(config, flags) as accounts:
            await accounts.keys.update(operator(account), key_id, name=name, disabled=disabled, expire_time=expire_time)

    asyncio.run(work())
    say(f"Changed {key_id}.")


def revoke(config: Path | None, flags: Mapping[str, object], key_id: str, account: str) -> None:
    """Revokes a key.

    Raises:
        CommandError: If there is no such key.
    """

    async def work() -> None:
        async with open_accounts(config, flags) as accounts:
            key = await accounts.keys.revoke(operator(account), key_id)
            say(f"Revoked {key.id} ({key.name}).")

    asyncio.run(work())


def expiry(text: str, now: datetime) -> datetime:
    """Returns the moment that `30d`, `12h`, `2030-01-31` or `2030-01-31T12:00:00+00:00` means; UTC if it does not say.

    Raises:
        CommandError: If it means nothing.
    """
    try:
        if match := re.fullmatch(r"(\d{1,6})([smhdw])", text):
            return now + timedelta(**{_UNITS[match[2]]: int(match[1])})
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise CommandError(f"--expires {text}: write 12h, 30d or a date such as {date(now.year + 1, 1, 31)}") from None


def _state(key: KeyRecord) -> str:
    if key.revoke_time is not None:
        return "revoked"
    if key.disabled:
        return "disabled"
    if key.expire_time is None:
        return "valid"
    word = "expired" if key.expire_time <= time.time() * 1_000_000 else "until"
    return f"{word} {date_of(key.expire_time)}"
