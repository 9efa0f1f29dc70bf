"""Appends to many conversations in one transaction."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import and_, bindparam, insert, tuple_, update

from dragoman_server.errors import DragomanError
from dragoman_server.store.conversations import queries
from dragoman_server.store.conversations.rules import appended, repeated
from dragoman_server.store.tables import conversations, messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from dragoman_server.store.conversations.records import Append, Appended, ConversationRecord, MessageRecord

_MOVED = ("head_message_id", "message_count", "byte_count", "title", "words", "version", "update_time")
_MOVE = (
    update(conversations)
    .where(conversations.c.id == bindparam("of_id"))
    .values({field: bindparam(f"new_{field}") for field in _MOVED})
)


async def append_group(connection: AsyncConnection, group: Sequence[Append]) -> list[Appended | Exception]:
    """Appends all that can be; returns what came of each.

    Args:
        connection: In a transaction.
        group: The appends; of one conversation, those before come first.
    """
    work = _Work(connection)
    await work.lock(group)
    results: list[Appended | Exception] = []
    for append in group:
        try:
            results.append(await work.do(append))
        except DragomanError as error:  # refused, and nothing of it was written
            results.append(error)
    await work.write()
    return results


class _Work:
    """The conversations of a group as its appends leave them, and what is not written yet."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._current: dict[tuple[str, str, str], ConversationRecord] = {}
        self._moved: dict[str, ConversationRecord] = {}
        self._new: list[MessageRecord] = []

    async def lock(self, group: Sequence[Append]) -> None:
        """Reads the conversations; nobody else changes them in the transaction's time."""
        c = conversations.c
        named = tuple_(c.account_id, c.user_id, c.id).in_({_key(append) for append in group})
        # In one order, lest two groups of different processes wait for each other.
        statement = queries.CONVERSATIONS.where(named).order_by(c.id).with_for_update()
        for found in await queries.conversations_of(self._connection, statement):
            self._current[found.account_id, found.user_id, found.id] = found

    async def do(self, append: Append) -> Appended:
        """Does one append; what is new is written later.

        Raises:
            DragomanError: If it is refused.
        """
        conversation = self._current.get(_key(append))
        taken: set[str] = set()
        client_ids = {message.client_id for message in append.messages if message.client_id is not None}
        if conversation is not None and (append.request_key is not None or client_ids):
            await self.write()  # what the group has appended counts too
            if append.request_key is not None and (before := await self._before(append)):
                return repeated(append, conversation, before)
            if client_ids:
                taken = await self._taken(conversation, client_ids)
        result = appended(append, conversation, taken)
        self._current[_key(append)] = self._moved[result.conversation.id] = result.conversation
        self._new += result.messages
        return result

    async def write(self) -> None:
        """Writes what is new."""
        new, self._new = self._new, []
        moved, self._moved = self._moved, {}
        if new:
            await self._connection.execute(insert(messages), [asdict(message) for message in new])
        if moved:
            changes = [_change(conversation) for conversation in moved.values()]
            await self._connection.execute(_MOVE, changes)

    async def _before(self, append: Append) -> list[MessageRecord]:
        same = and_(
            messages.c.account_id == append.owner.account_id,
            messages.c.request_key == append.request_key,
        )
        return await queries.messages_of(self._connection, queries.MESSAGES.where(same).order_by(messages.c.depth))

    async def _taken(self, conversation: ConversationRecord, client_ids: set[str]) -> set[str]:
        head = conversation.head_message_id
        if head is None:
            return set()
        statement = queries.chain(conversation.account_id, head).where(messages.c.client_id.in_(client_ids))
        found = await queries.messages_of(self._connection, statement)
        return {message.client_id for message in found if message.client_id is not None}


def _key(append: Append) -> tuple[str, str, str]:
    return append.owner.account_id, append.owner.user_id, append.conversation_id


def _change(conversation: ConversationRecord) -> dict[str, object]:
    return {"of_id": conversation.id} | {f"new_{field}": getattr(conversation, field) for field in _MOVED}
