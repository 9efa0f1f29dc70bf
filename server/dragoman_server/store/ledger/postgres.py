"""The ledger's writer for PostgreSQL: one connection, used by one thread.

What is frequent, reserving and settling, is one statement for a whole group: it locks the balances in a fixed order,
gives back what is settled, reserves what the balances then have, and returns which it reserved. Another statement
charges what reservations made ahead pay for. What these leave (repeated acts, and those that are not covered behind
those before them in the group) and what is rare is done by the rules of the book, in a transaction that holds the same
locks.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman_server.errors import Unavailable
from dragoman_server.store.ledger.book import Book, entry_key, hold_key
from dragoman_server.store.ledger.records import (
    CHARGE,
    HOLD,
    RELEASE,
    Balance,
    Entry,
    Extend,
    Hold,
    OpenHold,
    Outcome,
    Post,
    Renew,
    Settle,
    Spend,
    Verdict,
)
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg import Connection

    from dragoman_server.store.ledger.records import Act

logger = get_logger(__name__)

ATTEMPTS = 5
"""How often a transaction is tried that PostgreSQL undid because of another one."""

_ENTRY_COLUMNS = "id, account_id, currency, kind, amount_micros, run_id, step_id, request_key, create_time, note"
_HOLD_COLUMNS = "run_id, step_id, account_id, currency, amount_micros, owner_id, durable, create_time"

_GROUP = f"""
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::boolean[],
                         %s::text[], %s::bigint[]) WITH ORDINALITY
    AS a(account_id, currency, run_id, step_id, amount_micros, owner_id, durable, entry_id, create_time, n)
), told AS MATERIALIZED (
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[],
                         %s::text[], %s::bigint[]) WITH ORDINALITY
    AS t(account_id, currency, run_id, step_id, charge_micros, note, charge_id, release_id, create_time, n)
), locked AS MATERIALIZED (
    SELECT account_id, currency, available_micros FROM balances
    WHERE (account_id, currency) IN (SELECT account_id, currency FROM asked UNION SELECT account_id, currency FROM told)
    ORDER BY account_id, currency FOR UPDATE
), closed AS (
    DELETE FROM holds h USING told t JOIN locked l USING (account_id, currency)
    WHERE (h.run_id, h.step_id, h.account_id, h.currency) = (t.run_id, t.step_id, t.account_id, t.currency)
    RETURNING t.*, h.amount_micros AS held, least(t.charge_micros, h.amount_micros) AS charged
), given AS (
    SELECT account_id, currency, sum(held)::bigint AS held, sum(charged)::bigint AS charged
    FROM closed GROUP BY account_id, currency
), judged AS MATERIALIZED (
    SELECT a.*, sum(a.amount_micros) OVER (PARTITION BY account_id, currency ORDER BY n)
                <= l.available_micros + coalesce(g.held - g.charged, 0) AS fits
    FROM asked a JOIN locked l USING (account_id, currency) LEFT JOIN given g USING (account_id, currency)
), reserved AS (
    INSERT INTO ledger_entries ({_ENTRY_COLUMNS})
    SELECT entry_id, account_id, currency, {HOLD}, amount_micros, run_id, step_id, 'hold', create_time, ''
    FROM judged WHERE fits
    ON CONFLICT DO NOTHING RETURNING account_id, currency, run_id, step_id, amount_micros
), opened AS (
    INSERT INTO holds ({_HOLD_COLUMNS})
    SELECT run_id, step_id, account_id, currency, j.amount_micros, owner_id, durable, create_time
    FROM judged j JOIN reserved USING (account_id, currency, run_id, step_id)
), settled AS (
    INSERT INTO ledger_entries ({_ENTRY_COLUMNS})
    SELECT charge_id, account_id, currency, {CHARGE}, charged, run_id, step_id, 'charge', create_time, note
    FROM closed WHERE charged > 0
    UNION ALL
    SELECT release_id, account_id, currency, {RELEASE}, held - charged, run_id, step_id, 'release', create_time, note
    FROM closed WHERE held > charged
), taken AS (
    SELECT account_id, currency, sum(amount_micros)::bigint AS held FROM reserved GROUP BY account_id, currency
), changed AS (
    UPDATE balances b SET
        available_micros = b.available_micros + coalesce(g.held - g.charged, 0) - coalesce(k.held, 0),
        held_micros = b.held_micros - coalesce(g.held, 0) + coalesce(k.held, 0),
        quota_micros = greatest(0, b.quota_micros - coalesce(g.charged, 0))
    FROM locked l LEFT JOIN given g USING (account_id, currency) LEFT JOIN taken k USING (account_id, currency)
    WHERE (b.account_id, b.currency) = (l.account_id, l.currency) AND (g.held IS NOT NULL OR k.held IS NOT NULL)
    RETURNING b.account_id, b.currency, b.available_micros, b.held_micros, b.quota_micros
)
SELECT 0, n, amount_micros, c.available_micros, c.held_micros, c.quota_micros
FROM asked JOIN reserved USING (account_id, currency, run_id, step_id, amount_micros)
JOIN changed c USING (account_id, currency)
UNION ALL
SELECT 1, n, charged, c.available_micros, c.held_micros, c.quota_micros
FROM closed JOIN changed c USING (account_id, currency)
"""

_SPEND = f"""
WITH spent AS MATERIALIZED (
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[],
                         %s::text[], %s::bigint[]) WITH ORDINALITY
    AS s(account_id, currency, run_id, step_id, charge_micros, note, advance_id, charge_id, create_time, n)
), locked AS MATERIALIZED (
    SELECT account_id, currency FROM balances
    WHERE (account_id, currency) IN (SELECT account_id, currency FROM spent)
    ORDER BY account_id, currency FOR UPDATE
), ahead AS MATERIALIZED (
    SELECT h.run_id AS advance_id, account_id, currency, h.amount_micros AS held
    FROM holds h JOIN locked USING (account_id, currency)
    WHERE h.step_id = '' AND h.run_id IN (SELECT advance_id FROM spent) FOR UPDATE OF h
), charged AS (
    INSERT INTO ledger_entries ({_ENTRY_COLUMNS})
    SELECT charge_id, account_id, currency, {CHARGE}, charge_micros, run_id, step_id, 'charge', create_time, note
    FROM (
        SELECT s.*, sum(charge_micros) OVER (PARTITION BY advance_id ORDER BY n) <= held AS fits
        FROM spent s JOIN ahead USING (account_id, currency, advance_id)
    ) judged WHERE fits AND charge_micros > 0
    ON CONFLICT DO NOTHING RETURNING id
), done AS MATERIALIZED (
    SELECT s.* FROM spent s JOIN charged ON charged.id = s.charge_id
), used AS (
    UPDATE holds h SET amount_micros = h.amount_micros - d.charged
    FROM (SELECT advance_id, sum(charge_micros)::bigint AS charged FROM done GROUP BY advance_id) d
    WHERE (h.run_id, h.step_id) = (d.advance_id, '')
), changed AS (
    UPDATE balances b SET
        held_micros = b.held_micros - d.charged,
        quota_micros = greatest(0, b.quota_micros - d.charged)
    FROM (
        SELECT account_id, currency, sum(charge_micros)::bigint AS charged FROM done GROUP BY account_id, currency
    ) d
    WHERE (b.account_id, b.currency) = (d.account_id, d.currency)
    RETURNING b.account_id, b.currency, b.available_micros, b.held_micros, b.quota_micros
)
SELECT n, charge_micros, c.available_micros, c.held_micros, c.quota_micros
FROM done JOIN changed c USING (account_id, currency)
"""

_MAKE_BALANCES = """
INSERT INTO balances (account_id, currency, available_micros, held_micros, quota_micros)
SELECT DISTINCT a.id, k.currency, 0, 0, 0 FROM unnest(%s::text[], %s::text[]) AS k(account_id, currency)
JOIN accounts a ON a.id = k.account_id
ON CONFLICT DO NOTHING
"""
_BALANCES = """
SELECT account_id, currency, available_micros, held_micros, quota_micros FROM balances
WHERE (account_id, currency) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""
_LOCK_BALANCES = f"{_BALANCES} ORDER BY account_id, currency FOR UPDATE"
_ACCOUNTS = "SELECT id FROM accounts WHERE id = ANY(%s::text[])"
_HELD = f"""
SELECT {_HOLD_COLUMNS} FROM holds WHERE (run_id, step_id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""
_WRITTEN = f"""
SELECT {_ENTRY_COLUMNS} FROM ledger_entries WHERE (account_id, run_id, step_id, request_key) IN (
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]))
"""
_ADD = f"INSERT INTO ledger_entries ({_ENTRY_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_AUDIT = """
INSERT INTO audit_entries (id, account_id, create_time, actor, action, target, details)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
_OPEN = f"""
INSERT INTO holds ({_HOLD_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (run_id, step_id) DO UPDATE SET amount_micros = excluded.amount_micros
"""
_CLOSE = "DELETE FROM holds WHERE run_id = %s AND step_id = %s"
_SET = """
UPDATE balances SET available_micros = %s, held_micros = %s, quota_micros = %s WHERE account_id = %s AND currency = %s
"""


