"""The API keys in SQL."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, insert, literal, select, tuple_, update

from dragoman_server.errors import NotFound
from dragoman_server.store.identity.records import KeyRecord, allow
from dragoman_server.store.sql import keep_audit
from dragoman_server.store.tables import accounts, api_keys, users

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Row, Update

    from dragoman_server.store.database import Database
    from dragoman_server.store.identity.records import AuditRecord, Position

_COLUMNS = [api_keys.c[field.name] for field in fields(KeyRecord)]
_KEYS = select(*_COLUMNS)


def _record(row: Row[Any] | None) -> KeyRecord | None:
    return None if row is None else KeyRecord(**row._mapping)


class SqlKeys:
    """The API keys; see `KeyStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: KeyRecord, audit: AuditRecord | None = None, *, only_first: bool = False) -> bool:
        """Does what `KeyStore.add` says."""
        other = api_keys.c.secret_hash == key.secret_hash
        if only_first:
            other |= api_keys.c.account_id == key.account_id
        values = select(*(literal(getattr(key, column.name), column.type) for column in _COLUMNS))
        statement = (
            insert(api_keys).from_select(_COLUMNS, values.where(~exists().where(other))).returning(api_keys.c.id)
        )
        async with self._database.write() as connection:
            # The lock makes those who add to one account take turns, so that each sees what the one before added.
            account = select(accounts.c.id).where(accounts.c.id == key.account_id).with_for_update()
            if (await connection.execute(account)).first() is None:
                raise NotFound(f"account {key.account_id!r} does not exist")
            if key.user_id is not None:
                user = select(users.c.id).where(users.c.account_id == key.account_id, users.c.id == key.user_id)
                if (await connection.execute(user.with_for_update(read=True))).first() is None:  # who erases it waits
                    raise NotFound(f"user {key.user_id!r} does not exist")
            added = (await connection.execute(statement)).first() is not None
            if added and audit is not None:
                await keep_audit(connection, audit)
            return added

    async def get(self, account_id: str, key_id: str) -> KeyRecord | None:
        """Does what `KeyStore.get` says."""
        statement = _KEYS.where(api_keys.c.account_id == account_id, api_keys.c.id == key_id)
        async with self._database.read() as connection:
            return _record((await connection.execute(statement)).first())

    async def find(self, secret_hash: bytes) -> KeyRecord | None:
        """Does what `KeyStore.find` says."""
        statement = _KEYS.where(api_keys.c.secret_hash == secret_hash)
        async with self._database.read() as connection:
            return _record((await connection.execute(statement)).first())

    async def page(self, account_id: str, *, limit: int, after: Position | None = None) -> list[KeyRecord]:
        """Does what `KeyStore.page` says."""
        position = tuple_(api_keys.c.create_time, api_keys.c.id)
        statement = _KEYS.where(api_keys.c.account_id == account_id).limit(limit)
        statement = statement.order_by(api_keys.c.create_time, api_keys.c.id)
        if after is not None:
            statement = statement.where(position > after)
        async with self._database.read() as connection:
            return [KeyRecord(**row._mapping) for row in await connection.execute(statement)]

    async def update(
        self,
        account_id: str,
        key_id: str,
        changes: Mapping[str, object],
        audit: AuditRecord,
        check: Callable[[KeyRecord], None] = allow,
    ) -> KeyRecord | None:
        """Does what `KeyStore.update` says."""
        return await self._change(account_id, key_id, update(api_keys).values(**changes), audit, check)

    async def revoke(
        self, account_id: str, key_id: str, revoke_time: int, audit: AuditRecord | None = None
    ) -> KeyRecord | None:
        """Does what `KeyStore.revoke` says."""
        first = func.coalesce(api_keys.c.revoke_time, revoke_time)
        return await self._change(account_id, key_id, update(api_keys).values(revoke_time=first), audit)

    async def _change(
        self,
        account_id: str,
        key_id: str,
        statement: Update,
        audit: AuditRecord | None,
        check: Callable[[KeyRecord], None] = allow,
    ) -> KeyRecord | None:
        this = (api_keys.c.account_id == account_id) & (api_keys.c.id == key_id)
        async with self._database.write() as connection:
            key = _record((await connection.execute(_KEYS.where(this).with_for_update())).first())
            if key is None:
                return None
            check(key)
            key = _record((await connection.execute(statement.where(this).returning(*_COLUMNS))).first())
            if audit is not None:
                await keep_audit(connection, audit)
            return key
