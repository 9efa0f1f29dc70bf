"""What the repositories in SQL share."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert
from sqlalchemy.dialects import postgresql, sqlite

from dragoman_server.store.tables import audit_entries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from dragoman_server.store.identity.records import AuditRecord


async def insert_new(connection: AsyncConnection, table: Table, row: Mapping[str, Any], *unique: Column[Any]) -> bool:
    """Inserts a row unless there is one with the same values in the unique columns; returns whether it did."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(**row).on_conflict_do_nothing(index_elements=unique)
    return (await connection.execute(statement.returning(unique[0]))).first() is not None


async def keep_audit(connection: AsyncConnection, entry: AuditRecord) -> None:
    """Keeps what tells of an administrator's act, in the transaction of the act."""
    await connection.execute(insert(audit_entries).values(**asdict(entry)))
