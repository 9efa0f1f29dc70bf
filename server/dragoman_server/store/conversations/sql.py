"""The conversations in SQL."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from dragoman_server.errors import Conflict, NotFound
from dragoman_server.store.conversations import queries
from dragoman_server.store.conversations.appending import append_group
from dragoman_server.store.conversations.records import Owner
from dragoman_server.store.conversations.rules import begun
from dragoman_server.store.groups import Groups
from dragoman_server.store.sql import keep_audit
from dragoman_server.store.tables import accounts, conversations, messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from dragoman_server.store.conversations.records import (
        Append,
        Appended,
        ConversationRecord,
        Filter,
        MessageRecord,
        NewMessage,
    )
    from dragoman_server.store.database import Database
    from dragoman_server.store.identity.records import AuditRecord

SEARCHES = 2
"""Most searches at a time. They may read everything that somebody ever said, and others need connections too."""
_EDITABLE = ("title", "words", "pinned", "version", "update_time", "delete_time")


class SqlConversations:
    """The conversations; see `ConversationStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._appends = Groups(self._append_group)
        self._searches = asyncio.Semaphore(SEARCHES)

    async def create(
        self, conversation: ConversationRecord, first: Sequence[NewMessage], audit: AuditRecord | None = None
    ) -> ConversationRecord:
        """Does what `ConversationStore.create` says."""
        conversation, placed = begun(conversation, first)
        try:
            async with self._database.write() as connection:
                await connection.execute(insert(conversations), asdict(conversation))
                if placed:
                    await connection.execute(insert(messages), [asdict(message) for message in placed])
                if audit is not None:
                    await keep_audit(connection, audit)
                return conversation
        except IntegrityError:
            return await self._existing(conversation)

    async def get(self, owner: Owner, name: str) -> ConversationRecord | None:
        """Does what `ConversationStore.get` says."""
        async with self._database.read() as connection:
            return await queries.find(connection, owner, name)

    async def page(
        self, owner: Owner, wanted: Filter, *, limit: int, before: tuple[int, str] | None = None
    ) -> list[ConversationRecord]:
        """Does what `ConversationStore.page` says."""
        async with self._searches if wanted.words else nullcontext(), self._database.read() as connection:
            return await queries.conversations_of(connection, queries.page(owner, wanted, limit, before))

    async def change(
        self, owner: Owner, name: str, edit: Callable[[ConversationRecord], ConversationRecord]
    ) -> ConversationRecord | None:
        """Does what `ConversationStore.change` says."""
        async with self._database.write() as connection:
            old = await queries.find(connection, owner, name, lock=True)
            if old is None:
                return None
            new = edit(old)
            values = {field: getattr(new, field) for field in _EDITABLE}
            await connection.execute(update(conversations).where(conversations.c.id == old.id).values(values))
            return new

    def append(self, append: Append) -> asyncio.Future[Appended]:
        """Does what `ConversationStore.append` says."""
        return self._appends.put(append)

    async def fork(
        self,
        owner: Owner,
        name: str,
        message_id: str,
        make: Callable[[ConversationRecord, MessageRecord | None], ConversationRecord],
    ) -> ConversationRecord | None:
        """Does what `ConversationStore.fork` says."""
        async with self._database.write() as connection:
            # Who purges the conversation waits, and then sees the fork.
            origin = await queries.find(connection, owner, name, lock=True)
            if origin is None:
                return None
            wanted = queries.in_chain(origin.account_id, origin.head_message_id, message_id or origin.head_message_id)
            found = await queries.messages_of(connection, wanted)
            at = found[0] if found else None
            made = make(origin, at)
            if at is not None:
                size = await connection.execute(queries.size(made.account_id, at.id))
                made = replace(made, byte_count=size.scalar_one())
            await connection.execute(insert(conversations), asdict(made))
            return made

    async def chain(
        self, account_id: str, head_id: str | None, *, after: int = -1, limit: int | None = None
    ) -> list[MessageRecord]:
        """Does what `ConversationStore.chain` says."""
        if head_id is None:
            return []
        async with self._database.read() as connection:
            return await queries.messages_of(connection, queries.chain(account_id, head_id, after, limit))

    async def purge(
        self,
        owner: Owner,
        name: str,
        check: Callable[[ConversationRecord], None],
        audit: AuditRecord | None = None,
    ) -> bool:
        """Does what `ConversationStore.purge` says."""
        async with self._database.write() as connection:
            found = await queries.find(connection, owner, name)
            if found is None:
                return False
            # The whole tree is locked: of two that purge at once, the second must see what the first left.
            tree = conversations.c.tree_id == found.tree_id
            locked = select(conversations.c.id).where(tree).order_by(conversations.c.id).with_for_update()
            await connection.execute(locked)
            found = await queries.find(connection, owner, name)
            if found is None:
                return False
            check(found)
            await connection.execute(delete(conversations).where(conversations.c.id == found.id))
            await connection.execute(queries.prune(found.account_id, found.tree_id))
            if audit is not None:
                await keep_audit(connection, audit)
            return True

    async def owners(self, account_id: str) -> list[Owner]:
        """Does what `ConversationStore.owners` says."""
        users = select(conversations.c.user_id).distinct().where(conversations.c.account_id == account_id)
        async with self._database.read() as connection:
            return [Owner(account_id, user_id) for user_id in sorted((await connection.execute(users)).scalars())]

    async def deleted_before(self, time: int, *, limit: int) -> list[ConversationRecord]:
        """Does what `ConversationStore.deleted_before` says."""
        wanted = queries.CONVERSATIONS.where(conversations.c.delete_time < time)
        async with self._database.read() as connection:
            return await queries.conversations_of(connection, wanted.limit(limit))

    async def idle_since(self, time: int, *, limit: int) -> list[ConversationRecord]:
        """Does what `ConversationStore.idle_since` says."""
        idle = conversations.c.update_time < time, conversations.c.delete_time.is_(None), ~conversations.c.pinned
        async with self._database.read() as connection:
            return await queries.conversations_of(connection, queries.CONVERSATIONS.where(*idle).limit(limit))

    async def close(self) -> None:
        """Does what `ConversationStore.close` says."""
        await self._appends.drain()

    async def _append_group(self, group: Sequence[Append]) -> Sequence[Appended | Exception]:
        async with self._database.write() as connection:
            return await append_group(connection, group)

    async def _existing(self, wanted: ConversationRecord) -> ConversationRecord:
        """Tells why a conversation could not be kept: its request came before, or its short id is taken.

        Raises:
            Conflict: If its owner has its short id already.
            NotFound: If the account does not exist.
        """
        mine = conversations.c.account_id == wanted.account_id
        async with self._database.read() as connection:
            if wanted.request_key is not None:
                same = queries.CONVERSATIONS.where(mine, conversations.c.request_key == wanted.request_key)
                if found := await queries.conversations_of(connection, same):
                    return found[0]
            if not await _exists(connection, wanted.account_id):
                raise NotFound(f"account {wanted.account_id!r} does not exist")
        raise Conflict(f"the short id {wanted.short_id!r} is taken", field="short_id")


async def _exists(connection: AsyncConnection, account_id: str) -> bool:
    return (await connection.execute(select(accounts.c.id).where(accounts.c.id == account_id))).first() is not None
