"""SQLite and PostgreSQL behind one door: URLs, connections, transactions, and what their failures mean."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from dragoman.reasons import Reason
from dragoman_server.errors import InvalidRequest, Unavailable, Unimplemented
from dragoman_server.store import migrations
from dragoman_server.store.base import Store, StoreUnusable
from dragoman_server.store.conversations.sql import SqlConversations
from dragoman_server.store.export import rows_of
from dragoman_server.store.identity.sql import SqlIdentity
from dragoman_server.store.ledger.lifemarks import Lifemarks
from dragoman_server.store.ledger.sql import SqlLedger
from dragoman_server.store.ledger.sqlite import SqliteScribe
from dragoman_server.store.memory import MemoryStore
from dragoman_server.store.personas.sql import SqlPersonas
from dragoman_server.store.usage.sql import SqlUsage
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from psycopg import Connection as PsycopgConnection
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


logger = get_logger(__name__)

BUSY_TIMEOUT = 10.0
"""Seconds that a SQLite connection waits for another writer, and that any caller waits for a free connection."""

CONNECT_TIMEOUT = 10
"""Seconds that opening a connection to PostgreSQL may take."""

POOL_SIZE = 10
"""Most connections to PostgreSQL, unless configured otherwise."""

IDLE_TIMEOUT = 60.0
"""Seconds after which PostgreSQL ends a transaction in which nothing happens: whoever hangs must not keep locks."""

_POSTGRES_DEFAULTS = {
    "application_name": "dragoman",
    "connect_timeout": CONNECT_TIMEOUT,
    # A server that vanished from the network is noticed within a minute.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}

_QUERY_CANCELLED = "57014"
"""The state that PostgreSQL tells when a statement took too long."""

_FORMS = "use sqlite:///PATH, postgresql://USER@HOST/DATABASE or memory:"


def open_store(url: str, *, pool_size: int = POOL_SIZE, statement_timeout: float = 0) -> Store:
    """Opens the store that a URL names; nothing is read or made before `migrate`.

    Args:
        url: `sqlite:///PATH` (three slashes before a relative path, four before an absolute one, `~` is the home),
            `postgresql://…`, or `memory:`, which forgets everything at the end of the process.
        pool_size: Most connections to PostgreSQL, beside the one that writes the ledger.
        statement_timeout: Seconds that PostgreSQL may take for a statement; 0 means any time.

    Raises:
        InvalidRequest: If the URL is none of these.
        Unimplemented: If it needs an extra that is not installed.
    """
    if url in ("memory:", "memory://"):
        return MemoryStore()
    return SqlStore(Database(parse_url(url), pool_size, statement_timeout))


def sqlite_url(path: Path) -> str:
    """Returns the URL of a SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def parse_url(text: str) -> URL:
    """Returns a database URL, as users write it, with the driver that is used for it.

    Raises:
        InvalidRequest: If it is no URL of a known database. The message never repeats it: it may hold a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InvalidRequest(f"the database URL cannot be read; {_FORMS}", field="store.url") from None
    if url.drivername in ("sqlite", "sqlite+aiosqlite"):
        if not url.database or url.database == ":memory:" or url.host or url.query:
            raise InvalidRequest(f"a SQLite URL is a path of a file and nothing else; {_FORMS}", field="store.url")
        return url.set(drivername="sqlite+aiosqlite", database=os.path.expanduser(url.database))
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise InvalidRequest(f"the database {url.drivername!r} is not supported; {_FORMS}", field="store.url")


class Database:
    """A pool of connections; see `open_store`. Must be used on one event loop."""

    def __init__(self, url: URL, pool_size: int = POOL_SIZE, statement_timeout: float = 0) -> None:
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._arguments = {} if self.is_sqlite else _postgres_arguments(url, statement_timeout)
        self._writes = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url, self._arguments, pool_size)
        # A single query needs no transaction around it: that saves round trips.
        self._reads = self._writes.execution_options(
            **({"single_read": True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"})
        )

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Lends a connection for queries that need not agree with each other.

        Raises:
            Unavailable: If the database does not answer.
        """
        with _failures():
            async with self._reads.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Lends a connection in a transaction, committed at the end, rolled back on an error. SQLite has one writer.

        Raises:
            Unavailable: If the database does not answer.
        """
        with _failures():
            async with self._writes.begin() as connection:
                yield connection

    def open_psycopg(self) -> PsycopgConnection[Any]:
        """Opens a connection of PostgreSQL beside the pool: synchronous, in autocommit mode."""
        import psycopg

        dialect = self._writes.sync_engine.dialect
        _, options = dialect.create_connect_args(self.url)
        return psycopg.connect(autocommit=True, **{**options, **self._arguments})

    async def close(self) -> None:
        """Closes the connections."""
        await self._writes.dispose()


class SqlStore:
    """A store in SQLite or PostgreSQL; see `Store`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.identity = SqlIdentity(self._database)
        self.ledger = _ledger(self._database)
        self.usage = _usage(self._database)
        self.conversations = SqlConversations(self._database)
        self.personas = SqlPersonas(self._database)

    async def rows(self, account_id: str) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        """Does what `Store.rows` says."""
        await self.ledger.settle()
        async with contextlib.aclosing(rows_of(self._database, account_id)) as rows:
            async for row in rows:
                yield row

    async def revision(self) -> str | None:
        """Does what `Store.revision` says."""
        database = self._database
        if database.is_sqlite and not _has_file(database):
            return None
        with _unusable(database.url):
            async with database.read() as connection:
                return await migrations.revision(connection)

    async def migrate(self) -> None:
        """Does what `Store.migrate` says."""
        database = self._database
        with _unusable(database.url):
            if database.is_sqlite:
                await _prepare_file(database)
            async with database.read() as connection:
                if await migrations.is_current(connection):
                    return
            async with database.write() as connection:
                await migrations.upgrade(connection)

    async def close(self) -> None:
        """Writes what still waits, then closes the connections."""
        await self.conversations.close()
        await self.ledger.close()
        await self.usage.close()
        await self._database.close()


