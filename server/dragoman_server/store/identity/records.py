"""What is kept of those who may call: records, and one protocol each.

Every query takes the account, so that no caller can reach another tenant's rows. The exceptions say so: what is looked
up by a secret or by a name to log in with, where the row itself tells the account.

What an administrator does is kept together with the entry that tells of it, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dragoman.v1.account_service_pb2 import KeyGrants, KeyRole, RateLimits

Position = tuple[int, str]
"""Behind what a page begins: time of creation and id of the last row of the page before."""


USER_DELETED = "user.delete"
"""The action of the entry that tells of an erased user."""


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """An account as it is stored.

    Attributes:
        id: The id.
        create_time: When it was made.
        name: What it is called.
        plan: The plan that it is subscribed to; empty for none.
        plan_start_time: From when the months of the plan are counted.
        disabled: Whether its calls are refused.
        limits: Its own limits, if it has some.
        welcome_due: Whether what new accounts get is still to come.
    """

    id: str
    create_time: int
    name: str = ""
    plan: str = ""
    plan_start_time: int | None = None
    disabled: bool = False
    limits: RateLimits | None = None
    welcome_due: bool = False


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user as it is stored.

    Attributes:
        id: The id, `user_` and a UUIDv7.
        account_id: The account.
        email: What they log in with, in lower case; unique. None for subjects of an identity provider.
        password_hash: The password's hash, as argon2 writes it; None if they cannot log in here.
        subject: The `sub` of the identity provider's tokens; unique within the account.
        name: What they are called.
        role: What they may do.
        disabled: Whether their calls are refused.
        create_time: When the user was made.
    """

    id: str
    account_id: str
    email: str | None
    password_hash: str | None = field(repr=False)
    subject: str | None
    name: str
    role: KeyRole
    disabled: bool
    create_time: int


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key as it is stored.

    Attributes:
        id: The id, `key_` and a UUIDv7.
        account_id: The account it belongs to.
        name: What it is for.
        prefix: The first characters of the secret, to recognise it by.
        secret_hash: SHA-256 of the secret; unique. Kept out of `repr`, and so out of logs.
        role: What it permits.
        create_time: When it was made.
        expire_time: From when on it no longer works, if ever.
        revoke_time: When it was revoked, if it was.
        disabled: Whether calls with it are refused for now.
        user_id: The user whose key it is; None if it is the account's own.
        grants: What it is restricted to, if to anything.
    """

    id: str
    account_id: str
    name: str
    prefix: str
    secret_hash: bytes = field(repr=False)
    role: KeyRole
    create_time: int
    expire_time: int | None = None
    revoke_time: int | None = None
    disabled: bool = False
    user_id: str | None = None
    grants: KeyGrants | None = None


@dataclass(frozen=True, slots=True)
class LoginRecord:
    """A login as it is stored.

    Attributes:
        id: The id, `login_` and a UUIDv7.
        account_id: The account.
        user_id: Who logged in.
        token_hash: SHA-256 of the one refresh token that is good.
        create_time: When it began.
        expire_time: When it ends if it is not refreshed.
    """

    id: str
    account_id: str
    user_id: str
    token_hash: bytes = field(repr=False)
    create_time: int
    expire_time: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One act of an administrator.

    Attributes:
        id: The id, `aud_` and a UUIDv7.
        account_id: The account that it was done in.
        create_time: When it was.
        actor: A key, a user, or `operator`.
        action: What was done, for example `key.revoke`.
        target: What it was done to, by its id.
        details: The particulars, as JSON; never a secret.
    """

    id: str
    account_id: str
    create_time: int
    actor: str
    action: str
    target: str
    details: str = "{}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides about the calls of a credential, beside the credential itself.

    Attributes:
        account: The account.
        user: The user, if the credential is one's.
    """

    account: AccountRecord
    user: UserRecord | None = None


def allow(_key: KeyRecord) -> None:
    """Has nothing against a change, whatever the key is."""


class AccountStore(Protocol):
    """The accounts. All methods raise `Unavailable` if the database does not answer, here and below."""

    async def add(self, account: AccountRecord, audit: AuditRecord) -> None:
        """Keeps a new account.

        Raises:
            Conflict: If its id is taken.
        """

    async def get(self, account_id: str) -> AccountRecord | None:
        """Returns an account."""

    async def page(self, *, limit: int, after: Position | None = None) -> list[AccountRecord]:
        """Returns the first of all accounts by (create_time, id), beginning behind `after`."""

    async def update(self, account_id: str, changes: Mapping[str, object], audit: AuditRecord) -> AccountRecord | None:
        """Changes attributes of an account and returns it; None if there is none."""

    async def welcomed(self, account_id: str) -> None:
        """Notes that an account has got what new accounts get. Repeatable."""

    async def erase(self, account_id: str, audit: AuditRecord) -> bool:
        """Erases an account and every row of it, but for its audit entries; returns whether there was one."""

    async def standing(
        self, account_id: str, user_id: str | None = None, login_id: str | None = None
    ) -> Standing | None:
        """Returns what decides about calls; None if the account, the user or the login named does not exist."""

    async def ensure(self, account: AccountRecord, user: UserRecord, *, make_account: bool) -> Standing | None:
        """Returns the user of the account that has the subject of the one given, and makes it if there is none.

        Args:
            account: The account; one of this id is left as it is.
            user: The user.
            make_account: Whether to make the account too. If not, and there is none, None is returned.
        """


class UserStore(Protocol):
    """The users."""

    async def add(self, user: UserRecord, audit: AuditRecord) -> None:
        """Keeps a new user.

        Raises:
            Conflict: If somebody has this email.
            NotFound: If the account does not exist.
        """

    async def get(self, account_id: str, user_id: str) -> UserRecord | None:
        """Returns a user of the account."""

    async def find(self, email: str) -> UserRecord | None:
        """Returns the user, of whatever account, who logs in with this email."""

    async def page(self, account_id: str, *, limit: int, after: Position | None = None) -> list[UserRecord]:
        """Returns the first users of the account by (create_time, id), beginning behind `after`."""

    async def update(
        self,
        account_id: str,
        user_id: str,
        changes: Mapping[str, object],
        audit: AuditRecord,
        *,
        end_logins: bool = False,
    ) -> UserRecord | None:
        """Changes attributes of a user and returns it; None if the account has no such user.

        Args:
            account_id: The account.
            user_id: The user.
            changes: New values by the names of attributes.
            audit: Tells of it.
            end_logins: Whether all logins of the user end.
        """

    async def erase(self, account_id: str, user_id: str, audit: AuditRecord) -> bool:
        """Erases a user with their keys, logins and conversations; what they used stays, without their name.

        Returns:
            Whether the account had such a user.
        """

    async def erase_late(self, since: int) -> None:
        """Erases what users of all accounts who were erased since a time have left behind them. For sweeps.

        Calls that were under way, or servers that had not heard of it, may have written something since.
        """


class KeyStore(Protocol):
    """The API keys."""

    async def add(self, key: KeyRecord, audit: AuditRecord | None = None, *, only_first: bool = False) -> bool:
        """Keeps a new key, unless a key with the same secret exists; returns whether it was kept.

        Args:
            key: The key.
            audit: Tells of it.
            only_first: Keep it only if its account has no key at all. Of several processes that try, one succeeds.

        Raises:
            NotFound: If the account, or the user of the key, does not exist.
        """

    async def get(self, account_id: str, key_id: str) -> KeyRecord | None:
        """Returns a key of the account."""

    async def find(self, secret_hash: bytes) -> KeyRecord | None:
        """Returns the key, of whatever account, with this hash."""

    async def page(self, account_id: str, *, limit: int, after: Position | None = None) -> list[KeyRecord]:
        """Returns the first keys of the account by (create_time, id), beginning behind `after`."""

    async def update(
        self,
        account_id: str,
        key_id: str,
        changes: Mapping[str, object],
        audit: AuditRecord,
        check: Callable[[KeyRecord], None] = allow,
    ) -> KeyRecord | None:
        """Changes attributes of a key and returns it; None if the account has no such key.

        Args:
            account_id: The account.
            key_id: The key.
            changes: New values by the names of attributes.
            audit: Tells of it.
            check: Looks at the key as it is right before, while nobody else changes it; what it raises is raised, and
                nothing changes.
        """

    async def revoke(
        self, account_id: str, key_id: str, revoke_time: int, audit: AuditRecord | None = None
    ) -> KeyRecord | None:
        """Revokes a key of the account and returns it; the time of its first revocation stands."""


class LoginStore(Protocol):
    """The logins. They are found by their ids, which are secrets of their owners."""

    async def add(self, login: LoginRecord, password_hash: str) -> None:
        """Keeps a new login; those whose time is over go.

        Args:
            login: The login.
            password_hash: The hash that the password was checked against. Checking takes a while: who has been given
                another password meanwhile, or was disabled, must not be logged in with the old one.

        Raises:
            NotFound: If the user does not exist any more, or not as they were when the password was checked.
        """

    async def get(self, login_id: str) -> LoginRecord | None:
        """Returns a login of whatever account."""

    async def rotate(self, login_id: str, old_hash: bytes, new_hash: bytes, expire_time: int) -> bool:
        """Puts a new refresh token into the place of the old one; returns whether the old one was the good one."""

    async def end(self, login_id: str) -> None:
        """Ends a login. Repeatable."""


class AuditStore(Protocol):
    """The audit log."""

    async def add(self, entry: AuditRecord) -> None:
        """Keeps an entry by itself, of an act that changes nothing."""

    async def page(self, account_id: str, *, limit: int, before: str | None = None) -> list[AuditRecord]:
        """Returns the newest entries of the account, beginning before the entry with the id `before`."""

    async def purge(self, before: int, *, limit: int) -> int:
        """Deletes entries of all accounts that are older than a time, no more than `limit`; returns how many."""


class SecretStore(Protocol):
    """Secrets of the server itself."""

    async def ensure(self, name: str, value: bytes) -> bytes:
        """Keeps a secret unless there is one of this name, and returns the one that stands."""


class IdentityStore(Protocol):
    """Those who may call."""

    @property
    def accounts(self) -> AccountStore:
        """The accounts."""

    @property
    def users(self) -> UserStore:
        """The users."""

    @property
    def keys(self) -> KeyStore:
        """The API keys."""

    @property
    def logins(self) -> LoginStore:
        """The logins."""

    @property
    def audit(self) -> AuditStore:
        """The audit log."""

    @property
    def secrets(self) -> SecretStore:
        """The server's own secrets."""
