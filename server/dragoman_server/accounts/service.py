"""API keys: making, listing and revoking them, and telling whose key a call carries."""

from __future__ import annotations

import re
import time
import unicodedata
from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server import paging
from dragoman_server.accounts.authentication import Authenticator
from dragoman_server.accounts.secrets import (
    MAX_SECRET_CHARS,
    MIN_CHOSEN_CHARS,
    is_presentable,
    new_secret,
    secret_hash,
    shown_prefix,
)
from dragoman_server.caller import DEFAULT_ACCOUNT, Caller
from dragoman_server.clock import system_clock
from dragoman_server.errors import Forbidden, InvalidRequest, NotFound
from dragoman_server.ids import new_id
from dragoman_server.store.base import KeyRecord
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from dragoman_server.clock import Clock
    from dragoman_server.store.base import KeyStore

MAX_NAME_CHARS = 128
KEY_ID = re.compile(r"key_[0-9a-f]{32}", re.ASCII)
"""What the id of a key looks like."""
LAST_TIME = 253_402_300_799_999_999
"""The last microsecond of the year 9999: the end of time in the contract."""

logger = get_logger(__name__)


def operator(account_id: str = DEFAULT_ACCOUNT) -> Caller:
    """Returns the caller that stands for whoever runs the server: may manage keys, and has none."""
    return Caller(account_id, key_id="", role=KeyRole.KEY_ROLE_ADMIN)


class Accounts:
    """The API keys of all accounts.

    `cached(credential) -> Caller | None` is the synchronous fast path of `authenticate(credential) -> Caller`: see
    `Authenticator`.
    """

    def __init__(self, keys: KeyStore, clock: Clock = system_clock, monotonic: Clock = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._authenticator = Authenticator(keys, clock, monotonic)
        self.cached = self._authenticator.cached
        self.authenticate = self._authenticator.authenticate

    async def create_key(
        self,
        caller: Caller,
        name: str,
        role: KeyRole = KeyRole.KEY_ROLE_UNSPECIFIED,
        expire_time: int | None = None,
    ) -> tuple[KeyRecord, str]:
        """Makes a key and returns it with its secret, which cannot be had again.

        Args:
            caller: Who asks; needs ADMIN.
            name: What it is for, 1 to 128 characters.
            role: What it permits; unspecified means MEMBER.
            expire_time: When it stops working, in microseconds since the epoch; must lie ahead.

        Raises:
            Forbidden: If the caller may not.
            InvalidRequest: If an argument is out of its bounds.
        """
        _require_admin(caller)
        if not 1 <= len(name) <= MAX_NAME_CHARS or not name.strip():
            raise InvalidRequest(f"name must have 1 to {MAX_NAME_CHARS} characters", field="name")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise InvalidRequest("name must not have control characters", field="name")
        if role not in KeyRole.values():
            raise InvalidRequest(f"role {role} does not exist", field="role")
        if expire_time is not None and not self._now() < expire_time <= LAST_TIME:
            raise InvalidRequest("expire_time must lie ahead, and before the year 10000", field="expire_time")
        secret = new_secret()
        key = self._new_key(caller.account_id, name, role or KeyRole.KEY_ROLE_MEMBER, secret, expire_time)
        await self._add(key)
        return key, secret

    async def get_key(self, caller: Caller, key_id: str) -> KeyRecord:
        """Returns a key of the caller's account: its own, or any if it has ADMIN.

        Raises:
            Forbidden: If the caller may not.
            NotFound: If the account has no such key.
        """
        if key_id != caller.key_id:
            _require_admin(caller)
        key = await self._keys.get(caller.account_id, key_id) if KEY_ID.fullmatch(key_id) else None
        return _found(key, key_id)

    async def list_keys(self, caller: Caller, page_size: int = 0, page_token: str = "") -> tuple[list[KeyRecord], str]:
        """Returns the next keys of the account, oldest first, and the token of the page after; empty on the last.

        Args:
            caller: Who asks; needs ADMIN.
            page_size: Most keys to return; 0 means 50, more than 1,000 means 1,000.
            page_token: The token that came with the page before.

        Raises:
            Forbidden: If the caller may not.
            InvalidRequest: If the size is negative, or the token is not of this account.
        """
        _require_admin(caller)
        size = paging.page_size(page_size)
        after = _position(paging.decode_token(caller.account_id, page_token, int, str))
        keys = await self._keys.page(caller.account_id, limit=size + 1, after=after)
        if len(keys) <= size:
            return keys, ""
        last = keys[size - 1]
        return keys[:size], paging.encode_token(caller.account_id, last.create_time, last.id)

    async def revoke_key(self, caller: Caller, key_id: str) -> KeyRecord:
        """Revokes a key, at once for this process and within seconds for others. Repeatable.

        Raises:
            Forbidden: If the caller may not.
            NotFound: If the account has no such key.
        """
        _require_admin(caller)
        known = KEY_ID.fullmatch(key_id)
        key = _found(await self._keys.revoke(caller.account_id, key_id, self._now()) if known else None, key_id)
        self._authenticator.forget(key.secret_hash)
        logger.info("key revoked", key_id=key.id, by=caller.key_id or "operator")
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
                "printable ASCII without spaces",
                field="DRAGOMAN_BOOTSTRAP_KEY",
            )
        name = "bootstrap key" if chosen else "first key"
        key = self._new_key(DEFAULT_ACCOUNT, name, KeyRole.KEY_ROLE_ADMIN, secret)
        added = await self._add(key, only_first=not chosen)
        if chosen and not added:
            existing = await self._keys.find(key.secret_hash)
            if existing is not None and existing.revoke_time is not None:
                logger.warning("the bootstrap key was revoked and stays so", key_id=existing.id)
        return secret if added and not chosen else None

    async def _add(self, key: KeyRecord, *, only_first: bool = False) -> bool:
        added = await self._keys.add(key, only_first=only_first)
        if added:
            self._authenticator.forget(key.secret_hash)  # someone may have tried a chosen secret too early
            logger.info("key made", key_id=key.id, name=key.name, role=KeyRole.Name(key.role))
        return added

    def _new_key(
        self, account_id: str, name: str, role: KeyRole, secret: str, expire_time: int | None = None
    ) -> KeyRecord:
        return KeyRecord(
            id=new_id("key"),
            account_id=account_id,
            name=name,
            prefix=shown_prefix(secret),
            secret_hash=secret_hash(secret),
            role=role,
            create_time=self._now(),
            expire_time=expire_time,
        )

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


def _position(decoded: paging.Position) -> tuple[int, str] | None:
    """Returns the time of creation and the id that a page of keys begins behind, None for the first page."""
    match decoded:
        case (int(create_time), str(key_id)):
            return create_time, key_id
    return None


def _require_admin(caller: Caller) -> None:
    if caller.role != KeyRole.KEY_ROLE_ADMIN:
        raise Forbidden("managing keys needs a key with the role ADMIN")


def _found(key: KeyRecord | None, key_id: str) -> KeyRecord:
    if key is None:
        raise NotFound(f"key {key_id[:64]!r} does not exist")
    return key
