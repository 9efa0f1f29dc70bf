"""Users and their logins in SQL."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, tuple_, update

from dragoman_server.errors import Conflict, NotFound
from dragoman_server.store.erasure import erase_traces, erase_user
from dragoman_server.store.identity.records import USER_DELETED, LoginRecord, UserRecord
from dragoman_server.store.sql import insert_new, keep_audit
from dragoman_server.store.tables import accounts, audit_entries, logins, users

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Row

    from dragoman_server.store.database import Database
    from dragoman_server.store.identity.records import AuditRecord, Position

_COLUMNS = [users.c[field.name] for field in fields(UserRecord)]
_USERS = select(*_COLUMNS)
_LOGINS = select(*(logins.c[field.name] for field in fields(LoginRecord)))


def _record(row: Row[Any] | None) -> UserRecord | None:
    return None if row is None else UserRecord(**row._mapping)


class SqlUsers:
    """The users; see `UserStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: UserRecord, audit: AuditRecord) -> None:
        """Does what `UserStore.add` says."""
        async with self._database.write() as connection:
            account = select(accounts.c.id).where(accounts.c.id == user.account_id).with_for_update(read=True)
            if (await connection.execute(account)).first() is None:
                raise NotFound(f"account {user.account_id!r} does not exist")
            if not await insert_new(connection, users, asdict(user), users.c.email):
                raise Conflict("somebody has this email already", field="email")
            await keep_audit(connection, audit)

    async def get(self, account_id: str, user_id: str) -> UserRecord | None:
        """Does what `UserStore.get` says."""
        statement = _USERS.where(users.c.account_id == account_id, users.c.id == user_id)
        async with self._database.read() as connection:
            return _record((await connection.execute(statement)).first())

    async def find(self, email: str) -> UserRecord | None:
        """Does what `UserStore.find` says."""
        async with self._database.read() as connection:
            return _record((await connection.execute(_USERS.where(users.c.email == email))).first())

    async def page(self, account_id: str, *, limit: int, after: Position | None = None) -> list[UserRecord]:
        """Does what `UserStore.page` says."""
        statement = _USERS.where(users.c.account_id == account_id).limit(limit)
        statement = statement.order_by(users.c.create_time, users.c.id)
        if after is not None:
            statement = statement.where(tuple_(users.c.create_time, users.c.id) > after)
        async with self._database.read() as connection:
            return [UserRecord(**row._mapping) for row in await connection.execute(statement)]

    async def update(
        self,
        account_id: str,
        user_id: str,
        changes: Mapping[str, object],
        audit: AuditRecord,
        *,
        end_logins: bool = False,
    ) -> UserRecord | None:
        """Does what `UserStore.update` says."""
        this = (users.c.account_id == account_id) & (users.c.id == user_id)
        async with self._database.write() as connection:
            changed = update(users).where(this).values(**changes).returning(*_COLUMNS)
            user = _record((await connection.execute(changed)).first())
            if user is not None:
                if end_logins:
                    await connection.execute(delete(logins).where(logins.c.user_id == user_id))
                await keep_audit(connection, audit)
            return user

    async def erase(self, account_id: str, user_id: str, audit: AuditRecord) -> bool:
        """Does what `UserStore.erase` says."""
        async with self._database.write() as connection:
            if not await erase_user(connection, account_id, user_id):
                return False
            await keep_audit(connection, audit)
            return True

    async def erase_late(self, since: int) -> None:
        """Does what `UserStore.erase_late` says."""
        c = audit_entries.c
        erased = select(c.account_id, c.target).where(c.action == USER_DELETED, c.create_time >= since)
        async with self._database.read() as connection:
            found = (await connection.execute(erased)).all()
        for account_id, user_id in found:
            async with self._database.write() as connection:
                await erase_traces(connection, account_id, user_id)


class SqlLogins:
    """The logins; see `LoginStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, login: LoginRecord, password_hash: str) -> None:
        """Does what `LoginStore.add` says."""
        user = select(users.c.id).where(users.c.account_id == login.account_id, users.c.id == login.user_id)
        user = user.where(users.c.password_hash == password_hash, users.c.disabled.is_(False))
        async with self._database.write() as connection:
            if (await connection.execute(user.with_for_update(read=True))).first() is None:
                raise NotFound(f"user {login.user_id!r} does not exist")
            await connection.execute(delete(logins).where(logins.c.expire_time <= login.create_time))
            await connection.execute(logins.insert().values(**asdict(login)))

    async def get(self, login_id: str) -> LoginRecord | None:
        """Does what `LoginStore.get` says."""
        async with self._database.read() as connection:
            row = (await connection.execute(_LOGINS.where(logins.c.id == login_id))).first()
            return None if row is None else LoginRecord(**row._mapping)

    async def rotate(self, login_id: str, old_hash: bytes, new_hash: bytes, expire_time: int) -> bool:
        """Does what `LoginStore.rotate` says."""
        this = (logins.c.id == login_id) & (logins.c.token_hash == old_hash)
        statement = update(logins).where(this).values(token_hash=new_hash, expire_time=expire_time)
        async with self._database.write() as connection:
            return (await connection.execute(statement.returning(logins.c.id))).first() is not None

    async def end(self, login_id: str) -> None:
        """Does what `LoginStore.end` says."""
        async with self._database.write() as connection:
            await connection.execute(delete(logins).where(logins.c.id == login_id))
