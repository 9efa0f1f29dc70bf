from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dragoman_server.store.database import open_store, sqlite_url
from tests.support.postgres import postgres_server, postgres_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dragoman_server.store.base import Store

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _empty_database(request, tmp_path)


def _empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return sqlite_url(tmp_path / "dragoman.db")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store of each kind."""
    store = open_store("memory:" if request.param == "memory" else _empty_database(request, tmp_path))
    try:
        await store.migrate()
        yield store
    finally:
        await store.close()
