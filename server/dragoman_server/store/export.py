"""All rows of an account, over the tables of all domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select, tuple_

from dragoman_server.store.tables import accounts, metadata

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from sqlalchemy import Column, Table

    from dragoman_server.store.database import Database

PAGE = 500
"""Rows that are read at a time: a slow reader holds no connection meanwhile."""


def owner_column(table: Table) -> Column[Any] | None:
    """Returns the column that tells whose a table's rows are; None if they are the server's."""
    return accounts.c.id if table is accounts else table.c.get("account_id")


async def rows_of(database: Database, account_id: str) -> AsyncGenerator[tuple[str, Mapping[str, Any]], None]:
    """Yields all rows of an account with the names of their tables; what others refer to comes first."""
    for table in metadata.sorted_tables:
        owner = owner_column(table)
        if owner is None:
            continue
        key = list(table.primary_key.columns)
        statement = select(table).where(owner == account_id).order_by(*key).limit(PAGE)
        page = statement
        while True:
            async with database.read() as connection:
                rows = (await connection.execute(page)).all()
            for row in rows:
                yield table.name, dict(row._mapping)
            if len(rows) < PAGE:
                break
            last = rows[-1]._mapping
            page = statement.where(tuple_(*key) > tuple(last[column.name] for column in key))
