"""Accounts, the audit log and the server's secrets in SQL; users and keys are beside."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, tuple_, update

from dragoman_server.errors import Conflict
from dragoman_server.store.identity.records import AccountRecord, AuditRecord, Standing, UserRecord
from dragoman_server.store.identity.sql_keys import SqlKeys
from dragoman_server.store.identity.sql_users import SqlLogins, SqlUsers
from dragoman_server.store.sql import insert_new, keep_audit
from dragoman_server.store.tables import accounts, api_keys, audit_entries, logins, secrets, users

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Row

    from dragoman_server.store.database import Database
    from dragoman_server.store.identity.records import Position

_ACCOUNT = [accounts.c[field.name] for field in fields(AccountRecord)]
_USER = [users.c[field.name] for field in fields(UserRecord)]
_AUDIT = [audit_entries.c[field.name] for field in fields(AuditRecord)]


def _record(row: Row[Any] | None) -> AccountRecord | None:
    return None if row is None else AccountRecord(**row._mapping)


class SqlIdentity:
    """Those who may call; see `IdentityStore`."""

    def __init__(self, database: Database) -> None:
        self.accounts = SqlAccounts(database)
        self.users = SqlUsers(database)
        self.keys = SqlKeys(database)
        self.logins = SqlLogins(database)
        self.audit = SqlAudit(database)
        self.secrets = SqlSecrets(database)


class SqlAccounts:
    """The accounts; see `AccountStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, account: AccountRecord, audit: AuditRecord) -> None:
        """Does what `AccountStore.add` says."""
        async with self._database.write() as connection:
            if not await insert_new(connection, accounts, asdict(account), accounts.c.id):
                raise Conflict(f"there is an account {account.id!r} already")
            await keep_audit(connection, audit)

    async def get(self, account_id: str) -> AccountRecord | None:
        """Does what `AccountStore.get` says."""
        async with self._database.read() as connection:
            return _record((await connection.execute(select(*_ACCOUNT).where(accounts.c.id == account_id))).first())

    async def page(self, *, limit: int, after: Position | None = None) -> list[AccountRecord]:
        """Does what `AccountStore.page` says."""
        statement = select(*_ACCOUNT).order_by(accounts.c.create_time, accounts.c.id).limit(limit)
        if after is not None:
            statement = statement.where(tuple_(accounts.c.create_time, accounts.c.id) > after)
        async with self._database.read() as connection:
            return [AccountRecord(**row._mapping) for row in await connection.execute(statement)]

    async def update(self, account_id: str, changes: Mapping[str, object], audit: AuditRecord) -> AccountRecord | None:
        """Does what `AccountStore.update` says."""
        statement = update(accounts).where(accounts.c.id == account_id).values(**changes).returning(*_ACCOUNT)
        async with self._database.write() as connection:
            account = _record((await connection.execute(statement)).first())
            if account is not None:
                await keep_audit(connection, audit)
            return account

    async def welcomed(self, account_id: str) -> None:
        """Does what `AccountStore.welcomed` says."""
        async with self._database.write() as connection:
            await connection.execute(update(accounts).where(accounts.c.id == account_id).values(welcome_due=False))

    async def erase(self, account_id: str, audit: AuditRecord) -> bool:
        """Does what `AccountStore.erase` says."""
        async with self._database.write() as connection:
            await connection.execute(delete(api_keys).where(api_keys.c.account_id == account_id))
            gone = delete(accounts).where(accounts.c.id == account_id).returning(accounts.c.id)  # the rest cascades
            if (await connection.execute(gone)).first() is None:
                return False
            await keep_audit(connection, audit)
            return True

    async def standing(
        self, account_id: str, user_id: str | None = None, login_id: str | None = None
    ) -> Standing | None:
        """Does what `AccountStore.standing` says."""
        named: list[Any] = [column.label(f"account_{column.name}") for column in _ACCOUNT]
        statement = select(*named).where(accounts.c.id == account_id)
        if user_id is not None:
            of_account = (users.c.account_id == accounts.c.id) & (users.c.id == user_id)
            statement = statement.add_columns(*_USER).join(users, of_account)
        if login_id is not None:
            statement = statement.join(logins, (logins.c.user_id == users.c.id) & (logins.c.id == login_id))
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            return None
        account = AccountRecord(*row[: len(_ACCOUNT)])
        return Standing(account, None if user_id is None else UserRecord(*row[len(_ACCOUNT) :]))

    async def ensure(self, account: AccountRecord, user: UserRecord, *, make_account: bool) -> Standing | None:
        """Does what `AccountStore.ensure` says."""
        known = select(users.c.id).where(users.c.account_id == account.id, users.c.subject == user.subject)
        async with self._database.read() as connection:
            user_id = (await connection.execute(known)).scalar()
        if user_id is None:
            async with self._database.write() as connection:
                if make_account:
                    await insert_new(connection, accounts, asdict(account), accounts.c.id)
                of_account = select(accounts.c.id).where(accounts.c.id == account.id).with_for_update()
                if (await connection.execute(of_account)).first() is None:
                    return None
                await insert_new(connection, users, asdict(user), users.c.account_id, users.c.subject)
                user_id = (await connection.execute(known)).scalar_one()
        return await self.standing(account.id, user_id)


class SqlAudit:
    """The audit log; see `AuditStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: AuditRecord) -> None:
        """Does what `AuditStore.add` says."""
        async with self._database.write() as connection:
            await keep_audit(connection, entry)

    async def page(self, account_id: str, *, limit: int, before: str | None = None) -> list[AuditRecord]:
        """Does what `AuditStore.page` says."""
        statement = select(*_AUDIT).where(audit_entries.c.account_id == account_id)
        if before is not None:
            statement = statement.where(audit_entries.c.id < before)
        async with self._database.read() as connection:
            rows = await connection.execute(statement.order_by(audit_entries.c.id.desc()).limit(limit))
            return [AuditRecord(**row._mapping) for row in rows]

    async def purge(self, before: int, *, limit: int) -> int:
        """Does what `AuditStore.purge` says."""
        old = select(audit_entries.c.id).where(audit_entries.c.create_time < before).limit(limit)
        async with self._database.write() as connection:
            return (await connection.execute(delete(audit_entries).where(audit_entries.c.id.in_(old)))).rowcount


class SqlSecrets:
    """The server's own secrets; see `SecretStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure(self, name: str, value: bytes) -> bytes:
        """Does what `SecretStore.ensure` says."""
        stands = select(secrets.c.value).where(secrets.c.name == name)
        async with self._database.read() as connection:
            if (found := (await connection.execute(stands)).scalar()) is not None:
                return bytes(found)
        async with self._database.write() as connection:
            await insert_new(connection, secrets, {"name": name, "value": value}, secrets.c.name)
            return bytes((await connection.execute(stands)).scalar_one())
