"""The personas in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from dragoman.v1.persona_service_pb2 import Persona
from dragoman_server.errors import NotFound
from dragoman_server.store.personas.records import PersonaRecord
from dragoman_server.store.sql import keep_audit
from dragoman_server.store.tables import personas

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy import Row

    from dragoman_server.store.database import Database
    from dragoman_server.store.identity.records import AuditRecord

_CHANGED = (personas.c.version, personas.c.update_time)


def _record(row: Row[Any]) -> PersonaRecord:
    return PersonaRecord(row.account_id, row.name, Persona.FromString(row.body), row.version, row.update_time)


class SqlPersonas:
    """The personas; see `PersonaStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, account_id: str, name: str) -> PersonaRecord | None:
        """Does what `PersonaStore.get` says."""
        statement = select(personas).where(personas.c.account_id == account_id, personas.c.name == name)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).first()
        return None if row is None else _record(row)

    async def page(self, account_id: str, *, limit: int, after: str = "") -> list[PersonaRecord]:
        """Does what `PersonaStore.page` says."""
        name = personas.c.name.collate("C") if not self._database.is_sqlite else personas.c.name
        statement = select(personas).where(personas.c.account_id == account_id, name > after)
        async with self._database.read() as connection:
            return list(map(_record, await connection.execute(statement.order_by(name).limit(limit))))

    async def save(
        self,
        account_id: str,
        body: Persona,
        now: int,
        version: int | None = None,
        audit: AuditRecord | None = None,
    ) -> PersonaRecord | None:
        """Does what `PersonaStore.save` says."""
        data = body.SerializeToString()
        changes = {"body": data, "version": personas.c.version + 1, "update_time": now}
        mine = (personas.c.account_id == account_id) & (personas.c.name == body.name)
        try:
            async with self._database.write() as connection:
                if version is not None:
                    change = update(personas).where(mine, personas.c.version == version).values(changes)
                    row = (await connection.execute(change.returning(*_CHANGED))).first()
                else:
                    dialect = sqlite if self._database.is_sqlite else postgresql
                    new = {"account_id": account_id, "name": body.name, "body": data, "version": 1, "update_time": now}
                    add = dialect.insert(personas).values(new)
                    add = add.on_conflict_do_update(index_elements=list(personas.primary_key), set_=changes)
                    row = (await connection.execute(add.returning(*_CHANGED))).first()
                if row is not None and audit is not None:
                    await keep_audit(connection, audit)
        except IntegrityError:
            raise NotFound(f"account {account_id!r} does not exist") from None
        return None if row is None else PersonaRecord(account_id, body.name, body, row.version, row.update_time)

    async def delete(self, account_id: str, name: str, audit: AuditRecord | None = None) -> bool:
        """Does what `PersonaStore.delete` says."""
        statement = delete(personas).where(personas.c.account_id == account_id, personas.c.name == name)
        async with self._database.write() as connection:
            if (await connection.execute(statement.returning(personas.c.name))).first() is None:
                return False
            if audit is not None:
                await keep_audit(connection, audit)
            return True
