"""The store in memory: for trials, where nothing needs to survive the process."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dragoman_server.store.conversations.memory import MemoryConversations
from dragoman_server.store.identity.memory import MemoryIdentity
from dragoman_server.store.ledger.memory import MemoryLedger
from dragoman_server.store.migrations import HEAD
from dragoman_server.store.personas.memory import MemoryPersonas
from dragoman_server.store.usage.memory import MemoryUsage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


class MemoryStore:
    """A store in memory; see `Store`."""

    def __init__(self) -> None:
        self.identity = MemoryIdentity(self._erase)
        self.ledger = MemoryLedger(self.identity)
        self.usage = MemoryUsage(self.identity.accounts)
        self.conversations = MemoryConversations(self.identity)
        self.personas = MemoryPersonas(self.identity)

    async def rows(self, account_id: str) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        """Does what `Store.rows` says."""
        for domain in (self.identity, self.ledger, self.usage, self.conversations, self.personas):
            for table, records in domain.rows(account_id).items():
                for record in records:
                    yield table, _row(record)

    async def revision(self) -> str | None:
        """Does what `Store.revision` says: what is made anew is always the newest."""
        return HEAD

    async def migrate(self) -> None:
        """Does nothing: there is no schema."""

    async def close(self) -> None:
        """Does nothing: there is no connection."""

    def _erase(self, account_id: str, user_id: str | None) -> None:
        """Erases what the domains keep of an account, or of one user of it (see `erasure.py`)."""
        self.ledger.erase(account_id, user_id)
        self.usage.erase(account_id, user_id)
        self.conversations.erase(account_id, user_id)
        self.personas.erase(account_id, user_id)


def _row(record: Any) -> Mapping[str, Any]:
    """Returns the values of a record by their names."""
    if isinstance(record, dict):
        return record
    names = record._fields if isinstance(record, tuple) else [field.name for field in fields(record)]  # type: ignore[attr-defined]
    return {name: getattr(record, name) for name in names}
