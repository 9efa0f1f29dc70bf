"""Those who may call, in memory."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from dragoman_server.caller import DEFAULT_ACCOUNT
from dragoman_server.errors import Conflict, NotFound
from dragoman_server.store.identity.records import USER_DELETED, AccountRecord, KeyRecord, Standing, UserRecord, allow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dragoman_server.store.identity.records import AuditRecord, LoginRecord, Position

Row = TypeVar("Row", AccountRecord, UserRecord, KeyRecord)


def _nothing(_account_id: str, _user_id: str | None) -> None:
    """Erases nothing: there is no other domain."""


@dataclass
class _Rows:
    """All rows, by id."""

    erase_others: Callable[[str, str | None], None] = _nothing
    accounts: dict[str, AccountRecord] = field(default_factory=dict)
    users: dict[str, UserRecord] = field(default_factory=dict)
    emails: dict[str, str] = field(default_factory=dict)
    keys: dict[str, list[KeyRecord]] = field(default_factory=dict)  # by account, each in the order of `_position`
    key_hashes: dict[bytes, KeyRecord] = field(default_factory=dict)
    logins: dict[str, LoginRecord] = field(default_factory=dict)
    audit: list[AuditRecord] = field(default_factory=list)
    secrets: dict[str, bytes] = field(default_factory=dict)

    def user(self, account_id: str, user_id: str) -> UserRecord | None:
        user = self.users.get(user_id)
        return user if user is not None and user.account_id == account_id else None

    def forget_user(self, user: UserRecord) -> None:
        del self.users[user.id]
        if user.email is not None:
            del self.emails[user.email]
        self.end_logins(user.id)
        for key in [key for key in self.keys[user.account_id] if key.user_id == user.id]:
            self.keys[user.account_id].remove(key)
            del self.key_hashes[key.secret_hash]

    def end_logins(self, user_id: str) -> None:
        self.logins = {login.id: login for login in self.logins.values() if login.user_id != user_id}


class MemoryIdentity:
    """Those who may call; see `IdentityStore`.

    Args:
        erase: Erases what the other domains keep of an account, or of one user of it.
    """

    def __init__(self, erase: Callable[[str, str | None], None] = _nothing) -> None:
        rows = _Rows(
            erase, {DEFAULT_ACCOUNT: AccountRecord(DEFAULT_ACCOUNT, create_time=0)}, keys={DEFAULT_ACCOUNT: []}
        )
        self.accounts = MemoryAccounts(rows)
        self.users = MemoryUsers(rows)
        self.keys = MemoryKeys(rows)
        self.logins = MemoryLogins(rows)
        self.audit = MemoryAudit(rows)
        self.secrets = MemorySecrets(rows)
        self._rows = rows

    @property
    def account_records(self) -> Mapping[str, AccountRecord]:
        """The accounts by id: always those of now."""
        return self._rows.accounts

    def keep_audit(self, entry: AuditRecord) -> None:
        """Keeps what tells of an administrator's act."""
        self._rows.audit.append(entry)

    def rows(self, account_id: str) -> dict[str, list[Any]]:
        """Returns the records of an account by the names of their tables."""
        rows = self._rows
        account = rows.accounts.get(account_id)
        return {
            "accounts": [] if account is None else [account],
            "users": [user for user in rows.users.values() if user.account_id == account_id],
            "api_keys": list(rows.keys.get(account_id, ())),
            "logins": [login for login in rows.logins.values() if login.account_id == account_id],
            "audit_entries": [entry for entry in rows.audit if entry.account_id == account_id],
        }


