"""The conversations in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dragoman_server.errors import Conflict, NotFound
from dragoman_server.store.conversations.records import Owner
from dragoman_server.store.conversations.rules import appended, begun, repeated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dragoman_server.store.conversations.records import (
        Append,
        Appended,
        ConversationRecord,
        Filter,
        MessageRecord,
        NewMessage,
    )
    from dragoman_server.store.identity.memory import MemoryIdentity
    from dragoman_server.store.identity.records import AuditRecord


class MemoryConversations:
    """The conversations; see `ConversationStore`."""

    def __init__(self, identity: MemoryIdentity) -> None:
        self._identity = identity
        self._conversations: dict[str, ConversationRecord] = {}
        self._short_ids: dict[tuple[Owner, str], str] = {}
        self._made: dict[tuple[str, str], str] = {}  # conversations by the names of the requests that made them
        self._messages: dict[str, MessageRecord] = {}
        self._requests: dict[tuple[str, str], list[MessageRecord]] = {}  # what was appended under a name

    async def create(
        self, conversation: ConversationRecord, first: Sequence[NewMessage], audit: AuditRecord | None = None
    ) -> ConversationRecord:
        """Does what `ConversationStore.create` says."""
        account_id, request_key = conversation.account_id, conversation.request_key
        if await self._identity.accounts.get(account_id) is None:
            raise NotFound(f"account {account_id!r} does not exist")
        if request_key is not None and (made := self._made.get((account_id, request_key))) is not None:
            return self._conversations[made]
        if (conversation.owner, conversation.short_id) in self._short_ids:
            raise Conflict(f"the short id {conversation.short_id!r} is taken", field="short_id")
        conversation, placed = begun(conversation, first)
        self._messages |= {message.id: message for message in placed}
        self._add(conversation)
        if audit is not None:
            self._identity.keep_audit(audit)
        return conversation

    async def get(self, owner: Owner, name: str) -> ConversationRecord | None:
        """Does what `ConversationStore.get` says."""
        return self._find(owner, name)

    async def page(
        self, owner: Owner, wanted: Filter, *, limit: int, before: tuple[int, str] | None = None
    ) -> list[ConversationRecord]:
        """Does what `ConversationStore.page` says."""
        found = [
            one
            for one in self._conversations.values()
            if one.owner == owner and (before is None or (one.update_time, one.id) < before) and self._fits(one, wanted)
        ]
        return sorted(found, key=lambda one: (one.update_time, one.id), reverse=True)[:limit]

    async def change(
        self, owner: Owner, name: str, edit: Callable[[ConversationRecord], ConversationRecord]
    ) -> ConversationRecord | None:
        """Does what `ConversationStore.change` says."""
        found = self._find(owner, name)
        if found is None:
            return None
        self._conversations[found.id] = changed = edit(found)
        return changed

    def append(self, append: Append) -> asyncio.Future[Appended]:
        """Does what `ConversationStore.append` says."""
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self._append(append))
        except Exception as error:
            future.set_exception(error)
        return future

    async def fork(
        self,
        owner: Owner,
        name: str,
        message_id: str,
        make: Callable[[ConversationRecord, MessageRecord | None], ConversationRecord],
    ) -> ConversationRecord | None:
        """Does what `ConversationStore.fork` says."""
        origin = self._find(owner, name)
        if origin is None:
            return None
        wanted = message_id or origin.head_message_id
        upwards = self._upwards(origin.head_message_id)
        at = next((one for one in upwards if wanted in (one.id, one.client_id)), None)
        size = sum(one.size for one in self._upwards(None if at is None else at.id))
        made = replace(make(origin, at), byte_count=size)
        self._add(made)
        return made

    async def chain(
        self, account_id: str, head_id: str | None, *, after: int = -1, limit: int | None = None
    ) -> list[MessageRecord]:
        """Does what `ConversationStore.chain` says."""
        found = [one for one in self._upwards(head_id) if one.account_id == account_id and one.depth > after]
        return found[::-1][:limit]

    async def purge(
        self,
        owner: Owner,
        name: str,
        check: Callable[[ConversationRecord], None],
        audit: AuditRecord | None = None,
    ) -> bool:
        """Does what `ConversationStore.purge` says."""
        found = self._find(owner, name)
        if found is None:
            return False
        check(found)
        self._purge(found)
        if audit is not None:
            self._identity.keep_audit(audit)
        return True

    async def owners(self, account_id: str) -> list[Owner]:
        """Does what `ConversationStore.owners` says."""
        users = {one.user_id for one in self._conversations.values() if one.account_id == account_id}
        return [Owner(account_id, user_id) for user_id in sorted(users)]

    async def deleted_before(self, time: int, *, limit: int) -> list[ConversationRecord]:
        """Does what `ConversationStore.deleted_before` says."""
        found = (one for one in self._conversations.values() if one.delete_time is not None and one.delete_time < time)
        return [one for one, _ in zip(found, range(limit), strict=False)]

    async def idle_since(self, time: int, *, limit: int) -> list[ConversationRecord]:
        """Does what `ConversationStore.idle_since` says."""
        found = (
            one
            for one in self._conversations.values()
            if one.update_time < time and one.delete_time is None and not one.pinned
        )
        return [one for one, _ in zip(found, range(limit), strict=False)]

    async def close(self) -> None:
        """Does nothing: nothing ever waits."""

    def rows(self, account_id: str) -> dict[str, list[Any]]:
        """Returns the records of an account by the names of their tables."""
        return {
            "conversations": [one for one in self._conversations.values() if one.account_id == account_id],
            "messages": [message for message in self._messages.values() if message.account_id == account_id],
        }

    def erase(self, account_id: str, user_id: str | None) -> None:
        """Deletes the conversations of an account, or of one of its users, for good."""
        for one in list(self._conversations.values()):
            if one.account_id == account_id and user_id in (None, one.user_id):
                self._purge(one)

    def _add(self, conversation: ConversationRecord) -> None:
        self._conversations[conversation.id] = conversation
        self._short_ids[conversation.owner, conversation.short_id] = conversation.id
        if conversation.request_key is not None:
            self._made[conversation.account_id, conversation.request_key] = conversation.id

    def _find(self, owner: Owner, name: str) -> ConversationRecord | None:
        found = self._conversations.get(self._short_ids.get((owner, name), name))
        return found if found is not None and found.owner == owner else None

    def _append(self, append: Append) -> Appended:
        conversation = self._find(append.owner, append.conversation_id)
        request = (append.owner.account_id, append.request_key) if append.request_key is not None else None
        if conversation is not None and request is not None and request in self._requests:
            return repeated(append, conversation, self._requests[request])
        client_ids = {message.client_id for message in append.messages if message.client_id is not None}
        taken: set[str] = set()
        if conversation is not None and client_ids:
            upwards = self._upwards(conversation.head_message_id)
            taken = {one.client_id for one in upwards if one.client_id is not None} & client_ids
        result = appended(append, conversation, taken)
        self._messages |= {message.id: message for message in result.messages}
        self._conversations[result.conversation.id] = result.conversation
        if request is not None:
            self._requests[request] = list(result.messages)
        return result

    def _upwards(self, head_id: str | None) -> Iterator[MessageRecord]:
        """Yields the messages from a head to the root."""
        while head_id is not None and (message := self._messages.get(head_id)) is not None:
            yield message
            head_id = message.parent_id

    def _fits(self, conversation: ConversationRecord, wanted: Filter) -> bool:
        return (
            (conversation.delete_time is not None) == wanted.deleted
            and wanted.pinned in (None, conversation.pinned)
            and wanted.source in ("", conversation.source)
            and all(
                word in conversation.words
                or any(word in message.words for message in self._upwards(conversation.head_message_id))
                for word in wanted.words
            )
        )

    def _purge(self, conversation: ConversationRecord) -> None:
        del self._conversations[conversation.id]
        del self._short_ids[conversation.owner, conversation.short_id]
        if conversation.request_key is not None:
            del self._made[conversation.account_id, conversation.request_key]
        tree = conversation.tree_id
        kept = {
            message.id
            for other in self._conversations.values()
            if other.tree_id == tree
            for message in self._upwards(other.head_message_id)
        }
        lost = {one.id for one in self._upwards(conversation.head_message_id)} - kept
        for message_id in lost:
            message = self._messages.pop(message_id)
            if message.request_key is not None:
                self._requests.pop((message.account_id, message.request_key), None)
