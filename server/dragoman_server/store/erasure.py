"""Erasing a user: what goes with them, over the tables of all domains. With an account, everything goes.

Their name, keys, logins and conversations go. What they used and what was paid for it stays with the account, as
nobody's: its books must go on to add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dragoman_server.store.tables import (
    api_keys,
    conversations,
    messages,
    usage_hours,
    usage_records,
    users,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

COVERED = frozenset({"api_keys", "conversations", "logins", "usage_hours", "usage_records"})
"""The tables with a user in their rows that are dealt with here; a test compares."""

_SUMS = [column for column in usage_hours.columns if not column.primary_key]


async def erase_user(connection: AsyncConnection, account_id: str, user_id: str) -> bool:
    """Erases a user within a transaction; returns whether the account had such a user."""
    gone = delete(users).where(users.c.account_id == account_id, users.c.id == user_id)  # the logins cascade
    if (await connection.execute(gone.returning(users.c.id))).first() is None:
        return False
    await erase_traces(connection, account_id, user_id)
    return True


async def erase_traces(connection: AsyncConnection, account_id: str, user_id: str) -> None:
    """Erases within a transaction what a user, who is erased, has left. Repeatable."""
    await _erase_messages(connection, account_id, user_id)
    for table in (conversations, api_keys):
        await connection.execute(delete(table).where(table.c.account_id == account_id, table.c.user_id == user_id))
    theirs = (usage_records.c.account_id == account_id) & (usage_records.c.user_id == user_id)
    await connection.execute(update(usage_records).where(theirs).values(user_id=""))
    await _merge_hours(connection, account_id, user_id)


async def _erase_messages(connection: AsyncConnection, account_id: str, user_id: str) -> None:
    """Erases the messages of the user's conversations, but for those that somebody else's conversation shares."""
    this = conversations.alias()
    other = conversations.alias()
    own = select(this.c.tree_id).where(this.c.account_id == account_id, this.c.user_id == user_id)
    shared = exists().where(
        other.c.account_id == account_id, other.c.tree_id == messages.c.tree_id, other.c.user_id != user_id
    )
    theirs = (messages.c.account_id == account_id) & messages.c.tree_id.in_(own)
    await connection.execute(delete(messages).where(theirs, ~shared))


async def _merge_hours(connection: AsyncConnection, account_id: str, user_id: str) -> None:
    """Adds the user's hourly sums to those of nobody."""
    theirs = (usage_hours.c.account_id == account_id) & (usage_hours.c.user_id == user_id)
    values = select(
        *(literal("").label("user_id") if column.name == "user_id" else column for column in usage_hours.columns)
    ).where(theirs)
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(usage_hours).from_select(list(usage_hours.columns.keys()), values)
    merged = statement.on_conflict_do_update(
        index_elements=list(usage_hours.primary_key.columns),
        set_={column.name: column + statement.excluded[column.name] for column in _SUMS},
    )
    await connection.execute(merged)
    await connection.execute(delete(usage_hours).where(theirs))