@contextlib.contextmanager
def _unusable(url: URL) -> Iterator[None]:
    """Says to the operator what is wrong with a database."""
    try:
        yield
    except (Unavailable, DBAPIError) as error:
        cause = error.__cause__ if isinstance(error, Unavailable) else error
        name = url.render_as_string(hide_password=True)
        raise StoreUnusable(f"cannot use the database {name}: {getattr(cause, 'orig', cause)}") from error


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Says what a failing database means to the caller, without the database's own words: they may name hosts."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("the database is too busy; try again") from error
    except DataError as error:
        if "NUL" not in str(error.orig):
            raise  # our own mistake
        raise InvalidRequest("a text has a NUL character, which no database keeps") from error
    except DBAPIError as error:
        if not (isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated):
            raise  # our own mistake
        if "locked" in str(error.orig) or getattr(error.orig, "sqlstate", None) == _QUERY_CANCELLED:
            raise Unavailable("the database is too busy; try again") from error
        logger.error("the database does not answer", error=str(error.orig))
        raise Unavailable("the database does not answer; try again", reason=Reason.STORE_UNAVAILABLE) from error


def _ledger(database: Database) -> SqlLedger:
    """Returns the ledger, which writes on a connection of its own."""
    if database.is_sqlite:
        path = Path(database.url.database or "")
        return SqlLedger(database, SqliteScribe(str(path), BUSY_TIMEOUT), Lifemarks(path))
    from dragoman_server.store.ledger.postgres import PostgresScribe

    return SqlLedger(database, PostgresScribe(database.open_psycopg))


def _usage(database: Database) -> SqlUsage:
    """Returns the usage, which is written on a connection of its own where that is a file."""
    if not database.is_sqlite:
        return SqlUsage(database)
    from dragoman_server.store.usage.sqlite import SqliteUsageWriter

    return SqlUsage(database, SqliteUsageWriter(database.url.database or "", BUSY_TIMEOUT))


def _sqlite_engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url,
        # Without isolation level, Python's driver leaves it to us to begin transactions; see `begin`.
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT},
        poolclass=AsyncAdaptedQueuePool,
        pool_size=4,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = FULL")  # what was committed survives a power cut; writes are rare
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later may find its snapshot outdated, and no waiting helps:
        # a writer takes its turn at the very beginning.
        if "single_read" not in connection.get_execution_options():
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgres_arguments(url: URL, statement_timeout: float) -> dict[str, Any]:
    """Returns how to connect to PostgreSQL; what the URL says comes first."""
    limits = {"statement_timeout": statement_timeout, "idle_in_transaction_session_timeout": IDLE_TIMEOUT}
    options = [f"-c {name}={math.ceil(seconds * 1000)}" for name, seconds in limits.items()]
    theirs = url.query.get("options", ())
    options += [theirs] if isinstance(theirs, str) else theirs  # the last one counts
    defaults = {name: value for name, value in _POSTGRES_DEFAULTS.items() if name not in url.query}
    return {**defaults, "options": " ".join(options)}


def _postgres_engine(url: URL, arguments: dict[str, Any], pool_size: int) -> AsyncEngine:
    try:
        import psycopg  # noqa: F401  (an extra)
    except ImportError as error:
        raise Unimplemented("PostgreSQL needs an extra: pip install 'dragoman[postgres]'") from error
    return create_async_engine(
        url,
        connect_args=arguments,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=BUSY_TIMEOUT,
        hide_parameters=True,
    )


def _has_file(database: Database) -> bool:
    return Path(database.url.database or "").exists()


async def _prepare_file(database: Database) -> None:
    """Makes the file, readable by its owner only, and sets its write-ahead log, which lets readers and a writer be."""
    path = Path(database.url.database or "")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreUnusable(f"cannot write the database file {path}: {error.strerror}") from error
    deadline = asyncio.get_running_loop().time() + BUSY_TIMEOUT
    while True:
        try:
            async with database.read() as connection:
                await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        except Unavailable as error:
            # Two processes may set it at once; then SQLite refuses the second without waiting.
            if error.reason is not Reason.OVERLOADED or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.05)
