"""The personas in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman_server.errors import NotFound
from dragoman_server.store.personas.records import PersonaRecord

if TYPE_CHECKING:
    from dragoman.v1.persona_service_pb2 import Persona
    from dragoman_server.store.identity.memory import MemoryIdentity
    from dragoman_server.store.identity.records import AuditRecord


class MemoryPersonas:
    """The personas; see `PersonaStore`."""

    def __init__(self, identity: MemoryIdentity) -> None:
        self._identity = identity
        self._personas: dict[tuple[str, str], PersonaRecord] = {}

    async def get(self, account_id: str, name: str) -> PersonaRecord | None:
        """Does what `PersonaStore.get` says."""
        return self._personas.get((account_id, name))

    async def page(self, account_id: str, *, limit: int, after: str = "") -> list[PersonaRecord]:
        """Does what `PersonaStore.page` says."""
        mine = [one for one in self._personas.values() if one.account_id == account_id and one.name > after]
        return sorted(mine, key=lambda one: one.name)[:limit]

    async def save(
        self,
        account_id: str,
        body: Persona,
        now: int,
        version: int | None = None,
        audit: AuditRecord | None = None,
    ) -> PersonaRecord | None:
        """Does what `PersonaStore.save` says."""
        if await self._identity.accounts.get(account_id) is None:
            raise NotFound(f"account {account_id!r} does not exist")
        old = self._personas.get((account_id, body.name))
        if version is not None and (old is None or old.version != version):
            return None
        new = PersonaRecord(account_id, body.name, body, 1 if old is None else old.version + 1, now)
        self._personas[account_id, body.name] = new
        self._keep(audit)
        return new

    async def delete(self, account_id: str, name: str, audit: AuditRecord | None = None) -> bool:
        """Does what `PersonaStore.delete` says."""
        if self._personas.pop((account_id, name), None) is None:
            return False
        self._keep(audit)
        return True

    def rows(self, account_id: str) -> dict[str, list[Any]]:
        """Returns the records of an account by the names of their tables."""
        return {"personas": [persona for persona in self._personas.values() if persona.account_id == account_id]}

    def erase(self, account_id: str, user_id: str | None) -> None:
        """Deletes the personas of an account; its users have none of their own."""
        if user_id is None:
            for key in [key for key in self._personas if key[0] == account_id]:
                del self._personas[key]

    def _keep(self, audit: AuditRecord | None) -> None:
        if audit is not None:
            self._identity.keep_audit(audit)
