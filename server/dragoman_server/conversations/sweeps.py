"""What is done to conversations of all accounts from time to time: purging deleted ones, deleting idle ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from dragoman_server.errors import DragomanError
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from dragoman_server.clock import Clock
    from dragoman_server.settings import ConversationSettings
    from dragoman_server.store.conversations.records import ConversationRecord, ConversationStore

logger = get_logger(__name__)

FIRST_AFTER = 60.0
"""Seconds from the start of a server to its first sweep."""
EVERY = 3600.0
"""Seconds between two sweeps."""
_DAY = 24 * 3600 * 1_000_000
_AT_ONCE = 200


class _Changed(Exception):
    """The conversation is not what it was when it was found."""


async def sweep_forever(store: ConversationStore, settings: ConversationSettings, clock: Clock) -> None:
    """Sweeps every hour until it is cancelled. Several servers may sweep one database."""
    await asyncio.sleep(FIRST_AFTER)
    while True:
        try:
            await sweep(store, settings, int(clock() * 1_000_000))
        except DragomanError as error:
            logger.warning("the conversations could not be swept; the next sweep goes on", error=error.message)
        except Exception as error:  # a fault of ours must not end the sweeps
            logger.exception("a sweep of the conversations crashed", exc_info=error)
        await asyncio.sleep(EVERY)


async def sweep(store: ConversationStore, settings: ConversationSettings, now: int) -> None:
    """Deletes conversations that were idle for `retention_days`, purges those deleted `purge_after_days` ago.

    Raises:
        Unavailable: If the database does not answer.
    """
    purged = await _purge(store, now - int(settings.purge_after_days * _DAY))
    deleted = 0
    if settings.retention_days:
        deleted = await _delete(store, now - int(settings.retention_days * _DAY), now)
    if purged or deleted:
        logger.info("conversations swept", purged=purged, deleted=deleted)


async def _purge(store: ConversationStore, before: int) -> int:
    def check(conversation: ConversationRecord) -> None:
        if conversation.delete_time is None or conversation.delete_time >= before:
            raise _Changed

    count = 0
    while found := await store.deleted_before(before, limit=_AT_ONCE):
        for conversation in found:
            try:
                count += await store.purge(conversation.owner, conversation.id, check)
            except _Changed:
                continue
    return count


async def _delete(store: ConversationStore, before: int, now: int) -> int:
    def edit(old: ConversationRecord) -> ConversationRecord:
        if old.delete_time is not None or old.update_time >= before or old.pinned:
            raise _Changed
        return replace(old, delete_time=now, update_time=now, version=old.version + 1)

    count = 0
    while found := await store.idle_since(before, limit=_AT_ONCE):
        for conversation in found:
            try:
                count += await store.change(conversation.owner, conversation.id, edit) is not None
            except _Changed:
                continue
    return count
