"""Ending tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

AGAIN_AFTER = 1.0
"""Seconds after which a task that goes on is cancelled once more."""


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks and waits until they have ended, however that is.

    What goes on is cancelled again: drivers of databases make another error of a cancellation now and then, or none,
    and a task that works for ever takes that for a failure of the moment.
    """
    ended = set(tasks)
    pending = {task for task in ended if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_AFTER)
    await asyncio.gather(*ended, return_exceptions=True)  # or asyncio tells of errors that nobody asked for
