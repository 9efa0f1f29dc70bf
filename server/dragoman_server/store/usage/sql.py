"""What runs used, in SQL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import BigInteger, cast, delete, func, literal, select, tuple_
from sqlalchemy.dialects import postgresql

from dragoman_server.store.tables import accounts, usage_hours, usage_records
from dragoman_server.store.usage.hours import sums_by_hour
from dragoman_server.store.usage.records import COUNTS, DIMENSIONS, UsageHour, UsageRecord, UsageSum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Select, Table

    from dragoman_server.store.database import Database
    from dragoman_server.store.usage.records import UsageQuery
    from dragoman_server.store.usage.sqlite import SqliteUsageWriter

_KEY = UsageHour._fields
_RECORDS = select(*(usage_records.c[name] for name in UsageRecord._fields))
_COLUMNS = ", ".join(UsageRecord._fields)

# Records come by the thousand, and SQLAlchemy takes longer for each than everything else that is done for it: this
# statement takes all of them at once, as JSON.
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # has no annotations
_TYPES = ", ".join(f"{name} {usage_records.c[name].type.compile(_DIALECT)}" for name in UsageRecord._fields)
_ADD = f"""\
INSERT INTO usage_records ({_COLUMNS}) SELECT {_COLUMNS} FROM json_to_recordset(%s) AS record ({_TYPES})
ON CONFLICT DO NOTHING RETURNING run_id"""

_INSERT_SUMS = postgresql.insert(usage_hours)
_MORE = {name: usage_hours.c[name] + _INSERT_SUMS.excluded[name] for name in COUNTS}
_ADD_SUMS = _INSERT_SUMS.on_conflict_do_update(index_elements=_KEY, set_=_MORE)

# The lock keeps accounts from being erased while records of them are added.
_KNOWN = select(accounts.c.id).with_for_update(read=True, key_share=True)


class SqlUsage:
    """What runs used; see `UsageStore`.

    Args:
        database: The database.
        writer: Adds records, if that is a SQLite file.
    """

    def __init__(self, database: Database, writer: SqliteUsageWriter | None = None) -> None:
        self._database = database
        self._writer = writer

    async def close(self) -> None:
        """Closes the connection on which records are added, if they have one of their own."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)

    async def add(self, records: Sequence[UsageRecord]) -> int:
        """Does what `UsageStore.add` says."""
        if self._writer is not None:
            return await asyncio.to_thread(self._writer.add, records)
        async with self._database.write() as connection:
            named = {record.account_id for record in records}
            known = set((await connection.execute(_KNOWN.where(accounts.c.id.in_(named)))).scalars())
            by_run = {record.run_id: record for record in records if record.account_id in known}
            rows = orjson.dumps([row._asdict() for row in by_run.values()]).decode()
            added = [by_run[run_id] for run_id in (await connection.exec_driver_sql(_ADD, (rows,))).scalars()]
            if added:
                # In one order everywhere: processes that add to the same hours must not wait in a circle.
                sums = sorted(sums_by_hour(added).items())
                names = (*_KEY, *COUNTS)
                totals = [dict(zip(names, (*hour, *counts), strict=True)) for hour, counts in sums]
                await connection.execute(_ADD_SUMS, totals)
        return len(added)

    async def page(self, query: UsageQuery, *, limit: int, before: tuple[int, str] | None = None) -> list[UsageRecord]:
        """Does what `UsageStore.page` says."""
        position = tuple_(usage_records.c.create_time, usage_records.c.run_id)
        statement = _filtered(_RECORDS, usage_records, usage_records.c.create_time, query).limit(limit)
        statement = statement.order_by(usage_records.c.create_time.desc(), usage_records.c.run_id.desc())
        if before is not None:
            statement = statement.where(position < before)
        async with self._database.read() as connection:
            return [UsageRecord(*row) for row in await connection.execute(statement)]

    async def sums(
        self, query: UsageQuery, *, interval: int | None, dimensions: Sequence[str], limit: int
    ) -> list[UsageSum]:
        """Does what `UsageStore.sums` says."""
        hour = usage_hours.c.hour
        start = literal(query.start_time or 0, BigInteger) if interval is None else hour - hour % interval
        by = [start.label("start_time"), *(usage_hours.c[name] for name in (*dimensions, "currency"))]
        totals = [cast(func.sum(usage_hours.c[name]), BigInteger) for name in COUNTS]
        statement = _filtered(select(*by, *totals), usage_hours, hour, query).limit(limit)
        groups = [column.name for column in by]
        statement = statement.group_by(*groups).order_by(*groups)
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        names = ("start_time", *dimensions, "currency", *COUNTS)
        nothing = dict.fromkeys(DIMENSIONS, "")
        return [UsageSum(**nothing | dict(zip(names, row, strict=True))) for row in rows]

    async def purge(self, records_before: int | None, sums_before: int | None, *, limit: int) -> int:
        """Does what `UsageStore.purge` says."""
        deleted = 0
        if records_before is not None:
            deleted += await self._delete(usage_records, usage_records.c.create_time < records_before, limit)
        if sums_before is not None:
            deleted += await self._delete(usage_hours, usage_hours.c.hour < sums_before, limit)
        return deleted

    async def _delete(self, table: Table, condition: ColumnElement[bool], limit: int) -> int:
        key = tuple_(*table.primary_key)
        oldest = select(*table.primary_key).where(condition).limit(limit)
        async with self._database.write() as connection:
            return (await connection.execute(delete(table).where(key.in_(oldest)))).rowcount


def _filtered(statement: Select[Any], table: Table, time: ColumnElement[int], query: UsageQuery) -> Select[Any]:
    statement = statement.where(table.c.account_id == query.account_id)
    if query.start_time is not None:
        statement = statement.where(time >= query.start_time)
    if query.end_time is not None:
        statement = statement.where(time < query.end_time)
    for name in DIMENSIONS:
        if (value := getattr(query, name)) is not None:
            statement = statement.where(table.c[name] == value)
    return statement
