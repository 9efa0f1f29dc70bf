"""From a credential to its caller, on every call: a small cache before the store.

What a credential turned out to be is believed for a few seconds. A revocation made by another process is seen when that
time is over; one made by this process at once; the end of a key's life to the microsecond.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman_server.accounts.secrets import MAX_SECRET_CHARS, secret_hash
from dragoman_server.caller import Caller
from dragoman_server.clock import system_clock
from dragoman_server.errors import Unauthenticated

if TYPE_CHECKING:
    from dragoman_server.clock import Clock
    from dragoman_server.store.base import KeyRecord, KeyStore

ACCEPTED_TTL = 3.0
"""Seconds that a good key is believed without asking the store."""

REFUSED_TTL = 1.0
"""Seconds that a bad credential is refused without asking the store."""

MAX_ACCEPTED = 10_000
"""Most good keys remembered."""

MAX_REFUSED = 1_000
"""Most bad credentials remembered; they are kept apart, so that a flood of them displaces no good one."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the store said of a credential.

    Attributes:
        key: The key; None if there is none.
        caller: Whose it is; None if it is to be refused.
        expires: When the key expires, in seconds since the epoch.
        stale: When to ask again, on the monotonic clock.
    """

    key: KeyRecord | None
    caller: Caller | None
    expires: float
    stale: float


class Authenticator:
    """Finds out whose key a call carries."""

    def __init__(self, keys: KeyStore, clock: Clock = system_clock, monotonic: Clock = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._monotonic = monotonic
        self._accepted: dict[bytes, _Entry] = {}  # by hash, oldest first
        self._refused: dict[bytes, _Entry] = {}
        self._lookups: dict[bytes, asyncio.Task[_Entry]] = {}

    def cached(self, credential: str) -> Caller | None:
        """Returns the caller if the credential was found good a moment ago; None says nothing about it."""
        entry = self._accepted.get(secret_hash(credential))
        if entry is None or self._monotonic() >= entry.stale or self._clock() >= entry.expires:
            return None
        return entry.caller

    async def authenticate(self, credential: str) -> Caller:
        """Returns the caller.

        Raises:
            Unauthenticated: If the credential is missing, unknown, expired or revoked; the reason says which.
            Unavailable: If the store does not answer.
        """
        if not credential:
            raise Unauthenticated(
                "an API key is needed, as `Authorization: Bearer KEY` or `x-api-key: KEY`",
                reason=Reason.API_KEY_MISSING,
            )
        if len(credential) > MAX_SECRET_CHARS:
            raise Unauthenticated("this is no API key: it is too long")
        digest = secret_hash(credential)
        entry = self._accepted.get(digest) or self._refused.get(digest)
        if entry is None or self._monotonic() >= entry.stale:
            entry = await self._find(digest)
        if entry.key is None:
            raise Unauthenticated("the API key is not known")
        if entry.key.revoke_time is not None:
            raise Unauthenticated("the API key was revoked", reason=Reason.API_KEY_REVOKED)
        if entry.caller is None or self._clock() >= entry.expires:
            raise Unauthenticated("the API key has expired", reason=Reason.API_KEY_EXPIRED)
        return entry.caller

    def forget(self, digest: bytes) -> None:
        """Drops what is known of a secret, given its hash: its key has just changed."""
        self._accepted.pop(digest, None)
        self._refused.pop(digest, None)
        self._lookups.pop(digest, None)  # it may have read the key before the change: nobody else shall join it

    async def _find(self, digest: bytes) -> _Entry:
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = self._lookups[digest] = asyncio.create_task(self._look_up(digest))
        # Calls with the same key share one query, and none of them, leaving, shall end it for the others.
        return await asyncio.shield(lookup)

    async def _look_up(self, digest: bytes) -> _Entry:
        asked = self._monotonic()
        this = asyncio.current_task()
        try:
            key = await self._keys.find(digest)
            if key is not None and not hmac.compare_digest(key.secret_hash, digest):
                key = None
            expires = math.inf if key is None or key.expire_time is None else key.expire_time / 1_000_000
            if key is not None and key.revoke_time is None and self._clock() < expires:
                caller = Caller(key.account_id, key.id, key.role)
                entry = _Entry(key, caller, expires, asked + ACCEPTED_TTL)
                cache, limit = self._accepted, MAX_ACCEPTED
            else:
                entry = _Entry(key, None, expires, asked + REFUSED_TTL)
                cache, limit = self._refused, MAX_REFUSED
            if self._lookups.get(digest) is this:
                self._accepted.pop(digest, None)
                self._refused.pop(digest, None)
                if len(cache) >= limit:
                    del cache[next(iter(cache))]
                cache[digest] = entry
            return entry
        finally:
            if self._lookups.get(digest) is this:
                del self._lookups[digest]
