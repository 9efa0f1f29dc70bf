"""Conversations: what callers may do with them. Each caller sees their own and no others."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dragoman.v1.message_pb2 import Message
from dragoman.v1.run_pb2 import HISTORY_MODE_GIVEN, ChatSpec
from dragoman_server import paging
from dragoman_server.audit import audit_entry
from dragoman_server.caller import Caller
from dragoman_server.clock import system_clock
from dragoman_server.conversations import checks, transfer
from dragoman_server.conversations.history import continued, unknown_of
from dragoman_server.conversations.messages import asked_messages, new_messages
from dragoman_server.conversations.sweeps import sweep_forever
from dragoman_server.conversations.titles import first_title, title_of_answer, title_request
from dragoman_server.conversations.turns import Turn, answer_of
from dragoman_server.errors import DragomanError, IdempotencyConflict, InvalidRequest, NotFound
from dragoman_server.ids import new_id
from dragoman_server.instructions import put_first
from dragoman_server.store.conversations.records import Append, ConversationRecord, Filter, Owner
from dragoman_server.store.conversations.search import fold
from dragoman_server.tasks import end_tasks
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from dragoman.v1.conversation_service_pb2 import AppendMessagesRequest, CreateConversationRequest
    from dragoman.v1.run_pb2 import Run
    from dragoman_server.clock import Clock
    from dragoman_server.settings import ConversationSettings
    from dragoman_server.store.conversations.records import Appended, ConversationStore, MessageRecord, NewMessage
    from dragoman_server.store.identity.records import AuditRecord

__all__ = ["Conversations", "TitleMaker", "Turn", "wanted_filter"]

logger = get_logger(__name__)

TitleMaker = Callable[[Caller, ChatSpec], Awaitable[str]]
"""Asks a model, on behalf of a caller, and returns its answer."""

MAX_APPENDED = 1000
"""Most messages of one append."""
_CONTEXT = "Draw on this where it helps:\n\n"


class Conversations:
    """The conversations of all callers.

    Args:
        store: Where they are kept.
        settings: How.
        clock: The time.

    Attributes:
        title_maker: Makes titles, if models shall. Set it before the first turn.
    """

    def __init__(self, store: ConversationStore, settings: ConversationSettings, clock: Clock = system_clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self.title_maker: TitleMaker | None = None

    async def create(self, caller: Caller, request: CreateConversationRequest) -> ConversationRecord:
        """Makes a conversation.

        Raises:
            InvalidRequest: If a field is out of its bounds.
            Conflict: If the short id is taken.
            IdempotencyConflict: If the request id was used with another request.
        """
        now = self._now()
        first = new_messages(request.messages, now)
        checks.room(self._settings, first, "messages", whole=True)
        title = checks.title(request.title) or first_title(new.message for new in request.messages)
        conversation = replace(
            self._new(_owner(caller), now, title, checks.short_id(request.short_id)),
            source=checks.source(request.source),
            persona=checks.persona(request.persona),
            labels=checks.labels(request.labels),
        )
        if request.request_id:
            key = checks.request_key(caller.user_id, request.request_id)
            conversation = replace(conversation, request_key=key, request_hash=_hash(request))
        kept = await self._store.create(conversation, first)
        if kept.id != conversation.id and kept.request_hash != conversation.request_hash:
            raise IdempotencyConflict("the request id was used with another request", field="request_id")
        return kept

    async def get(self, caller: Caller, name: str) -> ConversationRecord:
        """Returns a conversation.

        Raises:
            NotFound: If the caller has none of that id or short id, or has deleted it.
        """
        return _living(await self._store.get(_owner(caller), _name(name)), name)

    async def page(
        self, caller: Caller, wanted: Filter, page_size: int = 0, page_token: str = ""
    ) -> tuple[Sequence[ConversationRecord], str]:
        """Returns the next conversations, the one that was changed last first, and the token of the page after.

        Args:
            caller: Whose.
            wanted: Which ones.
            page_size: Most conversations to return; 0 means 50, more than 1,000 means 1,000.
            page_token: The token of the page; empty for the first.

        Raises:
            InvalidRequest: If the token or the size is none.
        """
        owner = _owner(caller)
        size = paging.page_size(page_size)
        digest = hashlib.sha256(repr((owner, wanted)).encode()).hexdigest()
        scope = f"conversations:{digest[:16]}"
        position = paging.decode_token(scope, page_token, int, str)
        before = (int(position[0]), _name(str(position[1]))) if position else None
        found = await self._store.page(owner, wanted, limit=size + 1, before=before)
        last = found[size - 1] if len(found) > size else None
        return found[:size], "" if last is None else paging.encode_token(scope, last.update_time, last.id)

    async def update(
        self, caller: Caller, name: str, *, title: str | None = None, pinned: bool | None = None, etag: str = ""
    ) -> ConversationRecord:
        """Changes a conversation's title, or pins it.

        Raises:
            InvalidRequest: If there is nothing to change, or the title is out of its bounds.
            NotFound: If the caller has no such conversation.
            Conflict: If its etag is another one.
        """
        if title is None and pinned is None:
            raise InvalidRequest("there is nothing to change: give `title` or `pinned`", field="title")
        if title is not None:
            title = checks.title(title)
        version = checks.version(etag)

        def edit(old: ConversationRecord) -> ConversationRecord:
            checks.same_version(_living(old, name), version)
            new_title = old.title if title is None else title
            return self._touched(
                replace(old, title=new_title, words=fold(new_title), pinned=old.pinned if pinned is None else pinned)
            )

        return _found(await self._store.change(_owner(caller), _name(name), edit), name)

    async def delete(
        self, caller: Caller, name: str, *, etag: str = "", purge: bool = False, by: Caller | None = None
    ) -> ConversationRecord:
        """Deletes a conversation, for good if it is purged; returns it as it was left.

        Args:
            caller: Whose it is.
            name: The conversation.
            etag: The etag that it must have; empty for any.
            purge: Whether it is deleted for good.
            by: The administrator who purges it, if it is one.

        Raises:
            NotFound: If the caller has no such conversation.
            Conflict: If its etag is another one.
        """
        version = checks.version(etag)
        owner = _owner(caller)
        if not purge:

            def edit(old: ConversationRecord) -> ConversationRecord:
                checks.same_version(old, version)
                return old if old.delete_time is not None else self._touched(replace(old, delete_time=self._now()))

            return _found(await self._store.change(owner, _name(name), edit), name)
        purged: list[ConversationRecord] = []

        def check(old: ConversationRecord) -> None:
            checks.same_version(old, version)
            purged.append(replace(old, delete_time=old.delete_time or self._now()))

        audit = self._audit(by, caller, "conversation.purge", name)
        if not await self._store.purge(owner, _name(name), check, audit):
            raise _unknown(name)
        return purged[-1]

    async def undelete(self, caller: Caller, name: str) -> ConversationRecord:
        """Takes back a deletion.

        Raises:
            NotFound: If the caller has no such conversation, or it was purged.
        """

        def edit(old: ConversationRecord) -> ConversationRecord:
            return old if old.delete_time is None else self._touched(replace(old, delete_time=None))

        return _found(await self._store.change(_owner(caller), _name(name), edit), name)

    async def fork(self, caller: Caller, name: str, message_id: str = "", title: str = "") -> ConversationRecord:
        """Makes a conversation that goes on from a message of another one.

        Args:
            caller: Whose.
            name: The conversation to fork.
            message_id: The last message that the fork shares, by its id or the client's; empty means the last one.
            title: The title; empty means that of the other one.

        Raises:
            NotFound: If the caller has no such conversation, or it has no such message.
            InvalidRequest: If the title is out of its bounds.
        """
        title = checks.title(title)
        if message_id and not checks.MESSAGE_ID.fullmatch(message_id):
            raise _no_message(message_id)

        def make(origin: ConversationRecord, at: MessageRecord | None) -> ConversationRecord:
            _living(origin, name)
            if at is None and message_id:
                raise _no_message(message_id)
            return replace(
                self._new(origin.owner, self._now(), title or origin.title),
                tree_id=origin.tree_id,
                head_message_id=None if at is None else at.id,
                message_count=0 if at is None else at.depth + 1,
                source=origin.source,
                persona=origin.persona,
                labels=origin.labels,
                forked_from_id=origin.id,
                forked_at_message_id="" if at is None else at.id,
            )

        return _found(await self._store.fork(_owner(caller), _name(name), message_id, make), name)

    async def append(self, caller: Caller, request: AppendMessagesRequest) -> Appended:
        """Appends messages to a conversation; they are on disk when this returns.

        Raises:
            InvalidRequest: If a message is not as the contract says, or the conversation would have too many or too
                large ones.
            NotFound: If the caller has no such conversation.
            Conflict: If its etag is another one, or it has a message with one of the client's ids.
            IdempotencyConflict: If the request id was used to append other messages.
        """
        if not 1 <= len(request.messages) <= MAX_APPENDED:
            raise InvalidRequest(f"`messages` must be 1 to {MAX_APPENDED}", field="messages")
        now = self._now()
        messages = new_messages(request.messages, now)
        checks.room(self._settings, messages, "messages")
        conversation = await self.get(caller, request.conversation_id)
        return await self._store.append(
            Append(
                owner=conversation.owner,
                conversation_id=conversation.id,
                messages=messages,
                now=now,
                title=first_title(new.message for new in request.messages),
                version=checks.version(request.etag),
                request_key=checks.request_key(conversation.id, request.request_id) if request.request_id else None,
                max_messages=self._settings.max_messages,
                max_bytes=self._settings.max_bytes,
            )
        )

    async def messages(
        self, caller: Caller, name: str, page_size: int = 0, page_token: str = ""
    ) -> tuple[Sequence[MessageRecord], str]:
        """Returns the next messages of a conversation, oldest first, and the token of the page after.

        Args:
            caller: Whose.
            name: The conversation.
            page_size: Most messages to return; 0 means 50, more than 1,000 means 1,000.
            page_token: The token of the page; empty for the first.

        Raises:
            InvalidRequest: If the token or the size is none.
            NotFound: If the caller has no such conversation.
        """
        size = paging.page_size(page_size)
        conversation = await self.get(caller, name)
        scope = f"messages:{conversation.id}"
        position = paging.decode_token(scope, page_token, int)
        after = int(position[0]) if position else -1
        head = conversation.head_message_id
        found = await self._store.chain(caller.account_id, head, after=after, limit=size + 1)
        return found[:size], paging.encode_token(scope, found[size - 1].depth) if len(found) > size else ""

    async def export(self, caller: Caller, name: str) -> bytes:
        """Returns a conversation as JSON; see `ExportConversationResponse`.

        Raises:
            NotFound: If the caller has no such conversation.
        """
        conversation = await self.get(caller, name)
        chain = await self._store.chain(caller.account_id, conversation.head_message_id)
        return await asyncio.to_thread(transfer.exported, conversation, chain)  # takes long for a long one

    async def import_(self, caller: Caller, json: bytes, by: Caller | None = None) -> ConversationRecord:
        """Makes a conversation of what `export` returned.

        Args:
            caller: Whose it shall be.
            json: What was exported.
            by: The administrator who imports it, if it is one.

        Raises:
            InvalidRequest: If it is something else, or has too many or too large messages.
        """
        now = self._now()
        found = await asyncio.to_thread(transfer.imported, json, now)
        checks.room(self._settings, found.messages, "messages", whole=True)
        conversation = replace(
            self._new(_owner(caller), now, found.title),
            pinned=found.pinned,
            source=found.source,
            persona=found.persona,
            labels=found.labels,
        )
        audit = self._audit(by, caller, "conversation.import", conversation.id)
        return await self._store.create(conversation, found.messages, audit)

    async def open_turn(self, caller: Caller, chat: ChatSpec) -> Turn:
        """Puts a request into its conversation, if it names one: its history before, its context before all.

        To be called before the persona is applied: the conversation may name one.

        Args:
            caller: Who asks.
            chat: What is asked for; it is not changed.

        Raises:
            NotFound: If the caller has no such conversation.
            InvalidRequest: If the conversation is full, or a message is too large.
        """
        if not chat.conversation_id and not chat.context:
            return Turn(chat)
        opened = ChatSpec()
        opened.CopyFrom(chat)
        opened.ClearField("conversation_id")
        opened.ClearField("context")
        opened.ClearField("history_mode")
        opened.ClearField("message_notes")
        turn = Turn(opened)
        if chat.conversation_id:
            turn = await self._open_stored(caller, chat, opened)
        if chat.context:
            put_first(opened, _CONTEXT + "\n\n".join(chat.context))
        return turn

    def start(self) -> None:
        """Begins to sweep."""
        self._begin(sweep_forever(self._store, self._settings, self._clock))

    async def stop(self) -> None:
        """Ends the sweeps, and what models still do for titles."""
        await end_tasks(self._tasks)

    async def _open_stored(self, caller: Caller, chat: ChatSpec, opened: ChatSpec) -> Turn:
        """Puts the history before the messages of `opened`."""
        try:
            conversation = await self.get(caller, chat.conversation_id)
        except NotFound as error:
            error.field = "spec.chat.conversation_id"
            raise
        self._require_room(conversation)  # what is full already is not even loaded
        stored = await self._store.chain(caller.account_id, conversation.head_message_id)
        if chat.history_mode == HISTORY_MODE_GIVEN:
            shown, new = list(chat.messages), unknown_of(stored, chat.messages)
        else:
            history, new = continued(stored, chat.messages)
            shown = [*history, *new]
        del opened.messages[:]
        opened.messages.extend(shown)
        opened.persona = chat.persona or conversation.persona
        now = self._now()
        asked = asked_messages(chat, new, {record.client_id for record in stored if record.client_id}, now)
        checks.room(self._settings, asked, "spec.chat.messages", first=len(chat.messages) - len(asked))
        self._require_room(conversation, len(asked) + 1, sum(message.size for message in asked))
        title = "" if conversation.title else first_title(new)

        def keep(record: Run) -> asyncio.Future[Appended]:
            return self._keep(caller, conversation, title, asked, record)

        return Turn(opened, conversation.id, keep)

    def _keep(
        self, caller: Caller, conversation: ConversationRecord, title: str, asked: tuple[NewMessage, ...], record: Run
    ) -> asyncio.Future[Appended]:
        """Appends a turn. What was said is kept even if the conversation is deleted or full by now."""
        now = self._now()
        kept = self._store.append(
            Append(
                owner=conversation.owner,
                conversation_id=conversation.id,
                messages=(*asked, answer_of(record, now)),
                now=now,
                title=title,
                even_deleted=True,
            )
        )
        if title and self._settings.title == "model" and self.title_maker is not None:
            maker, model = self.title_maker, self._settings.title_model or record.model
            kept.add_done_callback(lambda done: self._begin_title(caller, maker, model, done))
        return kept

    def _begin_title(self, caller: Caller, maker: TitleMaker, model: str, kept: asyncio.Future[Appended]) -> None:
        if kept.cancelled() or kept.exception() is not None or not kept.result().titled:
            return
        self._begin(self._make_title(caller, maker, model, kept.result()))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make_title(self, caller: Caller, maker: TitleMaker, model: str, turn: Appended) -> None:
        """Puts a model's title in the place of the one that the first message gave, unless that was changed."""
        conversation = turn.conversation
        said = [Message.FromString(message.body) for message in turn.messages]
        try:
            title = title_of_answer(await maker(caller, title_request(model, said)))

            def edit(old: ConversationRecord) -> ConversationRecord:
                if not title or old.title != conversation.title:
                    return old
                return self._touched(replace(old, title=title, words=fold(title)))

            await self._store.change(conversation.owner, conversation.id, edit)
        except DragomanError as error:
            logger.warning("no title was made", conversation_id=conversation.id, error=error.message)

    def _new(self, owner: Owner, now: int, title: str, short_id: str = "") -> ConversationRecord:
        conversation_id = new_id("conv")
        return ConversationRecord(
            id=conversation_id,
            account_id=owner.account_id,
            user_id=owner.user_id,
            short_id=short_id or _new_short_id(now),
            tree_id=conversation_id,
            title=title,
            words=fold(title),
            create_time=now,
            update_time=now,
        )

    def _audit(self, by: Caller | None, caller: Caller, action: str, target: str) -> AuditRecord | None:
        """Returns what tells of an administrator's act in somebody's conversations."""
        if by is None:
            return None
        return audit_entry(by, caller.account_id, self._now(), action, target, user_id=caller.user_id)

    def _require_room(self, conversation: ConversationRecord, count: int = 0, size: int = 0) -> None:
        """Checks that a conversation has room for so many more messages of a size together.

        Raises:
            InvalidRequest: If not.
        """
        most = self._settings
        if conversation.message_count + count > most.max_messages:
            bound = f"{most.max_messages} messages"
        elif conversation.byte_count + size > most.max_bytes:
            bound = f"{most.max_bytes} bytes"
        else:
            return
        text = f"the conversation is full: it may have at most {bound}"
        raise InvalidRequest(text, field="spec.chat.conversation_id")

    def _touched(self, conversation: ConversationRecord) -> ConversationRecord:
        now = max(self._now(), conversation.update_time)
        return replace(conversation, version=conversation.version + 1, update_time=now)

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


