"""Personas: finding and changing them, and what one does to a request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dragoman.v1.persona_service_pb2 import Persona
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server import paging
from dragoman_server.audit import audit_entry
from dragoman_server.clock import system_clock
from dragoman_server.errors import Conflict, InvalidRequest, NotFound
from dragoman_server.instructions import put_first
from dragoman_server.personas.checks import NAME, check_persona, tool_name
from dragoman_server.personas.configured import configured_personas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman_server.caller import Caller
    from dragoman_server.clock import Clock
    from dragoman_server.settings import PersonaSettings
    from dragoman_server.store.personas.records import PersonaRecord, PersonaStore

MOST_NAMED = 20
"""How many of the known personas a refusal names."""
_ETAG = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class Personas:
    """The personas: those of the configuration, and those that accounts have made.

    Args:
        store: Where the accounts' ones are kept.
        settings: The configured ones.
        clock: The time.

    Raises:
        InvalidRequest: If a configured one makes no sense.
    """

    def __init__(self, store: PersonaStore, settings: Iterable[PersonaSettings], clock: Clock = system_clock) -> None:
        self._store = store
        self._configured = configured_personas(settings)
        self._clock = clock

    async def page(self, caller: Caller, page_size: int = 0, page_token: str = "") -> tuple[list[Persona], str]:
        """Returns the next personas that the caller may name, by name, and the token of the page after.

        Raises:
            InvalidRequest: If the token or the size is none.
        """
        size = paging.page_size(page_size)
        scope = f"personas:{caller.account_id}"
        position = paging.decode_token(scope, page_token, str)
        after = str(position[0]) if position else ""
        if after and not NAME.fullmatch(after):
            raise InvalidRequest("`page_token` is of no page of this list", field="page_token")
        stored = await self._store.page(caller.account_id, limit=size + 1, after=after)
        found = {name: persona for name, persona in self._configured.items() if name > after}
        found |= {record.name: _shown(record) for record in stored}
        names = sorted(found)[: size + 1]
        token = paging.encode_token(scope, names[size - 1]) if len(names) > size else ""
        return [found[name] for name in names[:size]], token

    async def get(self, caller: Caller, name: str) -> Persona:
        """Returns a persona. It is not to be changed.

        Raises:
            NotFound: If there is none of that name.
        """
        if (persona := await self._find(caller, name)) is None:
            raise NotFound(f"persona {name[:64]!r} does not exist", field="name")
        return persona

    async def save(self, caller: Caller, persona: Persona) -> Persona:
        """Makes or replaces a stored persona, and returns it.

        Raises:
            InvalidRequest: If the persona breaks a rule.
            Conflict: If it has an etag, and the stored one has another.
        """
        version = None
        if persona.etag:
            version = int(persona.etag) if _ETAG.fullmatch(persona.etag) else 0
        body = Persona()
        body.CopyFrom(persona)
        for field in ("configured", "etag", "update_time"):
            body.ClearField(field)
        try:
            check_persona(body)
        except InvalidRequest as error:
            error.field = f"persona.{error.field}"
            raise
        now = self._now()
        audit = audit_entry(caller, caller.account_id, now, "persona.save", body.name)
        record = await self._store.save(caller.account_id, body, now, version, audit)
        if record is None:
            raise Conflict("the persona has changed; its etag is another one", field="persona.etag")
        return _shown(record)

    async def delete(self, caller: Caller, name: str) -> None:
        """Deletes a stored persona.

        Raises:
            NotFound: If the account has made none of that name.
        """
        audit = audit_entry(caller, caller.account_id, self._now(), "persona.delete", name)
        if not NAME.fullmatch(name) or not await self._store.delete(caller.account_id, name, audit):
            configured = "; the one of this name comes from the configuration" if name in self._configured else ""
            raise NotFound(f"the account has no persona {name[:64]!r} of its own{configured}", field="name")

    async def apply(self, caller: Caller, chat: ChatSpec) -> ChatSpec:
        """Returns a request as its persona shapes it, with none named; the same message if it names none.

        The persona's instructions precede all others. Its model and sampling values hold where the request leaves them
        open, and its tools are added to the request's; of two of the same name, the request's counts.

        Args:
            caller: Who asks.
            chat: The request; it is not changed.

        Raises:
            InvalidRequest: If there is no such persona.
        """
        if not chat.persona:
            return chat
        if (persona := await self._find(caller, chat.persona)) is None:
            raise await self._unknown(caller, chat.persona)
        shaped = ChatSpec()
        shaped.CopyFrom(chat)
        shaped.ClearField("persona")
        if persona.system_prompt:
            put_first(shaped, persona.system_prompt)
        if not chat.model:
            shaped.model = persona.model
        if persona.HasField("sampling"):
            shaped.sampling.CopyFrom(persona.sampling)
            for field, _ in chat.sampling.ListFields():
                shaped.sampling.ClearField(field.name)  # lists are not to be joined
            shaped.sampling.MergeFrom(chat.sampling)
        given = {tool_name(tool) for tool in chat.tools}
        shaped.tools.extend(tool for tool in persona.tools if tool_name(tool) not in given)
        return shaped

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)

    async def _find(self, caller: Caller, name: str) -> Persona | None:
        if not NAME.fullmatch(name):
            return None
        record = await self._store.get(caller.account_id, name)
        return self._configured.get(name) if record is None else _shown(record)

    async def _unknown(self, caller: Caller, name: str) -> InvalidRequest:
        known, more = await self.page(caller, MOST_NAMED)
        names = ", ".join(persona.name for persona in known) + (", and others" if more else "")
        return InvalidRequest(
            f"`spec.chat.persona` is {name[:64]!r}, which does not exist; there are: {names}", field="spec.chat.persona"
        )


def _shown(record: PersonaRecord) -> Persona:
    persona = Persona()
    persona.CopyFrom(record.body)
    persona.etag = str(record.version)
    persona.update_time.FromMicroseconds(record.update_time)
    return persona
