"""What the core asks of a database: records, and one protocol per domain.

Every query takes the account, so that no caller can reach another tenant's rows. The one exception is finding a key by
the hash of its secret: there the row says whose call it is.

Times are microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dragoman_server.errors import DragomanError

if TYPE_CHECKING:
    from dragoman.v1.account_service_pb2 import KeyRole


class StoreUnusable(DragomanError):
    """The database cannot be used as it is; the message says what to do."""


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


class KeyStore(Protocol):
    """The API keys.

    All methods raise `Unavailable` if the database does not answer.
    """

    async def add(self, key: KeyRecord, *, only_first: bool = False) -> bool:
        """Keeps a new key, unless a key with the same secret exists; returns whether it was kept.

        Args:
            key: The key.
            only_first: Keep it only if its account has no key at all. Of several processes that try, one succeeds.

        Raises:
            NotFound: If the account does not exist.
        """

    async def get(self, account_id: str, key_id: str) -> KeyRecord | None:
        """Returns a key of the account."""

    async def find(self, secret_hash: bytes) -> KeyRecord | None:
        """Returns the key, of whatever account, with this hash."""

    async def page(self, account_id: str, *, limit: int, after: tuple[int, str] | None = None) -> list[KeyRecord]:
        """Returns the first keys of the account by (create_time, id), beginning behind `after`."""

    async def revoke(self, account_id: str, key_id: str, revoke_time: int) -> KeyRecord | None:
        """Revokes a key of the account and returns it; the time of its first revocation stands."""


class Store(Protocol):
    """An open database."""

    @property
    def keys(self) -> KeyStore:
        """The API keys."""

    async def migrate(self) -> None:
        """Brings the schema to the state this code needs; to be called before all else, by any number of processes.

        Raises:
            StoreUnusable: If the schema is newer than this code, or the database cannot be opened.
        """

    async def close(self) -> None:
        """Closes the connections. Called once."""
