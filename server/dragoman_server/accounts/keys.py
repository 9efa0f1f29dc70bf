"""API keys: making, listing, changing and revoking them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server import paging
from dragoman_server.accounts.acts import checked_limits, checked_name, position, token_of
from dragoman_server.accounts.authority import (
    MAX_LIST,
    SCOPES,
    granted_role,
    reach_of_key,
    require_no_more,
    require_within,
)
from dragoman_server.accounts.secrets import (
    MAX_SECRET_CHARS,
    MIN_CHOSEN_CHARS,
    is_presentable,
    new_secret,
    secret_hash,
    shown_prefix,
)
from dragoman_server.audit import actor
from dragoman_server.authority import managed_account
from dragoman_server.caller import DEFAULT_ACCOUNT, Caller
from dragoman_server.errors import InvalidRequest, NotFound
from dragoman_server.ids import new_id
from dragoman_server.store.identity.records import KeyRecord
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from dragoman.v1.account_service_pb2 import KeyGrants
    from dragoman_server.accounts.acts import Acts
    from dragoman_server.accounts.authentication import Authenticator
    from dragoman_server.store.identity.records import IdentityStore

KEY_ID = re.compile(r"key_[0-9a-f]{32}", re.ASCII)
"""What the id of a key looks like."""

LAST_TIME = 253_402_300_799_999_999
"""The last microsecond of the year 9999: the end of time in the contract."""

MAX_PATTERN_CHARS = 256

logger = get_logger(__name__)


def operator(account_id: str = DEFAULT_ACCOUNT) -> Caller:
    """Returns the caller that stands for whoever runs the server: may do everything, and has no key."""
    return Caller(account_id, key_id="", role=KeyRole.KEY_ROLE_OPERATOR)


class Keys:
    """The API keys of all accounts.

    Methods take the account meant, empty for the caller's own. All raise `Forbidden` if the caller may not, and
    `NotFound` if the account is another's.
    """

    def __init__(self, store: IdentityStore, authenticator: Authenticator, acts: Acts) -> None:
        self._store = store
        self._authenticator = authenticator
        self._acts = acts

    async def create(
        self,
        caller: Caller,
        name: str,
        role: KeyRole = KeyRole.KEY_ROLE_UNSPECIFIED,
        expire_time: int | None = None,
        grants: KeyGrants | None = None,
        *,
        account_id: str = "",
        user_id: str = "",
    ) -> tuple[KeyRecord, str]:
        """Makes a key and returns it with its secret, which cannot be had again.

        Args:
            caller: Who asks; needs ADMIN.
            name: What it is for, 1 to 128 characters.
            role: What it permits; unspecified means MEMBER.
            expire_time: When it stops working, in microseconds since the epoch; must lie ahead.
            grants: What it is restricted to.
            account_id: The account.
            user_id: The user whose key it is; empty for none.

        Raises:
            Forbidden: Also if the key would go further than the caller's own credential, or its user has a role above
                theirs.
            InvalidRequest: If an argument is out of its bounds.
            NotFound: If there is no such user.
        """
        account_id = managed_account(caller, account_id)
        secret = new_secret()
        key = self._new_key(
            account_id,
            checked_name(name),
            granted_role(caller, role),
            secret,
            self._checked_expiry(expire_time),
            user_id=user_id or None,
            grants=None if grants is None else _checked_grants(grants),
        )
        require_within(caller, reach_of_key(key))
        if user_id and (user := await self._store.users.get(account_id, user_id)) is not None:
            require_no_more(caller, user.role, "user")
        await self._add(caller, key)
        return key, secret

    async def get(self, caller: Caller, key_id: str, *, account_id: str = "") -> KeyRecord:
        """Returns a key: the caller's own, or any of the account for an ADMIN.

        Raises:
            NotFound: If the account has no such key.
        """
        if key_id != caller.key_id:
            account_id = managed_account(caller, account_id)
        return await self._get(account_id or caller.account_id, key_id)

    async def page(
        self, caller: Caller, page_size: int = 0, page_token: str = "", *, account_id: str = ""
    ) -> tuple[list[KeyRecord], str]:
        """Returns the next keys of the account, oldest first, and the token of the page after; empty on the last.

        Args:
            caller: Who asks; needs ADMIN.
            page_size: Most keys to return; 0 means 50, more than 1,000 means 1,000.
            page_token: The token that came with the page before.
            account_id: The account.

        Raises:
            InvalidRequest: If the size is negative, or the token is not of this account.
        """
        account_id = managed_account(caller, account_id)
        size = paging.page_size(page_size)
        keys = await self._store.keys.page(account_id, limit=size + 1, after=position(account_id, page_token))
        return keys[:size], token_of(account_id, keys, size)

    async def update(
        self,
        caller: Caller,
        key_id: str,
        *,
        name: str | None = None,
        disabled: bool | None = None,
        grants: KeyGrants | None = None,
        expire_time: int | None = None,
        account_id: str = "",
    ) -> KeyRecord:
        """Changes what is given of a key, at once for this process and within seconds for others.

        A key that goes further than the caller's own credential can be renamed, narrowed, disabled and ended sooner.

        Raises:
            Forbidden: Also if the key has a role above the caller's, or if it would go further than before, or be
                enabled again, and further than the caller's own credential.
            InvalidRequest: If a value is out of its bounds.
            NotFound: If the account has no such key.
        """
        account_id = managed_account(caller, account_id)
        key = await self._get(account_id, key_id)
        require_no_more(caller, key.role, "key")
        changes: dict[str, Any] = {
            "name": None if name is None else checked_name(name),
            "disabled": disabled,
            "grants": None if grants is None else _checked_grants(grants),
            "expire_time": self._checked_expiry(expire_time),
        }
        changes = {field: value for field, value in changes.items() if value is not None}
        if not changes:
            return key

        def check(before: KeyRecord) -> None:
            reach = reach_of_key(replace(before, **changes))
            if (before.disabled and disabled is False) or reach.beyond(reach_of_key(before)):
                require_within(caller, reach)

        audit = self._acts.entry(caller, account_id, "key.update", key_id, changed=sorted(changes))
        changed = _found(await self._store.keys.update(account_id, key_id, changes, audit, check), key_id)
        self._authenticator.forget(changed.secret_hash)
        logger.info("key changed", key_id=key.id, by=actor(caller))
        return changed

    async def revoke(self, caller: Caller, key_id: str, *, account_id: str = "") -> KeyRecord:
        """Revokes a key, at once for this process and within seconds for others. Repeatable.

        Raises:
            NotFound: If the account has no such key.
        """
        account_id = managed_account(caller, account_id)
        key = await self._get(account_id, key_id)
        require_no_more(caller, key.role, "key")
        if key.revoke_time is not None:
            return key
        audit = self._acts.entry(caller, account_id, "key.revoke", key_id, name=key.name)
        key = _found(await self._store.keys.revoke(account_id, key_id, self._acts.now(), audit), key_id)
        self._authenticator.forget(key.secret_hash)
        logger.info("key revoked", key_id=key.id, by=actor(caller))
        return key

    async def bootstrap(self, secret: str | None = None) -> str | None:
        """Makes the key that a new server is managed with; to be called at every start.

        Args:
            secret: A secret that the operator chose: a key with it is made unless there is one. Another secret at a
                later start makes another key, and leaves the first as it is.

        Returns:
            Without `secret`, the secret of the first key, to be shown once; None if there are keys already.

        Raises:
            InvalidRequest: If the chosen secret is too short, or no header can carry it.
        """
        chosen = secret is not None
        secret = secret if secret is not None else new_secret()
        if len(secret) < MIN_CHOSEN_CHARS or not is_presentable(secret):
            raise InvalidRequest(
                f"a chosen key must have {MIN_CHOSEN_CHARS} to {MAX_SECRET_CHARS} characters, "
                "printable ASCII without spaces, and no more than one dot",
                field="DRAGOMAN_BOOTSTRAP_KEY",
            )
        name = "bootstrap key" if chosen else "first key"
        key = self._new_key(DEFAULT_ACCOUNT, name, KeyRole.KEY_ROLE_OPERATOR, secret)
        added = await self._add(operator(), key, only_first=not chosen)
        if chosen and not added:
            existing = await self._store.keys.find(key.secret_hash)
            if existing is not None and existing.revoke_time is not None:
                logger.warning("the bootstrap key was revoked and stays so", key_id=existing.id)
        return secret if added and not chosen else None

    async def _get(self, account_id: str, key_id: str) -> KeyRecord:
        return _found(await self._store.keys.get(account_id, key_id) if KEY_ID.fullmatch(key_id) else None, key_id)

    async def _add(self, caller: Caller, key: KeyRecord, *, only_first: bool = False) -> bool:
        role = KeyRole.Name(key.role)
        audit = self._acts.entry(caller, key.account_id, "key.create", key.id, name=key.name, role=role)
        added = await self._store.keys.add(key, audit, only_first=only_first)
        if added:
            self._authenticator.forget(key.secret_hash)  # someone may have tried a chosen secret too early
            logger.info("key made", key_id=key.id, name=key.name, role=role)
        return added

    def _new_key(
        self,
        account_id: str,
        name: str,
        role: KeyRole,
        secret: str,
        expire_time: int | None = None,
        *,
        user_id: str | None = None,
        grants: KeyGrants | None = None,
    ) -> KeyRecord:
        return KeyRecord(
            id=new_id("key"),
            account_id=account_id,
            name=name,
            prefix=shown_prefix(secret),
            secret_hash=secret_hash(secret),
            role=role,
            create_time=self._acts.now(),
            expire_time=expire_time,
            user_id=user_id,
            grants=grants,
        )

    def _checked_expiry(self, expire_time: int | None) -> int | None:
        if expire_time is not None and not self._acts.now() < expire_time <= LAST_TIME:
            raise InvalidRequest("expire_time must lie ahead, and before the year 10000", field="expire_time")
        return expire_time


def _checked_grants(grants: KeyGrants) -> KeyGrants:
    for field in ("scopes", "models", "providers"):
        values = getattr(grants, field)
        if len(values) > MAX_LIST or any(not 1 <= len(value) <= MAX_PATTERN_CHARS for value in values):
            what = f"must have at most {MAX_LIST} items of 1 to {MAX_PATTERN_CHARS} characters"
            raise InvalidRequest(f"grants.{field} {what}", field=f"grants.{field}")
    for index, scope in enumerate(grants.scopes):
        if scope.removesuffix(".read") not in SCOPES:
            known = ", ".join(sorted(SCOPES))
            field = f"grants.scopes[{index}]"
            raise InvalidRequest(
                f"{field} {scope!r} does not exist; there are {known}, each also as .read", field=field
            )
    checked_limits(grants.limits, "grants.limits")
    return grants


def _found(key: KeyRecord | None, key_id: str) -> KeyRecord:
    if key is None:
        raise NotFound(f"key {key_id[:64]!r} does not exist")
    return key
