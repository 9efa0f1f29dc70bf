"""From a credential, a key or a token, to its caller, on every call: a small cache before the store.

What a credential turned out to be is believed for a few seconds. A revocation made by another process is seen when that
time is over; one made by this process at once; the end of a credential's life to the microsecond.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dragoman.credentials import looks_like_token
from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.accounts.acts import nothing, welcome_new
from dragoman_server.accounts.secrets import MAX_SECRET_CHARS, secret_hash
from dragoman_server.caller import EVERYTHING, Caller, Grants
from dragoman_server.clock import system_clock
from dragoman_server.errors import DragomanError, Forbidden, Unauthenticated
from dragoman_server.ids import new_id
from dragoman_server.store.identity.records import AccountRecord, UserRecord

if TYPE_CHECKING:
    from dragoman.v1.account_service_pb2 import KeyGrants
    from dragoman_server.accounts.acts import Welcome
    from dragoman_server.accounts.tokens import Claims, Tokens
    from dragoman_server.clock import Clock
    from dragoman_server.store.identity.records import IdentityStore, KeyRecord, Standing

ACCEPTED_TTL = 3.0
"""Seconds that a good credential is believed without asking the store."""

REFUSED_TTL = 1.0
"""Seconds that a bad one is refused without asking the store."""

MAX_ACCEPTED = 10_000
"""Most good credentials remembered."""

MAX_REFUSED = 1_000
"""Most bad ones remembered; they are kept apart, so that a flood of them displaces no good one."""


class _Refusal(NamedTuple):
    """Why a credential is refused. No exception: one that is raised again and again would gather tracebacks."""

    message: str
    reason: Reason
    kind: type[DragomanError] = Unauthenticated


_UNKNOWN = _Refusal("the API key is not known", Reason.API_KEY_INVALID)
_REVOKED = _Refusal("the API key was revoked", Reason.API_KEY_REVOKED)
_KEY_DISABLED = _Refusal("the API key is disabled", Reason.API_KEY_REVOKED)
_KEY_EXPIRED = _Refusal("the API key has expired", Reason.API_KEY_EXPIRED)
_TOKEN_EXPIRED = _Refusal("the access token is refused: it has expired", Reason.TOKEN_EXPIRED)
_LOGIN_ENDED = _Refusal("the access token is refused: its login has ended", Reason.TOKEN_INVALID)
_NO_ACCOUNT = _Refusal("the access token is refused: its account does not exist", Reason.TOKEN_INVALID)
_ACCOUNT_DISABLED = _Refusal("the account is disabled", Reason.ACCOUNT_DISABLED, Forbidden)
_USER_DISABLED = _Refusal("the user is disabled", Reason.ACCOUNT_DISABLED, Forbidden)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a credential turned out to be.

    Attributes:
        caller: Whose it is; None if it is refused.
        refusal: Why it is refused, or what it is refused with when it has expired.
        expires: When it expires, in seconds since the epoch.
        stale: When to ask again, on the monotonic clock.
    """

    caller: Caller | None
    refusal: _Refusal
    expires: float
    stale: float


