"""The store in memory: for trials, where nothing needs to survive the process."""

from __future__ import annotations

from bisect import insort
from dataclasses import replace
from typing import TYPE_CHECKING

from dragoman_server.caller import DEFAULT_ACCOUNT
from dragoman_server.errors import NotFound

if TYPE_CHECKING:
    from dragoman_server.store.base import KeyRecord


def _position(key: KeyRecord) -> tuple[int, str]:
    return key.create_time, key.id


class MemoryKeys:
    """The API keys; see `KeyStore`."""

    def __init__(self) -> None:
        self._by_account: dict[str, list[KeyRecord]] = {DEFAULT_ACCOUNT: []}  # each in the order of `_position`
        self._by_hash: dict[bytes, KeyRecord] = {}

    async def add(self, key: KeyRecord, *, only_first: bool = False) -> bool:
        """Does what `KeyStore.add` says."""
        keys = self._by_account.get(key.account_id)
        if keys is None:
            raise NotFound(f"account {key.account_id!r} does not exist")
        if key.secret_hash in self._by_hash or (only_first and keys):
            return False
        insort(keys, key, key=_position)
        self._by_hash[key.secret_hash] = key
        return True

    async def get(self, account_id: str, key_id: str) -> KeyRecord | None:
        """Does what `KeyStore.get` says."""
        return next((key for key in self._by_account.get(account_id, ()) if key.id == key_id), None)

    async def find(self, secret_hash: bytes) -> KeyRecord | None:
        """Does what `KeyStore.find` says."""
        return self._by_hash.get(secret_hash)

    async def page(self, account_id: str, *, limit: int, after: tuple[int, str] | None = None) -> list[KeyRecord]:
        """Does what `KeyStore.page` says."""
        keys = self._by_account.get(account_id, [])
        return [key for key in keys if after is None or _position(key) > after][:limit]

    async def revoke(self, account_id: str, key_id: str, revoke_time: int) -> KeyRecord | None:
        """Does what `KeyStore.revoke` says."""
        key = await self.get(account_id, key_id)
        if key is None or key.revoke_time is not None:
            return key
        revoked = replace(key, revoke_time=revoke_time)
        keys = self._by_account[account_id]
        keys[keys.index(key)] = revoked
        self._by_hash[key.secret_hash] = revoked
        return revoked


class MemoryStore:
    """A store in memory; see `Store`."""

    def __init__(self) -> None:
        self.keys = MemoryKeys()

    async def migrate(self) -> None:
        """Does nothing: there is no schema."""

    async def close(self) -> None:
        """Does nothing: there is no connection."""
