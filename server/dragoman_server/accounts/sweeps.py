"""What is done to accounts of all tenants from time to time.

What came of users after they were erased is erased too, and audit entries that are too old are deleted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman_server.errors import DragomanError
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from dragoman_server.clock import Clock
    from dragoman_server.settings import AuditSettings
    from dragoman_server.store.identity.records import AuditStore, IdentityStore

logger = get_logger(__name__)

FIRST_AFTER = 60.0
"""Seconds from the start of a server to its first sweep."""
EVERY = 3600.0
"""Seconds between two sweeps."""
LOOK_BACK = 24 * 3600.0
"""Seconds after its user was erased in which a run may have ended, and left something. What tells of the erasure is an
audit entry: these are kept for a day at least."""
_DAY = 24 * 3600.0
_AT_ONCE = 1_000


async def sweep_forever(store: IdentityStore, settings: AuditSettings, clock: Clock) -> None:
    """Sweeps every hour until it is cancelled. Several servers may sweep one database."""
    await asyncio.sleep(FIRST_AFTER)
    while True:
        try:
            await store.users.erase_late(_micros(clock() - LOOK_BACK))
            if settings.retention_days:
                await _purge(store.audit, _micros(clock() - settings.retention_days * _DAY))
        except DragomanError as error:
            logger.warning("the accounts could not be swept; the next sweep goes on", error=error.message)
        except Exception as error:  # a fault of ours must not end the sweeps
            logger.exception("a sweep of the accounts crashed", exc_info=error)
        await asyncio.sleep(EVERY)


async def _purge(audit: AuditStore, before: int) -> None:
    """Deletes what is older, a little at a time: others want to write too."""
    count = 0
    while deleted := await audit.purge(before, limit=_AT_ONCE):
        count += deleted
    if count:
        logger.info("old audit entries deleted", count=count)


def _micros(seconds: float) -> int:
    return max(0, int(seconds * 1_000_000))