class MemoryAccounts:
    """The accounts; see `AccountStore`."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, account: AccountRecord, audit: AuditRecord) -> None:
        """Does what `AccountStore.add` says."""
        if account.id in self._rows.accounts:
            raise Conflict(f"there is an account {account.id!r} already")
        self._add(account)
        self._rows.audit.append(audit)

    async def get(self, account_id: str) -> AccountRecord | None:
        """Does what `AccountStore.get` says."""
        return self._rows.accounts.get(account_id)

    async def page(self, *, limit: int, after: Position | None = None) -> list[AccountRecord]:
        """Does what `AccountStore.page` says."""
        return _page(self._rows.accounts.values(), limit, after)

    async def update(self, account_id: str, changes: Mapping[str, Any], audit: AuditRecord) -> AccountRecord | None:
        """Does what `AccountStore.update` says."""
        if (account := self._rows.accounts.get(account_id)) is None:
            return None
        changed = self._rows.accounts[account_id] = replace(account, **changes)
        self._rows.audit.append(audit)
        return changed

    async def welcomed(self, account_id: str) -> None:
        """Does what `AccountStore.welcomed` says."""
        if (account := self._rows.accounts.get(account_id)) is not None:
            self._rows.accounts[account_id] = replace(account, welcome_due=False)

    async def erase(self, account_id: str, audit: AuditRecord) -> bool:
        """Does what `AccountStore.erase` says."""
        rows = self._rows
        if account_id not in rows.accounts:
            return False
        for user in [user for user in rows.users.values() if user.account_id == account_id]:
            rows.forget_user(user)
        for key in rows.keys.pop(account_id):
            del rows.key_hashes[key.secret_hash]
        del rows.accounts[account_id]
        rows.erase_others(account_id, None)
        rows.audit.append(audit)
        return True

    async def standing(
        self, account_id: str, user_id: str | None = None, login_id: str | None = None
    ) -> Standing | None:
        """Does what `AccountStore.standing` says."""
        account = self._rows.accounts.get(account_id)
        user = None if user_id is None else self._rows.user(account_id, user_id)
        login = None if login_id is None else self._rows.logins.get(login_id)
        if account is None or (user_id is not None and user is None):
            return None
        if login_id is not None and (login is None or login.user_id != user_id):
            return None
        return Standing(account, user)

    async def ensure(self, account: AccountRecord, user: UserRecord, *, make_account: bool) -> Standing | None:
        """Does what `AccountStore.ensure` says."""
        rows = self._rows
        if account.id not in rows.accounts:
            if not make_account:
                return None
            self._add(account)
        known = (one for one in rows.users.values() if one.account_id == account.id and one.subject == user.subject)
        found = next(known, None)
        if found is None:
            found = rows.users[user.id] = user
        return Standing(rows.accounts[account.id], found)

    def _add(self, account: AccountRecord) -> None:
        self._rows.accounts[account.id] = account
        self._rows.keys[account.id] = []


class MemoryUsers:
    """The users; see `UserStore`."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, user: UserRecord, audit: AuditRecord) -> None:
        """Does what `UserStore.add` says."""
        rows = self._rows
        if user.account_id not in rows.accounts:
            raise NotFound(f"account {user.account_id!r} does not exist")
        if user.email in rows.emails:
            raise Conflict("somebody has this email already", field="email")
        rows.users[user.id] = user
        if user.email is not None:
            rows.emails[user.email] = user.id
        rows.audit.append(audit)

    async def get(self, account_id: str, user_id: str) -> UserRecord | None:
        """Does what `UserStore.get` says."""
        return self._rows.user(account_id, user_id)

    async def find(self, email: str) -> UserRecord | None:
        """Does what `UserStore.find` says."""
        return self._rows.users.get(self._rows.emails.get(email, ""))

    async def page(self, account_id: str, *, limit: int, after: Position | None = None) -> list[UserRecord]:
        """Does what `UserStore.page` says."""
        return _page((user for user in self._rows.users.values() if user.account_id == account_id), limit, after)

    async def update(
        self,
        account_id: str,
        user_id: str,
        changes: Mapping[str, Any],
        audit: AuditRecord,
        *,
        end_logins: bool = False,
    ) -> UserRecord | None:
        """Does what `UserStore.update` says."""
        if (user := self._rows.user(account_id, user_id)) is None:
            return None
        changed = self._rows.users[user_id] = replace(user, **changes)
        if end_logins:
            self._rows.end_logins(user_id)
        self._rows.audit.append(audit)
        return changed

    async def erase(self, account_id: str, user_id: str, audit: AuditRecord) -> bool:
        """Does what `UserStore.erase` says."""
        if (user := self._rows.user(account_id, user_id)) is None:
            return False
        self._rows.forget_user(user)
        self._rows.erase_others(account_id, user_id)
        self._rows.audit.append(audit)
        return True

    async def erase_late(self, since: int) -> None:
        """Does what `UserStore.erase_late` says."""
        for entry in self._rows.audit:
            if entry.action == USER_DELETED and entry.create_time >= since:
                self._rows.erase_others(entry.account_id, entry.target)


