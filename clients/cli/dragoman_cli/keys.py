"""Manages API keys in the database itself, whether a server runs or not. Whoever can open it is its operator."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_cli.output import CommandError, note, say, table
from dragoman_cli.settings import load_settings
from dragoman_server.accounts.service import Accounts, operator
from dragoman_server.app import store_url
from dragoman_server.errors import DragomanError
from dragoman_server.paging import MAX_PAGE_SIZE
from dragoman_server.store.database import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from dragoman_server.store.base import KeyRecord

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def create(config: Path | None, flags: Mapping[str, object], *, name: str, admin: bool, expires: str | None) -> None:
    """Makes a key; prints its secret on standard output and all else on standard error.

    Raises:
        CommandError: If that is not possible.
    """
    expire_time = None if expires is None else int(expiry(expires, datetime.now(UTC)).timestamp() * 1_000_000)
    role = KeyRole.KEY_ROLE_ADMIN if admin else KeyRole.KEY_ROLE_MEMBER

    async def work() -> None:
        async with _accounts(config, flags) as accounts:
            key, secret = await accounts.create_key(operator(), name, role, expire_time)
            note(f"Made {key.id} ({key.name}, {_role(key)}). The secret is shown only now:")
            say(secret)

    asyncio.run(work())


def list_all(config: Path | None, flags: Mapping[str, object]) -> None:
    """Prints a table of all keys, oldest first.

    Raises:
        CommandError: If the database cannot be read.
    """

    async def work() -> list[KeyRecord]:
        async with _accounts(config, flags) as accounts:
            found, token = await accounts.list_keys(operator(), MAX_PAGE_SIZE)
            while token:
                page, token = await accounts.list_keys(operator(), MAX_PAGE_SIZE, token)
                found += page
        return found

    rows = [(k.id, k.prefix, _role(k), _state(k), _date(k.create_time), k.name) for k in asyncio.run(work())]
    table(("ID", "PREFIX", "ROLE", "STATE", "CREATED", "NAME"), rows)


def revoke(config: Path | None, flags: Mapping[str, object], key_id: str) -> None:
    """Revokes a key.

    Raises:
        CommandError: If there is no such key.
    """

    async def work() -> None:
        async with _accounts(config, flags) as accounts:
            key = await accounts.revoke_key(operator(), key_id)
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


@asynccontextmanager
async def _accounts(config: Path | None, flags: Mapping[str, object]) -> AsyncIterator[Accounts]:
    try:
        store = open_store(store_url(load_settings(config, flags)))
        try:
            await store.migrate()
            yield Accounts(store.keys)
        finally:
            await store.close()
    except DragomanError as error:
        raise CommandError(error.message) from error


def _role(key: KeyRecord) -> str:
    return KeyRole.Name(key.role).removeprefix("KEY_ROLE_").lower()


def _state(key: KeyRecord) -> str:
    if key.revoke_time is not None:
        return "revoked"
    if key.expire_time is None:
        return "valid"
    word = "expired" if key.expire_time <= time.time() * 1_000_000 else "until"
    return f"{word} {_date(key.expire_time)}"


def _date(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).strftime("%Y-%m-%d")