class PostgresScribe:
    """Writes the ledger of a PostgreSQL database; see `Scribe`. Others may write it too.

    Args:
        connect: Opens a connection, in autocommit mode.
    """

    def __init__(self, connect: Callable[[], Connection[Any]]) -> None:
        self._connect = connect
        self._connection: Connection[Any] | None = None

    def commit(self, acts: Sequence[Act]) -> list[Outcome]:
        """Does what `Scribe.commit` says."""
        from psycopg import InterfaceError, OperationalError
        from psycopg.errors import DeadlockDetected, SerializationFailure

        attempt = 1
        while True:
            try:
                return self._commit(acts)
            except (DeadlockDetected, SerializationFailure):
                if attempt == ATTEMPTS:
                    raise Unavailable("the database is too busy; try again") from None
            except (OperationalError, InterfaceError) as error:
                fresh = self._connection is None
                self.close()
                if fresh or attempt == ATTEMPTS:  # else the connection may have been lost long ago
                    logger.error("the database does not answer", error=str(error))
                    raise Unavailable(
                        "the database does not answer; try again", reason=Reason.STORE_UNAVAILABLE
                    ) from error
            attempt += 1

    def close(self) -> None:
        """Does what `Scribe.close` says."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _commit(self, acts: Sequence[Act]) -> list[Outcome]:
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        outcomes: list[Outcome | None] = _write_group(connection, acts)
        left = [index for index, outcome in enumerate(outcomes) if outcome is None]
        if left:
            with connection.transaction():
                for index, outcome in zip(left, _write(connection, [acts[i] for i in left]), strict=True):
                    outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]


def _write_group(connection: Connection[Any], acts: Sequence[Act]) -> list[Outcome | None]:
    """Does what is frequent in a statement or two; returns None for what is left to do."""
    outcomes: list[Outcome | None] = [None] * len(acts)
    holds: list[int] = []
    settles: list[int] = []
    spends: list[int] = []
    places = {Hold: holds, Settle: settles, Spend: spends}
    seen = set()
    for index, act in enumerate(acts):
        if isinstance(act, (Hold, Settle, Spend, Extend)):
            if act[2:4] in seen:
                return outcomes  # their order matters
            seen.add(act[2:4])
        if (place := places.get(type(act))) is not None:
            place.append(index)

    def done(index: int, amount: int, sums: Sequence[int]) -> None:
        outcomes[index] = Outcome(Verdict.DONE, Balance(*acts[index][:2], *sums), amount)

    if holds or settles:
        asked, told = _transposed(acts, holds, Hold), _transposed(acts, settles, Settle)
        for kind, n, amount, *sums in connection.execute(_GROUP, [*asked, *told]).fetchall():
            done((settles if kind else holds)[n - 1], amount, sums)
    if spends:
        for n, charged, *sums in connection.execute(_SPEND, _transposed(acts, spends, Spend)).fetchall():
            done(spends[n - 1], charged, sums)
    return outcomes


def _transposed(acts: Sequence[Act], indexes: Sequence[int], kind: type[Act]) -> list[list[Any]]:
    """Returns the columns of some acts, all of one kind."""
    columns = zip(*(acts[index] for index in indexes), strict=True) if indexes else [()] * len(kind._fields)
    return list(map(list, columns))


def _write(connection: Connection[Any], acts: Sequence[Act]) -> list[Outcome]:
    """Does acts by the book, within a transaction."""
    book = _load(connection, acts)
    held = set(book.holds)
    outcomes = [book.do(act) for act in acts]
    cursor = connection.cursor()
    for statement, rows in (
        (_ADD, book.added),
        (_OPEN, [book.holds[key] for key in book.opened]),
        (_CLOSE, list(held - book.holds.keys())),
        (_AUDIT, [astuple(audit) for audit in book.audits]),
        (_SET, [(*book.balances[key][2:], *key) for key in book.changed]),
    ):
        if rows:
            cursor.executemany(statement, rows)
    return outcomes


def _load(connection: Connection[Any], acts: Sequence[Act]) -> Book:
    """Returns a book with everything that acts are about; their balances are locked first, so that it stays true."""
    begun = {act[:2] for act in acts if isinstance(act, Renew) or (isinstance(act, Post) and act.amount_micros > 0)}
    if begun:
        connection.execute(_MAKE_BALANCES, _columns(begun))
    keys = {act[:2] for act in acts}
    balances = connection.execute(_LOCK_BALANCES, _columns(keys)).fetchall()
    accounts = connection.execute(_ACCOUNTS, [[key[0] for key in keys]]).fetchall()
    book = Book({row[0] for row in accounts})
    book.balances = {row[:2]: Balance(*row) for row in balances}
    steps = {key for act in acts if (key := hold_key(act)) is not None}
    if steps:
        book.holds = {row[:2]: OpenHold(*row) for row in connection.execute(_HELD, _columns(steps))}
    for row in connection.execute(_WRITTEN, _columns({entry_key(act) for act in acts})):
        entry = Entry(*row)
        book.entries[entry.account_id, entry.run_id, entry.step_id, entry.request_key] = entry
    others = {(entry.account_id, entry.currency) for entry in book.entries.values()} - keys
    if others:  # of acts that had been done before, in another currency: only told, not changed
        rows = connection.execute(_BALANCES, _columns(others)).fetchall()
        book.balances |= {row[:2]: Balance(*row) for row in rows}
    return book


def _columns(rows: set[Any]) -> list[list[str]]:
    return [list(column) for column in zip(*rows, strict=True)]
