"""What is kept of personas, and what is asked of whoever keeps it. Every method takes the account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dragoman.v1.persona_service_pb2 import Persona
    from dragoman_server.store.identity.records import AuditRecord


@dataclass(frozen=True, slots=True)
class PersonaRecord:
    """A stored persona.

    Attributes:
        account_id: The account.
        name: Its name.
        body: The persona. Not to be changed.
        version: Grows by 1 with every change.
        update_time: When it was last changed, in microseconds since the Unix epoch.
    """

    account_id: str
    name: str
    body: Persona
    version: int
    update_time: int


class PersonaStore(Protocol):
    """The stored personas. All methods raise `Unavailable` if the database does not answer."""

    async def get(self, account_id: str, name: str) -> PersonaRecord | None:
        """Returns a persona."""

    async def page(self, account_id: str, *, limit: int, after: str = "") -> list[PersonaRecord]:
        """Returns the first personas by name, beginning behind `after`."""

    async def save(
        self,
        account_id: str,
        body: Persona,
        now: int,
        version: int | None = None,
        audit: AuditRecord | None = None,
    ) -> PersonaRecord | None:
        """Makes or replaces a persona; returns it, or None if it has not the version that it must have.

        Args:
            account_id: The account.
            body: The persona.
            now: The time.
            version: The version that the stored one must have, if any.
            audit: Tells of it.

        Raises:
            NotFound: If the account does not exist.
        """

    async def delete(self, account_id: str, name: str, audit: AuditRecord | None = None) -> bool:
        """Deletes a persona; returns whether there was one. `audit` tells of it."""