def wanted_filter(*, query: str = "", deleted: bool = False, pinned: bool | None = None, source: str = "") -> Filter:
    """Returns which conversations a caller asks for.

    Raises:
        InvalidRequest: If the query has too many words.
    """
    return Filter(deleted, pinned, source.replace("\0", ""), checks.words(query))


def _owner(caller: Caller) -> Owner:
    return Owner(caller.account_id, caller.user_id)


def _hash(request: CreateConversationRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _new_short_id(now: int) -> str:
    """Returns a new short id; like the ids that it stands in for, it begins with the time."""
    return f"{now // 1_000_000 & 0xFFFF_FFFF:08x}{os.urandom(8).hex()}"


def _name(name: str) -> str:
    """Returns a conversation's id or short id as it is stored; for what is neither, one that is not stored."""
    return name.lower() if _NAME.fullmatch(name) else ""


def _found(conversation: ConversationRecord | None, name: str) -> ConversationRecord:
    if conversation is None:
        raise _unknown(name)
    return conversation


def _living(conversation: ConversationRecord | None, name: str) -> ConversationRecord:
    if conversation is None or conversation.delete_time is not None:
        raise _unknown(name)
    return conversation


def _no_message(message_id: str) -> NotFound:
    return NotFound(f"the conversation has no message {message_id[:64]!r}", field="message_id")


def _unknown(name: str) -> NotFound:
    return NotFound(f"conversation {name[:64]!r} does not exist", field="conversation_id")


_NAME = re.compile(r"conv_[0-9a-f]{32}|[0-9a-fA-F]{24}", re.ASCII)