class Authenticator:
    """Finds out whose credential a call carries.

    Args:
        store: Those who may call.
        tokens: Checks tokens.
        create_accounts: Whether accounts that good tokens name are made when they do not exist.
        welcome: Is told of each new account.
        clock: Tells the time.
        monotonic: Tells how time passes.
    """

    def __init__(
        self,
        store: IdentityStore,
        tokens: Tokens,
        *,
        create_accounts: bool = True,
        welcome: Welcome = nothing,
        clock: Clock = system_clock,
        monotonic: Clock = time.monotonic,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._create_accounts = create_accounts
        self._welcome = welcome
        self._clock = clock
        self._monotonic = monotonic
        self._accepted: dict[bytes, _Entry] = {}  # by hash, oldest first
        self._refused: dict[bytes, _Entry] = {}
        self._lookups: dict[bytes, asyncio.Task[_Entry]] = {}

    def cached(self, credential: str) -> Caller | None:
        """Returns the caller if the credential was found good a moment ago; None says nothing about it."""
        return self.recall(secret_hash(credential))

    def recall(self, digest: bytes) -> Caller | None:
        """Does what `cached` does, given the credential's hash."""
        entry = self._accepted.get(digest)
        if entry is None or self._monotonic() >= entry.stale:
            return None
        if entry.expires != math.inf and self._clock() >= entry.expires:
            return None
        return entry.caller

    async def authenticate(self, credential: str) -> Caller:
        """Returns the caller.

        Raises:
            Unauthenticated: If the credential is missing, unknown, malformed, expired or revoked; see the reason.
            Forbidden: If its account or user is disabled.
            Unavailable: If the store, or the identity provider, does not answer.
        """
        if not credential:
            raise Unauthenticated(
                "an API key is needed, as `Authorization: Bearer KEY` or `x-api-key: KEY`",
                reason=Reason.API_KEY_MISSING,
            )
        if len(credential) > MAX_SECRET_CHARS and not looks_like_token(credential):
            raise Unauthenticated("this is no API key: it is too long")
        digest = secret_hash(credential)
        entry = self._accepted.get(digest) or self._refused.get(digest)
        if entry is None or self._monotonic() >= entry.stale:
            entry = await self._find(digest, credential)
        if entry.caller is None or self._clock() >= entry.expires:
            refusal = entry.refusal
            raise refusal.kind(refusal.message, reason=refusal.reason)
        return entry.caller

    def forget(self, digest: bytes) -> None:
        """Drops what is known of a secret, given its hash: its key has just changed."""
        self._accepted.pop(digest, None)
        self._refused.pop(digest, None)
        self._lookups.pop(digest, None)  # it may have read the key before the change: nobody else shall join it

    def forget_account(self, account_id: str) -> None:
        """Drops what is known of the credentials of an account: it, or one of its users, has just changed."""
        for digest, entry in tuple(self._accepted.items()):
            if entry.caller is not None and entry.caller.account_id == account_id:
                del self._accepted[digest]
        self._refused.clear()
        self._lookups.clear()

    async def _find(self, digest: bytes, credential: str) -> _Entry:
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = self._lookups[digest] = asyncio.create_task(self._look_up(digest, credential))
        # Calls with the same credential share one query, and none of them, leaving, shall end it for the others.
        return await asyncio.shield(lookup)

    async def _look_up(self, digest: bytes, credential: str) -> _Entry:
        asked = self._monotonic()
        this = asyncio.current_task()
        try:
            entry = await (
                self._token(digest, credential, asked) if looks_like_token(credential) else self._key(digest, asked)
            )
            if self._lookups.get(digest) is this:
                self._accepted.pop(digest, None)
                self._refused.pop(digest, None)
                good = entry.caller is not None and self._clock() < entry.expires
                cache, limit = (self._accepted, MAX_ACCEPTED) if good else (self._refused, MAX_REFUSED)
                if len(cache) >= limit:
                    del cache[next(iter(cache))]
                cache[digest] = entry
            return entry
        finally:
            if self._lookups.get(digest) is this:
                del self._lookups[digest]

    async def _key(self, digest: bytes, asked: float) -> _Entry:
        """Returns whose key has this hash."""
        key = await self._store.keys.find(digest)
        if key is None or not hmac.compare_digest(key.secret_hash, digest):
            return _refused(_UNKNOWN, asked)
        if key.revoke_time is not None:
            return _refused(_REVOKED, asked)
        if key.disabled:
            return _refused(_KEY_DISABLED, asked)
        expires = math.inf if key.expire_time is None else key.expire_time / 1_000_000
        if self._clock() >= expires:
            return _refused(_KEY_EXPIRED, asked)
        standing = await self._store.accounts.standing(key.account_id, key.user_id)
        if standing is None:  # erased since
            return _refused(_UNKNOWN, asked)
        if refusal := _refusal_of(standing):
            return _refused(refusal, asked)
        await welcome_new(self._store.accounts, self._welcome, standing.account)
        return _Entry(_key_caller(key, standing), _KEY_EXPIRED, expires, asked + ACCEPTED_TTL)

    async def _token(self, digest: bytes, token: str, asked: float) -> _Entry:
        """Returns whose token it is. Bad ones are refused by what they are, and never get as far as the store."""
        claims = await self._tokens.verify(digest, token)
        if claims.login_id is not None:
            standing = await self._store.accounts.standing(claims.account_id, claims.subject, claims.login_id)
        else:
            standing = await self._subject(claims)
        if standing is None:
            return _refused(_NO_ACCOUNT if claims.login_id is None else _LOGIN_ENDED, asked)
        if refusal := _refusal_of(standing):
            return _refused(refusal, asked)
        await welcome_new(self._store.accounts, self._welcome, standing.account)
        return _Entry(_token_caller(claims, standing), _TOKEN_EXPIRED, claims.expire_time, asked + ACCEPTED_TTL)

    async def _subject(self, claims: Claims) -> Standing | None:
        """Returns the standing of a subject of the identity provider, who is made a user when first seen."""
        now = int(self._clock() * 1_000_000)
        account = AccountRecord(claims.account_id, create_time=now, name=claims.account_id, welcome_due=True)
        user = UserRecord(
            id=new_id("user"),
            account_id=claims.account_id,
            email=None,
            password_hash=None,
            subject=claims.subject,
            name="",
            role=KeyRole.KEY_ROLE_MEMBER,
            disabled=False,
            create_time=now,
        )
        return await self._store.accounts.ensure(account, user, make_account=self._create_accounts)


def _refused(refusal: _Refusal, asked: float) -> _Entry:
    return _Entry(None, refusal, math.inf, asked + REFUSED_TTL)


def _refusal_of(standing: Standing) -> _Refusal | None:
    if standing.account.disabled:
        return _ACCOUNT_DISABLED
    return _USER_DISABLED if standing.user is not None and standing.user.disabled else None


def _key_caller(key: KeyRecord, standing: Standing) -> Caller:
    grants = key.grants
    return Caller(
        account_id=key.account_id,
        key_id=key.id,
        role=key.role if standing.user is None else min(key.role, standing.user.role),  # a key is no more than its user
        user_id=key.user_id or "",
        grants=EVERYTHING if grants is None else _grants(grants),
        plan=standing.account.plan,
        key_limits=grants.limits if grants is not None and grants.HasField("limits") else None,
        account_limits=standing.account.limits,
        expire_time=key.expire_time,
    )


def _token_caller(claims: Claims, standing: Standing) -> Caller:
    user = standing.user
    assert user is not None  # it was asked for
    role = user.role
    if claims.login_id is None:  # nobody becomes operator by another's token
        role = max(claims.role, min(user.role, KeyRole.KEY_ROLE_ADMIN))
    return Caller(
        account_id=standing.account.id,
        key_id="",
        role=role,
        user_id=user.id,
        grants=Grants(scopes=claims.scopes) if claims.scopes else EVERYTHING,
        plan=standing.account.plan,
        account_limits=standing.account.limits,
    )


def _grants(grants: KeyGrants) -> Grants:
    found = Grants(frozenset(grants.scopes), tuple(grants.models), frozenset(grants.providers))
    return EVERYTHING if found == EVERYTHING else found
