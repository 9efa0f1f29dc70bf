"""What the core asks of a database: one repository per domain.

Every query takes the account, so that no caller can reach another tenant's rows; the few exceptions say so.

Times are microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dragoman_server.errors import DragomanError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from dragoman_server.store.conversations.records import ConversationStore
    from dragoman_server.store.identity.records import IdentityStore
    from dragoman_server.store.ledger.records import LedgerStore
    from dragoman_server.store.personas.records import PersonaStore
    from dragoman_server.store.usage.records import UsageStore


class StoreUnusable(DragomanError):
    """The database cannot be used as it is; the message says what to do."""


class Store(Protocol):
    """An open database."""

    @property
    def identity(self) -> IdentityStore:
        """Accounts, users, keys, logins and the audit log."""

    @property
    def ledger(self) -> LedgerStore:
        """What accounts have to spend."""

    @property
    def usage(self) -> UsageStore:
        """What runs used."""

    @property
    def conversations(self) -> ConversationStore:
        """Conversations and their messages."""

    @property
    def personas(self) -> PersonaStore:
        """The personas that accounts have made."""

    def rows(self, account_id: str) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        """Yields every row of an account, of all domains, with the name of its table.

        Rows that change meanwhile are told as they were or as they are.

        Raises:
            Unavailable: If the database does not answer.
        """

    async def revision(self) -> str | None:
        """Returns the revision of the schema, None if there is none yet; makes nothing.

        Raises:
            StoreUnusable: If the database cannot be opened.
        """

    async def migrate(self) -> None:
        """Brings the schema to the state this code needs; to be called before all else, by any number of processes.

        Raises:
            StoreUnusable: If the schema is newer than this code, or the database cannot be opened.
        """

    async def close(self) -> None:
        """Writes what still waits, then closes the connections. Called once."""
