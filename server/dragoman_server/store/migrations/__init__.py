"""The history of the schema, and how a database is brought to its end.

Each file in `versions` is one step and is never changed once released. Alembic is imported only if a step is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from dragoman_server.store.base import StoreUnusable

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

HEAD = "0007"
"""The newest revision."""

_LOCK = 0x647261676F6D616E
"""The advisory lock of PostgreSQL under which the schema changes: "dragoman" in ASCII."""


async def is_current(connection: AsyncConnection) -> bool:
    """Tells whether the schema is at the newest revision."""
    return await revision(connection) == HEAD


async def revision(connection: AsyncConnection) -> str | None:
    """Returns the revision of the schema; None if there is none yet."""
    return await connection.run_sync(_revision)


async def upgrade(connection: AsyncConnection) -> None:
    """Applies the missing steps, all or none, within the transaction of the connection.

    Several processes may call this at once: they take turns, and all but the first find nothing to do. SQLite admits
    one writing transaction anyway; PostgreSQL needs a lock.

    Raises:
        StoreUnusable: If the schema is newer than this code.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET LOCAL statement_timeout = 0"))  # a step takes as long as there are rows
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if not await is_current(connection):
        await connection.run_sync(_upgrade)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    from alembic import command  # slow to import, and rarely needed
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = _revision(connection)
    if found is not None and found not in known:
        raise StoreUnusable(
            f"the database has schema {found}, this program knows it up to {HEAD} only: "
            "install the newer version that made it, or restore a backup from before"
        )
    command.upgrade(config, "head")
