"""The statements about conversations that more than one place needs, or that are worth a look."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from sqlalchemy import and_, case, delete, func, or_, select, tuple_

from dragoman_server.store.conversations.records import ConversationRecord, MessageRecord
from dragoman_server.store.tables import conversations, messages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from sqlalchemy import CTE, ColumnElement, Delete, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from dragoman_server.store.conversations.records import Filter, Owner

CONVERSATIONS = select(*(conversations.c[field.name] for field in fields(ConversationRecord)))
MESSAGES = select(*(messages.c[field.name] for field in fields(MessageRecord)))


async def conversations_of(connection: AsyncConnection, statement: Select[Any]) -> list[ConversationRecord]:
    """Returns the conversations that a statement finds."""
    return [ConversationRecord(**row._mapping) for row in await connection.execute(statement)]


async def messages_of(connection: AsyncConnection, statement: Select[Any]) -> list[MessageRecord]:
    """Returns the messages that a statement finds."""
    return [MessageRecord(**row._mapping) for row in await connection.execute(statement)]


async def find(
    connection: AsyncConnection, owner: Owner, name: str, *, lock: bool = False
) -> ConversationRecord | None:
    """Returns a conversation by its id or short id; with `lock`, nobody else changes it in the transaction's time."""
    named = or_(conversations.c.id == name, conversations.c.short_id == name)
    statement = CONVERSATIONS.where(_owned(owner), named)
    found = await conversations_of(connection, statement.with_for_update() if lock else statement)
    return found[0] if found else None


def page(owner: Owner, wanted: Filter, limit: int, before: tuple[int, str] | None) -> Select[Any]:
    """Selects what `ConversationStore.page` returns."""
    c = conversations.c
    conditions = [_owned(owner), c.delete_time.is_not(None) if wanted.deleted else c.delete_time.is_(None)]
    if wanted.pinned is not None:
        conditions.append(c.pinned.is_(wanted.pinned))
    if wanted.source:
        conditions.append(c.source == wanted.source)
    if before is not None:
        conditions.append(tuple_(c.update_time, c.id) < before)
    if wanted.words:
        conditions.append(_has(wanted.words))
    return CONVERSATIONS.where(*conditions).order_by(c.update_time.desc(), c.id.desc()).limit(limit)


def chain(account_id: str, head_id: str, after: int = -1, limit: int | None = None) -> Select[Any]:
    """Selects the messages that end with a head, oldest first, beginning behind the depth `after`."""
    links = _links(and_(messages.c.id == head_id, messages.c.account_id == account_id), after)
    statement = MESSAGES.join(links, links.c.id == messages.c.id).where(messages.c.depth > after)
    return statement.order_by(messages.c.depth).limit(limit)


def size(account_id: str, head_id: str) -> Select[Any]:
    """Selects how much the messages take that end with a head; see `NewMessage.size`."""
    links = _links(and_(messages.c.id == head_id, messages.c.account_id == account_id))
    total = func.sum(func.length(messages.c.body) + func.length(messages.c.details))
    return select(total).select_from(links).join(messages, links.c.id == messages.c.id)


def in_chain(account_id: str, head_id: str | None, message_id: str | None) -> Select[Any]:
    """Selects the message of a chain that has this id, or was given it by a client; the newest, if both are there."""
    links = _links(and_(messages.c.id == head_id, messages.c.account_id == account_id))
    named = or_(messages.c.id == message_id, messages.c.client_id == message_id)
    statement = MESSAGES.join(links, links.c.id == messages.c.id).where(named)
    return statement.order_by(messages.c.depth.desc()).limit(1)


def prune(account_id: str, tree_id: str) -> Delete:
    """Deletes the messages of a tree that no conversation has."""
    heads = select(conversations.c.head_message_id).where(
        conversations.c.tree_id == tree_id, conversations.c.head_message_id.is_not(None)
    )
    # What two conversations share is visited once: the links are a set.
    links = _links(messages.c.id.in_(heads), distinct=True)
    lost = messages.c.id.not_in(select(links.c.id))
    return delete(messages).where(messages.c.account_id == account_id, messages.c.tree_id == tree_id, lost)


def _owned(owner: Owner) -> ColumnElement[bool]:
    return and_(conversations.c.account_id == owner.account_id, conversations.c.user_id == owner.user_id)


def _has(words: Sequence[str]) -> ColumnElement[bool]:
    """Whether the title or the messages of the conversation have all words. The chain is walked once at most."""
    titled = [conversations.c.words.contains(word, autoescape=True) for word in words]
    said = [func.max(case((messages.c.words.contains(word, autoescape=True), 1), else_=0)) == 1 for word in words]
    links = _links(messages.c.id == conversations.c.head_message_id, nested=True)
    every = select(and_(*map(or_, titled, said))).select_from(links).join(messages, messages.c.id == links.c.id)
    return or_(and_(*titled), every.correlate(conversations).scalar_subquery())


def _links(start: ColumnElement[bool], after: int = -1, *, distinct: bool = False, nested: bool = False) -> CTE:
    """Returns the ids on the way from the messages that `start` holds for to the root, down to behind a depth."""
    m = messages.alias("m")
    first = select(messages.c.id, messages.c.parent_id, messages.c.depth).where(start).correlate(conversations)
    links = first.cte("links", recursive=True, nesting=nested)
    above = select(m.c.id, m.c.parent_id, m.c.depth).join(links, m.c.id == links.c.parent_id)
    if after >= 0:
        above = above.where(m.c.depth > after)
    return links.union(above) if distinct else links.union_all(above)
