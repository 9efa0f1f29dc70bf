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
async def configured_store(config: Path | None, flags: Mapping[str, object]) -> AsyncIterator[tuple[Store, Settings]]:
    """Lends the configured database, its schema up to date, with the settings.

    Raises:
        CommandError: If it cannot be used, or what is done with it fails.
    """
    try:
        settings = load_settings(config, flags)
        store = open_store(store_url(settings))
        try:
            await store.migrate()
            yield store, settings
        finally:
            await store.close()
    except DragomanError as error:
        raise CommandError(error.message) from error
