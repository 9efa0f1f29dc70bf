"""What is kept of conversations, and what is asked of whoever keeps it.

Messages are immutable and form trees: each knows the one before it. A conversation is a head in a tree; its chain are
the messages from the root to the head.

Every method takes the account and, where rows are a user's, the user. The exceptions are the sweeps and say so. What
rules there are for a change is the caller's business: it passes functions, which see a record as no other writer can
change it meanwhile, and may refuse by raising.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from dragoman_server.store.identity.records import AuditRecord


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose conversations are meant.

    Attributes:
        account_id: The account.
        user_id: The user; empty means the conversations that are no user's.
    """

    account_id: str
    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRecord:
    """A conversation; see `dragoman.v1.Conversation`.

    Attributes:
        tree_id: The tree that its messages are in: the id of the conversation that the tree began with.
        byte_count: How much its messages take: the sum of their sizes.
        words: Its title as searches compare it.
        labels: A `dragoman.v1.Conversation` with nothing but labels; None for none.
        version: Grows by 1 with every change.
        request_key: What makes a second conversation of the same request impossible, if the request had a name.
        request_hash: The digest of that request.
    """

    id: str
    account_id: str
    user_id: str
    short_id: str
    tree_id: str
    head_message_id: str | None = None
    message_count: int = 0
    byte_count: int = 0
    title: str = ""
    words: str = ""
    pinned: bool = False
    source: str = ""
    persona: str = ""
    labels: bytes | None = None
    forked_from_id: str = ""
    forked_at_message_id: str = ""
    version: int = 1
    request_key: str | None = None
    request_hash: bytes | None = None
    create_time: int
    update_time: int
    delete_time: int | None = None

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        return Owner(self.account_id, self.user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message that has no place yet; see `dragoman.v1.StoredMessage`.

    Attributes:
        body: A `dragoman.v1.Message`.
        words: Its text as searches compare it.
        state: A `dragoman.v1.StoredMessage.State`.
        details: JSON; empty for none.
    """

    id: str
    body: bytes
    words: str
    state: int
    run_id: str = ""
    model: str = ""
    details: str = ""
    client_id: str | None = None
    create_time: int

    @property
    def size(self) -> int:
        """The bytes of its body, and the characters of its details."""
        return len(self.body) + len(self.details)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord(NewMessage):
    """A message in its place.

    Attributes:
        account_id: The account.
        tree_id: The tree.
        parent_id: The message before it; None for the root.
        depth: How many precede it.
        request_key: Names the request that appended it, if that had a name; those of one request share it.
    """

    account_id: str
    tree_id: str
    parent_id: str | None
    depth: int
    request_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Messages that shall be appended to a conversation.

    Attributes:
        owner: Whose conversation it is.
        conversation_id: Its id, not the short one.
        messages: What is appended, oldest first.
        now: The time.
        title: The title that it gets if it has none.
        version: The version that it must have, if any.
        request_key: Names the request, if it has a name. What was appended under it is not appended again.
        max_messages: Most messages that it may have then; 0 means no bound.
        max_bytes: Most bytes that they may have together; 0 means no bound.
        even_deleted: Whether a deleted conversation takes them too; client ids that are taken are then left out.
    """

    owner: Owner
    conversation_id: str
    messages: tuple[NewMessage, ...]
    now: int
    title: str = ""
    version: int | None = None
    request_key: str | None = None
    max_messages: int = 0
    max_bytes: int = 0
    even_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    """What came of an `Append`.

    Attributes:
        conversation: The conversation after it.
        messages: The messages, as they are kept.
        titled: Whether it got its title by this.
    """

    conversation: ConversationRecord
    messages: Sequence[MessageRecord]
    titled: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """Which conversations are meant.

    Attributes:
        deleted: The deleted ones, or the others.
        pinned: Pinned ones, others, or both.
        source: Those from this source; empty means from any.
        words: Those whose title or messages have all of these, as `fold` returns them.
    """

    deleted: bool = False
    pinned: bool | None = None
    source: str = ""
    words: tuple[str, ...] = ()


class ConversationStore(Protocol):
    """The conversations and their messages.

    A conversation is named by its id or its short id (`name`). All methods raise `Unavailable` if the database does not
    answer.
    """

    async def create(
        self, conversation: ConversationRecord, messages: Sequence[NewMessage], audit: AuditRecord | None = None
    ) -> ConversationRecord:
        """Keeps a new conversation with its first messages; returns it, or the one that its request made before.

        Args:
            conversation: The conversation, without messages.
            messages: Its first messages.
            audit: Tells of it, if an administrator made it.

        Raises:
            Conflict: If its owner has its short id already.
            NotFound: If the account does not exist.
        """

    async def get(self, owner: Owner, name: str) -> ConversationRecord | None:
        """Returns a conversation, deleted or not."""

    async def page(
        self, owner: Owner, wanted: Filter, *, limit: int, before: tuple[int, str] | None = None
    ) -> list[ConversationRecord]:
        """Returns the first conversations by (update_time, id), falling, beginning behind `before`."""

    async def change(
        self, owner: Owner, name: str, edit: Callable[[ConversationRecord], ConversationRecord]
    ) -> ConversationRecord | None:
        """Puts what `edit` makes of a conversation in its place, and returns that; None if there is none.

        Of the fields, title, words, pinned, version, update_time and delete_time may change.
        """

    def append(self, append: Append) -> asyncio.Future[Appended]:
        """Appends messages; they are on disk when the future has its result. May be called from the loop only.

        The future raises:
            NotFound: If there is no such conversation.
            Conflict: If its version is another one, or it has a message with one of the client's ids.
            IdempotencyConflict: If the request's name was used for other messages.
            InvalidRequest: If it would have too many messages, or too large ones.
        """

    async def fork(
        self,
        owner: Owner,
        name: str,
        message_id: str,
        make: Callable[[ConversationRecord, MessageRecord | None], ConversationRecord],
    ) -> ConversationRecord | None:
        """Keeps the conversation that `make` makes of another one and a message of it; None if there is no other one.

        Args:
            owner: Whose it is.
            name: The conversation to fork.
            message_id: The last message to share, by its id or the client's; empty means the head.
            make: Called with that message; with None if there is no such message, or none at all.
        """

    async def chain(
        self, account_id: str, head_id: str | None, *, after: int = -1, limit: int | None = None
    ) -> list[MessageRecord]:
        """Returns the messages that end with a head, oldest first, beginning behind the depth `after`."""

    async def purge(
        self,
        owner: Owner,
        name: str,
        check: Callable[[ConversationRecord], None],
        audit: AuditRecord | None = None,
    ) -> bool:
        """Deletes a conversation for good, with the messages that no other conversation has; whether there was one.

        Args:
            owner: Whose it is.
            name: The conversation.
            check: Sees it before; it may refuse.
            audit: Tells of it, if an administrator purges it.
        """

    async def owners(self, account_id: str) -> list[Owner]:
        """Returns all who have conversations in an account."""

    async def deleted_before(self, time: int, *, limit: int) -> list[ConversationRecord]:
        """Returns conversations of all accounts that were deleted before a time. For sweeps."""

    async def idle_since(self, time: int, *, limit: int) -> list[ConversationRecord]:
        """Returns conversations of all accounts, unchanged since a time, neither pinned nor deleted. For sweeps."""

    async def close(self) -> None:
        """Returns when nothing waits to be appended."""
