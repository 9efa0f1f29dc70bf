"""The ledger's writer for SQLite: one connection, used by one thread."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import astuple
from functools import lru_cache
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, cast

from dragoman_server.store.ledger.book import CHARGE_KEY, Book, entry_key, hold_key
from dragoman_server.store.ledger.records import (
    CHARGE,
    Balance,
    Entry,
    Hold,
    OpenHold,
    Outcome,
    Settle,
    Spend,
    Verdict,
)
from dragoman_server.store.sqlite_errors import unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dragoman_server.store.ledger.book import HoldKey
    from dragoman_server.store.ledger.records import Act

_BALANCE = (
    "SELECT account_id, currency, available_micros, held_micros, quota_micros FROM balances"
    " WHERE account_id = ? AND currency = ?"
)
_HOLD_COLUMNS = "run_id, step_id, account_id, currency, amount_micros, owner_id, durable, create_time"
_NAMED = "WITH k(run_id, step_id) AS (VALUES {rows})"
# The first condition finds them by the index, which a condition of two columns at once would not use.
_AMONG = "WHERE run_id IN (SELECT run_id FROM k) AND (run_id, step_id) IN (SELECT run_id, step_id FROM k)"
_HELD = f"{_NAMED} SELECT json_group_array(json_array({_HOLD_COLUMNS})) FROM holds {_AMONG}"
_WRITTEN = (
    "SELECT id, account_id, currency, kind, amount_micros, run_id, step_id, request_key, create_time, note"
    " FROM ledger_entries WHERE account_id = ? AND run_id = ? AND step_id = ? AND request_key = ?"
)
_ACCOUNT = "SELECT id FROM accounts WHERE id = ?"
_ADD = (
    "INSERT INTO ledger_entries (id, account_id, currency, kind, amount_micros, run_id, step_id, request_key,"
    " create_time, note) VALUES {rows}"
)
_SET = (
    "INSERT INTO balances (account_id, currency, available_micros, held_micros, quota_micros) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET available_micros = excluded.available_micros, held_micros = excluded.held_micros,"
    " quota_micros = excluded.quota_micros"
)
_AUDIT = (
    "INSERT INTO audit_entries (id, account_id, create_time, actor, action, target, details)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_OPEN = (
    f"INSERT INTO holds ({_HOLD_COLUMNS}) VALUES {{rows}}"
    " ON CONFLICT DO UPDATE SET amount_micros = excluded.amount_micros"
)
_CLOSE = f"{_NAMED} DELETE FROM holds {_AMONG}"

_TAKE = (
    "UPDATE holds SET amount_micros = amount_micros - ?"
    " WHERE run_id = ? AND step_id = '' AND account_id = ? AND currency = ? AND amount_micros >= ?"
)
_PAY = (
    "UPDATE balances SET held_micros = held_micros - ?, quota_micros = max(0, quota_micros - ?)"
    " WHERE account_id = ? AND currency = ?"
    " RETURNING account_id, currency, available_micros, held_micros, quota_micros"
)

_MOST_ROWS = 64
"""Rows of a statement: a group seldom has more, and one of each size stays prepared."""
_STATEMENTS = 256
"""Statements that stay prepared."""


class _NotSure(Exception):
    """A reservation may have been made before, or may not be open any more."""


class SqliteScribe:
    """Writes the ledger of a SQLite file; see `Scribe`.

    A group is one transaction that holds the file's write lock from its beginning, so that what it reads stays true
    until it is written, whoever else uses the file.

    Args:
        path: The file.
        busy_timeout: Seconds to wait for other writers.
    """

    def __init__(self, path: str, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None
        self._own: dict[HoldKey, OpenHold] = {}

    def commit(self, acts: Sequence[Act]) -> list[Outcome]:
        """Does what `Scribe.commit` says."""
        try:
            connection = self._connection or self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                try:
                    outcomes, opened = _write(connection, acts, self._own)
                except (sqlite3.IntegrityError, _NotSure):
                    self._own.clear()
                    connection.execute("ROLLBACK")
                    connection.execute("BEGIN IMMEDIATE")
                    outcomes, opened = _write_by_book(connection, acts, None)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise unavailable(error) from error
        self._own.update(opened)
        return outcomes

    def close(self) -> None:
        """Does what `Scribe.close` says."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, self._busy_timeout, isolation_level=None, cached_statements=_STATEMENTS
        )
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # what is in the ledger survives a power cut
        self._connection = connection
        return connection


_Written = tuple[list[Outcome], "Mapping[HoldKey, OpenHold]"]
"""What became of acts, and reservations that are open now."""


def _write(connection: sqlite3.Connection, acts: Sequence[Act], own: dict[HoldKey, OpenHold]) -> _Written:
    """Does acts within a transaction, as if nothing of them had been done before: hardly anything ever was.

    Args:
        connection: The connection.
        acts: What to do.
        own: Reservations that were open when this process wrote last, and nearly always still are. Those that acts are
            about are removed.

    Raises:
        sqlite3.IntegrityError: If something had been done before.
        _NotSure: If something may have been, or a reservation is not open any more.
    """
    outcomes: list[Outcome] = []
    opened: dict[HoldKey, OpenHold] = {}
    for ahead, some in groupby(acts, _is_spend):
        part = list(some)
        done, opened_now = (
            (_spend(connection, cast("list[Spend]", part)), {}) if ahead else _write_by_book(connection, part, own)
        )
        outcomes += done
        for key in set(map(hold_key, part)):
            if key is not None:
                own.pop(key, None)
                opened.pop(key, None)
        opened.update(opened_now)
    return outcomes, opened


def _is_spend(act: Act) -> bool:
    return isinstance(act, Spend)


