"""Users of accounts: making, listing, changing and erasing them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server import paging
from dragoman_server.accounts.acts import checked_name, position, token_of
from dragoman_server.accounts.authority import granted_role, require_no_more, require_unrestricted
from dragoman_server.audit import actor
from dragoman_server.authority import managed_account
from dragoman_server.errors import Conflict, InvalidRequest, NotFound
from dragoman_server.ids import new_id
from dragoman_server.store.identity.records import USER_DELETED, UserRecord
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from dragoman_server.accounts.acts import Acts
    from dragoman_server.accounts.authentication import Authenticator
    from dragoman_server.accounts.passwords import Passwords
    from dragoman_server.caller import Caller
    from dragoman_server.store.identity.records import IdentityStore

USER_ID = re.compile(r"user_[0-9a-f]{32}", re.ASCII)
"""What the id of a user looks like."""

MAX_EMAIL_CHARS = 254
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")

logger = get_logger(__name__)


class Users:
    """The users of all accounts.

    Methods take the account meant, empty for the caller's own. All need ADMIN, but for reading oneself, and raise
    `Forbidden` if the caller may not, and `NotFound` if the account is another's or has no such user.
    """

    def __init__(self, store: IdentityStore, authenticator: Authenticator, acts: Acts, passwords: Passwords) -> None:
        self._store = store
        self._authenticator = authenticator
        self._acts = acts
        self._passwords = passwords

    async def create(
        self,
        caller: Caller,
        email: str,
        password: str = "",
        name: str = "",
        role: KeyRole = KeyRole.KEY_ROLE_UNSPECIFIED,
        *,
        account_id: str = "",
    ) -> UserRecord:
        """Makes a user.

        Args:
            caller: Who asks.
            email: What they log in with; unique on the server.
            password: What they log in with beside it; without one they cannot.
            name: What they are called.
            role: What they may do; unspecified means MEMBER.
            account_id: The account.

        Raises:
            Conflict: If somebody has this email.
            Forbidden: If a restricted credential gives a password or a role: what a user does is not restricted.
            InvalidRequest: If an argument is out of its bounds.
        """
        account_id = managed_account(caller, account_id)
        if password or role > KeyRole.KEY_ROLE_MEMBER:
            require_unrestricted(caller)
        user = UserRecord(
            id=new_id("user"),
            account_id=account_id,
            email=checked_email(email),
            password_hash=await self._passwords.hash(password) if password else None,
            subject=None,
            name=checked_name(name) if name else "",
            role=granted_role(caller, role),
            disabled=False,
            create_time=self._acts.now(),
        )
        audit = self._acts.entry(caller, account_id, "user.create", user.id, role=KeyRole.Name(user.role))
        await self._store.users.add(user, audit)
        logger.info("user made", user_id=user.id, by=actor(caller))
        return user

    async def get(self, caller: Caller, user_id: str = "", *, account_id: str = "") -> UserRecord:
        """Returns a user: the caller, or any of the account for an ADMIN."""
        if not user_id and not caller.user_id:
            raise NotFound("the credential is no user's")
        if user_id and user_id != caller.user_id:
            if caller.role < KeyRole.KEY_ROLE_ADMIN:
                raise _missing(user_id)  # to whom manages nobody, there is nobody else
            account_id = managed_account(caller, account_id)
        return await self._get(account_id or caller.account_id, user_id or caller.user_id)

    async def page(
        self, caller: Caller, page_size: int = 0, page_token: str = "", *, account_id: str = ""
    ) -> tuple[list[UserRecord], str]:
        """Returns the next users of the account, oldest first, and the token of the page after; empty on the last.

        Raises:
            InvalidRequest: If the size is negative, or the token is not of this account.
        """
        account_id = managed_account(caller, account_id)
        size = paging.page_size(page_size)
        scope = f"users {account_id}"
        users = await self._store.users.page(account_id, limit=size + 1, after=position(scope, page_token))
        return users[:size], token_of(scope, users, size)

    async def update(
        self,
        caller: Caller,
        user_id: str,
        *,
        name: str | None = None,
        password: str | None = None,
        role: KeyRole = KeyRole.KEY_ROLE_UNSPECIFIED,
        disabled: bool | None = None,
        account_id: str = "",
    ) -> UserRecord:
        """Changes what is given of a user, at once for this process and within seconds for others.

        A new password, and being disabled, end all logins of the user.

        Raises:
            Conflict: If the caller disables themselves, or gives a password to a subject of an identity provider.
            Forbidden: If a restricted credential gives a password or a role, or enables again: what a user does is not
                restricted.
            InvalidRequest: If a value is out of its bounds.
        """
        account_id = managed_account(caller, account_id)
        user = await self._get(account_id, user_id)
        require_no_more(caller, user.role, "user")
        if disabled is False and not user.disabled:
            disabled = None  # nothing is to be done: who is disabled from now on stays so
        if password is not None or role > KeyRole.KEY_ROLE_MEMBER or disabled is False:
            require_unrestricted(caller)
        if disabled and user.id == caller.user_id:
            raise Conflict("nobody disables themselves")
        if password is not None and user.email is None:
            raise Conflict("a subject of an identity provider has no password here")
        changes: dict[str, object] = {
            "name": checked_name(name) if name else name,
            "password_hash": None if password is None else await self._passwords.hash(password),
            "role": None if role == KeyRole.KEY_ROLE_UNSPECIFIED else granted_role(caller, role),
            "disabled": disabled,
        }
        changes = {field: value for field, value in changes.items() if value is not None}
        if not changes:
            return user
        told = {} if "role" not in changes else {"role": KeyRole.Name(role)}
        audit = self._acts.entry(caller, account_id, "user.update", user_id, changed=sorted(changes), **told)
        end_logins = password is not None or bool(disabled)
        changed = await self._store.users.update(account_id, user_id, changes, audit, end_logins=end_logins)
        self._authenticator.forget_account(account_id)
        logger.info("user changed", user_id=user_id, by=actor(caller))
        return _found(changed, user_id)

    async def delete(self, caller: Caller, user_id: str, *, account_id: str = "") -> None:
        """Erases a user with their keys, logins and conversations; what they used stays with the account, as nobody's.

        Raises:
            Conflict: If the caller erases themselves.
        """
        account_id = managed_account(caller, account_id)
        user = await self._get(account_id, user_id)
        require_no_more(caller, user.role, "user")
        if user.id == caller.user_id:
            raise Conflict("nobody erases themselves")
        if not await self._store.users.erase(
            account_id, user_id, self._acts.entry(caller, account_id, USER_DELETED, user_id)
        ):
            raise _missing(user_id)
        self._authenticator.forget_account(account_id)
        logger.info("user erased", user_id=user_id, by=actor(caller))

    async def _get(self, account_id: str, user_id: str) -> UserRecord:
        user = await self._store.users.get(account_id, user_id) if USER_ID.fullmatch(user_id) else None
        return _found(user, user_id)


def checked_email(email: str) -> str:
    """Returns an email as it is compared: in lower case.

    Raises:
        InvalidRequest: If it is none.
    """
    if len(email) > MAX_EMAIL_CHARS or not _EMAIL.fullmatch(email) or not email.isprintable():
        raise InvalidRequest(f"email must be an address of at most {MAX_EMAIL_CHARS} characters", field="email")
    return email.lower()


def _found(user: UserRecord | None, user_id: str) -> UserRecord:
    if user is None:
        raise _missing(user_id)
    return user


def _missing(user_id: str) -> NotFound:
    return NotFound(f"user {user_id[:64]!r} does not exist")