class MemoryKeys:
    """The API keys; see `KeyStore`."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, key: KeyRecord, audit: AuditRecord | None = None, *, only_first: bool = False) -> bool:
        """Does what `KeyStore.add` says."""
        keys = self._rows.keys.get(key.account_id)
        if keys is None:
            raise NotFound(f"account {key.account_id!r} does not exist")
        if key.user_id is not None and self._rows.user(key.account_id, key.user_id) is None:
            raise NotFound(f"user {key.user_id!r} does not exist")
        if key.secret_hash in self._rows.key_hashes or (only_first and keys):
            return False
        insort(keys, key, key=_position)
        self._rows.key_hashes[key.secret_hash] = key
        if audit is not None:
            self._rows.audit.append(audit)
        return True

    async def get(self, account_id: str, key_id: str) -> KeyRecord | None:
        """Does what `KeyStore.get` says."""
        return next((key for key in self._rows.keys.get(account_id, ()) if key.id == key_id), None)

    async def find(self, secret_hash: bytes) -> KeyRecord | None:
        """Does what `KeyStore.find` says."""
        return self._rows.key_hashes.get(secret_hash)

    async def page(self, account_id: str, *, limit: int, after: Position | None = None) -> list[KeyRecord]:
        """Does what `KeyStore.page` says."""
        return _page(self._rows.keys.get(account_id, ()), limit, after)

    async def update(
        self,
        account_id: str,
        key_id: str,
        changes: Mapping[str, Any],
        audit: AuditRecord,
        check: Callable[[KeyRecord], None] = allow,
    ) -> KeyRecord | None:
        """Does what `KeyStore.update` says."""
        if (key := await self.get(account_id, key_id)) is not None:
            check(key)
        return await self._change(account_id, key_id, changes, audit)

    async def revoke(
        self, account_id: str, key_id: str, revoke_time: int, audit: AuditRecord | None = None
    ) -> KeyRecord | None:
        """Does what `KeyStore.revoke` says."""
        key = await self.get(account_id, key_id)
        first = revoke_time if key is None or key.revoke_time is None else key.revoke_time
        return await self._change(account_id, key_id, {"revoke_time": first}, audit)

    async def _change(
        self, account_id: str, key_id: str, changes: Mapping[str, Any], audit: AuditRecord | None
    ) -> KeyRecord | None:
        key = await self.get(account_id, key_id)
        if key is None:
            return None
        changed = replace(key, **changes)
        keys = self._rows.keys[account_id]
        keys[keys.index(key)] = changed
        self._rows.key_hashes[key.secret_hash] = changed
        if audit is not None:
            self._rows.audit.append(audit)
        return changed


class MemoryLogins:
    """The logins; see `LoginStore`."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, login: LoginRecord, password_hash: str) -> None:
        """Does what `LoginStore.add` says."""
        rows = self._rows
        user = rows.user(login.account_id, login.user_id)
        if user is None or user.password_hash != password_hash or user.disabled:
            raise NotFound(f"user {login.user_id!r} does not exist")
        rows.logins = {one.id: one for one in rows.logins.values() if one.expire_time > login.create_time}
        rows.logins[login.id] = login

    async def get(self, login_id: str) -> LoginRecord | None:
        """Does what `LoginStore.get` says."""
        return self._rows.logins.get(login_id)

    async def rotate(self, login_id: str, old_hash: bytes, new_hash: bytes, expire_time: int) -> bool:
        """Does what `LoginStore.rotate` says."""
        login = self._rows.logins.get(login_id)
        if login is None or login.token_hash != old_hash:
            return False
        self._rows.logins[login_id] = replace(login, token_hash=new_hash, expire_time=expire_time)
        return True

    async def end(self, login_id: str) -> None:
        """Does what `LoginStore.end` says."""
        self._rows.logins.pop(login_id, None)


class MemoryAudit:
    """The audit log; see `AuditStore`."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, entry: AuditRecord) -> None:
        """Does what `AuditStore.add` says."""
        self._rows.audit.append(entry)

    async def page(self, account_id: str, *, limit: int, before: str | None = None) -> list[AuditRecord]:
        """Does what `AuditStore.page` says."""
        found = [entry for entry in self._rows.audit if entry.account_id == account_id]
        found.sort(key=lambda entry: entry.id, reverse=True)
        return [entry for entry in found if before is None or entry.id < before][:limit]

    async def purge(self, before: int, *, limit: int) -> int:
        """Does what `AuditStore.purge` says."""
        old = {entry.id for entry in [entry for entry in self._rows.audit if entry.create_time < before][:limit]}
        self._rows.audit = [entry for entry in self._rows.audit if entry.id not in old]
        return len(old)


class MemorySecrets:
    """The server's own secrets; see `SecretStore`."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def ensure(self, name: str, value: bytes) -> bytes:
        """Does what `SecretStore.ensure` says."""
        return self._rows.secrets.setdefault(name, value)


def _position(row: AccountRecord | UserRecord | KeyRecord) -> Position:
    return row.create_time, row.id


def _page(rows: Iterable[Row], limit: int, after: Position | None) -> list[Row]:
    return [row for row in sorted(rows, key=_position) if after is None or _position(row) > after][:limit]
