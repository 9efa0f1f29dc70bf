"""What is done to accounts of all tenants from time to time: erasing what came of users after they were erased."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman_server.errors import DragomanError
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from dragoman_server.clock import Clock
    from dragoman_server.store.identity.records import UserStore

logger = get_logger(__name__)

FIRST_AFTER = 60.0
"""Seconds from the start of a server to its first sweep."""
EVERY = 3600.0
"""Seconds between two sweeps."""
LOOK_BACK = 24 * 3600.0
"""Seconds after its user was erased in which a run may have ended, and left something."""


async def sweep_forever(users: UserStore, clock: Clock) -> None:
    """Sweeps every hour until it is cancelled. Several servers may sweep one database."""
    await asyncio.sleep(FIRST_AFTER)
    while True:
        try:
            await users.erase_late(int((clock() - LOOK_BACK) * 1_000_000))
        except DragomanError as error:
            logger.warning("erased users could not be swept; the next sweep goes on", error=error.message)
        except Exception as error:  # a fault of ours must not end the sweeps
            logger.exception("a sweep of erased users crashed", exc_info=error)
        await asyncio.sleep(EVERY)
