"""Manages users in the database itself, whether a server runs or not. Whoever can open it is its operator."""

from __future__ import annotations

import asyncio
import getpass
import sys
from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_cli.identity import all_pages, date_of, open_accounts, role_name, role_of
from dragoman_cli.output import CommandError, say, table
from dragoman_server.accounts.keys import operator
from dragoman_server.paging import MAX_PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dragoman_server.store.identity.records import UserRecord


def create(
    config: Path | None,
    flags: Mapping[str, object],
    *,
    email: str,
    name: str,
    role: str,
    account: str,
    with_password: bool,
) -> None:
    """Makes a user; prints their id.

    Raises:
        CommandError: If that is not possible.
    """
    role_value = role_of(role)
    password = read_password() if with_password else ""

    async def work() -> UserRecord:
        async with open_accounts(config, flags) as accounts:
            return await accounts.users.create(operator(account), email, password, name, role_value)

    say(asyncio.run(work()).id)


def list_all(config: Path | None, flags: Mapping[str, object], account: str) -> None:
    """Prints a table of the users of an account, oldest first.

    Raises:
        CommandError: If the database cannot be read.
    """

    async def work() -> list[UserRecord]:
        async with open_accounts(config, flags) as accounts:
            return await all_pages(lambda token: accounts.users.page(operator(account), MAX_PAGE_SIZE, token))

    rows = [
        (u.id, u.email or u.subject or "", role_name(u.role), _state(u), date_of(u.create_time), u.name)
        for u in asyncio.run(work())
    ]
    table(("ID", "LOGIN", "ROLE", "STATE", "CREATED", "NAME"), rows)


def update(
    config: Path | None,
    flags: Mapping[str, object],
    user_id: str,
    *,
    account: str,
    name: str | None,
    role: str | None,
    disabled: bool | None,
    new_password: bool,
) -> None:
    """Changes a user.

    Raises:
        CommandError: If there is no such user.
    """
    role_value = KeyRole.KEY_ROLE_UNSPECIFIED if role is None else role_of(role)
    password = read_password() if new_password else None

    async def work() -> None:
        async with open_accounts(config, flags) as accounts:
            await accounts.users.update(
                operator(account), user_id, name=name, role=role_value, disabled=disabled, password=password
            )

    asyncio.run(work())
    say(f"Changed {user_id}.")


def delete(config: Path | None, flags: Mapping[str, object], user_id: str, account: str) -> None:
    """Erases a user and every row of theirs.

    Raises:
        CommandError: If there is no such user.
    """

    async def work() -> None:
        async with open_accounts(config, flags) as accounts:
            await accounts.users.delete(operator(account), user_id)

    asyncio.run(work())
    say(f"Erased {user_id}.")


def read_password() -> str:
    """Returns a password: typed twice on a terminal, or the first line of standard input.

    Raises:
        CommandError: If there is none, or the two differ.
    """
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Again: "):
            raise CommandError("the two passwords differ")
    if not password:
        raise CommandError("there is no password; without one, say --no-password")
    return password


def _state(user: UserRecord) -> str:
    if user.disabled:
        return "disabled"
    return "enabled" if user.password_hash is not None or user.subject is not None else "no password"
