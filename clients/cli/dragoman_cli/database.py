"""Looks after the database itself: its schema and its backups."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from dragoman_cli.output import CommandError, note, say
from dragoman_cli.settings import load_settings
from dragoman_server.app import store_url
from dragoman_server.errors import DragomanError
from dragoman_server.store.backup import back_up
from dragoman_server.store.database import open_store, parse_url
from dragoman_server.store.migrations import HEAD

if TYPE_CHECKING:
    from collections.abc import Mapping


def migrate(config: Path | None, flags: Mapping[str, object], *, check: bool) -> int:
    """Brings the schema up to date, or only says whether it is; returns the exit code.

    Raises:
        CommandError: If the database cannot be used.
    """

    async def work() -> str | None:
        store = open_store(store_url(load_settings(config, flags)))
        try:
            found = await store.revision()
            if not check:
                await store.migrate()
            return found
        finally:
            await store.close()

    try:
        found = asyncio.run(work())
    except DragomanError as error:
        raise CommandError(error.message) from error
    if found == HEAD:
        say(f"The schema is {HEAD}, as it should be.")
    elif check:
        say(f"The schema is {found or 'not there'}; this program needs {HEAD}.")
        return 1
    else:
        say(f"The schema was {found or 'not there'} and is {HEAD} now.")
    return 0


def backup(config: Path | None, flags: Mapping[str, object], target: Path, *, force: bool) -> None:
    """Copies the SQLite database as it is at one moment, while a server may be running.

    Raises:
        CommandError: If it is another database, or the copy cannot be made.
    """
    try:
        url = store_url(load_settings(config, flags))
        if url in ("memory:", "memory://"):
            raise CommandError("the database is in memory: there is nothing to back up")
        parsed = parse_url(url)
        if parsed.get_backend_name() != "sqlite":
            raise CommandError("the database is PostgreSQL: back it up with its own means, such as pg_dump -Fc")
        size = back_up(Path(parsed.database or ""), target, replace=force)
    except DragomanError as error:
        hint = "; --force replaces it" if target.is_file() and not force else ""
        raise CommandError(error.message + hint) from error
    note(f"Wrote {size:,} bytes.")
    say(str(target))
