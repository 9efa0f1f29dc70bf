"""Writes records of usage into a SQLite file: a batch is one piece of work of one thread, on a connection of its own.

Batches have thousands of records. Through the asynchronous driver, each statement would be handed to a thread and back.
"""

from __future__ import annotations

import sqlite3
import threading
from itertools import chain
from typing import TYPE_CHECKING

from dragoman_server.store.sqlite_errors import unavailable
from dragoman_server.store.usage.hours import sums_by_hour
from dragoman_server.store.usage.records import COUNTS, UsageHour, UsageRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROW = f"({', '.join('?' * len(UsageRecord._fields))})"
_ADD = f"INSERT INTO usage_records ({', '.join(UsageRecord._fields)}) VALUES {{rows}} ON CONFLICT DO NOTHING"
_RETURNING = " RETURNING run_id"
_ADD_SUMS = (
    f"INSERT INTO usage_hours ({', '.join((*UsageHour._fields, *COUNTS))})"
    f" VALUES ({', '.join('?' * (len(UsageHour._fields) + len(COUNTS)))})"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in COUNTS)}"
)
_MOST_ROWS = 256
"""Records of one statement. Every statement has a power of two of them: each length stays prepared."""


class _SomeKnownError(Exception):
    """Of some runs there is a record already."""


class SqliteUsageWriter:
    """Adds records to a SQLite file. Its methods block.

    Args:
        path: The file.
        busy_timeout: Seconds to wait for other writers.
    """

    def __init__(self, path: str, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def add(self, records: Sequence[UsageRecord]) -> int:
        """Does what `UsageStore.add` says."""
        with self._lock:
            try:
                connection = self._connection or self._open()
                try:
                    return _add(connection, records, all_new=True)
                except _SomeKnownError:  # as after a commit of which it is not known how it ended
                    return _add(connection, records, all_new=False)
            except sqlite3.OperationalError as error:
                raise unavailable(error) from error

    def close(self) -> None:
        """Closes the connection; it is made again when it is needed."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        # Each batch may come on another thread; the lock keeps them apart.
        connection = sqlite3.connect(self._path, self._busy_timeout, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = FULL")
        self._connection = connection
        return connection


def _add(connection: sqlite3.Connection, records: Sequence[UsageRecord], *, all_new: bool) -> int:
    """Adds records in one transaction, which holds the file's write lock from its beginning.

    Args:
        connection: The connection.
        records: The records.
        all_new: Whether there should be none of them yet: to ask for each whether it is new costs a third more.

    Raises:
        _SomeKnownError: If they should be new and are not; then nothing was added.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        rows = _of_known_accounts(connection, records)
        added = _insert_new(connection, rows) if all_new else _insert(connection, rows)
        connection.executemany(_ADD_SUMS, [(*hour, *counts) for hour, counts in sums_by_hour(added).items()])
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return len(added)


def _of_known_accounts(connection: sqlite3.Connection, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
    """Returns the records of accounts that exist, as they do until the transaction ends: nobody else can write."""
    named = {record.account_id for record in records}
    known = {name for name in named if connection.execute("SELECT 1 FROM accounts WHERE id = ?", (name,)).fetchone()}
    return records if known == named else [record for record in records if record.account_id in known]


def _insert_new(connection: sqlite3.Connection, rows: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
    """Inserts records of which none should be there yet."""
    before = connection.total_changes
    for some in _pieces(rows):
        connection.execute(_ADD.format(rows=", ".join([_ROW] * len(some))), tuple(chain.from_iterable(some)))
    if connection.total_changes - before != len(rows):
        raise _SomeKnownError
    return rows


def _insert(connection: sqlite3.Connection, rows: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
    """Inserts records unless they are there; returns those that were not."""
    by_run = {record.run_id: record for record in rows}
    added: list[UsageRecord] = []
    for some in _pieces(list(by_run.values())):
        statement = _ADD.format(rows=", ".join([_ROW] * len(some))) + _RETURNING
        added += [by_run[run_id] for (run_id,) in connection.execute(statement, tuple(chain.from_iterable(some)))]
    return added


def _pieces(rows: Sequence[UsageRecord]) -> Sequence[Sequence[UsageRecord]]:
    """Returns the records in pieces whose lengths are powers of two, the largest first."""
    pieces = []
    start = 0
    while start < len(rows):
        size = min(_MOST_ROWS, 1 << ((len(rows) - start).bit_length() - 1))
        pieces.append(rows[start : start + size])
        start += size
    return pieces
