"""The configured database, for the commands that work on it whether a server runs or not."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dragoman_cli.output import CommandError
from dragoman_cli.settings import load_settings
from dragoman_server.app import store_url
from dragoman_server.errors import DragomanError
from dragoman_server.store.database import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from dragoman_server.settings import Settings
    from dragoman_server.store.base import Store


@asynccontextmanager
async def configured_store(
    config: Path | None, flags: Mapping[str, object], account: str = ""
) -> AsyncIterator[tuple[Store, Settings]]:
    """Lends the configured database, its schema up to date, with the settings.

    Args:
        config: The configuration file, if one is named.
        flags: Settings by their paths.
        account: An account that must exist; empty for none.

    Raises:
        CommandError: If it cannot be used, what is done with it fails, or there is no such account.
    """
    try:
        settings = load_settings(config, flags)
        store = open_store(store_url(settings))
        try:
            await store.migrate()
            if account and await store.identity.accounts.get(account) is None:
                raise CommandError(f"account {account!r} does not exist")
            yield store, settings
        finally:
            await store.close()
    except DragomanError as error:
        raise CommandError(error.message) from error
