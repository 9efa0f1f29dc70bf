"""The ledger in SQL: reading through the pool of connections, writing through a thread."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, select, text
from sqlalchemy.dialects import postgresql, sqlite

from dragoman_server.store.ledger.daybook import Daybook, log_lost, read
from dragoman_server.store.ledger.records import Balance, Entry, OpenHold, Subscription, Verdict
from dragoman_server.store.ledger.writer import Writer, as_future
from dragoman_server.store.tables import accounts, balances, holds, ledger_entries, owners
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from dragoman_server.store.database import Database
    from dragoman_server.store.ledger.lifemarks import Lifemarks
    from dragoman_server.store.ledger.records import Act, Outcome, Told
    from dragoman_server.store.ledger.writer import Scribe

logger = get_logger(__name__)

_ENTRIES = select(*(ledger_entries.c[name] for name in Entry._fields))
_BALANCES = select(*(balances.c[name] for name in Balance._fields))
_HOLDS = select(*(holds.c[name] for name in OpenHold._fields))
_SUBSCRIPTIONS = select(accounts.c.id, accounts.c.plan, accounts.c.plan_start_time).where(
    accounts.c.plan != "", accounts.c.plan_start_time.is_not(None)
)


class SqlLedger:
    """The ledger; see `LedgerStore`.

    Args:
        database: For reading, and for the processes.
        scribe: Writes the entries.
        lifemarks: Tell at once which processes are dead, where all are on one machine.
    """

    def __init__(self, database: Database, scribe: Scribe, lifemarks: Lifemarks | None = None) -> None:
        self._database = database
        self._lifemarks = lifemarks
        self._writer = Writer(scribe)
        self._daybook = Daybook(self._writer.send_all)
        self._noting_owner = ""  # whose file the daybook is
        self.note = self._daybook.note

    def send(self, act: Act, then: Told) -> None:
        """Does what `LedgerStore.send` says."""
        self._daybook.post()  # what was noted came before
        self._writer.send(act, then)

    async def settle(self) -> None:
        """Waits until what was noted by now is written, if that does not take long; see `Daybook.settle`."""
        await self._daybook.settle()

    def submit(self, act: Act) -> asyncio.Future[Outcome]:
        """Does what `LedgerStore.submit` says."""
        return as_future(self.send, act)

    async def balances(self, account_id: str) -> list[Balance]:
        """Does what `LedgerStore.balances` says."""
        await self._daybook.settle()
        statement = _BALANCES.where(balances.c.account_id == account_id).order_by(balances.c.currency)
        async with self._database.read() as connection:
            return [Balance(*row) for row in await connection.execute(statement)]

    async def entries(
        self, account_id: str, *, limit: int, before_id: str = "", currency: str = "", run_id: str = ""
    ) -> list[Entry]:
        """Does what `LedgerStore.entries` says."""
        await self._daybook.settle()
        statement = _ENTRIES.where(ledger_entries.c.account_id == account_id)
        if before_id:
            statement = statement.where(ledger_entries.c.id < before_id)
        if currency:
            statement = statement.where(ledger_entries.c.currency == currency)
        if run_id:
            statement = statement.where(ledger_entries.c.run_id == run_id)
        statement = statement.order_by(ledger_entries.c.id.desc()).limit(limit)
        async with self._database.read() as connection:
            return [Entry(*row) for row in await connection.execute(statement)]

    async def subscription(self, account_id: str) -> Subscription | None:
        """Does what `LedgerStore.subscription` says."""
        async with self._database.read() as connection:
            row = (await connection.execute(_SUBSCRIPTIONS.where(accounts.c.id == account_id))).first()
        return None if row is None else Subscription(*row)

    async def subscriptions(self, *, limit: int, after_id: str = "") -> list[Subscription]:
        """Does what `LedgerStore.subscriptions` says."""
        statement = _SUBSCRIPTIONS.where(accounts.c.id > after_id).order_by(accounts.c.id).limit(limit)
        async with self._database.read() as connection:
            return [Subscription(*row) for row in await connection.execute(statement)]

    async def beat(self, owner_id: str) -> None:
        """Does what `LedgerStore.beat` says."""
        if self._lifemarks is not None:
            descriptor = self._lifemarks.hold(owner_id)
            if descriptor is not None and not self._noting_owner:
                self._noting_owner = owner_id
                self._daybook.open(descriptor)
        dialect = sqlite if self._database.is_sqlite else postgresql
        async with self._database.write() as connection:
            now = await self._now(connection)
            statement = dialect.insert(owners).values(id=owner_id, start_time=now, seen_time=now)
            await connection.execute(
                statement.on_conflict_do_update(index_elements=[owners.c.id], set_={"seen_time": now})
            )

    async def leave(self, owner_id: str) -> None:
        """Does what `LedgerStore.leave` says."""
        if self._lifemarks is not None:
            keeps = False
            if owner_id == self._noting_owner:
                await self._daybook.settle()
                self._daybook.close()
                self._noting_owner = ""
                keeps = not self._daybook.is_written
            self._lifemarks.drop(owner_id, keep_file=keeps)
            if keeps:  # who finds it writes what was noted, and then releases what is held
                return
        async with self._database.write() as connection:
            await connection.execute(delete(owners).where(owners.c.id == owner_id))

    async def orphans(self, owner_id: str, patience: float) -> list[OpenHold]:
        """Does what `LedgerStore.orphans` says."""
        if self._lifemarks is None:
            return await self._take_orphans(owner_id, patience)
        with self._lifemarks.dead() as (dead, alive):
            spends = [spend for descriptor in dead.values() for spend in read(descriptor)]
            if spends:
                outcomes = await asyncio.gather(*map(self.submit, spends))
                log_lost(spends, outcomes)
                written = sum(outcome.verdict is Verdict.DONE for outcome in outcomes)
                logger.warning("wrote charges that processes noted which are dead", charges=written)
            return await self._take_orphans(owner_id, patience, list(dead), alive)

    async def _take_orphans(
        self, owner_id: str, patience: float, dead: Sequence[str] = (), alive: Sequence[str] = ()
    ) -> list[OpenHold]:
        """Does what `LedgerStore.orphans` says; of some owners it is known whether they live."""
        async with self._database.write() as connection:
            if dead:
                await connection.execute(delete(owners).where(owners.c.id.in_(dead)))
            since = await self._now(connection) - int(patience * 1_000_000)
            silent = owners.c.seen_time < since, owners.c.id.not_in([owner_id, *alive])
            await connection.execute(delete(owners).where(*silent))
            lives = exists().where(owners.c.id == holds.c.owner_id)
            statement = _HOLDS.where(holds.c.owner_id != owner_id, ~holds.c.durable, ~lives)
            return [OpenHold(*row) for row in await connection.execute(statement)]

    async def close(self) -> None:
        """Writes what waits, then ends the thread. Who has not left by now is found dead, with what it noted."""
        await self._daybook.settle()
        await self._writer.close()
        self._daybook.close()
        if self._lifemarks is not None:
            self._lifemarks.close()

    async def _now(self, connection: AsyncConnection) -> int:
        """Returns the time, in microseconds: that of the database, where processes are on several machines."""
        if self._database.is_sqlite:
            return time.time_ns() // 1000
        statement = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        return int((await connection.execute(statement)).scalar_one())