def _spend(connection: sqlite3.Connection, spends: Sequence[Spend]) -> list[Outcome]:
    """Charges work to reservations made ahead; see `_write`. With credits on, nearly all acts are such."""
    amounts: dict[tuple[str, str, str], int] = {}
    for spend in spends:
        key = spend.advance_id, spend.account_id, spend.currency
        amounts[key] = amounts.get(key, 0) + spend.charge_micros
    balances = {key: _take(connection, key, amount) for key, amount in amounts.items()}
    _in_bulk(
        connection,
        _ADD,
        [
            (charge_id, account_id, currency, CHARGE, amount, run_id, step_id, CHARGE_KEY, time, note)
            for account_id, currency, run_id, step_id, amount, note, _, charge_id, time in spends
            if amount
        ],
    )
    return [Outcome(Verdict.DONE, balances[spend[6], spend[0], spend[1]], spend.charge_micros) for spend in spends]


def _take(connection: sqlite3.Connection, key: tuple[str, str, str], amount: int) -> Balance:
    """Takes an amount from an advance and the balance that it belongs to; returns the balance.

    Args:
        connection: The connection.
        key: The advance, the account and the currency.
        amount: How much.

    Raises:
        _NotSure: If the advance has less.
    """
    row = None
    if connection.execute(_TAKE, (amount, *key, amount)).rowcount:
        row = connection.execute(_PAY, (amount, amount, *key[1:])).fetchone()
    if row is None:
        raise _NotSure
    return Balance(*row)


def _write_by_book(
    connection: sqlite3.Connection, acts: Sequence[Act], own: Mapping[HoldKey, OpenHold] | None
) -> _Written:
    """Does acts within a transaction, by the rules of the book.

    Args:
        connection: The connection.
        acts: What to do.
        own: As in `_write`. With it, it is not looked whether new reservations had been made before, and whether
            something had been spent before. None if all must be looked up.

    Raises:
        sqlite3.IntegrityError: If a reservation had been made before, and it was not looked.
        _NotSure: If one may have, because the balance does not have it or one is not open any more, and it was not
            looked.
    """
    book = _load(connection, acts, own)
    held = set(book.holds)
    outcomes = [book.do(act) for act in acts]
    closed = list(held - book.holds.keys())
    if own is not None and any(map(_is_doubtful, acts, outcomes)):
        raise _NotSure
    _in_bulk(connection, _ADD, book.added)
    _in_bulk(connection, _OPEN, [book.holds[key] for key in book.opened])
    before = connection.total_changes
    _in_bulk(connection, _CLOSE, closed)
    if connection.total_changes - before != len(closed):
        raise _NotSure
    if book.audits:
        connection.executemany(_AUDIT, [astuple(audit) for audit in book.audits])
    connection.executemany(_SET, [book.balances[key] for key in book.changed])
    return outcomes, {key: book.holds[key] for key in book.opened}


def _is_doubtful(act: Act, outcome: Outcome) -> bool:
    """Whether an act may have been done before: if it had, it cannot be done for want of credits, or not wholly."""
    if isinstance(act, Spend) and outcome.amount_micros < act.charge_micros:
        return True
    return outcome.verdict in (Verdict.SHORT, Verdict.MISSING)


def _load(connection: sqlite3.Connection, acts: Sequence[Act], own: Mapping[HoldKey, OpenHold] | None) -> Book:
    """Returns a book with everything that acts are about; see `_write`."""
    execute = connection.execute
    accounts: set[str] = set()
    book = Book(accounts)
    asked = set()

    def load_balance(key: tuple[str, str]) -> None:
        if key in asked:
            return
        asked.add(key)
        if row := execute(_BALANCE, key).fetchone():
            book.balances[key] = Balance(*row)
        else:
            accounts.update(row[0] for row in execute(_ACCOUNT, key[:1]))

    looked_up = list(acts) if own is None else _take_own(book, acts, own)
    steps = {step for act in looked_up if (step := hold_key(act)) is not None}
    steps.update((act.advance_id, "") for act in acts if isinstance(act, Spend))  # others may have released it
    for found in _in_bulk(connection, _HELD, list(steps)):
        for row in json.loads(found):
            hold = OpenHold(*row)
            book.holds[hold[:2]] = hold
    for act in acts:
        load_balance(act[:2])
    for act in looked_up:
        if isinstance(act, Settle) and act[2:4] in book.holds:
            continue  # what is open was not settled before
        key = entry_key(act)
        if row := execute(_WRITTEN, key).fetchone():
            book.entries[key] = entry = Entry(*row)
            load_balance((entry.account_id, entry.currency))
    return book


def _take_own(book: Book, acts: Sequence[Act], own: Mapping[HoldKey, OpenHold]) -> list[Act]:
    """Puts reservations into a book that need not be looked up; returns the acts for which more is needed."""
    others: list[Act] = []
    for act in acts:
        if isinstance(act, Settle) and (mine := own.get(act[2:4])) is not None:
            book.holds[act[2:4]] = mine
        elif not isinstance(act, (Hold, Spend)):
            others.append(act)
    return others


def _in_bulk(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> list[str]:
    """Executes a statement for many rows at a time; returns the first value of each result.

    Whenever SQLite works, the other threads of Python may, and it takes time until this one goes on. So it is asked to
    work few times.
    """
    results: list[str] = []
    for begin in range(0, len(rows), _MOST_ROWS):
        group = rows[begin : begin + _MOST_ROWS]
        text = _with_rows(statement, len(group), len(group[0]))
        results += [row[0] for row in connection.execute(text, list(chain.from_iterable(group)))]
    return results


@lru_cache(_STATEMENTS)
def _with_rows(statement: str, count: int, width: int) -> str:
    """Returns a statement with places for so many rows."""
    return statement.format(rows=", ".join([f"({', '.join('?' * width)})"] * count))
