"""A SQLite file that somebody else writes."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Nobody else can write the file within the context.

    Raises:
        TimeoutError: If somebody writes it all the time.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        async with asyncio.timeout(PATIENCE):
            while not _begin(other):
                await asyncio.sleep(0.001)  # this process may be writing
        yield
        other.execute("ROLLBACK")


def _begin(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True
